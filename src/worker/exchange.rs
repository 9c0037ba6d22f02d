//! Exchanges VMs: after a call that spoiled one, and at a reload, which also gives every partition other listeners.

use std::sync::Arc;
use std::time::Instant;

use crate::bundle::Bundle;
use crate::log::log;
use crate::message::Record as _;
use crate::rules::route::{self, Plan};

use super::{Worker, names, turn_max};

impl Worker {
    /// Replaces a spoiled VM, drops a drained one, and swaps in a queued bundle.
    pub(super) fn mend(&mut self, now: Instant) {
        if self.engine.is_to_change() {
            // To build a VM may take long, so the worker reports first. A consumer hears of a bundle as soon as it is
            // in force here. Messages finished before do not belong to a listener that the bundle switches to manual
            // commits.
            self.report();
        }
        // Twice: if the new VM is spoiled while an old one drains, the old one has to go first.
        for _ in 0..2 {
            self.let_go();
            self.engine.mend(now);
            if self.engine.down_until().is_some() {
                self.abandon(self.engine.generation());
            }
            if let Some(vm) = self.engine.overdue(now) {
                self.abandon(vm);
            }
        }
        self.let_go();
        if self.engine.swap(now) {
            self.reroute();
        }
        self.follow_timers();
    }

    /// Drops a drained VM. What it has deferred, and its `shutdown` has not finished, runs again.
    fn let_go(&mut self) {
        if let Some((generation, given)) = self.engine.let_go() {
            self.vm_ended(generation, given);
        }
    }

    /// A new bundle is in force: every partition gets its listeners, and all back-offs end.
    fn reroute(&mut self) {
        let bundle: Arc<Bundle> = self.engine.bundle().clone();
        let config = &bundle.config;
        self.beat.allow(turn_max(config));
        self.gates.set_listeners(config, self.index, self.count);
        self.meter.set_listeners(names(config));
        for slot in self.slots.values_mut() {
            let Some(plan) = route::plan(config, &slot.partition.consumer, &slot.partition.topic)
            else {
                // The consumer retires the topic: until its message arrives nothing of the topic may start.
                slot.partition.end();
                slot.plan = Arc::new(Plan::nobody());
                continue;
            };
            if plan.orders_otherwise(&slot.plan) {
                // Lanes of two orderings never mix: the consumer releases the partition, and then a new epoch begins.
                slot.partition.end();
            }
            if !plan.commits_alike(&slot.plan) {
                slot.listeners_since_bundle = bundle.number;
            }
            let before = std::mem::replace(&mut slot.plan, Arc::new(plan));
            let partition = slot.partition.clone();
            slot.set_listeners(config, |listener, message| {
                log!(
                    warn,
                    worker,
                    listener,
                    topic = &*partition.topic,
                    partition = partition.number,
                    offset = message.offset(),
                    bundle = bundle.number,
                    "message skipped: its listener was removed"
                );
            });
            slot.ask_as_automatic(&before);
            slot.lanes.end_back_offs(None);
            slot.lanes.wake_all();
        }
        let slots = &mut self.slots;
        self.forwarded.retain(|id, _| {
            let slot = slots.get_mut(&id.lane.epoch);
            let lane = slot.and_then(|slot| slot.lanes.get_mut(id.lane.lane));
            lane.is_some_and(|lane| lane.index_of(&id.listener).is_some())
        });
        self.emit_anew();
        self.run_batches_anew();
        self.places.clear_parked();
        let awake: Vec<u64> = self.slots.keys().copied().collect();
        for epoch in awake {
            self.wake(epoch);
        }
    }
}
