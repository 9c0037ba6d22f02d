//! The consumer's own report: its status, with the errors of its places.

use std::time::{Duration, Instant};

use crate::assignment::PartitionKey;
use crate::clock::now_ms;
use crate::kafka::Client;
use crate::log::log;
use crate::telemetry::metrics::{ConsumerCounts, ConsumerSnapshot};
use crate::telemetry::status::{ConsumerStatus, PartitionStatus};

use super::Consumer;
use super::held::{Held, Stage};
use super::lost_offsets::Lost;
use super::phase::CONNECTING;
use super::transactions::Transactions;
use super::trouble;

/// The present phase of the consumer, its begin, and the last lookup of the partitions' ends.
pub(super) struct State {
    name: &'static str,
    since: i64,
    looked: Instant,
}

impl State {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            name: "joining",
            since: now_ms(),
            looked: now,
        }
    }
}

/// The time between two checks for messages that wait while none is received.
const LOOK: Duration = Duration::from_secs(5);

impl Held {
    /// The start of the partition's log, as of the last fetch.
    pub(super) fn log_start(&self, client: &Client) -> Option<i64> {
        let known =
            client.known_watermarks(&self.epoch.partition.topic, self.epoch.partition.number);
        known.map(|(low, _)| low).filter(|low| *low >= 0)
    }

    /// Logs the messages that were deleted before they were fetched.
    pub(super) fn look_for_lost(
        &mut self,
        client: &Client,
        counts: &mut ConsumerCounts,
        now: Instant,
    ) {
        if self.epoch.lost.is_open()
            && let Some(log_start) = self.log_start(client)
        {
            self.epoch.lost.look(log_start);
        }
        let Some(lost) = self.epoch.lost.tell(now) else {
            return;
        };
        let (consumer, topic) = (
            &*self.epoch.partition.consumer,
            &*self.epoch.partition.topic,
        );
        let (partition, offset) = (self.epoch.partition.number, lost.next);
        let Lost { first, last, .. } = lost;
        if lost.is_certain {
            counts.messages_lost += lost.count.unsigned_abs();
            log!(
                error,
                consumer,
                consumer,
                topic,
                partition,
                offset,
                lost = lost.count,
                first,
                last,
                "the next offset is older than the log: messages were deleted before they were handled, `lost` at most"
            );
        } else {
            log!(
                warn,
                consumer,
                consumer,
                topic,
                partition,
                offset,
                lost = lost.count,
                first,
                last,
                "the next offset is older than the log: the gap may be transaction markers, compacted messages, or \
                 messages deleted before they were handled"
            );
        }
    }
}

impl Consumer {
    /// Updates the moments that a status shows.
    pub(super) fn look(&mut self, now: Instant) {
        self.connections.look(now);
        let is_member = self.phase.has_joined;
        self.trouble.look(&self.connections, is_member, now);
        let name = self.phase.name(self.connections.are_none(now));
        if name != self.state.name {
            (self.state.name, self.state.since) = (name, now_ms());
        }
        self.tell_left_out(Some(now));
        if now.duration_since(self.state.looked) >= LOOK {
            self.look_for_waiting(now);
        }
    }

    /// Logs the number of suppressed lines in windows that have ended; with `None` in all, because the consumer ends.
    pub(super) fn tell_left_out(&mut self, ended: Option<Instant>) {
        self.trouble.tell_left_out(&self.name, ended);
        for (of, left_out) in trouble::left_out(&mut self.commits.limits, ended) {
            let consumer = &*self.name;
            log!(
                warn,
                consumer,
                consumer,
                of,
                left_out,
                "lines about failed commits left out"
            );
        }
    }

