//! Fairness between partitions. A partition that has used up its share of the budget holds up the others, because
//! taking messages cannot choose among partitions. After some time it is paused; it is resumed with half of its
//! share.
//!
//! Heavy messages are larger than librdkafka counts, and its queue would hold too many of them. A partition of such
//! messages is paused as soon as it has used up its share, also if it is alone: the pause empties its queue.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::log::log;
use crate::telemetry::status::Pause;

use super::Consumer;
use super::budget::Share;
use super::held::{Held, apply_pauses};

/// A partition with a full share is paused after this time if other partitions wait for it. A pause discards the
/// prefetched messages, so the time is long enough to run the messages of one fetch, some thousand.
const PATIENCE: Duration = Duration::from_millis(100);
/// The same for a partition that will be paused again anyway. Its topic has a share, or the partition is slow: it
/// took `SLOW` or more to run half of its share in its last pause. Or another partition of its topic, which has the
/// same handlers, has been paused for `SLOW` now.
const SHORT_PATIENCE: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(250);
/// The same if no other partition is known to wait. Others may wait all the same: while librdkafka's queue is full,
/// no fetch shows their new messages.
const LONG_PATIENCE: Duration = Duration::from_millis(500);
/// How long the answer holds whether other partitions wait.
const WANTED_FOR: Duration = Duration::from_millis(20);

/// Whether other partitions wait for one with a full share, and until when that answer holds.
#[derive(Default)]
pub(super) struct Wanted(Option<(Instant, bool)>);

/// How long the consumer waits for a partition with a full share.
fn patience(is_slow: bool, is_wanted: bool) -> Duration {
    match (is_wanted, is_slow) {
        (false, _) => LONG_PATIENCE,
        (true, false) => PATIENCE,
        (true, true) => SHORT_PATIENCE,
    }
}

impl Held {
    /// Adds or removes the budget as a reason to pause. `is_slow`: a partition of its topic was slow.
    fn judge_share(&mut self, share: &Share, is_slow: bool, is_wanted: bool, now: Instant) {
        if self.pauses.has(Pause::NotDue) {
            return;
        }
        let is_paused = self.pauses.has(Pause::Budget);
        let tracker = &self.epoch.tracker;
        if !self.takes_part() || !(is_paused || share.is_used_up(tracker, self.weight)) {
            self.pauses.full_since = None;
        } else if is_paused {
            if share.is_half_free(tracker, self.weight) {
                self.pauses.remove_budget(now);
            }
        } else if self.is_heavy {
            self.pauses.add_budget(now);
        } else if share.partitions > 1 {
            let shares = self.plan.share.is_some();
            let is_slow = is_slow || shares || self.pauses.budget_took >= SLOW;
            let since = *self.pauses.full_since.get_or_insert(now);
            if now.duration_since(since) >= patience(is_slow, is_wanted) {
                self.pauses.add_budget(now);
            }
        }
    }
}

/// The weight of a topic with a share of 1 and one partition, where topics have shares.
const WEIGHT: u32 = 1 << 20;

impl Consumer {
    /// Weighs the partitions: those of a topic have its share together. Without shares all weigh the same.
    pub(super) fn weigh(&mut self) {
        let mut counts: HashMap<Arc<str>, u32> = HashMap::new();
        let shares = self.held.values().filter(|held| held.plan.share.is_some());
        for held in shares {
            let topic = held.epoch.partition.topic.clone();
            *counts.entry(topic).or_default() += 1;
        }
        for held in self.held.values_mut() {
            let count = counts.get(&held.epoch.partition.topic);
            held.weight = match (held.plan.share, count) {
                (Some(share), Some(count)) => WEIGHT * share.min(1000) / count,
                _ => 1,
            };
        }
        self.intake.look_anew();
    }

    /// Pauses partitions that hold up the others, and resumes them with half of their share. Returns whether there
    /// was any. Never during a rebalance: librdkafka then pauses every partition itself, and has lost resumes given
    /// in between.
    pub(super) fn keep_fair(&mut self, now: Instant) -> bool {
        self.follow_pauses(now);
        if self.phase.is_busy() {
            return false;
        }
        let share = Share::new(&self.in_flight());
        let is_wanted = self.is_wanted(&share, now);
        let slow = if is_wanted {
            self.slow_topics(now)
        } else {
            HashSet::new()
        };
        for (key, held) in &mut self.held {
            held.judge_share(&share, slow.contains(&key.topic), is_wanted, now);
        }
        let applied = apply_pauses(&self.client, self.held.values_mut());
        let partitions = applied.partitions;
        if let Some(error) = applied.error {
            log!(warn, consumer, consumer = &*self.name, partitions, %error, "pause or resume failed");
        }
        partitions > 0
    }

    /// Topics with a partition that is paused and has not run half of its share in `SLOW`.
    fn slow_topics(&self, now: Instant) -> HashSet<Arc<str>> {
        let is_slow = |held: &&Held| {
            let pauses = &held.pauses;
            let since = pauses.budget_at.filter(|_| pauses.has(Pause::Budget));
            since.is_some_and(|at| now.duration_since(at) >= SLOW)
        };
        let slow = self.held.values().filter(is_slow);
        slow.map(|held| held.epoch.partition.topic.clone())
            .collect()
    }

    /// Whether other partitions wait for one with a full share. The lookup is done only where its answer may matter.
    fn is_wanted(&mut self, share: &Share, now: Instant) -> bool {
        let mut full = self.held.values().filter_map(|held| held.pauses.full_since);
        if !full.any(|since| now.duration_since(since) >= SHORT_PATIENCE) {
            return false;
        }
        match self.intake.wanted {
            Wanted(Some((until, is_wanted))) if now < until => is_wanted,
            _ => {
                // This lookup costs librdkafka a lock and a search for each partition.
                let is_wanted = self.held.values().any(|held| self.wants(held, share));
                self.intake.wanted = Wanted(Some((now + WANTED_FOR, is_wanted)));
                is_wanted
            }
        }
    }

    /// Whether a partition may soon have nothing to run although its log has more, as of the last fetch.
    fn wants(&self, held: &Held, share: &Share) -> bool {
        let tracker = &held.epoch.tracker;
        if !held.takes_part() || held.pauses.is_any() || !share.is_low(tracker) {
            return false;
        }
        let partition = &held.epoch.partition;
        match self
            .client
            .known_watermarks(&partition.topic, partition.number)
        {
            Some((_, end)) if end >= 0 => end > tracker.expected(),
            _ => true,
        }
    }

    pub(super) fn fairness_deadline(&self, now: Instant) -> Option<Instant> {
        if self.phase.is_busy() || self.in_flight().partitions < 2 {
            return None;
        }
        let full = self.held.values().filter_map(|held| held.pauses.full_since);
        let first = full.min()? + SHORT_PATIENCE;
        Some(if first > now { first } else { now + WANTED_FOR })
    }
}
