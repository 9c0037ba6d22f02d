//! Messages that kill the process: found over restarts, run alone, and put away.

use std::time::Duration;

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Entry, Project, from_beginning};
use crate::support::wait::DEADLINE;

/// Kills its own process from outside for one value, unless the gate is open; any other takes a moment, so that some
/// are under way whenever the process dies.
const DEADLY: &str = r#"
local record = require "record"
local tide = require "tide"
local process = io.open("/proc/self/stat"):read("n")
return function(message, ctx)
  record.line("try", message, ctx, process)
  if message.value == "poison" and not io.open("gate") then
    os.execute("kill -9 $PPID")
  end
  tide.sleep(0.05)
  record.line("done", message, ctx, process)
end
"#;

const ONLY_RECORD: &str = r#"
local record = require "record"
return function(message, ctx) record.line("dead", message, ctx) end
"#;

const PARTITIONS: i32 = 3;
const EACH: u64 = 40;
const POISON: i64 = 10;

/// A topic whose partition 0 has the poison in its midst.
fn poisoned(kafka: &Kafka) -> Topic<'_> {
    let topic = kafka.topic("deadly", PARTITIONS as usize);
    for partition in 0..PARTITIONS {
        let mut messages = numbered(0..EACH, partition);
        if partition == 0 {
            messages[POISON as usize] = Message::value("poison").partition(0);
        }
        topic.produce(messages);
    }
    topic
}

/// Starts it again and again, as the service manager does, until one process has not died; returns it, and how many have.
fn restart(project: &Project, is_over: impl Fn() -> bool) -> (Daemon, usize) {
    let mut crashes = 0;
    loop {
        let mut daemon = Daemon::spawn(project);
        crate::support::wait::wait_for("it dies, or all is done", DEADLINE, || {
            daemon.ended() || is_over()
        });
        if !daemon.ended() {
            return (daemon, crashes);
        }
        assert_eq!(daemon.exit_code(DEADLINE), 128 + libc::SIGKILL);
        crashes += 1;
        assert!(crashes < 10, "it dies without end");
    }
}

/// What ran when the poison was tried last: messages with a `try` and no `done` in the same process.
fn beside_the_last(project: &Project) -> usize {
    let entries = project.entries();
    let is_poison = |one: &Entry| one.event == "try" && one.value == "poison";
    let last = entries.iter().rposition(is_poison).expect("it ran");
    let process = &entries[last].extra;
    let of_process = |event: &str| {
        let before = entries[..last].iter();
        before
            .filter(|one| one.event == event && one.extra == *process)
            .count()
    };
    of_process("try") - of_process("done")
}

/// Three crashes make it a suspect, a fourth while it runs alone proves it; then it goes to the dead-letter topic, and
/// every other message is handled, also those that ran beside it.
#[test]
fn a_message_that_kills_the_process_is_found_and_put_away() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = (poisoned(kafka), kafka.topic("dead", 1));
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler("deadly.lua", DEADLY);
    project.handler("dead.lua", ONLY_RECORD);
    project.config(
        &(from_beginning("deadly", &topic.name, "deadly")
            + &format!("deadLetter = {{ topic = \"{}\" }}\n", dead.name)
            + &from_beginning("dead", &dead.name, "dead")),
    );

    let is_over = || {
        let entries = project.entries();
        let of = |event: &str, topic: &str| {
            let mut offsets: Vec<_> = entries
                .iter()
                .filter(|one| one.event == event && one.topic == topic)
                .map(|one| (one.partition, one.offset))
                .collect();
            offsets.sort_unstable();
            offsets.dedup();
            offsets.len() as u64
        };
        of("done", &topic.name) == EACH * PARTITIONS as u64 - 1 && of("dead", &dead.name) == 1
    };
    let (mut daemon, crashes) = restart(&project, is_over);

    assert_eq!(crashes, 4, "three, and one alone");
    let entries = project.entries_of("dead");
    assert!(entries.iter().all(|entry| entry.value == "poison"));
    let tries = project.values_of("try");
    let deadly = tries.iter().filter(|value| *value == "poison").count();
    assert_eq!(deadly, crashes, "once it is proven it never runs");
    assert_eq!(beside_the_last(&project), 0, "nothing ran beside it");
    daemon.wait_line("it says so", |line| {
        line.is("message killed the process while it ran alone")
    });
    daemon.wait_for("everything is committed", |_| {
        let committed = kafka.committed(&project.group, &topic.name, 0);
        committed == Some(EACH as i64)
    });
    daemon.stop();

    // With its outcome it is forgotten.
    let daemon = Daemon::join(&project);
    let suspected = |line: &crate::support::daemon::Line| line.mentions("suspected");
    assert_eq!(daemon.count(suspected), 0);
    daemon.stop();
}

