//! What calls of handlers wait for outside, the connections that serve them, and the producers.

use serde::{Deserialize, Serialize};

/// Calls of handlers that wait for the same.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutsideWait {
    /// Absent for timers and observers.
    pub(crate) listener: Option<String>,
    /// `http GET api.example.com`.
    pub(crate) what: String,
    pub(crate) calls: usize,
    /// Since when the oldest one waits.
    pub(crate) since: i64,
}

/// The pool of `tide.http`, of a Redis server or of a database, with the pools that drain after a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PoolStatus {
    /// The most connections.
    pub(crate) size: usize,
    pub(crate) in_use: usize,
    pub(crate) idle: usize,
    /// Calls that wait for a connection.
    pub(crate) waiting: usize,
    /// Sockets, those that are being closed included.
    pub(crate) open: usize,
}

impl PoolStatus {
    pub(crate) fn add(&mut self, other: &Self) {
        self.size += other.size;
        self.in_use += other.in_use;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.open += other.open;
    }
}

/// The connections to a database.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SqlStatus {
    /// That of the table of the configuration.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) pool: PoolStatus,
    /// Connections of transactions that are open; `inUse` has them, too.
    pub(crate) transactions: usize,
}

/// The connections to a Redis server, or to a cluster.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct RedisStatus {
    /// That of the table of the configuration.
    pub(crate) name: String,
    #[serde(flatten)]
    pub(crate) pool: PoolStatus,
    /// Connections of commands that block; `open` has them, too.
    pub(crate) blocking: usize,
}

/// A producer of handlers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ProducerStatus {
    pub(crate) name: String,
    /// Clients, of which each pair of `acks` and `compression` has its own; none before its first use.
    pub(crate) clients: usize,
    /// Sends that wait for room in `bufferMemory`.
    pub(crate) queued: usize,
    /// Records without an acknowledgement, and their bytes.
    pub(crate) in_flight: usize,
    pub(crate) in_flight_bytes: usize,
    /// The last error, until a record is acknowledged.
    pub(crate) error: Option<String>,
    pub(crate) error_since: Option<i64>,
}
