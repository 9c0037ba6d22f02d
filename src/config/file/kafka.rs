//! The tables of Kafka: `[kafkaConfig]`, `[consumerConfig]` and `[consumers.NAME]`.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::super::unit::{Millis, Size};

/// The connection to Kafka.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
#[expect(clippy::struct_field_names, reason = "the names are kafkajs'")]
pub(in crate::config) struct Client {
    /// Brokers to ask for the cluster's others, as host:port.
    pub(in crate::config) brokers: Vec<String>,
    /// What the brokers' logs, metrics and quotas call this client.
    pub(in crate::config) client_id: String,
    /// TLS: true, or a table.
    pub(in crate::config) ssl: Option<Ssl>,
    /// Authentication.
    pub(in crate::config) sasl: Option<Sasl>,
    /// How long to wait for a connection; TLS and authentication have authenticationTimeout on top of it.
    pub(in crate::config) connection_timeout: Millis,
    /// How long TLS and authentication may take.
    pub(in crate::config) authentication_timeout: Millis,
    /// How long to wait for the answer to a request.
    pub(in crate::config) request_timeout: Millis,
    /// Back-off of requests to brokers and of reconnecting; a listener's retry is its own.
    pub(in crate::config) retry: ClientRetry,
    /// What librdkafka logs; `[log] level` filters it further.
    pub(in crate::config) log_level: LogLevel,
    /// Requests under way on one connection; absent: no limit.
    pub(in crate::config) max_in_flight_requests: Option<u32>,
    /// Any librdkafka property that has no name of its own here.
    pub(in crate::config) librdkafka: BTreeMap<String, Property>,
}

impl Default for Client {
    fn default() -> Self {
        Self {
            brokers: Vec::new(),
            client_id: "moontide".into(),
            ssl: None,
            sasl: None,
            connection_timeout: Millis(1_000),
            authentication_timeout: Millis(10_000),
            request_timeout: Millis(30_000),
            retry: ClientRetry::default(),
            log_level: LogLevel::default(),
            max_in_flight_requests: None,
            librdkafka: BTreeMap::new(),
        }
    }
}

/// The value of a librdkafka property.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Property {
    Switch(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum Ssl {
    On(bool),
    Table(Box<SslTable>),
}

/// TLS.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct SslTable {
    /// Certificates of the authorities to trust, as PEM text or a path; absent: the system's.
    pub(in crate::config) ca: Option<OneOrMany>,
    /// The client's certificate, as PEM text or a path.
    pub(in crate::config) cert: Option<String>,
    /// The key of the client's certificate, as PEM text or a path.
    pub(in crate::config) key: Option<String>,
    /// The password of the key, or of the pfx file.
    pub(in crate::config) passphrase: Option<String>,
    /// Path of a PKCS#12 file, instead of cert and key.
    pub(in crate::config) pfx: Option<String>,
    /// OpenSSL's list of ciphers.
    pub(in crate::config) ciphers: Option<String>,
    /// Whether the broker's certificate must be valid.
    pub(in crate::config) reject_unauthorized: bool,
    /// Whether the broker's certificate must name the broker's host.
    pub(in crate::config) check_server_identity: bool,
}

impl Default for SslTable {
    fn default() -> Self {
        Self {
            ca: None,
            cert: None,
            key: None,
            passphrase: None,
            pfx: None,
            ciphers: None,
            reject_unauthorized: true,
            check_server_identity: true,
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(in crate::config) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Authentication.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Sasl {
    /// How to authenticate.
    pub(in crate::config) mechanism: Option<Mechanism>,
    /// For plain and scram.
    pub(in crate::config) username: Option<String>,
    /// For plain and scram.
    pub(in crate::config) password: Option<String>,
    /// For oauthbearer: who asks for a token.
    pub(in crate::config) client_id: Option<String>,
    /// For oauthbearer: the secret of clientId.
    pub(in crate::config) client_secret: Option<String>,
    /// For oauthbearer: where to ask for a token.
    pub(in crate::config) token_endpoint_url: Option<String>,
    /// For oauthbearer: the scope to ask for.
    pub(in crate::config) scope: Option<String>,
    /// For oauthbearer: what to tell the broker besides the token.
    pub(in crate::config) extensions: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(in crate::config) enum Mechanism {
    Plain,
    #[serde(rename = "scram-sha-256")]
    ScramSha256,
    #[serde(rename = "scram-sha-512")]
    ScramSha512,
    Oauthbearer,
}

/// Back-off of requests to brokers and of reconnecting.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct ClientRetry {
    /// The first wait; absent: librdkafka's 100 ms.
    pub(in crate::config) initial_retry_time: Option<Millis>,
    /// The longest wait; absent: librdkafka's 1 s of a request, 10 s of a connection.
    pub(in crate::config) max_retry_time: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(in crate::config) enum LogLevel {
    Nothing,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
}

/// One group membership.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Consumer {
    #[serde(flatten)]
    pub(in crate::config) client: Client,
    /// The consumer group.
    pub(in crate::config) group_id: Option<String>,
    /// classic, or consumer for KIP-848 (brokers of 4.0 and later).
    pub(in crate::config) group_protocol: GroupProtocol,
    /// How partitions are shared out, in the order of preference.
    pub(in crate::config) partition_assigners: Vec<Assigner>,
    /// A member that sends no heartbeat for so long has left.
    pub(in crate::config) session_timeout: Millis,
    /// How long a rebalance waits for this member to finish what it is doing.
    pub(in crate::config) rebalance_timeout: Millis,
    /// Time between heartbeats.
    pub(in crate::config) heartbeat_interval: Millis,
    /// How often topics and partitions are looked up anew, and patterns matched again.
    pub(in crate::config) metadata_max_age: Millis,
    /// Whether to subscribe to a topic makes it.
    pub(in crate::config) allow_auto_topic_creation: bool,
    /// Bytes to fetch of one partition at once; a larger message is fetched all the same.
    pub(in crate::config) max_bytes_per_partition: Size,
    /// Bytes that the broker waits for, up to maxWaitTimeInMs.
    pub(in crate::config) min_bytes: Size,
    /// Bytes to fetch at once.
    pub(in crate::config) max_bytes: Size,
    /// How long the broker may wait for minBytes.
    pub(in crate::config) max_wait_time_in_ms: Millis,
    /// Whether messages of open and aborted transactions are delivered.
    pub(in crate::config) read_uncommitted: bool,
    /// Where this client is, to fetch from the nearest replica.
    pub(in crate::config) rack_id: String,
}

impl Default for Consumer {
    fn default() -> Self {
        Self {
            client: Client::default(),
            group_id: None,
            group_protocol: GroupProtocol::default(),
            partition_assigners: vec![Assigner::CooperativeSticky],
            session_timeout: Millis(30_000),
            rebalance_timeout: Millis(60_000),
            heartbeat_interval: Millis(3_000),
            metadata_max_age: Millis(300_000),
            allow_auto_topic_creation: false,
            max_bytes_per_partition: Size(1 << 20),
            min_bytes: Size(1),
            max_bytes: Size(10 << 20),
            max_wait_time_in_ms: Millis(500),
            read_uncommitted: false,
            rack_id: String::new(),
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(in crate::config) enum GroupProtocol {
    #[default]
    Classic,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(in crate::config) enum Assigner {
    #[serde(rename = "cooperative-sticky")]
    CooperativeSticky,
    #[serde(rename = "roundRobin")]
    RoundRobin,
    #[serde(rename = "range")]
    Range,
}
