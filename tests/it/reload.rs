//! Files that change while the daemon runs: what takes effect, what is refused, and that nobody leaves the group.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::Kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

mod asked;
mod config;
mod handlers;
mod load;
mod refused;
mod stuck;
mod turned;
mod watched;

/// A handler that records as `event`.
fn version(event: &str) -> String {
    RECORDING.replace("\"done\"", &format!("\"{event}\""))
}

/// A running daemon with one listener, `orders`, that has handled one message as `old`.
struct Running<'a> {
    kafka: &'a Kafka,
    topic: Topic<'a>,
    // Before the project: a log is shown before its directory goes.
    daemon: Daemon,
    project: Project,
    members: BTreeSet<String>,
    assignments: usize,
}

impl<'a> Running<'a> {
    fn start(kafka: &'a Kafka) -> Self {
        let project =
            Project::new(kafka).consumer("metadataMaxAge = \"2s\"\nsessionTimeout = \"6s\"");
        project.handler("orders.lua", &version("old"));
        let topic = kafka.topic("reload", 2);
        project.config(&from_beginning("orders", &topic.name, "orders.handle"));
        Self::begin(kafka, topic, project)
    }

    fn begin(kafka: &'a Kafka, topic: Topic<'a>, project: Project) -> Self {
        let daemon = Daemon::join(&project);
        topic.produce(numbered(0..1, 0));
        project.wait_for_entries("old", 1, DEADLINE);
        let members = kafka.members(&project.group).into_keys().collect();
        let assignments = daemon.count(|line| line.is("assigned"));
        Self {
            kafka,
            topic,
            daemon,
            project,
            members,
            assignments,
        }
    }

    #[track_caller]
    fn wait_reloaded(&mut self, change: impl FnOnce(&Project)) {
        let seen = self.daemon.lines().len();
        let changed = Instant::now();
        change(&self.project);
        let line = self
            .daemon
            .wait_line_after(seen, "reloaded", |line| line.is("reloaded"));
        said(&format!(
            "in force after {:?}, bundle {}",
            changed.elapsed(),
            line.field("bundle")
        ));
    }

    /// Returns the error.
    #[track_caller]
    fn wait_rejected(&mut self, change: impl FnOnce(&Project)) -> String {
        let seen = self.daemon.lines().len();
        change(&self.project);
        let line = self
            .daemon
            .wait_line_after(seen, "reload rejected", |line| {
                line.field("message").starts_with("reload rejected")
            });
        assert!(line.is_error(), "{line:?}");
        line.field("error")
    }

    /// The next message is handled by the handler that records as `event`.
    #[track_caller]
    fn handles_as(&self, event: &str) {
        let before = self.project.entries_of(event).len();
        self.topic
            .produce(numbered(before as u64..before as u64 + 1, 0));
        self.project.wait_for_entries(event, before + 1, DEADLINE);
    }

    /// The member is the one that it was, and nothing was assigned anew.
    #[track_caller]
    fn never_left_the_group(&self) {
        let members: BTreeSet<String> = self
            .kafka
            .members(&self.project.group)
            .into_keys()
            .collect();
        assert_eq!(members, self.members, "the member is another one");
        assert_eq!(
            self.daemon.count(|line| line.is("assigned")),
            self.assignments,
            "there was a rebalance"
        );
    }

    #[track_caller]
    fn disk(&self) -> Option<String> {
        self.daemon.status()["disk"].as_str().map(str::to_owned)
    }
}

#[expect(
    clippy::print_stdout,
    reason = "shown by the test runner when asked for, or when the test fails"
)]
fn said(sentence: &str) {
    println!("{sentence}");
}
