//! Offsets at the end of a partition that carry no message: what transactions took back, and their markers.

use std::time::Duration;

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{address, get, scrape};
use crate::support::kafka;
use crate::support::project::{GATED, Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// More than a partition may lag by without a word in `/ready`.
const TAKEN_BACK: std::ops::Range<u64> = 1000..1160;

const SECTIONS: &str = "[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"2s\"";

fn lag(daemon: &Daemon) -> Option<i64> {
    daemon.status()["consumers"][0]["partitions"][0]["lag"].as_i64()
}

/// Nothing waits at the end, `/ready` stays well, and what retention deletes there was no message.
fn ends_well(manual: &str, committed: impl Fn(i64) -> i64) {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("ends", 1);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler(
        "orders.lua",
        &RECORDING.replace(
            "record.line",
            "if message.value == '2' then ctx.commitOffsets(message.offset + 1) end\n  record.line",
        ),
    );
    project.config(&(from_beginning("orders", &topic.name, "orders.handle") + manual));
    topic.produce(numbered(0..3, 0));
    topic.produce_in_vain(numbered(TAKEN_BACK, 0));
    let end = topic.watermarks(0).1;
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    project.wait_for_entries("done", 3, DEADLINE);

    daemon.wait_for("nothing waits", |daemon| lag(daemon) == Some(0));
    daemon.wait_for("the offset is the group's", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(committed(end))
    });
    stays("/ready is well", Duration::from_secs(4), || {
        get(&address, "/ready").code == 200
    });

    topic.delete_records(0, end);
    topic.produce(numbered(3..5, 0));
    project.wait_for_entries("done", 5, DEADLINE);
    daemon.wait_for("nothing waits again", |daemon| lag(daemon) == Some(0));
    assert_eq!(daemon.count(|line| line.mentions("older than the log")), 0);
    assert_eq!(daemon.count(Line::is_error), 0);
    let lost = scrape(&address).get("moontide_messages_lost_total", &[]);
    assert_eq!(lost, Some(0.0));
    daemon.stop();
}

#[test]
fn offsets_without_a_message_at_the_end_do_not_hold_an_automatic_position() {
    ends_well("", |end| end);
}

#[test]
fn a_manual_commit_stays_where_it_was_asked() {
    ends_well("runConfig = { autoCommit = false }\n", |_| 3);
}

#[test]
fn a_manual_commit_of_lanes_stays_where_it_was_asked() {
    // The requests of three lanes, of which one has not asked: the position is that of its message.
    ends_well(
        "ordering = \"none\"\nrunConfig = { autoCommit = false }\n",
        |_| 0,
    );
}

/// A message before the end is not finished: the commit waits for it, and then goes to the end.
#[test]
fn the_end_does_not_pass_an_unfinished_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("unfinished", 1);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler("orders.lua", GATED);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "retry = { initialDelay = 50, maxDelay = 200 }\n"),
    );
    topic.produce(numbered(0..2, 0));
    topic.produce_in_vain(numbered(TAKEN_BACK, 0));
    let end = topic.watermarks(0).1;
    let mut daemon = Daemon::join(&project);
    daemon.wait_for("it fails", |_| project.entries_of("try").len() > 3);

    stays("nothing is committed", Duration::from_secs(3), || {
        matches!(
            kafka.committed(&project.group, &topic.name, 0),
            None | Some(0)
        )
    });
    project.open_gate();
    daemon.wait_for("committed to the end", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(end)
    });
    assert_eq!(project.values_of("done"), ["0", "1"]);
    daemon.stop();
}

