//! The questions for the limits of topics, behind a proxy that counts them and may swallow them.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use crate::sends::sending;
use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::Kafka;
use crate::support::wait::DEADLINE;

/// The number of `DescribeConfigs` in Kafka's protocol.
const DESCRIBE_CONFIGS: [u8; 2] = 32_i16.to_be_bytes();

/// Its threads end with the connections, or with the process.
#[derive(Default)]
struct Questions {
    count: AtomicUsize,
    swallows: AtomicBool,
}

/// A broker that advertises the address of a proxy before it.
fn start() -> Option<(Kafka, Arc<Questions>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let advertised = format!("advertised.listeners=PLAINTEXT://127.0.0.1:{port}\n");
    let kafka = Kafka::start_own_with(&advertised)?;
    let questions = Arc::new(Questions::default());
    let (seen, broker) = (questions.clone(), kafka.bootstrap());
    std::thread::spawn(move || {
        for client in listener.incoming().flatten() {
            let Ok(broker) = TcpStream::connect(&broker) else {
                continue;
            };
            let (from, to) = (broker.try_clone().unwrap(), client.try_clone().unwrap());
            std::thread::spawn(move || pass_answers(from, to));
            let seen = seen.clone();
            std::thread::spawn(move || pass_requests(client, broker, &seen));
        }
    });
    Some((kafka, questions))
}

fn pass_answers(mut from: TcpStream, mut to: TcpStream) {
    let _ = std::io::copy(&mut from, &mut to);
    let _ = to.shutdown(Shutdown::Both);
}

fn pass_requests(mut from: TcpStream, mut to: TcpStream, seen: &Questions) {
    let mut pass = || {
        let mut length = [0; 4];
        from.read_exact(&mut length)?;
        let mut request = vec![0; u32::from_be_bytes(length) as usize];
        from.read_exact(&mut request)?;
        if request.starts_with(&DESCRIBE_CONFIGS) {
            seen.count.fetch_add(1, Ordering::Relaxed);
            if seen.swallows.load(Ordering::Relaxed) {
                return Ok(());
            }
        }
        to.write_all(&length)?;
        to.write_all(&request)
    };
    while let std::io::Result::Ok(()) = pass() {}
    let _ = to.shutdown(Shutdown::Both);
}

/// Lua's list of so many new topics.
fn topics(kafka: &Kafka, count: usize) -> String {
    let names = (0..count).map(|_| format!("{:?}", kafka.topic("limited", 1).name));
    names.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_limits_of_all_topics_of_a_call_are_one_question() {
    let Some((kafka, questions)) = start() else {
        return;
    };
    let body = r#"
        local batches = {}
        for index, topic in ipairs{ @TOPICS@ } do batches[index] = { topic = topic, messages = { { value = "v" } } } end
        for _ = 1, 3 do tide.kafka.sendBatch{ topicMessages = batches } end
        record.line("done", message, ctx, #batches)
        "#
    .replace("@TOPICS@", &topics(&kafka, 20));
    let (project, source, _) = sending(&kafka, "", "", 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let before = questions.count.load(Ordering::Relaxed);
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "20");
    assert_eq!(questions.count.load(Ordering::Relaxed) - before, 1);
    daemon.stop();
}

/// librdkafka asks the controller for them, which the brokers of the records do not need: it may be away alone.
#[test]
fn sends_go_on_where_nobody_tells_the_limits() {
    let Some((kafka, questions)) = start() else {
        return;
    };
    let body = r#"
        local function send(topic)
          return tide.kafka.send{ topic = topic, value = "v", timeout = "4s" }.offset
        end
        local offsets = tide.parallel({ @TOPICS@ }, send)
        record.line("done", message, ctx, table.concat(offsets, " "))
        "#
    .replace("@TOPICS@", &topics(&kafka, 4));
    let (project, source, _) = sending(&kafka, "", "", 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    questions.swallows.store(true, Ordering::Relaxed);
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!((done[0].attempt, done[0].extra.as_str()), (1, "0 0 0 0"));
    assert!(questions.count.load(Ordering::Relaxed) > 0);
    daemon.stop();
}
