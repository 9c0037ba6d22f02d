//! What the log says of failures: the first of a message with its traceback, then attempts 2, 4, 8 …, limited by
//! listener, so that a handler that always fails does not fill the disk.

use std::time::{Duration, Instant};

use crate::assignment::Partition;
use crate::clock::Clock;
use crate::kafka::Message;
use crate::log::log;
use crate::lua::{Failure, FailureKind};
use crate::message::Record as _;
use crate::rate_limit::RateLimits;

use super::outcomes::Place;
use super::slot::Stray;

/// Lines of a listener in a window of this length.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);
/// More of them share a limit.
const LISTENERS_MAX: usize = 10_000;

/// A line about a message in a listener: where it is, and then the given fields and the message.
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
            left_out = ($left_out > 0).then_some($left_out),
            $($rest)*
        )
    };
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

    /// Tells of lines left out in windows that have ended.
    pub(super) fn tell_ended(&mut self, now: Instant) {
        tell(self.limits.ended(now));
    }

    /// Tells of all lines left out: the worker ends.
    pub(super) fn tell_rest(&mut self) {
        tell(self.limits.rest());
    }

    /// `next` is the wait before the next attempt; without one the daemon stops.
    pub(super) fn failed(&mut self, place: &Place<'_>, failure: &Failure, next: Option<Duration>) {
        if next.is_some() && !place.attempt.is_power_of_two() {
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
                "handler asked for a retry"
            );
            return;
        }
        let traceback = failure.traceback.as_deref().filter(|_| place.attempt == 1);
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

    pub(super) fn skipped(&mut self, place: &Place<'_>, failure: &Failure, why: &str) {
        self.last_word(place, failure, &format!("message skipped: {why}"));
    }

    /// It goes to the dead-letter topic.
    pub(super) fn buried(&mut self, place: &Place<'_>, failure: &Failure) {
        let what = match failure.kind {
            FailureKind::Asked => {
                "message goes to the dead-letter topic: its handler or an operator asked for that"
            }
            _ => "message goes to the dead-letter topic: its handler failed",
        };
        self.last_word(place, failure, what);
    }

    /// In a retry topic, and nobody runs it.
    pub(super) fn stray(&mut self, partition: &Partition, offset: i64, stray: &Stray) {
        // One limit for all: names out of headers could be any number.
        let Some(left_out) = self.allow("") else {
            return;
        };
        let (listener, what) = match stray {
            Stray::Gone(listener) => (
                Some(listener.as_str()),
                "message skipped: its listener is gone",
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

    /// Of new messages; librdkafka parses 100,000 headers at most.
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
                "message runs without its headers: librdkafka reads none of more than 100,000, and no broken ones"
            );
        }
    }

    /// The broker takes its dead letter in no size.
    pub(super) fn too_large(&mut self, place: &Place<'_>, reason: &str, skips: bool) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let what = if skips {
            "message skipped: its dead letter is too large and `deadLetter.tooLarge` is \"skip\""
        } else {
            "message blocks its lane: its dead letter is too large; raise `max.message.bytes` of the dead-letter topic, set `deadLetter.tooLarge`, or skip the message"
        };
        say!(error, place, left_out, error = reason, "{what}");
    }

    /// Its dead letter is sent again then.
    pub(super) fn unsent(&mut self, place: &Place<'_>, reason: &str, tries: u32, next: Duration) {
        if !tries.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        let retry_in_ms = next.as_millis() as u64;
        say!(
            error,
            place,
            left_out,
            error = reason,
            tries,
            retry_in_ms,
            "record for another topic not sent: the message waits with its lane"
        );
    }

    /// It ran out of memory beside others, and runs again alone.
    pub(super) fn suspected(&mut self, place: &Place<'_>, failure: &Failure) {
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

    fn last_word(&mut self, place: &Place<'_>, failure: &Failure, what: &str) {
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
