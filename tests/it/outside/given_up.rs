//! Open waits at a revocation, a reload and a stop: their jobs are told, and no message is lost.

use std::sync::atomic::{AtomicBool, Ordering};

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::tally::{Tally, watch_commits};
use crate::support::wait::DEADLINE;

/// Waits for an hour at the offset 10 of each partition until the gate is open, for some milliseconds else.
const HELD_UP: &str = r#"
local record, tide = require "record", require "tide"
return function(message, ctx)
  record.line("begin", message, ctx)
  local is_slow = message.offset == 10 and not io.open("gate")
  tide.parallel{
    function() tide.echo.later(message.value, is_slow and 3600000 or math.random(0, 20)) end,
    function() tide.echo.later(message.value, math.random(0, 20)) end,
    function() tide.sleep(math.random(0, 20)) end,
  }
  record.line("end", message, ctx)
end
"#;

/// A second member joins, and the first one leaves, each time with open waits: no commit passes a message that is not
/// finished, and the other member runs what was given up.
#[test]
fn a_revocation_tells_the_jobs_and_loses_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let (partitions, count) = (4, 50);
    let topic = kafka.topic("outside-revoked", partitions as usize);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1s\"");
    project.handler("held.lua", HELD_UP);
    project.config(&(from_beginning("held", &topic.name, "held") + "ordering = \"none\"\n"));
    topic.produce((0..partitions).flat_map(|partition| numbered(0..count, partition)));
    let all = count * partitions as u64;
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_commits(kafka, &project, &topic.name, partitions, &stop));
        let mut tally = Tally::new(&project);
        let _stops = crate::faults::SetOnDrop(&stop);
        let mut finish = |daemon: &mut Daemon, wanted: u64| {
            daemon.wait_for(&format!("{wanted} are finished"), |_| {
                tally.update();
                tally.finished() == wanted
            });
        };
        let mut first = Daemon::join(&project);
        finish(&mut first, all - 4);

        let place = project.another_member();
        place.open_gate();
        let mut second = Daemon::join(&place);
        finish(&mut second, all - 2);
        let jobs = first.stop_counted();
        assert!(jobs.ended_in_order() && jobs.told == 4, "{jobs:?}");

        finish(&mut second, all);
        let jobs = second.stop_counted();
        assert!(jobs.ended_in_order() && jobs.told == 0, "{jobs:?}");
        stop.store(true, Ordering::SeqCst);
        assert!(watch.join().unwrap() > 5, "the commits were looked at");
    });
    for partition in 0..partitions {
        let committed = kafka.committed(&project.group, &topic.name, partition);
        assert_eq!(committed, Some(count as i64), "partition {partition}");
    }
}

/// A call of the old bundle ends in it, or is given up after the drain of the old VM: then it runs again in the new
/// bundle, and that is no attempt.
#[test]
fn a_reload_lets_calls_end_or_runs_them_again_in_the_new_bundle() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-reload", 1);
    let project = Project::new(kafka);
    let version = |name: &str| {
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx, "NAME")
          if message.value == "long" and "NAME" == "one" then
            tide.parallel{ function() tide.echo.later(nil, 3600000) end, function() tide.sleep("1h") end }
          end
          while not io.open("gate") do tide.echo.later(nil, 20) end
          record.line("end", message, ctx, "NAME")
        end
        "#
        .replace("NAME", name)
    };
    project.handler("calls.lua", &version("one"));
    project.config(&(from_beginning("calls", &topic.name, "calls") + "ordering = \"none\"\n"));
    topic.produce(["long", "short"].map(|value| Message::value(value).partition(0)));
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 2, DEADLINE);

    project.replace_handler("calls.lua", &version("two"));
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");
    project.open_gate();
    let short = project.wait_for_entries("end", 1, DEADLINE).remove(0);
    assert_eq!((&*short.value, &*short.extra), ("short", "one"));
    topic.produce([Message::value("new").partition(0)]);
    let new = project.wait_for_entries("end", 2, DEADLINE).remove(1);
    assert_eq!((&*new.value, &*new.extra), ("new", "two"));

    // The drain of an old VM takes half a minute.
    let long = project.wait_for_entries("end", 3, 2 * DEADLINE).remove(2);
    assert_eq!((&*long.value, &*long.extra), ("long", "two"));
    assert_eq!(long.attempt, 1, "a reload is no attempt");
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
    });
    assert_eq!(daemon.count(|line| line.is("assigned")), 1);
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 1, "{jobs:?}");
}

/// A stop with a thousand open waits: the daemon ends in order after its drain, and every job is told.
#[test]
fn a_stop_tells_a_thousand_jobs() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outside-stop", 1);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1s\"");
    project.handler(
        "waits.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          tide.echo.later(message.value, 3600000)
          record.line("end", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("waits", &topic.name, "waits")
            + "ordering = \"none\"\nmaxInFlight = 1000\n"),
    );
    topic.produce(numbered(0..1001, 0));

    let daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 1000, DEADLINE);
    let jobs = daemon.stop_counted();

    assert!(jobs.ended_in_order(), "{jobs:?}");
    assert_eq!((jobs.begun, jobs.told), (1000, 1000), "{jobs:?}");
    assert!(project.entries_of("end").is_empty());
    let committed = kafka.committed(&project.group, &topic.name, 0);
    assert_eq!(committed.unwrap_or(0), 0);
}
