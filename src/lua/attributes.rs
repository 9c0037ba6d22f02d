//! Attributes of the process: plain data by name, over all workers and bundles; and the clock that all VMs share.

use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

use crate::clock::Clock;

use super::plain::Plain;

/// The store behind `app.setAttr` and `app.getAttr`.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// The clock of every VM.
    clock: Clock,
    attributes: RwLock<HashMap<Box<[u8]>, Arc<Plain>>>,
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

    /// `Nil` takes the attribute away.
    pub(super) fn set(&self, key: Box<[u8]>, value: Plain) {
        let mut attributes = self
            .attributes
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        match value {
            Plain::Nil => attributes.remove(&key),
            value => attributes.insert(key, Arc::new(value)),
        };
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Arc<Plain>> {
        let attributes = self
            .attributes
            .read()
            .unwrap_or_else(PoisonError::into_inner);
        attributes.get(key).cloned()
    }
}
