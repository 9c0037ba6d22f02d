//! kafkajs' names as librdkafka's properties.
//!
//! The one place that knows both. It decides nothing about groups or listeners; what librdkafka itself would refuse is
//! asked of librdkafka.

mod producer;
mod security;

use std::collections::BTreeMap;
use std::fmt::Display;
use std::path::Path;

use super::file::{Assigner, Client, Consumer, GroupProtocol, LogLevel};

/// A property, and the keys of the file below the consumer's table that it comes from.
pub(super) struct Mapped {
    pub(super) value: String,
    pub(super) keys: &'static [&'static str],
}

pub(super) type Properties = BTreeMap<String, Mapped>;

/// A complaint about keys that cannot be mapped.
pub(super) struct Complaint {
    pub(super) keys: &'static [&'static str],
    pub(super) message: String,
}

fn complain<T>(keys: &'static [&'static str], message: impl Into<String>) -> Result<T, Complaint> {
    let message = message.into();
    Err(Complaint { keys, message })
}

/// Between two attempts to connect, unless `retry` says otherwise.
pub(super) const RECONNECT_MAX_MS: u64 = 3_000;

struct Mapping<'a> {
    folder: &'a Path,
    properties: Properties,
}

pub(super) use producer::{IN_FLIGHT_MAX, producer};

/// Everything that librdkafka is told of a consumer but its pass-through table.
pub(super) fn consumer(consumer: &Consumer, folder: &Path) -> (Properties, Vec<Complaint>) {
    let mut mapping = Mapping {
        folder,
        properties: Properties::new(),
    };
    mapping.always();
    let complaints = mapping.connection(&consumer.client);
    mapping.group(consumer);
    mapping.metadata(
        consumer.metadata_max_age.0,
        consumer.allow_auto_topic_creation,
    );
    mapping.fetch(consumer);
    (mapping.properties, complaints)
}

/// Everything that librdkafka is told of a connection that neither consumes nor sends, but its pass-through table.
pub(super) fn connection(client: &Client, folder: &Path) -> (Properties, Vec<Complaint>) {
    let mut mapping = Mapping {
        folder,
        properties: Properties::new(),
    };
    let complaints = mapping.connection(client);
    (mapping.properties, complaints)
}

