//! What is committed, and when: automatic and manual listeners.

mod unawaited;

use std::time::Duration;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning, listener};
use crate::support::wait::{DEADLINE, stays, wait_for};

const MANUAL: &str = "runConfig = { autoCommit = false }\n";

/// S7: `commitOffsets(offset)` is literal: "start here next time".
#[test]
fn a_committed_own_offset_brings_the_message_again_after_a_restart() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, topic) = restart_after_commit(kafka, "message.offset");

    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 2, DEADLINE);
    daemon.stop();

    assert_eq!(kafka.committed(&project.group, &topic, 0), Some(0));
}

/// S7: `offset + 1` moves on.
#[test]
fn a_committed_next_offset_does_not_bring_the_message_again() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, topic) = restart_after_commit(kafka, "message.offset + 1");

    let daemon = Daemon::join(&project);
    stays("nothing is handled again", Duration::from_secs(2), || {
        project.entries_of("done").len() == 1
    });
    daemon.stop();

    assert_eq!(kafka.committed(&project.group, &topic, 0), Some(1));
}

/// One message, handled once with a commit of `offset`, and the daemon stopped.
fn restart_after_commit(kafka: &kafka::Kafka, offset: &str) -> (Project, String) {
    let topic = kafka.topic("literal", 1);
    let project = Project::new(kafka);
    let handler = r#"
        local record = require "record"
        return function(message, ctx)
          local committed = ctx.commitOffsets(OFFSET)
          record.line("done", message, ctx, committed)
        end
        "#;
    project.handler("manual.lua", &handler.replace("OFFSET", offset));
    project.config(&(from_beginning("manual", &topic.name, "manual") + MANUAL));
    topic.produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    let entries = project.wait_for_entries("done", 1, DEADLINE);
    let expected = if offset.contains('+') { "1" } else { "0" };
    assert_eq!(
        entries[0].extra, expected,
        "the committed offset is returned"
    );
    stays(
        "it does not come again now",
        Duration::from_millis(500),
        || project.entries().len() == 1,
    );
    daemon.stop();
    (project, topic.name)
}

/// S7: integers and decimal strings; what is no offset raises, and says so.
#[test]
fn commit_offsets_takes_only_offsets() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("arguments", 1);
    let project = Project::new(kafka);
    project.handler(
        "arguments.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          for _, bad in ipairs { 0/0, -1, 1.5, "x", "", {}, true, 1/0 } do
            if pcall(ctx.commitOffsets, bad) then record.line("accepted", message, ctx, tostring(bad)) end
          end
          if pcall(ctx.commitOffsets) then record.line("accepted", message, ctx, "nothing") end
          local committed = ctx.commitOffsets(tostring(message.offset + 1))
          record.line("done", message, ctx, math.type(committed) .. " " .. committed)
        end
        "#,
    );
    project.config(&(from_beginning("arguments", &topic.name, "arguments") + MANUAL));
    topic.produce(numbered(0..1, 0));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(entries[0].extra, "integer 1");
    assert_eq!(project.entries_of("accepted"), []);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

/// S7: in an automatic listener it is an early commit.
#[test]
fn an_automatic_listener_may_commit_early() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("early", 1);
    let project = Project::new(kafka);
    project.handler(
        "early.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          if message.value == "1" then
            record.line("early", message, ctx, ctx.commitOffsets(message.offset + 1))
            while not io.open("gate") do tide.sleep(20) end
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&from_beginning("early", &topic.name, "early"));
    topic.produce(numbered(0..4, 0));

    let mut daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("early", 1, DEADLINE);
    assert_eq!(entries[0].extra, "2");
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0),
        Some(2),
        "while the handler still runs"
    );
    project.open_gate();
    daemon.wait_for("the automatic position takes over", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// S7: it raises when the coordinator does not answer in time, and the handler goes on.
#[test]
fn commit_offsets_raises_when_nobody_answers() {
    let Some(kafka) = kafka::Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("dead", 1);
    let project = Project::new(&kafka);
    project.handler(
        "manual.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          local done, problem = pcall(ctx.commitOffsets, message.offset + 1)
          record.line("done", message, ctx, tostring(done) .. " " .. tostring(problem))
        end
        "#,
    );
    let text = project
        .config_text(&(from_beginning("manual", &topic.name, "manual") + MANUAL))
        .replace(
            "[kafkaConfig]\n",
            "[kafkaConfig]\nrequestTimeout = \"3s\"\n",
        );
    project.write("config.toml", &text);
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(project.entries()[0].extra, "true 1");
    project.handler(
        "manual.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          while not io.open("gate") do tide.sleep(10) end
          local done, problem = pcall(ctx.commitOffsets, message.offset + 1)
          record.line("late", message, ctx, tostring(done) .. " " .. tostring(problem))
        end
        "#,
    );
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce(numbered(1..2, 0));
    project.wait_for_entries("begin", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();

    let entries = project.wait_for_entries("late", 1, DEADLINE);
    assert!(
        entries[0].extra.starts_with("false") && entries[0].extra.contains("not committed"),
        "{}",
        entries[0].extra
    );
    kafka.thaw();
    daemon.wait_for("what was asked for is committed once it can be", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(2)
    });
    daemon.stop();
}

/// S8: nothing is committed but by `commitOffsets`; everything comes again at each start from the beginning.
#[test]
fn a_manual_listener_without_commits_gets_everything_at_each_start() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("everything", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&(from_beginning("orders", &topic.name, "orders.handle") + MANUAL));
    topic.produce(numbered(0..5, 0));

    for round in 1..=2 {
        let daemon = Daemon::start(&project);
        project.wait_for_entries("done", 5 * round, DEADLINE);
        daemon.stop();
        assert_eq!(kafka.committed(&project.group, &topic.name, 0), None);
    }
}

