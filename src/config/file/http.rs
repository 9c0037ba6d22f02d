//! `[http]`, the server of metrics and probes, and `[http.client]`, the requests of handlers.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::{Millis, Size};
use super::kafka::OneOrMany;

/// The server of metrics and probes, and the client of handlers.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Http {
    /// Address and port; absent: no server.
    pub(in crate::config) listen: Option<String>,
    /// The age of the oldest unfinished message of a partition at which `/ready` fails.
    pub(in crate::config) stall_after: Millis,
    /// The requests of handlers, `tide.http`.
    pub(in crate::config) client: HttpClient,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: None,
            stall_after: Millis(300_000),
            client: HttpClient::default(),
        }
    }
}

/// The requests of handlers, `tide.http`.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct HttpClient {
    /// Hosts, networks and "public" that requests may reach; absent: every host.
    pub(in crate::config) allow: Option<Vec<String>>,
    /// The most connections at once, idle ones included.
    pub(in crate::config) size: u32,
    /// The longest wait for a connection of the pool.
    pub(in crate::config) acquire_timeout: Millis,
    /// The longest time of a lookup, a connection and its TLS handshake.
    pub(in crate::config) connect_timeout: Millis,
    /// The longest time of a request, redirects included.
    pub(in crate::config) timeout: Millis,
    /// The most bytes of the body of a response, decompressed.
    pub(in crate::config) max_body: Size,
    /// The address of a proxy, as `http://host:port`; absent: none, whatever the environment says.
    pub(in crate::config) proxy: Option<String>,
    /// Hosts that are reached without the proxy, in the form of `allow`; absent: none.
    pub(in crate::config) no_proxy: Option<Vec<String>>,
    /// The trusted CA certificates, as PEM or a path; absent: those of the system.
    pub(in crate::config) ca: Option<OneOrMany>,
    /// Client certificates by name. A handler chooses one with `certificate = "name"`.
    pub(in crate::config) certificates: BTreeMap<String, ClientCertificate>,
}

impl Default for HttpClient {
    fn default() -> Self {
        Self {
            allow: None,
            size: 256,
            acquire_timeout: Millis(5_000),
            connect_timeout: Millis(10_000),
            timeout: Millis(30_000),
            max_body: Size(16 << 20),
            proxy: None,
            no_proxy: None,
            ca: None,
            certificates: BTreeMap::new(),
        }
    }
}

/// A client certificate.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct ClientCertificate {
    /// The certificate and those of its issuers, as PEM or a path.
    pub(in crate::config) cert: Option<String>,
    /// The key of that certificate, as PEM or a path.
    pub(in crate::config) key: Option<String>,
    /// The password of the key.
    pub(in crate::config) passphrase: Option<String>,
}
