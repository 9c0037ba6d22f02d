//! Records on their way to another topic, a retry topic or a dead-letter topic. **A message is final only when the
//! broker has acknowledged its record.**
//!
//! Until then the message keeps its lane. A record that cannot be sent is sent again with a back-off. A dead letter
//! that is too large loses its traceback, then its error. After that the listener's policy decides, as it does for a
//! dead letter that the topic never accepts. A message whose retry record is never accepted waits in its lane
//! instead.

use std::collections::HashMap;
use std::time::Duration;

use crate::assignment::ToWorker;
use crate::config::{Listener, OnRefusal, TooLarge};
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::kafka::producer::Outgoing;
use crate::lua::{Failure, FailureKind};
use crate::outgoing::dead_letter;
use crate::outgoing::failed_message::FailedMessage;
use crate::outgoing::outbox::Refused;
use crate::outgoing::retry_topic;
use crate::rules::lanes::Stage;
use crate::telemetry::metrics::Outcome;
use crate::wait::Cancel;

use super::Worker;
use super::failures::Lasting;
use super::head::Head;
use super::ids::RecordId;
use super::outcomes::named;
use super::slot::Slot;

/// The pauses between two attempts to send, at first and at most.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The records on their way, and the records that wait to be sent again.
pub(super) type Forwarded = HashMap<RecordId, Forwarding>;

