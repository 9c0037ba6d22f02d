//! The properties of a producer.

use std::path::Path;

use super::{Complaint, Mapping, Properties};
use crate::config::file::Producer;

/// librdkafka's own default, which no batch exceeds.
const BATCH: u64 = 1_000_000;

/// How long a topic without metadata is waited for: one that was created just now may be unknown to a broker.
const PROPAGATION_MS: u64 = 5_000;

/// The most requests in flight that keep the order of an idempotent producer; librdkafka refuses more.
pub(in crate::config) const IN_FLIGHT_MAX: u32 = 5;

/// Everything that librdkafka is told of a producer but its pass-through table. `acks` and `is_idempotent` are the
/// resolved values.
pub(in crate::config) fn producer(
    producer: &Producer,
    is_idempotent: bool,
    folder: &Path,
) -> (Properties, Vec<Complaint>) {
    let mut mapping = Mapping {
        folder,
        properties: Properties::new(),
    };
    let complaints = mapping.connection(&producer.client);
    mapping.metadata(
        producer.metadata_max_age.0,
        producer.allow_auto_topic_creation,
    );
    mapping.always_of_producers(producer);
    mapping.delivery(producer, is_idempotent);
    (mapping.properties, complaints)
}

impl Mapping<'_> {
    /// The properties that an awaited send needs.
    fn always_of_producers(&mut self, producer: &Producer) {
        // A send waits for its answer, so nothing is gained by a wait for more records.
        self.set("linger.ms", 0, &[]);
        // Java's clients and kafkajs map keys so; librdkafka's own default is another one.
        self.set("partitioner", "murmur2_random", &[]);
        self.set("topic.metadata.propagation.max.ms", PROPAGATION_MS, &[]);
        // Moontide's own bound counts keys, headers and bookkeeping too, so it comes first.
        self.set("queue.buffering.max.messages", 0, &[]);
        let kilobytes = (producer.buffer_memory.0 / 1024).saturating_mul(2);
        self.set(
            "queue.buffering.max.kbytes",
            kilobytes.clamp(1_024, i32::MAX as u64),
            &["bufferMemory"],
        );
        // The topic decides how large a record may be. The client's limit only has to be above the bound.
        let largest = producer.buffer_memory.0.clamp(BATCH, 1_000_000_000);
        self.set("message.max.bytes", largest, &["bufferMemory"]);
        self.set("batch.size", BATCH, &[]);
    }

    fn delivery(&mut self, producer: &Producer, is_idempotent: bool) {
        self.set("acks", producer.acks.0, &["acks"]);
        self.set("enable.idempotence", is_idempotent, &["idempotent"]);
        self.set(
            "compression.codec",
            producer.compression.word(),
            &["compression"],
        );
        self.set("message.timeout.ms", producer.timeout.0, &["timeout"]);
        if let Some(retries) = producer.client.retry.retries {
            self.set("retries", retries, &["retry", "retries"]);
        }
        let requests = producer.client.max_in_flight_requests;
        if let Some(requests) = requests.filter(|_| is_idempotent) {
            // An inherited limit may be that of consumers; a larger one in the producer's own table is refused.
            self.set(
                "max.in.flight.requests.per.connection",
                requests.min(IN_FLIGHT_MAX),
                &["maxInFlightRequests"],
            );
        }
    }
}
