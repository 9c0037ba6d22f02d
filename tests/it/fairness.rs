//! What a partition that is held up costs the others: nothing.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};

/// All partitions but the last one wait until the gate is open.
const HELD_UP: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  while message.partition < @LAST@ and not io.open("gate") do tide.sleep(20) end
  record.line("done", { topic = "", partition = message.partition, offset = message.offset, value = "" }, ctx)
end
"#;

/// Promise 6, by bytes: partitions of messages that are blocked have more of them than the whole budget, and
/// another one flows; so do they, without a gap or a repetition, when they may go on. Promise 5: the memory stays bounded.
fn check(held_up: i32, count: usize, size: usize) {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("large", held_up as usize + 1);
    let project = Project::new(kafka);
    project.handler("held.lua", &HELD_UP.replace("@LAST@", &held_up.to_string()));
    project.config(&from_beginning("held", &topic.name, "held"));
    let large = Message::value(vec![b'x'; size]);
    let each = |partition| (0..count).map(move |_| partition);
    topic.produce(
        (0..held_up)
            .flat_map(each)
            .map(|partition| large.clone().partition(partition)),
    );
    let mut daemon = Daemon::join(&project);
    let done = |partition: i32| -> Vec<i64> {
        let entries = project.entries_of("done");
        let of = entries.iter().filter(|one| one.partition == partition);
        of.map(|one| one.offset).collect()
    };

    for round in 1..=3 {
        topic.produce(numbered(0..500, held_up));
        daemon.wait_for("the last partition flows", |_| {
            done(held_up).len() == round * 500
        });
    }
    assert_eq!(project.entries().len(), 1500);
    let memory = daemon.peak_memory();
    assert!(memory < 200 << 20, "{memory} bytes");

    project.open_gate();
    daemon.wait_for("the large ones follow", |_| {
        project.entries().len() >= 1500 + count * held_up as usize
    });
    for partition in 0..held_up {
        assert_eq!(done(partition), (0..count as i64).collect::<Vec<_>>());
    }
    assert_eq!(done(held_up), (0..1500).collect::<Vec<_>>());
    daemon.stop();
}

#[test]
fn a_partition_of_large_messages_that_waits_does_not_stop_the_others() {
    check(1, 90, 500_000);
}

#[test]
fn many_partitions_that_wait_do_not_stop_the_others() {
    check(8, 250, 20_000);
}

/// So many that nothing is fetched any more which would tell of the last partition's messages.
#[test]
fn a_partition_of_small_messages_that_fills_the_queue_does_not_stop_the_others() {
    check(1, 30_000, 100);
}