/// The reason why a message goes to another topic, kept until its record is acknowledged.
pub(super) struct Forwarding {
    failure: Failure,
    attempts: u32,
    first_failure_ms: i64,
    last_failure_ms: i64,
    bundle: u64,
    /// The number of failed attempts to send.
    tries: u32,
    pub(super) trouble: Option<String>,
    /// The breaker has admitted it.
    is_allowed: bool,
    size: Size,
    way: Way,
    /// In a consumer with exactly once: the look at its topic. **Its drop ends the look.**
    pub(super) looking: Option<Cancel>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Way {
    DeadLetter,
    /// To the retry topic of this delay.
    Retry(Duration),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Size {
    Full,
    WithoutTraceback,
    WithoutError,
    WithoutValue,
}

impl Worker {
    /// The message has finally failed: it goes to the listener's dead-letter topic.
    pub(super) fn dead_letter(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
    ) -> Stage {
        self.log.buried(&self.coordinates(head, listener), failure);
        self.begin_forwarding(head, listener, failure, Way::DeadLetter)
    }

    /// The message waits for its next run in the retry topic of this delay.
    pub(super) fn retry_later(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
        delay: Duration,
    ) -> Stage {
        let place = self.coordinates(head, listener);
        self.log.failed(&place, failure, Some(delay));
        let way = Way::Retry(delay);
        self.begin_forwarding(head, listener, failure, way)
    }

    fn begin_forwarding(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
        way: Way,
    ) -> Stage {
        let now = self.clock.wall_ms();
        let progress = &head.lane.progress[head.index];
        let forwarding = Forwarding {
            failure: failure.clone(),
            attempts: progress.attempt,
            first_failure_ms: progress.failing_since.unwrap_or(now),
            last_failure_ms: now,
            bundle: self.engine.bundle().number,
            tries: 0,
            trouble: None,
            // The breaker counts only dead letters.
            is_allowed: way != Way::DeadLetter,
            size: Size::Full,
            way,
            looking: None,
        };
        self.forwarded.insert(head.record_id(), forwarding);
        self.post(head, listener)
    }

    /// Sends the record of a lane's head, possibly again.
    pub(super) fn send(&mut self, head: &mut Head<'_>) {
        let id = head.record_id();
        let bundle = self.engine.bundle().number;
        head.progress().stage = match named(head.config, head.listener()) {
            Some(_)
                if self
                    .forwarded
                    .get(&id)
                    .is_some_and(|one| one.is_moot(bundle)) =>
            {
                self.forwarded.remove(&id);
                Stage::Due
            }
            Some(listener) => self.post(head, listener),
            None => Stage::Final,
        };
    }

    fn post(&mut self, head: &mut Head<'_>, listener: &Listener) -> Stage {
        let mut id = head.record_id();
        let forwarding = self.forwarded.get(&id);
        let is_allowed = forwarding.is_some_and(|one| one.is_allowed);
        if let Some(number) = head.number()
            && !is_allowed
            && let Err(until) = self.gates.may_bury(number)
        {
            let delay = until.saturating_duration_since(self.clock.now());
            let error = "its dead letter waits: the breaker is open";
            head.block(self.clock.wall_ms(), error, Some(delay));
            return Stage::Unsent(until);
        }
        let Some(forwarding) = self.forwarded.get_mut(&id) else {
            return Stage::Due;
        };
        forwarding.is_allowed = true;
        let Some(record) = forwarding.record(head.slot, listener, &head.lane.message) else {
            // A reload removed the topic: the message runs in its handler again.
            self.forwarded.remove(&id);
            return Stage::Due;
        };
        let outcome = forwarding.outcome();
        if head.slot.partition.is_exactly_once {
            return self.forward_in_transaction(head, record, outcome);
        }
        let (mailbox, number) = (self.mailbox.clone(), head.lane.number);
        head.slot.under_way += 1;
        head.slot.partition.outbox.send(
            record,
            Box::new(move |result| {
                mailbox.send(ToWorker::Delivered {
                    epoch: id.lane.epoch,
                    lane: id.lane.lane,
                    number,
                    listener: std::mem::take(&mut id.listener),
                    result: result.map(drop),
                });
            }),
        );
        failpoint!("letter-sent");
        Stage::Sending
    }

    /// The broker's answer to a record.
    pub(super) fn delivered(&mut self, id: &RecordId, number: u64, result: Result<(), Refused>) {
        failpoint!("letter-acknowledged");
        let Some(mut slot) = self.slots.remove(&id.lane.epoch) else {
            return;
        };
        slot.under_way -= 1;
        let key = id.lane.lane;
        if let Some(mut lane) = slot.lanes.take(key) {
            let index = lane.index_of(&id.listener).filter(|&index| {
                lane.number == number && lane.progress[index].stage == Stage::Sending
            });
            if let Some(index) = index {
                let config = self.engine.bundle().config.clone();
                let outcome = self.forwarded.get(id).map(Forwarding::outcome);
                let outcome = outcome.unwrap_or(Outcome::DeadLettered);
                let mut head = Head {
                    slot: &mut slot,
                    config: &config,
                    key,
                    lane: &mut lane,
                    index,
                };
                let stage = match result {
                    // Its topic is known now.
                    Ok(()) if head.slot.partition.is_exactly_once => Stage::SendDue,
                    Ok(()) => self.ended(&mut head, outcome),
                    Err(refused) => self.refused(&mut head, refused),
                };
                if !matches!(stage, Stage::SendDue | Stage::Unsent(_)) {
                    self.forwarded.remove(id);
                }
                head.come_to(stage);
            }
            slot.lanes.put(key, lane);
            slot.lanes.wake(key);
        }
        self.put_back(slot);
    }

    /// The broker refused a record: it is sent smaller, or later, or the policy decides.
    fn refused(&mut self, head: &mut Head<'_>, refused: Refused) -> Stage {
        let id = head.record_id();
        let listener = named(head.config, &id.listener);
        let forwarding = self.forwarded.get_mut(&id);
        let (Some(forwarding), Some(listener)) = (forwarding, listener) else {
            return Stage::Final;
        };
        let policy = listener.dead_letter.as_ref();
        let (why, reason, skips) = match (refused, forwarding.way) {
            (Refused::Other(reason), _) => return self.unsent(head, listener, &reason),
            (Refused::TooLarge(reason) | Refused::ForGood(reason), Way::Retry(delay)) => {
                return self.waits_here(head, listener, &reason, delay);
            }
            (Refused::TooLarge(reason), Way::DeadLetter) => {
                let policy = policy.map_or(TooLarge::Block, |policy| policy.too_large);
                match forwarding.size.next(policy) {
                    Ok(size) => {
                        forwarding.size = size;
                        return Stage::SendDue;
                    }
                    Err(skips) => (Lasting::TooLarge, reason, skips),
                }
            }
            (Refused::ForGood(reason), Way::DeadLetter) => {
                let skips = policy.is_some_and(|policy| policy.refused == OnRefusal::Skip);
                (Lasting::Refused, reason, skips)
            }
        };
        let place = self.coordinates(head, listener);
        self.log.refused(&place, why, &reason, skips);
        if skips {
            return self.ended(head, Outcome::Skipped);
        }
        let what = match why {
            Lasting::TooLarge => "its dead letter is too large",
            Lasting::Refused => "its dead letter is refused",
        };
        head.block(self.clock.wall_ms(), &format!("{what}: {reason}"), None);
        Stage::Halted
    }

    /// The retry topic never accepts the record: its message waits in its lane instead, for the same time.
    fn waits_here(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        reason: &str,
        delay: Duration,
    ) -> Stage {
        let place = self.coordinates(head, listener);
        self.log.waits_here(&place, reason, delay);
        head.block(self.clock.wall_ms(), reason, Some(delay));
        Stage::BackOff(self.clock.now() + delay)
    }

    /// The record itself is valid: it is sent again later.
    fn unsent(&mut self, head: &mut Head<'_>, listener: &Listener, reason: &str) -> Stage {
        let id = head.record_id();
        let Some(forwarding) = self.forwarded.get_mut(&id) else {
            return Stage::Final;
        };
        forwarding.tries += 1;
        let doublings = forwarding.tries.min(10) - 1;
        let delay = (PAUSE * 2_u32.pow(doublings)).min(PAUSE_MAX);
        let what = match forwarding.way {
            Way::DeadLetter => "its dead letter",
            Way::Retry(_) => "its record for the retry topic",
        };
        let error = format!("{what} is not sent: {reason}");
        let tries = forwarding.tries;
        forwarding.trouble = Some(reason.to_owned());
        let place = self.coordinates(head, listener);
        self.log.unsent(&place, reason, tries, delay);
        head.block(self.clock.wall_ms(), &error, Some(delay));
        Stage::Unsent(self.clock.now() + delay)
    }
}

impl Forwarding {
    fn outcome(&self) -> Outcome {
        match self.way {
            Way::DeadLetter => Outcome::DeadLettered,
            Way::Retry(_) => Outcome::RetriedLater,
        }
    }

    /// The breaker has kept the dead letter, and meanwhile a reload brought a new handler, which may succeed. A dead
    /// letter that a handler or an operator requested is not tried again.
    fn is_moot(&self, bundle: u64) -> bool {
        !self.is_allowed && self.bundle != bundle && self.failure.kind != FailureKind::Asked
    }

    fn record(&self, slot: &Slot, listener: &Listener, message: &Message) -> Option<Outgoing> {
        let partition = &slot.partition;
        let facts = FailedMessage {
            topic: &partition.topic,
            partition: partition.number,
            group: &partition.group,
            listener: &listener.name,
            attempts: self.attempts,
            first_failure_ms: self.first_failure_ms,
            last_failure_ms: self.last_failure_ms,
            error: &self.failure.message,
            traceback: self.failure.traceback.as_deref(),
            bundle: self.bundle,
        };
        let policy = match self.way {
            Way::Retry(_) if listener.retry.topics.is_empty() => return None,
            Way::Retry(delay) => return Some(retry_topic::record(message, &facts, delay)),
            Way::DeadLetter => listener.dead_letter.as_ref()?,
        };
        let mut record = dead_letter::record(policy, message, &facts);
        if self.size != Size::Full {
            dead_letter::shrink(policy, &mut record);
        }
        if matches!(self.size, Size::WithoutError | Size::WithoutValue) {
            dead_letter::shrink(policy, &mut record);
        }
        if self.size == Size::WithoutValue {
            dead_letter::without_value(&mut record);
        }
        Some(record)
    }
}

impl Size {
    /// The next smaller size, or else whether the policy skips records that are too large.
    fn next(self, policy: TooLarge) -> Result<Self, bool> {
        match (self, policy) {
            (Self::Full, _) => Ok(Self::WithoutTraceback),
            (Self::WithoutTraceback, _) => Ok(Self::WithoutError),
            (Self::WithoutError, TooLarge::DropValue) => Ok(Self::WithoutValue),
            (Self::WithoutError | Self::WithoutValue, policy) => Err(policy == TooLarge::Skip),
        }
    }
}
