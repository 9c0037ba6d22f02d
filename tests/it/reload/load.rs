//! Reloads while messages flow: nothing is lost, nothing is handled twice because of them, no lane is overtaken.

use std::collections::BTreeMap;
use std::fs;
use std::time::Duration;

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

const SLOW: &str = r#"
local record = require "record"
local tide = require "tide"
return { handle = function(message, ctx)
  tide.sleep(15)
  record.line("end", message, ctx, "VERSION")
end }
"#;

fn slow(kafka: &Kafka, project: Project, count: u64) -> (Topic<'_>, Project) {
    let topic = kafka.topic("load", 4);
    project.handler("orders.lua", SLOW);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce((0..4).flat_map(|partition| numbered(0..count, partition)));
    (topic, project)
}

/// Every message of the topic once, in the order of its partition, and committed.
#[track_caller]
fn once_and_in_order(
    kafka: &Kafka,
    daemon: &mut Daemon,
    project: &Project,
    topic: &Topic<'_>,
    count: usize,
) {
    daemon.wait_for("everything is handled", |_| {
        project.entries_of("end").len() >= 4 * count
    });
    let mut offsets: BTreeMap<i32, Vec<i64>> = BTreeMap::new();
    for entry in project.entries_of("end") {
        offsets
            .entry(entry.partition)
            .or_default()
            .push(entry.offset);
    }
    for partition in 0..4 {
        assert_eq!(
            offsets[&partition],
            (0..count as i64).collect::<Vec<_>>(),
            "partition {partition}"
        );
        daemon.wait_for("it is committed", |_| {
            kafka.committed(&project.group, &topic.name, partition) == Some(count as i64)
        });
    }
}

/// With several VMs, which swap one by one.
#[test]
fn saves_under_load_with_several_workers() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka).sections("[lua]\nworkers = 3");
    let (topic, project) = slow(kafka, project, 250);
    let mut daemon = Daemon::join(&project);
    let mut save = 0;
    daemon.wait_for("it is at work", |_| project.entries().len() > 10);

    while project.entries().len() < 800 {
        save += 1;
        project.replace_handler("orders.lua", &SLOW.replace("VERSION", &save.to_string()));
        let (code, said) = daemon.reload();
        assert_eq!(code, 0, "{said}");
    }

    once_and_in_order(kafka, &mut daemon, &project, &topic, 250);
    assert!(save > 5, "{save} saves");
    // Of one worker: once a call of a bundle has ended, no call of an older one but those under way then ends. Another
    // worker may have the next bundle already, while this one's calls of the last but one still end.
    let versions: Vec<u32> = project
        .entries_of("end")
        .iter()
        .map(|entry| entry.extra.parse().unwrap_or(0))
        .collect();
    let mut newest = 0;
    for version in versions {
        assert!(version + 2 >= newest, "bundle {version} after {newest}");
        newest = newest.max(version);
    }
    assert_eq!(daemon.count(|line| line.is("assigned")), 1);
    daemon.stop();
}

/// Keys of class rejoin: the consumer drains, commits, leaves and joins anew, with calls under way each time.
#[test]
fn rejoining_repeats_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka).consumer("sessionTimeout = \"6s\"");
    let (topic, project) = slow(kafka, project, 400);
    let mut daemon = Daemon::join(&project);
    let mut consumer = "sessionTimeout = \"6s\"".to_owned();
    for other in [
        "sessionTimeout = \"7s\"",
        "partitionAssigners = [\"range\"]",
        "groupProtocol = \"consumer\"",
        "sessionTimeout = \"6s\"",
    ] {
        let (seen, done) = (daemon.lines().len(), project.entries().len());
        let text = fs::read_to_string(project.path("config.toml")).unwrap();
        project.write("config.toml", &text.replace(&consumer, other));
        consumer = other.to_owned();
        daemon.wait_line_after(seen, "it has joined anew", |line| line.is("assigned"));
        daemon.wait_for("it goes on", |_| project.entries().len() > done + 20);
    }
    once_and_in_order(kafka, &mut daemon, &project, &topic, 400);
    daemon.stop();
}

