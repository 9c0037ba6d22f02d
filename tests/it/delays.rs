//! Topics with a delay: when their messages run, what waits behind them, and what an operator sees meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::client::Message;
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{address, get, scrape};
use crate::support::kafka;
use crate::support::project::{Entry, Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// When it ran. A value that begins with `bad` fails at first.
const TIMED: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("run", message, ctx, tide.now())
  if message.value:sub(1, 3) == "bad" and ctx.attempt == 1 then error("not at once") end
end
"#;

fn now_ms() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
    since.as_millis() as i64
}

fn made_at(value: &str, timestamp: i64) -> Message {
    Message {
        timestamp: Some(timestamp),
        ..Message::value(value).partition(0)
    }
}

fn ran_at(entries: &[Entry], value: &str) -> i64 {
    let entry = entries.iter().find(|one| one.value == value);
    entry.expect("it ran").extra.parse().unwrap()
}

/// The reason for the pause of partition 0, as the status has it.
fn paused(daemon: &Daemon) -> String {
    let status = daemon.status();
    let paused = &status["consumers"][0]["partitions"][0]["paused"];
    paused.as_str().unwrap_or_default().to_owned()
}

const SECTIONS: &str =
    "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"1s\"";

/// Each runs when it is old enough, in the order of offsets; one from the future waits no longer than the delay.
#[test]
fn a_message_runs_when_it_is_as_old_as_the_delay() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("delayed", 1);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler("timed.lua", TIMED);
    project.config(&(from_beginning("timed", &topic.name, "timed") + "delay = \"12s\"\n"));
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    let start = now_ms();
    topic.produce([
        made_at("old", start - 60_000),
        made_at("young", start - 4_000),
        made_at("old behind", start - 60_000),
        made_at("future", start + 1_800_000),
        made_at("old at the end", start - 60_000),
    ]);

    daemon.wait_for("the partition sleeps", |daemon| paused(daemon) == "notDue");
    assert_eq!(project.values_of("run"), ["old"], "it was due at once");
    stays("ready", Duration::from_secs(3), || {
        get(&address, "/ready").code == 200
    });
    let samples = scrape(&address);
    let of = [("topic", topic.name.as_str())];
    assert_eq!(samples.get("moontide_standstill_seconds", &of), Some(0.0));
    assert_eq!(samples.get("moontide_partition_paused", &of), Some(1.0));
    let shown = moontide(&["status", "--config"], &project.path("config.toml"));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    assert!(
        shown.contains("1 partition waits until the next message is due"),
        "{shown}"
    );

    let entries = project.wait_for_entries("run", 5, DEADLINE);
    let values: Vec<&str> = entries.iter().map(|one| &*one.value).collect();
    assert_eq!(
        values,
        ["old", "young", "old behind", "future", "old at the end"]
    );
    let young = ran_at(&entries, "young");
    assert!(
        (start + 8_000..start + 12_000).contains(&young),
        "after {} ms",
        young - start
    );
    let future = ran_at(&entries, "future");
    // It may be seen first when the one before it runs.
    let latest = young + 12_000 + 4_000;
    assert!(
        (start + 12_000..latest).contains(&future),
        "after {} ms",
        future - start
    );
    daemon.wait_line("the log tells of the clock", |line| {
        line.mentions("due later than its topic's delay") && line.field("offset") == "3"
    });
    daemon.wait_for("all of it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(5)
    });
    daemon.stop();
}

/// What comes back from a retry topic has waited already.
#[test]
fn a_message_of_a_retry_topic_does_not_wait_again() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("delayed-retry", 1);
    let project = Project::new(kafka);
    project.handler("timed.lua", TIMED);
    project.config(
        &(from_beginning("timed", &topic.name, "timed")
            + "delay = \"20s\"\nretry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n"),
    );
    let daemon = Daemon::join(&project);
    let start = now_ms();
    topic.produce([made_at("bad", start - 17_000)]);

    let entries = project.wait_for_entries("run", 2, DEADLINE);
    let runs: Vec<i64> = entries
        .iter()
        .map(|one| one.extra.parse().unwrap())
        .collect();
    assert!(runs[0] >= start + 3_000, "after {} ms", runs[0] - start);
    let again = runs[1] - runs[0];
    assert!((1_000..15_000).contains(&again), "again after {again} ms");
    daemon.stop();
}

/// A partition sleeps for an hour; a reload of the delay wakes it at once, and one that adds a delay lets it sleep.
#[test]
fn a_reload_changes_the_delay_at_once() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("delayed-reload", 1);
    let project = Project::new(kafka);
    project.handler("timed.lua", TIMED);
    let listener = |delay: &str| from_beginning("timed", &topic.name, "timed") + delay;
    project.config(&listener("delay = \"1h\"\n"));
    topic.produce([made_at("first", now_ms() - 10_000)]);
    let mut daemon = Daemon::join(&project);
    daemon.wait_for("the partition sleeps", |daemon| paused(daemon) == "notDue");

    let reloaded = now_ms();
    project.config(&listener("delay = \"5s\"\n"));
    assert_eq!(daemon.reload().0, 0);
    let entries = project.wait_for_entries("run", 1, DEADLINE);
    // Without the wake-up it sleeps for a minute.
    let took = ran_at(&entries, "first") - reloaded;
    assert!(took < 30_000, "after {took} ms");

    project.config(&listener("delay = \"1h\"\n"));
    assert_eq!(daemon.reload().0, 0);
    topic.produce([made_at("second", now_ms() - 10_000)]);
    daemon.wait_for("the partition sleeps", |daemon| paused(daemon) == "notDue");
    project.config(&listener(""));
    assert_eq!(daemon.reload().0, 0);
    project.wait_for_entries("run", 2, DEADLINE);
    daemon.stop();
}

/// A member that takes the partition over keeps the time, which is that of the messages.
#[test]
fn a_delay_counts_through_a_restart() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("delayed-restart", 1);
    let project = Project::new(kafka);
    project.handler("timed.lua", TIMED);
    project.config(&(from_beginning("timed", &topic.name, "timed") + "delay = \"1m\"\n"));
    let mut daemon = Daemon::join(&project);
    let start = now_ms();
    topic.produce([made_at("one", start - 45_000)]);
    daemon.wait_for("the partition sleeps", |daemon| paused(daemon) == "notDue");
    daemon.stop();
    assert!(project.entries_of("run").is_empty());

    let daemon = Daemon::join(&project);

    let entries = project.wait_for_entries("run", 1, DEADLINE);
    let ran = ran_at(&entries, "one") - start;
    assert!((15_000..60_000).contains(&ran), "after {ran} ms");
    daemon.stop();
}
