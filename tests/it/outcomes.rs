//! What a handler may say of a message, and what a whole call may take.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// `ctx.skip` and `ctx.retry` end the call whatever is around them, and a retry counts as an attempt.
#[test]
fn a_verdict_is_final_whatever_the_handler_does_after_it() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("verdicts", 1);
    let project = Project::new(kafka);
    project.handler(
        "verdicts.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "skip" then ctx.skip("not wanted") end
          if message.value == "skip in pcall" then
            pcall(function() pcall(ctx.skip, "not wanted") end)
            error("goes on after its verdict")
          end
          if message.value == "skip in sort" then
            pcall(table.sort, { 3, 2, 1 }, function() ctx.skip("from within C") end)
            record.line("went on", message, ctx)
          end
          if message.value == "retry" and ctx.attempt < 3 then
            pcall(ctx.retry, { after = 20, reason = "not yet" })
            record.line("went on", message, ctx)
          end
          if message.value == "retry in a coroutine" and ctx.attempt == 1 then
            coroutine.wrap(function() ctx:retry() end)()
            record.line("went on", message, ctx)
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("verdicts", &topic.name, "verdicts")
            + "retry = { initialDelay = 50, jitter = 0.0 }\n"),
    );
    let values = [
        "skip",
        "skip in pcall",
        "skip in sort",
        "retry",
        "retry in a coroutine",
        "last",
    ];
    topic.produce(values.map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(
        project.values_of("done"),
        ["retry", "retry in a coroutine", "last"]
    );
    assert!(project.values_of("went on").is_empty());
    let tries = project.entries_of("try");
    let attempts = |value: &str| {
        let of = tries.iter().filter(|entry| entry.value == value);
        of.map(|entry| entry.attempt).collect::<Vec<_>>()
    };
    assert_eq!(attempts("skip"), [1]);
    assert_eq!(attempts("skip in pcall"), [1]);
    assert_eq!(attempts("retry"), [1, 2, 3]);
    assert_eq!(attempts("retry in a coroutine"), [1, 2]);
    let line = daemon.wait_line("the reason is in the log", |line| {
        line.mentions("not wanted") && line.field("topic") == topic.name
    });
    assert!(!line.is_error(), "it is what the handler wanted");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

/// Several listeners of a topic each keep their own outcome.
#[test]
fn a_verdict_is_of_one_listener() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("own", 1);
    let project = Project::new(kafka);
    project.handler(
        "own.lua",
        r#"
        local record = require "record"
        return {
          first = function(message, ctx) record.line("first", message, ctx) ctx.skip() end,
          second = function(message, ctx)
            record.line("second", message, ctx)
            if ctx.attempt == 1 then ctx.retry({ after = "10ms" }) end
            record.line("done", message, ctx)
          end,
        }
        "#,
    );
    project.config(
        &(from_beginning("first", &topic.name, "own.first")
            + &from_beginning("second", &topic.name, "own.second")),
    );
    topic.produce(numbered(0..3, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(project.values_of("first"), ["0", "1", "2"]);
    assert_eq!(project.values_of("second"), ["0", "0", "1", "1", "2", "2"]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// `limits.timeout`: a call that waits for too long is given up, and its message has failed.
#[test]
fn a_call_that_waits_for_too_long_is_cancelled() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("patience", 1);
    let project = Project::new(kafka);
    project.handler(
        "patience.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "1" then
            local guard <close> = setmetatable({}, { __close = function() record.line("closed", message, ctx) end })
            for _ = 1, 1000 do tide.sleep(100) end
            record.line("woke", message, ctx)
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("patience", &topic.name, "patience")
            + "onError = \"skip\"\nretry = { attempts = 2, initialDelay = 10 }\n\
               limits = { timeout = \"450ms\", blocking = \"400ms\" }\n"),
    );
    topic.produce(numbered(0..3, 0));

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(project.values_of("done"), ["0", "2"]);
    assert_eq!(project.values_of("try"), ["0", "1", "1", "2"]);
    assert!(project.values_of("woke").is_empty());
    daemon.wait_line("the limit is named", |line| {
        line.mentions("limits.timeout") && line.mentions("450")
    });
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// A call that runs out of memory beside others is no attempt: what took the memory may be another one. It runs again
/// alone, and only what fails then counts.
#[test]
fn what_runs_out_of_memory_beside_others_runs_again_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("hungry", 1);
    let project = Project::new(kafka).sections("[lua]\nmemory = \"24MiB\"\n");
    project.handler(
        "hungry.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "0" and ctx.attempt == 1 then
            -- Holds most of the memory while the next one runs.
            local held = string.rep("x", 9 * 1024 * 1024)
            tide.sleep(2000)
            record.line("held", message, ctx, #held)
          elseif message.value == "1" then
            tide.sleep(200)
            local needed = string.rep("y", 8 * 1024 * 1024)
            record.line("had", message, ctx, #needed)
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("hungry", &topic.name, "hungry")
            + "ordering = \"none\"\nonError = \"skip\"\n"),
    );
    topic.produce(numbered(0..4, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 4, DEADLINE);
    let mut done = project.values_of("done");
    done.sort();
    assert_eq!(done, ["0", "1", "2", "3"], "nobody was skipped");
    assert!(
        project
            .entries_of("done")
            .iter()
            .all(|entry| entry.attempt == 1),
        "nobody lost an attempt"
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(4));
}

/// A message that takes all the memory by itself fails by its own policy, and the others are not harmed.
#[test]
fn what_runs_out_of_memory_alone_has_failed() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("bomb", 1);
    let project = Project::new(kafka).sections("[lua]\nmemory = \"16MiB\"\n");
    project.handler(
        "bomb.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "2" then
            local all = {}
            while true do all[#all + 1] = string.rep("z", 100000) .. #all end
          end
          tide.sleep(100)
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("bomb", &topic.name, "bomb")
            + "ordering = \"none\"\nonError = \"skip\"\nretry = { attempts = 2, initialDelay = 10 }\n"),
    );
    topic.produce(numbered(0..6, 0));

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 5, DEADLINE);
    daemon.wait_line("the bomb is skipped", |line| {
        line.mentions("message skipped")
    });
    let bombs = project.entries_of("try");
    let bombs: Vec<u32> = bombs
        .iter()
        .filter(|entry| entry.value == "2")
        .map(|entry| entry.attempt)
        .collect();
    assert_eq!(
        bombs,
        [1, 1, 2],
        "once beside others, then alone by its policy"
    );
    assert!(
        project
            .entries_of("done")
            .iter()
            .all(|entry| entry.attempt == 1)
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

/// Where the VM has no memory left and a fresh one does not load, nothing runs, nothing is lost and nothing counts as an
/// attempt, until one loads.
#[test]
fn without_a_vm_messages_wait() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("no-vm", 1);
    let project = Project::new(kafka).sections("[lua]\nmemory = \"16MiB\"\n");
    project.handler(
        "init.lua",
        r#"
        local app = require("tide").app
        return function()
          local starts = (app.getAttr("starts") or 0) + 1
          app.setAttr("starts", starts)
          if starts == 2 or starts == 3 then error("does not start") end
        end
        "#,
    );
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "1" and ctx.attempt == 1 and (ctx.app.getAttr("starts") or 0) < 4 then
            local all = {}
            while true do all[#all + 1] = string.rep("z", 100000) .. #all end
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("orders", &topic.name, "orders") + "onError = \"skip\"\n"));
    topic.produce(numbered(0..5, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_line("it says that nothing runs", |line| {
        line.mentions("nothing runs in this worker")
    });
    project.wait_for_entries("done", 5, DEADLINE);
    assert_eq!(project.values_of("done"), ["0", "1", "2", "3", "4"]);
    assert_eq!(project.values_of("try"), ["0", "1", "1", "2", "3", "4"]);
    assert!(
        project
            .entries_of("done")
            .iter()
            .all(|entry| entry.attempt == 1)
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

/// A breaker whose probe ends by `ctx.skip` has seen a handler that works.
#[test]
fn a_breaker_closes_by_verdicts_too() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("breaker", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "0" and ctx.attempt < 4 then error("not now") end
          if message.value ~= "7" then ctx.skip("not wanted") end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "retry = { initialDelay = 120, multiplier = 1.0, jitter = 0.0 }\n\
               breaker = { window = \"1s\", minimumRuns = 2, pause = \"200ms\", probes = 2 }\n"),
    );
    topic.produce(numbered(0..8, 0));

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    daemon.wait_line("it opened", |line| line.mentions("breaker opened"));
    daemon.wait_line("it stayed open", |line| line.mentions("breaker stays open"));
    daemon.wait_line("it closed", |line| line.mentions("breaker closed"));
    assert_eq!(project.entries_of("try").len(), 3 + 8);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(8));
}

/// `ctx.deadLetter` where there is no such topic is a failure like others, and the log says what is missing.
#[test]
fn a_dead_letter_without_a_topic_is_a_failure() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("nowhere", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "0" and ctx.attempt == 1 then ctx.deadLetter("broken") end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders") + "retry = { initialDelay = 10 }\n"),
    );
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(project.values_of("try"), ["0", "0", "1"]);
    let line = daemon.wait_line("the failure", |line| line.is("handler failed"));
    assert!(line.is_error(), "{line:?}");
    assert!(line.mentions("broken") && line.mentions("no `deadLetter` topic"));
    daemon.stop();
}
