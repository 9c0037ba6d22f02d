//! What the user wrote: one type a table, key by key as in the TOML.
//!
//! The JSON Schema, the defaults and the list of valid keys all come from these types. Nothing in here is checked
//! beyond its shape; what a key means is decided where it is resolved. Only `config` sees these types.

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::unit::{Millis, Size};

/// The configuration of moontide.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields, rename = "File")]
pub(super) struct File {
    /// The connection to Kafka; inherited by every consumer, each may override any key of it.
    pub(super) kafka_config: Client,
    /// The default consumer, and the default of every named one.
    pub(super) consumer_config: Consumer,
    /// Further consumers by name; a listener joins one with `consumer = "name"`.
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// The default of every listener: any of its keys but name, topic, topics and handler.
    pub(super) listener_defaults: Policies,
    /// Topics bound to a handler.
    pub(super) listeners: Vec<Listener>,
    /// Handlers and the Lua that runs them.
    pub(super) lua: Lua,
    /// Log lines.
    pub(super) log: Log,
    /// The process.
    pub(super) daemon: Daemon,
}

/// The connection to Kafka.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Client {
    /// Brokers to ask for the cluster's others, as host:port.
    pub(super) brokers: Vec<String>,
    /// What the brokers' logs, metrics and quotas call this client.
    pub(super) client_id: String,
    /// TLS: true, or a table.
    pub(super) ssl: Option<Ssl>,
    /// Authentication.
    pub(super) sasl: Option<Sasl>,
    /// How long to wait for a connection; TLS and authentication have authenticationTimeout on top of it.
    pub(super) connection_timeout: Millis,
    /// How long TLS and authentication may take.
    pub(super) authentication_timeout: Millis,
    /// How long to wait for the answer to a request.
    pub(super) request_timeout: Millis,
    /// Back-off of requests to brokers and of reconnecting; a listener's retry is its own.
    pub(super) retry: ClientRetry,
    /// What librdkafka logs; `[log] level` filters it further.
    pub(super) log_level: LogLevel,
    /// Requests under way on one connection; absent: no limit.
    pub(super) max_in_flight_requests: Option<u32>,
    /// Any librdkafka property that has no name of its own here.
    pub(super) librdkafka: BTreeMap<String, Property>,
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
pub(super) enum Property {
    Switch(bool),
    Whole(i64),
    Number(f64),
    Text(String),
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum Ssl {
    On(bool),
    Table(Box<SslTable>),
}

/// TLS.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct SslTable {
    /// Certificates of the authorities to trust, as PEM text or a path; absent: the system's.
    pub(super) ca: Option<OneOrMany>,
    /// The client's certificate, as PEM text or a path.
    pub(super) cert: Option<String>,
    /// The key of the client's certificate, as PEM text or a path.
    pub(super) key: Option<String>,
    /// The password of the key, or of the pfx file.
    pub(super) passphrase: Option<String>,
    /// Path of a PKCS#12 file, instead of cert and key.
    pub(super) pfx: Option<String>,
    /// OpenSSL's list of ciphers.
    pub(super) ciphers: Option<String>,
    /// Whether the broker's certificate must be valid.
    pub(super) reject_unauthorized: bool,
    /// Whether the broker's certificate must name the broker's host.
    pub(super) check_server_identity: bool,
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
pub(super) enum OneOrMany {
    One(String),
    Many(Vec<String>),
}

/// Authentication.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Sasl {
    /// How to authenticate.
    pub(super) mechanism: Option<Mechanism>,
    /// For plain and scram.
    pub(super) username: Option<String>,
    /// For plain and scram.
    pub(super) password: Option<String>,
    /// For oauthbearer: who asks for a token.
    pub(super) client_id: Option<String>,
    /// For oauthbearer: the secret of clientId.
    pub(super) client_secret: Option<String>,
    /// For oauthbearer: where to ask for a token.
    pub(super) token_endpoint_url: Option<String>,
    /// For oauthbearer: the scope to ask for.
    pub(super) scope: Option<String>,
    /// For oauthbearer: what to tell the broker besides the token.
    pub(super) extensions: BTreeMap<String, String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Mechanism {
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
pub(super) struct ClientRetry {
    /// The first wait; absent: librdkafka's 100 ms.
    pub(super) initial_retry_time: Option<Millis>,
    /// The longest wait; absent: librdkafka's 1 s of a request, 10 s of a connection.
    pub(super) max_retry_time: Option<Millis>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "UPPERCASE")]
pub(super) enum LogLevel {
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
pub(super) struct Consumer {
    #[serde(flatten)]
    pub(super) client: Client,
    /// The consumer group.
    pub(super) group_id: Option<String>,
    /// classic, or consumer for KIP-848 (brokers of 4.0 and later).
    pub(super) group_protocol: GroupProtocol,
    /// How partitions are shared out, in the order of preference.
    pub(super) partition_assigners: Vec<Assigner>,
    /// A member that sends no heartbeat for so long has left.
    pub(super) session_timeout: Millis,
    /// How long a rebalance waits for this member to finish what it is doing.
    pub(super) rebalance_timeout: Millis,
    /// Time between heartbeats.
    pub(super) heartbeat_interval: Millis,
    /// How often topics and partitions are looked up anew, and patterns matched again.
    pub(super) metadata_max_age: Millis,
    /// Whether to subscribe to a topic makes it.
    pub(super) allow_auto_topic_creation: bool,
    /// Bytes to fetch of one partition at once; a larger message is fetched all the same.
    pub(super) max_bytes_per_partition: Size,
    /// Bytes that the broker waits for, up to maxWaitTimeInMs.
    pub(super) min_bytes: Size,
    /// Bytes to fetch at once.
    pub(super) max_bytes: Size,
    /// How long the broker may wait for minBytes.
    pub(super) max_wait_time_in_ms: Millis,
    /// Whether messages of open and aborted transactions are delivered.
    pub(super) read_uncommitted: bool,
    /// Where this client is, to fetch from the nearest replica.
    pub(super) rack_id: String,
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
pub(super) enum GroupProtocol {
    #[default]
    Classic,
    Consumer,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub(super) enum Assigner {
    #[serde(rename = "cooperative-sticky")]
    CooperativeSticky,
    #[serde(rename = "roundRobin")]
    RoundRobin,
    #[serde(rename = "range")]
    Range,
}

/// Topics bound to a handler, with their policies.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Listener {
    /// Unique; absent: the handler string.
    pub(super) name: Option<String>,
    /// A topic, or a pattern when it begins with `^`.
    pub(super) topic: Option<String>,
    /// Several of them.
    pub(super) topics: Vec<String>,
    /// The file below the handlers folder, a dot, and the function; without a dot: the file returns the function.
    pub(super) handler: Option<String>,
    #[serde(flatten)]
    pub(super) policies: Policies,
}

/// What a listener may inherit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Policies {
    /// The name of a table below `[consumers]`; absent: the consumer of `[consumerConfig]`.
    pub(super) consumer: Option<String>,
    /// Where to start.
    pub(super) subscription: Subscription,
    /// How to run.
    pub(super) run_config: RunConfig,
    /// Which messages run one after the other.
    pub(super) ordering: Ordering,
    /// Messages being handled at once, of one topic.
    pub(super) max_in_flight: MaxInFlight,
    /// What follows a message's last attempt.
    pub(super) on_error: OnError,
    /// How often and when a failed message runs again.
    pub(super) retry: Retry,
    /// What ends a call.
    pub(super) limits: Limits,
}

/// A number with a default of its own.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct MaxInFlight(pub(super) u64);

impl Default for MaxInFlight {
    fn default() -> Self {
        Self(1_000)
    }
}

/// Where to start.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Subscription {
    /// Where the group has no committed offset: at the beginning, or at the end.
    pub(super) from_beginning: bool,
}

/// How to run.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct RunConfig {
    /// Whether offsets are committed by themselves; else by `ctx.commitOffsets` alone.
    pub(super) auto_commit: bool,
    /// Commit so often; without interval and threshold: when a partition has nothing left to do, else every second.
    pub(super) auto_commit_interval: Option<Millis>,
    /// Commit after so many messages.
    pub(super) auto_commit_threshold: Option<u64>,
    /// Partitions that are handled at once; absent: all that are assigned.
    pub(super) partitions_consumed_concurrently: Option<u64>,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            auto_commit: true,
            auto_commit_interval: None,
            auto_commit_threshold: None,
            partitions_consumed_concurrently: None,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ordering {
    #[default]
    Partition,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum OnError {
    #[default]
    Retry,
    Skip,
    Stop,
}

/// How often and when a failed message runs again.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Retry {
    /// Runs, the first included; with onError skip and stop, where the default is 1.
    pub(super) attempts: Option<u32>,
    /// The first wait.
    pub(super) initial_delay: Millis,
    /// The longest wait.
    pub(super) max_delay: Millis,
    /// By how much a wait is longer than the one before.
    pub(super) multiplier: f64,
    /// The share of a wait, 0 to 1, by which it varies either way.
    pub(super) jitter: f64,
}

impl Default for Retry {
    fn default() -> Self {
        Self {
            attempts: None,
            initial_delay: Millis(300),
            max_delay: Millis(30_000),
            multiplier: 2.0,
            jitter: 0.2,
        }
    }
}

/// What ends a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limits {
    /// Lua that computes for so long without a pause is ended, and the message has failed.
    pub(super) blocking: Millis,
    /// The same for a whole call, waits included; this version has no other value yet.
    pub(super) timeout: Millis,
}

