//! What the user wrote: one type a table, key by key as in the TOML.
//!
//! The JSON Schema, the defaults and the list of valid keys all come from these types. Nothing in here is checked
//! beyond its shape; what a key means is decided where it is resolved. Only `config` sees these types.

mod failure;
mod kafka;

use std::collections::BTreeMap;
use std::path::PathBuf;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

pub(super) use failure::{
    Breaker, BreakerTable, DeadLetter, HeaderStyle, OnError, OnRefusal, Retry, TooLarge,
};
pub(super) use kafka::{
    Assigner, Client, Consumer, GroupProtocol, LogLevel, Mechanism, OneOrMany, Property, Sasl, Ssl,
    SslTable,
};

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
    /// The server of metrics and probes; absent: none.
    pub(super) http: Option<Http>,
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
    /// With ordering key: what messages without a key are to each other; absent: parallel.
    pub(super) null_keys: Option<NullKeys>,
    /// What follows a message's last attempt; absent: deadLetter where a table of that name is, else retry.
    pub(super) on_error: Option<OnError>,
    /// How often and when a failed message runs again.
    pub(super) retry: Retry,
    /// The topic of messages that are given up.
    pub(super) dead_letter: Option<DeadLetter>,
    /// When failures stop the listener for a while: false, true, or a table; absent: with onError deadLetter.
    pub(super) breaker: Option<Breaker>,
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
    Key,
    None,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub(super) enum NullKeys {
    Parallel,
    Partition,
}

/// What ends a call.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Limits {
    /// Lua that computes for so long without a pause is ended, and the message has failed.
    pub(super) blocking: Millis,
    /// A whole call that takes so long, waits included, is cancelled, and the message has failed.
    pub(super) timeout: Millis,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            blocking: Millis(5_000),
            timeout: Millis(300_000),
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
    /// Where `require` looks for Lua modules after the handlers folder, as in `LUA_PATH`.
    pub(super) path: String,
    /// Where `require` looks for C modules, as in `LUA_CPATH`.
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
    /// error, warn, info, debug or trace, and by target, as in `RUST_LOG`.
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
    /// Crashes of the process with a message running, after which that message runs alone.
    pub(super) crashes: u32,
}

impl Default for Daemon {
    fn default() -> Self {
        Self {
            drain_deadline: Millis(20_000),
            state_directory: None,
            runtime_directory: None,
            crashes: 3,
        }
    }
}

/// The server of metrics and probes.
#[derive(Clone, Debug, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase", default)]
#[schemars(deny_unknown_fields)]
pub(super) struct Http {
    /// Address and port; absent: no server.
    pub(super) listen: Option<String>,
    /// A partition whose oldest unfinished message is older makes `/ready` fail.
    pub(super) stall_after: Millis,
}

impl Default for Http {
    fn default() -> Self {
        Self {
            listen: None,
            stall_after: Millis(300_000),
        }
    }
}
