//! Producers: from the file's tables, inheritance done, to the properties that librdkafka is told.

use super::file::{File, Producer};
use super::kafkajs::{self, IN_FLIGHT_MAX};
use super::names::is_word;
use super::passthrough::Table;
use super::properties;
use super::unit::{Millis, Size};
use super::{DEFAULT_PRODUCER, Scene};
use crate::kafka::property::Role;
use crate::wait::send::Acks;

/// Below this a record of the brokers' default limit would not fit.
const BUFFER_MIN: Size = Size(2 << 20);
const BUFFER_MAX: Size = Size(1 << 30);
/// A record that is given up may be written until then.
const TIMEOUT_MAX: Millis = Millis(300_000);

/// All producers. That of `[producerConfig]` comes first; it is there without a table, too, if there are brokers.
pub(super) fn resolve(file: &File, scene: &mut Scene<'_, '_>) -> Vec<super::Producer> {
    let mut resolved = Vec::new();
    let path = ["producerConfig"];
    let is_written = scene.at_keys(&path, &[]).is_some();
    let has_brokers = !file.producer_config.client.brokers.is_empty();
    if is_written || has_brokers && scene.report.is_empty() {
        let mut producer = one(DEFAULT_PRODUCER, &file.producer_config, &path, scene);
        producer.is_written = is_written;
        resolved.push(producer);
    }
    for (name, producer) in &file.producers {
        let path = ["producers", name.as_str()];
        check_name(name, &path, scene);
        resolved.push(one(name, producer, &path, scene));
    }
    resolved
}

fn check_name(name: &str, path: &[&str], scene: &mut Scene<'_, '_>) {
    let at = scene.at_keys(path, &[]);
    if name == DEFAULT_PRODUCER {
        scene.report.error(
            at,
            format!(
                "`{name}` is the name of the producer of `[producerConfig]`; write its keys there"
            ),
        );
    } else if !is_word(name) {
        scene.report.error(
            at,
            format!("producer `{name}`: a name has letters, digits, `_` and `-` only"),
        );
    }
}

fn one(
    name: &str,
    producer: &Producer,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) -> super::Producer {
    properties::check_brokers(&producer.client, path, scene);
    let acks = acks(producer, path, scene);
    let is_idempotent = idempotent(name, producer, acks, path, scene);
    limits(producer, path, scene);
    let table = Table {
        role: Role::Producer,
        client: &producer.client,
        path,
    };
    let mapped = kafkajs::producer(producer, is_idempotent, scene.folder);
    let properties = properties::resolve(&table, mapped, scene);
    super::Producer {
        name: name.to_owned(),
        properties,
        acks,
        is_idempotent,
        compression: producer.compression,
        timeout: producer.timeout.duration(),
        buffer_memory: producer.buffer_memory.0 as usize,
        metadata_max_age: producer.metadata_max_age.duration(),
        is_written: true,
    }
}

fn acks(producer: &Producer, path: &[&str], scene: &mut Scene<'_, '_>) -> Acks {
    let number = producer.acks.0;
    Acks::of(number).unwrap_or_else(|| {
        let at = scene.at_keys(path, &["acks"]);
        let message = format!(
            "`acks` is {number}, not -1 (all replicas in sync), 1 (the leader) or 0 (none)"
        );
        scene.report.error(at, message);
        Acks::All
    })
}

fn idempotent(
    name: &str,
    producer: &Producer,
    acks: Acks,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) -> bool {
    if acks == Acks::All {
        let is_idempotent = producer.idempotent.unwrap_or(true);
        let requests = producer.client.max_in_flight_requests;
        if let Some(requests) = requests.filter(|requests| *requests > IN_FLIGHT_MAX)
            && is_idempotent
            && scene.is_own(path, &["maxInFlightRequests"])
        {
            let at = scene.at_keys(path, &["maxInFlightRequests"]);
            scene.report.error(
                at,
                format!(
                    "`maxInFlightRequests` is {requests}, more than the {IN_FLIGHT_MAX} of an idempotent producer; lower \
                     it, or set `idempotent = false`"
                ),
            );
        }
        return is_idempotent;
    }
    let number = acks.number();
    match producer.idempotent {
        Some(true) => {
            let at = scene.at_written(path, &["idempotent", "acks"]);
            scene.report.error(
                at,
                format!(
                    "`idempotent` is true, which needs `acks` -1, but `acks` is {number}; remove one of them"
                ),
            );
        }
        Some(false) => {}
        None => scene.report.warning(format!(
            "producer `{name}` is not idempotent, because `acks` is {number}: a lost answer makes a record appear twice"
        )),
    }
    false
}

fn limits(producer: &Producer, path: &[&str], scene: &mut Scene<'_, '_>) {
    let timeout = producer.timeout;
    if timeout.0 == 0 || timeout > TIMEOUT_MAX {
        let at = scene.at_keys(path, &["timeout"]);
        scene.report.error(
            at,
            format!("`timeout` is {timeout}, not from 1 ms to {TIMEOUT_MAX}"),
        );
    }
    let memory = producer.buffer_memory;
    if memory < BUFFER_MIN || memory > BUFFER_MAX {
        let at = scene.at_keys(path, &["bufferMemory"]);
        scene.report.error(
            at,
            format!("`bufferMemory` is {memory}, not from {BUFFER_MIN} to {BUFFER_MAX}"),
        );
    }
    if producer.metadata_max_age.0 == 0 {
        let at = scene.at_keys(path, &["metadataMaxAge"]);
        scene.report.error(
            at,
            "`metadataMaxAge` is 0, so new partitions would never be found",
        );
    }
}
