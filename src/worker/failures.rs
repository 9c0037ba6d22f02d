//! What the log says of failures: the first of a message with its traceback, then attempts 2, 4, 8 …, limited by
//! listener, so that a handler that always fails does not fill the disk.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::logging::RateLimit;
use crate::lua::Failure;

use super::run::Place;

/// Lines of a listener in a window of this length.
const BURST: u32 = 20;
const WINDOW: Duration = Duration::from_secs(10);

#[derive(Default)]
pub(super) struct Log {
    limits: HashMap<String, RateLimit>,
}

impl Log {
    /// `next` is the wait before the next attempt; without one the daemon stops.
    pub(super) fn failed(&mut self, place: &Place<'_>, failure: &Failure, next: Option<Duration>) {
        if next.is_some() && !place.attempt.is_power_of_two() {
            return;
        }
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        tracing::error!(
            listener = place.listener.name,
            topic = &*place.partition.topic,
            partition = place.partition.number,
            offset = place.offset,
            attempt = place.attempt,
            bundle = place.bundle,
            error = failure.message,
            traceback = failure.traceback.as_deref().filter(|_| place.attempt == 1),
            retry_in_ms = next.map(|next| next.as_millis() as u64),
            left_out = (left_out > 0).then_some(left_out),
            "handler failed"
        );
    }

    pub(super) fn skipped(&mut self, place: &Place<'_>, failure: &Failure) {
        let Some(left_out) = self.allow(&place.listener.name) else {
            return;
        };
        tracing::error!(
            listener = place.listener.name,
            topic = &*place.partition.topic,
            partition = place.partition.number,
            offset = place.offset,
            attempt = place.attempt,
            bundle = place.bundle,
            error = failure.message,
            traceback = failure.traceback.as_deref(),
            left_out = (left_out > 0).then_some(left_out),
            "message skipped: its handler failed and `onError` is \"skip\""
        );
    }

    fn allow(&mut self, listener: &str) -> Option<u64> {
        if !self.limits.contains_key(listener) {
            self.limits
                .insert(listener.to_owned(), RateLimit::new(BURST, WINDOW));
        }
        self.limits.get_mut(listener)?.allow(Instant::now())
    }
}
