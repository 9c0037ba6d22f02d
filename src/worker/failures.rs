//! The log lines about failures: the first of a message with its traceback, then attempts 2, 4, 8 …. Lines are
//! limited per listener, so that a handler that always fails does not fill the disk.

use std::time::{Duration, Instant};

use crate::assignment::Partition;
use crate::clock::Clock;
use crate::config::Listener;
use crate::kafka::Message;
use crate::log::log;
use crate::lua::{Failure, FailureKind};
use crate::message::Record as _;
use crate::message::trace::TraceId;
use crate::rate_limit::RateLimits;
use crate::telemetry::shell;

use super::outcomes::Coordinates;
use super::slot::Stray;

/// The most lines of a listener in a window.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// Further listeners share a limit.
const LISTENERS_MAX: usize = 10_000;

/// A line about a message in a listener: its coordinates, then the given fields and the message.
macro_rules! say {
    ($level:ident, $place:expr, $left_out:expr, $($rest:tt)*) => {
        log!(
            $level,
            worker,
            listener = $place.listener.name,
            topic = &*$place.partition.topic,
            partition = $place.partition.number,
            offset = $place.offset,
            attempt = $place.attempt,
            bundle = $place.bundle,
            trace_id = $place.trace.as_ref().map(TraceId::as_str),
            left_out = ($left_out > 0).then_some($left_out),
            $($rest)*
        )
    };
}

/// The reason why a dead letter is never accepted.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lasting {
    TooLarge,
    Refused,
}

/// Messages that have failed together.
pub(super) struct FailedBatch<'a> {
    pub(super) listener: &'a Listener,
    pub(super) partition: &'a Partition,
    pub(super) first: i64,
    pub(super) last: i64,
    pub(super) messages: usize,
    pub(super) bundle: u64,
    /// Their first failed run.
    pub(super) is_first: bool,
}

/// The command that gives up a message that blocks its lane.
fn skip(place: &Coordinates<'_>) -> String {
    let (topic, partition) = (&place.partition.topic, place.partition.number);
    shell::skip(topic, partition, place.offset, &place.listener.name)
}

pub(super) struct Log {
    clock: Clock,
    /// By listener.
    limits: RateLimits,
}

impl Log {
    pub(super) fn new(clock: Clock) -> Self {
        Self {
            clock,
            limits: RateLimits::new(BURST, WINDOW, LISTENERS_MAX),
        }
    }

    /// Logs the number of suppressed lines, of windows that have ended.
    pub(super) fn tell_ended(&mut self, now: Instant) {
        tell(self.limits.ended(now));
    }

    /// Logs the number of all suppressed lines: the worker ends.
    pub(super) fn tell_rest(&mut self) {
        tell(self.limits.rest());
    }

    /// `next` is the wait before the next attempt; without one the daemon stops.
    pub(super) fn failed(
        &mut self,
        place: &Coordinates<'_>,
        failure: &Failure,
        next: Option<Duration>,
    ) {
        if next.is_some() && !place.is_first && !place.attempt.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let retry_in_ms = next.map(|next| next.as_millis() as u64);
        let error = &*failure.message;
        if failure.kind == FailureKind::Asked {
            say!(
                warn,
                place,
                left_out,
                reason = error,
                retry_in_ms,
                "handler requested a retry"
            );
            return;
        }
        let traceback = failure.traceback.as_deref().filter(|_| place.is_first);
        say!(
            error,
            place,
            left_out,
            error,
            traceback,
            retry_in_ms,
            "handler failed"
        );
    }

    /// What the handler needs is away; `runs` have found it so.
    pub(super) fn away(
        &mut self,
        place: &Coordinates<'_>,
        failure: &Failure,
        runs: u32,
        next: Duration,
    ) {
        if !runs.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let error = &*failure.message;
        let retry_in_ms = next.as_millis() as u64;
        say!(
            error,
            place,
            left_out,
            error,
            runs,
            retry_in_ms,
            "infrastructure is away: the message waits with its lane, and no attempt is lost"
        );
    }

