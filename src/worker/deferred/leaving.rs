//! Deferred messages of partitions that go, while observers of the revocation run: `done()` still counts then, since the
//! last commit waits for the observers.

use std::sync::{Arc, Weak};

use crate::assignment::Partition;
use crate::worker::Worker;
use crate::worker::observers::Told;
use crate::worker::slot::Slot;

use super::{Deferred, Key};

#[derive(Default)]
pub(in crate::worker) struct Leaving(Vec<One>);

struct One {
    partition: Arc<Partition>,
    deferred: Box<Deferred>,
    /// Dropped when the last observer has ended.
    told: Weak<Told>,
}

impl Leaving {
    /// The deferral is done. Returns the partition of a message that is finished by that.
    pub(super) fn done(&mut self, epoch: u64, number: u64, key: Key) -> Option<Arc<Partition>> {
        let mut all = self.0.iter_mut();
        let one = all.find(|one| one.partition.epoch == epoch)?;
        let (_, is_finished) = one.deferred.done(number, key)?;
        is_finished.then(|| one.partition.clone())
    }
}

impl Worker {
    /// The partition's epoch is over, and what it has deferred is given up. Observers may still finish it.
    pub(in crate::worker) fn leave_deferred(&mut self, slot: &mut Slot) {
        let Some(deferred) = slot.deferred.take() else {
            return;
        };
        match self.observers.of_revocation(slot.partition.epoch) {
            Some(told) => self.leaving.0.push(One {
                partition: slot.partition.clone(),
                deferred,
                told,
            }),
            None => self.forget_deferred(&deferred),
        }
    }

    /// The observers of these partitions have ended: no answer counts any more.
    pub(in crate::worker) fn forget_left(&mut self) {
        if self.leaving.0.is_empty() {
            return;
        }
        let is_over = |one: &mut One| one.told.strong_count() == 0;
        let over: Vec<_> = self.leaving.0.extract_if(.., is_over).collect();
        for one in over {
            self.forget_deferred(&one.deferred);
        }
    }

    fn forget_deferred(&mut self, deferred: &Deferred) {
        for key in deferred.keys() {
            self.deferrals.remove(&key);
            self.engine.forget_deferral(key);
        }
    }
}
