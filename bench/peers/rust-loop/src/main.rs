//! The least that a program in Rust does for each message: 100 of them at once, each in a task, by the same clients.
//! From the first message to the RECORDS-th one's end, in milliseconds; commits are automatic. TASK: `http`, or `upsert`.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt as _, Empty};
use hyper::Uri;
use hyper::body::Bytes;
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::rt::TokioExecutor;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use rdkafka::{ClientConfig, Message as _};
use tokio::sync::{Mutex, Semaphore};
use tokio_postgres::{NoTls, Statement};

const AT_ONCE: usize = 100;
const CONNECTIONS: usize = 16;
const UPSERT: &str = "insert into documents (id, value) values ($1, $2) on conflict (id) do update set value = excluded.value";

/// A connection with its statement.
type Connection = (tokio_postgres::Client, Statement);

enum Task {
    Http(hyper_util::client::legacy::Client<HttpConnector, Empty<Bytes>>, Uri),
    /// The idle connections, and a permit for each.
    Upsert(Semaphore, Mutex<Vec<Connection>>),
}

impl Task {
    async fn of(word: &str) -> Self {
        if word == "upsert" {
            let url = std::env::var("BENCH_SQL").expect("BENCH_SQL");
            let mut idle = Vec::new();
            for _ in 0..CONNECTIONS {
                let (client, connection) = tokio_postgres::connect(&url, NoTls).await.expect("a connection");
                tokio::spawn(connection);
                let statement = client.prepare(UPSERT).await.expect("a statement");
                idle.push((client, statement));
            }
            return Self::Upsert(Semaphore::new(CONNECTIONS), Mutex::new(idle));
        }
        let url = std::env::var("BENCH_HTTP").expect("BENCH_HTTP") + "/document";
        let client = hyper_util::client::legacy::Client::builder(TokioExecutor::new()).build_http();
        Self::Http(client, url.parse().expect("a URL"))
    }

    async fn run(&self, offset: i64, value: Vec<u8>) {
        match self {
            Self::Http(client, url) => {
                let response = client.get(url.clone()).await.expect("a response");
                assert!(response.status().is_success());
                response.into_body().collect().await.expect("a body");
            }
            Self::Upsert(permits, idle) => {
                let _permit = permits.acquire().await.expect("a permit");
                let connection = idle.lock().await.pop().expect("as many as permits");
                connection.0.execute(&connection.1, &[&offset, &value]).await.expect("a row");
                idle.lock().await.push(connection);
            }
        }
    }
}

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, topic, group, records, task] = &arguments[..] else {
        panic!("usage: rust-loop BROKER TOPIC GROUP RECORDS TASK");
    };
    let total: usize = records.parse().expect("RECORDS is a number");
    let task = Arc::new(Task::of(task).await);
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a consumer");
    consumer.subscribe(&[topic]).expect("a subscription");
    let (places, done) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(AtomicUsize::new(0)));
    let mut first = None;
    for _ in 0..total {
        let message = consumer.recv().await.expect("a message");
        let first = *first.get_or_insert_with(Instant::now);
        let (offset, value) = (message.offset(), message.payload().unwrap_or_default().to_vec());
        let place = places.clone().acquire_owned().await.expect("a place");
        let (task, done) = (task.clone(), done.clone());
        tokio::spawn(async move {
            task.run(offset, value).await;
            drop(place);
            if done.fetch_add(1, Ordering::Relaxed) + 1 == total {
                println!("{total} {}", first.elapsed().as_millis().max(1));
                std::process::exit(0);
            }
        });
    }
    std::future::pending::<()>().await;
}
