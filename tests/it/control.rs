//! Control of consumers by code: pause, resume, positions.

use std::process::Command;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

mod seek; // a partition goes on at another position

const A_WHILE: Duration = Duration::from_millis(1500);

/// Pauses its topic at a message `stop`; a timer resumes it when the gate is open. `WHO` records.
const STOPS: &str = r#"
local record, tide = require "record", require "tide"
tide.every("50ms", function()
  local gate = io.open("gate")
  if not gate then return end
  gate:close()
  local consumer = tide.kafka.consumer()
  for _, one in ipairs(consumer.paused()) do consumer.resume{ topic = one.topic } end
end)
local M = {}
function M.handle(message, ctx)
  if message.value == "stop" then
    ctx.consumer.pause{ topic = ctx.topic }
  end
  record.line("done", message, ctx, "WHO")
end
return M
"#;

fn project(kafka: &kafka::Kafka, topic: &str, handler: &str, keys: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", handler);
    project.config(&(from_beginning("orders", topic, "orders.handle") + keys));
    project
}

fn done_by(project: &Project, who: &str) -> usize {
    let entries = project.entries_of("done").into_iter();
    entries.filter(|one| one.extra == who).count()
}

/// The partitions that the status shows as paused by code, each with its author.
fn paused(daemon: &Daemon) -> Vec<(i64, String)> {
    let status = daemon.status();
    let partitions = status["consumers"][0]["partitions"]
        .as_array()
        .unwrap()
        .clone();
    let paused = partitions
        .iter()
        .filter(|one| one["pausedBy"] != Value::Null);
    paused
        .map(|one| {
            let reason = one["paused"].as_str().unwrap();
            assert!(["handler", "listener"].contains(&reason), "{one}");
            let who = one["pausedBy"]["who"].as_str().unwrap().to_owned();
            (one["partition"].as_i64().unwrap(), who)
        })
        .collect()
}

