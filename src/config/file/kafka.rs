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
    /// The addresses of some brokers of the cluster, as host:port.
    pub(in crate::config) brokers: Vec<String>,
    /// The name of this client in the logs, metrics and quotas of the brokers.
    pub(in crate::config) client_id: String,
    /// TLS: true, or a table.
    pub(in crate::config) ssl: Option<Ssl>,
    /// Authentication.
    pub(in crate::config) sasl: Option<Sasl>,
    /// The time for a TCP connection, without TLS and authentication.
    pub(in crate::config) connection_timeout: Millis,
    /// The time for TLS and authentication.
    pub(in crate::config) authentication_timeout: Millis,
    /// The time for the response to a request.
    pub(in crate::config) request_timeout: Millis,
    /// The back-off of requests and reconnects; failed messages have `retry` in their listener.
    pub(in crate::config) retry: ClientRetry,
    /// The lowest level at which librdkafka logs; `[log] level` filters its lines further.
    pub(in crate::config) log_level: LogLevel,
    /// The most requests in flight on one connection; absent: no limit.
    pub(in crate::config) max_in_flight_requests: Option<u32>,
    /// Any property of librdkafka that has no key here.
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
    /// The trusted CA certificates, as PEM or a path; absent: those of the system.
    pub(in crate::config) ca: Option<OneOrMany>,
    /// The certificate of the client, as PEM or a path.
    pub(in crate::config) cert: Option<String>,
    /// The key of that certificate, as PEM or a path.
    pub(in crate::config) key: Option<String>,
    /// The password of the key, or of the pfx file.
    pub(in crate::config) passphrase: Option<String>,
    /// The path of a PKCS#12 file, instead of cert and key.
    pub(in crate::config) pfx: Option<String>,
    /// The cipher list of OpenSSL.
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
    /// The SASL mechanism.
    pub(in crate::config) mechanism: Option<Mechanism>,
    /// For plain and scram: the user.
    pub(in crate::config) username: Option<String>,
    /// For plain and scram: the password.
    pub(in crate::config) password: Option<String>,
    /// For oauthbearer: the client ID at the token endpoint.
    pub(in crate::config) client_id: Option<String>,
    /// For oauthbearer: the client secret.
    pub(in crate::config) client_secret: Option<String>,
    /// For oauthbearer: the URL of the token endpoint.
    pub(in crate::config) token_endpoint_url: Option<String>,
    /// For oauthbearer: the scope of the token.
    pub(in crate::config) scope: Option<String>,
    /// For oauthbearer: SASL extensions for the broker.
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

/// The back-off of requests and reconnects.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct ClientRetry {
    /// The first delay; absent: 100 ms, the default of librdkafka.
    pub(in crate::config) initial_retry_time: Option<Millis>,
    /// The longest delay; absent: 1 s for a request, the default of librdkafka, and 3 s for a connection.
    pub(in crate::config) max_retry_time: Option<Millis>,
    /// For producers: the repeats of a request, within the time-out of the record; absent: no limit but that.
    pub(in crate::config) retries: Option<u32>,
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
    /// The group protocol: classic, or consumer for KIP-848 (brokers of 4.0 and later).
    pub(in crate::config) group_protocol: GroupProtocol,
    /// The partition assignors, in the order of preference.
    pub(in crate::config) partition_assigners: Vec<Assigner>,
    /// The time without a heartbeat after which the broker removes a member.
    pub(in crate::config) session_timeout: Millis,
    /// The longest time that a rebalance waits for this member.
    pub(in crate::config) rebalance_timeout: Millis,
    /// The time between heartbeats.
    pub(in crate::config) heartbeat_interval: Millis,
    /// The time after which the metadata of topics is refreshed and patterns are matched again.
    pub(in crate::config) metadata_max_age: Millis,
    /// Whether a subscription creates a missing topic.
    pub(in crate::config) allow_auto_topic_creation: bool,
    /// The most bytes of a partition in one fetch; a larger message is fetched alone.
    pub(in crate::config) max_bytes_per_partition: Size,
    /// The bytes for which the broker delays a fetch, up to maxWaitTimeInMs.
    pub(in crate::config) min_bytes: Size,
    /// The most bytes of one fetch.
    pub(in crate::config) max_bytes: Size,
    /// The longest time that the broker waits for minBytes.
    pub(in crate::config) max_wait_time_in_ms: Millis,
    /// Whether messages of open and aborted transactions are consumed.
    pub(in crate::config) read_uncommitted: bool,
    /// The rack of this client, for fetches from the nearest replica.
    pub(in crate::config) rack_id: String,
    /// Whether what messages emit, and that they are finished, is committed in one transaction.
    pub(in crate::config) exactly_once: bool,
    /// With exactlyOnce: what one transaction commits.
    pub(in crate::config) transaction: Transaction,
}

/// What one transaction commits.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(in crate::config) struct Transaction {
    /// How long it is open, hence how much later its records are visible.
    pub(in crate::config) interval: Millis,
    /// The most messages of it.
    pub(in crate::config) messages: u64,
    /// The time after which the brokers end that of a process that is dead or frozen.
    pub(in crate::config) timeout: Millis,
}

impl Default for Transaction {
    fn default() -> Self {
        Self {
            interval: Millis(100),
            messages: 10_000,
            timeout: Millis(15_000),
        }
    }
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
            exactly_once: false,
            transaction: Transaction::default(),
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
