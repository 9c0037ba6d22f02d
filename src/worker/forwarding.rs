//! Records on their way to another topic, a retry topic or the one of dead letters: **a message is final only when the
//! broker has acknowledged them.**
//!
//! Until then it keeps its lane. What can't be sent is sent again with a back-off; a dead letter that is too large loses
//! its traceback, then its error, and then the listener's policy says what becomes of it.

use std::collections::HashMap;
use std::time::Duration;

use crate::assignment::ToWorker;
use crate::config::{Listener, TooLarge};
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

use super::Worker;
use super::head::Head;
use super::ids::RecordId;
use super::outcomes::named;
use super::slot::Slot;

/// Between two attempts to send.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// The records on their way, and those that are sent again.
pub(super) type Forwarded = HashMap<RecordId, Forwarding>;

/// Why a message goes to another topic, kept until it is there.
pub(super) struct Forwarding {
    failure: Failure,
    attempts: u32,
    first_failure_ms: i64,
    last_failure_ms: i64,
    bundle: u64,
    /// Sent so often in vain, and why the last time.
    tries: u32,
    pub(super) trouble: Option<String>,
    /// The breaker has let it pass.
    is_allowed: bool,
    size: Size,
    way: Way,
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
    /// The message has failed for good: it goes to the listener's dead-letter topic.
    pub(super) fn dead_letter(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
    ) -> Stage {
        self.log.buried(&self.place(head, listener), failure);
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
        let place = self.place(head, listener);
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
            // The breaker counts dead letters alone.
            is_allowed: way != Way::DeadLetter,
            size: Size::Full,
            way,
        };
        self.forwarded.insert(head.record_id(), forwarding);
        self.post(head, listener)
    }

    /// Sends the record of a lane's head again.
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
            // A reload took the topic away: the message is the handler's again.
            self.forwarded.remove(&id);
            return Stage::Due;
        };
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
                let outcome = match self.forwarded.get(id).map(|one| one.way) {
                    Some(Way::Retry(_)) => Outcome::RetriedLater,
                    _ => Outcome::DeadLettered,
                };
                let mut head = Head {
                    slot: &mut slot,
                    config: &config,
                    key,
                    lane: &mut lane,
                    index,
                };
                let stage = match result {
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

    /// A record that was not taken: smaller, later, or what the policy says.
    fn refused(&mut self, head: &mut Head<'_>, refused: Refused) -> Stage {
        let id = head.record_id();
        let listener = named(head.config, &id.listener);
        let forwarding = self.forwarded.get_mut(&id);
        let (Some(forwarding), Some(listener)) = (forwarding, listener) else {
            return Stage::Final;
        };
        let policy = listener.dead_letter.as_ref().map(|policy| policy.too_large);
        match refused {
            Refused::TooLarge(reason) if let Way::Retry(delay) = forwarding.way => {
                // Nothing in it can be left out: it waits here instead.
                let place = self.place(head, listener);
                self.log.unsent(&place, &reason, 1, delay);
                head.block(self.clock.wall_ms(), &reason, Some(delay));
                Stage::BackOff(self.clock.now() + delay)
            }
            Refused::TooLarge(reason) => {
                match forwarding.size.next(policy.unwrap_or(TooLarge::Block)) {
                    Ok(size) => {
                        forwarding.size = size;
                        Stage::SendDue
                    }
                    Err(skips) => {
                        let place = self.place(head, listener);
                        self.log.too_large(&place, &reason, skips);
                        if skips {
                            return self.ended(head, Outcome::Skipped);
                        }
                        let error = format!("its dead letter is too large: {reason}");
                        head.block(self.clock.wall_ms(), &error, None);
                        Stage::Halted
                    }
                }
            }
            Refused::Other(reason) => {
                forwarding.tries += 1;
                forwarding.trouble = Some(reason.clone());
                let doublings = forwarding.tries.min(10) - 1;
                let delay = (PAUSE * 2_u32.pow(doublings)).min(PAUSE_MAX);
                let tries = forwarding.tries;
                let what = match forwarding.way {
                    Way::DeadLetter => "its dead letter",
                    Way::Retry(_) => "its record for the retry topic",
                };
                let place = self.place(head, listener);
                self.log.unsent(&place, &reason, tries, delay);
                let error = format!("{what} is not sent: {reason}");
                head.block(self.clock.wall_ms(), &error, Some(delay));
                Stage::Unsent(self.clock.now() + delay)
            }
        }
    }
}

impl Forwarding {
    /// The breaker has kept it, and meanwhile there is a new handler, which may take the message. What somebody asked for
    /// is not tried again.
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
    /// The next smaller one, or whether the policy skips what is too large.
    fn next(self, policy: TooLarge) -> Result<Self, bool> {
        match (self, policy) {
            (Self::Full, _) => Ok(Self::WithoutTraceback),
            (Self::WithoutTraceback, _) => Ok(Self::WithoutError),
            (Self::WithoutError, TooLarge::DropValue) => Ok(Self::WithoutValue),
            (Self::WithoutError | Self::WithoutValue, policy) => Err(policy == TooLarge::Skip),
        }
    }
}
