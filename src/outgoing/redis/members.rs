//! The members of a cluster, as far as they are known.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::slots::Slots;
use crate::config::Address;

/// The time between two questions for the slots.
const ASK_AGAIN: Duration = Duration::from_millis(250);
#[derive(Debug, Default)]
pub(super) struct Members {
    known: Mutex<Known>,
    /// Held by the call that asks.
    pub(super) refreshing: tokio::sync::Mutex<()>,
}

#[derive(Debug, Default)]
pub(super) struct Known {
    pub(super) slots: Slots,
    /// Something has moved since.
    pub(super) is_stale: bool,
    pub(super) asked_at: Option<Instant>,
}

impl Members {
    pub(super) fn lock(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn moved(&self, slot: u16, to: Address) {
        let mut known = self.lock();
        known.slots.moved(slot, to);
        known.is_stale = true;
    }

    pub(super) fn masters(&self) -> Vec<Address> {
        self.lock().slots.masters()
    }

    pub(super) fn doubt(&self) {
        self.lock().is_stale = true;
    }

    pub(super) fn must_ask(&self) -> bool {
        let known = self.lock();
        match known.asked_at {
            None => true,
            Some(at) => known.is_stale && at.elapsed() >= ASK_AGAIN,
        }
    }
}
