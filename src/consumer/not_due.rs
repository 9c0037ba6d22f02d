//! Retry topics and topics with a delay: a partition whose next message is not due is paused until it is, **and no
//! longer than the delay of the topic from the moment at which the message was seen**. A later due time comes from a
//! wrong clock or a forged record.
//!
//! A message of a retry topic is due at the time that its record names. With `delay` a message is due when it is that
//! old by its timestamp; without one it counts as made when it was seen.
//!
//! A pause discards the prefetched messages, and its end seeks back to the message that came too early. So no message
//! of a paused partition stays in memory. Never during a rebalance: an assignment forgets the pauses, and the message
//! is delivered again.

use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::kafka::Message;
use crate::log::log;
use crate::message::Record;
use crate::outgoing::retry_topic;
use crate::rules::route::Plan;
use crate::topic_name;

use super::Consumer;
use super::held::{Held, Stage, Trust, apply_pauses};
use super::trouble::Subject;

/// The shortest pause: a shorter one would repeat the fetch for a few messages at a time.
const NAP_MIN: Duration = Duration::from_millis(200);
/// The longest pause, because the system clock may be set meanwhile.
const NAP_MAX: Duration = Duration::from_secs(60);

/// Clocks of two hosts differ by less: a due time that lies further beyond the delay gets a log line.
const CLOCKS_APART: Duration = Duration::from_secs(60);

/// How long before its due time a message comes; `None` for one that is due.
fn early(plan: &Plan, topic: &str, message: &dyn Record, now_ms: i64) -> Option<Duration> {
    let due_ms = match plan.delay {
        Some(delay) if message.timestamp_ms() < 0 => return Some(delay),
        Some(delay) => {
            let delay_ms = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            message.timestamp_ms().saturating_add(delay_ms)
        }
        None => retry_topic::origin(topic, message)?.due_ms,
    };
    let early_ms = u64::try_from(due_ms.saturating_sub(now_ms)).ok()?;
    (early_ms > 0).then(|| Duration::from_millis(early_ms))
}

impl Consumer {
    /// Whether the message came too early. Its partition is then paused, and its messages in the rest of the batch
    /// are dropped.
    pub(super) fn is_early(&mut self, held: &mut Held, message: &Message) -> bool {
        if !held.plan.is_retry && held.plan.delay.is_none() {
            return false;
        }
        let topic = &held.epoch.partition.topic;
        let Some(early) = early(&held.plan, topic, message, now_ms()) else {
            return false;
        };
        let now = Instant::now();
        let wait = self.wait_at_most(held, message.offset(), early, now);
        if wait.is_zero() {
            return false;
        }
        held.pauses.set_not_due(now + wait.clamp(NAP_MIN, NAP_MAX));
        let applied = apply_pauses(&self.client, std::iter::once(&mut *held));
        if let Some(error) = applied.error {
            self.error(&error, Subject::Partition(held.key()));
        }
        true
    }

    /// How long a message that is not due for `early` waits on.
    fn wait_at_most(
        &mut self,
        held: &mut Held,
        offset: i64,
        early: Duration,
        now: Instant,
    ) -> Duration {
        let partition = &held.epoch.partition;
        let (topic, number) = (&*partition.topic, partition.number);
        let Some(delay) = held.plan.delay.or_else(|| topic_name::retry_delay(topic)) else {
            return early;
        };
        let end = || {
            let known = self.client.known_watermarks(topic, number);
            known.map(|(_, end)| end)
        };
        let first_seen = &mut held.epoch.first_seen;
        let wait = first_seen.wait(offset, early, delay, end, now);
        if early > delay.saturating_add(CLOCKS_APART)
            && first_seen.is_to_tell()
            && let Some(left_out) = self.intake.early_limit.allow(now)
        {
            let left_out = (left_out > 0).then_some(left_out);
            log!(
                warn,
                consumer,
                consumer = &*self.name,
                topic,
                partition = number,
                offset,
                due_in_ms = early.as_millis() as i64,
                left_out,
                "a message is due later than its topic's delay: a clock was wrong, or the record is forged; it waits \
                 for the delay"
            );
        }
        wait
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::OwnedRecord;

    const NOW: i64 = 1_700_000_000_000;
    const DELAY: Duration = Duration::from_secs(900);

    fn early_by(plan: &Plan, timestamp_ms: i64) -> Option<u64> {
        let message = OwnedRecord {
            timestamp_ms,
            ..OwnedRecord::default()
        };
        let early = early(plan, "orders", &message, NOW);
        early.map(|early| early.as_millis() as u64)
    }

    #[test]
    fn a_message_is_due_when_it_is_as_old_as_the_delay() {
        let plan = Plan {
            delay: Some(DELAY),
            ..Plan::nobody()
        };
        assert_eq!(early_by(&plan, NOW), Some(900_000));
        assert_eq!(early_by(&plan, NOW - 899_999), Some(1));
        assert_eq!(early_by(&plan, NOW - 900_000), None);
        assert_eq!(early_by(&plan, 0), None);
        assert_eq!(early_by(&plan, i64::MAX), Some((i64::MAX - NOW) as u64));
        // Without a timestamp: from the first sight on.
        assert_eq!(early_by(&plan, -1), Some(900_000));
    }

    #[test]
    fn a_message_of_a_retry_topic_is_due_when_its_record_says() {
        let plan = Plan {
            is_retry: true,
            ..Plan::nobody()
        };
        assert_eq!(early_by(&plan, NOW), None);
    }
}
