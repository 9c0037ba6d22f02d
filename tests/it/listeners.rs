//! Which handler gets which message: topics, patterns, files, consumers.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, unique};
use crate::support::project::{GATED, Project, RECORDING, from_beginning, listener};
use crate::support::wait::{DEADLINE, wait_for};

/// Records every call under the function's own name.
const NAMED: &str = r#"
local record = require "record"
local function recording(name)
  return function(message, ctx) record.line(name, message, ctx) end
end
return { first = recording "first", second = recording "second" }
"#;

/// S1: connection options; the brokers from the environment, with a default.
#[test]
fn brokers_come_from_the_environment() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("environment", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    let listener = from_beginning("orders", &topic.name, "orders.handle");
    let text = project
        .config_text(&listener)
        .replace(&kafka.bootstrap(), "${KAFKA_URL:-127.0.0.1:1}");
    project.write("config.toml", &text);
    topic.produce(numbered(0..3, 0));

    let daemon = Daemon::spawn_with(&project, &[("KAFKA_URL", &kafka.bootstrap())]);

    project.wait_for_entries("done", 3, DEADLINE);
    let clients: Vec<String> = kafka.members(&project.group).into_values().collect();
    assert_eq!(clients, ["tests"], "clientId is what the broker sees");
    daemon.stop();
}

/// S2: one group for all listeners.
#[test]
fn all_listeners_share_one_membership() {
    let Some(kafka) = kafka::shared() else { return };
    let (orders, audit) = (kafka.topic("orders", 2), kafka.topic("audit", 1));
    let project = Project::new(kafka);
    project.handler("names.lua", NAMED);
    project.config(
        &(from_beginning("orders", &orders.name, "names.first")
            + &from_beginning("audit", &audit.name, "names.second")),
    );
    orders.produce([numbered(0..4, 0), numbered(4..8, 1)].concat());
    audit.produce(numbered(0..3, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("first", 8, DEADLINE);
    project.wait_for_entries("second", 3, DEADLINE);
    assert_eq!(kafka.members(&project.group).len(), 1);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &orders.name, 0), Some(4));
    assert_eq!(kafka.committed(&project.group, &orders.name, 1), Some(4));
    assert_eq!(kafka.committed(&project.group, &audit.name, 0), Some(3));
}

/// S2: named further consumers, each with its group; S3: several files.
#[test]
fn a_named_consumer_is_a_membership_of_its_own() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("shared", 1);
    let audit_group = unique("audit-group");
    let project =
        Project::new(kafka).sections(&format!("[consumers.audit]\ngroupId = \"{audit_group}\""));
    project.handler("names.lua", NAMED);
    project.handler(
        "audit/all.lua",
        "local names = require \"names\"\nreturn names.second\n",
    );
    project.config(
        &(from_beginning("orders", &topic.name, "names.first")
            + &from_beginning("audit", &topic.name, "audit/all")
            + "consumer = \"audit\"\n"),
    );
    topic.produce(numbered(0..5, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("first", 5, DEADLINE);
    project.wait_for_entries("second", 5, DEADLINE);
    assert_eq!(daemon.status()["consumers"].as_array().unwrap().len(), 2);
    daemon.stop();
    for group in [&project.group, &audit_group] {
        assert_eq!(kafka.committed(group, &topic.name, 0), Some(5), "{group}");
    }
}

/// S4: all listeners of a topic run, in the order of declaration, one after the other.
#[test]
fn two_listeners_of_a_topic_run_in_the_order_of_declaration() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("twice", 1);
    let project = Project::new(kafka);
    project.handler("names.lua", NAMED);
    project.config(
        &(from_beginning("z", &topic.name, "names.second")
            + &from_beginning("a", &topic.name, "names.first")),
    );
    topic.produce(numbered(0..10, 0));

    let daemon = Daemon::start(&project);

    wait_for("both have run", DEADLINE, || project.entries().len() >= 20);
    let calls: Vec<_> = project
        .entries()
        .into_iter()
        .map(|entry| (entry.offset, entry.event))
        .collect();
    let expected: Vec<_> = (0..10)
        .flat_map(|offset| [(offset, "second".into()), (offset, "first".into())])
        .collect();
    assert_eq!(calls, expected);
    daemon.stop();
}

/// S4: each listener has its own outcome, and a retry runs only the one that failed.
#[test]
fn a_retry_runs_only_the_listener_that_failed() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("failing", 1);
    let project = Project::new(kafka);
    project.handler("names.lua", NAMED);
    project.handler("gated.lua", GATED);
    project.config(
        &(from_beginning("gated", &topic.name, "gated.handle")
            + "retry = { initialDelay = 100, maxDelay = 300 }\n"
            + &from_beginning("names", &topic.name, "names.first")),
    );
    topic.produce(numbered(0..1, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("the second has run though the first failed", |_| {
        !project.entries_of("first").is_empty() && project.entries_of("try").len() > 2
    });
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0).unwrap_or(0),
        0
    );
    project.open_gate();
    daemon.wait_for("the message is final", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    project.wait_for_entries("done", 1, DEADLINE);
    project.wait_for_entries("first", 1, DEADLINE);
    daemon.stop();
}

