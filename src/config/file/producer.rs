//! The tables of producers: `[producerConfig]` and `[producers.NAME]`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::{Millis, Size};
use super::kafka::Client;
use crate::wait::send::Compression;

/// A producer of handlers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Producer {
    #[serde(flatten)]
    pub(in crate::config) client: Client,
    /// Whether brokers discard the repeats of a request; absent: true, but false with other acks than -1.
    pub(in crate::config) idempotent: Option<bool>,
    /// The replicas that must have a record before it is acknowledged: -1 all that are in sync, 1 the leader, 0 none.
    pub(in crate::config) acks: Acks,
    /// The compression of batches.
    pub(in crate::config) compression: Compression,
    /// The longest time that a send waits for its acknowledgement.
    pub(in crate::config) timeout: Millis,
    /// The most bytes of records without an acknowledgement; a send beyond it waits.
    pub(in crate::config) buffer_memory: Size,
    /// The time after which the metadata and the limits of topics are refreshed.
    pub(in crate::config) metadata_max_age: Millis,
    /// Whether a record creates a missing topic, where the brokers allow that.
    pub(in crate::config) allow_auto_topic_creation: bool,
}

impl Default for Producer {
    fn default() -> Self {
        Self {
            client: Client::default(),
            idempotent: None,
            acks: Acks::default(),
            compression: Compression::default(),
            timeout: Millis(30_000),
            buffer_memory: Size(32 << 20),
            metadata_max_age: Millis(300_000),
            allow_auto_topic_creation: false,
        }
    }
}

/// A number whose default is not 0.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(in crate::config) struct Acks(pub(in crate::config) i64);

impl Default for Acks {
    fn default() -> Self {
        Self(-1)
    }
}
