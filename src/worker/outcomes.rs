//! The result of a run, and the next step: done, wait, back-off, dead letter, skip, stop.

use std::sync::Arc;
use std::time::Duration;

use crate::assignment::Partition;
use crate::config::{Config, Infrastructure, Listener, OnError};
use crate::failpoint::failpoint;
use crate::lua::{Failure, FailureKind, Step, Verdict};
use crate::message::Record as _;
use crate::message::trace::TraceId;
use crate::outgoing::retry_topic;
use crate::rules::lanes::Stage;
use crate::rules::retry;
use crate::telemetry::metrics::Outcome;
use crate::threads::supervisor::Ending;

use super::Worker;
use super::calls::Open;
use super::head::Head;

/// Where a handler failed.
pub(super) struct Coordinates<'a> {
    pub(super) listener: &'a Listener,
    pub(super) partition: Arc<Partition>,
    pub(super) offset: i64,
    pub(super) attempt: u32,
    pub(super) bundle: u64,
    /// The first failure of the message, or its first one in this bundle.
    pub(super) is_first: bool,
    pub(super) trace: Option<TraceId>,
}

impl Worker {
    /// Handles the result of a call.
    pub(super) fn advance(&mut self, head: &mut Head<'_>, vm: u64, step: Step) {
        let id = head.id();
        let listener = head.number();
        if !matches!(step, Step::Waits(..)) {
            self.running.end(id);
        }
        let stage = match step {
            Step::Waits(call, waits) => {
                let limit = listener.map_or(Duration::ZERO, |one| {
                    head.config.listeners[one].limits.timeout
                });
                let now = self.clock.now();
                let open = Open {
                    epoch: id.epoch,
                    lane: id.lane,
                    offset: head.lane.message.offset(),
                    listener: head.listener().to_owned(),
                    began: self.meter.suspended(now),
                    deadline: now + limit,
                    waits: Vec::new(),
                    batch: None,
                };
                self.running.park(id);
                failpoint!("handler-waits");
                self.suspend(head.slot, vm, call, waits, open, true);
                head.progress().stage = Stage::Running;
                return;
            }
            Step::Done => {
                if let Some(listener) = listener {
                    self.gates.done_in(listener, id);
                    self.meter.outcome(listener, Outcome::Done);
                }
                Stage::Final
            }
            // A message of a listener with batches that runs alone.
            Step::Batch(end) => {
                head.lane.is_strict = true;
                return self.advance(head, vm, end.of_one());
            }
            Step::Emitted(emitted) => self.emit(head, emitted),
            Step::Deferred(deferral, emitted) => self.defer(head, vm, deferral, emitted),
            Step::Failed(failure) => self.failed(head, &failure, None),
            Step::Asked(verdict) => self.by_verdict(head, &verdict),
        };
        head.come_to(stage);
        self.end_alone(id);
    }

    /// Carries out the verdict of a handler.
    fn by_verdict(&mut self, head: &mut Head<'_>, verdict: &Verdict) -> Stage {
        let failure = Failure::of_verdict(verdict);
        let Some(listener) = named(head.config, head.listener()) else {
            return Stage::Final;
        };
        let can_be_done = match verdict {
            Verdict::Retry { .. } | Verdict::FailAt { .. } => false,
            Verdict::Skip { .. } => true,
            Verdict::DeadLetter { .. } => listener.dead_letter.is_some(),
        };
        if let Some(number) = head.number().filter(|_| can_be_done) {
            // The handler works: to refuse a message is its decision.
            self.gates.done_in(number, head.id());
        }
        match verdict {
            Verdict::Retry { after, .. } => self.failed(head, &failure, *after),
            Verdict::FailAt { .. } => self.failed(head, &failure, None),
            Verdict::Skip { .. } => {
                let place = self.coordinates(head, listener);
                self.log.skipped_by_handler(&place, &failure.message);
                self.ended(head, Outcome::Skipped)
            }
            Verdict::DeadLetter { .. } if can_be_done => self.dead_letter(head, listener, &failure),
            Verdict::DeadLetter { .. } => {
                let failure = Failure {
                    kind: FailureKind::Raised,
                    message: format!(
                        "{}: `ctx.deadLetter` was called, but listener `{}` has no `deadLetter` topic",
                        failure.message, listener.name
                    ),
                    ..failure
                };
                self.failed(head, &failure, None)
            }
        }
    }

    /// Decides the next step after a failed run, and logs it. `after` is the wait that the handler requested.
    pub(super) fn failed(
        &mut self,
        head: &mut Head<'_>,
        failure: &Failure,
        after: Option<Duration>,
    ) -> Stage {
        self.drop_deferral(head);
        let stage = self.after_failure(head, failure, after);
        head.progress().failed_in = Some(self.engine.bundle().number);
        stage
    }

