//! Several listeners and several groups on one topic: each has outcomes, retries and dead letters of its own.

use std::collections::BTreeMap;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// `bad` fails always, anything else at its first attempt in each listener.
const STUMBLES: &str = r#"
local record = require "record"
local function handler(name)
  return function(message, ctx)
    record.line(name, message, ctx)
    if message.value == "bad" or ctx.attempt == 1 then error(name .. " stumbles") end
  end
end
return { first = handler("first"), second = handler("second") }
"#;

/// Two groups take one topic and share a dead-letter topic: each sends its own letter, and commits for itself.
#[test]
fn each_group_of_a_topic_has_its_own_dead_letters() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("groups", 1);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), 1);
    let project = Project::new(kafka);
    let audit = format!("{}-audit", project.group);
    let project = project.sections(&format!("[consumers.audit]\ngroupId = \"{audit}\""));
    project.handler("stumbles.lua", STUMBLES);
    let policy = "breaker = false\nretry = { attempts = 2, initialDelay = 10 }\n\
                  deadLetter = { topic = \"{topic}.dead\" }\n";
    project.config(
        &(from_beginning("first", &topic.name, "stumbles.first")
            + policy
            + &from_beginning("second", &topic.name, "stumbles.second")
            + policy
            + "consumer = \"audit\"\n"),
    );
    topic.produce(["a", "bad", "b"].map(Message::value));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("both have everything", |_| {
        [&project.group, &audit]
            .iter()
            .all(|group| kafka.committed(group, &topic.name, 0) == Some(3))
    });
    daemon.stop();
    let letters = kafka.read(&dead.name, 1, 2);
    assert_eq!(letters.len(), 2);
    let told: BTreeMap<_, _> = letters
        .iter()
        .map(|letter| {
            assert_eq!(letter.header("moontide-origin-offset"), "1");
            assert_eq!(letter.header("moontide-attempts"), "2");
            let listener = letter.header("moontide-listener");
            (listener, letter.header("moontide-group"))
        })
        .collect();
    let expected = [("first", &project.group), ("second", &audit)];
    let expected = expected.map(|(listener, group)| (listener.to_owned(), group.clone()));
    assert_eq!(told, BTreeMap::from(expected));
}

/// Two listeners of one topic retry in the same topics: what one of them has failed at comes back to it alone.
#[test]
fn each_listener_of_a_topic_gets_its_own_retries_back() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("retries", 1);
    let project = Project::new(kafka);
    project.handler("stumbles.lua", STUMBLES);
    let policy = "ordering = \"none\"\nbreaker = false\n\
                  retry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n\
                  deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    project.config(
        &(from_beginning("first", &topic.name, "stumbles.first")
            + policy
            + &from_beginning("second", &topic.name, "stumbles.second")
            + policy),
    );
    topic.produce(["a", "bad", "b"].map(Message::value));

    let mut daemon = Daemon::start(&project);

    let retries = format!("{}.{}.retry.1s", topic.name, project.group);
    daemon.wait_for("both have everything", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
            && kafka.partitions(&retries) == Some(1)
            && kafka.committed(&project.group, &retries, 0) == Some(6)
    });
    daemon.stop();
    for listener in ["first", "second"] {
        let mut runs: Vec<_> = project
            .entries_of(listener)
            .into_iter()
            .map(|one| (one.value, one.attempt, one.topic == topic.name))
            .collect();
        runs.sort();
        let expected = ["a", "b", "bad"]
            .map(|value| [(value.to_owned(), 1, true), (value.to_owned(), 2, true)]);
        assert_eq!(runs, expected.concat(), "{listener}");
    }
    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 2);
    let mut listeners: Vec<_> = letters
        .iter()
        .map(|letter| letter.header("moontide-listener"))
        .collect();
    listeners.sort();
    assert_eq!(listeners, ["first", "second"]);
}

/// `moontide skip` for one listener leaves the message to the other one, and without a name gives it up for all.
#[test]
fn a_message_is_skipped_for_one_listener_or_for_all() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("skip", 1);
    let project = Project::new(kafka);
    project.handler("stumbles.lua", STUMBLES);
    let policy = "retry = { initialDelay = \"1h\", maxDelay = \"1h\" }\n";
    project.config(
        &(from_beginning("first", &topic.name, "stumbles.first")
            + policy
            + &from_beginning("second", &topic.name, "stumbles.second")
            + policy),
    );
    topic.produce(numbered(0..2, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("second", 1, DEADLINE);
    let config = project.path("config.toml");
    let mut skip = |offset: &str, more: &[&str]| {
        let order = [&["skip", &topic.name, "0", offset], more, &["--config"]].concat();
        daemon.wait_for("it is skipped", |_| {
            moontide(&order, &config).status.success()
        });
    };

    skip("0", &["--listener", "first"]);
    let entries = project.wait_for_entries("first", 1, DEADLINE);
    assert_eq!(
        entries[0].offset, 0,
        "the lane still waits for the second one"
    );
    skip("0", &["--listener", "second"]);
    project.wait_for_entries("first", 2, DEADLINE);
    project.wait_for_entries("second", 2, DEADLINE);
    skip("1", &[]);

    daemon.wait_for("both are finished", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(2)
    });
    daemon.stop();
}