/// S8: without fromBeginning, only what is new.
#[test]
fn a_manual_listener_without_commits_and_from_latest_gets_only_what_is_new() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("new", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&(listener("orders", &topic.name, "orders.handle") + MANUAL));
    topic.produce(numbered(0..5, 0));

    let daemon = Daemon::join(&project);
    topic.produce(numbered(5..7, 0));
    project.wait_for_entries("done", 2, DEADLINE);
    daemon.stop();
    topic.produce(numbered(7..9, 0));
    let daemon = Daemon::join(&project);
    topic.produce(numbered(9..10, 0));

    let entries = project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(
        entries[2].offset, 9,
        "what came while it was away is not new"
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), None);
}

/// S8: a manual and an automatic listener live in one process, each by its own rule.
#[test]
fn manual_and_automatic_topics_live_side_by_side() {
    let Some(kafka) = kafka::shared() else { return };
    let (manual, auto) = (kafka.topic("manual", 1), kafka.topic("auto", 1));
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.handler(
        "manual.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          if message.value == "1" then ctx.commitOffsets(message.offset + 1) end
          record.line("manual", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("manual", &manual.name, "manual")
            + MANUAL
            + &from_beginning("auto", &auto.name, "orders.handle")),
    );
    manual.produce(numbered(0..4, 0));
    auto.produce(numbered(0..4, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("manual", 4, DEADLINE);
    project.wait_for_entries("done", 4, DEADLINE);
    daemon.stop();
    assert_eq!(
        kafka.committed(&project.group, &manual.name, 0),
        Some(2),
        "the last that was asked for"
    );
    assert_eq!(kafka.committed(&project.group, &auto.name, 0), Some(4));
}

/// Promise 4: a manual commit of one listener is held back by the position of another on the same topic.
#[test]
fn a_manual_commit_never_passes_another_listeners_position() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("together", 1);
    let project = Project::new(kafka);
    let handler = r#"
        local record = require "record"
        return function(message, ctx)
          local committed = ctx.commitOffsets(message.offset + STEP)
          record.line("done", message, ctx, committed)
        end
        "#;
    project.handler("one.lua", &handler.replace("STEP", "1"));
    project.handler("literal.lua", &handler.replace("STEP", "0"));
    project.config(
        &(from_beginning("one", &topic.name, "one")
            + MANUAL
            + &from_beginning("literal", &topic.name, "literal")
            + MANUAL),
    );
    topic.produce(numbered(0..3, 0));

    let daemon = Daemon::start(&project);

    wait_for("both have run", DEADLINE, || project.entries().len() == 6);
    daemon.stop();
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0),
        Some(2),
        "the least that both have asked for"
    );
}

/// Offsets of a log may have gaps (transaction markers, compaction): the position goes over them.
#[test]
fn gaps_between_offsets_do_not_hold_the_position() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("gaps", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce_in_transactions(numbered(0..5, 0));

    let mut daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 5, DEADLINE);
    let offsets: Vec<i64> = entries.iter().map(|entry| entry.offset).collect();
    assert_eq!(offsets, [0, 2, 4, 6, 8]);
    daemon.wait_for("committed behind the last message or its marker", |_| {
        matches!(
            kafka.committed(&project.group, &topic.name, 0),
            Some(9 | 10)
        )
    });
    daemon.stop();
}

/// What a transaction took back is not handled, and holds nothing up; `readUncommitted` handles it.
#[test]
fn aborted_transactions_are_passed_over_unless_asked_for() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("aborted", 1);
    topic.produce(numbered(0..2, 0));
    topic.produce_in_vain(numbered(10..12, 0));
    topic.produce(numbered(2..4, 0));
    topic.produce_in_vain(numbered(12..13, 0));
    let end = topic.watermarks(0).1;
    for (consumer, values) in [
        ("", vec!["0", "1", "2", "3"]),
        (
            "readUncommitted = true",
            vec!["0", "1", "10", "11", "2", "3", "12"],
        ),
    ] {
        let project = Project::new(kafka).consumer(consumer);
        project.handler("orders.lua", RECORDING);
        project.config(&from_beginning("orders", &topic.name, "orders.handle"));
        let mut daemon = Daemon::start(&project);
        project.wait_for_entries("done", values.len(), DEADLINE);
        assert_eq!(project.values_of("done"), values);
        let last = project.entries().last().map(|one| one.offset + 1);
        daemon.wait_for("committed behind the last one at least", |_| {
            let committed = kafka.committed(&project.group, &topic.name, 0);
            committed >= last && committed <= Some(end)
        });
        daemon.stop();
    }
}
