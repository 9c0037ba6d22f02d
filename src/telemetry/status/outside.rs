//! What calls of handlers wait for outside, and the connections that serve them.

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

/// The pool of `tide.http`, with the pools that drain after a reload.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct HttpStatus {
    /// The most connections.
    pub(crate) size: usize,
    pub(crate) in_use: usize,
    pub(crate) idle: usize,
    /// Requests that wait for a connection.
    pub(crate) waiting: usize,
    /// Sockets, those that are being closed included.
    pub(crate) open: usize,
}
