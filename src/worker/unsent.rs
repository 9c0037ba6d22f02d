//! The producers that have emitted records of this turn: those leave together at its end.

use std::sync::Arc;

use crate::wait::send::Senders;

#[derive(Default)]
pub(super) struct Unsent(Option<Arc<dyn Senders>>);

impl Unsent {
    /// The next records go ahead by these producers. Those of others leave before.
    pub(super) fn leave_by(&mut self, senders: &Arc<dyn Senders>) {
        let is_same = |unsent: &Arc<dyn Senders>| Arc::ptr_eq(unsent, senders);
        if !self.0.as_ref().is_some_and(is_same) {
            self.flush();
            self.0 = Some(senders.clone());
        }
    }

    pub(super) fn flush(&mut self) {
        if let Some(senders) = self.0.take() {
            senders.flush();
        }
    }
}

/// The records of a worker that panics leave before their messages run again. They hold their producers until then.
impl Drop for Unsent {
    fn drop(&mut self) {
        self.flush();
    }
}
