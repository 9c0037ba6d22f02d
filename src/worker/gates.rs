//! The gate of each listener: a listener takes messages if its breaker lets them run, no operator has paused it, and
//! its rate limit has room.
//!
//! A message whose listener takes none is held in its lane, without an attempt. When a gate opens, all held messages
//! try again. A rate limit calls those that it holds one by one, in the order of its queue.

mod batches;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::clock::Clock;
use crate::config::Config;
use crate::log::log;
use crate::rules::breaker::{self, Breaker, DeadLetterPermit, Opened};

use super::Worker;
use super::ids::LaneId;
use super::rates::{Admission, Rate, Rates, Waiter};
pub(super) use batches::BatchGate;

/// How long a probe is reserved for messages that have not failed before.
const FRESH_FIRST: Duration = Duration::from_millis(500);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Gate {
    Pass,
    /// Held until a gate opens.
    Wait,
}

/// Whether the next message of a partition, which has no lane, may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Begin {
    /// At once.
    Run,
    /// In a lane, which asks for itself.
    InLane,
    /// Held until a gate opens.
    Wait,
}

/// The gate of a listener, for status and metrics.
pub(super) struct State<'a> {
    pub(super) name: &'a str,
    pub(super) breaker: breaker::State,
    pub(super) is_paused: bool,
    /// Its rate limit holds messages now.
    pub(super) is_limited: bool,
    /// How often its rate limit has held a lane.
    pub(super) rate_limit_holds: u64,
}

pub(super) struct Gates {
    clock: Clock,
    rates: Arc<Rates>,
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
    /// What rate limits have called and the worker has not woken yet.
    called: Vec<Waiter>,
}

struct One {
    name: String,
    breaker: Breaker,
    is_paused: bool,
    rate: Option<Rate>,
    rate_limit_holds: u64,
    /// Successful runs that are not yet reported to the breaker.
    done: u32,
    /// The lane of the probe under way.
    probe: Option<LaneId>,
    /// Since when the breaker has wanted a probe.
    wanted: Option<Instant>,
}

impl Gates {
    pub(super) fn new(clock: Clock, rates: Arc<Rates>) -> Self {
        Self {
            clock,
            rates,
            listeners: Vec::new(),
            any_shut: false,
            paused: BTreeSet::new(),
            opened: false,
            next_try: None,
            called: Vec::new(),
        }
    }

    /// Sets the listeners of a bundle. A listener in both bundles keeps its dead-letter count, but an open breaker is
    /// closed: the new bundle may have fixed the failures.
    pub(super) fn set_listeners(&mut self, config: &Config, index: usize, count: usize) {
        let mut old = std::mem::take(&mut self.listeners);
        let now = self.clock.now();
        self.listeners = config
            .listeners
            .iter()
            .map(|listener| {
                let letters = listener.dead_letter.as_ref().map(|policy| {
                    let share = super::share(policy.per_minute_max as usize, index, count);
                    share.max(1) as u32
                });
                let known = old.iter().position(|one| one.name == listener.name);
                let (breaker, rate_limit_holds) = match known.map(|place| old.swap_remove(place)) {
                    Some(mut one) => {
                        one.breaker.set_policy(listener.breaker, letters);
                        (one.breaker, one.rate_limit_holds)
                    }
                    None => (Breaker::new(listener.breaker, letters), 0),
                };
                let limit = listener.rate_limit;
                One {
                    is_paused: self.paused.contains(&listener.name),
                    rate: limit.map(|limit| self.rates.of(&listener.name, limit, now)),
                    rate_limit_holds,
                    name: listener.name.clone(),
                    breaker,
                    done: 0,
                    probe: None,
                    wanted: None,
                }
            })
            .collect();
        drop(old);
        self.rates.prune(config);
        self.called.clear();
        self.opened = true;
        self.look();
    }

