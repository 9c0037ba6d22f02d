//! Which handler gets which message.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING};
use crate::support::wait::DEADLINE;

#[test]
fn harness_itself() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("harness", 2);
    topic.produce(numbered(0..5, 1));
    topic.produce([Message::value("x").header(b"\xff\xfe", Some(b"v"))]);
    assert_eq!(topic.watermarks(1).1 + topic.watermarks(0).1, 6);
    topic.delete_records(1, 2);
    kafka.commit("g", &topic.name, 1, 3);
    assert_eq!(kafka.committed("g", &topic.name, 1), Some(3));
    assert_eq!(kafka.committed("g", &topic.name, 0), None);
    topic.produce_in_transactions(numbered(0..3, 0));
    topic.add_partitions(3);
    assert!(kafka.members("g").is_empty());
    let own = kafka::Kafka::start_own().unwrap();
    let t = own.topic("a", 1);
    t.produce(numbered(0..2, 0));
    own.stop();
    own.start();
    assert_eq!(t.watermarks(0), (0, 2));
    own.kill();
    own.start();
    assert_eq!(t.watermarks(0), (0, 2));
    panic!("see {}", kafka.bootstrap());
}
