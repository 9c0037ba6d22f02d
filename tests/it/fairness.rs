//! What a partition that is held up costs the others: nothing.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// Partition 0 waits until the gate is open; the others do not.
const HELD_UP: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  if message.partition == 0 then
    if message.offset == 0 then record.line("held up", { topic = "", partition = 0, offset = 0, value = "" }, ctx) end
    while not io.open("gate") do tide.sleep(20) end
  end
  record.line("done", { topic = "", partition = message.partition, offset = message.offset, value = "" }, ctx)
end
"#;

/// Promise 6, by bytes: a partition of large messages that is blocked has more of them than the whole budget, and the
/// other one flows; so does the first one, without a gap or a repetition, when it may go on. Promise 5: the memory stays
/// bounded.
#[test]
fn large_messages_that_wait_do_not_stop_the_other_partitions() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("large", 2);
    let project = Project::new(kafka);
    project.handler("held.lua", HELD_UP);
    project.config(&from_beginning("held", &topic.name, "held"));
    let large = vec![b'x'; 500_000];
    topic.produce((0..120).map(|_| Message::value(&large).partition(0)));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("held up", 1, DEADLINE);
    let done = |partition: i32| -> Vec<i64> {
        let entries = project.entries_of("done");
        let of = entries.iter().filter(|one| one.partition == partition);
        of.map(|one| one.offset).collect()
    };

    for round in 1..=5 {
        topic.produce(numbered(0..500, 1));
        daemon.wait_for("the other partition flows", |_| {
            done(1).len() == round * 500
        });
    }
    assert!(done(0).is_empty());
    let memory = daemon.peak_memory();
    assert!(memory < 200 << 20, "{memory} bytes");

    project.open_gate();
    daemon.wait_for("the large ones follow", |_| done(0).len() >= 120);
    assert_eq!(done(0), (0..120).collect::<Vec<_>>());
    assert_eq!(done(1), (0..2500).collect::<Vec<_>>());
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(120));
}
