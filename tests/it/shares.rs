//! Topics that share a busy consumer by `share`.

use crate::support::client::{Message, Topic};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Entry, Project, from_beginning};
use crate::support::wait::DEADLINE;

/// Computes for some 50 us, and records each message.
const BUSY: &str = r#"
local record = require "record"
return function(message, ctx)
  local sum = 0
  for i = 1, 5000 do sum = sum + i % 7 end
  record.line("done", message, ctx)
end
"#;

fn fill(topic: &Topic<'_>, partitions: i32, each: usize) {
    for partition in 0..partitions {
        topic.produce((0..each).map(|_| Message::value("x").partition(partition)));
    }
}

/// The ratio of what two topics ran, in the median of windows of 1024 messages. A window in which a topic has no
/// messages, since they are being fetched, says nothing of its share.
fn ratio(entries: &[Entry], large: &str) -> f64 {
    let windows = entries.chunks_exact(1024);
    let mut counts: Vec<_> = windows
        .map(|window| window.iter().filter(|one| one.topic == large).count())
        .collect();
    counts.sort_unstable();
    let median = counts[counts.len() / 2];
    median as f64 / (1024 - median) as f64
}

/// Three to one, whatever the number of their partitions.
#[test]
fn a_busy_consumer_runs_topics_by_their_shares() {
    let Some(kafka) = kafka::shared() else { return };
    for (large_partitions, small_partitions) in [(1, 1), (1, 4)] {
        let large = kafka.topic("share-3", large_partitions);
        let small = kafka.topic("share-1", small_partitions);
        fill(&large, large_partitions as i32, 20_000);
        fill(&small, small_partitions as i32, 10_000 / small_partitions);
        let project = Project::new(kafka).sections("[lua]\nworkers = 1");
        project.handler("busy.lua", BUSY);
        project.config(
            &[
                from_beginning("large", &large.name, "busy"),
                "share = 3\n".to_owned(),
                from_beginning("small", &small.name, "busy"),
            ]
            .concat(),
        );
        let mut daemon = Daemon::join(&project);
        daemon.wait_for("a backlog is handled", |_| {
            project.entries_of("done").len() >= 16_384
        });
        daemon.kill();
        let ratio = ratio(&project.entries_of("done")[..16_384], &large.name);
        assert!((2.7..=3.3).contains(&ratio), "{ratio}");
    }
}

/// A share of an idle topic is nobody's: the other topic has all turns.
#[test]
fn an_idle_topic_leaves_its_share_to_others() {
    let Some(kafka) = kafka::shared() else { return };
    let (idle, busy) = (kafka.topic("share-idle", 1), kafka.topic("share-busy", 1));
    fill(&busy, 1, 5_000);
    let project = Project::new(kafka).sections("[lua]\nworkers = 1");
    project.handler("busy.lua", BUSY);
    project.config(
        &[
            from_beginning("idle", &idle.name, "busy"),
            "share = 1000\n".to_owned(),
            from_beginning("busy", &busy.name, "busy"),
        ]
        .concat(),
    );
    let daemon = Daemon::join(&project);
    project.wait_for_entries("done", 5_000, DEADLINE);
    daemon.stop();
}
