//! Handlers that are saved: in force at once, without a rebalance.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{GATED, Project, from_beginning, listener};
use crate::support::wait::DEADLINE;

use super::{Running, version};

#[test]
fn a_saved_handler_is_in_force_without_a_rebalance() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let before = running.daemon.status()["bundle"]["number"]
        .as_u64()
        .unwrap();

    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));

    running.handles_as("new");
    running.never_left_the_group();
    let status = running.daemon.status();
    assert_eq!(status["bundle"]["number"].as_u64().unwrap(), before + 1);
    assert_eq!(status["lastReload"]["result"], "applied");
    running.daemon.stop();
}

#[test]
fn a_saved_module_is_in_force_in_whoever_requires_it() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.handler("names.lua", "return { event = \"old\" }\n");
    project.handler("lib/deep.lua", "return require \"names\"\n");
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        local names = require "lib.deep"
        return { handle = function(message, ctx) record.line(names.event, message, ctx) end }
        "#,
    );
    let topic = kafka.topic("module", 1);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let mut running = Running::begin(kafka, topic, project);

    running.wait_reloaded(|project| project.handler("names.lua", "return { event = \"new\" }\n"));

    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}

/// A save by rename, as editors do, several times over.
#[test]
fn a_handler_saved_by_rename_is_seen_each_time() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    for event in ["first", "second", "third"] {
        running.wait_reloaded(|project| project.replace_handler("orders.lua", &version(event)));
        running.handles_as(event);
    }

    running.never_left_the_group();
    running.daemon.stop();
}

/// The handlers folder behind a link that is swapped, as `ConfigMap`s and deployments do.
#[test]
fn a_swapped_symlink_is_seen() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    for (release, event) in [("one", "old"), ("two", "new")] {
        let folder = format!("releases/{release}");
        project.write(&format!("{folder}/orders.lua"), &version(event));
        let record = fs::read_to_string(project.path("handlers/record.lua")).unwrap();
        project.write(&format!("{folder}/record.lua"), &record);
    }
    fs::remove_dir_all(project.path("handlers")).unwrap();
    symlink(project.path("releases/one"), project.path("current")).unwrap();
    symlink(project.path("current"), project.path("handlers")).unwrap();
    let topic = kafka.topic("symlink", 1);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let mut running = Running::begin(kafka, topic, project);

    running.wait_reloaded(|project| {
        symlink(project.path("releases/two"), project.path("current~")).unwrap();
        fs::rename(project.path("current~"), project.path("current")).unwrap();
    });

    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}

/// Mending the handler ends a long back-off at once.
#[test]
fn a_mended_handler_ends_the_back_off() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.handler("orders.lua", &GATED.replace("\"done\"", "\"old\""));
    project.open_gate();
    let topic = kafka.topic("mended", 1);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "retry = { initialDelay = \"10m\", maxDelay = \"10m\" }\n"),
    );
    let mut running = Running::begin(kafka, topic, project);
    fs::remove_file(running.project.path("gate")).unwrap();
    running.topic.produce(numbered(1..4, 0));
    running.daemon.wait_for("it has failed", |_| {
        running.project.entries_of("try").len() == 2
    });

    running.wait_reloaded(|project| project.handler("orders.lua", &version("mended")));

    let entries = running.project.wait_for_entries("mended", 3, DEADLINE);
    assert_eq!(
        entries.iter().map(|entry| entry.offset).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    running.never_left_the_group();
    running.daemon.stop();
}

/// A call that waits ends in the code that it began in; the next one runs in the new.
#[test]
fn a_call_that_waits_is_not_mixed_with_the_new_handlers() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let waiting = |name: &str| {
        r#"
        local record = require "record"
        local tide = require "tide"
        local name = "NAME"
        return { handle = function(message, ctx)
          local before = require("names")
          record.line("begin", message, ctx, name .. before)
          while not io.open("gate") do tide.sleep(20) end
          record.line("end", message, ctx, name .. require("names"))
        end }
        "#
        .replace("NAME", name)
    };
    running.project.handler("names.lua", "return \"-one\"\n");
    running.wait_reloaded(|project| project.handler("orders.lua", &waiting("one")));
    running.topic.produce(numbered(0..2, 0));
    running.project.wait_for_entries("begin", 1, DEADLINE);

    running.wait_reloaded(|project| {
        project.handler("names.lua", "return \"-two\"\n");
        project.handler("orders.lua", &waiting("two"));
    });
    running.project.open_gate();

    let ends = running.project.wait_for_entries("end", 2, DEADLINE);
    assert_eq!([&ends[0].extra, &ends[1].extra], ["one-one", "two-two"]);
    running.never_left_the_group();
    running.daemon.stop();
}

/// Two hundred saves in twenty seconds, under load: the last one is in force, nobody left the group, nothing is lost.
#[test]
fn two_hundred_saves_under_load_lose_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let sleepy = |save: u32| {
        version("done")
            .replace("record.line", "require(\"tide\").sleep(1)\n  record.line")
            .replace("ctx)\nend", &format!("ctx, {save})\nend"))
    };

    let saving = AtomicBool::new(true);
    std::thread::scope(|scope| {
        // At a pace of its own: the saves do not wait for the broker.
        scope.spawn(|| {
            for batch in 1u64.. {
                if !saving.load(Ordering::Relaxed) {
                    return;
                }
                let numbers = batch * 100..batch * 100 + 100;
                let both = [numbered(numbers.clone(), 0), numbered(numbers, 1)].concat();
                running.topic.produce(both);
            }
        });
        for save in 1..=200 {
            let began = Instant::now();
            match save % 3 {
                0 => running.project.handler("orders.lua", &sleepy(save)),
                1 => running.project.replace_handler("orders.lua", &sleepy(save)),
                // Now and then a bad one in between.
                _ => running.project.handler("orders.lua", "return {"),
            }
            std::thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
        }
        saving.store(false, Ordering::Relaxed);
    });
    running.project.replace_handler("orders.lua", &sleepy(1000));

    running.daemon.wait_for("the last save is in force", |_| {
        running.topic.produce(numbered(0..1, 1));
        running
            .project
            .entries_of("done")
            .last()
            .is_some_and(|entry| entry.extra == "1000")
    });
    let ends = [0, 1].map(|partition| running.topic.watermarks(partition).1);
    let all: BTreeSet<(i32, i64)> = (0..2)
        .flat_map(|partition| (0..ends[partition as usize]).map(move |offset| (partition, offset)))
        .collect();
    running.daemon.wait_for("every message is handled", |_| {
        handled(&running.project) == all
    });
    let calls = running.project.entries().len();
    assert_eq!(calls, all.len(), "no message is handled twice");
    running.never_left_the_group();
    running.daemon.stop();
}

fn handled(project: &Project) -> BTreeSet<(i32, i64)> {
    project
        .entries()
        .into_iter()
        .map(|entry| (entry.partition, entry.offset))
        .collect()
}

/// The first good save after a start at which nothing flowed: an idle daemon reloads like a busy one.
#[test]
fn an_idle_daemon_reloads_too() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("idle", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", &version("old"));
    project.config(&listener("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);

    project.handler("orders.lua", &version("new"));
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce(numbered(0..1, 0));

    project.wait_for_entries("new", 1, DEADLINE);
    daemon.stop();
}
