//! Many answers at the same moment, and answers without end: the worker has time for everything else between them.

use std::collections::BTreeSet;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

/// `burst`: a thousand calls get their answers at the same moment, and compute for a millisecond each. `other`: waits for
/// the first of them, and records how many of them are over.
const BURST: &str = r#"
local record, tide = require "record", require "tide"
local begun, due, over = 0, nil, 0
local M = {}
function M.burst(message, ctx)
  begun = begun + 1
  while begun < 1000 do tide.echo.later(nil, 200) end
  due = due or tide.now() + 500
  tide.echo.later(nil, math.max(0, due - tide.now()))
  local until_then = os.clock() + 0.001
  repeat until os.clock() >= until_then
  over = over + 1
  record.line("burst", message, ctx)
end
function M.other(message, ctx)
  while over == 0 do tide.sleep(5) end
  record.line("other", message, ctx, over)
end
return M
"#;

/// A thousand answers at once do not hold the messages of another listener up until the last of them is served.
#[test]
fn other_messages_are_handled_amid_a_burst_of_answers() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (
        kafka.topic("outside-burst", 1),
        kafka.topic("outside-other", 1),
    );
    let project = Project::new(kafka).sections("[lua]\nworkers = 1");
    project.handler("burst.lua", BURST);
    project.config(
        &(from_beginning("burst", &topic.name, "burst.burst")
            + "ordering = \"none\"\nmaxInFlight = 1000\n"
            + &from_beginning("other", &other.name, "burst.other")),
    );
    topic.produce(numbered(0..1000, 0));
    other.produce(numbered(0..2000, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("burst", 1000, DEADLINE);
    let entries = project.wait_for_entries("other", 2000, DEADLINE);
    let amid: BTreeSet<u32> = entries
        .iter()
        .filter_map(|one| one.extra.parse().ok())
        .filter(|over| *over < 1000)
        .collect();
    assert!(amid.len() >= 3, "handled after so many answers: {amid:?}");
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 0, "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1000));
    assert_eq!(kafka.committed(&project.group, &other.name, 0), Some(2000));
}

/// Calls that get one answer after the other, with more to compute than there is time for, take nothing from timers:
/// sleeps end, and `limits.timeout` holds.
#[test]
fn timers_fire_amid_answers_without_end() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (
        kafka.topic("outside-flood", 1),
        kafka.topic("outside-sleeps", 1),
    );
    let project = Project::new(kafka).sections("[lua]\nworkers = 1");
    project.handler(
        "flood.lua",
        r#"
        local record, tide = require "record", require "tide"
        local M = {}
        function M.flood(message, ctx)
          record.line("flood", message, ctx)
          while not io.open("gate") do
            tide.echo.later()
            local until_then = os.clock() + 0.002
            repeat until os.clock() >= until_then
          end
          record.line("over", message, ctx)
        end
        function M.sleeps(message, ctx)
          record.line("begin", message, ctx)
          if message.value == "0" then tide.sleep("1h") end
          for _ = 1, 3 do tide.sleep(10) end
          record.line("slept", message, ctx)
        end
        return M
        "#,
    );
    project.config(
        &(from_beginning("flood", &topic.name, "flood.flood")
            + "ordering = \"none\"\n"
            + &from_beginning("sleeps", &other.name, "flood.sleeps")
            + "onError = \"skip\"\nretry = { attempts = 1 }\n"
            + "limits = { timeout = \"5s\" }\n"),
    );
    topic.produce(numbered(0..200, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("flood", 200, DEADLINE);

    other.produce(numbered(0..2, 0));

    daemon.wait_for("one has timed out, and the next has slept", |_| {
        project.values_of("slept") == ["1"]
    });
    assert!(project.entries_of("over").is_empty());
    project.open_gate();
    project.wait_for_entries("over", 200, DEADLINE);
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 0, "{jobs:?}");
    assert_eq!(kafka.committed(&project.group, &other.name, 0), Some(2));
}
