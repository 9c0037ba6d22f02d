//! Running alone: a message that may have taken all the memory runs again with no other call in its worker, so that
//! what happens then is its own doing.

use std::collections::VecDeque;

use super::Worker;

#[derive(Default)]
pub(super) struct Alone {
    /// The lane that runs alone, or waits for the others to end: epoch and lane.
    one: Option<(u64, u64)>,
    next: VecDeque<(u64, u64)>,
    /// Partitions that wait for it, by epoch.
    parked: Vec<u64>,
}

impl Worker {
    /// Whether this lane may run now: nothing else does. If not, it is woken when it may.
    pub(super) fn may_be_alone(&mut self, epoch: u64, lane: u64) -> bool {
        match self.alone.one {
            None => self.alone.one = Some((epoch, lane)),
            Some(one) if one == (epoch, lane) => {}
            Some(_) => {
                if !self.alone.next.contains(&(epoch, lane)) {
                    self.alone.next.push_back((epoch, lane));
                }
                return false;
            }
        }
        self.calls.is_empty()
    }

    /// Whether a lane runs alone, or is about to: this partition is woken when it has.
    pub(super) fn is_kept_by_one(&mut self, epoch: u64) -> bool {
        let kept = self.alone.one.is_some();
        if kept && !self.alone.parked.contains(&epoch) {
            self.alone.parked.push(epoch);
        }
        kept
    }

    /// The lane that is to run alone may do so: no call waits any more.
    pub(super) fn wake_alone(&mut self) {
        if let Some((epoch, lane)) = self.alone.one {
            self.wake_lane(epoch, lane);
        }
    }

    /// The lane does not run alone any more, if it did.
    pub(super) fn end_alone(&mut self, epoch: u64, lane: u64) {
        self.alone.next.retain(|one| *one != (epoch, lane));
        if self.alone.one == Some((epoch, lane)) {
            self.alone.one = None;
            self.next_alone();
        }
    }

    /// The partition is over.
    pub(super) fn forget_alone(&mut self, epoch: u64) {
        self.alone.next.retain(|(one, _)| *one != epoch);
        if self.alone.one.is_some_and(|(one, _)| one == epoch) {
            self.alone.one = None;
            self.next_alone();
        }
    }

    fn next_alone(&mut self) {
        self.gatekeeper.leave();
        if let Some((epoch, lane)) = self.alone.next.pop_front() {
            self.alone.one = Some((epoch, lane));
            self.wake_lane(epoch, lane);
            return;
        }
        for epoch in std::mem::take(&mut self.alone.parked) {
            self.wake(epoch);
        }
    }
}