impl Mapping<'_> {
    fn set(&mut self, name: &str, value: impl Display, keys: &'static [&'static str]) {
        self.properties.insert(
            name.to_owned(),
            Mapped {
                value: value.to_string(),
                keys,
            },
        );
    }

    /// The properties that delivery guarantees and throughput need; the file cannot change them.
    fn always(&mut self) {
        self.set("enable.auto.commit", false, &[]);
        self.set("enable.auto.offset.store", false, &[]);
        // Where to start is decided at the assignment; underneath, a truncated log repeats rather than skips.
        self.set("auto.offset.reset", "earliest", &[]);
        // Larger zstd batches never arrive. An HTTP answer, read as a size, is larger still, and so is refused.
        self.set("receive.message.max.bytes", 1 << 30, &[]);
        // The end of a partition is the only word about offsets without a message (see `consumer/ends.rs`).
        self.set("enable.partition.eof", true, &[]);
        // The default of a second costs most of the throughput, and 5 ms a sixth of it with several partitions: each of
        // them is backed off by itself. Shorter ones wake librdkafka's threads more often than that is worth.
        self.set("fetch.queue.backoff.ms", 2, &[]);
        self.set("queued.max.messages.kbytes", 16_384, &[]);
        // Some milliseconds at full speed, on top of what the fetch under way brings. Small messages cost librdkafka
        // several times their bytes, which the limit in kilobytes does not see, and what waits long in its queue has left
        // the processor's caches when it is handled.
        self.set("queued.min.messages", 10_000, &[]);
    }

    fn connection(&mut self, client: &Client) -> Vec<Complaint> {
        self.client(client);
        let mut complaints = Vec::new();
        complaints.extend(self.ssl(client.ssl.as_ref()).err());
        if let Some(sasl) = &client.sasl {
            complaints.extend(self.sasl(sasl).err());
        }
        self.security(client);
        complaints
    }

    fn client(&mut self, client: &Client) {
        if !client.brokers.is_empty() {
            self.set("bootstrap.servers", brokers(client).join(","), &["brokers"]);
        }
        self.set("client.id", &client.client_id, &["clientId"]);
        // librdkafka's limit includes TLS and authentication.
        let setup = client
            .connection_timeout
            .0
            .saturating_add(client.authentication_timeout.0);
        self.set(
            "socket.connection.setup.timeout.ms",
            setup,
            &["connectionTimeout"],
        );
        self.set(
            "socket.timeout.ms",
            client.request_timeout.0,
            &["requestTimeout"],
        );
        // librdkafka's own 10 s would leave a group idle for twice that after a broker is back.
        let initial = client.retry.initial_retry_time.map_or(0, |time| time.0);
        self.set(
            "reconnect.backoff.max.ms",
            RECONNECT_MAX_MS.max(initial),
            &[],
        );
        if let Some(time) = client.retry.initial_retry_time {
            self.set("retry.backoff.ms", time.0, &["retry", "initialRetryTime"]);
            self.set(
                "reconnect.backoff.ms",
                time.0,
                &["retry", "initialRetryTime"],
            );
        }
        if let Some(time) = client.retry.max_retry_time {
            self.set("retry.backoff.max.ms", time.0, &["retry", "maxRetryTime"]);
            self.set(
                "reconnect.backoff.max.ms",
                time.0,
                &["retry", "maxRetryTime"],
            );
        }
        if let Some(requests) = client.max_in_flight_requests {
            self.set(
                "max.in.flight.requests.per.connection",
                requests,
                &["maxInFlightRequests"],
            );
        }
        let level = match client.log_level {
            LogLevel::Nothing => 0,
            LogLevel::Error => 3,
            LogLevel::Warn => 4,
            LogLevel::Info => 6,
            LogLevel::Debug => 7,
        };
        self.set("log_level", level, &["logLevel"]);
        if client.log_level == LogLevel::Debug {
            self.set("debug", "broker,cgrp,topic", &["logLevel"]);
        }
    }

    fn group(&mut self, consumer: &Consumer) {
        if let Some(id) = &consumer.group_id {
            self.set("group.id", id, &["groupId"]);
        }
        self.set(
            "max.poll.interval.ms",
            consumer.rebalance_timeout.0,
            &["rebalanceTimeout"],
        );
        match consumer.group_protocol {
            GroupProtocol::Consumer => self.set("group.protocol", "consumer", &["groupProtocol"]),
            GroupProtocol::Classic => {
                self.set(
                    "session.timeout.ms",
                    consumer.session_timeout.0,
                    &["sessionTimeout"],
                );
                self.set(
                    "heartbeat.interval.ms",
                    consumer.heartbeat_interval.0,
                    &["heartbeatInterval"],
                );
                let names: Vec<&str> = consumer
                    .partition_assigners
                    .iter()
                    .copied()
                    .map(assigner)
                    .collect();
                self.set(
                    "partition.assignment.strategy",
                    names.join(","),
                    &["partitionAssigners"],
                );
            }
        }
    }

    fn metadata(&mut self, age: u64, creates_topics: bool) {
        self.set(
            "topic.metadata.refresh.interval.ms",
            age,
            &["metadataMaxAge"],
        );
        // librdkafka's own proportion: what is known outlives two refreshes that fail.
        self.set(
            "metadata.max.age.ms",
            age.saturating_mul(3).min(86_400_000),
            &["metadataMaxAge"],
        );
        self.set(
            "allow.auto.create.topics",
            creates_topics,
            &["allowAutoTopicCreation"],
        );
    }

    fn fetch(&mut self, consumer: &Consumer) {
        self.set(
            "max.partition.fetch.bytes",
            consumer.max_bytes_per_partition.0,
            &["maxBytesPerPartition"],
        );
        self.set("fetch.min.bytes", consumer.min_bytes.0, &["minBytes"]);
        self.set("fetch.max.bytes", consumer.max_bytes.0, &["maxBytes"]);
        self.set(
            "fetch.wait.max.ms",
            consumer.max_wait_time_in_ms.0,
            &["maxWaitTimeInMs"],
        );
        let isolation = if consumer.read_uncommitted {
            "read_uncommitted"
        } else {
            "read_committed"
        };
        self.set("isolation.level", isolation, &["readUncommitted"]);
        if !consumer.rack_id.is_empty() {
            self.set("client.rack", &consumer.rack_id, &["rackId"]);
        }
    }
}

/// Every broker by itself: a variable may hold several, separated by commas.
pub(super) fn brokers(client: &Client) -> Vec<&str> {
    client
        .brokers
        .iter()
        .flat_map(|entry| entry.split(','))
        .map(str::trim)
        .collect()
}

fn assigner(assigner: Assigner) -> &'static str {
    match assigner {
        Assigner::CooperativeSticky => "cooperative-sticky",
        Assigner::RoundRobin => "roundrobin",
        Assigner::Range => "range",
    }
}