    fn look_for_waiting(&mut self, now: Instant) {
        self.state.looked = now;
        self.look_for_doubtful_ends();
        for (key, held) in &mut self.held {
            let is_idle = held.stage == Stage::Active
                && held.pauses.not_due_until().is_none()
                && held.epoch.tracker.unfinished() == 0;
            let position = held.epoch.tracker.finished().offset;
            let known = self.client.known_watermarks(&key.topic, key.number);
            let waits = known.is_some_and(|(_, high)| high > position);
            held.epoch.ages.look(is_idle && waits, now);
            held.epoch.end_unknown_since = match known {
                Some(_) => None,
                None => held.epoch.end_unknown_since.or(Some(now)),
            };
            held.look_for_lost(&self.client, &mut self.counts, now);
        }
        let (held, late) = (&self.held, &self.phase.late);
        let is_fetched = |key: &PartitionKey| match held.get(key) {
            Some(held) => Some(held.epoch.end_unknown_since.is_none()),
            None => late.iter().any(|one| one.key() == *key).then_some(false),
        };
        self.trouble.look_at_partitions(is_fetched, now);
    }

    pub(super) fn snapshot(&mut self, now: Instant) -> ConsumerSnapshot {
        self.look(now);
        self.look_for_waiting(now);
        let mut held: Vec<_> = self.held.values().collect();
        held.sort_by_cached_key(|held| held.key());
        let clocks = (now, now_ms());
        let partitions = held
            .iter()
            .map(|held| self.partition_status(held, clocks))
            .collect();
        ConsumerSnapshot {
            received: held.iter().map(|held| held.received).collect(),
            status: self.status(partitions),
            counts: ConsumerCounts {
                errors: self.trouble.count(),
                ..self.counts
            },
        }
    }

    fn status(&self, partitions: Vec<PartitionStatus>) -> ConsumerStatus {
        let first = self.trouble.first(self.state.name == CONNECTING);
        ConsumerStatus {
            name: self.name.to_string(),
            group_id: self.settings.group_id.clone(),
            state: self.state.name.to_owned(),
            state_since: self.state.since,
            error: first.as_ref().map(|first| first.0.clone()),
            error_since: first.map(|first| first.1),
            errors: self.trouble.others(|key| self.held.contains_key(key)),
            subscription: self
                .topics
                .subscribed()
                .iter()
                .map(ToString::to_string)
                .collect(),
            topic_errors: self.topics.troubled(),
            transactions: self.transactions.as_ref().map(Transactions::status),
            partitions,
        }
    }

    /// `clocks` is the present moment on both clocks.
    fn partition_status(&self, held: &Held, clocks: (Instant, i64)) -> PartitionStatus {
        let (now, now_ms) = clocks;
        let since = |at: Instant| now_ms - now.saturating_duration_since(at).as_millis() as i64;
        let position = held.epoch.tracker.finished().offset;
        let known = self
            .client
            .known_watermarks(&held.epoch.partition.topic, held.epoch.partition.number);
        let lag = known.map(|(_, high)| (high - position).max(0));
        let age = || {
            held.epoch
                .tracker
                .oldest_timestamp()
                .map(|at| (now_ms - at).max(0))
        };
        PartitionStatus {
            topic: held.epoch.partition.topic.to_string(),
            partition: held.epoch.partition.number,
            position: Some(position),
            committed: held.epoch.committed,
            lag,
            lag_unknown_since: held.epoch.end_unknown_since.map(since),
            error: self.trouble.of_partition(held.key()),
            in_flight: held.epoch.tracker.unfinished(),
            in_flight_bytes: held.epoch.tracker.bytes(),
            lag_ms: match lag {
                Some(0) => Some(0),
                Some(_) => age(),
                None => None,
            },
            oldest_unfinished_since: held.epoch.ages.oldest().map(since),
            // Messages of a released partition stay unfinished, which is no fault.
            stands_still_since: held
                .epoch
                .ages
                .stands_still_since()
                .filter(|_| held.stage == Stage::Active)
                .map(since),
            paused: held.pauses.shown(),
            paused_by: self.paused_by(&held.key()),
            blocked: held.epoch.partition.blocked(),
            // Its worker knows.
            deferred: None,
        }
    }
}