/// What runs of a removed topic ends and is committed; what waits for a retry is not.
#[test]
fn a_removed_topic_is_drained_and_committed() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    let (stays_on, removed) = (kafka.topic("stays", 1), kafka.topic("removed", 2));
    project.handler(
        "removed.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          if message.partition == 1 and message.offset == 2 then error("never") end
          if message.value == "2" then
            while not io.open("gate") do tide.sleep(10) end
          end
          record.line("end", message, ctx)
        end
        "#,
    );
    project.handler("orders.lua", SLOW);
    let orders = from_beginning("orders", &stays_on.name, "orders.handle");
    let retry = "retry = { initialDelay = \"10m\", maxDelay = \"10m\" }\n";
    project
        .config(&(orders.clone() + &from_beginning("removed", &removed.name, "removed") + retry));
    removed.produce([numbered(0..6, 0), numbered(10..16, 1)].concat());
    let mut daemon = Daemon::join(&project);
    daemon.wait_for("one runs and one has failed", |_| {
        project.entries_of("begin").len() == 6
    });

    project.config(&orders);
    stays(
        "what runs is not begun anew",
        Duration::from_millis(700),
        || project.entries_of("begin").len() == 6,
    );
    project.open_gate();

    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    daemon.wait_for("the topic is given back", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| !status["consumers"][0].to_string().contains(&removed.name))
    });
    let ends = project.entries_of("end");
    assert_eq!(ends.len(), 5, "nothing new was begun: {ends:?}");
    assert_eq!(kafka.committed(&project.group, &removed.name, 0), Some(3));
    assert_eq!(kafka.committed(&project.group, &removed.name, 1), Some(2));
    stays_on.produce(numbered(0..3, 0));
    project.wait_for_entries("end", 8, DEADLINE);
    daemon.stop();
}

/// S13: the new bundle's `start` before its first message, the old one's `shutdown` after its last.
#[test]
fn hooks_run_with_each_bundle() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("hooks", 1);
    let project = Project::new(kafka);
    let init = |name: &str| {
        format!(
            "local record = require \"record\"\nreturn {{\n\
             start = function() record.note(\"start {name}\") end,\n\
             shutdown = function() record.note(\"shutdown {name}\") end,\n}}\n"
        )
    };
    project.handler("init.lua", &init("one"));
    project.handler("orders.lua", &SLOW.replace("15", "600"));
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("start one", 1, DEADLINE);

    let error = "return function() error(\"no database\") end\n";
    project.handler("init.lua", error);
    let line = daemon.wait_line("rejected", |line| line.mentions("no database"));
    assert!(
        line.is_error() && line.mentions("handlers/init.lua:1"),
        "{line:?}"
    );
    let seen = daemon.lines().len();
    topic.produce(numbered(1..2, 0));
    project.handler("init.lua", &init("two"));
    daemon.wait_line_after(seen, "reloaded", |line| line.is("reloaded"));
    project.wait_for_entries("end", 2, DEADLINE);
    project.wait_for_entries("shutdown one", 1, DEADLINE);
    daemon.stop();

    let events: Vec<String> = project
        .entries()
        .into_iter()
        .map(|entry| entry.event)
        .collect();
    let at = |event: &str| events.iter().position(|one| one == event).unwrap();
    assert!(at("start one") < at("end"), "{events:?}");
    assert!(at("start two") > at("start one"), "{events:?}");
    assert_eq!(events.last().unwrap(), "shutdown two");
    assert_eq!(
        events.iter().filter(|event| event.starts_with('s')).count(),
        4,
        "{events:?}"
    );
}

/// What has finished before a listener becomes a manual one is none of its business: it is committed, and then what the
/// listener asks for.
#[test]
fn a_listener_that_becomes_a_manual_one_under_load_holds_no_position() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("manual", 4);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r"
        return {
          automatic = function() end,
          manual = function(message, ctx) ctx.commitOffsets(message.offset + 1, { wait = false }) end,
        }
        ",
    );
    let listener = |handler: &str| {
        let run_config = format!("runConfig = {{ autoCommit = {} }}", handler == "automatic");
        from_beginning("orders", &topic.name, &format!("orders.{handler}"))
            + "ordering = \"none\"\n"
            + &run_config
    };
    project.config(&listener("automatic"));
    let mut daemon = Daemon::join(&project);
    let become_one = |daemon: &Daemon, handler: &str| {
        project.write("new.toml", &project.config_text(&listener(handler)));
        fs::rename(project.path("new.toml"), project.path("config.toml")).unwrap();
        let (code, printed) = daemon.reload();
        assert_eq!(code, 0, "{printed}");
    };
    let count = 20_000;
    for round in 1..=6 {
        topic.produce((0..4).flat_map(|partition| numbered(0..count, partition)));
        become_one(&daemon, "manual");
        daemon.wait_for("everything is committed", |_| {
            (0..4).all(|partition| {
                let committed = kafka.committed(&project.group, &topic.name, partition);
                committed == Some(round * count as i64)
            })
        });
        become_one(&daemon, "automatic");
    }
    daemon.stop();
}
