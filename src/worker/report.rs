//! The worker's status: its counts, its listeners' gates, its partitions.

use std::time::Instant;

use crate::assignment::Admits;
use crate::config::Config;
use crate::rules::breaker;
use crate::rules::lanes::Stage;
use crate::telemetry::metrics::{ListenerSnapshot, PartitionSnapshot, WorkerSnapshot};
use crate::telemetry::status::{BreakerState, Deferred, ListenerStatus, Pause};

use super::Worker;
use super::slot::Slot;

impl Worker {
    pub(super) fn snapshot(&self) -> WorkerSnapshot {
        let clocks = (self.clock.now(), self.clock.wall_ms());
        let gates = self.gates.states();
        // Both are in the order of the config.
        let listeners = self.meter.counts().zip(gates).map(|((_, counts), gate)| {
            let mut status = listener_status(gate.name, gate.breaker, clocks);
            status.paused = gate.is_paused;
            status.rate_limited = gate.is_limited;
            self.add_forwarded(&mut status);
            let mut counts = counts.clone();
            counts.rate_limit_holds = gate.rate_limit_holds;
            ListenerSnapshot { counts, status }
        });
        let listeners: Vec<_> = listeners.collect();
        let is_such = |name: &str, is_such: fn(&ListenerStatus) -> bool| {
            let mut such = listeners.iter().filter(|one| is_such(&one.status));
            such.any(|one| one.status.name == name)
        };
        let config = &self.engine.bundle().config;
        let has_limits = config.listeners.iter().any(|one| one.rate_limit.is_some());
        let partitions = self.slots.values().map(|slot| {
            let waits = if slot.partition.admits() != Admits::Runs {
                // The consumer knows why.
                None
            } else if slot.waits_for(config, |name| is_such(name, |one| one.paused)) {
                Some(Pause::Listener)
            } else {
                let limited = |name: &str| is_such(name, |one| one.rate_limited);
                let is_held = has_limits && slot.waits_for(config, limited);
                is_held.then_some(Pause::RateLimit)
            };
            let held_until = match waits {
                _ if !has_limits => None,
                Some(Pause::RateLimit) => Some(clocks.1),
                _ => slot.admitted().map(|at| wall_ms(at, clocks)),
            };
            PartitionSnapshot {
                consumer: slot.partition.consumer.clone(),
                topic: slot.partition.topic.clone(),
                partition: slot.partition.number,
                outcomes: slot.outcomes,
                waits,
                held_until,
                deferred: slot.deferred_status(),
            }
        });
        WorkerSnapshot {
            memory: self.engine.memory(),
            vms_replaced: self.engine.replaced(),
            partitions: partitions.collect(),
            listeners,
            timers: self.ticks.snapshot(),
        }
    }

    fn add_forwarded(&self, status: &mut ListenerStatus) {
        let forwarded = self.forwarded.iter();
        for (_, one) in forwarded.filter(|(id, _)| id.listener == status.name) {
            status.unacknowledged += 1;
            if status.send_error.is_none() {
                status.send_error.clone_from(&one.trouble);
            }
        }
    }
}

impl Slot {
    /// Whether the message that the position waits for waits for a listener of this kind.
    fn waits_for(&self, config: &Config, is_such: impl Fn(&str) -> bool) -> bool {
        let lowest = self.lanes.lowest();
        let lane = self.lanes.open().find(|(_, lane)| lane.number == lowest);
        match lane {
            Some((_, lane)) => {
                // One that was held may have been called a moment ago.
                let is_held = |stage| matches!(stage, Stage::Held | Stage::Due);
                let mut progress = lane.progress.iter();
                progress.any(|one| is_held(one.stage) && is_such(&one.listener))
            }
            // A message that has not begun is held without a lane if its topic has a single listener.
            None => self.lanes.fresh().is_some() && self.names(config).any(is_such),
        }
    }

    fn deferred_status(&self) -> Option<Deferred> {
        let all = self.deferred.as_ref()?;
        let (number, offset, first) = all.first()?;
        Some(Deferred {
            messages: all.len(),
            offset,
            listener: first.listener.clone(),
            at: first.position.to_string(),
            since: first.since,
            holds_position: number < self.lanes.lowest(),
        })
    }

    /// When a rate limit let the message run that the position waits for.
    fn admitted(&self) -> Option<Instant> {
        let lowest = self.lanes.lowest();
        let lane = self.lanes.open().find(|(_, lane)| lane.number == lowest);
        lane.and_then(|(_, lane)| lane.admitted)
    }
}

/// `clocks` is the present moment on both clocks.
fn wall_ms(at: Instant, clocks: (Instant, i64)) -> i64 {
    let (now, now_ms) = clocks;
    now_ms - now.saturating_duration_since(at).as_millis() as i64
}

/// `clocks` is the present moment on both clocks.
fn listener_status(name: &str, state: breaker::State, clocks: (Instant, i64)) -> ListenerStatus {
    let (breaker, since, why) = match state {
        breaker::State::Closed => (BreakerState::Closed, None, None),
        breaker::State::Open { since, why, .. } => (BreakerState::Open, Some(since), Some(why)),
        breaker::State::HalfOpen { since, why, .. } => {
            (BreakerState::HalfOpen, Some(since), Some(why))
        }
    };
    ListenerStatus {
        name: name.to_owned(),
        breaker,
        breaker_since: since.map(|at| wall_ms(at, clocks)),
        breaker_reason: why.map(|why| why.to_string()),
        ..ListenerStatus::default()
    }
}
