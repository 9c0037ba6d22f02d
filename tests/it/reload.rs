//! Files that change while the daemon runs: what takes effect, what is refused, and that nobody leaves the group.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::symlink;
use std::time::{Duration, Instant};

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{GATED, Project, RECORDING, from_beginning, listener};
use crate::support::wait::{DEADLINE, stays, wait_for};

/// A handler that records as `event`.
fn version(event: &str) -> String {
    RECORDING.replace("\"done\"", &format!("\"{event}\""))
}

/// A running daemon with one listener, `orders`, that has handled one message as `old`.
struct Running<'a> {
    kafka: &'a Kafka,
    topic: Topic<'a>,
    project: Project,
    daemon: Daemon,
    members: BTreeSet<String>,
    assignments: usize,
}

impl<'a> Running<'a> {
    fn start(kafka: &'a Kafka) -> Self {
        let project =
            Project::new(kafka).consumer("metadataMaxAge = \"2s\"\nsessionTimeout = \"6s\"");
        project.handler("orders.lua", &version("old"));
        let topic = kafka.topic("reload", 2);
        project.config(&from_beginning("orders", &topic.name, "orders.handle"));
        Self::begin(kafka, topic, project)
    }

    fn begin(kafka: &'a Kafka, topic: Topic<'a>, project: Project) -> Self {
        let daemon = Daemon::join(&project);
        topic.produce(numbered(0..1, 0));
        project.wait_for_entries("old", 1, DEADLINE);
        let members = kafka.members(&project.group).into_keys().collect();
        let assignments = daemon.count(|line| line.is("assigned"));
        Self {
            kafka,
            topic,
            project,
            daemon,
            members,
            assignments,
        }
    }

    #[track_caller]
    fn wait_reloaded(&mut self, change: impl FnOnce(&Project)) {
        let seen = self.daemon.lines().len();
        let changed = Instant::now();
        change(&self.project);
        let line = self
            .daemon
            .wait_line_after(seen, "reloaded", |line| line.is("reloaded"));
        said(&format!(
            "in force after {:?}, bundle {}",
            changed.elapsed(),
            line.field("bundle")
        ));
    }

    /// Returns the error.
    #[track_caller]
    fn wait_rejected(&mut self, change: impl FnOnce(&Project)) -> String {
        let seen = self.daemon.lines().len();
        change(&self.project);
        let line = self
            .daemon
            .wait_line_after(seen, "reload rejected", |line| line.is("reload rejected"));
        assert!(line.is_error(), "{line:?}");
        line.field("error")
    }

    /// The next message is handled by the handler that records as `event`.
    #[track_caller]
    fn handles_as(&self, event: &str) {
        let before = self.project.entries_of(event).len();
        self.topic
            .produce(numbered(before as u64..before as u64 + 1, 0));
        self.project.wait_for_entries(event, before + 1, DEADLINE);
    }

    /// The member is the one that it was, and nothing was assigned anew.
    #[track_caller]
    fn never_left_the_group(&self) {
        let members: BTreeSet<String> = self
            .kafka
            .members(&self.project.group)
            .into_keys()
            .collect();
        assert_eq!(members, self.members, "the member is another one");
        assert_eq!(
            self.daemon.count(|line| line.is("assigned")),
            self.assignments,
            "there was a rebalance"
        );
    }

    #[track_caller]
    fn disk(&self) -> Option<String> {
        self.daemon.status()["disk"].as_str().map(str::to_owned)
    }
}

#[expect(
    clippy::print_stdout,
    reason = "shown by the test runner when asked for, or when the test fails"
)]
fn said(sentence: &str) {
    println!("{sentence}");
}

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

#[test]
fn a_syntax_error_keeps_the_old_handlers_and_says_where() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error = running.wait_rejected(|project| {
        project.handler("orders.lua", "local M = {}\nfunction M.handle(\n");
    });

    assert!(error.contains("handlers/orders.lua:"), "{error}");
    running.handles_as("old");
    let disk = running.disk().expect("a restart would fail");
    assert!(disk.contains("orders.lua"), "{disk}");
    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    running.handles_as("new");
    assert_eq!(running.disk(), None);
    running.never_left_the_group();
    running.daemon.stop();
}

