//! Finished messages, in the order of their lanes, until they enter a transaction.
//!
//! Pure. **There is one queue for each lane of each partition.** With one for a lane of all partitions, two lanes could
//! each wait for the position of a partition that the other one holds. Messages that one call has finished enter
//! together, when they are the first ones of all their lanes.

use std::collections::{HashMap, HashSet, VecDeque};

use super::positions::{Enters, Positions};

/// A lane of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Lane {
    pub(crate) epoch: u64,
    pub(crate) lane: u64,
}

/// A further message of a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) lane: u64,
    pub(crate) number: u64,
}

/// A finished message, or those that one call has finished.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Item<T> {
    /// Of the first message.
    pub(crate) lane: Lane,
    pub(crate) number: u64,
    /// The others, in the order of their numbers.
    pub(crate) others: Vec<Member>,
    /// After a refused record of its partition it comes anew, whatever its lane: the partition has batches.
    pub(crate) is_of_batches: bool,
    /// Of the messages and their records.
    pub(crate) bytes: usize,
    pub(crate) load: T,
}

impl<T> Item<T> {
    pub(crate) fn members(&self) -> impl Iterator<Item = Member> {
        let first = Member {
            lane: self.lane.lane,
            number: self.number,
        };
        std::iter::once(first).chain(self.others.iter().copied())
    }

    pub(crate) fn messages(&self) -> usize {
        1 + self.others.len()
    }

    /// Each of its lanes once.
    fn lanes(&self) -> Vec<Lane> {
        let mut lanes = vec![self.lane];
        let mut seen = HashSet::from([self.lane.lane]);
        for one in &self.others {
            if seen.insert(one.lane) {
                lanes.push(Lane {
                    lane: one.lane,
                    ..self.lane
                });
            }
        }
        lanes
    }
}

/// What stands in the queue of a lane.
#[derive(Debug)]
enum Queued<T> {
    One(Item<T>),
    /// The messages of a call, by the number of its first one.
    Call(u64),
}

/// The messages that one call has finished.
#[derive(Debug)]
struct Call<T> {
    item: Item<T>,
    /// Its lanes in which others stand before it.
    behind: usize,
}

#[derive(Debug)]
struct Queue<T> {
    items: VecDeque<Queued<T>>,
    /// The lane is in `ready` or in `held`.
    is_listed: bool,
}

#[derive(Debug)]
pub(super) struct Queues<T> {
    lanes: HashMap<Lane, Queue<T>>,
    /// By epoch and the number of their first message.
    calls: HashMap<(u64, u64), Call<T>>,
    /// Lanes whose first message may enter, each once.
    ready: VecDeque<Lane>,
    /// Lanes whose first message did not fit.
    held: Vec<Lane>,
    /// Lanes that go back to a refused message. What still comes of them was sent before they knew.
    closed: HashSet<Lane>,
    /// Partitions with batches that go back, by epoch.
    closed_epochs: HashSet<u64>,
    /// Messages and bytes by epoch.
    amounts: HashMap<u64, (usize, usize)>,
    /// Mistakes, for the model.
    #[cfg(test)]
    pub(super) requeues_behind: bool,
    #[cfg(test)]
    pub(super) overtakes: bool,
}

impl<T> Default for Queues<T> {
    fn default() -> Self {
        Self {
            lanes: HashMap::new(),
            calls: HashMap::new(),
            ready: VecDeque::new(),
            held: Vec::new(),
            closed: HashSet::new(),
            closed_epochs: HashSet::new(),
            amounts: HashMap::new(),
            #[cfg(test)]
            requeues_behind: false,
            #[cfg(test)]
            overtakes: false,
        }
    }
}

impl<T> Queue<T> {
    fn new() -> Self {
        Self {
            items: VecDeque::new(),
            is_listed: false,
        }
    }
}

