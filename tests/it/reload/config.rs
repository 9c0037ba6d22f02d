//! Listeners, topics and policies that change.

use std::collections::BTreeSet;
use std::fs;
use std::time::Duration;

use crate::support::client::numbered;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for};

use super::{Running, version};

#[test]
fn a_topic_can_be_added_and_removed_while_another_flows() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let added = kafka.topic("added", 1);
    added.produce(numbered(0..3, 0));
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");
    let both = orders.clone() + &from_beginning("added", &added.name, "added");
    running.project.handler(
        "added.lua",
        &version("added").replace("return M", "return M.handle"),
    );

    running.wait_reloaded(|project| project.config(&both));
    running.project.wait_for_entries("added", 3, DEADLINE);
    running.topic.produce(numbered(10..12, 1));
    running.project.wait_for_entries("old", 3, DEADLINE);

    running.wait_reloaded(|project| project.config(&orders));
    running
        .daemon
        .wait_for("the topic is given back", |daemon| {
            daemon
                .try_status()
                .is_some_and(|status| !status["consumers"][0].to_string().contains(&added.name))
        });
    added.produce(numbered(3..6, 0));
    running.topic.produce(numbered(12..14, 1));

    running.project.wait_for_entries("old", 5, DEADLINE);
    stays(
        "a removed topic is not handled",
        Duration::from_secs(1),
        || running.project.entries_of("added").len() == 3,
    );
    assert_eq!(
        kafka.committed(&running.project.group, &added.name, 0),
        Some(3),
        "its position stays"
    );
    let members: BTreeSet<String> = kafka.members(&running.project.group).into_keys().collect();
    assert_eq!(members, running.members);
    running.daemon.stop();
}

/// A listener on a topic that another one has already: no subscription changes, nobody rejoins.
#[test]
fn a_second_listener_of_a_topic_needs_no_rebalance() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");
    running.project.handler("second.lua", &version("second"));

    let both = orders.clone() + &from_beginning("second", &running.topic.name, "second.handle");
    running.wait_reloaded(|project| project.config(&both));
    running.handles_as("second");
    running.project.wait_for_entries("old", 2, DEADLINE);
    running.wait_reloaded(|project| project.config(&orders));
    running.handles_as("old");

    assert_eq!(running.project.entries_of("second").len(), 1);
    running.never_left_the_group();
    running.daemon.stop();
}

/// A policy is live: a message that was to be retried for ever is skipped by the new one.
#[test]
fn a_changed_policy_is_in_force_for_a_message_in_back_off() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    let topic = kafka.topic("policy", 1);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return { handle = function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "1" then error("never") end
          record.line("old", message, ctx)
        end }
        "#,
    );
    let orders = from_beginning("orders", &topic.name, "orders.handle");
    project.config(&(orders.clone() + "retry = { initialDelay = \"10m\", maxDelay = \"10m\" }\n"));
    let mut running = Running::begin(kafka, topic, project);
    running.topic.produce(numbered(1..3, 0));
    running.daemon.wait_for("it has failed", |_| {
        running.project.entries_of("try").len() == 2
    });

    running.wait_reloaded(|project| project.config(&(orders + "onError = \"skip\"\n")));

    wait_for("the message behind it is handled", DEADLINE, || {
        running.project.values_of("old") == ["0", "2"]
    });
    running.never_left_the_group();
    running.daemon.stop();
    assert_eq!(
        kafka.committed(&running.project.group, &running.topic.name, 0),
        Some(3)
    );
}

/// A key of class rejoin: that consumer drains and joins anew, and nothing is lost or doubled.
#[test]
fn a_changed_group_joins_anew_and_the_other_consumer_stays() {
    let Some(kafka) = kafka::shared() else { return };
    let audit_group = kafka::unique("audit-group");
    let project =
        Project::new(kafka).sections(&format!("[consumers.audit]\ngroupId = \"{audit_group}\""));
    project.handler("orders.lua", &version("old"));
    project.handler("audit.lua", &version("audit"));
    let (topic, audit) = (kafka.topic("rejoin", 1), kafka.topic("audit", 1));
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + &from_beginning("audit", &audit.name, "audit.handle")
            + "consumer = \"audit\"\n"),
    );
    let mut running = Running::begin(kafka, topic, project);
    audit.produce(numbered(0..2, 0));
    running.project.wait_for_entries("audit", 2, DEADLINE);
    let stayed = kafka.members(&audit_group);

    let new_group = kafka::unique("new-group");
    running.wait_reloaded(|project| {
        let text = fs::read_to_string(project.path("config.toml")).unwrap();
        project.write("config.toml", &text.replace(&project.group, &new_group));
    });

    // The new group has no position: it begins at the beginning.
    running.project.wait_for_entries("old", 2, DEADLINE);
    assert_eq!(kafka.members(&new_group).len(), 1);
    assert!(kafka.members(&running.project.group).is_empty());
    assert_eq!(kafka.members(&audit_group), stayed);
    running.daemon.stop();
}

/// A message that only waits for a listener which is removed is final at once: another listener's topic goes on.
#[test]
fn a_removed_listener_lets_go_of_its_message() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    let topic = kafka.topic("removed", 1);
    project.handler("orders.lua", &version("old"));
    project.handler("failing.lua", "return function() error(\"never\") end\n");
    let orders = from_beginning("orders", &topic.name, "orders.handle");
    project.config(&(orders.clone() + &from_beginning("failing", &topic.name, "failing")));
    let mut running = Running::begin(kafka, topic, project);
    running.topic.produce(numbered(1..4, 0));

    running.wait_reloaded(|project| project.config(&orders));

    running.project.wait_for_entries("old", 4, DEADLINE);
    let (group, name) = (running.project.group.clone(), running.topic.name.clone());
    running.daemon.wait_for("all are committed", |_| {
        kafka.committed(&group, &name, 0) == Some(4)
    });
    running.never_left_the_group();
    running.daemon.stop();
}
