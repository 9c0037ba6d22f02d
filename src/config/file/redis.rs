//! `[redis.NAME]`: the Redis servers of handlers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::{Millis, Size};
use super::kafka::OneOrMany;
use super::tls::Tls;

/// A Redis server of handlers, or a cluster of them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Redis {
    /// The address, as `redis://host:port/database`, with `rediss` for TLS. A list of addresses is those of a cluster.
    pub(in crate::config) url: Option<OneOrMany>,
    /// Whether the server is a part of a cluster; several addresses say so, too.
    pub(in crate::config) cluster: bool,
    /// The user; absent: that of the address, else none.
    pub(in crate::config) user: Option<String>,
    /// The password; absent: that of the address, else none.
    pub(in crate::config) password: Option<String>,
    /// The most connections at once, idle ones included; commands that block have as many of their own.
    pub(in crate::config) size: u32,
    /// The longest wait for a connection of the pool.
    pub(in crate::config) acquire_timeout: Millis,
    /// The longest time of a lookup, a connection, its TLS handshake and the log-in.
    pub(in crate::config) connect_timeout: Millis,
    /// The longest time of a call. A command that blocks has its own time besides.
    pub(in crate::config) timeout: Millis,
    /// The most bytes of the replies of a call; each value in them counts 32 bytes besides.
    pub(in crate::config) max_reply: Size,
    /// TLS: true or false, or the certificates; absent: as the address says.
    pub(in crate::config) tls: Option<Tls>,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            url: None,
            cluster: false,
            user: None,
            password: None,
            size: 64,
            acquire_timeout: Millis(5_000),
            connect_timeout: Millis(5_000),
            timeout: Millis(10_000),
            max_reply: Size(16 << 20),
            tls: None,
        }
    }
}
