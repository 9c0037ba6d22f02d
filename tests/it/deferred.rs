//! Deferred messages: their handlers return, and later code finishes them.

use std::collections::BTreeSet;

use crate::keys::metadata::finished;
use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

/// Each value says what becomes of its message. `late` and `lost` have no answer at their first attempt.
const EACH: &str = r#"
local record, tide = require "record", require "tide"
local open, kept = {}, {}

tide.every("50ms", function()
  collectgarbage()
  local some = open
  open = {}
  for _, one in ipairs(some) do
    if one.fails then
      assert(one.deferral:fail("the answer was " .. one.fails))
    else
      assert(one.deferral:done())
      record.note("answered", tostring(one.deferral:done()))
    end
  end
end, { each = "worker" })

return function(message, ctx)
  record.line("try", message, ctx)
  local value, deferral = message.value, ctx.defer{ timeout = "300ms" }
  if value == "dropped" and ctx.attempt == 1 then return end
  if value == "late" and ctx.attempt == 1 then
    kept[#kept + 1] = deferral
    return
  end
  if value == "raises" and ctx.attempt == 1 then
    kept[#kept + 1] = deferral
    error("no")
  end
  open[#open + 1] = { deferral = deferral, fails = value == "bad" and "no" or nil }
end
"#;

fn project(kafka: &Kafka, topic: &str, handler: &str, listener: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", handler);
    project.config(&(from_beginning("orders", topic, "orders") + listener));
    project
}

fn wait_for_commit(kafka: &Kafka, project: &Project, topic: &str, offset: i64) {
    wait_for("all is committed", DEADLINE, || {
        kafka.committed(&project.group, topic, 0) == Some(offset)
    });
}

/// Done, without an answer, collected, failed, raised: each by its policy, and the dead letter has all of its message.
#[test]
fn later_code_decides_what_becomes_of_a_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred", 1);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), 1);
    let bad = Message::value("bad")
        .key("k")
        .header("h", Some(b"1"))
        .partition(0);
    let others = ["plain", "late", "dropped", "raises", "last"];
    let others = others.map(|value| Message::value(value).partition(0));
    topic.produce([bad].into_iter().chain(others).collect::<Vec<_>>());
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\nbreaker = false\n\
                    deadLetter = { topic = \"{topic}.dead\" }\n";
    let project = project(kafka, &topic.name, EACH, listener);
    let daemon = Daemon::start(&project);
    wait_for_commit(kafka, &project, &topic.name, 6);

    let mut tried: Vec<_> = project
        .entries_of("try")
        .into_iter()
        .map(|one| format!("{}{}", one.value, one.attempt))
        .collect();
    tried.sort();
    let expected = "bad1 bad2 dropped1 dropped2 last1 late1 late2 plain1 raises1 raises2";
    assert_eq!(tried.join(" "), expected);
    let answered = project.entries_of("answered");
    assert_eq!(answered.len(), 5);
    assert!(answered.iter().all(|one| one.extra == "false"), "twice");

    let letters = kafka.read(&dead.name, 1, 1);
    let letter = &letters[0];
    assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(letter.value.as_deref(), Some(&b"bad"[..]));
    assert_eq!(letter.header("h"), "1");
    assert_eq!(letter.header("moontide-origin-offset"), "0");
    assert_eq!(letter.header("moontide-attempts"), "2");
    assert_eq!(letter.header("moontide-error"), "the answer was no");
    daemon.stop();
}

/// By a retry topic: its record is that of the message, and its run there may be deferred, too.
#[test]
fn a_failed_deferral_goes_through_a_retry_topic() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-retry", 1);
    topic.produce(["late", "plain"].map(|value| Message::value(value).key("k").partition(0)));
    let listener = "retry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n\
                    deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                    breaker = false\n";
    for consumer in ["", "groupProtocol = \"consumer\""] {
        let project = Project::new(kafka).consumer(consumer);
        project.handler("orders.lua", EACH);
        project.config(&(from_beginning("orders", &topic.name, "orders") + listener));
        let daemon = Daemon::start(&project);
        wait_for_commit(kafka, &project, &topic.name, 2);
        project.wait_for_entries("answered", 2, DEADLINE);
        let tried = project.entries_of("try").into_iter();
        let mut tried: Vec<_> = tried
            .map(|one| format!("{}{}@{}", one.value, one.attempt, one.offset))
            .collect();
        tried.sort();
        assert_eq!(tried.join(" "), "late1@0 late2@0 plain1@1");
        daemon.stop();
    }
}

/// Each message stays open until the gate is.
const GATE: &str = r#"
local record, tide = require "record", require "tide"
local open = {}
tide.every("50ms", function()
  local gate = io.open("gate")
  if not gate then return end
  gate:close()
  for _, one in ipairs(open) do one:done() end
  open = {}
end, { each = "worker" })
local M = {}
function M.handle(message, ctx)
  record.line("deferred", message, ctx)
  open[#open + 1] = ctx.defer{ timeout = "10m" }
end
return M
"#;

/// The bound is by partition: the other one goes on. What waits is shown, and where it was deferred.
#[test]
fn a_partition_waits_at_its_bound_and_the_status_says_so() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-bound", 2);
    topic.produce([numbered(0..8, 0), numbered(8..10, 1)].concat());
    let project = Project::new(kafka);
    project.handler("orders.lua", GATE);
    let listener = from_beginning("orders", &topic.name, "orders.handle");
    project.config(&(listener + "maxDeferred = 3\n"));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("deferred", 5, DEADLINE);
    daemon.wait_for("the status has the partition that waits", |daemon| {
        let status = daemon.status();
        let partitions = &status["consumers"][0]["partitions"];
        let error = partitions[0]["blocked"]["error"].as_str();
        error.is_some_and(|error| error.starts_with("3 messages are deferred (maxDeferred)"))
            && partitions[1]["blocked"].is_null()
            && partitions[1]["deferred"]["messages"] == 2
    });
    let deferred = &daemon.status()["consumers"][0]["partitions"][0]["deferred"];
    assert_eq!(
        (&deferred["messages"], &deferred["offset"]),
        (&3.into(), &0.into())
    );
    assert_eq!(deferred["at"], "handlers/orders.lua:14");
    assert_eq!(deferred["holdsPosition"], true);
    let shown = moontide(&["status", "--config"], &project.path("config.toml"));
    let shown = String::from_utf8_lossy(&shown.stdout).into_owned();
    let line = format!("3 messages of {}[0]; the first, at offset 0", topic.name);
    assert!(shown.contains(&line), "{shown}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(0));

    project.open_gate();
    project.wait_for_entries("deferred", 10, DEADLINE);
    wait_for_commit(kafka, &project, &topic.name, 8);
    daemon.stop();
}

/// The offset waits for what is deferred, and what finishes beyond it does not run again: the partition is one lane.
#[test]
fn a_crash_repeats_what_is_deferred_and_nothing_else() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-crash", 1);
    topic.produce(numbered(0..50, 0));
    let handler = r#"
local record, tide = require "record", require "tide"
local kept = {}
return function(message, ctx)
  record.line("run", message, ctx)
  if tonumber(message.value) % 10 == 3 and not io.open("gate") then
    kept[#kept + 1] = ctx.defer{ timeout = "10m" }
  end
end
"#;
    let listener = "runConfig = { autoCommitInterval = \"50ms\" }\n";
    let project = project(kafka, &topic.name, handler, listener);
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("run", 50, DEADLINE);
    daemon.wait_for("the metadata has what is finished", |_| {
        let committed = kafka.committed_with(&project.group, &topic.name, 0);
        let beyond = [4..13, 14..23, 24..33, 34..43, 44..50];
        committed.is_some_and(|(offset, text)| offset == 3 && finished(&text) == beyond)
    });
    daemon.kill();
    project.open_gate();
    let daemon = Daemon::start(&project);
    wait_for_commit(kafka, &project, &topic.name, 50);
    let again: Vec<_> = project.values_of("run").split_off(50);
    assert_eq!(again, ["3", "13", "23", "33", "43"]);
    daemon.stop();
}

/// Sums that a timer sends. A message is done when a sum with it is written.
const SUMS: &str = r#"
local tide = require "tide"
local values, open = {}, {}
local function flush()
  if #open == 0 then return end
  local text, some = table.concat(values, " "), open
  values, open = {}, {}
  local ok, err = pcall(tide.kafka.send, { topic = "@OUT@", value = text })
  for _, one in ipairs(some) do
    if ok then one:done() else one:fail(err) end
  end
end
tide.every("100ms", flush, { each = "worker" })
tide.on("revoked", flush)
return function(message, ctx)
  values[#values + 1] = message.value
  open[#open + 1] = ctx.defer{ timeout = "1m" }
end
"#;

/// `MOONTIDE_DEFERRED=1000000` has more messages.
#[test]
fn an_aggregation_loses_nothing_over_kills_and_rebalances() {
    let Some(kafka) = kafka::shared() else { return };
    let count = std::env::var("MOONTIDE_DEFERRED");
    let count: u64 = count.map_or(20_000, |count| count.parse().unwrap());
    let topic = kafka.topic("deferred-sums", 2);
    let out = kafka.topic(&format!("{}-out", topic.name), 1);
    let half = count / 2;
    topic.produce(numbered(0..half, 0));
    topic.produce(numbered(half..count, 1));
    let handler = SUMS.replace("@OUT@", &out.name);
    let listener = "runConfig = { autoCommitInterval = \"50ms\" }\n";
    let project = project(kafka, &topic.name, &handler, listener);
    let committed = || -> i64 {
        let of = |number| kafka.committed(&project.group, &topic.name, number);
        of(0).unwrap_or(0) + of(1).unwrap_or(0)
    };
    let mut daemon = Daemon::start(&project);
    for kill in 1..=3 {
        let some = count as i64 * kill / 8;
        wait_for("some is committed", 4 * DEADLINE, || committed() >= some);
        daemon.kill();
        daemon = Daemon::start(&project);
    }
    // An orderly rebalance, too: what an observer writes is committed.
    let place = project.another_member();
    let second = Daemon::start(&place);
    wait_for("all is committed", 4 * DEADLINE, || {
        committed() == count as i64
    });
    second.stop();
    daemon.stop();
    let mut seen: BTreeSet<u64> = BTreeSet::new();
    let mut sent = 0;
    let (first, end) = out.watermarks(0);
    for record in kafka.read(&out.name, 1, (end - first) as usize) {
        let text = String::from_utf8(record.value.unwrap()).unwrap();
        let values = text.split(' ').map(|value| value.parse::<u64>().unwrap());
        for value in values {
            sent += 1;
            seen.insert(value);
        }
    }
    assert_eq!(seen.len() as u64, count, "lost; {sent} are in sums");
}

/// Without `shutdown` they run again in the new VM, and lose no attempt; what `shutdown` finishes does not.
#[test]
fn a_reload_runs_again_what_is_deferred() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-reload", 1);
    topic.produce(numbered(0..300, 0));
    let handler = r#"
local record, tide = require "record", require "tide"
local M = { kept = {} }
function M.handle(message, ctx)
  record.line("deferred", message, ctx)
  M.kept[#M.kept + 1] = ctx.defer{ timeout = "10m" }
end
function M.finish()
  for index = 1, #M.kept, 3 do record.note("finished", M.kept[index]:done()) end
end
return M
"#;
    let project = Project::new(kafka);
    project.handler("orders.lua", handler);
    let init = "return { shutdown = function() require(\"orders\").finish() end }";
    project.handler("init.lua", init);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("deferred", 300, DEADLINE);
    project.handler("init.lua", "return {}");
    project.replace_handler("orders.lua", RECORDING);
    daemon.hup();
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    let done = project.wait_for_entries("done", 200, DEADLINE);
    wait_for_commit(kafka, &project, &topic.name, 300);
    assert!(
        done.iter()
            .all(|one| one.attempt == 1 && one.offset % 3 != 0)
    );
    assert_eq!(project.entries_of("finished").len(), 100);
    daemon.stop();
}

/// The next owner gets what is deferred, and no answer counts in the former one.
#[test]
fn a_partition_that_moves_takes_its_deferred_messages_along() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-move", 2);
    topic.produce([numbered(0..5, 0), numbered(5..10, 1)].concat());
    let handler = r#"
local record, tide = require "record", require "tide"
local open = {}
tide.every("50ms", function()
  local gate = io.open("gate")
  if not gate then return end
  gate:close()
  for _, one in ipairs(open) do record.note("counts", one:done()) end
  open = {}
end, { each = "worker" })
return function(message, ctx)
  record.line("deferred", message, ctx)
  open[#open + 1] = ctx.defer{ timeout = "10m" }
end
"#;
    let consumer = "partitionAssigners = [\"cooperative-sticky\"]\nheartbeatInterval = \"300ms\"";
    let project = Project::new(kafka).consumer(consumer);
    project.handler("orders.lua", handler);
    project.config(&from_beginning("orders", &topic.name, "orders"));
    let first = Daemon::join(&project);
    project.wait_for_entries("deferred", 10, DEADLINE);
    let place = project.another_member();
    let second = Daemon::start(&place);
    project.wait_for_entries("deferred", 15, DEADLINE);
    project.open_gate();
    project.wait_for_entries("counts", 10, DEADLINE);
    let counts = project.entries_of("counts");
    assert_eq!(counts.iter().filter(|one| one.extra == "true").count(), 5);
    place.open_gate();
    for number in 0..2 {
        wait_for("the partition is committed", DEADLINE, || {
            kafka.committed(&project.group, &topic.name, number) == Some(5)
        });
    }
    first.stop();
    second.stop();
}

/// One of them defers, the other one does not: the message waits for both.
#[test]
fn a_message_is_finished_when_every_listener_has_finished_it() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-two", 1);
    topic.produce(numbered(0..4, 0));
    let project = Project::new(kafka);
    project.handler("orders.lua", GATE);
    project.handler("others.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + &from_beginning("others", &topic.name, "others.handle")),
    );
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("deferred", 4, DEADLINE);
    project.wait_for_entries("done", 4, DEADLINE);
    let skip = [
        "skip",
        &topic.name,
        "0",
        "3",
        "--listener",
        "orders",
        "--config",
    ];
    let skipped = moontide(&skip, &project.path("config.toml"));
    assert!(skipped.status.success(), "{skipped:?}");
    daemon.wait_for("three are deferred", |daemon| {
        let status = daemon.status();
        status["consumers"][0]["partitions"][0]["deferred"]["messages"] == 3
    });
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(0));
    project.open_gate();
    wait_for_commit(kafka, &project, &topic.name, 4);
    assert_eq!(project.entries_of("done").len(), 4);
    daemon.stop();
}

/// A message that has to run again, and that retention has deleted, is told of, counted and passed.
#[test]
fn a_deferred_message_that_the_log_has_lost_is_an_error() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deferred-lost", 1);
    topic.produce(numbered(0..4, 0));
    let handler = r#"
local record, tide = require "record", require "tide"
local open = {}
tide.every("50ms", function()
  local gate = io.open("gate")
  if not gate then return end
  gate:close()
  for _, one in ipairs(open) do one:fail("too late") end
  open = {}
end, { each = "worker" })
return function(message, ctx)
  record.line("deferred", message, ctx)
  if ctx.attempt == 1 then open[#open + 1] = ctx.defer{ timeout = "10m" } end
end
"#;
    let listener = "retry = { initialDelay = \"5ms\" }\n";
    let project = project(kafka, &topic.name, handler, listener);
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("deferred", 4, DEADLINE);
    topic.delete_records(0, 3);
    project.open_gate();
    wait_for_commit(kafka, &project, &topic.name, 4);
    let lost = |line: &crate::support::daemon::Line| {
        line.is_error()
            && line.mentions("deferred message lost")
            && line.field("topic") == topic.name
            && line.field("partition") == "0"
    };
    daemon.wait_for("each has its line", |daemon| daemon.count(lost) == 3);
    // The last one is there still, and has run again.
    let again = project.wait_for_entries("deferred", 5, DEADLINE);
    assert_eq!((again[4].offset, again[4].attempt), (3, 2));
    daemon.stop();
}

/// Without a broker nothing can be fetched again: the messages wait, the status says why, and no attempt is lost.
#[test]
fn messages_that_cannot_be_fetched_again_wait_for_the_brokers() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("deferred-away", 1);
    topic.produce(numbered(0..3, 0));
    let handler = r#"
local record, tide = require "record", require "tide"
local open = {}
tide.every("50ms", function()
  local gate = io.open("gate")
  if not gate then return end
  gate:close()
  for _, one in ipairs(open) do one:fail("not yet") end
  open = {}
end, { each = "worker" })
return function(message, ctx)
  if ctx.attempt == 1 then open[#open + 1] = ctx.defer{ timeout = "10m" } end
  record.line("run", message, ctx)
end
"#;
    let project = Project::new(&kafka).consumer("sessionTimeout = \"45s\"");
    project.handler("orders.lua", handler);
    let listener = from_beginning("orders", &topic.name, "orders");
    project.config(&(listener + "retry = { initialDelay = \"5ms\" }\n"));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("run", 3, DEADLINE);
    kafka.stop();
    project.open_gate();
    daemon.wait_for("the status says why", |daemon| {
        let status = daemon.status();
        let error = status["consumers"][0]["partitions"][0]["blocked"]["error"].clone();
        let error = error.as_str().unwrap_or_default();
        error.starts_with("deferred messages have to run again, and are not fetched: ")
    });
    assert_eq!(project.entries_of("run").len(), 3);
    kafka.start();
    let runs = project.wait_for_entries("run", 6, 2 * DEADLINE);
    assert!(runs[3..].iter().all(|one| one.attempt == 2));
    wait_for("all is committed", 2 * DEADLINE, || {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
    });
    daemon.stop();
}
