//! `ordering` "key" and "none": who waits for whom.

use std::time::Duration;

use crate::support::client::{Message, Topic};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::tally::Tally;
use crate::support::wait::{DEADLINE, stays};

mod load;
pub(crate) mod metadata;

/// Messages whose value begins with `slow` wait until the gate is open.
const SLOW: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  if message.value:find("^slow") then
    record.line("begin", message, ctx)
    while not io.open("gate") do tide.sleep(20) end
  end
  record.line("end", message, ctx, message.key)
end
"#;

const BY_KEY: &str = "ordering = \"key\"\n";

fn message(key: &str, value: &str) -> Message {
    Message::value(value).key(key).partition(0)
}

/// A topic of one partition and a listener of these keys, not yet started.
fn project<'a>(kafka: &'a Kafka, handler: &str, keys: &str) -> (Topic<'a>, Project) {
    let topic = kafka.topic("keys", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", handler);
    project.config(&(from_beginning("orders", &topic.name, "orders") + keys));
    (topic, project)
}

/// One message waits; which of the others get past it?
#[track_caller]
fn check(keys: &str, messages: Vec<Message>, pass: &[&str], wait: &[&str]) {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = project(kafka, SLOW, keys);
    topic.produce(messages);
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("those that may pass do", |_| {
        let ended = project.values_of("end");
        pass.iter()
            .all(|value| ended.iter().any(|one| one == value))
    });
    stays("the others wait", Duration::from_millis(300), || {
        project.values_of("end").len() == pass.len()
    });
    project.open_gate();
    let ended = project.wait_for_entries("end", pass.len() + wait.len(), DEADLINE);
    let late: Vec<_> = ended[pass.len()..].iter().map(|one| &*one.value).collect();
    assert_eq!(late, wait);
    daemon.stop();
    let end = topic.watermarks(0).1;
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(end));
}

#[test]
fn only_messages_of_the_same_key_wait() {
    let messages = vec![
        message("a", "slow 1"),
        message("a", "2"),
        message("b", "3"),
        message("", "4"),
        message("a", "5"),
    ];
    check(BY_KEY, messages, &["3", "4"], &["slow 1", "2", "5"]);
}

#[test]
fn messages_without_a_key_do_not_wait_for_each_other() {
    let null = |value: &str| Message::value(value).partition(0);
    let messages = vec![null("slow 1"), null("2"), message("a", "3"), null("4")];
    check(BY_KEY, messages, &["2", "3", "4"], &["slow 1"]);
}

#[test]
fn messages_without_a_key_keep_their_order_where_that_is_wanted() {
    let null = |value: &str| Message::value(value).partition(0);
    let keys = "ordering = \"key\"\nnullKeys = \"partition\"\n";
    let messages = vec![null("slow 1"), null("2"), message("a", "3"), null("4")];
    check(keys, messages, &["3"], &["slow 1", "2", "4"]);
}

#[test]
fn without_an_order_nobody_waits() {
    let messages = vec![message("a", "slow 1"), message("a", "2"), message("a", "3")];
    check("ordering = \"none\"\n", messages, &["2", "3"], &["slow 1"]);
}

/// `maxInFlight`: of ten keys that wait, so many are begun.
#[test]
fn keys_in_flight_have_a_limit() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = project(kafka, SLOW, "ordering = \"key\"\nmaxInFlight = 3\n");
    topic.produce((0..10).map(|number| message(&format!("key {number}"), "slow")));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("three begin", |_| project.entries_of("begin").len() >= 3);
    stays("the others wait", Duration::from_millis(300), || {
        project.entries_of("begin").len() == 3
    });
    project.open_gate();
    project.wait_for_entries("end", 10, DEADLINE);
    daemon.stop();
}

/// Promise 5: what others finish behind a slow key costs no memory.
#[test]
fn a_slow_key_does_not_stop_other_keys_and_memory_stays_bounded() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = project(kafka, SLOW, BY_KEY);
    topic.produce([message("slow", "slow")]);
    let count = 120_000;
    let produce = |range: std::ops::Range<u64>| {
        topic.produce(range.map(|number| message(&format!("key {}", number % 97), "x")));
    };
    produce(0..count / 4);
    let mut daemon = Daemon::start(&project);
    let mut tally = Tally::new(&project);
    let mut finish = |daemon: &mut Daemon, wanted: u64| {
        daemon.wait_for("all the others finish", |_| {
            tally.update();
            tally.finished() == wanted
        });
    };
    finish(&mut daemon, count / 4);
    let early = daemon.memory();
    produce(count / 4..count);
    finish(&mut daemon, count);
    let late = daemon.memory();
    assert!(late < early + (48 << 20), "from {early} to {late} bytes");
    project.open_gate();
    finish(&mut daemon, count + 1);
    daemon.wait_for("everything is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(count as i64 + 1)
    });
    daemon.stop();
}

