//! Waits outside, through `tide.echo`: a daemon counts its jobs, and each of them is answered or told.
//!
//! A job is told when its call is given up. The counts stand in the last lines of the log.

use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, Line};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

mod crowd; // many answers at the same moment
mod given_up; // a revocation, a reload, a stop

/// A call may take so long, and is not ended before: a busy machine answers within it.
const TIMEOUT: &str = "limits = { timeout = \"1500ms\", blocking = \"1500ms\" }\n";

fn is_panic(line: &Line) -> bool {
    line.is_error() && line.field("target") == "panic"
}

/// `limits.timeout` gives up a call with all its waits: each job is told, and the message is retried.
#[test]
fn a_timeout_tells_the_jobs_and_the_message_is_retried() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-timeout", 1);
    let project = Project::new(kafka);
    project.handler(
        "patience.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if ctx.attempt == 1 then
            tide.parallel{
              function() tide.echo.later(1, 3600000) end,
              function() tide.echo.later(2, 3600000) end,
              function() tide.sleep("1h") end,
            }
            record.line("woke", message, ctx)
          end
          record.line("done", message, ctx, tide.echo.later("answer"))
        end
        "#,
    );
    project.config(
        &(from_beginning("patience", &topic.name, "patience")
            + "ordering = \"none\"\nretry = { initialDelay = 10 }\n"
            + TIMEOUT),
    );
    topic.produce(numbered(0..3, 0));

    let mut daemon = Daemon::start(&project);

    let done = project.wait_for_entries("done", 3, DEADLINE);
    assert!(
        done.iter()
            .all(|one| one.attempt > 1 && one.extra == "answer")
    );
    assert!(project.values_of("woke").is_empty());
    daemon.wait_line("the reason is in the log", |line| {
        line.field("listener") == "patience" && line.mentions("limits.timeout")
    });
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order(), "{jobs:?}");
    assert!(jobs.told >= 6 && jobs.answered >= 3, "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// A defect outside, or in a module, fails the message by its policy; the daemon goes on, and the log has the panic.
#[test]
fn a_panic_fails_its_message_and_the_daemon_goes_on() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-panic", 1);
    let project = Project::new(kafka);
    project.handler(
        "panics.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "outside" then tide.echo.panic(true) end
          if message.value == "module" then tide.echo.panic(false) end
          if message.value == "caught" then
            for _, outside in ipairs{ true, false } do
              local ok, err = pcall(function() tide.echo.panic(outside) end)
              assert(not ok and err.kind == "internal", tostring(err))
            end
          end
          record.line("done", message, ctx, tide.echo.later("answer"))
        end
        "#,
    );
    project.config(
        &(from_beginning("panics", &topic.name, "panics")
            + "onError = \"skip\"\nretry = { attempts = 2, initialDelay = 10 }\n"),
    );
    let values = ["outside", "module", "caught", "last"];
    topic.produce(values.map(|value| Message::value(value).partition(0)));

    let daemon = Daemon::start(&project);

    let done = project.wait_for_entries("done", 2, DEADLINE);
    assert!(done.iter().all(|one| one.extra == "answer"), "{done:?}");
    assert_eq!(project.values_of("done"), ["caught", "last"]);
    let expected = ["outside", "outside", "module", "module", "caught", "last"];
    assert_eq!(project.values_of("try"), expected);
    for (text, thread) in [
        ("a panic outside", "outside"),
        ("a panic in a module", "worker-0"),
    ] {
        let of = |line: &Line| is_panic(line) && line.field("error") == text;
        assert_eq!(daemon.count(of), 3, "{text}");
        assert_eq!(
            daemon.count(|line| of(line) && line.field("thread") == thread),
            3
        );
    }
    let skipped = |line: &Line| {
        line.field("message").starts_with("message skipped")
            && line.mentions("a bug of Moontide ended the call")
    };
    assert_eq!(daemon.count(skipped), 2);
    let jobs = daemon.stop_counted();
    assert_eq!(
        (jobs.lost, jobs.begun, jobs.answered),
        (3, 5, 2),
        "{jobs:?}"
    );
    assert_eq!((jobs.dropped, jobs.open), (0, 0), "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(4));
}

/// `tide.parallel` in lanes by key: results in their order, and `maxInFlight` counts a call once however much it waits
/// for.
#[test]
fn a_call_of_many_waits_has_one_place_of_max_in_flight() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-keys", 1);
    let project = Project::new(kafka);
    project.handler(
        "keyed.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          local list = {}
          for index = 1, 8 do list[index] = index end
          local results = tide.parallel(list, function(value, index)
            while not io.open("gate") do
              if index % 2 == 0 then tide.sleep(20) else tide.echo.later(nil, 20) end
            end
            tide.sleep(9 - index)
            return tide.echo.later(value * 10, index)
          end)
          record.line("end", message, ctx, table.concat(results, " "))
        end
        "#,
    );
    project.config(
        &(from_beginning("keyed", &topic.name, "keyed") + "ordering = \"key\"\nmaxInFlight = 3\n"),
    );
    let message = |key: usize| Message::value(format!("key {key}")).key(key.to_string());
    topic.produce((0..24).map(|number| message(number % 12).partition(0)));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("three begin", |_| project.entries_of("begin").len() >= 3);
    stays("the others wait", Duration::from_millis(300), || {
        project.entries_of("begin").len() == 3
    });
    project.open_gate();
    let ends = project.wait_for_entries("end", 24, DEADLINE);
    assert!(
        ends.iter()
            .all(|one| one.extra == "10 20 30 40 50 60 70 80")
    );
    for key in 0..12 {
        let of_key = project.entries().into_iter();
        let of_key = of_key.filter(|one| one.value == format!("key {key}"));
        let order: Vec<(String, i64)> = of_key.map(|one| (one.event, one.offset)).collect();
        let pair = |offset| [("begin".to_owned(), offset), ("end".to_owned(), offset)];
        assert_eq!(order, [pair(key), pair(key + 12)].concat());
    }
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 0, "{jobs:?}");
    assert!(jobs.answered >= 24 * 8, "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(24));
}

