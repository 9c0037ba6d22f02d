//! Where a partition starts: without a position, with one that is out of range, when it is new.

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, send_signal};
use crate::support::project::{Project, RECORDING, from_beginning, listener};
use crate::support::wait::DEADLINE;

/// S9: by default a group without a position gets only what is new; a restart before the first message skips nothing.
#[test]
fn a_new_group_starts_at_the_end_and_that_is_committed_at_once() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("latest", 1);
    let project = recording(kafka, &listener("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..5, 0));

    let mut daemon = Daemon::join(&project);
    daemon.wait_for("the start is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(5)
    });
    daemon.stop();
    topic.produce(numbered(5..8, 0));
    let daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 3), [5, 6, 7]);
    daemon.stop();
}

/// S9: what came between the first assignment and its first message is not lost to a kill either.
#[test]
fn a_new_group_that_is_killed_before_its_first_message_skips_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("killed", 1);
    let project = recording(kafka, &listener("orders", &topic.name, "orders.handle"))
        .consumer("sessionTimeout = \"2s\"\nheartbeatInterval = \"500ms\"");
    project.config(&listener("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::join(&project);
    daemon.wait_for("the start is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(2)
    });
    daemon.kill();
    topic.produce(numbered(2..4, 0));
    let daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 2), [2, 3]);
    daemon.stop();
}

/// S9: fromBeginning.
#[test]
fn from_beginning_starts_at_the_first_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("earliest", 1);
    let project = recording(
        kafka,
        &from_beginning("orders", &topic.name, "orders.handle"),
    );
    topic.produce(numbered(0..5, 0));
    topic.delete_records(0, 2);

    let daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 3), [2, 3, 4]);
    daemon.stop();
}

/// S9: fromBeginning counts only where the group has no position.
#[test]
fn a_committed_position_wins() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("position", 1);
    let project = recording(
        kafka,
        &from_beginning("orders", &topic.name, "orders.handle"),
    );
    topic.produce(numbered(0..5, 0));
    kafka.commit(&project.group, &topic.name, 0, 3);

    let daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 2), [3, 4]);
    daemon.stop();
}

/// S9: a partition that is added starts at its beginning, although the listener starts at the end.
#[test]
fn an_added_partition_loses_none_of_its_first_messages() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("grows", 1);
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    project.config(&listener("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);
    topic.produce(numbered(0..1, 0));
    daemon.wait_for("the group has a position", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });

    topic.add_partitions(2);
    topic.produce(numbered(10..15, 1));

    let entries = project.wait_for_entries("done", 6, DEADLINE);
    let added: Vec<i64> = entries
        .iter()
        .filter(|entry| entry.partition == 1)
        .map(|entry| entry.offset)
        .collect();
    assert_eq!(added, [0, 1, 2, 3, 4]);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 1), Some(5));
}

/// S9: retention has passed the position: at the log's start, and an ERROR with what was lost.
#[test]
fn a_position_below_the_log_starts_at_the_logs_start() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("below", 1);
    let project = recording(kafka, &listener("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..10, 0));
    kafka.commit(&project.group, &topic.name, 0, 2);
    topic.delete_records(0, 6);

    let mut daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 4), [6, 7, 8, 9]);
    daemon.wait_line("what was lost", |line| {
        line.is_error() && line.mentions(&topic.name)
    });
    daemon.stop();
}

/// S9: … also while the daemon runs: it goes on at the log's start, and one ERROR counts what was lost.
#[test]
fn what_is_deleted_before_it_was_fetched_is_told() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("passed", 1);
    // One fetch, which may be under way, brings a fraction of what comes while the daemon is frozen.
    let project = Project::new(kafka)
        .consumer("sessionTimeout = \"60s\"\nmaxBytesPerPartition = \"16KiB\"")
        .sections("[http]\nlisten = \"127.0.0.1:0\"");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    project.wait_for_entries("done", 3, DEADLINE);

    send_signal(daemon.pid(), libc::SIGSTOP);
    let large = Message::value(vec![b'x'; 8192]).partition(0);
    topic.produce_with(
        &[("batch.num.messages", "1")],
        std::iter::repeat_n(large, 40),
    );
    topic.delete_records(0, 30);
    send_signal(daemon.pid(), libc::SIGCONT);

    daemon.wait_for("the last message", |_| {
        project.entries().last().map(|entry| entry.offset) == Some(42)
    });
    let offsets: Vec<i64> = project.entries().iter().map(|entry| entry.offset).collect();
    let before = offsets.iter().take_while(|offset| **offset < 30);
    let first = before.count() as i64;
    assert!(first < 30, "{offsets:?}");
    assert_eq!(offsets, (0..first).chain(30..43).collect::<Vec<_>>());
    let line = daemon.wait_line("what was lost", Line::is_error);
    let field = |name: &str| line.field(name).parse::<i64>().unwrap();
    assert_eq!(line.field("topic"), topic.name);
    assert_eq!((field("partition"), field("offset")), (0, 30));
    assert_eq!((field("first"), field("last")), (first, 29));
    assert_eq!(field("lost"), 30 - first);
    let counted = scrape(&address).get("moontide_messages_lost_total", &[]);
    assert_eq!(counted, Some((30 - first) as f64));
    daemon.wait_for("the position is behind the last message", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(43)
    });
    assert_eq!(daemon.count(Line::is_error), 1);
    daemon.stop();
}

