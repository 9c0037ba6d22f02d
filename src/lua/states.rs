//! What one VM has of the state of the process: its stores, caches and limits, and what its calls hold of them.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::sync::Arc;

use crate::config::Config;
use crate::state::State;
use crate::state::cache::Cache;
use crate::state::lease::{Lease, Slot};
use crate::state::limit::Limit;
use crate::state::store::Store;

pub(super) struct States {
    /// In the order of the configuration; the last is that of `tide.once`.
    stores: Vec<Arc<Store>>,
    pub(super) caches: RefCell<Vec<Arc<Cache>>>,
    /// Each with the position that declared it.
    pub(super) limits: RefCell<Vec<(Arc<Limit>, String)>>,
    /// An old result on its way to the stack of a cached function.
    pub(super) old: RefCell<Option<Vec<u8>>>,
    leases: Leases,
}

/// The leases of calls that have not ended, by number.
#[derive(Default)]
struct Leases {
    last: Cell<u64>,
    held: RefCell<HashMap<u64, (u64, Slot)>>,
}

impl States {
    pub(super) fn new(state: &State, config: &Config) -> Self {
        let mut stores = state.stores(config);
        stores.push(state.once());
        Self {
            stores,
            caches: RefCell::default(),
            limits: RefCell::default(),
            old: RefCell::default(),
            leases: Leases::default(),
        }
    }

    /// The index of the store of `tide.once`.
    pub(super) fn once(&self) -> usize {
        self.stores.len() - 1
    }

    /// An index that no VM has made is that of `tide.once`.
    pub(super) fn store(&self, index: usize) -> &Arc<Store> {
        self.stores.get(index).unwrap_or(&self.stores[self.once()])
    }

    /// A number for a guard.
    pub(super) fn next_number(&self) -> u64 {
        let number = self.leases.last.get() + 1;
        self.leases.last.set(number);
        number
    }

    /// The call holds the slot from now on, under the number of its guard.
    pub(super) fn hold(&self, number: u64, call: u64, slot: Slot) {
        self.leases.held.borrow_mut().insert(number, (call, slot));
    }

    /// What the slot of this number has got.
    pub(super) fn take(&self, number: u64) -> Option<Lease> {
        let slot = self.leases.held.borrow_mut().remove(&number);
        slot.and_then(|(_, slot)| slot.take())
    }

    /// Gives back what is held under this number.
    pub(super) fn release(&self, number: u64) {
        let slot = self.leases.held.borrow_mut().remove(&number);
        drop(slot);
    }

    /// The end of a call.
    #[inline]
    pub(super) fn release_call(&self, call: u64) {
        if !self.leases.held.borrow().is_empty() {
            self.release_all(call);
        }
    }

    #[cold]
    fn release_all(&self, call: u64) {
        let mut held = self.leases.held.borrow_mut();
        let of_call: Vec<_> = held.extract_if(|_, (owner, _)| *owner == call).collect();
        drop(held);
        drop(of_call);
    }

    #[cfg(test)]
    pub(super) fn leases(&self) -> usize {
        self.leases.held.borrow().len()
    }
}
