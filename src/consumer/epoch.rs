//! The state of one epoch of a partition: it begins with an assignment, or when the log goes back, and ends with the
//! epoch.
//!
//! **A new epoch takes over from the previous one only the fields of its `Begin`.** A field that was missed there
//! would let the new epoch commit by the counts of the old one.

use std::sync::Arc;
use std::time::Instant;

use crate::assignment::Partition;
use crate::config::Ordering;
use crate::rules::offsets::{Position, Tracker};
use crate::rules::route::Plan;

use super::first_seen::FirstSeen;
use super::lost_offsets::LostOffsets;
use super::standstill::Standstill;

pub(super) struct EpochState {
    pub(super) partition: Arc<Partition>,
    pub(super) tracker: Tracker,
    /// The group's offset, as far as it is known here.
    pub(super) committed: Option<i64>,
    /// The metadata that is committed with it, if a transaction of this epoch has written it.
    pub(super) committed_text: Option<String>,
    /// The listeners have changed: the metadata is to be written for those of now.
    pub(super) rewrites_metadata: bool,
    /// `Tracker::changes` at the last commit with metadata; `None` where the brokers take none.
    pub(super) committed_changes: Option<u64>,
    pub(super) finished_since_commit: u64,
    /// The position is due for a commit at once. Either the listener's option chose the start, or a reload switched
    /// listeners to manual commits while some of their finished messages were not committed.
    pub(super) commit_now: bool,
    /// The group had no position when it began here, and the commit of the start says so.
    pub(super) is_first_start: bool,
    pub(super) unsent: Unsent,
    /// The end of the log when a commit last depended on it; -1 before.
    pub(super) log_end: i64,
    /// Since when the end of the log is not known: the last fetch failed, or none has succeeded yet.
    pub(super) end_unknown_since: Option<Instant>,
    pub(super) ages: Standstill,
    pub(super) lost: LostOffsets,
    /// For a retry topic, or a topic with a delay.
    pub(super) first_seen: FirstSeen,
}

/// The requests of handlers since the last commit was sent.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Unsent {
    /// A handler waits for the answer.
    pub(super) awaited: bool,
    /// A handler has gone on without waiting.
    pub(super) unawaited: bool,
}

/// How an epoch begins.
pub(super) struct Begin {
    pub(super) position: Position,
    /// The group's offset, as far as it is known here.
    pub(super) committed: Option<i64>,
    pub(super) commit_now: bool,
    pub(super) is_first_start: bool,
    /// The brokers take metadata with a commit.
    pub(super) takes_metadata: bool,
}

fn tracker(partition: &Partition, position: Position, plan: &Plan) -> Tracker {
    let by_lane = plan.ordering != Ordering::Partition;
    let mut tracker = Tracker::new(
        position,
        plan.manual.clone(),
        plan.automatic.clone(),
        by_lane,
    );
    if partition.is_exactly_once {
        tracker.keep_uncommitted();
    }
    tracker
}

impl EpochState {
    pub(super) fn new(partition: Arc<Partition>, plan: &Plan, begin: &Begin, now: Instant) -> Self {
        Self {
            tracker: tracker(&partition, begin.position, plan),
            partition,
            committed_text: None,
            rewrites_metadata: false,
            committed: begin.committed,
            committed_changes: begin.takes_metadata.then_some(0),
            finished_since_commit: 0,
            commit_now: begin.commit_now,
            is_first_start: begin.is_first_start,
            unsent: Unsent::default(),
            log_end: -1,
            end_unknown_since: None,
            ages: Standstill::new(begin.position.offset, now),
            lost: LostOffsets::default(),
            first_seen: FirstSeen::default(),
        }
    }

    /// Messages and bytes.
    pub(super) fn in_flight(&self) -> (usize, usize) {
        (self.tracker.unfinished(), self.tracker.bytes())
    }
}
