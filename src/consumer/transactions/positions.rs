//! What the transactions need to know of the partitions.

use std::collections::HashMap;

use crate::consumer::held::{Held, Stage, TopicState};
use crate::rules::offsets::NoRoom;
use crate::rules::transaction::{Enters, Machine, Positions};

use super::Load;

/// The trackers of the partitions, by epoch.
pub(super) struct Trackers<'a> {
    pub(super) held: HashMap<u64, &'a mut Held>,
    pub(super) metadata: usize,
}

impl Positions for Trackers<'_> {
    fn begin(&mut self) {
        for held in self.held.values_mut() {
            held.epoch.tracker.begin_transaction(self.metadata);
        }
    }

    fn enter(&mut self, epoch: u64, numbers: &[u64]) -> Enters {
        let held = self.held.get_mut(&epoch);
        // Before any of its messages, the start of an epoch is committed: so no two transactions of it have the same
        // position, and the group's offset tells which of them was committed.
        let Some(held) = held.filter(|held| held.epoch.committed.is_some()) else {
            return Enters::Later;
        };
        let tracker = &mut held.epoch.tracker;
        if let [number] = *numbers {
            return if tracker.include(number) {
                Enters::Yes
            } else {
                Enters::Later
            };
        }
        match tracker.include_all(numbers) {
            Ok(()) => Enters::Yes,
            Err(NoRoom { has_first: true }) => Enters::Blocked,
            Err(NoRoom { has_first: false }) => Enters::Later,
        }
    }
}

impl Held {
    /// The position to commit, if it differs from the group's.
    pub(super) fn moved(&self) -> bool {
        !self.plan.listeners.is_empty()
            && self.topic != TopicState::Deleted
            && (self.epoch.rewrites_metadata
                || self.epoch.tracker.committable().map(|one| one.offset) != self.epoch.committed)
    }
}

/// Whether the partition leaves, and only its transaction keeps it. One without listeners stays as it is until the group
/// takes it away.
pub(super) fn hurries(machine: &Machine<Load>, held: &Held) -> bool {
    held.stage == Stage::Drained && (machine.owes(held.epoch.partition.epoch) || held.moved())
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::consumer::held::tests::{held, plan};
    use crate::rules::route::Plan;
    use crate::rules::transaction::{Item, Lane, Settings};

    const TIME: Duration = Duration::from_secs(1);

    /// Else every transaction of the others would end at once.
    #[test]
    fn a_drained_partition_hurries_only_as_long_as_it_has_something_to_commit() {
        let now = Instant::now();
        let mut machine = Machine::new(Settings {
            interval: TIME,
            messages: 1,
            partition_bytes: 1,
            bytes: 1,
            timeout: TIME,
            call: TIME,
        });
        let drained = |plan: Plan| {
            let mut held = held(plan, now);
            held.epoch.tracker.keep_uncommitted();
            held.stage = Stage::Drained;
            held
        };
        assert!(!hurries(&machine, &drained(Plan::nobody())));
        let mut moved = drained(plan(&[], &["a"]));
        assert!(!hurries(&machine, &moved), "its position is committed");
        moved.epoch.committed = Some(9);
        assert!(hurries(&machine, &moved));
        machine.finished(Item {
            lane: Lane { epoch: 1, lane: 0 },
            number: 0,
            others: Vec::new(),
            is_of_batches: false,
            bytes: 1,
            load: None,
        });
        assert!(hurries(&machine, &drained(Plan::nobody())));
    }
}