/// The file that the daemon runs on is saved again after a bad one: nothing to load, but the disk is good again.
#[test]
fn undoing_a_bad_save_makes_the_disk_good_again() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    running.wait_rejected(|project| project.handler("orders.lua", "not lua at all"));

    running.project.handler("orders.lua", &version("old"));

    running.daemon.wait_for("the status says so", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["disk"].is_null())
    });
    running.handles_as("old");
    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn a_bad_config_keeps_the_old_one_and_says_where() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");

    let error =
        running.wait_rejected(|project| project.config(&(orders.clone() + "handlr = \"x\"\n")));
    assert!(
        error.contains("config.toml:") && error.contains("handlr"),
        "{error}"
    );
    let error = running.wait_rejected(|project| project.config("[[listeners\n"));
    assert!(error.contains("config.toml:"), "{error}");
    running.handles_as("old");

    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn an_endless_loop_at_the_top_level_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error =
        running.wait_rejected(|project| project.handler("orders.lua", "while true do end\n"));

    assert!(error.contains("orders.lua"), "{error}");
    running.handles_as("old");
    running.never_left_the_group();
    running.daemon.stop();
}

#[test]
fn a_handler_that_vanished_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);

    let error = running
        .wait_rejected(|project| project.handler("orders.lua", "return { other = print }\n"));
    assert!(error.contains("handle"), "the function: {error}");
    running.handles_as("old");
    let error = running
        .wait_rejected(|project| fs::remove_file(project.path("handlers/orders.lua")).unwrap());
    assert!(error.contains("orders.lua"), "the file: {error}");
    running.handles_as("old");

    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    running.handles_as("new");
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

/// `systemctl reload`.
#[test]
fn sighup_reloads_and_says_how_it_ended() {
    let Some(kafka) = kafka::shared() else { return };
    let mut running = Running::start(kafka);
    running.wait_reloaded(|project| project.handler("orders.lua", &version("new")));
    let before = running.daemon.status()["lastReload"]["at"]
        .as_i64()
        .unwrap();

    running.daemon.hup();

    running.daemon.wait_for("it is reported", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["lastReload"]["at"].as_i64() > Some(before))
    });
    running.handles_as("new");
    running.never_left_the_group();
    running.daemon.stop();
}

/// `moontide reload`: 0 in force, 1 refused, 3 something waits for a restart.
#[test]
fn the_reload_command_tells_how_it_ended() {
    let Some(kafka) = kafka::shared() else { return };
    let running = Running::start(kafka);
    let orders = from_beginning("orders", &running.topic.name, "orders.handle");

    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 0, "nothing has changed: {printed}");
    running.project.handler("orders.lua", &version("new"));
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 0, "{printed}");
    running.handles_as("new");

    running.project.handler("orders.lua", "return {\n");
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 1, "{printed}");
    assert!(printed.contains("handlers/orders.lua:"), "{printed}");
    running.handles_as("new");

    running.project.handler("orders.lua", &version("newer"));
    running.project.config(&(orders + "\n[lua]\nworkers = 2\n"));
    let (code, printed) = running.daemon.reload();
    assert_eq!(code, 3, "{printed}");
    assert!(printed.contains("workers"), "{printed}");
    running.handles_as("newer");
    assert!(
        running.daemon.status()["waitingForRestart"]
            .to_string()
            .contains("workers")
    );

    running.never_left_the_group();
    running.daemon.stop();
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

    for save in 1..=200 {
        let began = Instant::now();
        match save % 3 {
            0 => running.project.handler("orders.lua", &sleepy(save)),
            1 => running.project.replace_handler("orders.lua", &sleepy(save)),
            // Now and then a bad one in between.
            _ => running.project.handler("orders.lua", "return {"),
        }
        let first = u64::from(save) * 20;
        running.topic.produce(
            [
                numbered(first..first + 20, 0),
                numbered(first..first + 20, 1),
            ]
            .concat(),
        );
        std::thread::sleep(Duration::from_millis(100).saturating_sub(began.elapsed()));
    }
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
