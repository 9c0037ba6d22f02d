//! Rate limits of listeners: how many runs begin in a time, who gets them, and what an operator sees.

use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::http::{address, get, scrape};
use crate::support::kafka;
use crate::support::project::{Entry, Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// When each run began. A value that ends in 7 fails at first.
const TIMED: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("run", message, ctx, tide.now())
  if message.value:sub(-1) == "7" and ctx.attempt == 1 then error("not at once") end
end
"#;

/// Runs a second, partitions, messages of each: 1,320 runs with the retries, more than six seconds.
const RATE: usize = 200;
const PARTITIONS: i32 = 4;
const EACH: u64 = 300;

/// What may begin at once, after a time without runs.
const EARLY: usize = RATE / 20;

fn times(entries: &[Entry]) -> Vec<i64> {
    let mut times: Vec<i64> = entries
        .iter()
        .map(|one| one.extra.parse().unwrap())
        .collect();
    times.sort_unstable();
    times
}

/// The time from the first run to the last, without the times in which the machine let nobody run: the limit makes up
/// for a twentieth of a second of each.
fn elapsed_ms(times: &[i64]) -> i64 {
    let lost = times.windows(2).map(|pair| (pair[1] - pair[0] - 50).max(0));
    times.last().unwrap() - times.first().unwrap() - lost.sum::<i64>()
}

/// Over all workers, and retries count: the clock of the calls says so, to two parts in a hundred.
#[test]
fn a_rate_limit_bounds_the_runs_of_the_process() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("rates", PARTITIONS as usize);
    for partition in 0..PARTITIONS {
        topic.produce(numbered(0..EACH, partition));
    }
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler("timed.lua", TIMED);
    project.config(
        &(from_beginning("timed", &topic.name, "timed")
            + &format!("rateLimit = {{ messages = {RATE} }}\n")
            + "retry = { initialDelay = 20, maxDelay = 20 }\n"),
    );

    let mut daemon = Daemon::start(&project);

    let runs = PARTITIONS as usize * EACH as usize * 11 / 10;
    let entries = project.wait_for_entries("run", runs, DEADLINE);
    let times = times(&entries);
    let expected = (runs - 1) as f64 / RATE as f64;
    let found = elapsed_ms(&times) as f64 / 1e3;
    assert!(
        (found - expected).abs() <= expected * 0.02,
        "{runs} runs took {found} s, not {expected} s"
    );
    // The times are whole milliseconds.
    let most = RATE + EARLY + 2;
    for (index, first) in times.iter().enumerate() {
        let within = times[index..].iter().take_while(|at| **at < first + 999);
        let count = within.count();
        assert!(count <= most, "{count} runs in the second from {first} on");
    }
    // Nobody waits until another partition is done.
    let half = &entries[..runs / 2];
    for partition in 0..PARTITIONS {
        let own = half.iter().filter(|one| one.partition == partition).count();
        assert!(
            own >= half.len() / 10,
            "partition {partition}: {own} of {}",
            half.len()
        );
    }
    for partition in 0..PARTITIONS {
        daemon.wait_for("all of it is committed", |_| {
            kafka.committed(&project.group, &topic.name, partition) == Some(EACH as i64)
        });
    }
    daemon.stop();
}

/// One run an hour: the partition stands still and is neither stalled nor a reason not to be ready. Another listener
/// of the topic goes on, and a reload lets the rest run.
#[test]
fn a_lane_at_its_rate_limit_is_held_and_no_fault() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("held", 1);
    let sections =
        "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"1s\"";
    let project = Project::new(kafka).sections(sections);
    project.handler("orders.lua", RECORDING);
    let listener = |rate: &str| from_beginning("limited", &topic.name, "orders.handle") + rate;
    project.config(&listener("rateLimit = { messages = 1, per = \"1h\" }\n"));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    topic.produce(numbered(0..20, 0));
    project.wait_for_entries("done", 1, DEADLINE);

    daemon.wait_for("the status says why", |daemon| {
        let status = daemon.status();
        status["consumers"][0]["partitions"][0]["paused"] == "rateLimit"
            && status["listeners"][0]["rateLimited"] == true
    });
    stays("ready", Duration::from_secs(3), || {
        get(&address, "/ready").code == 200
    });
    let samples = scrape(&address);
    let of = [("topic", topic.name.as_str())];
    let standstill = samples.get("moontide_standstill_seconds", &of).unwrap();
    assert!(standstill < 1.0, "{standstill}");
    let holds = samples.get(
        "moontide_rate_limit_holds_total",
        &[("listener", "limited")],
    );
    assert_eq!(holds, Some(1.0));
    assert_eq!(project.entries_of("done").len(), 1);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));

    project.config(&listener("rateLimit = { messages = 4 }\n"));
    assert_eq!(daemon.reload().0, 0);
    daemon.wait_for("the faster limit counts at once", |_| {
        project.entries_of("done").len() >= 3
    });
    project.config(&listener("rateLimit = false\n"));
    assert_eq!(daemon.reload().0, 0);
    project.wait_for_entries("done", 20, DEADLINE);
    daemon.wait_for("all of it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(20)
    });
    let values: Vec<String> = (0..20).map(|number| number.to_string()).collect();
    assert_eq!(project.values_of("done"), values, "in order, each once");
    daemon.stop();
}

/// Of two listeners of a topic only one is limited: the other one is not, but for messages behind a held one.
#[test]
fn a_rate_limit_holds_no_other_listener() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("beside", 1);
    let project = Project::new(kafka);
    let handler = |event: &str| RECORDING.replace("\"done\"", &format!("\"{event}\""));
    project.handler("slow.lua", &handler("slow"));
    project.handler("free.lua", &handler("free"));
    let listener = |name: &str, more: &str| {
        from_beginning(name, &topic.name, &format!("{name}.handle"))
            + "ordering = \"none\"\n"
            + more
    };
    project.config(
        &(listener("slow", "rateLimit = { messages = 1, per = \"1h\" }\n") + &listener("free", "")),
    );
    topic.produce((0..50).map(|number| Message::value(number.to_string()).partition(0)));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("free", 50, DEADLINE);
    assert_eq!(project.entries_of("slow").len(), 1);
    daemon.stop();
}