/// A pattern takes in topics that appear later, from their first message.
#[test]
fn a_pattern_finds_a_topic_that_is_created_later() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = unique("pattern");
    let early = kafka.topic_named(format!("{prefix}.early"), 1);
    let _other = kafka
        .topic_named(format!("not-{prefix}.other"), 1)
        .produce(numbered(0..3, 0));
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    // No fromBeginning: it is for what was there when the group came; what appears later is new as a whole.
    project.config(&listener(
        "pattern",
        &format!("^{prefix}\\\\."),
        "orders.handle",
    ));
    let daemon = Daemon::join(&project);
    early.produce(numbered(0..3, 0));
    project.wait_for_entries("done", 3, DEADLINE);

    let late = kafka.topic_named(format!("{prefix}.late"), 1);
    late.produce(numbered(10..15, 0));

    let entries = project.wait_for_entries("done", 8, DEADLINE);
    let topics: Vec<&str> = entries.iter().map(|entry| entry.topic.as_str()).collect();
    assert_eq!(
        topics,
        [
            [early.name.as_str()].repeat(3),
            [late.name.as_str()].repeat(5)
        ]
        .concat()
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &late.name, 0), Some(5));
}

/// A topic that two listeners name, one by pattern and one literally, is consumed once and handled by both.
#[test]
fn a_pattern_and_a_literal_meet_on_one_topic() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("both", 1);
    let project = Project::new(kafka);
    project.handler("names.lua", NAMED);
    project.config(
        &(from_beginning("pattern", &format!("^{}$", topic.name), "names.first")
            + &from_beginning("literal", &topic.name, "names.second")),
    );
    topic.produce(numbered(0..5, 0));

    let daemon = Daemon::start(&project);

    wait_for("both have run", DEADLINE, || project.entries().len() >= 10);
    let calls: Vec<_> = project
        .entries()
        .into_iter()
        .map(|entry| (entry.offset, entry.event))
        .collect();
    let expected: Vec<_> = (0..5)
        .flat_map(|offset| [(offset, "first".into()), (offset, "second".into())])
        .collect();
    assert_eq!(calls, expected);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

/// A list of topics is one listener.
#[test]
fn a_listener_takes_several_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let (one, two) = (kafka.topic("one", 1), kafka.topic("two", 1));
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    let text = from_beginning("both", &one.name, "orders.handle").replace(
        &format!("topic = \"{}\"", one.name),
        &format!("topics = [\"{}\", \"{}\"]", one.name, two.name),
    );
    project.config(&text);
    one.produce(numbered(0..2, 0));
    two.produce(numbered(0..3, 0));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 5, DEADLINE);
    assert_eq!(
        entries
            .iter()
            .filter(|entry| entry.topic == two.name)
            .count(),
        3
    );
    daemon.stop();
}

/// A topic that does not exist is said, waits, and holds nobody up.
#[test]
fn a_topic_that_is_missing_does_not_stop_the_others() {
    let Some(kafka) = kafka::shared() else { return };
    let (there, missing) = (kafka.topic("there", 1), unique("missing"));
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("there", &there.name, "orders.handle")
            + &from_beginning("missing", &missing, "orders.handle")),
    );
    there.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.wait_line("which topic is missing", |line| {
        line.field("level") != "DEBUG" && line.field("level") != "INFO" && line.mentions(&missing)
    });
    let is_named = |status: &serde_json::Value| {
        status["consumers"][0]["topicErrors"][0]["topic"] == missing.as_str()
    };
    assert!(is_named(&daemon.status()), "and it stays so in the status");

    let missing = kafka.topic_named(missing, 1);
    missing.produce(numbered(0..2, 0));

    project.wait_for_entries("done", 5, DEADLINE);
    assert_eq!(
        daemon.status()["consumers"][0]["topicErrors"],
        serde_json::json!([])
    );
    daemon.stop();
}

/// Workers are threads with a VM each; a partition's order is kept among them.
#[test]
fn several_workers_keep_the_order_of_each_partition() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("workers", 4);
    let project = Project::new(kafka).sections("[lua]\nworkers = 3");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce((0..800).map(|number| Message::value(number.to_string()).partition(number % 4)));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 800, DEADLINE);
    for partition in 0..4 {
        let offsets: Vec<i64> = entries
            .iter()
            .filter(|entry| entry.partition == partition)
            .map(|entry| entry.offset)
            .collect();
        assert_eq!(
            offsets,
            (0..200).collect::<Vec<_>>(),
            "partition {partition}"
        );
    }
    daemon.stop();
}

/// Its call goes on, but it has no say any more: what it asks for is not what another listener has finished.
#[test]
fn a_listener_that_is_gone_commits_nothing_for_those_that_stay() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("gone", 1);
    let project = Project::new(kafka);
    project.handler("fails.lua", GATED);
    project.handler(
        "asks.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          while not io.open("ask") do tide.sleep(20) end
          record.line("asked", message, ctx, ctx.commitOffsets(message.offset + 1))
        end
        "#,
    );
    let stays_on = from_beginning("fails", &topic.name, "fails.handle");
    project.config(
        &(stays_on.clone()
            + &from_beginning("asks", &topic.name, "asks")
            + "runConfig = { autoCommit = false }\n"),
    );
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 1, DEADLINE);

    project.config(&stays_on);
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");
    project.write("ask", "");
    let asked = project.wait_for_entries("asked", 1, DEADLINE);

    assert_eq!(asked[0].extra, "0");
    let committed = || kafka.committed(&project.group, &topic.name, 0);
    assert_ne!(committed(), Some(1));
    project.open_gate();
    daemon.wait_for("the other one has finished it", |_| committed() == Some(1));
    daemon.stop();
}
