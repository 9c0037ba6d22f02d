//! What a commit's metadata keeps from running again.

use std::ops::Range;

use base64::Engine;
use base64::engine::general_purpose::STANDARD_NO_PAD;

use crate::support::client::Topic;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

use super::{BY_KEY, SLOW, message, project};

/// What the metadata says is finished, read by the format's description.
pub(crate) fn finished(text: &str) -> Vec<Range<i64>> {
    let Some(text) = text.strip_prefix("moontide finished 1 ") else {
        return Vec::new();
    };
    let bytes = STANDARD_NO_PAD.decode(text).unwrap();
    let (mut rest, _checksum) = bytes.split_at(bytes.len() - 4);
    let mut at = number(&mut rest);
    let (_committed_epoch, _newest_epoch) = (number(&mut rest), number(&mut rest));
    let (_listeners, mut rest) = rest.split_at(4);
    let mut ranges = Vec::new();
    while !rest.is_empty() {
        let start = at + number(&mut rest);
        at = start + number(&mut rest);
        ranges.push(start..at);
    }
    ranges
}

fn number(bytes: &mut &[u8]) -> i64 {
    let mut value = 0;
    for shift in (0..63).step_by(7) {
        let (&byte, rest) = bytes.split_first().unwrap();
        *bytes = rest;
        value |= i64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return value;
        }
    }
    panic!("no end of a number")
}

fn slow_ones(topic: &Topic<'_>) {
    let values = ["slow 0", "1", "2", "slow 3", "4", "slow 5", "6", "7"];
    topic.produce(values.iter().map(|value| message(value, value)));
}

/// The first member finishes 1, 2, 4, 6 and 7, and says so.
fn run_first(kafka: &Kafka, topic: &Topic<'_>, project: &Project) -> Daemon {
    slow_ones(topic);
    let mut daemon = Daemon::start(project);
    project.wait_for_entries("begin", 3, DEADLINE);
    project.wait_for_entries("end", 5, DEADLINE);
    daemon.wait_for("the metadata tells all that is finished", |_| {
        kafka
            .committed_with(&project.group, &topic.name, 0)
            .is_some_and(|(_, text)| finished(&text) == [1..3, 4..5, 6..8])
    });
    daemon
}

/// What ended, in order of offsets.
fn ended(project: &Project) -> Vec<i64> {
    let mut offsets: Vec<_> = project
        .entries_of("end")
        .iter()
        .map(|one| one.offset)
        .collect();
    offsets.sort_unstable();
    offsets
}

#[test]
fn a_killed_daemon_does_not_run_again_what_it_finished() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = project(kafka, SLOW, BY_KEY);
    let mut daemon = run_first(kafka, &topic, &project);
    daemon.kill();
    // The next one is killed too, and what the first one finished is still known.
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("begin", 6, DEADLINE);
    topic.produce([message("new", "8")]);
    daemon.wait_for("one more is told", |_| {
        kafka
            .committed_with(&project.group, &topic.name, 0)
            .is_some_and(|(_, text)| finished(&text) == [1..3, 4..5, 6..9])
    });
    daemon.kill();
    project.open_gate();
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("everything is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(9)
    });
    daemon.stop();
    assert_eq!(ended(&project), (0..9).collect::<Vec<_>>());
}

#[test]
fn a_stop_tells_what_is_finished() {
    let Some(kafka) = kafka::shared() else { return };
    let keys = "ordering = \"key\"\nrunConfig = { autoCommitInterval = \"1h\" }\n";
    let (topic, project) = project(kafka, SLOW, keys);
    let project = project.sections("[daemon]\ndrainDeadline = \"500ms\"\n");
    project.config(&(from_beginning("orders", &topic.name, "orders") + keys));
    slow_ones(&topic);
    let daemon = Daemon::start(&project);
    project.wait_for_entries("end", 5, DEADLINE);
    daemon.stop();
    let (offset, text) = kafka
        .committed_with(&project.group, &topic.name, 0)
        .unwrap();
    assert_eq!((offset, finished(&text)), (0, vec![1..3, 4..5, 6..8]));
}

#[test]
fn metadata_of_other_listeners_is_ignored() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = project(kafka, SLOW, BY_KEY);
    run_first(kafka, &topic, &project).kill();
    project.open_gate();
    project.config(&(from_beginning("others", &topic.name, "orders") + BY_KEY));
    let daemon = Daemon::start(&project);
    wait_for("everything runs", DEADLINE, || ended(&project).len() == 13);
    daemon.stop();
}

#[test]
fn metadata_of_somebody_else_is_ignored() {
    let Some(kafka) = kafka::shared() else { return };
    for text in [
        "somebody else's",
        "moontide finished 1 AAAAAAAAAAAAAAAAAAAA",
        "moontide finished 99 x",
    ] {
        let (topic, project) = project(kafka, SLOW, BY_KEY);
        topic.produce((0..6).map(|number| message("key", &number.to_string())));
        kafka.commit_with(&project.group, (&topic.name, 0), 2, text);
        let daemon = Daemon::start(&project);
        project.wait_for_entries("end", 4, DEADLINE);
        daemon.stop();
        assert_eq!(ended(&project), [2, 3, 4, 5]);
    }
}

/// Brokers may allow less than we write: the offsets are committed without it.
#[test]
fn brokers_that_refuse_metadata_get_none() {
    let Some(kafka) = Kafka::start_own_with("offset.metadata.max.bytes=10\n") else {
        return;
    };
    let (topic, project) = project(&kafka, SLOW, BY_KEY);
    slow_ones(&topic);
    let mut daemon = Daemon::start(&project);
    daemon.wait_line("it says so", |line| {
        line.mentions("offset.metadata.max.bytes")
    });
    project.wait_for_entries("end", 5, DEADLINE);
    project.open_gate();
    project.wait_for_entries("end", 8, DEADLINE);
    daemon.wait_for("everything is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(8)
    });
    let warned = daemon.count(|line| line.mentions("offset.metadata.max.bytes"));
    assert_eq!(warned, 1);
    daemon.stop();
}
