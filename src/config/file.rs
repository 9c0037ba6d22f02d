//! The configuration file as types: one type for a table, one field for a key of the TOML.
//!
//! The JSON Schema, the defaults and the list of valid keys come from these types. They check nothing but the type of a
//! value; the meaning of a key is decided where it is resolved. Only `config` sees these types.

mod batch;
mod failure;
mod http;
mod kafka;
mod kv;
mod producer;
mod redis;
mod sql;
mod tls;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use batch::Batch;
pub(super) use failure::{
    Breaker, BreakerTable, DeadLetter, HeaderStyle, Infrastructure, OnError, OnRefusal, Retry,
    TooLarge,
};
pub(super) use http::{Http, HttpClient};
pub(super) use kafka::{
    Assigner, Client, Consumer, GroupProtocol, LogLevel, Mechanism, OneOrMany, Property, Sasl, Ssl,
    SslTable,
};
pub(super) use kv::{Kv, KvBackend};
pub(super) use producer::Producer;
pub(super) use redis::Redis;
pub(super) use sql::Sql;
pub(crate) use sql::Timestamps;
pub(super) use tls::Tls;

use super::unit::{Millis, Size};

/// The configuration of moontide.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields, rename = "File")]
pub(super) struct File {
    /// The connection to Kafka. Every consumer inherits it and may override any key.
    pub(super) kafka_config: Client,
    /// What handlers may do with the cluster, beside consuming and sending.
    pub(super) kafka: Kafka,
    /// The default consumer, and the default of every named one.
    pub(super) consumer_config: Consumer,
    /// Further consumers by name. A listener uses one with `consumer = "name"`.
    pub(super) consumers: BTreeMap<String, Consumer>,
    /// The default producer of handlers, and the default of every named one.
    pub(super) producer_config: Producer,
    /// Further producers by name. A handler gets one by `tide.kafka.producer("name")`.
    pub(super) producers: BTreeMap<String, Producer>,
    /// The defaults of every listener: any key but name, topic, topics and handler.
    pub(super) listener_defaults: Policies,
    /// Topics bound to a handler.
    pub(super) listeners: Vec<Listener>,
    /// The handlers and the Lua VMs that run them.
    pub(super) lua: Lua,
    /// The log.
    pub(super) log: Log,
    /// The process of the daemon.
    pub(super) daemon: Daemon,
    /// The HTTP server of metrics and probes, and the HTTP client of handlers.
    pub(super) http: Option<Http>,
    /// The Redis servers of handlers by name. A handler gets one by `tide.redis("name")`.
    pub(super) redis: BTreeMap<String, Redis>,
    /// The stores of handlers by name. A handler gets one by `tide.kv("name")`.
    pub(super) kv: BTreeMap<String, Kv>,
    /// The databases of handlers by name. A handler gets one by `tide.sql("name")`.
    pub(super) sql: BTreeMap<String, Sql>,
}

/// What handlers may do with the cluster, beside consuming and sending.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Kafka {
    /// The admin client of handlers, `tide.kafka.admin`.
    pub(super) admin: Admin,
}

/// The admin client of handlers, `tide.kafka.admin`.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Admin {
    /// The functions that handlers may call; absent: those that change nothing.
    pub(super) allow: Option<Vec<String>>,
}

/// Topics bound to a handler, with the policies for their messages.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Listener {
    /// The name of the listener, unique; absent: the handler string.
    pub(super) name: Option<String>,
    /// A topic, or a regular expression that begins with `^`.
    pub(super) topic: Option<String>,
    /// Several topics, instead of `topic`.
    pub(super) topics: Vec<String>,
    /// A file below the handlers folder, a dot and a function; without the dot, the file itself returns the function.
    pub(super) handler: Option<String>,
    /// Whether the handler gets batches of messages; absent: true where its function is named eachBatch.
    pub(super) each_batch: Option<bool>,
    #[serde(flatten)]
    pub(super) policies: Policies,
}

/// The keys that a listener can inherit.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Policies {
    /// The name of a table below `[consumers]`; absent: the consumer of `[consumerConfig]`.
    pub(super) consumer: Option<String>,
    /// Where consumption starts.
    pub(super) subscription: Subscription,
    /// Commits and concurrency.
    pub(super) run_config: RunConfig,
    /// Which messages run one after the other: those of a partition, those of a key, or none.
    pub(super) ordering: Ordering,
    /// The most messages of a topic in flight.
    pub(super) max_in_flight: MaxInFlight,
    /// The most deferred messages of a partition; with more, the partition waits.
    pub(super) max_deferred: MaxDeferred,
    /// With ordering key: whether messages without a key run in parallel or in the order of their partition; absent:
    /// parallel.
    pub(super) null_keys: Option<NullKeys>,
    /// The policy after the last attempt of a message; absent: deadLetter where that table is set, else retry.
    pub(super) on_error: Option<OnError>,
    /// How often and when a failed message runs again.
    pub(super) retry: Retry,
    /// The dead-letter topic.
    pub(super) dead_letter: Option<DeadLetter>,
    /// The circuit breaker: false, true, or a table; absent: on with onError deadLetter.
    pub(super) breaker: Option<Breaker>,
    /// The limits of a call.
    pub(super) limits: Limits,
    /// The most runs in a time, retries included, over all workers: false, or a table; absent: no limit.
    pub(super) rate_limit: Option<RateLimit>,
    /// The age, by its timestamp, that a message has when it runs; 0 or absent: none.
    pub(super) delay: Option<Millis>,
    /// The topic's part of its consumer's turns and messages in flight, while several topics have messages to run;
    /// absent: 1 where another topic of the consumer has a share.
    pub(super) share: Option<u32>,
    /// The topics to which calls may send: names, or names with `*` for any characters; absent: all topics.
    pub(super) produces: Option<Vec<String>>,
    /// The size of a batch, for a listener with eachBatch.
    pub(super) batch: Option<Batch>,
}

