//! The state of a partition's batches.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;

use crate::lua::BatchEnd;
use crate::rules::batch::{Member, Trial};
use crate::wait::send::Emitted;
use crate::wait::{Cancel, Requested};
use crate::worker::kept::Share;

/// The batches of a partition.
#[derive(Default)]
pub(in crate::worker) struct Batches {
    pub(super) last: u64,
    pub(super) open: HashMap<u64, OpenBatch>,
    /// Messages that have failed together, and do not run now.
    pub(super) trials: Vec<Waiting>,
    /// Open lanes whose heads may run in a batch: the number of the head, and the lane.
    pub(super) offered: BTreeSet<(u64, u64)>,
    /// When a timer wakes the partition.
    pub(super) wakes_at: Option<Instant>,
    /// Messages below this offset run alone: a process died while a batch with some of them ran.
    pub(super) alone_below: i64,
    /// Messages that run alone, by number: a record of their call was refused in a transaction.
    pub(super) singles: BTreeSet<u64>,
    /// Calls whose messages wait for a transaction, by the number of their first message.
    pub(super) handed: HashMap<u64, Handed>,
}

/// A call whose messages wait for a transaction.
pub(super) struct Handed {
    pub(super) members: Vec<Member>,
    /// Of the records, which the consumer has.
    pub(super) _share: Option<Share>,
}

impl Batches {
    pub(in crate::worker) fn new(alone_below: i64) -> Self {
        Self {
            alone_below,
            ..Self::default()
        }
    }
}

/// A batch whose call has not ended at once.
pub(super) struct OpenBatch {
    pub(super) listener: String,
    /// In the order of offsets.
    pub(super) members: Vec<Member>,
    /// So many of the first ones are finished.
    pub(super) done: usize,
    /// The search that the run belongs to.
    pub(super) trial: Option<Trial>,
    /// So many are finished once what belongs to them is written.
    pub(super) settling: Option<usize>,
    /// The call has ended, and its records are on their way.
    pub(super) writing: Option<Writing>,
    /// In a consumer with exactly once: its records, which fit their topics.
    pub(super) fits: Option<Arc<Emitted>>,
}

impl OpenBatch {
    /// The members that are not finished.
    pub(super) fn rest(&self) -> &[Member] {
        &self.members[self.done..]
    }
}

/// A search between two runs.
pub(in crate::worker) struct Waiting {
    pub(super) trial: Trial,
    /// The next run begins at this moment; `None` at once.
    pub(super) until: Option<Instant>,
}

impl Batches {
    pub(super) fn push(&mut self, trial: Trial, until: Option<Instant>) {
        self.trials.push(Waiting { trial, until });
    }

    /// A search whose next run may begin.
    pub(in crate::worker) fn take_due(&mut self, now: Instant) -> Option<Trial> {
        let is_due = |one: &Waiting| one.until.is_none_or(|until| until <= now);
        let due = self.trials.iter().position(is_due)?;
        Some(self.trials.remove(due).trial)
    }

    #[cfg(test)]
    pub(in crate::worker) fn waiting_calls(&self) -> usize {
        self.handed.len()
    }

    /// Ends the waits, and returns their number.
    pub(in crate::worker) fn end_waits(&mut self) -> usize {
        let waiting = self.trials.iter_mut();
        waiting.filter_map(|one| one.until.take()).count()
    }

    /// The batches whose records are not acknowledged, for a reason that a reload may have ended.
    pub(in crate::worker) fn stuck(&self) -> Vec<u64> {
        let open = self.open.iter();
        let stuck = open.filter(|(_, one)| one.writing.as_ref().is_some_and(|one| one.tries > 0));
        stuck.map(|(id, _)| *id).collect()
    }
}

/// The records of a batch whose call has ended.
pub(in crate::worker) struct Writing {
    pub(super) end: BatchEnd,
    pub(super) asked: Option<Requested>,
    /// In a consumer with exactly once.
    pub(super) emitted: Option<Arc<Emitted>>,
    pub(in crate::worker) tries: u32,
    /// **Its drop gives the records up.**
    pub(super) _cancel: Cancel,
}