    /// A run of a batch, whose messages run again.
    pub(super) fn batch_failed(&mut self, batch: &FailedBatch<'_>, failure: &Failure) {
        let Some(left_out) = self.allow(&batch.listener.name) else {
            return;
        };
        let (error, traceback) = (&*failure.message, failure.traceback.as_deref());
        log!(
            error,
            worker,
            listener = batch.listener.name,
            topic = &*batch.partition.topic,
            partition = batch.partition.number,
            offset = batch.first,
            last_offset = batch.last,
            messages = batch.messages,
            bundle = batch.bundle,
            left_out = (left_out > 0).then_some(left_out),
            error,
            traceback = traceback.filter(|_| batch.is_first),
            "batch failed"
        );
    }

    /// `onError` is "skip", and the attempts are used up.
    pub(super) fn skipped(&mut self, place: &Coordinates<'_>, failure: &Failure) {
        let what = "message skipped: its handler failed and `onError` is \"skip\"";
        self.last_word(place, failure, what);
    }

    /// `ctx.skip`: nothing has failed.
    pub(super) fn skipped_by_handler(&mut self, place: &Coordinates<'_>, reason: &str) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let what = "message skipped: its handler requested it";
        say!(info, place, left_out, reason, "{what}");
    }

    /// The message goes to the dead-letter topic.
    pub(super) fn buried(&mut self, place: &Coordinates<'_>, failure: &Failure) {
        let what = match failure.kind {
            FailureKind::Asked => {
                "message goes to the dead-letter topic: its handler or an operator requested it"
            }
            _ => "message goes to the dead-letter topic: its handler failed",
        };
        self.last_word(place, failure, what);
    }

    /// The message is in a retry topic, and no listener runs it.
    pub(super) fn stray(&mut self, partition: &Partition, offset: i64, stray: &Stray) {
        // One limit for all: headers could name any number of listeners.
        let Some(left_out) = self.allow("") else {
            return;
        };
        let (listener, what) = match stray {
            Stray::Gone(listener) => (
                Some(listener.as_str()),
                "message skipped: its listener was removed",
            ),
            Stray::Unreadable => (
                None,
                "message skipped: it is in a retry topic, and its headers do not say for which listener",
            ),
        };
        log!(
            warn,
            worker,
            listener,
            topic = &*partition.topic,
            partition = partition.number,
            offset,
            left_out = (left_out > 0).then_some(left_out),
            "{what}"
        );
    }

    /// Checks new messages; librdkafka parses at most 100,000 headers.
    pub(super) fn refused_headers(&mut self, partition: &Partition, messages: &[Message]) {
        for message in messages.iter().filter(|one| one.has_refused_headers()) {
            let Some(left_out) = self.allow("") else {
                continue;
            };
            log!(
                warn,
                worker,
                topic = &*partition.topic,
                partition = partition.number,
                offset = message.offset(),
                left_out = (left_out > 0).then_some(left_out),
                "the message runs without headers: librdkafka reads neither more than 100,000 headers nor broken ones"
            );
        }
    }

