//! `[sql.NAME]`: the databases of handlers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::{Millis, Size};
use super::tls::Tls;

/// A database of handlers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Sql {
    /// The address, as `postgres://user@host:port/database`, `mysql://user@host:port/database`, or `sqlite:path`.
    pub(in crate::config) url: Option<String>,
    /// The user; absent: that of the address.
    pub(in crate::config) user: Option<String>,
    /// The password; absent: that of the address, else none.
    pub(in crate::config) password: Option<String>,
    /// The most connections at once, idle ones included; of SQLite, those that read.
    pub(in crate::config) size: u32,
    /// The longest wait for a connection of the pool.
    pub(in crate::config) acquire_timeout: Millis,
    /// The longest time of a lookup, a connection, its TLS handshake and the log-in.
    pub(in crate::config) connect_timeout: Millis,
    /// The longest time of a statement.
    pub(in crate::config) timeout: Millis,
    /// The most rows of a result.
    pub(in crate::config) max_rows: u32,
    /// The most bytes of a result; each value counts 32 bytes besides.
    pub(in crate::config) max_result: Size,
    /// What a timestamp or a date is in Lua: milliseconds since the epoch, or the database's string.
    pub(in crate::config) timestamps: Timestamps,
    /// Whether statements stay prepared; false for a pool such as `PgBouncer` in front of the database.
    pub(in crate::config) prepare: bool,
    /// The table of `db:once`, also as `schema.table`.
    pub(in crate::config) once_table: String,
    /// How long a row of that table is kept; longer while its message is not committed.
    pub(in crate::config) once_retention: Millis,
    /// TLS: true or false, or the certificates; absent: as `sslmode` or `ssl-mode` of the address says.
    pub(in crate::config) tls: Option<Tls>,
}

impl Default for Sql {
    fn default() -> Self {
        Self {
            url: None,
            user: None,
            password: None,
            size: 8,
            acquire_timeout: Millis(5_000),
            connect_timeout: Millis(5_000),
            timeout: Millis(30_000),
            max_rows: 100_000,
            max_result: Size(16 << 20),
            timestamps: Timestamps::Ms,
            prepare: true,
            once_table: "moontide_once".to_owned(),
            once_retention: Millis(7 * 24 * 3_600_000),
            tls: None,
        }
    }
}

/// What a timestamp is in Lua.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Timestamps {
    Ms,
    String,
}