impl Limits {
    pub(super) const TIMEOUT: Millis = Millis(300_000);
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocking: Millis(5_000),
            timeout: Limits::TIMEOUT,
        }
    }
}

/// Handlers and the Lua that runs them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Lua {
    /// The folder of handlers, relative to this file.
    pub(super) handlers: PathBuf,
    /// Lua VMs, each with a thread of its own.
    pub(super) workers: u32,
    /// Memory of one VM.
    pub(super) memory: Size,
    /// Where `require` looks for Lua modules after the handlers folder, as in LUA_PATH.
    pub(super) path: String,
    /// Where `require` looks for C modules, as in LUA_CPATH.
    pub(super) cpath: String,
}

impl Default for Lua {
    fn default() -> Self {
        Self {
            handlers: "handlers".into(),
            workers: 1,
            memory: Size(256 << 20),
            path: String::new(),
            cpath: String::new(),
        }
    }
}

/// Log lines.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Log {
    /// error, warn, info, debug or trace, and by target, as in RUST_LOG.
    pub(super) level: String,
    /// auto: text on a terminal, journald under systemd, else json.
    pub(super) format: LogFormat,
    /// A file besides standard error, relative to this file; absent: none.
    pub(super) file: Option<PathBuf>,
    /// When a new file begins.
    pub(super) rotation: Rotation,
    /// Files that are kept.
    pub(super) keep: u32,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".into(),
            format: LogFormat::default(),
            file: None,
            rotation: Rotation::default(),
            keep: 14,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum LogFormat {
    #[default]
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Rotation {
    #[default]
    Daily,
    Hourly,
    Minutely,
    Never,
}

/// The process.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Daemon {
    /// How long running calls may take to finish when the daemon stops.
    pub(super) drain_deadline: Millis,
    /// Absent: `$STATE_DIRECTORY`, else `.moontide` beside this file.
    pub(super) state_directory: Option<PathBuf>,
    /// Absent: `$RUNTIME_DIRECTORY`, else `.moontide` beside this file.
    pub(super) runtime_directory: Option<PathBuf>,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            drain_deadline: Millis(20_000),
            state_directory: None,
            runtime_directory: None,
        }
    }
}