/// A number whose default is not 0.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct MaxInFlight(pub(super) u64);

impl Default for MaxInFlight {
    fn default() -> Self {
        Self(1_000)
    }
}

/// As `MaxInFlight`.
#[derive(Clone, Copy, Debug, Serialize, Deserialize, JsonSchema)]
#[schemars(inline)]
pub(super) struct MaxDeferred(pub(super) u64);

impl Default for MaxDeferred {
    fn default() -> Self {
        Self(100_000)
    }
}

/// Where consumption starts.
#[derive(Clone, Debug, Default, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Subscription {
    /// Whether a group without a committed offset starts at the beginning of a partition, or at its end.
    pub(super) from_beginning: bool,
}

/// Commits and concurrency.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct RunConfig {
    /// Whether Moontide commits offsets automatically; false: only `ctx.commitOffsets` commits.
    pub(super) auto_commit: bool,
    /// The time between commits; without interval and threshold: when a partition is idle, else every second.
    pub(super) auto_commit_interval: Option<Millis>,
    /// The number of messages after which offsets are committed.
    pub(super) auto_commit_threshold: Option<u64>,
    /// The most partitions that are handled at the same time; absent: all assigned partitions.
    pub(super) partitions_consumed_concurrently: Option<u64>,
    /// Whether every message of a batch is done when its handler returns; false: only those that it has resolved.
    pub(super) each_batch_auto_resolve: bool,
}

impl Default for RunConfig {
    fn default() -> Self {
        Self {
            auto_commit: true,
            auto_commit_interval: None,
            auto_commit_threshold: None,
            partitions_consumed_concurrently: None,
            each_batch_auto_resolve: true,
        }
    }
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum Ordering {
    #[default]
    Partition,
    Key,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum NullKeys {
    Parallel,
    Partition,
}

/// The limits of a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limits {
    /// The longest computing without a pause, after which a call fails; absent: 5 s, or the timeout where that is shorter.
    pub(super) blocking: Option<Millis>,
    /// The longest call, its waits included, after which it fails.
    pub(super) timeout: Millis,
    /// The most bytes of records that a call may emit, up to 64MiB.
    pub(super) emit: Size,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocking: None,
            timeout: Millis(300_000),
            emit: Size(8 << 20),
        }
    }
}

#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(untagged)]
pub(super) enum RateLimit {
    On(bool),
    Table(RateLimitTable),
}

/// The rate limit of a listener.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct RateLimitTable {
    /// The number of runs, retries included.
    pub(super) messages: Option<u64>,
    /// The time in which at most that many runs begin.
    pub(super) per: Millis,
}

impl Default for RateLimitTable {
    fn default() -> Self {
        Self {
            messages: None,
            per: Millis(1_000),
        }
    }
}

/// The handlers and the Lua VMs that run them.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Lua {
    /// The folder of handlers, relative to this file.
    pub(super) handlers: PathBuf,
    /// The number of Lua VMs; each has its own thread.
    pub(super) workers: u32,
    /// The memory limit of one VM.
    pub(super) memory: Size,
    /// Where `require` looks for Lua modules after the handlers folder, as in `LUA_PATH`.
    pub(super) path: String,
    /// Where `require` looks for C modules, as in `LUA_CPATH`.
    pub(super) cpath: String,
    /// Environment variables that handlers may read: names, and beginnings such as `APP_*`.
    pub(super) env: Vec<String>,
}

impl Default for Lua {
    fn default() -> Self {
        Self {
            handlers: "handlers".into(),
            workers: 1,
            memory: Size(256 << 20),
            path: String::new(),
            cpath: String::new(),
            env: Vec::new(),
        }
    }
}

/// The log.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Log {
    /// A level (off, error, warn, info, debug, trace), or levels by target: `info,librdkafka=warn`.
    pub(super) level: String,
    /// auto: text on a terminal, journald under systemd, else json.
    pub(super) format: LogFormat,
    /// A log file besides standard error, relative to this file; absent: no file.
    pub(super) file: Option<PathBuf>,
    /// How often a new log file begins.
    pub(super) rotation: Rotation,
    /// The number of log files that are kept.
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

/// The process of the daemon.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Daemon {
    /// The time for running calls to finish when the daemon stops.
    pub(super) drain_deadline: Millis,
    /// Absent: `$STATE_DIRECTORY`, else `.moontide` beside this file.
    pub(super) state_directory: Option<PathBuf>,
    /// Absent: `$RUNTIME_DIRECTORY`, else `.moontide` beside this file.
    pub(super) runtime_directory: Option<PathBuf>,
    /// The number of crashes during the run of a message after which that message runs alone.
    pub(super) crashes: u32,
    /// Whether a change of the configuration or of a handler begins a reload automatically.
    pub(super) watch: bool,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            drain_deadline: Millis(20_000),
            state_directory: None,
            runtime_directory: None,
            crashes: 3,
            watch: true,
        }
    }
}
