//! What a call holds for its time: the lead of a flight, or its part of a limit. The drop gives it back.

use std::sync::{Arc, Mutex, PoisonError};

use super::flights::Lead;
use super::limit::Share;

#[derive(Debug)]
pub(crate) enum Lease {
    Lead(Lead),
    Share { _given_back_by_its_end: Share },
}

/// Where a job outside leaves a lease for the call that waits for it. A call that is given up drops its slot, and so
/// does the job: the lease never outlives both.
#[derive(Clone, Debug, Default)]
pub(crate) struct Slot(Arc<Mutex<Option<Lease>>>);

impl Slot {
    pub(crate) fn of(lease: Lease) -> Self {
        let slot = Self::default();
        slot.put(lease);
        slot
    }

    pub(crate) fn put(&self, lease: Lease) {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let before = held.replace(lease);
        drop(held);
        drop(before);
    }

    pub(crate) fn take(&self) -> Option<Lease> {
        let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.take()
    }
}
