//! The parts that all VMs of the process share: attributes, the runtime of the outside, and the clock.

use crate::threads::outside::Outside;
use crate::wait::Value;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Clock;

/// Shared by all workers and bundles.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// The clock of every VM, and of its worker.
    clock: Clock,
    /// The runtime that serves the handlers' waits for work outside.
    pub(crate) outside: Outside,
    /// Plain data by name, for `app.setAttr` and `app.getAttr`.
    attributes: RwLock<HashMap<Box<[u8]>, Arc<Value>>>,
}

impl App {
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests hand in another clock than the system's")
    )]
    pub(crate) fn with_clock(clock: Clock) -> Self {
        Self {
            clock,
            ..Self::default()
        }
    }

    pub(crate) fn clock(&self) -> &Clock {
        &self.clock
    }

    /// `Nil` removes the attribute.
    pub(super) fn set(&self, key: Box<[u8]>, value: Value) {
        let mut attributes = self
            .attributes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match value {
            Value::Nil => attributes.remove(&key),
            value => attributes.insert(key, Arc::new(value)),
        };
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Value>> {
        let attributes = self
            .attributes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        attributes.get(key).cloned()
    }
}
