//! Reloads that change the listeners, the order or the transactions: nothing new begins until nothing is finished beyond
//! the position, or the reload is refused.

use std::time::Duration;

use super::{CONSUMER, check, committed, messages};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for};

/// The first of each ten messages waits for its gate.
const BODY: &str = r#"
    local number = tonumber(message.value)
    record.line("run", message, ctx)
    while number % 10 == 0 do
      local gate = io.open("gate" .. number)
      if gate then gate:close() break end
      tide.sleep("20ms")
    end
    for partition = 0, 1 do
      ctx.emit{ topic = out, key = message.key, value = message.value, partition = partition }
    end
"#;

#[test]
fn a_reload_that_changes_listeners_waits_for_what_is_finished_beyond_the_position() {
    let Some(kafka) = kafka::shared() else { return };
    let source = kafka.topic_named(unique("source"), 1).name;
    let out = kafka.topic_named(unique("out"), 2).name;
    let mut project = Project::new(kafka).consumer(CONSUMER);
    crate::sends::sender(&project, &out, BODY);
    let listener = |name: &str, ordering: &str| {
        let listener = from_beginning(name, &source, "sender");
        format!("{listener}ordering = \"{ordering}\"\nmaxInFlight = 50\n")
    };
    project.config(&listener("sender", "key"));
    let mut daemon = Daemon::start(&project);
    let plain = CONSUMER.replace("exactlyOnce = true\n", "");
    let plain = plain
        .lines()
        .filter(|line| !line.starts_with("transaction"));
    let plain = plain.collect::<Vec<_>>().join("\n");
    let changes = [
        (CONSUMER, listener("renamed", "key")),
        (CONSUMER, listener("renamed", "none")),
        (plain.as_str(), listener("renamed", "none")),
    ];
    for (round, (consumer, listener)) in (0..).zip(changes) {
        let first = round * 10;
        kafka
            .existing_topic(&source)
            .produce(messages(first..first + 7));
        kafka.read(&out, 2, 2 * (first as usize + 6));
        let seen = daemon.lines().len();
        project = project.consumer(consumer);
        project.config(&listener);
        daemon.wait_line_after(seen, "the partitions come to rest", |line| {
            line.is("comes to rest before a reload")
        });
        kafka
            .existing_topic(&source)
            .produce(messages(first + 7..first + 10));
        let begun = || project.values_of("run").len() as u64;
        stays("nothing new begins", Duration::from_millis(300), || {
            begun() == first + 7
        });
        if round == 0 {
            let line = daemon.wait_line_after(seen, "the reload is refused", |line| {
                line.is("reload rejected: the old bundle stays in force")
            });
            let blocking = format!("message {source}[0]@{first} still runs or waits");
            assert!(line.field("error").contains(&blocking), "{line:?}");
            // One has the key of the message that waits.
            wait_for("the others go on", DEADLINE, || begun() == first + 9);
        }
        project.write(&format!("gate{first}"), "");
        // The watch of files may have reloaded by itself.
        let (code, printed) = daemon.reload();
        assert_eq!(code, 0, "{printed}");
        wait_for("all of them are committed", DEADLINE, || {
            committed(kafka, &project, &source) == Some(first as i64 + 10)
        });
    }
    check(&kafka.read(&out, 2, 60), 0..30);
    assert_eq!(project.values_of("run").len(), 30, "each runs once");
    daemon.stop();
}
