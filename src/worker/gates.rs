//! The gate of each listener: a listener takes messages if its breaker lets them run and no operator has paused it.
//!
//! A message whose listener takes none is held in its lane, without an attempt. When a gate opens, all held messages
//! try again.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::Config;
use crate::log::log;
use crate::rules::breaker::{self, Breaker, DeadLetterPermit, Opened};

use super::Worker;
use super::ids::LaneId;

/// How long a probe is reserved for messages that have not failed before.
const FRESH_FIRST: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Pass,
    /// Held until a gate opens.
    Wait,
}

pub(super) struct Gates {
    clock: Clock,
    /// By the listener's index in the config.
    listeners: Vec<One>,
    /// At least one listener does not take messages.
    any_shut: bool,
    /// By name, also for listeners of a later bundle.
    paused: BTreeSet<String>,
    /// Messages may pass now that could not before.
    opened: bool,
    /// When a breaker may admit a probe or a dead letter.
    next_try: Option<Instant>,
}

struct One {
    name: String,
    breaker: Breaker,
    is_paused: bool,
    /// Successful runs that are not yet reported to the breaker.
    done: u32,
    /// The lane of the probe under way.
    probe: Option<LaneId>,
    /// Since when the breaker has wanted a probe.
    wanted: Option<Instant>,
}

