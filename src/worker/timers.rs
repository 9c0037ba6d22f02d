//! Deadlines in order. The part that set a timer knows whether it still matters.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Instant;

use crate::assignment::Admits;
use crate::kafka::Message;
use crate::lua::CallId;
use crate::wait::{Answer, WaitId};

use super::deferred::Key;
use super::ids::LaneId;
use super::kept::Settled;
use super::rates::Waiter;
use super::{QUANTUM_TIME, TURN, Worker};

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
    /// A partition, by epoch, for a batch.
    Partition(u64),
    /// The time-out of a deferral.
    Deferral(Key),
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

impl Worker {
    /// Fires the timers that are due, for as long as a turn may take: many calls may have slept until the same
    /// moment.
    pub(super) fn fire(&mut self, now: Instant) {
        self.gates.tick(now);
        self.wake_called();
        while self.clock.since(now) < QUANTUM_TIME
            && let Some(wake) = self.timers.due(now)
        {
            match wake {
                Wake::Call(vm, call, wait) => self.resume(vm, call, wait, Answer::Slept),
                Wake::Timeout(vm, call) => self.time_out(vm, call),
                Wake::Partition(epoch) if self.slots.contains_key(&epoch) => self.wake(epoch),
                Wake::Partition(_) => {}
                Wake::Deferral(key) => self.time_deferral_out(key),
                Wake::Lane(id) => {
                    if let Some(slot) = self.slots.get_mut(&id.epoch)
                        && let Some(one) = slot.lanes.get_mut(id.lane)
                    {
                        one.tick(now);
                        self.wake_lane(id);
                    }
                }
            }
        }
    }

    /// What rate limits have called tries again.
    fn wake_called(&mut self) {
        for waiter in self.gates.take_called() {
            let epoch = match waiter {
                Waiter::Partition(epoch) => epoch,
                Waiter::Lane(id) => id.epoch,
            };
            let mut asks = false;
            if let Some(slot) = self.slots.get_mut(&epoch) {
                // A partition that a handler has paused asks again after its resume.
                asks = slot.partition.admits() == Admits::Runs;
                match waiter {
                    Waiter::Partition(_) => self.wake(epoch),
                    Waiter::Lane(id) => match slot.lanes.get_mut(id.lane) {
                        Some(lane) => {
                            lane.release_held();
                            self.wake_lane(id);
                        }
                        None => asks = false,
                    },
                }
            }
            if !asks {
                self.gates.forget_waiter(waiter);
            }
        }
    }

    /// Once a second, copies messages that have waited for longer than that, so that they pin no fetch buffer.
    pub(super) fn look(&mut self, now: Instant) {
        if now.duration_since(self.looked) < TURN {
            return;
        }
        self.looked = now;
        for slot in self.slots.values_mut() {
            slot.lanes.each_old(Message::detach);
            slot.unacknowledged.each(Settled::detach);
        }
        self.gates.flush(now);
        self.log.tell_ended(now);
        self.running.look();
        let (calls, ticks, slots) = (&self.calls, &self.ticks, &self.slots);
        let deferrals = &self.deferrals;
        self.timers.prune(
            calls.len() + ticks.open() + slots.len() + deferrals.len(),
            |wake| match wake {
                Wake::Timeout(vm, call) => calls.get(vm, call).is_some() || ticks.is_open(vm, call),
                Wake::Call(vm, call, wait) => {
                    calls.waits(vm, call, wait) || ticks.waits(vm, call, wait)
                }
                Wake::Lane(id) => slots.contains_key(&id.epoch),
                Wake::Partition(epoch) => slots.contains_key(&epoch),
                Wake::Deferral(key) => deferrals.contains_key(&key),
            },
        );
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