    /// The broker never accepts its dead letter.
    pub(super) fn refused(
        &mut self,
        place: &Coordinates<'_>,
        why: Lasting,
        reason: &str,
        skips: bool,
    ) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let what = match (why, skips) {
            (Lasting::TooLarge, true) => {
                "message skipped: its dead letter is too large and `deadLetter.tooLarge` is \"skip\""
            }
            (Lasting::TooLarge, false) => {
                "message blocks its lane: its dead letter is too large; raise `max.message.bytes` of the dead-letter topic and run `moontide retry`, set `deadLetter.tooLarge`, or run the command in `skip`"
            }
            (Lasting::Refused, true) => {
                "message skipped: its dead letter is refused and `deadLetter.refused` is \"skip\""
            }
            (Lasting::Refused, false) => {
                "message blocks its lane: its dead letter is refused; repair the dead-letter topic and run `moontide retry`, set `deadLetter.refused`, or run the command in `skip`"
            }
        };
        let skip = (!skips).then(|| skip(place));
        say!(error, place, left_out, error = reason, skip, "{what}");
    }

    /// The retry topic never accepts its record.
    pub(super) fn waits_here(&mut self, place: &Coordinates<'_>, reason: &str, delay: Duration) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let retry_in_ms = delay.as_millis() as u64;
        say!(
            error,
            place,
            left_out,
            error = reason,
            retry_in_ms,
            "record for the retry topic refused: the message waits in its lane instead"
        );
    }

    /// Its record is sent again after `next`.
    pub(super) fn unsent(
        &mut self,
        place: &Coordinates<'_>,
        reason: &str,
        tries: u32,
        next: Duration,
    ) {
        if !tries.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let retry_in_ms = next.as_millis() as u64;
        let skip = skip(place);
        say!(
            error,
            place,
            left_out,
            error = reason,
            tries,
            retry_in_ms,
            skip,
            "record for another topic not sent: the message waits with its lane"
        );
    }

    /// The records that it has emitted are sent again.
    pub(super) fn not_acknowledged(&mut self, place: &Coordinates<'_>, reason: &str, tries: u32) {
        if !tries.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let skip = skip(place);
        say!(
            error,
            place,
            left_out,
            error = reason,
            tries,
            skip,
            "emitted records are not acknowledged: the message waits with its lane"
        );
    }

    /// The message ran out of memory beside other calls, and runs again alone.
    pub(super) fn suspected(&mut self, place: &Coordinates<'_>, failure: &Failure) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let error = &*failure.message;
        say!(
            warn,
            place,
            left_out,
            error,
            "handler ran out of memory: the message runs again, alone"
        );
    }

    /// A tick of a timer, which is not repeated.
    pub(super) fn tick_failed(&mut self, timer: &str, failure: &Failure) {
        let Some(left_out) = self.allow(timer) else {
            return;
        };
        let (error, traceback) = (&*failure.message, failure.traceback.as_deref());
        log!(
            error,
            worker,
            timer,
            error,
            traceback,
            left_out = (left_out > 0).then_some(left_out),
            "tick failed"
        );
    }

    pub(super) fn tick_missed(&mut self, timer: &str, missed: u64) {
        let Some(left_out) = self.allow(timer) else {
            return;
        };
        log!(
            warn,
            worker,
            timer,
            missed,
            left_out = (left_out > 0).then_some(left_out),
            "ticks missed: they were due while the one before ran, or while no worker had time"
        );
    }

    /// Calls of the VM waited for this tick.
    pub(super) fn slow_tick(&mut self, timer: &str, held: Duration) {
        let Some(left_out) = self.allow(timer) else {
            return;
        };
        log!(
            warn,
            worker,
            timer,
            held_ms = held.as_millis() as u64,
            left_out = (left_out > 0).then_some(left_out),
            "tick held the vm: handlers waited"
        );
    }

    fn last_word(&mut self, place: &Coordinates<'_>, failure: &Failure, what: &str) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let (error, traceback) = (&*failure.message, failure.traceback.as_deref());
        say!(error, place, left_out, error, traceback, "{what}");
    }

    fn allow(&mut self, listener: &str) -> Option<u64> {
        self.limits.allow(listener, self.clock.now())
    }
}

fn tell(left_out: Vec<(String, u64)>) {
    for (listener, left_out) in left_out {
        // Lines without a listener have a limit of their own.
        let listener = (!listener.is_empty()).then_some(listener);
        log!(
            warn,
            worker,
            listener,
            left_out,
            "lines about messages left out"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_that_are_left_out_are_counted_by_listener_until_the_end_of_the_window() {
        let mut log = Log::new(Clock::System);
        for _ in 0..100 {
            log.allow("orders");
        }
        let end = Instant::now() + WINDOW;
        assert_eq!(log.limits.ended(end), [("orders".to_owned(), 80)]);
    }
}
