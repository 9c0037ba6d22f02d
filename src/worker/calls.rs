//! Which calls wait, of which lane, and how many lanes of a topic run at once.

use std::collections::HashMap;
use std::sync::Arc;

use crate::lua::CallId;
use crate::partition::Partition;

/// Calls that wait; a lane has one at most.
#[derive(Default)]
pub(super) struct Calls {
    open: HashMap<(u64, CallId), Open>,
}

pub(super) struct Open {
    pub(super) epoch: u64,
    pub(super) listener: String,
}

impl Calls {
    pub(super) fn insert(&mut self, vm: u64, call: CallId, open: Open) {
        self.open.insert((vm, call), open);
    }

    pub(super) fn remove(&mut self, vm: u64, call: CallId) -> Option<Open> {
        self.open.remove(&(vm, call))
    }

    pub(super) fn of(&self, epoch: u64) -> usize {
        self.open
            .values()
            .filter(|open| open.epoch == epoch)
            .count()
    }

    /// All of one VM.
    pub(super) fn take_vm(&mut self, vm: u64) -> Vec<(CallId, Open)> {
        self.open
            .extract_if(|(one, _), _| *one == vm)
            .map(|((_, call), open)| (call, open))
            .collect()
    }

    pub(super) fn take_of(&mut self, epoch: u64) -> Vec<(u64, CallId)> {
        self.open
            .extract_if(|_, open| open.epoch == epoch)
            .map(|(key, _)| key)
            .collect()
    }
}

type Topic = (Arc<str>, Arc<str>);

/// The lanes of each consumer's topic that hold a place (a call of theirs waits), and those that wait for one.
#[derive(Default)]
pub(super) struct Places {
    topics: HashMap<Topic, Place>,
}

#[derive(Default)]
struct Place {
    held: usize,
    parked: Vec<u64>,
}

impl Places {
    /// Whether a lane of this topic may run; if not, it is parked until one leaves.
    pub(super) fn may_run(&mut self, partition: &Partition, limit: usize) -> bool {
        let Some(place) = self.topics.get_mut(&topic(partition)) else {
            return limit > 0;
        };
        let may = place.held < limit;
        if !may && !place.parked.contains(&partition.epoch) {
            place.parked.push(partition.epoch);
        }
        may
    }

    pub(super) fn enter(&mut self, partition: &Partition) {
        self.topics.entry(topic(partition)).or_default().held += 1;
    }

    /// A call of this lane ended: the parked lanes try again.
    pub(super) fn leave(&mut self, partition: &Partition) -> Vec<u64> {
        let Some(place) = self.topics.get_mut(&topic(partition)) else {
            return Vec::new();
        };
        place.held = place.held.saturating_sub(1);
        let parked = std::mem::take(&mut place.parked);
        if place.held == 0 {
            self.topics.remove(&topic(partition));
        }
        parked
    }

    /// Every parked lane, after the limits changed.
    pub(super) fn clear_parked(&mut self) -> Vec<u64> {
        self.topics
            .values_mut()
            .flat_map(|place| std::mem::take(&mut place.parked))
            .collect()
    }
}

fn topic(partition: &Partition) -> Topic {
    (partition.consumer.clone(), partition.topic.clone())
}
