//! The worker's status: its counts, its listeners' gates, its partitions.

use std::time::Instant;

use crate::config::Config;
use crate::rules::breaker;
use crate::rules::lanes::Stage;
use crate::telemetry::metrics::{ListenerSnapshot, PartitionSnapshot, WorkerSnapshot};
use crate::telemetry::status::{BreakerState, ListenerStatus};

use super::Worker;
use super::slot::Slot;

impl Worker {
    pub(super) fn snapshot(&self) -> WorkerSnapshot {
        let clocks = (self.clock.now(), self.clock.wall_ms());
        let gates = self.gates.states();
        // Both are in the order of the config.
        let listeners = self.meter.counts().zip(gates).map(|((_, counts), gate)| {
            let (name, state, paused) = gate;
            let mut status = listener_status(name, state, clocks);
            status.paused = paused;
            self.add_forwarded(&mut status);
            ListenerSnapshot {
                counts: counts.clone(),
                status,
            }
        });
        let listeners: Vec<_> = listeners.collect();
        let paused = |name: &str| {
            let mut paused = listeners.iter().filter(|one| one.status.paused);
            paused.any(|one| one.status.name == name)
        };
        let config = &self.engine.bundle().config;
        let partitions = self.slots.values().map(|slot| PartitionSnapshot {
            consumer: slot.partition.consumer.clone(),
            topic: slot.partition.topic.clone(),
            partition: slot.partition.number,
            outcomes: slot.outcomes,
            waits_for_paused: slot.waits_for(config, paused),
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
                let mut progress = lane.progress.iter();
                progress.any(|one| one.stage == Stage::Held && is_such(&one.listener))
            }
            // A message that has not begun is held without a lane if its topic has a single listener.
            None => self.lanes.fresh().is_some() && self.names(config).any(is_such),
        }
    }
}

/// `clocks` is the present moment on both clocks.
fn listener_status(name: &str, state: breaker::State, clocks: (Instant, i64)) -> ListenerStatus {
    let (now, now_ms) = clocks;
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
        breaker_since: since
            .map(|at| now_ms - now.saturating_duration_since(at).as_millis() as i64),
        breaker_reason: why.map(|why| why.to_string()),
        ..ListenerStatus::default()
    }
}
