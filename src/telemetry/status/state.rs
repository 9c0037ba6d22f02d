//! The stores and caches of handlers.

use serde::{Deserialize, Serialize};

/// A store of `tide.kv`, in memory or in a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct KvStatus {
    pub(crate) name: String,
    /// `memory` or `file`.
    pub(crate) backend: String,
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) max_entries: u64,
    pub(crate) max_bytes: u64,
}

/// A cache of `tide.cache`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct CacheStatus {
    pub(crate) name: String,
    pub(crate) entries: u64,
    pub(crate) capacity: u64,
    pub(crate) bytes: u64,
    /// Calls that got a result without a run, since the cache was made.
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}