impl Gates {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            listeners: Vec::new(),
            any_shut: false,
            paused: BTreeSet::new(),
            opened: false,
            next_try: None,
        }
    }

    /// Sets the listeners of a bundle. A listener in both bundles keeps its dead-letter count, but an open breaker is
    /// closed: the new bundle may have fixed the failures.
    pub(super) fn set_listeners(&mut self, config: &Config, index: usize, count: usize) {
        let mut old = std::mem::take(&mut self.listeners);
        self.listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let letters = listener.dead_letter.as_ref().map(|policy| {
                    let share = super::share(policy.per_minute_max as usize, index, count);
                    share.max(1) as u32
                });
                let known = old.iter().position(|one| one.name == listener.name);
                let breaker = match known.map(|place| old.swap_remove(place)) {
                    Some(mut one) => {
                        one.breaker.set_policy(listener.breaker, letters);
                        one.breaker
                    }
                    None => Breaker::new(listener.breaker, letters),
                };
                One {
                    is_paused: self.paused.contains(&listener.name),
                    name: listener.name.clone(),
                    breaker,
                    done: 0,
                    probe: None,
                    wanted: None,
                }
            })
            .collect();
        self.opened = true;
        self.look();
    }

    /// Whether every gate is open, by breakers and by pauses.
    pub(super) fn all_pass(&self) -> bool {
        !self.any_shut
    }

    /// A run succeeded.
    pub(super) fn done(&mut self, listener: usize) {
        if let Some(one) = self.listeners.get_mut(listener) {
            one.done += 1;
        }
    }

    /// A run of this lane succeeded. While the breaker is not closed only its probe counts: every other run began
    /// before.
    pub(super) fn done_in(&mut self, listener: usize, id: LaneId) {
        let Some(one) = self.listeners.get_mut(listener) else {
            return;
        };
        if one.breaker.is_closed() {
            one.done += 1;
        } else if one.probe == Some(id) {
            one.done = 1;
            self.flush(self.clock.now());
        }
    }

    /// Reports the successful runs to the breakers.
    pub(super) fn flush(&mut self, now: Instant) {
        let mut changed = false;
        for one in self.listeners.iter_mut().filter(|one| one.done > 0) {
            let was_closed = one.breaker.is_closed();
            if one.breaker.done(std::mem::take(&mut one.done), now) {
                log!(
                    info,
                    worker,
                    listener = one.name,
                    "breaker closed: the listener takes messages again"
                );
            }
            changed |= !was_closed;
            one.probe = None;
        }
        if changed {
            self.opened = true;
            self.look();
        }
    }

    fn look(&mut self) {
        self.any_shut = self
            .listeners
            .iter()
            .any(|one| one.is_paused || !one.breaker.is_closed());
    }

    /// Held messages try again at this moment.
    fn try_again_at(&mut self, at: Instant) {
        self.next_try = Some(self.next_try.map_or(at, |next| next.min(at)));
    }

    /// When held messages try again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        self.next_try
    }

    /// The pause of a breaker may be over: held messages try again.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.next_try.take_if(|at| *at <= now).is_some() {
            self.opened = true;
        }
    }

    /// Whether messages may pass that could not at the last call.
    pub(super) fn take_opened(&mut self) -> bool {
        std::mem::take(&mut self.opened)
    }

    pub(super) fn set_paused(&mut self, listener: &str, is_paused: bool) {
        if is_paused {
            self.paused.insert(listener.to_owned());
        } else {
            self.paused.remove(listener);
        }
        for one in self.listeners.iter_mut().filter(|one| one.name == listener) {
            one.is_paused = is_paused;
        }
        self.opened = true;
        self.look();
    }

    /// Whether this listener may run a message of that lane now. This begins a probe, preferably with a message that
    /// has not failed before: a probe tests the listener, not one message.
    pub(super) fn gate(&mut self, listener: usize, id: LaneId, failed: bool) -> Gate {
        if self.all_pass() {
            return Gate::Pass;
        }
        let gate = self.look_at(listener);
        if let Some(one) = self.listeners.get_mut(listener)
            && gate == Gate::Pass
            && !one.breaker.is_closed()
        {
            let now = self.clock.now();
            let until = *one.wanted.get_or_insert(now) + FRESH_FIRST;
            if failed && now < until {
                self.try_again_at(until);
                return Gate::Wait;
            }
            one.wanted = None;
            one.breaker.probing();
            one.probe = Some(id);
        }
        gate
    }

    /// Whether this listener takes messages now.
    pub(super) fn look_at(&mut self, listener: usize) -> Gate {
        let Some(one) = self.listeners.get_mut(listener) else {
            return Gate::Pass;
        };
        if one.is_paused {
            return Gate::Wait;
        }
        let now = self.clock.now();
        match one.breaker.gate(now) {
            breaker::Gate::Pass | breaker::Gate::Probe => Gate::Pass,
            breaker::Gate::Wait(until) => {
                self.try_again_at(until);
                Gate::Wait
            }
        }
    }

    /// A run of this listener failed.
    pub(super) fn failed(&mut self, listener: usize, id: LaneId) {
        let now = self.clock.now();
        self.flush(now);
        let Some(one) = self.listeners.get_mut(listener) else {
            return;
        };
        if !one.breaker.is_closed() && one.probe != Some(id) {
            // The run began before the breaker opened.
            return;
        }
        one.probe = None;
        if let Some(opened) = one.breaker.failed(now) {
            self.say_opened(listener, opened);
        }
    }

    /// Whether a dead letter of this listener may be sent now; else when to ask again.
    pub(super) fn may_bury(&mut self, listener: usize) -> Result<(), Instant> {
        let now = self.clock.now();
        let Some(one) = self.listeners.get_mut(listener) else {
            return Ok(());
        };
        match one.breaker.dead_letter(now) {
            DeadLetterPermit::Send => Ok(()),
            DeadLetterPermit::Wait { until, opened } => {
                if let Some(opened) = opened {
                    self.say_opened(listener, opened);
                }
                Err(until)
            }
        }
    }

    fn say_opened(&mut self, listener: usize, opened: Opened) {
        self.look();
        self.try_again_at(opened.until);
        let now = self.clock.now();
        let Some(one) = self.listeners.get_mut(listener) else {
            return;
        };
        one.wanted = None;
        let (why, pause) = (
            opened.why.to_string(),
            opened.until.saturating_duration_since(now),
        );
        if opened.is_again {
            log!(
                warn,
                worker,
                listener = one.name,
                why,
                pause_ms = pause.as_millis() as u64,
                "breaker stays open: a probe failed"
            );
        } else {
            log!(
                error,
                worker,
                listener = one.name,
                why,
                pause_ms = pause.as_millis() as u64,
                "breaker opened: the listener takes no messages until a probe succeeds"
            );
        }
    }

    /// The call of this lane ended without an outcome: if it was a probe, another probe may run.
    pub(super) fn forget_probe(&mut self, id: LaneId) {
        self.forget_probes(|one| one == id);
    }

    pub(super) fn forget_probes(&mut self, is_meant: impl Fn(LaneId) -> bool) {
        for one in &mut self.listeners {
            if one.probe.take_if(|probe| is_meant(*probe)).is_some() {
                one.breaker.cancelled();
                self.opened = true;
            }
        }
    }

    /// For each listener, the breaker's state and whether an operator has paused it, for the status and the metrics.
    pub(super) fn states(&self) -> impl Iterator<Item = (&str, breaker::State, bool)> {
        self.listeners
            .iter()
            .map(|one| (one.name.as_str(), one.breaker.state(), one.is_paused))
    }
}

impl Worker {
    /// Held messages try again, if a gate has opened.
    pub(super) fn release_held(&mut self) {
        if !self.gates.take_opened() {
            return;
        }
        let mut awake = Vec::new();
        for (epoch, slot) in &mut self.slots {
            slot.lanes.release_held();
            awake.push(*epoch);
        }
        for epoch in awake {
            self.wake(epoch);
        }
    }
}
