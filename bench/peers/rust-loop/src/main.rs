//! The least that a program in Rust does for each message: 100 of them at once, each in a task, by the same HTTP client.
//! From the first message to the RECORDS-th one's end, in milliseconds; commits are automatic.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use http_body_util::{BodyExt as _, Empty};
use hyper::body::Bytes;
use hyper_util::client::legacy::Client;
use hyper_util::rt::TokioExecutor;
use rdkafka::ClientConfig;
use rdkafka::consumer::{Consumer as _, StreamConsumer};
use tokio::sync::Semaphore;

const AT_ONCE: usize = 100;

#[tokio::main(worker_threads = 2)]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [broker, topic, group, records, _task] = &arguments[..] else {
        panic!("usage: rust-loop BROKER TOPIC GROUP RECORDS TASK");
    };
    let total: usize = records.parse().expect("RECORDS is a number");
    let url = std::env::var("BENCH_HTTP").expect("BENCH_HTTP") + "/document";
    let url: hyper::Uri = url.parse().expect("a URL");
    let client = Client::builder(TokioExecutor::new()).build_http::<Empty<Bytes>>();
    let consumer: StreamConsumer = ClientConfig::new()
        .set("bootstrap.servers", broker)
        .set("group.id", group)
        .set("auto.offset.reset", "earliest")
        .create()
        .expect("a consumer");
    consumer.subscribe(&[topic]).expect("a subscription");
    let (places, done) = (Arc::new(Semaphore::new(AT_ONCE)), Arc::new(AtomicUsize::new(0)));
    let mut first = None;
    loop {
        let _message = consumer.recv().await.expect("a message");
        let first = *first.get_or_insert_with(Instant::now);
        let place = places.clone().acquire_owned().await.expect("a place");
        let (client, url, done) = (client.clone(), url.clone(), done.clone());
        tokio::spawn(async move {
            let response = client.get(url).await.expect("a response");
            assert!(response.status().is_success());
            response.into_body().collect().await.expect("a body");
            drop(place);
            if done.fetch_add(1, Ordering::Relaxed) + 1 == total {
                println!("{total} {}", first.elapsed().as_millis().max(1));
                std::process::exit(0);
            }
        });
    }
}
