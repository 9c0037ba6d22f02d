//! The producers in the output of `check`.

use serde_json::{Value as Json, json};

use crate::config::Producer;
use crate::duration::short;

pub(super) fn as_lines(producer: &Producer) -> Vec<String> {
    let number = producer.acks.number();
    let idempotent = if producer.is_idempotent {
        "idempotent: brokers discard repeats"
    } else {
        "not idempotent: a lost answer makes a record appear twice"
    };
    vec![
        format!("acks {number}, {idempotent}"),
        format!(
            "a send waits for {} at most; {} bytes without an acknowledgement, beyond which it waits",
            short(producer.timeout),
            producer.buffer_memory
        ),
    ]
}

pub(super) fn as_json(producer: &Producer) -> Json {
    json!({
        "name": producer.name,
        "idempotent": producer.is_idempotent,
        "acks": producer.acks.number(),
        "compression": producer.compression.word(),
        "timeout": producer.timeout.as_millis() as u64,
        "bufferMemory": producer.buffer_memory,
        "metadataMaxAge": producer.metadata_max_age.as_millis() as u64,
        "librdkafka": super::properties_as_json(&producer.properties),
    })
}
