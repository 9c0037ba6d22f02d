//! Functions that run by the clock: `tide.every` and `tide.after`.

use std::collections::BTreeSet;

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{address, scrape};
use crate::support::kafka;
use crate::support::project::{Entry, Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

const PERIOD_MS: i64 = 500;

/// A file with timers, behind so many lines; `event` names its ticks.
fn jobs(event: &str, lines: usize) -> String {
    "\n".repeat(lines)
        + &r#"
        local record, tide = require "record", require "tide"
        local vm = tostring({})
        tide.every("500ms", function() record.note("EVENT", tide.now()) end)
        tide.every("500ms", function() record.note("EVENT-worker", vm) end, { each = "worker" })
        tide.after("100ms", function() record.note("EVENT-once", vm) end)
        return {}
        "#
        .replace("EVENT", event)
}

/// `handlers/init.lua` loads the file of the timers.
fn project(kafka: &kafka::Kafka, topic: &str, sections: &str) -> Project {
    let project = Project::new(kafka).sections(sections);
    project.handler("init.lua", "require \"jobs\"\n");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", topic, "orders.handle"));
    project
}

fn missed(daemon: &Daemon) -> i64 {
    let lines = daemon.lines();
    let lines = lines
        .iter()
        .filter(|line| line.field("message").starts_with("ticks missed"));
    lines
        .map(|line| line.field("missed").parse::<i64>().unwrap())
        .sum()
}

fn times(entries: &[Entry]) -> Vec<i64> {
    entries
        .iter()
        .map(|one| one.extra.parse().unwrap())
        .collect()
}

/// Four workers, three reloads that move the lines, and a rebalance: the ticks of the process and the missed ones are
/// together one a period.
#[test]
fn a_timer_of_the_process_ticks_once_a_period_whatever_happens() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("timers", 4);
    let project = project(kafka, &topic.name, "[lua]\nworkers = 4");
    project.handler("jobs.lua", &jobs("tick", 0));
    let mut daemon = Daemon::join(&project);
    let ticks = |count: usize| move |project: &Project| project.entries_of("tick").len() >= count;
    daemon.wait_for("ticks", |_| ticks(3)(&project));

    for lines in 1..=3 {
        let seen = project.entries_of("tick").len();
        let before = daemon.lines().len();
        project.replace_handler("jobs.lua", &jobs("tick", lines));
        daemon.wait_line_after(before, "a reload", |line| line.is("reloaded"));
        daemon.wait_for("ticks go on", |_| ticks(seen + 2)(&project));
    }
    let place = project.another_member();
    place.handler("jobs.lua", &jobs("other", 0));
    let other = Daemon::join(&place);
    let seen = project.entries_of("tick").len();
    daemon.wait_for("ticks go on", |_| ticks(seen + 3)(&project));
    topic.produce((0..4).flat_map(|partition| numbered(0..5, partition)));
    project.wait_for_entries("done", 20, DEADLINE);

    let ticks = times(&project.entries_of("tick"));
    let missed = missed(&daemon);
    let (first, last) = (ticks[0], ticks[ticks.len() - 1]);
    // A tick is late by less than half a period, or it shows as missed.
    let periods = (last - first + PERIOD_MS / 2) / PERIOD_MS;
    assert_eq!(
        ticks.len() as i64 - 1 + missed,
        periods,
        "{missed} missed: {ticks:?}"
    );
    assert_eq!(project.entries_of("tick-once").len(), 1);
    assert_eq!(project.entries_of("other-once").len(), 1);
    other.stop();
    daemon.stop();
}

/// A timer of each worker ticks in each; a failed tick is logged with its position and counted.
#[test]
fn each_worker_has_its_own_ticks_and_a_failed_one_is_counted() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("timers-each", 1);
    let sections = "[lua]\nworkers = 4\n[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"";
    let project = project(kafka, &topic.name, sections);
    project.handler(
        "jobs.lua",
        &(jobs("tick", 0).replace("return {}", "")
            + "tide.every(\"200ms\", function()\n  tide.sleep(1)\n  error(\"no such table\")\nend)\n"),
    );
    let mut daemon = Daemon::join(&project);
    let vms = || -> BTreeSet<String> {
        let entries = project.entries_of("tick-worker").into_iter();
        entries.map(|one| one.extra).collect()
    };
    daemon.wait_for("each worker ticks", |_| vms().len() == 4);
    let failed = |line: &Line| line.is("tick failed") && line.mentions("no such table");
    let line = daemon.wait_line("the failure", failed);
    let timer = line.field("timer");
    assert!(timer.starts_with("handlers/jobs.lua:"), "{line:?}");
    assert!(
        line.field("error").starts_with("handlers/jobs.lua:"),
        "{line:?}"
    );
    let address = address(&mut daemon);
    daemon.wait_for("it is counted", |_| {
        let labels = [("timer", &*timer), ("result", "failed")];
        scrape(&address).get("moontide_timer_ticks_total", &labels) >= Some(2.0)
    });
    daemon.stop();
}

/// A tick that waits for ever ends at the drain's deadline, and what it left open is closed; one that is about to end
/// does so.
#[test]
fn a_stop_ends_ticks_within_the_drain_deadline() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("timers-stop", 1);
    let project = project(kafka, &topic.name, "[daemon]\ndrainDeadline = \"2s\"");
    project.handler(
        "jobs.lua",
        r#"
        local record, tide = require "record", require "tide"
        tide.every("100ms", function()
          local closes <close> = setmetatable({}, { __close = function() record.note("closed") end })
          record.note("long")
          tide.sleep("1h")
        end)
        tide.after("100ms", function()
          record.note("short")
          while not io.open("gate") do tide.sleep(10) end
          record.note("ended")
        end)
        "#,
    );
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("long", 1, DEADLINE);
    project.wait_for_entries("short", 1, DEADLINE);

    daemon.term();
    daemon.wait_line("it stops", |line| line.mentions("stopping"));
    project.open_gate();
    assert_eq!(daemon.exit_code(DEADLINE), 0);

    for event in ["long", "short", "ended", "closed"] {
        assert_eq!(project.entries_of(event).len(), 1, "{event}");
    }
    let given_up = |line: &Line| line.is("tick failed") && line.mentions("the daemon stops");
    assert_eq!(daemon.count(given_up), 1, "{}", daemon.log_text());
}