/// S9: offsets without messages are no loss: markers of transactions and what those took back, also where the log begins
/// behind them meanwhile.
#[test]
fn offsets_that_never_were_messages_are_not_told_as_lost() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("markers", 1);
    let project = recording(
        kafka,
        &from_beginning("orders", &topic.name, "orders.handle"),
    );
    topic.produce_in_transactions(numbered(0..5, 0));
    topic.produce_in_vain(numbered(100..110, 0));
    topic.produce(numbered(5..6, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 6, DEADLINE);

    topic.delete_records(0, 7);
    topic.produce_in_transactions(numbered(6..9, 0));
    project.wait_for_entries("done", 9, DEADLINE);
    // Its marker, which was the last record.
    let end = topic.watermarks(0).1;
    daemon.wait_for("the position is behind the marker", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(end)
    });
    topic.delete_records(0, end);
    topic.produce(numbered(9..10, 0));

    project.wait_for_entries("done", 10, DEADLINE);
    assert_eq!(daemon.count(|line| line.mentions("older than the log")), 0);
    assert_eq!(daemon.count(Line::is_error), 0);
    daemon.stop();
}

/// S9: a position beyond the end: repeats rather than skips, and an ERROR says so.
#[test]
fn a_position_beyond_the_log_starts_at_the_logs_start() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("beyond", 1);
    let project = recording(kafka, &listener("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..4, 0));
    kafka.commit(&project.group, &topic.name, 0, 100);

    let mut daemon = Daemon::start(&project);

    assert_eq!(offsets(&project, 4), [0, 1, 2, 3]);
    daemon.wait_line("that messages are repeated", |line| {
        line.is_error() && line.mentions(&topic.name)
    });
    daemon.wait_for("the position is a real one", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// S9: a topic that is deleted and made anew under its name is read from its beginning.
#[test]
fn a_topic_that_is_made_anew_is_read_from_its_beginning() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("anew", 1);
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..5, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 5, DEADLINE);
    daemon.stop();

    topic.delete();
    let topic = kafka.topic_named(topic.name, 1);
    topic.produce(numbered(100..102, 0));
    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 7, DEADLINE);
    assert_eq!(
        (entries[5].value.as_str(), entries[6].value.as_str()),
        ("100", "101")
    );
    daemon.stop();
}

/// S9: … also while the daemon runs.
#[test]
fn a_topic_that_is_made_anew_meanwhile_is_read_from_its_beginning() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("anew", 1);
    let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"\nsessionTimeout = \"6s\"");
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..5, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 5, DEADLINE);

    topic.delete();
    let topic = kafka.topic_named(topic.name, 1);
    topic.produce(numbered(100..102, 0));

    daemon.wait_for("the new topic's messages", |_| {
        project
            .values_of("done")
            .ends_with(&["100".into(), "101".into()])
    });
    topic.produce(numbered(102..110, 0));
    daemon.wait_for("and those that follow", |_| {
        project
            .values_of("done")
            .ends_with(&["108".into(), "109".into()])
    });
    daemon.wait_for("the position is the new topic's", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(10)
    });
    daemon.stop();
}

fn recording(kafka: &kafka::Kafka, listeners: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(listeners);
    project
}

fn offsets(project: &Project, count: usize) -> Vec<i64> {
    let entries = project.wait_for_entries("done", count, DEADLINE);
    entries.into_iter().map(|entry| entry.offset).collect()
}
