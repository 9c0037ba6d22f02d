//! Tells the observers of handlers when partitions come and go, and waits for the end of those of a revocation.
//!
//! A partition that goes is told once, however many steps its end has: a new subscription under an eager assignor
//! drains it first, and librdkafka revokes it afterwards.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Observed, PartitionKey, ToWorker};
use crate::lua::control::observers::PartitionEvent;
use crate::wait::Value;

use super::Consumer;
use super::held::{self, Held};

/// The time of observers that nothing waits for: that of a tick.
const UNAWAITED: Duration = Duration::from_secs(300);

/// The events whose observers have not all ended, of those that the consumer waits for.
#[derive(Default)]
pub(super) struct Observations {
    last: u64,
    open: Vec<Observation>,
}

struct Observation {
    id: u64,
    /// The workers that have not answered, by index.
    workers: BTreeSet<usize>,
    ends_at: Instant,
}

impl Observations {
    /// Whether no observer has to end before partitions may go.
    pub(super) fn are_over(&self, now: Instant) -> bool {
        self.open.iter().all(|one| one.ends_at <= now)
    }

    pub(super) fn ended(&mut self, id: u64, worker: usize) {
        for one in &mut self.open {
            if one.id == id {
                one.workers.remove(&worker);
            }
        }
        self.open.retain(|one| !one.workers.is_empty());
    }

    /// Forgets workers that have ended, and events whose time is over.
    fn forget(&mut self, is_gone: impl Fn(usize) -> bool, now: Instant) {
        for one in &mut self.open {
            one.workers.retain(|worker| !is_gone(*worker));
        }
        self.open
            .retain(|one| !one.workers.is_empty() && one.ends_at > now);
    }
}

impl Consumer {
    /// These partitions have come.
    pub(super) fn observe_assigned(&mut self, keys: &[PartitionKey], now: Instant) {
        self.observe(
            PartitionEvent::Assigned,
            keys,
            Vec::new(),
            now,
            now + UNAWAITED,
        );
    }

    /// The partitions that `goes` takes are about to go. Their observers may run until `ends_at`, and calls may end
    /// before they begin, for half of that time. Workers hear of it before they release the partitions: what is deferred
    /// there may be finished until then.
    pub(super) fn observe_revoked(
        &mut self,
        goes: impl Fn(&Held) -> bool,
        now: Instant,
        ends_at: Instant,
    ) {
        let (keys, epochs) = self.tell_going(goes);
        let begins_at = now + ends_at.saturating_duration_since(now) / 2;
        self.observe(PartitionEvent::Revoked, &keys, epochs, begins_at, ends_at);
    }

    /// The partitions that `goes` takes are lost. Nothing waits for the observers.
    pub(super) fn observe_lost(&mut self, goes: impl Fn(&Held) -> bool, now: Instant) {
        let (keys, _) = self.tell_going(goes);
        self.observe(
            PartitionEvent::Lost,
            &keys,
            Vec::new(),
            now,
            now + UNAWAITED,
        );
    }

    /// Marks the partitions that go and were not told before.
    fn tell_going(&mut self, goes: impl Fn(&Held) -> bool) -> (Vec<PartitionKey>, Vec<u64>) {
        let (mut keys, mut epochs) = (Vec::new(), Vec::new());
        for held in self.held.values_mut() {
            if goes(held)
                && std::mem::replace(&mut held.observed, held::Observed::Going)
                    == held::Observed::Assigned
            {
                keys.push(held.key());
                epochs.push(held.epoch.partition.epoch);
            }
        }
        keys.sort();
        (keys, epochs)
    }

    fn observe(
        &mut self,
        event: PartitionEvent,
        keys: &[PartitionKey],
        epochs: Vec<u64>,
        begins_at: Instant,
        ends_at: Instant,
    ) {
        let observing = self.control.observers.of(event);
        if keys.is_empty() || observing.is_empty() {
            return;
        }
        self.observations.last += 1;
        let id = self.observations.last;
        let is_awaited = event == PartitionEvent::Revoked;
        let observed = Arc::new(Observed {
            id,
            event,
            argument: Arc::new(argument(event, &self.name, keys)),
            epochs,
            begins_at,
            ends_at,
            inbox: is_awaited.then(|| self.inbox.clone()),
        });
        let workers = observing
            .into_iter()
            .filter(|one| *one < self.workers.len());
        let workers: BTreeSet<_> = workers.collect();
        for worker in &workers {
            self.workers[*worker].send(ToWorker::Observe(observed.clone()));
        }
        if is_awaited {
            self.observations.open.push(Observation {
                id,
                workers,
                ends_at,
            });
        }
    }

    /// Observers of workers that have ended are not waited for.
    pub(super) fn look_at_observers(&mut self, now: Instant) {
        let workers = &self.workers;
        let is_gone = |worker: usize| workers.get(worker).is_none_or(|one| one.is_closed());
        self.observations.forget(is_gone, now);
    }
}

/// `{ event = "revoked", consumer = "default", partitions = { { topic = "orders", partition = 3 }, … } }`.
fn argument(event: PartitionEvent, consumer: &str, keys: &[PartitionKey]) -> Value {
    let text = |text: &str| Value::Bytes(text.as_bytes().into());
    let partition = |key: &PartitionKey| {
        Value::Table(vec![
            (text("topic"), text(&key.topic)),
            (text("partition"), Value::Integer(key.number.into())),
        ])
    };
    let numbered = keys.iter().zip(1..);
    let partitions = numbered.map(|(key, number)| (Value::Integer(number), partition(key)));
    Value::Table(vec![
        (text("event"), text(event.name())),
        (text("consumer"), text(consumer)),
        (text("partitions"), Value::Table(partitions.collect())),
    ])
}
