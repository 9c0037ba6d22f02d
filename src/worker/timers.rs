//! Deadlines in order. The part that set a timer knows whether it still matters.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::lua::CallId;
use crate::wait::WaitId;

use super::ids::LaneId;

/// The heap is never pruned below this size.
const FEW: usize = 1024;

#[derive(Default)]
pub(super) struct Timers {
    heap: BinaryHeap<Reverse<Entry>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Wake {
    /// The sleep of a call, in this VM.
    Call(u64, CallId, WaitId),
    /// `limits.timeout` of a call.
    Timeout(u64, CallId),
    /// A lane, after a back-off.
    Lane(LaneId),
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
        Some(self.heap.pop()?.0.wake)
    }

    /// Removes obsolete timers, if they may be the majority: calls end long before their timeout.
    pub(super) fn prune(&mut self, wanted: usize, is_wanted: impl Fn(Wake) -> bool) {
        if self.heap.len() > FEW + 2 * wanted {
            self.heap.retain(|entry| is_wanted(entry.0.wake));
        }
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
