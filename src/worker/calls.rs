//! The calls that wait, with their lanes, and the limits of waiting calls per topic.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::assignment::Partition;
use crate::lua::CallId;
use crate::rules::route::Plan;
use crate::rules::spread::Map;
use crate::wait::{Cancel, WaitId};

use super::commit_requests::Who;
use super::ids::LaneId;

/// Calls that wait; a lane has one at most.
#[derive(Default)]
pub(super) struct Calls {
    open: Map<(u64, CallId), Open>,
}

#[derive(Debug)]
pub(super) struct Open {
    pub(super) epoch: u64,
    pub(super) lane: u64,
    /// The offset of its message.
    pub(super) offset: i64,
    pub(super) listener: String,
    pub(super) began: Instant,
    /// `limits.timeout` after it began.
    pub(super) deadline: Instant,
    /// Its open waits. **The only owner of a `Cancel`**: every end of the call, or of the wait, tells the work
    /// outside.
    pub(super) waits: Vec<(WaitId, Option<Cancel>)>,
    /// It is the call of a batch; the lane is that of its first message, and the offset that of the last one there.
    pub(super) batch: Option<u64>,
}

impl Open {
    pub(super) fn lane_id(&self) -> LaneId {
        LaneId {
            epoch: self.epoch,
            lane: self.lane,
        }
    }

    pub(super) fn who(&self) -> Who<'_> {
        Who {
            listener: &self.listener,
            lane: self.lane,
            at: self.offset,
        }
    }
}

impl Calls {
    pub(super) fn insert(&mut self, vm: u64, call: CallId, open: Open) {
        self.open.insert((vm, call), open);
    }

    pub(super) fn remove(&mut self, vm: u64, call: CallId) -> Option<Open> {
        self.open.remove(&(vm, call))
    }

    /// Whether this call still has that open wait.
    pub(super) fn waits(&self, vm: u64, call: CallId, wait: WaitId) -> bool {
        let open = self.open.get(&(vm, call));
        open.is_some_and(|open| open.waits.iter().any(|(one, _)| *one == wait))
    }

    pub(super) fn get(&self, vm: u64, call: CallId) -> Option<&Open> {
        self.open.get(&(vm, call))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    /// Takes all calls of one VM.
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

    /// The call of one lane.
    pub(super) fn of_lane(&self, epoch: u64, lane: u64) -> Option<(u64, CallId)> {
        let mut open = self.open.iter();
        let found =
            open.find(|(_, open)| open.epoch == epoch && open.lane == lane && open.batch.is_none());
        found.map(|(key, _)| *key)
    }

    /// The call of a batch of this partition.
    pub(super) fn of_batch(&self, epoch: u64, id: u64) -> Option<(u64, CallId)> {
        let mut open = self.open.iter();
        let found = open.find(|(_, open)| open.epoch == epoch && open.batch == Some(id));
        found.map(|(key, _)| *key)
    }
}

type Topic = (Arc<str>, Arc<str>);

/// How many calls of a topic may wait in this worker at once, and in how many partitions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) calls: usize,
    pub(super) partitions: usize,
}

impl Limits {
    /// The share that one worker has of a topic's limits.
    pub(super) fn of(plan: &Plan, index: usize, count: usize) -> Self {
        let share = |limit: usize| super::share(limit, index, count).max(1);
        Self {
            calls: share(plan.calls_max),
            partitions: plan.partitions_max.map_or(usize::MAX, share),
        }
    }
}

/// The calls of each consumer's topic that wait, and the partitions that wait for one of them to end.
#[derive(Default)]
pub(super) struct WaitingCalls {
    topics: HashMap<Topic, OfTopic>,
}

#[derive(Default)]
struct OfTopic {
    held: usize,
    /// By epoch.
    partitions: HashMap<u64, usize>,
    parked: Vec<u64>,
}

impl WaitingCalls {
    /// Whether a call of this partition may start; if not, the partition is parked until one of the topic ends.
    pub(super) fn may_start(&mut self, partition: &Partition, limits: Limits) -> bool {
        if self.topics.is_empty() {
            return true;
        }
        let Some(place) = self.topics.get_mut(&topic(partition)) else {
            return true;
        };
        let is_one_more = !place.partitions.contains_key(&partition.epoch);
        let may = place.held < limits.calls
            && (!is_one_more || place.partitions.len() < limits.partitions);
        if !may && !place.parked.contains(&partition.epoch) {
            place.parked.push(partition.epoch);
        }
        may
    }

    pub(super) fn enter(&mut self, partition: &Partition) {
        let place = self.topics.entry(topic(partition)).or_default();
        place.held += 1;
        *place.partitions.entry(partition.epoch).or_default() += 1;
    }

    /// A call of this partition ended: the parked partitions try again.
    pub(super) fn leave(&mut self, partition: &Partition) -> Vec<u64> {
        let Some(place) = self.topics.get_mut(&topic(partition)) else {
            return Vec::new();
        };
        place.held = place.held.saturating_sub(1);
        if let Some(count) = place.partitions.get_mut(&partition.epoch) {
            *count -= 1;
            if *count == 0 {
                place.partitions.remove(&partition.epoch);
            }
        }
        let parked = std::mem::take(&mut place.parked);
        if place.held == 0 {
            self.topics.remove(&topic(partition));
        }
        parked
    }

    /// The limits have changed: the caller wakes every partition.
    pub(super) fn clear_parked(&mut self) {
        for place in self.topics.values_mut() {
            place.parked.clear();
        }
    }
}

fn topic(partition: &Partition) -> Topic {
    (partition.consumer.clone(), partition.topic.clone())
}