    /// Whether the listener takes every message: no breaker, no pause, no rate limit has a say.
    pub(super) fn is_open(&self, listener: usize) -> bool {
        !self.any_shut || self.listeners.get(listener).is_none_or(One::is_open)
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

    /// A run of this lane has returned, and its message is not done: the probe of a breaker has seen enough.
    pub(super) fn returned(&mut self, listener: usize, id: LaneId) {
        let one = self.listeners.get(listener);
        if one.is_some_and(|one| !one.breaker.is_closed() && one.probe == Some(id)) {
            self.done_in(listener, id);
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
        self.any_shut = !self.listeners.iter().all(One::is_open);
    }

    /// Held messages try again at this moment.
    fn try_again_at(&mut self, at: Instant) {
        self.next_try = Some(self.next_try.map_or(at, |next| next.min(at)));
    }

    /// When held messages try again.
    pub(super) fn next_try(&self) -> Option<Instant> {
        if !self.any_shut {
            return self.next_try;
        }
        let rates = self.listeners.iter().filter_map(|one| one.rate.as_ref());
        rates.filter_map(Rate::next).chain(self.next_try).min()
    }

    /// The pause of a breaker may be over: held messages try again. A rate limit calls those that may run now.
    pub(super) fn tick(&mut self, now: Instant) {
        if self.any_shut {
            for rate in self
                .listeners
                .iter_mut()
                .filter_map(|one| one.rate.as_mut())
            {
                rate.tick(now, &mut self.called);
            }
        }
        if self.next_try.take_if(|at| *at <= now).is_some() {
            self.opened = true;
        }
    }

    pub(super) fn take_called(&mut self) -> Vec<Waiter> {
        std::mem::take(&mut self.called)
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
        if self.is_open(listener) {
            return Gate::Pass;
        }
        let gate = self.look_at(listener);
        let now = self.clock.now();
        let Some(one) = self
            .listeners
            .get_mut(listener)
            .filter(|_| gate == Gate::Pass)
        else {
            return gate;
        };
        let is_probe = !one.breaker.is_closed();
        if is_probe {
            let until = *one.wanted.get_or_insert(now) + FRESH_FIRST;
            if failed && now < until {
                self.try_again_at(until);
                return Gate::Wait;
            }
        }
        if !one.admit(Waiter::Lane(id), 1, now) {
            return Gate::Wait;
        }
        if is_probe {
            one.wanted = None;
            one.breaker.probing();
            one.probe = Some(id);
        }
        Gate::Pass
    }

    /// Whether this listener, the only one of its topic, may run the next message of a partition now. `is_plain`: the
    /// message needs no lane.
    pub(super) fn begin(&mut self, listener: usize, epoch: u64, is_plain: bool) -> Begin {
        let plain = if is_plain { Begin::Run } else { Begin::InLane };
        if self.is_open(listener) {
            return plain;
        }
        if self.look_at(listener) == Gate::Wait {
            return Begin::Wait;
        }
        let now = self.clock.now();
        match self.listeners.get_mut(listener) {
            Some(one) if is_plain && one.breaker.is_closed() => {
                if one.admit(Waiter::Partition(epoch), 1, now) {
                    Begin::Run
                } else {
                    Begin::Wait
                }
            }
            _ => Begin::InLane,
        }
    }

    /// When the last run of a listener with a rate limit was admitted.
    pub(super) fn admitted(&self, listener: usize) -> Option<Instant> {
        let one = self.listeners.get(listener).filter(|_| self.any_shut)?;
        one.rate.as_ref().and_then(Rate::admitted)
    }

    /// Whether breaker and operator let this listener take messages now.
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

    /// A run of this listener failed. `is_left`: of a message that was left when its partition came. Mostly those are
    /// left that fail, so a row of them says nothing of the listener.
    pub(super) fn failed(&mut self, listener: usize, id: LaneId, is_left: bool) {
        let now = self.clock.now();
        self.flush(now);
        let Some(one) = self.listeners.get_mut(listener) else {
            return;
        };
        let is_closed = one.breaker.is_closed();
        // Or the run began before the breaker opened.
        if is_closed && is_left || !is_closed && one.probe != Some(id) {
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
        self.forget(|one| one == id, |_| false);
    }

    /// The partition is gone.
    pub(super) fn forget_partition(&mut self, epoch: u64) {
        self.forget(|one| one.epoch == epoch, |one| one == epoch);
    }

    /// What was called will not ask: it must not count as one that waits.
    pub(super) fn forget_waiter(&mut self, waiter: Waiter) {
        for rate in self
            .listeners
            .iter_mut()
            .filter_map(|one| one.rate.as_mut())
        {
            rate.forget(|one| one == waiter);
        }
    }

    fn forget(&mut self, is_lane: impl Fn(LaneId) -> bool, is_partition: impl Fn(u64) -> bool) {
        for one in &mut self.listeners {
            if one.probe.take_if(|probe| is_lane(*probe)).is_some() {
                one.breaker.cancelled();
                self.opened = true;
            }
            if let Some(rate) = &mut one.rate {
                rate.forget(|waiter| match waiter {
                    Waiter::Lane(id) => is_lane(id),
                    Waiter::Partition(epoch) => is_partition(epoch),
                });
            }
        }
    }

    /// The gate of each listener, for the status and the metrics.
    pub(super) fn states(&self) -> impl Iterator<Item = State<'_>> {
        self.listeners.iter().map(|one| State {
            name: &one.name,
            breaker: one.breaker.state(),
            is_paused: one.is_paused,
            is_limited: one.rate.as_ref().is_some_and(Rate::holds_any),
            rate_limit_holds: one.rate_limit_holds,
        })
    }
}

impl One {
    fn is_open(&self) -> bool {
        !self.is_paused && self.breaker.is_closed() && self.rate.is_none()
    }

    /// Whether the rate limit has room for a run of so many messages; if not, it waits in the queue of the limit.
    fn admit(&mut self, waiter: Waiter, messages: u64, now: Instant) -> bool {
        let Some(rate) = &mut self.rate else {
            return true;
        };
        match rate.admit(waiter, messages, now) {
            Admission::Run => true,
            Admission::Held { is_new } => {
                self.rate_limit_holds += u64::from(is_new);
                false
            }
        }
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
