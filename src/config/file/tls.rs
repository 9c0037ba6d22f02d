//! `tls` of the servers of handlers.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::kafka::OneOrMany;

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Tls {
    On(bool),
    Table(TlsTable),
}

/// The certificates of a connection to a server of handlers.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct TlsTable {
    /// The trusted CA certificates, as PEM or a path; absent: those of the system.
    pub(in crate::config) ca: Option<OneOrMany>,
    /// A client certificate and those of its issuers, as PEM or a path.
    pub(in crate::config) cert: Option<String>,
    /// The key of that certificate, as PEM or a path.
    pub(in crate::config) key: Option<String>,
    /// The password of the key.
    pub(in crate::config) passphrase: Option<String>,
}