/// A job that does not end when it is told to is dropped after its grace period, with its name in the log; neither other
/// messages nor the stop wait for it for longer.
#[test]
fn a_stubborn_job_is_dropped_and_named() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-stubborn", 1);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1s\"");
    project.handler(
        "stubborn.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          if message.value ~= "good" then tide.echo.stubborn() end
          record.line("done", message, ctx)
        end
        "#,
    );
    let policy = "onError = \"skip\"\nretry = { attempts = 1 }\n".to_owned();
    let last = kafka.topic("outside-stubborn-last", 1);
    project.config(
        &(from_beginning("stubborn", &topic.name, "stubborn")
            + &policy
            + TIMEOUT
            + &from_beginning("last", &last.name, "stubborn")),
    );
    topic.produce(["stubborn", "good"].map(|value| Message::value(value).partition(0)));
    let warns = |line: &Line| line.field("level") == "WARN" && line.field("job") == "echo.stubborn";

    let mut daemon = Daemon::start(&project);

    assert_eq!(
        project.wait_for_entries("done", 1, DEADLINE)[0].value,
        "good"
    );
    daemon.wait_line("the job is named", warns);
    let lines = daemon.lines();
    let of = |one: &dyn Fn(&Line) -> bool| lines.iter().position(one);
    let failed = of(&|line| line.field("listener") == "stubborn" && line.is_error());
    assert!(failed < of(&warns), "its call does not wait for it");
    last.produce(numbered(0..1, 0));
    project.wait_for_entries("begin", 3, DEADLINE);
    daemon.term();
    assert_eq!(daemon.exit_code(DEADLINE), 0);
    assert_eq!(daemon.count(warns), 2);
    let jobs = daemon.jobs().expect("the daemon counts its jobs outside");
    assert_eq!((jobs.begun, jobs.dropped, jobs.open), (2, 2, 0), "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
    assert_eq!(
        kafka.committed(&project.group, &last.name, 0).unwrap_or(0),
        0
    );
}
