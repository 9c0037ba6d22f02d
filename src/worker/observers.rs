//! Observers: runs of the functions that files gave to `tide.on`.
//!
//! A consumer tells an event to each worker that observes it. Observers of a revocation begin when no call of the
//! partitions that go runs in this worker, so that they see the work of the last message. If calls take too long, the
//! observers begin beside them. The consumer waits for the end of the observers before its last commit.

use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};

use crate::assignment::{Observed, ToConsumer};
use crate::log::log;
use crate::lua::Failure;
use crate::lua::control::observers::PartitionEvent;

use super::Worker;

/// The events whose observers have not begun yet, in the order of their arrival.
#[derive(Default)]
pub(super) struct Observers {
    queue: VecDeque<Arc<Told>>,
    /// Those of the queue, and those whose observers run.
    told: Vec<Weak<Told>>,
}

impl Observers {
    /// The event of a revocation of this partition, until its last observer has ended.
    pub(super) fn of_revocation(&self, epoch: u64) -> Option<Weak<Told>> {
        let mut told = self.told.iter();
        let is_of = |one: &&Weak<Told>| {
            one.upgrade().is_some_and(|one| {
                one.event.event == PartitionEvent::Revoked && one.event.epochs.contains(&epoch)
            })
        };
        told.find(is_of).cloned()
    }
}

/// An event in this worker. Its last observer that ends drops it, which tells the consumer.
pub(super) struct Told {
    event: Arc<Observed>,
    worker: usize,
}

impl Drop for Told {
    fn drop(&mut self) {
        if let Some(inbox) = &self.event.inbox {
            inbox.send(ToConsumer::Observed {
                id: self.event.id,
                worker: self.worker,
            });
        }
    }
}

/// The run of one observer.
pub(super) struct Observing {
    told: Arc<Told>,
    position: Arc<str>,
}

impl Observing {
    pub(super) fn event(&self) -> Arc<Observed> {
        self.told.event.clone()
    }

    pub(super) fn too_long(&self) -> Failure {
        let name = self.told.event.event.name();
        Failure::given_up(format!(
            "the observer of `{name}` was given up: its time is over, since a revocation waits for `daemon.drainDeadline` \
             at most; do less in it, or wait less"
        ))
    }

    /// The observer has ended. A failure changes nothing else: the revocation goes on.
    pub(super) fn end(&self, failure: Option<&Failure>) {
        let Some(failure) = failure else { return };
        let (error, traceback) = (&*failure.message, failure.traceback.as_deref());
        let (observer, event) = (&*self.position, self.told.event.event.name());
        log!(
            error,
            worker,
            observer,
            event,
            error,
            traceback,
            "observer failed"
        );
    }

    /// Calls of the VM waited for the observer.
    pub(super) fn say_slow(&self, held: Duration) {
        let (observer, event) = (&*self.position, self.told.event.event.name());
        let held_ms = held.as_millis() as u64;
        log!(
            warn,
            worker,
            observer,
            event,
            held_ms,
            "observer held the vm: handlers waited"
        );
    }

    fn say_not_run(&self, reason: &str) {
        let (observer, event) = (&*self.position, self.told.event.event.name());
        log!(error, worker, observer, event, reason, "observer not run");
    }
}

impl Worker {
    /// The consumer tells an event.
    pub(super) fn observe(&mut self, event: Arc<Observed>) {
        let worker = self.index;
        let told = Arc::new(Told { event, worker });
        self.observers.told.retain(|one| one.strong_count() > 0);
        self.observers.told.push(Arc::downgrade(&told));
        self.observers.queue.push_back(told);
    }

    /// Runs the observers of the events that are due.
    pub(super) fn run_observers(&mut self, now: Instant) {
        while let Some(told) = self.observers.queue.front() {
            let is_over = told.event.ends_at <= now;
            if !is_over && !self.may_observe(&told.event, now) {
                return;
            }
            let told = told.clone();
            self.observers.queue.pop_front();
            self.begin_observers(&told, is_over);
        }
    }

    /// Whether the observers of this event may begin: under the rules of ticks, and not beside calls of partitions
    /// that go.
    fn may_observe(&self, event: &Observed, now: Instant) -> bool {
        let calls_end = event.event == PartitionEvent::Revoked && now < event.begins_at;
        let is_busy = || event.epochs.iter().any(|one| self.slots.contains_key(one));
        self.may_tick() && !self.engine.is_spoiled() && !(calls_end && is_busy())
    }

    fn begin_observers(&mut self, told: &Arc<Told>, is_over: bool) {
        self.report();
        for (event, index, position) in self.engine.observers() {
            if event != told.event.event {
                continue;
            }
            let told = told.clone();
            let observing = Observing { told, position };
            if is_over {
                observing.say_not_run("its time was over before the worker could run it");
            } else if self.engine.is_spoiled() {
                observing.say_not_run("the observer before it used up its vm, which is replaced");
            } else {
                self.run_observer(index, observing);
            }
        }
    }

    /// When the loop has work for an event. It looks again after each letter and each turn of a partition.
    pub(super) fn next_event(&self, now: Instant) -> Option<Instant> {
        let event = &self.observers.queue.front()?.event;
        Some(if self.may_observe(event, now) {
            now
        } else if now < event.begins_at {
            event.begins_at
        } else {
            event.ends_at
        })
    }
}
