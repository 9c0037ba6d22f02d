//! Finished messages, and commit requests without a wait, until they are reported to the consumers.
//!
//! A report wakes the consumer's thread, so several short turns share a report.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{HandedOver, Partition, Requests, ToConsumer};
use crate::rules::offsets::Moved;
use crate::threads::mailbox::Mailbox;

use super::slot::Slot;
use super::{REPORT_EVERY, Worker};

#[derive(Default)]
pub(super) struct Unreported {
    finished: Vec<(Arc<Partition>, Range<u64>)>,
    asked: Vec<Requests>,
    /// Deferred messages that have moved.
    moved: Vec<(Arc<Partition>, Vec<Moved>)>,
    /// Messages that wait for a transaction.
    handed_over: Vec<HandedOver>,
    /// Since when turns have added to these two.
    since: Option<Instant>,
}

impl Unreported {
    /// Adds the messages of a partition finished since the last call, and the commit requests of its handlers since
    /// then.
    pub(super) fn add(&mut self, slot: &mut Slot) {
        let partition = slot.partition.clone();
        if let Some(deferred) = &mut slot.deferred {
            let moved = deferred.take_moved();
            if !moved.is_empty() {
                self.moved.push((partition.clone(), moved));
            }
        }
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

    /// A message of a partition that goes is finished.
    pub(super) fn finish(&mut self, partition: Arc<Partition>, number: u64) {
        self.finished.push((partition, number..number + 1));
    }

    /// The message has its outcome, and waits for a transaction.
    pub(super) fn hand_over(&mut self, one: HandedOver) {
        self.handed_over.push(one);
    }

    /// When the first unreported turn began: the one that began at `turn`, or an earlier one.
    pub(super) fn since(&mut self, turn: Instant) -> Instant {
        *self.since.get_or_insert(turn)
    }

    /// Reports to the consumers.
    pub(super) fn report(&mut self) {
        self.since = None;
        // Before what is finished: a message may be both.
        for (partition, moved) in self.moved.drain(..) {
            let inbox = partition.inbox.clone();
            inbox.send(ToConsumer::Deferred { partition, moved });
        }
        while let Some(inbox) = self.any_inbox() {
            let is_own = |one: &Partition| Arc::ptr_eq(&one.inbox, &inbox);
            let finished = self.finished.extract_if(.., |(one, _)| is_own(one));
            let asked = self.asked.extract_if(.., |one| is_own(&one.partition));
            inbox.send(ToConsumer::Finished {
                finished: finished.collect(),
                asked: asked.collect(),
            });
        }
        // Behind these: a message without records is finished only where nothing of its lane waits for a transaction, so
        // what its lane hands over in the same time stands behind it.
        while let Some(first) = self.handed_over.first() {
            let inbox = first.partition.inbox.clone();
            let is_own = |one: &mut HandedOver| Arc::ptr_eq(&one.partition.inbox, &inbox);
            let own = self.handed_over.extract_if(.., is_own).collect();
            inbox.send(ToConsumer::HandedOver(own));
        }
    }

    fn any_inbox(&self) -> Option<Arc<Mailbox<ToConsumer>>> {
        let finished = self.finished.last().map(|one| &one.0);
        let any = finished.or_else(|| self.asked.last().map(|one| &one.partition));
        any.map(|partition| partition.inbox.clone())
    }
}

impl Worker {
    /// Reports after a turn of this partition, which began at `began`. A report wakes the consumer, which takes
    /// messages for the new room and sleeps again. So a short turn is not reported yet if the next turn will be short
    /// too. **The worker reports before anything but another turn**: before it sleeps, resumes a call that waited, or
    /// changes its VM.
    pub(super) fn report_in_time(&mut self, epoch: u64, began: Instant) {
        let listeners = |epoch: u64| Some(&self.slots.get(&epoch)?.plan.listeners);
        let next = self.ready.next().and_then(listeners);
        let is_next_alike = next.is_some() && next == listeners(epoch);
        let since = self.unreported.since(began);
        if !is_next_alike || self.meter.is_slow() || self.clock.since(since) >= REPORT_EVERY {
            self.report();
        }
    }

    /// Reports finished messages and commit requests to the consumers.
    pub(super) fn report(&mut self) {
        self.unreported.report();
    }
}
