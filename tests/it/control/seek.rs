//! `seek`: a partition's epoch ends, and a new one begins at another position.

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{address, scrape};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

use super::{A_WHILE, project};

/// Seeks once, at the message `seek`, by the given code; before that it records.
fn once(code: &str) -> String {
    r#"
    local record, tide = require "record", require "tide"
    local M = {}
    function M.handle(message, ctx)
      record.line("done", message, ctx)
      if message.value == "seek" and not tide.app.getAttr("sought") then
        tide.app.setAttr("sought", true)
        CODE
      end
    end
    return M
    "#
    .replace("CODE", code)
}

fn values(project: &Project) -> String {
    project.values_of("done").join(" ")
}

/// The line of the one seek: offset, position, number passed over.
#[track_caller]
fn sought(daemon: &mut Daemon) -> (String, String, String) {
    let is_it = |line: &Line| line.is("seek: the partition goes on at another position");
    let line = daemon.wait_line("the seek", is_it);
    assert_eq!(daemon.count(is_it), 1);
    assert!(
        line.field("by").contains("handlers/orders.lua:"),
        "{line:?}"
    );
    (
        line.field("offset"),
        line.field("position"),
        line.field("passed_over"),
    )
}

/// A deferral of the epoch that ends has no say any more, and its message runs again from the new position on.
#[test]
fn a_seek_gives_deferred_messages_up() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-deferred", 1);
    let handler = r#"
    local record, tide = require "record", require "tide"
    local kept = {}
    local M = {}
    function M.handle(message, ctx)
      if tide.app.getAttr("sought") then
        if message.value == "seek" then
          for _, one in ipairs(kept) do record.note("counts", tostring(one:done())) end
        end
        record.line("done", message, ctx)
      elseif message.value == "seek" then
        tide.app.setAttr("sought", true)
        ctx.consumer.seek{ offset = 1 }
      else
        kept[#kept + 1] = ctx.defer{ timeout = "10m" }
      end
    end
    return M
    "#;
    let project = project(kafka, &topic.name, handler, "ordering = \"partition\"\n");
    topic.produce(["a", "b", "seek", "c"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(values(&project), "b seek c");
    let counts = project.entries_of("counts");
    let counts: Vec<&str> = counts.iter().map(|one| one.extra.as_str()).collect();
    assert_eq!(counts, ["false", "false"]);
    assert!(
        project
            .entries_of("done")
            .iter()
            .all(|one| one.attempt == 1)
    );
    // The seek passes the first message over.
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// What follows in the batch does not run before the new position; each message runs again from there.
#[test]
fn a_seek_back_repeats_messages_and_commits_its_position() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-back", 1);
    // The last word counts, although the call fails after it.
    let code =
        "ctx.consumer.seek{ offset = 0 } ctx.consumer.seek{ offset = \"1\" } error(\"once\")";
    let project = project(kafka, &topic.name, &once(code), "ordering = \"key\"\n");
    topic.produce(["a", "b", "seek", "c"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 6, DEADLINE);
    assert_eq!(values(&project), "a b seek b seek c");
    assert_eq!(sought(&mut daemon), ("1".into(), "2".into(), "0".into()));
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// The position is committed although no message follows; what is passed over is counted.
#[test]
fn a_seek_to_the_end_passes_messages_over() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-end", 1);
    let project =
        Project::new(kafka).sections("[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"");
    project.handler(
        "orders.lua",
        &once("ctx.consumer.seek{ topic = ctx.topic, partition = ctx.partition, offset = -1 }"),
    );
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(["a", "seek", "b", "c", "d"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    assert_eq!(sought(&mut daemon), ("5".into(), "2".into(), "3".into()));
    daemon.wait_for("the position is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(5)
    });
    let passed_over = [("consumer", "default")];
    let samples = scrape(&address);
    assert_eq!(
        samples.get("moontide_messages_passed_over_total", &passed_over),
        Some(3.0)
    );
    topic.produce([Message::value("e").partition(0)]);
    project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(values(&project), "a seek e");
    daemon.stop();
}

/// The commit of the position must not look like the start of a new group: then a partition that is added at this
/// moment would begin at its end.
#[test]
fn a_partition_that_is_added_after_a_seek_begins_at_its_beginning() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-added", 1);
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"");
    project.handler(
        "orders.lua",
        &once("ctx.consumer.seek{ topic = ctx.topic, partition = ctx.partition, offset = -1 }"),
    );
    let listener = from_beginning("orders", &topic.name, "orders.handle");
    project.config(&listener.replace("fromBeginning = true", "fromBeginning = false"));

    let mut daemon = Daemon::join(&project);
    topic.produce(["a", "seek", "b"].map(|value| Message::value(value).partition(0)));
    sought(&mut daemon);
    daemon.wait_for("the position is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
    });
    topic.add_partitions(2);
    topic.produce([Message::value("added").partition(1)]);
    project.wait_for_entries("done", 3, DEADLINE);
    assert_eq!(values(&project), "a seek added");
    daemon.stop();
}

/// A listener with manual commits: the seek commits nothing.
#[test]
fn a_seek_of_a_manual_listener_commits_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-manual", 1);
    let code = "ctx.commitOffsets(message.offset + 1) ctx.consumer.seek{ offset = \"beginning\" }";
    let keys = "runConfig = { autoCommit = false }\n";
    let project = project(kafka, &topic.name, &once(code), keys);
    topic.produce(["a", "seek", "b"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 5, DEADLINE);
    assert_eq!(values(&project), "a seek a seek b");
    assert_eq!(sought(&mut daemon).0, "0");
    stays("nothing is committed", A_WHILE, || {
        kafka.committed(&project.group, &topic.name, 0) == Some(2)
    });
    daemon.stop();
}

/// Calls of other lanes end first, or are given up at the deadline; a timer seeks by time, beyond the log too.
#[test]
fn a_timer_seeks_and_running_calls_end_first() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-timer", 1);
    let handler = r#"
    local record, tide = require "record", require "tide"
    tide.every("50ms", function()
      local gate = io.open("gate")
      if not gate or tide.app.getAttr("sought") then return end
      tide.app.setAttr("sought", true)
      local consumer = tide.kafka.consumer()
      consumer.seek{ topic = "TOPIC", partition = 0, timestamp = 2000 }
      local ok, err = pcall(consumer.seek, { topic = "TOPIC", partition = 9, offset = 0 })
      record.note("refused", tide.error.is(err, "notFound"))
    end)
    local M = {}
    function M.handle(message, ctx)
      local sought = tide.app.getAttr("sought")
      record.line("begin", message, ctx)
      if message.value == "slow" and not sought then
        while not tide.app.getAttr("sought") do tide.sleep(10) end
        tide.sleep(200)
      elseif message.value == "hangs" and not sought then
        tide.sleep("1h")
      end
      record.line("done", message, ctx)
    end
    return M
    "#
    .replace("TOPIC", &topic.name);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1s\"");
    project.handler("orders.lua", &handler);
    project.config(
        &(crate::support::project::from_beginning("orders", &topic.name, "orders.handle")
            + "ordering = \"none\"\n"),
    );
    let at = |value: &str, ms: i64| Message {
        timestamp: Some(ms),
        ..Message::value(value).partition(0)
    };
    topic.produce([
        at("a", 1000),
        at("slow", 2000),
        at("hangs", 3000),
        at("b", 4000),
    ]);

    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 4, DEADLINE);
    project.open_gate();
    project.wait_for_entries("done", 6, DEADLINE);
    let done = project.values_of("done");
    assert_eq!(done[2], "slow", "it ends before the new position: {done:?}");
    let mut rest = done[3..].to_vec();
    rest.sort();
    assert_eq!(rest, ["b", "hangs", "slow"]);
    assert_eq!(project.entries_of("refused")[0].extra, "true");
    let line = daemon.wait_line("the seek", |line| {
        line.mentions("goes on at another position")
    });
    assert_eq!(line.field("offset"), "1");
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// An offset that the log does not have would be reset by the client to the beginning.
#[test]
fn a_seek_beyond_the_log_goes_to_its_end() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("seek-beyond", 1);
    let project = project(
        kafka,
        &topic.name,
        &once("ctx.consumer.seek{ offset = 1000000 }"),
        "",
    );
    topic.produce(["a", "seek", "b"].map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::join(&project);
    let line = daemon.wait_line("a warning", |line| line.mentions("seek beyond the log"));
    assert_eq!(
        (line.field("offset"), line.field("requested")),
        ("3".into(), "1000000".into())
    );
    topic.produce(numbered(0..2, 0));
    project.wait_for_entries("done", 4, DEADLINE);
    assert_eq!(values(&project), "a seek 0 1");
    daemon.stop();
}
