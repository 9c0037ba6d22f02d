//! Acknowledgements, and their absence, by the embedded broker.

use super::reports::is_usual;
use super::*;
use crate::kafka::mock::Broker;

fn producer(brokers: &str, deadline: Duration) -> Producer {
    let value = |text: &str| Value {
        text: text.to_owned(),
        secret: false,
    };
    let properties = [
        ("bootstrap.servers", brokers),
        ("group.id", "not a producer's"),
    ];
    let properties = properties.map(|(name, text)| (name.to_owned(), value(text)));
    Producer::new(&BTreeMap::from(properties), deadline).unwrap()
}

fn record(topic: &str, partition: i32, value: &str) -> Outgoing {
    Outgoing {
        topic: topic.into(),
        partition: Some(partition),
        value: Some(value.into()),
        headers: vec![
            (b"trace".to_vec(), Some(b"1".to_vec())),
            (b"empty".to_vec(), None),
        ],
        ..Outgoing::default()
    }
}

#[test]
fn records_are_acknowledged_in_the_order_in_which_they_were_given() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 2).unwrap();
    let producer = producer(broker.address(), Duration::from_secs(20));
    let records = [
        record("orders", 0, "a"),
        record("orders", 1, "b"),
        record("orders", 0, "c"),
    ];
    let acknowledged = producer.send_all(&records).unwrap();
    let places = acknowledged.iter().map(|one| (one.partition, one.offset));
    assert_eq!(places.collect::<Vec<_>>(), [(0, 0), (1, 0), (0, 1)]);
    assert!(acknowledged.iter().all(|one| one.timestamp_ms.is_some()));
    assert_eq!(producer.topics().unwrap(), ["orders"]);
}

#[test]
fn only_the_usual_line_of_a_start_is_left_to_the_debug_level() {
    let usual = "[thrd:main]: Failed to acquire idempotence PID from broker 127.0.0.1:1/bootstrap: Local: Broker handle \
                 destroyed without termination: retrying";
    assert!(is_usual("GETPID", usual));
    assert!(!is_usual(
        "GETPID",
        "Failed to acquire idempotence PID: Cluster authorization failed"
    ));
    assert!(!is_usual("FAIL", usual));
}

#[test]
fn one_key_is_one_partition() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 5).unwrap();
    let producer = producer(broker.address(), Duration::from_secs(20));
    let keyed = Outgoing {
        topic: "orders".into(),
        key: Some(b"k".to_vec()),
        ..Outgoing::default()
    };
    let acknowledged = producer.send_all(&vec![keyed; 8]).unwrap();
    assert!(
        acknowledged
            .iter()
            .all(|each| each.partition == acknowledged[0].partition),
        "{acknowledged:?}"
    );
}

#[test]
fn a_broker_that_is_not_there_is_named_with_the_deadline() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    drop(listener);
    let error = producer(&address, Duration::from_millis(300))
        .send(&record("orders", 0, "a"))
        .unwrap_err();
    let error = format!("{error:#}");
    assert!(
        error.contains(&format!("{address} did not answer within 0.3 s")),
        "{error}"
    );
}

/// The embedded broker names a controller that is none of its brokers, and cannot describe topics.
#[test]
fn a_question_about_topics_does_not_wait_for_a_controller_that_is_not_there() {
    let broker = Broker::start().unwrap();
    broker.create_topic("orders", 1).unwrap();
    let producer = producer(broker.address(), Duration::from_secs(20));
    let topics = ["orders".to_owned()];
    let error = producer
        .largest_batches(&topics, Duration::from_secs(20))
        .unwrap_err();
    assert!(error.is_unsupported(), "{error}");
}
