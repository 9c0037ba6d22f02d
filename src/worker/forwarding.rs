//! Records on their way to another topic, a retry topic or the one of dead letters: **a message is final only when the
//! broker has acknowledged them.**
//!
//! Until then it keeps its lane. What can't be sent is sent again with a back-off; a dead letter that is too large loses
//! its traceback, then its error, and then the listener's policy says what becomes of it, as it does of one that the
//! topic never takes. A retry record that is never taken waits in its lane instead.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::assignment::ToWorker;
use crate::clock::now_ms;
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

use super::Worker;
use super::failures::Lasting;
use super::head::Head;
use super::outcomes::named;
use super::slot::Slot;

/// Between two attempts to send.
const PAUSE: Duration = Duration::from_millis(500);
const PAUSE_MAX: Duration = Duration::from_secs(30);

/// By epoch, lane and listener.
pub(super) type Letters = HashMap<(u64, u64, String), Letter>;

/// Why a message goes to another topic, kept until it is there.
pub(super) struct Letter {
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
        self.begin_letter(head, listener, failure, Way::DeadLetter)
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
        self.begin_letter(head, listener, failure, way)
    }

    fn begin_letter(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        failure: &Failure,
        way: Way,
    ) -> Stage {
        let now = now_ms();
        let progress = &head.lane.progress[head.index];
        let letter = Letter {
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
        let name = progress.listener.clone();
        self.letters
            .insert((head.slot.partition.epoch, head.key, name), letter);
        self.post(head, listener)
    }

    /// Sends the record of a lane's head again.
    pub(super) fn send(&mut self, head: &mut Head<'_>) {
        let place = (
            head.slot.partition.epoch,
            head.key,
            head.listener().to_owned(),
        );
        let bundle = self.engine.bundle().number;
        head.progress().stage = match named(head.config, head.listener()) {
            Some(_)
                if self
                    .letters
                    .get(&place)
                    .is_some_and(|one| one.is_moot(bundle)) =>
            {
                self.letters.remove(&place);
                Stage::Due
            }
            Some(listener) => self.post(head, listener),
            None => Stage::Final,
        };
    }

    fn post(&mut self, head: &mut Head<'_>, listener: &Listener) -> Stage {
        let (epoch, name) = (head.slot.partition.epoch, head.listener().to_owned());
        let key = head.key;
        let mut place = (epoch, key, name);
        let is_allowed = self
            .letters
            .get(&place)
            .is_some_and(|letter| letter.is_allowed);
        if let Some(number) = head.number()
            && !is_allowed
            && let Err(until) = self.may_bury(number)
        {
            let delay = until.saturating_duration_since(Instant::now());
            let error = "its dead letter waits: the breaker is open";
            head.block(error, Some(delay));
            return Stage::Unsent(until);
        }
        let Some(letter) = self.letters.get_mut(&place) else {
            return Stage::Due;
        };
        letter.is_allowed = true;
        let Some(record) = letter.record(head.slot, listener, &head.lane.message) else {
            // A reload took the topic away: the message is the handler's again.
            self.letters.remove(&place);
            return Stage::Due;
        };
        let (mailbox, number) = (self.mailbox.clone(), head.lane.number);
        head.slot.under_way += 1;
        head.slot.partition.outbox.send(
            record,
            Box::new(move |result| {
                mailbox.send(ToWorker::Delivered {
                    epoch,
                    lane: key,
                    number,
                    listener: std::mem::take(&mut place.2),
                    result: result.map(drop),
                });
            }),
        );
        failpoint!("letter-sent");
        Stage::Sending
    }

    /// The broker's answer to a record.
    pub(super) fn delivered(
        &mut self,
        epoch: u64,
        key: u64,
        number: u64,
        name: &str,
        result: Result<(), Refused>,
    ) {
        failpoint!("letter-acknowledged");
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        slot.under_way -= 1;
        if let Some(mut lane) = slot.lanes.take(key) {
            let index = lane.index_of(name).filter(|&index| {
                lane.number == number && lane.progress[index].stage == Stage::Sending
            });
            if let Some(index) = index {
                let config = self.engine.bundle().config.clone();
                let place = (epoch, key, name.to_owned());
                let outcome = match self.letters.get(&place).map(|letter| letter.way) {
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
                    self.letters.remove(&place);
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
        let name = head.listener().to_owned();
        let place = (head.slot.partition.epoch, head.key, name);
        let listener = named(head.config, &place.2);
        let letter = self.letters.get_mut(&place);
        let (Some(letter), Some(listener)) = (letter, listener) else {
            return Stage::Final;
        };
        let policy = listener.dead_letter.as_ref();
        let (why, reason, skips) = match (refused, letter.way) {
            (Refused::Other(reason), _) => return self.unsent(head, listener, &reason),
            (Refused::TooLarge(reason) | Refused::ForGood(reason), Way::Retry(delay)) => {
                return self.waits_here(head, listener, &reason, delay);
            }
            (Refused::TooLarge(reason), Way::DeadLetter) => {
                let policy = policy.map_or(TooLarge::Block, |policy| policy.too_large);
                match letter.size.next(policy) {
                    Ok(size) => {
                        letter.size = size;
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
        let place = self.place(head, listener);
        self.log.refused(&place, why, &reason, skips);
        if skips {
            return self.ended(head, Outcome::Skipped);
        }
        let what = match why {
            Lasting::TooLarge => "its dead letter is too large",
            Lasting::Refused => "its dead letter is refused",
        };
        head.block(&format!("{what}: {reason}"), None);
        Stage::Halted
    }

    /// The retry topic never takes the record: its message waits in its lane instead, for the same time.
    fn waits_here(
        &mut self,
        head: &mut Head<'_>,
        listener: &Listener,
        reason: &str,
        delay: Duration,
    ) -> Stage {
        let place = self.place(head, listener);
        self.log.waits_here(&place, reason, delay);
        head.block(reason, Some(delay));
        Stage::BackOff(Instant::now() + delay)
    }

    /// Nothing is wrong with the record: it is sent again later.
    fn unsent(&mut self, head: &mut Head<'_>, listener: &Listener, reason: &str) -> Stage {
        let name = head.listener().to_owned();
        let place = (head.slot.partition.epoch, head.key, name);
        let Some(letter) = self.letters.get_mut(&place) else {
            return Stage::Final;
        };
        letter.tries += 1;
        let doublings = letter.tries.min(10) - 1;
        let delay = (PAUSE * 2_u32.pow(doublings)).min(PAUSE_MAX);
        let what = match letter.way {
            Way::DeadLetter => "its dead letter",
            Way::Retry(_) => "its record for the retry topic",
        };
        let error = format!("{what} is not sent: {reason}");
        let tries = letter.tries;
        letter.trouble = Some(reason.to_owned());
        let place = self.place(head, listener);
        self.log.unsent(&place, reason, tries, delay);
        head.block(&error, Some(delay));
        Stage::Unsent(Instant::now() + delay)
    }
}

impl Letter {
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
