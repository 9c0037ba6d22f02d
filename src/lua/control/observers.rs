//! Observers: the functions that files have declared with `tide.on`, and who has some.
//!
//! Each VM of a bundle declares the same observers. A consumer tells an event only to workers that have an observer
//! of it: a worker that is busy would hold up a revocation for nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// What happens to partitions of a consumer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum PartitionEvent {
    /// They have come, and their first messages are on their way.
    Assigned,
    /// They are about to go: nothing of them begins, and their last commit is still to come.
    Revoked,
    /// They are gone: other members may have them already.
    Lost,
}

impl PartitionEvent {
    pub(crate) const ALL: [Self; 3] = [Self::Assigned, Self::Revoked, Self::Lost];

    /// The name in `tide.on`.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Assigned => "assigned",
            Self::Revoked => "revoked",
            Self::Lost => "lost",
        }
    }
}

/// The events that the VM in force of each worker observes.
#[derive(Debug, Default)]
pub(crate) struct Observers(Mutex<BTreeMap<usize, BTreeSet<PartitionEvent>>>);

impl Observers {
    /// This worker has a VM in force that observes these events.
    pub(in crate::lua) fn follow(&self, worker: usize, events: BTreeSet<PartitionEvent>) {
        self.lock().insert(worker, events);
    }

    /// The workers that observe the event, by index.
    pub(crate) fn of(&self, event: PartitionEvent) -> Vec<usize> {
        let observers = self.lock();
        let observe = observers
            .iter()
            .filter(|(_, events)| events.contains(&event));
        observe.map(|(worker, _)| *worker).collect()
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<usize, BTreeSet<PartitionEvent>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