    fn after_failure(
        &mut self,
        head: &mut Head<'_>,
        failure: &Failure,
        after: Option<Duration>,
    ) -> Stage {
        let Some(listener) = named(head.config, head.listener()) else {
            return Stage::Final;
        };
        if let Some(number) = head.number() {
            self.meter.failed(number, failure.kind);
        }
        if failure.kind == FailureKind::Memory && !head.lane.alone {
            // Another message may have used up the memory: the run counts as no attempt, and the message runs again
            // alone.
            head.lane.alone = true;
            head.progress().take_attempt_back();
            self.gates.forget_probe(head.id());
            self.log
                .suspected(&self.coordinates(head, listener), failure);
            return Stage::Due;
        }
        if let Some(number) = head.number() {
            // What is away says nothing of the message, whichever it is.
            let offset = head.lane.message.offset();
            let is_left = failure.kind != FailureKind::Away && head.slot.partition.is_left(offset);
            self.gates.failed(number, head.id(), is_left);
        }
        if failure.kind == FailureKind::Away
            && listener.retry.infrastructure == Infrastructure::Wait
        {
            return self.wait_for_outside(head, listener, failure);
        }
        let now = self.clock.wall_ms();
        let attempt = head.progress().attempt;
        head.progress().failing_since.get_or_insert(now);
        if let Some(delay) = retry_topic::delay(&listener.retry, attempt) {
            return self.retry_later(head, listener, failure, delay);
        }
        let delay = retry::delay(&listener.retry, attempt, self.chance.f64());
        let delay = delay.map(|delay| after.unwrap_or(delay));
        match (delay, listener.on_error) {
            // With this policy attempts have no limit; if there were one by mistake, no message would be lost.
            (None, OnError::Retry) => Stage::BackOff(self.clock.now() + listener.retry.max_delay),
            (Some(delay), _) => {
                let place = self.coordinates(head, listener);
                self.log.failed(&place, failure, Some(delay));
                head.block(self.clock.wall_ms(), &failure.message, Some(delay));
                Stage::BackOff(self.clock.now() + delay)
            }
            (None, OnError::Stop) => {
                let place = self.coordinates(head, listener);
                self.log.failed(&place, failure, None);
                let sentence = format!(
                    "listener `{}` stops at {}[{}]@{} after {attempt} attempts: {}",
                    listener.name,
                    head.slot.partition.topic,
                    head.slot.partition.number,
                    place.offset,
                    failure.message
                );
                // The daemon may be stopping for another reason already.
                let _ = self.endings.send(Ending::Message(sentence));
                head.block(self.clock.wall_ms(), &failure.message, None);
                Stage::Halted
            }
            (None, OnError::DeadLetter) => {
                // The attempts are used up, even if the handler requested the last one.
                let failure = Failure {
                    kind: FailureKind::Raised,
                    ..failure.clone()
                };
                self.dead_letter(head, listener, &failure)
            }
            (None, OnError::Skip) => {
                let place = self.coordinates(head, listener);
                self.log.skipped(&place, failure);
                self.ended(head, Outcome::Skipped)
            }
        }
    }

    /// What the handler needs is away, which is not the message's fault: it waits with its lane, and no attempt is lost.
    fn wait_for_outside(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
    ) -> Stage {
        let now = self.clock.wall_ms();
        let progress = head.progress();
        progress.take_attempt_back();
        progress.away = progress.away.saturating_add(1);
        progress.failing_since.get_or_insert(now);
        let away = progress.away;
        let delay = retry::wait(&listener.retry, away, self.chance.f64());
        let place = self.coordinates(head, listener);
        self.log.away(&place, failure, away, delay);
        head.block(now, &failure.message, Some(delay));
        Stage::BackOff(self.clock.now() + delay)
    }

    /// A message has ended in one listener with another outcome than done.
    pub(super) fn ended(&mut self, head: &mut Head<'_>, outcome: Outcome) -> Stage {
        if let Some(listener) = self.meter.index_of(head.listener()) {
            self.meter.outcome(listener, outcome);
        }
        head.slot.note(head.lane.number, outcome);
        Stage::Final
    }

    pub(super) fn coordinates<'a>(
        &self,
        head: &Head<'a>,
        listener: &'a Listener,
    ) -> Coordinates<'a> {
        let progress = &head.lane.progress[head.index];
        let bundle = self.engine.bundle().number;
        Coordinates {
            listener,
            partition: head.slot.partition.clone(),
            offset: head.lane.message.offset(),
            attempt: progress.attempt,
            bundle,
            is_first: progress
                .failed_in
                .map_or(progress.attempt == 1, |failed_in| failed_in != bundle),
            trace: TraceId::of_message(&head.lane.message),
        }
    }
}

/// A listener of the bundle in force.
pub(super) fn named<'a>(config: &'a Config, name: &str) -> Option<&'a Listener> {
    config
        .listeners
        .iter()
        .find(|listener| listener.name == name)
}
