//! The things that all VMs of the process share: attributes, and the runtime of the outside.

use crate::threads::outside::Outside;
use crate::wait::Value;
use std::collections::HashMap;
use std::sync::{Arc, PoisonError, RwLock};

/// Over all workers and bundles.
#[derive(Debug, Default)]
pub(crate) struct App {
    /// It serves the waits of handlers for work outside.
    pub(crate) outside: Outside,
    /// Plain data by name, for `app.setAttr` and `app.getAttr`.
    attributes: RwLock<HashMap<Box<[u8]>, Arc<Value>>>,
}

impl App {
    /// `Nil` takes the attribute away.
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
