//! Which messages of a partition may run next, and the progress of each.
//!
//! Pure: no clock, no Lua, no Kafka. A lane is a partition, a key of it, or a single message, depending on the
//! topic's `ordering`. Its messages run one after the other, each by all of its listeners in the order of
//! declaration. **A lane moves on when every listener of its head has its outcome**, and a retry runs only the
//! listeners that failed.
//!
//! A lane exists only while its head has begun and is not done. A message that is done at once never makes a lane. So
//! an idle key costs nothing, and a handler that never waits pays nothing for the order by key.

use std::collections::VecDeque;
use std::hash::Hasher as _;

use crate::config::{NullKeys, Ordering};
use crate::message::Record;
use crate::rules::spread::Map;

mod batches;
#[cfg(test)]
mod model;
mod progress;
#[cfg(test)]
mod tests;

use progress::Behind;
pub(crate) use progress::{Headed, Lane, LaneState, Progress, Stage};

/// With nothing incoming, capacity for this many messages stays.
const INCOMING_KEPT: usize = 128;

/// The lanes of one partition, in one epoch of its assignment.
pub(crate) struct Lanes<M> {
    /// Messages that have not begun, with their numbers, in the order of arrival.
    incoming: VecDeque<(u64, M)>,
    /// Above every number that has arrived.
    end: u64,
    open: Map<u64, Lane<M>>,
    /// Open lanes that may have something to run, each once.
    ready: VecDeque<u64>,
    /// Messages below this number had arrived at the last `each_old`.
    looked: u64,
}

/// The lane of a message. Two keys may share a lane, which costs them time but never their order.
pub(crate) fn lane_of(
    ordering: Ordering,
    null_keys: NullKeys,
    seed: u64,
    record: &dyn Record,
    number: u64,
) -> u64 {
    match (ordering, record.key()) {
        (Ordering::Partition, _) => 0,
        (Ordering::Key, Some(key)) => {
            // This hash belongs to this process alone, and differs from the hashes by which producers choose
            // partitions.
            let mut hasher = std::hash::DefaultHasher::new();
            hasher.write_u64(seed);
            hasher.write(key);
            hasher.finish()
        }
        (Ordering::Key, None) if null_keys == NullKeys::Partition => 0,
        (Ordering::Key | Ordering::None, _) => number,
    }
}

impl<M> Lanes<M> {
    pub(crate) fn new() -> Self {
        Self {
            incoming: VecDeque::new(),
            end: 0,
            open: Map::default(),
            ready: VecDeque::new(),
            looked: 0,
        }
    }

    /// Adds messages with the numbers from `first` on, which is above every earlier number.
    pub(crate) fn push(&mut self, first: u64, messages: impl IntoIterator<Item = M>) {
        self.incoming.extend((first..).zip(messages));
        self.end = self.incoming.back().map_or(self.end, |last| last.0 + 1);
    }

    /// The next message that has not begun, and its number.
    pub(crate) fn fresh(&self) -> Option<(u64, &M)> {
        self.incoming
            .front()
            .map(|(number, message)| (*number, message))
    }

    /// The message `count` places behind it.
    pub(crate) fn fresh_behind(&self, count: usize) -> Option<&M> {
        self.incoming.get(count).map(|(_, message)| message)
    }

    /// Takes the next message that has not begun.
    pub(crate) fn take_fresh(&mut self) -> Option<(u64, M)> {
        self.incoming.pop_front()
    }

    /// Shrinks an empty queue: with many partitions, each of which once had many messages, memory would grow.
    pub(crate) fn give_room_back(&mut self) {
        if self.incoming.is_empty() && self.incoming.capacity() > INCOMING_KEPT {
            self.incoming = VecDeque::new();
        }
    }

    /// Queues the next message that has not begun behind the earlier messages of its lane.
    pub(crate) fn defer_fresh(&mut self, lane: u64) {
        if let (Some(open), Some(message)) = (self.open.get_mut(&lane), self.incoming.pop_front()) {
            let (number, message) = message;
            open.waiting.push_back(Behind::new(number, message));
        }
    }

