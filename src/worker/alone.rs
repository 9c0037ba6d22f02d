//! Runs a message alone: a message that may have used up the memory runs again with no other call in its worker. A
//! failure then is its own.

use std::collections::VecDeque;

use super::Worker;
use super::ids::LaneId;

#[derive(Default)]
pub(super) struct Alone {
    /// The lane that runs alone, or waits for the other calls to end.
    one: Option<LaneId>,
    next: VecDeque<LaneId>,
    /// Partitions that wait for that lane, by epoch.
    parked: Vec<u64>,
}

/// The lane or partitions that may continue after the lane that ran alone.
#[derive(Debug, PartialEq, Eq)]
enum Freed {
    /// This lane, which runs alone as well.
    Lane(LaneId),
    /// The partitions that waited, by epoch.
    Partitions(Vec<u64>),
}

impl Alone {
    /// Whether it is this lane's turn. If not, the lane is queued.
    fn enter(&mut self, id: LaneId) -> bool {
        let one = *self.one.get_or_insert(id);
        if one != id && !self.next.contains(&id) {
            self.next.push_back(id);
        }
        one == id
    }

    /// Whether a lane runs alone, or is about to: then this partition waits.
    fn keeps(&mut self, epoch: u64) -> bool {
        let keeps = self.one.is_some();
        if keeps && !self.parked.contains(&epoch) {
            self.parked.push(epoch);
        }
        keeps
    }

    /// Whether a lane runs alone, or is about to.
    pub(super) fn has_one(&self) -> bool {
        self.one.is_some()
    }

    /// Removes these lanes from the queue; `None` unless the lane that runs alone is among them.
    fn leave(&mut self, is_meant: impl Fn(LaneId) -> bool) -> Option<Freed> {
        self.next.retain(|one| !is_meant(*one));
        self.one.take_if(|one| is_meant(*one))?;
        self.one = self.next.pop_front();
        Some(match self.one {
            Some(next) => Freed::Lane(next),
            None => Freed::Partitions(std::mem::take(&mut self.parked)),
        })
    }
}

impl Worker {
    /// Whether this lane may run now because no other call does. If not, it is woken later.
    pub(super) fn may_be_alone(&mut self, id: LaneId) -> bool {
        self.alone.enter(id) && self.runs_nothing()
    }

    /// Whether a lane runs alone, or is about to: this partition is woken after it.
    pub(super) fn is_kept_by_one(&mut self, epoch: u64) -> bool {
        self.alone.keeps(epoch)
    }

    /// The lane that is to run alone may do so: no call waits any more.
    pub(super) fn wake_alone(&mut self) {
        if let Some(id) = self.alone.one {
            self.wake_lane(id);
        }
    }

    /// The lane no longer runs alone, if it did.
    pub(super) fn end_alone(&mut self, id: LaneId) {
        let freed = self.alone.leave(|one| one == id);
        self.free(freed);
    }

    /// The partition's epoch is over.
    pub(super) fn forget_alone(&mut self, epoch: u64) {
        let freed = self.alone.leave(|one| one.epoch == epoch);
        self.free(freed);
    }

    fn free(&mut self, freed: Option<Freed>) {
        if freed.is_some() {
            self.gatekeeper.leave();
        }
        match freed {
            None => {}
            Some(Freed::Lane(id)) => self.wake_lane(id),
            Some(Freed::Partitions(epochs)) => epochs.into_iter().for_each(|one| self.wake(one)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64, lane: u64) -> LaneId {
        LaneId { epoch, lane }
    }

    #[test]
    fn lanes_run_alone_one_after_the_other_and_then_the_partitions_go_on() {
        let mut alone = Alone::default();
        assert!(!alone.keeps(1));
        assert!(alone.enter(id(1, 1)));
        assert!(!alone.enter(id(2, 1)));
        assert!(alone.keeps(3) && alone.keeps(3));
        assert_eq!(alone.leave(|one| one == id(9, 9)), None);
        let freed = alone.leave(|one| one == id(1, 1));
        assert_eq!(freed, Some(Freed::Lane(id(2, 1))));
        assert!(alone.enter(id(2, 1)));
        let freed = alone.leave(|one| one == id(2, 1));
        assert_eq!(freed, Some(Freed::Partitions(vec![3])));
        assert!(!alone.keeps(1));
    }

    #[test]
    fn a_partition_that_is_over_takes_its_lanes_out_of_line() {
        let mut alone = Alone::default();
        assert!(alone.enter(id(1, 1)));
        assert!(!alone.enter(id(1, 2)));
        assert!(!alone.enter(id(2, 1)));
        let freed = alone.leave(|one| one.epoch == 1);
        assert_eq!(freed, Some(Freed::Lane(id(2, 1))));
    }
}