impl<T> Queues<T> {
    pub(super) fn push(&mut self, item: Item<T>) {
        if self.is_closed(&item) {
            return;
        }
        self.count(&item);
        if item.others.is_empty() {
            let lane = item.lane;
            let queue = self.lanes.entry(lane).or_insert_with(Queue::new);
            queue.items.push_back(Queued::One(item));
            return self.list(lane, false);
        }
        let (lanes, key) = (item.lanes(), (item.lane.epoch, item.number));
        let mut behind = 0;
        for lane in &lanes {
            let queue = self.lanes.entry(*lane).or_insert_with(Queue::new);
            behind += usize::from(!queue.items.is_empty());
            queue.items.push_back(Queued::Call(item.number));
        }
        let first = item.lane;
        self.calls.insert(key, Call { item, behind });
        self.list(first, false);
    }

    fn is_closed(&self, item: &Item<T>) -> bool {
        let is_in = !self.closed.is_empty() && self.closed.contains(&item.lane);
        let epoch = item.lane.epoch;
        is_in
            || item.is_of_batches
                && !self.closed_epochs.is_empty()
                && self.closed_epochs.contains(&epoch)
    }

    /// The first item of the lane may have its turn, unless it has to wait for another lane.
    fn list(&mut self, lane: Lane, in_front: bool) {
        let Some(queue) = self.lanes.get_mut(&lane) else {
            return;
        };
        if queue.is_listed {
            return;
        }
        if let Some(Queued::Call(number)) = queue.items.front()
            && let Some(call) = self.calls.get(&(lane.epoch, *number))
        {
            #[cfg(test)]
            let may = self.overtakes || call.behind == 0;
            #[cfg(not(test))]
            let may = call.behind == 0;
            if !may {
                return;
            }
        }
        queue.is_listed = true;
        if in_front {
            self.ready.push_front(lane);
        } else {
            self.ready.push_back(lane);
        }
    }

    fn count(&mut self, item: &Item<T>) {
        let amount = self.amounts.entry(item.lane.epoch).or_default();
        amount.0 += item.messages();
        amount.1 += item.bytes;
    }

