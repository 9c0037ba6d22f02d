//! `[kv.NAME]`: the stores of handlers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::Size;

/// A store of handlers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Kv {
    /// Where the entries lie: in the memory of the process, in a file of the state directory, or in Redis.
    pub(in crate::config) backend: KvBackend,
    /// The most entries, in memory or in the file.
    pub(in crate::config) max_entries: u64,
    /// The most bytes of keys and values, in memory or in the file; an entry counts 96 bytes besides.
    pub(in crate::config) max_bytes: Size,
    /// The name of the table `[redis.NAME]` with the server, for the backend `redis`.
    pub(in crate::config) redis: Option<String>,
    /// What each key in Redis begins with, for the backend `redis`; absent: moontide, the name of the store, and colons.
    pub(in crate::config) prefix: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum KvBackend {
    Memory,
    File,
    Redis,
}

impl Default for Kv {
    fn default() -> Self {
        Self {
            backend: KvBackend::Memory,
            max_entries: 1_000_000,
            max_bytes: Size(256 << 20),
            redis: None,
            prefix: None,
        }
    }
}
