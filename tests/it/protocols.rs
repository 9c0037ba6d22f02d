//! How a group shares its partitions: every assignor and KIP-848, with calls under way at each rebalance.

use std::collections::BTreeMap;

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

const PARTITIONS: i32 = 4;

/// Always in the middle of a call.
const SLOW: &str = r#"
local record = require "record"
local tide = require "tide"
return { handle = function(message, ctx)
  tide.sleep(60)
  record.line("end", message, ctx)
end }
"#;

#[test]
fn members_share_with_cooperative_sticky() {
    members_come_and_go("partitionAssigners = [\"cooperative-sticky\"]");
}

#[test]
fn members_share_with_range() {
    members_come_and_go("partitionAssigners = [\"range\"]");
}

#[test]
fn members_share_with_round_robin() {
    members_come_and_go("partitionAssigners = [\"roundRobin\"]");
}

#[test]
fn members_share_with_range_and_round_robin() {
    members_come_and_go("partitionAssigners = [\"roundRobin\", \"range\"]");
}

#[test]
fn members_share_with_the_consumer_protocol() {
    members_come_and_go("groupProtocol = \"consumer\"");
}

/// One member works, another one joins and leaves again: what runs at a rebalance ends and is committed before the
/// partition goes, so nothing is lost and nothing is done twice.
fn members_come_and_go(consumer: &str) {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = slow_topic(kafka, consumer);
    produce(&topic, 0..120);
    let mut first = Daemon::join(&project);
    let other = project.another_member();
    first.wait_for("it is at work", |_| project.entries().len() > 8);

    let second = Daemon::start(&other);
    first.wait_for("each has two partitions", |first| {
        partitions(first) == Some(2) && partitions(&second) == Some(2)
    });
    assert_eq!(kafka.members(&project.group).len(), members_told(consumer));
    let seen = project.entries().len();
    first.wait_for("both go on", |_| project.entries().len() > seen + 20);
    second.stop();

    first.wait_for("it has all partitions again", |first| {
        partitions(first) == Some(4)
    });
    handled_once(&project, &topic, 120);
    first.stop();
    all_is_committed(kafka, &project, &topic);
}

/// The request that the tests' client has for members knows the classic protocol only.
fn members_told(consumer: &str) -> usize {
    if consumer.contains("groupProtocol") {
        0
    } else {
        2
    }
}

/// A reload that comes while partitions are being given back: both end well.
#[test]
fn a_reload_amid_a_rebalance_with_the_classic_protocol() {
    reload_amid_a_rebalance("partitionAssigners = [\"roundRobin\"]");
}

#[test]
fn a_reload_amid_a_cooperative_rebalance() {
    reload_amid_a_rebalance("sessionTimeout = \"6s\"");
}

#[test]
fn a_reload_amid_a_rebalance_with_the_consumer_protocol() {
    reload_amid_a_rebalance("groupProtocol = \"consumer\"");
}

fn reload_amid_a_rebalance(consumer: &str) {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = slow_topic(kafka, &format!("{consumer}\nmetadataMaxAge = \"1s\""));
    let added = kafka.topic("added", 1);
    // Long enough to be seen in, and all at the same time: calls end in the moment in which partitions go.
    project.handler("orders.lua", &SLOW.replace("60", "1000"));
    produce(&topic, 0..8);
    let mut first = Daemon::join(&project);
    let other = project.another_member();
    first.wait_for("it is at work", |_| project.entries().len() >= 4);

    let second = Daemon::start(&other);
    // Or just over, when all calls happened to end at once.
    first.wait_for("a rebalance is under way", |first| {
        state(first) == "rebalancing" || partitions(first) == Some(2)
    });
    project.handler("orders.lua", SLOW);
    added.produce(numbered(0..3, 0));
    let listeners = from_beginning("orders", &topic.name, "orders.handle")
        + &from_beginning("added", &added.name, "orders.handle");
    project.config(&listeners);
    first.wait_line("reloaded", |line| line.is("reloaded"));
    let own = |text: &str| {
        text.replace(
            project.path(".").to_str().unwrap(),
            other.path(".").to_str().unwrap(),
        )
    };
    other.write("config.toml", &own(&project.config_text(&listeners)));

    first.wait_for("everything is handled", |_| {
        of(&project, &topic).len() == 32
    });
    first.wait_for("the added topic is consumed", |_| {
        of(&project, &added).len() == 3
    });
    let old = first.count(|line| line.is("reload rejected"));
    assert_eq!(old, 0);
    handled_once(&project, &topic, 8);
    first.stop();
    second.stop();
    all_is_committed(kafka, &project, &topic);
}

