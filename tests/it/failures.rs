//! Handlers that fail: retry, skip, stop.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

/// Fails for the value `bad`, in each of the ways in which a handler can.
const PICKY: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value == "raises" then error("does not like it") end
  if message.value == "raises a table" then error({ reason = "does not like it" }) end
  if message.value == "returns nil" then return nil, "does not like it" end
  if message.value == "returns false" then return false, "does not like it" end
  record.line("done", message, ctx)
  return false
end
"#;

/// S11: by default again and again, and nothing after it in its partition comes first.
#[test]
fn a_failing_message_is_retried_and_holds_its_partition() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("retry", 2);
    let project = Project::new(kafka);
    project.handler(
        "retry.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "2" and ctx.attempt < 5 then error("attempt " .. ctx.attempt) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("retry", &topic.name, "retry")
            + "retry = { initialDelay = 50, jitter = 0.0 }\n"),
    );
    topic.produce([numbered(0..6, 0), numbered(10..16, 1)].concat());

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 12, DEADLINE);
    let of = |partition| {
        entries
            .iter()
            .filter(move |entry| entry.partition == partition)
    };
    assert_eq!(
        of(0).map(|entry| entry.offset).collect::<Vec<_>>(),
        [0, 1, 2, 3, 4, 5]
    );
    assert_eq!(of(1).count(), 6);
    let attempts: Vec<u32> = project
        .entries_of("try")
        .iter()
        .filter(|entry| entry.value == "2")
        .map(|entry| entry.attempt)
        .collect();
    assert_eq!(attempts, [1, 2, 3, 4, 5]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

/// S11: a message in back-off is neither committed nor lost; status names it, another partition goes on.
#[test]
fn a_blocked_partition_shows_in_the_status_and_blocks_nobody_else() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("blocked", 2);
    let project = Project::new(kafka);
    project.handler(
        "blocked.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          if message.partition == 0 then error("not this one") end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("blocked", &topic.name, "blocked")
            + "runConfig = { partitionsConsumedConcurrently = 1 }\nretry = { initialDelay = 200, maxDelay = \"1s\" }\n"),
    );
    topic.produce([numbered(0..3, 0), numbered(10..40, 1)].concat());

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 30, DEADLINE);
    daemon.wait_for("the status names the message", |daemon| {
        let Some(status) = daemon.try_status() else {
            return false;
        };
        let partitions = status["consumers"][0]["partitions"]
            .as_array()
            .cloned()
            .unwrap_or_default();
        partitions.iter().any(|partition| {
            let blocked = &partition["blocked"];
            partition["partition"] == 0
                && blocked["offset"] == 0
                && blocked["listener"] == "blocked"
                && blocked["attempt"].as_u64() > Some(1)
                && blocked["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("not this one"))
        })
    });
    let line = daemon.wait_line("the failure", |line| line.is("handler failed"));
    assert!(
        line.is_error() && line.field("topic") == topic.name && line.field("offset") == "0",
        "{line:?}"
    );
    assert!(
        line.field("error").contains("handlers/blocked.lua:4"),
        "where it was raised: {line:?}"
    );
    daemon.stop();
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0).unwrap_or(0),
        0
    );
    assert_eq!(kafka.committed(&project.group, &topic.name, 1), Some(30));
}

/// S11: `skip`: once by default, logged, and on; every way of failing counts, any other return is done.
#[test]
fn skip_gives_a_message_up_after_its_last_attempt() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("skip", 1);
    let project = Project::new(kafka);
    project.handler("picky.lua", PICKY);
    project.config(&(from_beginning("picky", &topic.name, "picky") + "onError = \"skip\"\n"));
    let bad = ["raises", "raises a table", "returns nil", "returns false"];
    topic.produce(
        ["a"]
            .iter()
            .chain(&bad)
            .chain(&["b"])
            .map(|value| Message::value(value).partition(0)),
    );

    let daemon = Daemon::start(&project);

    project.wait_for_entries("try", 6, DEADLINE);
    project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(project.values_of("done"), ["a", "b"]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

/// `retry.attempts` counts runs, the first included.
#[test]
fn skip_with_attempts_runs_so_many_times() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("attempts", 1);
    let project = Project::new(kafka);
    project.handler("picky.lua", PICKY);
    project.config(
        &(from_beginning("picky", &topic.name, "picky")
            + "onError = \"skip\"\nretry = { attempts = 3, initialDelay = 20 }\n"),
    );
    topic.produce(["raises", "good"].map(|value| Message::value(value).partition(0)));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(
        project.values_of("try"),
        ["raises", "raises", "raises", "good"]
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
}

/// `stop`: exit code 65, and the message stays for the next start.
#[test]
fn stop_ends_the_daemon_and_keeps_the_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("stop", 1);
    let project = Project::new(kafka);
    project.handler(
        "picky.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          if message.value == "2" then error("no more") end
          record.line("first", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("picky", &topic.name, "picky") + "onError = \"stop\"\n"));
    topic.produce(numbered(0..5, 0));

    let mut daemon = Daemon::spawn(&project);
    assert_eq!(daemon.exit_code(DEADLINE), 65);
    let line = daemon.wait_line("which message", |line| {
        line.is_error() && line.field("offset") == "2"
    });
    assert!(line.mentions("no more"), "{line:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
    assert_eq!(project.values_of("first"), ["0", "1"]);

    project.handler("picky.lua", RECORDING);
    project.config(&from_beginning("picky", &topic.name, "picky.handle"));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.stop();
}

/// A stack overflow, an error that is no string, an error in the error: all just failures.
#[test]
fn strange_errors_are_failures_like_others() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("strange", 1);
    let project = Project::new(kafka);
    project.handler(
        "strange.lua",
        r#"
        local record = require "record"
        local function deep(n) return 1 + deep(n + 1) end
        return function(message, ctx)
          if message.value == "deep" then deep(1) end
          if message.value == "nil" then error(nil) end
          if message.value == "function" then error(print) end
          if message.value == "tostring" then
            error(setmetatable({}, { __tostring = function() error("in the error") end }))
          end
          if message.value == "close" then
            local _ <close> = setmetatable({}, { __close = function() error("in close") end })
            error("and before")
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("strange", &topic.name, "strange") + "onError = \"skip\"\n"));
    let values = ["deep", "nil", "function", "tostring", "close", "good"];
    topic.produce(values.map(|value| Message::value(value).partition(0)));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(project.values_of("done"), ["good"]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

/// A new handler that fails too is told at once, with its traceback, and not only at the next power of two.
#[test]
fn the_first_failure_of_a_new_bundle_is_logged() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("anew", 1);
    let project = Project::new(kafka);
    let raises = |text: &str| format!("return function() error(\"{text}\") end\n");
    project.handler("anew.lua", &raises("the old bug"));
    project.config(
        &(from_beginning("anew", &topic.name, "anew")
            + "retry = { initialDelay = \"100ms\", maxDelay = \"100ms\" }\n"),
    );
    topic.produce([Message::value("1").partition(0)]);
    let mut daemon = Daemon::start(&project);
    // The next one that is logged in this bundle is the sixteenth.
    daemon.wait_line("attempt 8", |line| {
        line.is("handler failed") && line.field("attempt") == "8"
    });

    project.handler("anew.lua", &raises("the new bug"));

    let line = daemon.wait_line("the new bug", |line| {
        line.is("handler failed") && line.field("error").contains("the new bug")
    });
    assert!(line.field("traceback").contains("anew.lua"), "{line:?}");
    daemon.stop();
}
