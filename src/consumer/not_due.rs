//! Retry topics: a partition whose next message is not due sleeps until it is.
//!
//! Pausing gives up what is prefetched, and waking goes back to the message that came too early, so that nothing of a
//! sleeping partition lies in memory. Never during a rebalance; an assignment forgets who slept, and the message comes
//! again.

use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::kafka::Message;
use crate::outgoing::retry_topic;

use super::Consumer;
use super::held::{Held, Stage, Trust, apply_pauses};

/// What sleeps less would be fetched again for a few messages at a time.
const NAP_MIN: Duration = Duration::from_millis(200);
/// The clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);

impl Consumer {
    /// Whether the message came too early. Its partition sleeps then, and the rest of the batch in hand is passed over.
    pub(super) fn is_early(&mut self, held: &mut Held, message: &Message) -> bool {
        if !held.plan.is_retry {
            return false;
        }
        let origin = retry_topic::origin(&held.epoch.partition.topic, message);
        let early_ms = origin.map_or(0, |origin| origin.due_ms.saturating_sub(now_ms()));
        let Some(early) = u64::try_from(early_ms).ok().filter(|early| *early > 0) else {
            return false;
        };
        let nap = Duration::from_millis(early).clamp(NAP_MIN, NAP_MAX);
        held.pauses.set_not_due(Instant::now() + nap);
        let applied = apply_pauses(&self.client, std::iter::once(&mut *held));
        if let Some(error) = applied.error {
            let place = (&*held.epoch.partition.topic, held.epoch.partition.number);
            self.error(&error, Some(place));
        }
        true
    }

    /// Whether there was a partition to wake.
    pub(super) fn wake(&mut self, now: Instant) -> bool {
        if self.phase.is_busy() {
            return false;
        }
        let is_over = |held: &&mut Held| {
            let until = held.pauses.not_due_until();
            held.stage == Stage::Active && until.is_some_and(|until| until <= now)
        };
        let mut awake: Vec<_> = self.held.values_mut().filter(is_over).collect();
        if awake.is_empty() {
            return false;
        }
        for held in &mut awake {
            held.pauses.remove_not_due();
            // Whatever lies behind the message that it slept for does not come before it.
            held.trust = Trust::Suspect;
        }
        let these: Vec<_> = awake.iter().map(|held| held.goes_on_at()).collect();
        let applied = apply_pauses(&self.client, awake.into_iter());
        if let Some(error) = applied.error {
            self.error(&error, None);
        }
        self.seek(&these);
        true
    }

    pub(super) fn nap_deadline(&self) -> Option<Instant> {
        if self.phase.is_busy() {
            return None;
        }
        let active = self
            .held
            .values()
            .filter(|held| held.stage == Stage::Active);
        active.filter_map(|held| held.pauses.not_due_until()).min()
    }
}