    /// Every message below this number has begun and ended.
    pub(crate) fn lowest(&self) -> u64 {
        let incoming = self.incoming.front().map_or(self.end, |first| first.0);
        let open = self.open.values().map(|lane| lane.number);
        open.fold(incoming, u64::min)
    }

    /// From this number on no message has begun, nor has any got a lane.
    pub(crate) fn untouched_from(&self) -> u64 {
        let incoming = self.incoming.iter().rev();
        incoming.fold(
            self.end,
            |from, (number, _)| {
                if number + 1 == from { *number } else { from }
            },
        )
    }

    pub(crate) fn open_count(&self) -> usize {
        self.open.len()
    }

    pub(crate) fn has_open(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn is_open(&self, lane: u64) -> bool {
        self.open.contains_key(&lane)
    }

    pub(crate) fn get(&self, lane: u64) -> Option<&Lane<M>> {
        self.open.get(&lane)
    }

    pub(crate) fn get_mut(&mut self, lane: u64) -> Option<&mut Lane<M>> {
        self.open.get_mut(&lane)
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = (u64, &Lane<M>)> {
        self.open.iter().map(|(key, lane)| (*key, lane))
    }

    pub(crate) fn open_mut(&mut self) -> impl Iterator<Item = (u64, &mut Lane<M>)> {
        self.open.iter_mut().map(|(key, lane)| (*key, lane))
    }

    /// Takes a lane out while it runs; `put` brings it back.
    pub(crate) fn take(&mut self, lane: u64) -> Option<Lane<M>> {
        self.open.remove(&lane)
    }

    pub(crate) fn put(&mut self, key: u64, lane: Lane<M>) {
        self.open.insert(key, lane);
    }

    /// Takes an open lane that may have something to run from the queue.
    pub(crate) fn next_ready(&mut self) -> Option<u64> {
        while let Some(key) = self.ready.pop_front() {
            if let Some(lane) = self.open.get_mut(&key) {
                lane.is_ready = false;
                return Some(key);
            }
        }
        None
    }

    /// Queues an open lane, once.
    pub(crate) fn wake(&mut self, key: u64) {
        if let Some(lane) = self.open.get_mut(&key).filter(|lane| !lane.is_ready) {
            lane.is_ready = true;
            self.ready.push_back(key);
        }
    }

    /// After a reload: sets the listeners. A listener that stays keeps its outcome and attempts; a new listener is
    /// due. Calls `gone` for each listener removed without an outcome, with its message.
    pub(crate) fn set_listeners<'a>(
        &mut self,
        names: &(impl Iterator<Item = &'a str> + Clone),
        mut gone: impl FnMut(&str, &M),
    ) {
        for lane in self.open.values_mut() {
            for listener in lane.set_listeners(names.clone()) {
                gone(&listener, &lane.message);
            }
        }
    }

    /// Ends the back-offs of all listeners or of one, and returns their number.
    pub(crate) fn end_back_offs(&mut self, listener: Option<&str>) -> usize {
        let mut ended = 0;
        for (key, lane) in &mut self.open {
            let count = lane.end_back_offs(listener);
            if count > 0 && !lane.is_ready {
                lane.is_ready = true;
                self.ready.push_back(*key);
            }
            ended += count;
        }
        ended
    }

    /// Every held message may try again.
    pub(crate) fn release_held(&mut self) {
        for (key, lane) in &mut self.open {
            if lane.release_held() && !lane.is_ready {
                lane.is_ready = true;
                self.ready.push_back(*key);
            }
        }
    }

    /// Queues every open lane.
    pub(crate) fn wake_all(&mut self) {
        for (key, lane) in &mut self.open {
            if !lane.is_ready {
                lane.is_ready = true;
                self.ready.push_back(*key);
            }
        }
    }

    /// Visits the messages that were here at the last call: called once a second, it finds messages that have waited
    /// longer.
    pub(crate) fn each_old(&mut self, mut each: impl FnMut(&mut M)) {
        let looked = self.looked;
        let mut incoming = self.incoming.iter_mut();
        while let Some((_, message)) = incoming.next().filter(|one| one.0 < looked) {
            each(message);
        }
        for lane in self.open.values_mut() {
            lane.each_below(looked, &mut each);
        }
        self.looked = self.end;
    }
}
