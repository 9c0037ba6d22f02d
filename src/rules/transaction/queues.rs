//! Finished messages, in the order of their lanes, until they enter a transaction.
//!
//! Pure. **There is one queue for each lane of each partition.** With one for a lane of all partitions, two lanes could
//! each wait for the position of a partition that the other one holds.

use std::collections::{HashMap, HashSet, VecDeque};

use super::Positions;

/// A lane of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) epoch: u64,
    pub(crate) lane: u64,
}

/// A finished message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item<T> {
    pub(crate) lane: Lane,
    pub(crate) number: u64,
    /// Of the message and its records.
    pub(crate) bytes: usize,
    pub(crate) load: T,
}

#[derive(Debug)]
pub(super) struct Queues<T> {
    lanes: HashMap<Lane, VecDeque<Item<T>>>,
    /// Lanes whose first message may enter, each once.
    ready: VecDeque<Lane>,
    /// Lanes whose first message did not fit.
    held: Vec<Lane>,
    /// Lanes that go back to a refused message. What still comes of them was sent before they knew.
    closed: HashSet<Lane>,
    /// Messages and bytes by epoch.
    amounts: HashMap<u64, (usize, usize)>,
    /// A mistake, for the model.
    #[cfg(test)]
    pub(super) requeues_behind: bool,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            closed: HashSet::new(),
            amounts: HashMap::new(),
            #[cfg(test)]
            requeues_behind: false,
        }
    }
}

impl<T> Queues<T> {
    pub(super) fn push(&mut self, item: Item<T>) {
        if !self.closed.is_empty() && self.closed.contains(&item.lane) {
            return;
        }
        self.count(&item);
        let queue = self.lanes.entry(item.lane).or_default();
        if queue.is_empty() {
            self.ready.push_back(item.lane);
        }
        queue.push_back(item);
    }

    fn count(&mut self, item: &Item<T>) {
        let amount = self.amounts.entry(item.lane.epoch).or_default();
        amount.0 += 1;
        amount.1 += item.bytes;
    }

    fn uncount(&mut self, item: &Item<T>) {
        if let Some(amount) = self.amounts.get_mut(&item.lane.epoch) {
            amount.0 -= 1;
            amount.1 -= item.bytes;
            if amount.0 == 0 {
                self.amounts.remove(&item.lane.epoch);
            }
        }
    }

    pub(super) fn waiting(&self) -> (usize, usize) {
        let sum = |sum: (usize, usize), one: &(usize, usize)| (sum.0 + one.0, sum.1 + one.1);
        self.amounts.values().fold((0, 0), sum)
    }

    /// The bytes of the partition that has most.
    pub(super) fn heaviest(&self) -> usize {
        let bytes = self.amounts.values().map(|amount| amount.1);
        bytes.max().unwrap_or(0)
    }

    pub(super) fn has_ready(&self) -> bool {
        !self.ready.is_empty()
    }

    pub(super) fn has_held(&self) -> bool {
        !self.held.is_empty()
    }

    /// What did not fit may fit now.
    pub(super) fn release_held(&mut self) {
        self.ready.extend(self.held.drain(..));
    }

    /// The next message that may enter.
    pub(super) fn next(&mut self, positions: &mut dyn Positions) -> Option<Item<T>> {
        while let Some(lane) = self.ready.pop_front() {
            let Some(queue) = self.lanes.get_mut(&lane) else {
                continue;
            };
            let enters = |item: &Item<T>| positions.enters(lane.epoch, item.number);
            if !queue.front().is_some_and(enters) {
                // So those behind it wait, too.
                self.held.push(lane);
                continue;
            }
            let item = queue.pop_front()?;
            if queue.is_empty() {
                self.lanes.remove(&lane);
            } else {
                self.ready.push_front(lane);
            }
            self.uncount(&item);
            return Some(item);
        }
        None
    }

    /// These have left last, in this order, and come back in front of the others of their lanes.
    pub(super) fn put_back(&mut self, items: Vec<Item<T>>) {
        #[cfg(test)]
        if self.requeues_behind {
            return items.into_iter().for_each(|item| self.push(item));
        }
        for item in items.into_iter().rev() {
            self.count(&item);
            let lane = item.lane;
            let queue = self.lanes.entry(lane).or_default();
            if queue.is_empty() {
                self.ready.push_front(lane);
            }
            queue.push_front(item);
        }
    }

    /// The messages of this lane come anew, once it is open again.
    pub(super) fn close_lane(&mut self, lane: Lane) {
        for item in self.lanes.remove(&lane).unwrap_or_default() {
            self.uncount(&item);
        }
        self.ready.retain(|one| *one != lane);
        self.held.retain(|one| *one != lane);
        self.closed.insert(lane);
    }

    pub(super) fn open_lane(&mut self, lane: Lane) {
        self.closed.remove(&lane);
    }

    pub(super) fn is_ready(&self, epoch: u64) -> bool {
        self.ready.iter().any(|lane| lane.epoch == epoch)
    }

    pub(super) fn forget(&mut self, epoch: u64) {
        self.lanes.retain(|lane, _| lane.epoch != epoch);
        self.ready.retain(|lane| lane.epoch != epoch);
        self.held.retain(|lane| lane.epoch != epoch);
        self.closed.retain(|lane| lane.epoch != epoch);
        self.amounts.remove(&epoch);
    }
}
