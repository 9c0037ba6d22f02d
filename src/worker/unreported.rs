//! Finished messages, and commit requests without a wait, until they are reported to the consumers.
//!
//! A report wakes the consumer's thread, so several short turns share a report.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{Partition, Requests, ToConsumer};
use crate::threads::mailbox::Mailbox;

use super::slot::Slot;

#[derive(Default)]
pub(super) struct Unreported {
    finished: Vec<(Arc<Partition>, Range<u64>)>,
    asked: Vec<Requests>,
    /// Since when turns have added to these two.
    since: Option<Instant>,
}

impl Unreported {
    /// Adds the messages of a partition finished since the last call, and the commit requests of its handlers since
    /// then.
    pub(super) fn add(&mut self, slot: &mut Slot) {
        let partition = slot.partition.clone();
        for numbers in slot.take_finished() {
            self.finished.push((partition.clone(), numbers));
        }
        let asks = slot.asks.take();
        if !asks.is_empty() {
            self.asked.push(Requests {
                partition,
                listeners_since_bundle: slot.listeners_since_bundle,
                asks,
            });
        }
    }

    /// When the first unreported turn began: the one that began at `turn`, or an earlier one.
    pub(super) fn since(&mut self, turn: Instant) -> Instant {
        *self.since.get_or_insert(turn)
    }

    /// Reports to the consumers.
    pub(super) fn report(&mut self) {
        self.since = None;
        while let Some(inbox) = self.any_inbox() {
            let is_own = |one: &Partition| Arc::ptr_eq(&one.inbox, &inbox);
            let finished = self.finished.extract_if(.., |(one, _)| is_own(one));
            let asked = self.asked.extract_if(.., |one| is_own(&one.partition));
            inbox.send(ToConsumer::Finished {
                finished: finished.collect(),
                asked: asked.collect(),
            });
        }
    }

    fn any_inbox(&self) -> Option<Arc<Mailbox<ToConsumer>>> {
        let finished = self.finished.last().map(|one| &one.0);
        let any = finished.or_else(|| self.asked.last().map(|one| &one.partition));
        any.map(|partition| partition.inbox.clone())
    }
}