/// `ctx.commitOffsets(o)`: this lane up to o.
#[test]
fn a_manual_commit_speaks_for_its_own_key() {
    let Some(kafka) = kafka::shared() else { return };
    let handler = r#"
    local record = require "record"
    local tide = require "tide"
    return function(message, ctx)
      while message.value:find("^slow") and not io.open("gate") do tide.sleep(20) end
      local stands = message.value == "unasked" and "" or ctx.commitOffsets(message.offset + 1)
      record.line("end", message, ctx, stands)
    end
    "#;
    let keys = "ordering = \"key\"\nrunConfig = { autoCommit = false }\n";
    let (topic, project) = project(kafka, handler, keys);
    topic.produce([
        message("a", "slow"),
        message("b", "quick"),
        message("c", "unasked"),
        message("d", "quick"),
    ]);
    let daemon = Daemon::start(&project);
    let stands = |count| -> Vec<String> {
        let ended = project.wait_for_entries("end", count, DEADLINE);
        ended.into_iter().map(|one| one.extra).collect()
    };
    assert!(stands(3).iter().all(|one| one.is_empty() || one == "0"));
    project.open_gate();
    assert_eq!(stands(4)[3], "2");
    // The next one of the key speaks for the one that did not.
    topic.produce([message("c", "quick")]);
    assert_eq!(stands(5)[4], "5");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

/// A reload that changes the ordering: from then on keys pass each other, and nothing runs twice.
#[test]
fn a_reload_changes_the_ordering() {
    let Some(kafka) = kafka::shared() else { return };
    let handler = r#"
    local record = require "record"
    return function(message, ctx)
      if message.value == "bad" and not io.open("gate") then error("the gate is closed") end
      record.line("end", message, ctx)
    end
    "#;
    let retry = "retry = { initialDelay = \"50ms\", maxDelay = \"50ms\" }\n";
    let (topic, project) = project(kafka, handler, retry);
    topic.produce([
        message("a", "1"),
        message("b", "bad"),
        message("b", "3"),
        message("c", "4"),
    ]);
    let daemon = Daemon::join(&project);
    project.wait_for_entries("end", 1, DEADLINE);
    let listener = from_beginning("orders", &topic.name, "orders") + retry;
    project.config(&(listener.clone() + BY_KEY));
    assert_eq!(daemon.reload().0, 0);
    project.wait_for_entries("end", 2, DEADLINE);
    // And back: what is finished beyond the position stays finished.
    project.config(&listener);
    assert_eq!(daemon.reload().0, 0);
    topic.produce([message("c", "5")]);
    stays(
        "the partition is in order",
        Duration::from_millis(300),
        || project.values_of("end") == ["1", "4"],
    );
    project.open_gate();
    let ended = project.wait_for_entries("end", 5, DEADLINE);
    let values: Vec<_> = ended.iter().map(|one| &*one.value).collect();
    assert_eq!(values, ["1", "4", "bad", "3", "5"]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

/// A partition that is assigned while a reload that changes the ordering waits for a worker: it began with the new
/// ordering here and with the old one there.
#[test]
fn a_partition_that_comes_while_the_ordering_changes_goes_on() {
    let Some(kafka) = kafka::shared() else { return };
    let handler = r#"
    local record = require "record"
    record.note("loaded")
    return function(message, ctx)
      if message.value == "busy" then
        record.line("begin", message, ctx)
        while not io.open("gate") do end
      end
      record.line("end", message, ctx)
    end
    "#;
    let topic = kafka.topic("meanwhile", 1);
    let project = Project::new(kafka)
        .consumer("metadataMaxAge = \"1s\"\n")
        .sections("[lua]\nworkers = 1\n");
    project.handler("orders.lua", handler);
    let listener =
        from_beginning("orders", &topic.name, "orders") + "limits = { blocking = \"60s\" }\n";
    project.config(&listener);
    topic.produce([message("a", "busy")]);
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 1, DEADLINE);

    let loaded = project.entries_of("loaded").len();
    project.config(&(listener + BY_KEY));
    daemon.wait_for("the new bundle is loaded", |_| {
        project.entries_of("loaded").len() > loaded
    });
    topic.add_partitions(2);
    topic.produce([Message::value("there").key("b").partition(1)]);
    daemon.wait_for("the message is taken", |daemon| {
        let status = daemon.try_status().unwrap_or_default();
        status["consumers"][0]["partitions"][1]["inFlight"] == 1
    });
    project.open_gate();

    project.wait_for_entries("end", 2, DEADLINE);
    daemon.wait_line("in force", |line| line.is("reloaded"));
    topic.produce([message("a", "2"), Message::value("3").key("b").partition(1)]);
    project.wait_for_entries("end", 4, DEADLINE);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
    assert_eq!(kafka.committed(&project.group, &topic.name, 1), Some(2));
}