    fn uncount(&mut self, item: &Item<T>) {
        if let Some(amount) = self.amounts.get_mut(&item.lane.epoch) {
            amount.0 -= item.messages();
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

    /// The next item that may enter. Those that do not fit, and with them those behind them, are held. `Err`: one has
    /// the first message of its partition, and does not fit.
    pub(super) fn next(&mut self, positions: &mut dyn Positions) -> Option<Result<Item<T>, Lane>> {
        while let Some(lane) = self.ready.pop_front() {
            let Some(queue) = self.lanes.get_mut(&lane) else {
                continue;
            };
            queue.is_listed = false;
            let enters = match queue.items.front() {
                None => continue,
                Some(Queued::One(item)) => positions.enter(lane.epoch, &[item.number]),
                Some(Queued::Call(number)) => {
                    let Some(call) = self.calls.get(&(lane.epoch, *number)) else {
                        continue;
                    };
                    #[cfg(test)]
                    let waits = call.behind > 0 && !self.overtakes;
                    #[cfg(not(test))]
                    let waits = call.behind > 0;
                    if waits {
                        // Others have come back before it since it was listed.
                        continue;
                    }
                    let numbers: Vec<u64> = call.item.members().map(|one| one.number).collect();
                    positions.enter(lane.epoch, &numbers)
                }
            };
            if enters == Enters::Yes {
                return self.take(lane).map(Ok);
            }
            queue.is_listed = true;
            self.held.push(lane);
            if enters == Enters::Blocked {
                return Some(Err(lane));
            }
        }
        None
    }

    /// Takes the first item of the lane out of all its lanes.
    fn take(&mut self, lane: Lane) -> Option<Item<T>> {
        let item = match self.lanes.get_mut(&lane)?.items.pop_front()? {
            Queued::One(item) => {
                self.go_on(lane);
                item
            }
            Queued::Call(number) => {
                let item = self.calls.remove(&(lane.epoch, number))?.item;
                for one in item.lanes() {
                    if let Some(queue) = self.lanes.get_mut(&one).filter(|_| one != lane) {
                        let is_it = |queued: &Queued<T>| matches!(queued, Queued::Call(it) if *it == number);
                        let at = queue.items.iter().position(is_it);
                        at.map(|at| queue.items.remove(at));
                    }
                    self.go_on(one);
                }
                item
            }
        };
        self.uncount(&item);
        Some(item)
    }

    /// The next item of the lane is its first one now.
    fn go_on(&mut self, lane: Lane) {
        let Some(queue) = self.lanes.get(&lane) else {
            return;
        };
        match queue.items.front() {
            None => {
                self.lanes.remove(&lane);
                return;
            }
            Some(Queued::Call(number)) => {
                let call = self.calls.get_mut(&(lane.epoch, *number));
                if let Some(call) = call {
                    call.behind = call.behind.saturating_sub(1);
                }
            }
            Some(Queued::One(_)) => {}
        }
        self.list(lane, true);
    }

    /// These have left last, in this order, and come back in front of the others of their lanes.
    pub(super) fn put_back(&mut self, items: Vec<Item<T>>) {
        #[cfg(test)]
        if self.requeues_behind {
            return items.into_iter().for_each(|item| self.push(item));
        }
        for item in items.into_iter().rev() {
            self.count(&item);
            let (lanes, first) = (item.lanes(), item.lane);
            let is_call = !item.others.is_empty();
            for lane in &lanes {
                let queue = self.lanes.entry(*lane).or_insert_with(Queue::new);
                if let Some(Queued::Call(number)) = queue.items.front()
                    && let Some(call) = self.calls.get_mut(&(lane.epoch, *number))
                {
                    call.behind += 1;
                }
                if is_call {
                    queue.items.push_front(Queued::Call(item.number));
                }
            }
            if is_call {
                let key = (first.epoch, item.number);
                self.calls.insert(key, Call { item, behind: 0 });
            } else if let Some(queue) = self.lanes.get_mut(&first) {
                queue.items.push_front(Queued::One(item));
            }
            self.list(first, true);
        }
    }

    /// The messages of this lane come anew, once it is open again.
    pub(super) fn close_lane(&mut self, lane: Lane) {
        let queue = self.lanes.remove(&lane);
        for queued in queue.into_iter().flat_map(|queue| queue.items) {
            if let Queued::One(item) = queued {
                self.uncount(&item);
            }
        }
        self.ready.retain(|one| *one != lane);
        self.held.retain(|one| *one != lane);
        self.closed.insert(lane);
    }

    /// All of the partition comes anew that belongs to batches, once the partition is open again.
    pub(super) fn close_partition(&mut self, epoch: u64) {
        let own: Vec<Lane> = self
            .lanes
            .keys()
            .filter(|one| one.epoch == epoch)
            .copied()
            .collect();
        self.calls.retain(|key, _| key.0 != epoch);
        self.amounts.remove(&epoch);
        self.ready.retain(|lane| lane.epoch != epoch);
        self.held.retain(|lane| lane.epoch != epoch);
        for lane in own {
            let queue = self.lanes.remove(&lane);
            for queued in queue.into_iter().flat_map(|queue| queue.items) {
                // A message without records is finished for good, and nothing of its lane stood before it.
                if let Queued::One(item) = queued
                    && !item.is_of_batches
                {
                    self.push(item);
                }
            }
        }
        self.closed_epochs.insert(epoch);
    }

    pub(super) fn open_lane(&mut self, lane: Lane) {
        self.closed.remove(&lane);
    }

    pub(super) fn open_partition(&mut self, epoch: u64) {
        self.closed_epochs.remove(&epoch);
    }

    pub(super) fn is_ready(&self, epoch: u64) -> bool {
        self.ready.iter().any(|lane| lane.epoch == epoch)
    }

    pub(super) fn forget(&mut self, epoch: u64) {
        self.lanes.retain(|lane, _| lane.epoch != epoch);
        self.calls.retain(|key, _| key.0 != epoch);
        self.ready.retain(|lane| lane.epoch != epoch);
        self.held.retain(|lane| lane.epoch != epoch);
        self.closed.retain(|lane| lane.epoch != epoch);
        self.closed_epochs.remove(&epoch);
        self.amounts.remove(&epoch);
    }

    /// The first item of the lane.
    pub(super) fn first(&self, lane: Lane) -> Option<&Item<T>> {
        match self.lanes.get(&lane)?.items.front()? {
            Queued::One(item) => Some(item),
            Queued::Call(number) => Some(&self.calls.get(&(lane.epoch, *number))?.item),
        }
    }
}
