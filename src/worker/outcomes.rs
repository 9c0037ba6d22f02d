//! What a run has come to, and what follows from it: done, wait, back-off, dead letter, skip, stop.

use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config::{Config, Listener, OnError};
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::lanes::{Lane, Stage};
use crate::lua::{Failure, FailureKind, Step, Verdict};
use crate::message::Record as _;
use crate::metrics::Outcome;
use crate::partition::Partition;
use crate::status::Blocked;
use crate::supervisor::Ending;
use crate::{retry, retry_topic};

use super::Worker;
use super::calls::Open;
use super::slot::Slot;

/// Where a handler failed.
pub(super) struct Place<'a> {
    pub(super) listener: &'a Listener,
    pub(super) partition: &'a Partition,
    pub(super) offset: i64,
    pub(super) attempt: u32,
    pub(super) bundle: u64,
}

impl Worker {
    /// What a call has come to.
    #[expect(
        clippy::too_many_arguments,
        reason = "a lane and its place are apart while it runs"
    )]
    pub(super) fn advance(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        lane: &mut Lane<Message>,
        index: usize,
        vm: u64,
        step: Step,
    ) {
        let epoch = slot.partition.epoch;
        let listener = slot.plan.listeners.get(index).copied();
        if !matches!(step, Step::Waits(..)) {
            self.running.end(epoch, key);
        }
        let stage = match step {
            Step::Waits(call, wait) => {
                let limit =
                    listener.map_or(Duration::ZERO, |one| config.listeners[one].limits.timeout);
                let now = Instant::now();
                let open = Open {
                    epoch,
                    lane: key,
                    listener: lane.progress[index].listener.clone(),
                    began: self.meter.suspended(now),
                    deadline: now + limit,
                };
                self.running.park(epoch, key);
                failpoint!("handler-waits");
                self.suspend(slot, vm, call, wait, open, true);
                lane.progress[index].stage = Stage::Running;
                return;
            }
            Step::Done => {
                if let Some(listener) = listener {
                    self.gates.done(listener);
                    self.meter.outcome(listener, Outcome::Done);
                }
                Stage::Final
            }
            Step::Failed(failure) => self.failed(slot, config, key, lane, index, &failure, None),
            Step::Asked(verdict) => self.asked(slot, config, key, lane, index, &verdict),
        };
        lane.progress[index].stage = stage;
        self.end_alone(epoch, key);
    }

    /// What a handler asked for.
    fn asked(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        lane: &mut Lane<Message>,
        index: usize,
        verdict: &Verdict,
    ) -> Stage {
        let failure = Failure::of_verdict(verdict);
        let Some(listener) = named(config, &lane.progress[index].listener) else {
            return Stage::Final;
        };
        match verdict {
            Verdict::Retry { after, .. } => {
                self.failed(slot, config, key, lane, index, &failure, *after)
            }
            Verdict::Skip { .. } => {
                let place = self.place(slot, lane, index, listener);
                self.log
                    .skipped(&place, &failure, "its handler asked for that");
                self.ended(slot, lane, index, Outcome::Skipped)
            }
            Verdict::DeadLetter { .. } if listener.dead_letter.is_some() => {
                self.dead_letter(slot, key, lane, index, listener, &failure)
            }
            Verdict::DeadLetter { .. } => {
                let failure = Failure {
                    message: format!(
                        "{}: `ctx.deadLetter` was called, but listener `{}` has no `deadLetter` topic",
                        failure.message, listener.name
                    ),
                    ..failure
                };
                self.failed(slot, config, key, lane, index, &failure, None)
            }
        }
    }

    /// Decides what follows a failed run, and says it. `after` is the wait that the handler asked for.
    #[expect(
        clippy::too_many_arguments,
        reason = "a lane and its place are apart while it runs"
    )]
    pub(super) fn failed(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        lane: &mut Lane<Message>,
        index: usize,
        failure: &Failure,
        after: Option<Duration>,
    ) -> Stage {
        let Some(listener) = named(config, &lane.progress[index].listener) else {
            return Stage::Final;
        };
        if let Some(&number) = slot.plan.listeners.get(index) {
            self.meter.failed(number, failure.kind);
        }
        if failure.kind == FailureKind::Memory && !lane.alone {
            // What could not be allocated may be another message's fault: no attempt of this one, and again alone.
            lane.alone = true;
            lane.progress[index].attempt = lane.progress[index].attempt.saturating_sub(1);
            self.log
                .suspected(&self.place(slot, lane, index, listener), failure);
            return Stage::Due;
        }
        if let Some(&number) = slot.plan.listeners.get(index) {
            self.gate_failed(number);
        }
        let now = now_ms();
        let attempt = lane.progress[index].attempt;
        lane.progress[index].failing_since.get_or_insert(now);
        if let Some(delay) = retry_topic::delay(&listener.retry, attempt) {
            return self.retry_later(slot, key, lane, index, listener, failure, delay);
        }
        let delay = retry::delay(&listener.retry, attempt, fastrand::f64());
        let delay = delay.map(|delay| after.unwrap_or(delay));
        match (delay, listener.on_error) {
            (Some(delay), _) => {
                let place = self.place(slot, lane, index, listener);
                self.log.failed(&place, failure, Some(delay));
                self.block(slot, lane, index, &failure.message, Some(delay));
                Stage::BackOff(Instant::now() + delay)
            }
            (None, OnError::Stop) => {
                let place = self.place(slot, lane, index, listener);
                self.log.failed(&place, failure, None);
                let sentence = format!(
                    "listener `{}` stops at {}-{}@{} after {attempt} attempts: {}",
                    listener.name,
                    slot.partition.topic,
                    slot.partition.number,
                    place.offset,
                    failure.message
                );
                // The daemon may be stopping for another reason already.
                let _ = self.endings.send(Ending::Message(sentence));
                self.block(slot, lane, index, &failure.message, None);
                Stage::Halted
            }
            (None, OnError::DeadLetter) => {
                self.dead_letter(slot, key, lane, index, listener, failure)
            }
            (None, OnError::Retry | OnError::Skip) => {
                let place = self.place(slot, lane, index, listener);
                self.log.skipped(
                    &place,
                    failure,
                    "its handler failed and `onError` is \"skip\"",
                );
                self.ended(slot, lane, index, Outcome::Skipped)
            }
        }
    }

    /// A message has ended in one listener, otherwise than done.
    pub(super) fn ended(
        &mut self,
        slot: &mut Slot,
        lane: &Lane<Message>,
        index: usize,
        outcome: Outcome,
    ) -> Stage {
        if let Some(listener) = self.meter.index_of(&lane.progress[index].listener) {
            self.meter.outcome(listener, outcome);
        }
        slot.note(lane.number, outcome);
        Stage::Final
    }

    pub(super) fn place<'a>(
        &self,
        slot: &'a Slot,
        lane: &Lane<Message>,
        index: usize,
        listener: &'a Listener,
    ) -> Place<'a> {
        Place {
            listener,
            partition: &slot.partition,
            offset: lane.message.offset(),
            attempt: lane.progress[index].attempt,
            bundle: self.engine.bundle().number,
        }
    }

    /// The status shows what keeps a lane waiting, and until when.
    pub(super) fn block(
        &self,
        slot: &mut Slot,
        lane: &Lane<Message>,
        index: usize,
        error: &str,
        delay: Option<Duration>,
    ) {
        let progress = &lane.progress[index];
        let now = now_ms();
        let wait = i64::try_from(delay.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let blocked = Blocked {
            offset: lane.message.offset(),
            listener: progress.listener.clone(),
            attempt: progress.attempt,
            since: progress.failing_since.unwrap_or(now),
            next_attempt_at: now.saturating_add(wait),
            error: error.to_owned(),
        };
        slot.block(lane.number, blocked);
    }
}

/// A listener of the bundle in force.
pub(super) fn named<'a>(config: &'a Config, name: &str) -> Option<&'a Listener> {
    config
        .listeners
        .iter()
        .find(|listener| listener.name == name)
}
