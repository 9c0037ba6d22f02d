//! Functions that run when partitions come and go: `tide.on`.

use std::time::Duration;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, send_signal};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

/// Notes each event with its partitions. Before a revocation it waits for the gate.
const OBSERVERS: &str = r#"
local record, tide = require "record", require "tide"

local function names(event)
  local names = {}
  for i, one in ipairs(event.partitions) do names[i] = one.partition end
  return event.consumer .. ":" .. table.concat(names, ",")
end

tide.on("assigned", function(event) record.note("assigned", names(event)) end)
tide.on("revoked", function(event)
  record.note("revoked", names(event))
  while not io.open("gate") do tide.sleep(10) end
  record.note("flushed")
end)
tide.on("lost", function(event) record.note("lost", names(event)) end)
return {}
"#;

fn project(kafka: &kafka::Kafka, topic: &str, workers: usize, consumer: &str) -> Project {
    let sections = format!("[lua]\nworkers = {workers}");
    let project = Project::new(kafka).sections(&sections).consumer(consumer);
    project.handler("init.lua", "require \"observers\"\n");
    project.handler("observers.lua", OBSERVERS);
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("orders", topic, "orders.handle")
            + "runConfig = { autoCommitInterval = \"1h\" }\n"),
    );
    project
}

/// The notes of an event, sorted.
fn notes(project: &Project, event: &str) -> Vec<String> {
    let entries = project.entries_of(event).into_iter();
    let mut notes: Vec<_> = entries.map(|one| one.extra).collect();
    notes.sort();
    notes
}

/// Both workers hear of what comes. While observers of a stop wait, nothing is committed, and the partitions stay.
#[test]
fn each_vm_hears_of_its_partitions_and_the_last_commit_waits() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("observers", 2);
    let project = project(kafka, &topic.name, 2, "");
    let mut daemon = Daemon::join(&project);
    topic.produce([numbered(0..3, 0), numbered(3..6, 1)].concat());
    project.wait_for_entries("done", 6, DEADLINE);
    assert_eq!(notes(&project, "assigned"), ["default:0,1", "default:0,1"]);

    daemon.term();
    project.wait_for_entries("revoked", 2, DEADLINE);
    assert_eq!(notes(&project, "revoked"), ["default:0,1", "default:0,1"]);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(0));
    assert!(!kafka.members(&project.group).is_empty());
    project.open_gate();
    assert_eq!(daemon.exit_code(DEADLINE), 0);
    assert_eq!(project.entries_of("flushed").len(), 2);
    for number in 0..2 {
        let committed = kafka.committed(&project.group, &topic.name, number);
        assert_eq!(committed, Some(3));
    }
    assert_eq!(project.entries_of("lost").len(), 0);
}

/// Another member gets a partition only when the observers have ended; an eager assignor takes all of them.
#[test]
fn a_revocation_waits_for_observers_under_each_assignor() {
    let Some(kafka) = kafka::shared() else { return };
    for (assignor, going) in [("cooperative-sticky", 1), ("range", 2)] {
        let topic = kafka.topic("observers-move", 2);
        let consumer =
            format!("partitionAssigners = [\"{assignor}\"]\nheartbeatInterval = \"300ms\"");
        let project = project(kafka, &topic.name, 1, &consumer);
        let first = Daemon::join(&project);
        let place = project.another_member();
        let second = Daemon::start(&place);
        project.wait_for_entries("revoked", 1, DEADLINE);
        let revoked = notes(&project, "revoked").remove(0);
        assert_eq!(revoked.matches([',', ':']).count(), going, "{revoked}");
        assert_eq!(project.entries_of("assigned").len(), 1, "{assignor}");

        project.open_gate();
        place.open_gate();
        project.wait_for_entries("flushed", 1, DEADLINE);
        topic.produce([numbered(0..3, 0), numbered(3..6, 1)].concat());
        project.wait_for_entries("done", 6, DEADLINE);
        first.stop();
        second.stop();
    }
}

/// A member that was frozen beyond its session hears that its partitions are lost, not that they are revoked.
#[test]
fn a_lost_assignment_is_told_as_lost() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("observers-lost", 1);
    let consumer = "sessionTimeout = \"6s\"\nheartbeatInterval = \"300ms\"";
    let project = project(kafka, &topic.name, 1, consumer);
    project.open_gate();
    let mut daemon = Daemon::join(&project);
    send_signal(daemon.pid(), libc::SIGSTOP);
    crate::support::wait::wait_for("the session ends", DEADLINE, || {
        kafka.members(&project.group).is_empty()
    });
    send_signal(daemon.pid(), libc::SIGCONT);
    daemon.wait_for("it is lost and comes again", |_| {
        project.entries_of("assigned").len() == 2
    });
    assert_eq!(notes(&project, "lost"), ["default:0"]);
    assert_eq!(project.entries_of("revoked").len(), 0);
    daemon.stop();
}

/// A topic that a reload removes goes, and its observers run once; the stop afterwards tells only of the rest.
#[test]
fn a_removed_topic_is_told_once() {
    let Some(kafka) = kafka::shared() else { return };
    let (kept, removed) = (
        kafka.topic("observers-kept", 1),
        kafka.topic("observers-gone", 1),
    );
    let project = project(kafka, &kept.name, 1, "");
    project.open_gate();
    let listener = |name: &str, topic: &str| from_beginning(name, topic, "orders.handle");
    let kept = listener("kept", &kept.name);
    project.config(&(kept.clone() + &listener("gone", &removed.name)));
    let mut daemon = Daemon::join(&project);
    daemon.wait_for("both are assigned", |_| {
        project.entries_of("assigned").len() == 1
    });
    project.config(&kept);
    daemon.wait_for("the topic goes", |_| {
        project.entries_of("flushed").len() == 1
    });
    daemon.wait_line("the subscription is new", |line| {
        line.is("subscribed") && !line.mentions(&removed.name)
    });
    let ends = Duration::from_secs(30);
    daemon.term();
    assert_eq!(daemon.exit_code(ends), 0);
    assert_eq!(notes(&project, "revoked"), ["default:0", "default:0"]);
}
