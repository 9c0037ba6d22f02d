//! Retry topics: a partition whose next message is not due is paused until it is.
//!
//! A pause discards the prefetched messages, and its end seeks back to the message that came too early. So no message
//! of a paused partition stays in memory. Never during a rebalance: an assignment forgets the pauses, and the message
//! is delivered again.

use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::kafka::Message;
use crate::outgoing::retry_topic;

use super::Consumer;
use super::held::{Held, Stage, Trust, apply_pauses};
use super::trouble::Subject;

/// The shortest pause: a shorter one would repeat the fetch for a few messages at a time.
const NAP_MIN: Duration = Duration::from_millis(200);
/// The longest pause, because the system clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);

impl Consumer {
    /// Whether the message came too early. Its partition is then paused, and its messages in the rest of the batch
    /// are dropped.
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
            self.error(&error, Subject::Partition(held.key()));
        }
        true
    }

    /// Resumes partitions whose message is due. Returns whether there was one.
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
            // Messages behind the one that was not due do not come before it.
            held.trust = Trust::Suspect;
        }
        let these: Vec<_> = awake.iter().map(|held| held.goes_on_at()).collect();
        let applied = apply_pauses(&self.client, awake.into_iter());
        if let Some(error) = applied.error {
            self.error(&error, Subject::Group);
        }
        self.seek(&these);
        true
    }

    pub(super) fn not_due_deadline(&self) -> Option<Instant> {
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