/// A pattern is ours to expand, whatever the protocol: KIP-848 brokers would read it in another dialect.
#[test]
fn a_pattern_finds_its_topics_with_the_consumer_protocol() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = unique("kip848");
    let early = kafka.topic_named(format!("{prefix}.early"), 2);
    let project =
        Project::new(kafka).consumer("groupProtocol = \"consumer\"\nmetadataMaxAge = \"1s\"");
    project.handler("orders.lua", RECORDING);
    // No dialect but Rust's has both of these.
    project.config(&from_beginning(
        "orders",
        &format!("^(?i:{})\\\\.\\\\p{{Ll}}+$", prefix.to_uppercase()),
        "orders.handle",
    ));
    let mut daemon = Daemon::join(&project);
    early.produce([numbered(0..3, 0), numbered(3..6, 1)].concat());
    project.wait_for_entries("done", 6, DEADLINE);

    let late = kafka.topic_named(format!("{prefix}.late"), 1);
    let _not_matched = kafka.topic_named(format!("{prefix}.late2"), 1);
    late.produce(numbered(0..4, 0));

    project.wait_for_entries("done", 10, DEADLINE);
    daemon.wait_for("three partitions", |daemon| partitions(daemon) == Some(3));
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &late.name, 0), Some(4));
}

fn slow_topic<'a>(kafka: &'a Kafka, consumer: &str) -> (Topic<'a>, Project) {
    let topic = kafka.topic("protocol", PARTITIONS as usize);
    let project = Project::new(kafka).consumer(consumer);
    project.handler("orders.lua", SLOW);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    (topic, project)
}

/// So many in each partition.
fn produce(topic: &Topic<'_>, range: std::ops::Range<u64>) {
    topic.produce((0..PARTITIONS).flat_map(|partition| numbered(range.clone(), partition)));
}

fn partitions(daemon: &Daemon) -> Option<usize> {
    let status = daemon.try_status()?;
    let consumer = &status["consumers"][0];
    let count = consumer["partitions"].as_array().map(Vec::len);
    count.filter(|_| consumer["state"] == "assigned")
}

fn state(daemon: &Daemon) -> String {
    let status = daemon.try_status().unwrap_or_default();
    status["consumers"][0]["state"]
        .as_str()
        .unwrap_or_default()
        .to_owned()
}

/// Ends by partition and offset.
fn of(project: &Project, topic: &Topic<'_>) -> BTreeMap<(i32, i64), usize> {
    let mut ends = BTreeMap::new();
    for entry in project.entries_of("end") {
        if entry.topic == topic.name {
            *ends.entry((entry.partition, entry.offset)).or_default() += 1;
        }
    }
    ends
}

#[track_caller]
fn handled_once(project: &Project, topic: &Topic<'_>, count: usize) {
    wait_for("everything is handled", DEADLINE, || {
        of(project, topic).len() == count * PARTITIONS as usize
    });
    let twice: Vec<_> = of(project, topic)
        .into_iter()
        .filter(|(_, calls)| *calls > 1)
        .collect();
    assert_eq!(twice, [], "handled more than once");
}

#[track_caller]
fn all_is_committed(kafka: &Kafka, project: &Project, topic: &Topic<'_>) {
    for partition in 0..PARTITIONS {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(topic.watermarks(partition).1),
            "partition {partition}"
        );
    }
}
