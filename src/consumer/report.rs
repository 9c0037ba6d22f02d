//! What the consumer says of itself: its status, and the last thing that went wrong.

use std::time::Instant;

use crate::clock::now_ms;
use crate::kafka::Error;
use crate::logging::RateLimit;
use crate::status::{ConsumerStatus, PartitionStatus};

use super::{Consumer, Held, line_limit};

/// The last error of broker or group, until something works again.
pub(super) struct Trouble {
    error: Option<(String, i64)>,
    limit: RateLimit,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            error: None,
            limit: line_limit(),
        }
    }
}

impl Trouble {
    pub(super) fn note(&mut self, consumer: &str, error: &Error, place: Option<(&str, i32)>) {
        let text = match place {
            Some((topic, partition)) => format!("{topic}-{partition}: {error}"),
            None => error.to_string(),
        };
        // That all brokers are down only sums up: why is what went before.
        if self.error.is_none() || !error.is_summary() {
            let since = self.error.take().map_or_else(now_ms, |(_, since)| since);
            self.error = Some((text, since));
        }
        if let Some(left_out) = self.limit.allow(Instant::now()) {
            let left_out = (left_out > 0).then_some(left_out);
            let (topic, partition) = (place.map(|place| place.0), place.map(|place| place.1));
            tracing::warn!(consumer, topic, partition, %error, left_out, "kafka error");
        }
    }

    /// Something worked.
    pub(super) fn over(&mut self) {
        self.error = None;
    }

    pub(super) fn is_none(&self) -> bool {
        self.error.is_none()
    }
}

impl Consumer {
    pub(super) fn status(&self) -> ConsumerStatus {
        let mut partitions: Vec<_> = self
            .held
            .values()
            .map(|held| self.partition_status(held))
            .collect();
        partitions.sort_by(|a, b| (&a.topic, a.partition).cmp(&(&b.topic, b.partition)));
        ConsumerStatus {
            name: self.name.to_string(),
            group_id: self.settings.group_id.clone(),
            state: self
                .phase
                .name(self.closing.is_some(), !self.trouble.is_none())
                .to_owned(),
            error: self.trouble.error.as_ref().map(|error| error.0.clone()),
            error_since: self.trouble.error.as_ref().map(|error| error.1),
            subscription: self
                .topics
                .subscribed()
                .iter()
                .map(ToString::to_string)
                .collect(),
            partitions,
        }
    }

    fn partition_status(&self, held: &Held) -> PartitionStatus {
        let position = held.tracker.finished().offset;
        let known = self
            .client
            .known_watermarks(&held.partition.topic, held.partition.number);
        PartitionStatus {
            topic: held.partition.topic.to_string(),
            partition: held.partition.number,
            position: Some(position),
            committed: held.committed,
            lag: known.map(|(_, high)| (high - position).max(0)),
            in_flight: held.tracker.unfinished(),
            blocked: held.partition.blocked(),
        }
    }
}
