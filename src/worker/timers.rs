//! Deadlines in their order. What is due but no longer wanted is told apart by the one who set it.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::lua::CallId;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// A sleeping call, of this VM.
    Call(u64, CallId),
    /// The lane of this epoch, after a back-off.
    Lane(u64),
}

struct Entry {
    at: Instant,
    wake: Wake,
}

impl Timers {
    pub(super) fn set(&mut self, at: Instant, wake: Wake) {
        self.heap.push(Reverse(Entry { at, wake }));
    }

    pub(super) fn next(&self) -> Option<Instant> {
        self.heap.peek().map(|entry| entry.0.at)
    }

    pub(super) fn due(&mut self, now: Instant) -> Option<Wake> {
        if self.next()? > now {
            return None;
        }
        self.heap.pop().map(|entry| entry.0.wake)
    }
}

impl PartialEq for Entry {
    fn eq(&self, other: &Self) -> bool {
        self.at == other.at
    }
}

impl Eq for Entry {}

impl PartialOrd for Entry {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Entry {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.at.cmp(&other.at)
    }
}
