//! Another member of the group, which gets partitions and works on them.

use super::parts::MESSAGES;
use super::{Finished, Mistake, Open, World};

impl World {
    /// Another member gets the partition, and works on it: it waits until nothing is pending.
    pub(super) fn lose(&mut self, partition: u64) {
        if !self.process.trackers.by_partition.contains_key(&partition) {
            return;
        }
        let is_pending = |open: &Open| open.places.contains_key(&partition);
        if self.brokers.open.as_ref().is_some_and(is_pending) {
            return;
        }
        self.elsewhere.insert(partition);
        self.work_elsewhere(partition);
        if self.is(Mistake::IgnoresMembership) && self.dice.bool() {
            // It does not even know.
            return;
        }
        let epoch = partition + 1;
        self.process.trackers.by_partition.remove(&partition);
        self.process.lanes.retain(|lane, _| lane.epoch != epoch);
        self.process.sent.retain(|lane, _| lane.epoch != epoch);
        if self.is(Mistake::KeepsLost) {
            return;
        }
        let mut actions = Vec::new();
        self.process.machine.lost(epoch, &mut actions, self.now);
        self.carry_out(actions);
    }

    /// The other member commits the next messages of the partition.
    fn work_elsewhere(&mut self, partition: u64) {
        let before = self.brokers.group.get(&partition).cloned();
        let (from, beyond) = before.unwrap_or((0, Finished::default()));
        let end = (from + 5).min(MESSAGES as i64);
        for offset in from..end {
            self.bad.remove(&(partition, offset as u64));
            let is_done = beyond.ranges.iter().any(|range| range.contains(&offset));
            if is_done {
                continue;
            }
            for copy in [0, 1] {
                self.brokers.log.push((partition, offset as u64, copy));
            }
        }
        let mut beyond = beyond;
        beyond.ranges.retain_mut(|range| {
            range.start = range.start.max(end);
            range.start < range.end
        });
        let mut position = end;
        if beyond
            .ranges
            .first()
            .is_some_and(|first| first.start == end)
        {
            position = beyond.ranges.remove(0).end;
        }
        self.brokers.group.insert(partition, (position, beyond));
    }
}