#[track_caller]
fn moontide(project: &Project, arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO_BIN_EXE_moontide"))
        .args(arguments)
        .arg("--config")
        .arg(project.path("config.toml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

/// A pause holds what is taken but not begun, outlives a reload and rebalances, and shows its author. The other member
/// of the group knows nothing of it.
#[test]
fn a_paused_topic_stays_paused_over_reloads_and_rebalances() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("control-pause", 2);
    let first = STOPS.replace("WHO", "first");
    let project = project(kafka, &topic.name, &first, "");
    let values = ["a", "stop", "b", "c"];
    let mut daemon = Daemon::join(&project);
    topic.produce(values.map(|value| Message::value(value).partition(0)));
    project.wait_for_entries("done", 2, DEADLINE);
    topic.produce(numbered(0..5, 1));
    stays("it is paused", A_WHILE, || {
        project.entries_of("done").len() == 2
    });
    let who = "listener `orders`, handlers/orders.lua:13".to_owned();
    assert_eq!(paused(&daemon), [(0, who.clone()), (1, who.clone())]);
    let shown = moontide(&project, &["status"]);
    let line = format!("paused  {0}[0], {0}[1] for ", topic.name);
    assert!(shown.contains(&line) && shown.contains(&who), "{shown}");

    project.replace_handler("orders.lua", &format!("{first}\n"));
    daemon.wait_line("a reload", |line| line.is("reloaded"));
    stays("a reload", A_WHILE, || {
        project.entries_of("done").len() == 2
    });

    let place = project.another_member();
    place.handler("orders.lua", &STOPS.replace("WHO", "second"));
    let mut second = Daemon::join(&place);
    second.wait_for("the other member handles its part", |_| {
        done_by(&project, "second") > 0
    });
    let by_second = done_by(&project, "second");
    second.stop();
    daemon.wait_for("both partitions are here", |daemon| {
        paused(daemon).len() == 2
    });
    topic.produce([numbered(5..8, 0), numbered(5..8, 1)].concat());
    stays("rebalances", A_WHILE, || {
        project.entries_of("done").len() == 2 + by_second
    });

    project.open_gate();
    project.wait_for_entries("done", 15, DEADLINE);
    assert!(paused(&daemon).is_empty());
    daemon.wait_for("all is committed", |_| {
        (0..2).all(|number| {
            kafka.committed(&project.group, &topic.name, number) == Some([7, 8][number as usize])
        })
    });
    daemon.stop();
}

/// An operator and code pause independently: neither undoes the other.
#[test]
fn an_operator_and_code_do_not_undo_each_others_pause() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("control-operator", 1);
    let project = project(kafka, &topic.name, &STOPS.replace("WHO", "it"), "");
    let mut daemon = Daemon::join(&project);
    topic.produce(["stop", "a"].map(|value| Message::value(value).partition(0)));
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.wait_for("it is paused", |daemon| paused(daemon).len() == 1);

    moontide(&project, &["pause", "orders"]);
    let answer = moontide(&project, &["resume", "orders"]);
    let kept = format!(
        "{}[0] (by listener `orders`, handlers/orders.lua:",
        topic.name
    );
    assert!(
        answer.contains("except in partitions that code has paused") && answer.contains(&kept),
        "{answer}"
    );
    stays("code has paused", A_WHILE, || {
        project.entries_of("done").len() == 1
    });

    moontide(&project, &["pause", "orders"]);
    project.open_gate();
    daemon.wait_for("code has resumed", |daemon| paused(daemon).is_empty());
    stays("an operator has paused", A_WHILE, || {
        project.entries_of("done").len() == 1
    });
    let answer = moontide(&project, &["resume", "orders"]);
    assert!(answer.contains("takes messages again\n"), "{answer}");
    project.wait_for_entries("done", 2, DEADLINE);
    daemon.stop();
}

/// `start` of init.lua pauses a topic before its first message; positions are those that the status shows.
#[test]
fn a_topic_is_paused_from_the_start_and_its_positions_are_told() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("control-init", 1);
    let handler = r#"
    local record = require "record"
    local M = {}
    function M.handle(message, ctx)
      local consumer = ctx.consumer
      local numbers = { consumer.position(), tostring(consumer.committed()), consumer.lag() }
      record.line("done", message, ctx, table.concat(numbers, " "))
    end
    return M
    "#;
    let project = project(kafka, &topic.name, handler, "");
    project.handler(
        "init.lua",
        &r#"
        local record, tide = require "record", require "tide"
        tide.every("50ms", function()
          local consumer = tide.kafka.consumer()
          local ok, err = pcall(consumer.lag, { topic = "TOPIC", partition = 0 })
          if not ok then
            assert(tide.error.is(err, "notFound"), err)
          elseif not io.open("gate") then
            record.note("lag", err)
          else
            consumer:resume{ topic = "TOPIC" }
          end
        end)
        return function()
          local consumer = tide.kafka.consumer()
          consumer.pause{ topic = "TOPIC" }
          local ok, err = pcall(consumer.pause, { topic = "TOPIC", partition = 0 })
          record.note("not yet", tide.error.is(err, "notFound"))
        end
        "#
        .replace("TOPIC", &topic.name),
    );
    topic.produce(numbered(0..3, 0));

    let mut daemon = Daemon::join(&project);
    daemon.wait_for("the lag is told", |_| {
        project.entries_of("lag").iter().any(|one| one.extra == "3")
    });
    stays("it is paused", A_WHILE, || {
        project.entries_of("done").is_empty()
    });
    // A new end is known although nothing is fetched.
    topic.produce(numbered(3..5, 0));
    daemon.wait_for("the lag grows", |_| {
        project.entries_of("lag").iter().any(|one| one.extra == "5")
    });
    project.open_gate();
    let done = project.wait_for_entries("done", 5, DEADLINE);
    assert_eq!(project.entries_of("not yet")[0].extra, "true");
    for (offset, one) in (0..).zip(&done) {
        let [position, committed, lag]: [&str; 3] =
            one.extra.split(' ').collect::<Vec<_>>().try_into().unwrap();
        let (position, lag): (i64, i64) = (position.parse().unwrap(), lag.parse().unwrap());
        // The worker reports a moment later than a message ends.
        assert!(
            position <= offset && (5 - offset..=5 - position).contains(&lag),
            "{done:?}"
        );
        // The start is committed at once, the positions later.
        let committed = committed.parse::<i64>();
        assert!(
            committed.is_ok_and(|committed| committed <= offset),
            "{done:?}"
        );
    }
    daemon.stop();
}

/// A pause also holds retries, and messages behind a lane that runs; calls go on.
#[test]
fn a_paused_partition_begins_no_retry() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("control-retry", 1);
    let handler = r#"
    local record, tide = require "record", require "tide"
    tide.every("50ms", function()
      if io.open("gate") then tide.kafka.consumer().resume{ topic = "TOPIC" } end
    end)
    local M = {}
    function M.handle(message, ctx)
      record.line("try", message, ctx)
      if message.value == "stop" then
        ctx.consumer.pause()
        ctx.consumer.pause{ partition = ctx.partition }
        tide.sleep(100)
        record.line("slept", message, ctx)
        if ctx.attempt == 1 then error("once") end
      end
      record.line("done", message, ctx)
    end
    return M
    "#
    .replace("TOPIC", &topic.name);
    let keys = "ordering = \"none\"\nretry = { initialDelay = 10 }\n";
    let project = project(kafka, &topic.name, &handler, keys);
    topic.produce(["stop", "a", "b"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    daemon.wait_line("the call goes on", |line| line.is("handler failed"));
    let tries = project.entries_of("try").len();
    assert_eq!(project.entries_of("slept").len(), 1);
    stays("no retry", A_WHILE, || {
        project.entries_of("try").len() == tries
    });
    project.open_gate();
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.stop();
}