/// Once the end was told, librdkafka's own position lies one offset beyond it. A rebalance pauses the partitions that
/// stay, and must not let them go on there: the log would come again, or its next message would be left out.
#[test]
fn a_rebalance_at_the_end_leaves_nothing_out_and_repeats_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("rebalanced", 4);
    let project = Project::new(kafka)
        .consumer("partitionAssigners = [\"cooperative-sticky\"]\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let each = |value: u64| (0..4).flat_map(move |at| numbered(value..value + 1, at));
    topic.produce(each(0));
    let mut first = Daemon::join(&project);
    let other = project.another_member();
    let mut seen = 4;
    first.wait_for("the first messages", |_| project.entries().len() == seen);

    for round in 1..=3 {
        let second = Daemon::join(&other);
        first.wait_for("they share", |first| partitions(first) == 2);
        topic.produce(each(2 * round - 1));
        seen += 4;
        first.wait_for("one message each", |_| project.entries().len() == seen);
        second.stop();
        first.wait_for("it has all again", |first| partitions(first) == 4);
        topic.produce(each(2 * round));
        seen += 4;
        first.wait_for("one message each", |_| project.entries().len() == seen);
    }

    first.wait_for("all is committed", |_| {
        (0..4).all(|at| kafka.committed(&project.group, &topic.name, at) == Some(7))
    });
    assert_eq!(project.entries().len(), seen, "nothing came twice");
    let resets = first.count(|line| line.mentions("offset reset"));
    assert_eq!(resets, 0, "nothing was fetched beyond the end");
    assert_eq!(first.count(Line::is_error), 0);
    first.stop();
}

fn partitions(daemon: &Daemon) -> usize {
    let status = daemon.status();
    let partitions = status["consumers"][0]["partitions"].as_array();
    partitions.map_or(0, Vec::len)
}

/// The same for a pause by the budget: the messages of another partition have made the share of the first one smaller.
#[test]
fn a_pause_at_the_end_leaves_nothing_out_and_repeats_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("paused", 3);
    let project = Project::new(kafka);
    let handler = r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          while message.partition < 2 and not io.open("gate") do tide.sleep(20) end
          record.line("done", message, ctx)
        end
        "#;
    project.handler("orders.lua", handler);
    project.config(&from_beginning("orders", &topic.name, "orders"));
    // Fewer than the share of a partition that is held up, and more than the share of each of two.
    let (first, second) = (4_300, 4_200);
    let mut daemon = Daemon::join(&project);
    let state = |daemon: &Daemon, partition: usize| {
        daemon.status()["consumers"][0]["partitions"][partition].clone()
    };
    topic.produce(numbered(0..first, 0));
    daemon.wait_for("the first partition is taken", |daemon| {
        state(daemon, 0)["inFlight"] == first
    });
    // The fetch of each message asks for the first partition too: its end is told before the last one.
    let mut third = 0;
    while third < 3 {
        topic.produce(numbered(third..third + 1, 2));
        third += 1;
        daemon.wait_for("the third partition flows", |_| {
            project.entries().len() as u64 == third
        });
    }
    topic.produce(numbered(0..second, 1));
    daemon.wait_for("the first partition is paused", |daemon| {
        topic.produce(numbered(third..third + 1, 2));
        third += 1;
        state(daemon, 0)["paused"] == "budget"
    });

    project.open_gate();
    let done = |partition: i32| -> Vec<i64> {
        let entries = project.entries_of("done");
        let of = entries.iter().filter(|one| one.partition == partition);
        of.map(|one| one.offset).collect()
    };
    let all = |count: u64| (0..count as i64).collect::<Vec<_>>();
    daemon.wait_for("all have run", |_| done(0).len() as u64 >= first);
    topic.produce(numbered(first..first + 1, 0));
    daemon.wait_for("and the next one", |_| done(0).len() as u64 > first);
    daemon.wait_for("it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(first as i64 + 1)
    });
    assert_eq!(done(0), all(first + 1));
    let resets = daemon.count(|line| line.mentions("offset reset"));
    assert_eq!(resets, 0, "nothing was fetched beyond the end");
    daemon.wait_for("so do the others", |_| done(2).len() as u64 == third);
    assert_eq!(daemon.count(Line::is_error), 0);
    daemon.stop();
}