/// Without a dead-letter topic it blocks its lane, and neither a restart nor a reload runs it; `moontide retry` does.
#[test]
fn a_proven_one_blocks_its_lane_where_it_cannot_go() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = poisoned(kafka);
    let project = Project::new(kafka);
    project.handler("deadly.lua", DEADLY);
    project.config(&from_beginning("deadly", &topic.name, "deadly"));
    let done = |partition: i32| {
        let mut offsets: Vec<_> = project
            .entries_of("done")
            .iter()
            .filter(|one| one.partition == partition)
            .map(|one| one.offset)
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len() as u64
    };

    let (mut daemon, crashes) = restart(&project, || {
        done(0) == POISON as u64
            && done(1) == EACH
            && done(2) == EACH
            && project
                .values_of("try")
                .iter()
                .filter(|value| *value == "poison")
                .count()
                >= 4
    });
    assert_eq!(crashes, 4);
    let is_blocked = |daemon: &Daemon| {
        daemon.try_status().is_some_and(|status| {
            let partitions = status["consumers"][0]["partitions"].as_array().cloned();
            let mut partitions = partitions.unwrap_or_default().into_iter();
            partitions.any(|one| one["blocked"]["offset"] == POISON)
        })
    };
    daemon.wait_for("the status shows it", is_blocked);
    let line = daemon.wait_line("an error", |line| {
        line.is("message killed the process while it ran alone")
    });
    assert!(line.is_error());
    assert_eq!(daemon.reload().0, 0);
    daemon.wait_for("it still blocks", is_blocked);
    daemon.stop();
    let mut daemon = Daemon::join(&project);
    daemon.wait_for("and after a restart", is_blocked);

    project.open_gate();
    let config = project.path("config.toml");
    let output = crate::support::daemon::moontide(&["retry", "deadly", "--config"], &config);
    assert!(output.status.success(), "{output:?}");
    daemon.wait_for("it has its outcome, and the rest", |_| done(0) == EACH);
    daemon.stop();
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0),
        Some(EACH as i64)
    );
}

/// What is killed from outside, even often, while it handles innocent messages loses none of them.
#[test]
fn innocent_messages_are_cleared_by_running_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("innocent", 2);
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler(
        "slow.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          while not io.open("gate") do tide.sleep(0.02) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&from_beginning("slow", &topic.name, "slow"));
    topic.produce([numbered(0..3, 0), numbered(3..6, 1)].concat());
    for round in 1..=3 {
        let mut daemon = Daemon::start(&project);
        daemon.wait_for("both are at it", |_| {
            project.entries_of("try").len() >= 2 * round
        });
        daemon.kill();
    }

    let mut daemon = Daemon::start(&project);
    daemon.wait_for("one of them runs, alone", |_| {
        project.entries_of("try").len() == 7
    });
    let said =
        daemon.count(|line| line.is("message is suspected of killing the process: it runs alone"));
    assert_eq!(said, 2);
    let line = daemon.wait_line("what was running", |line| {
        line.is("messages were running when the process died, now or before")
    });
    let places = [0, 1].map(|number| format!("{}[{number}]@0", topic.name));
    let told = line.field("running");
    let told: std::collections::BTreeSet<&str> = told.split(", ").collect();
    assert_eq!(told, places.iter().map(String::as_str).collect());
    let command = format!("moontide skip {} 0 0", topic.name);
    daemon.wait_line("the command for one", |line| line.field("skip") == command);
    crate::support::wait::stays("the other waits", Duration::from_millis(500), || {
        project.entries_of("try").len() == 7
    });
    daemon.wait_for("the status says why", |daemon| {
        let partitions = daemon.status()["consumers"][0]["partitions"].clone();
        partitions.to_string().contains("it runs alone")
    });
    project.open_gate();
    project.wait_for_entries("done", 6, DEADLINE);
    daemon.stop();
    for partition in 0..2 {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(3)
        );
    }
}
