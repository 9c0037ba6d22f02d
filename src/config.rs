//! The configuration as the daemon runs on it: complete, checked, with every default.
//!
//! The types of `file` hold the written file; the types here hold its meaning. Nothing outside `config` sees the types of
//! `file`, and `Debug` shows no secret. Nothing in here touches the network, and of the disk only files that the
//! configuration refers to.

mod admin;
mod agree;
mod allow_list;
mod certificates;
mod consumers;
mod env_names;
mod error;
mod exactly_once;
mod file;
mod http_client;
mod interpolate;
mod kafkajs;
mod kv;
pub(crate) mod level;
mod listeners;
mod load;
mod made;
mod names;
mod passthrough;
mod process;
mod producers;
mod properties;
mod redis;
#[cfg(test)]
mod reference;
mod refused;
mod scene;
mod server;
mod shape;
mod sources;
mod sql;
#[cfg(test)]
mod tests;
mod tree;
mod unit;

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use regex::Regex;

use crate::kafka::property::Value;
use crate::topic_name;
use crate::wait::send::{Acks, Compression};

pub(crate) use admin::{Admin, Connection};
pub(crate) use allow_list::AllowList;
pub(crate) use certificates::{Certificate, Secret};
pub(crate) use env_names::EnvNames;
pub(crate) use error::{Errors, words};
pub(crate) use http_client::{HttpClient, Proxy};
pub(crate) use kv::{Kv, KvBackend};
pub(crate) use load::Written;
pub(crate) use names::is_library;
pub(crate) use redis::Redis;
use scene::Scene;
pub(crate) use server::{Address, Tls};
pub(crate) use shape::schema;
pub(crate) use sources::Sources;
pub(crate) use sql::{Location, MySql, Postgres, Sql, Timestamps};

/// The name of the consumer of `[consumerConfig]`.
pub(crate) const DEFAULT_CONSUMER: &str = "default";

/// The name of the producer of `[producerConfig]`.
pub(crate) const DEFAULT_PRODUCER: &str = "default";

/// The control socket's name in the runtime directory.
pub(crate) const SOCKET: &str = "moontide.sock";
/// The longest path of a socket: `sun_path` without its last byte.
pub(crate) const SOCKET_PATH_BYTES_MAX: usize = if cfg!(target_os = "linux") { 107 } else { 103 };

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Config {
    /// The file itself, as given.
    pub(crate) path: PathBuf,
    /// Every consumer that a listener uses; the one of `[consumerConfig]` is named `default`.
    pub(crate) consumers: Vec<Consumer>,
    /// The producers of handlers; the one of `[producerConfig]` is named `default`, and comes first.
    pub(crate) producers: Vec<Producer>,
    /// `[kafka.admin]`.
    pub(crate) admin: Admin,
    /// That of the admin client; `None` without brokers. Its keys are those of `[kafkaConfig]`.
    pub(crate) connection: Option<Connection>,
    /// In the order of declaration.
    pub(crate) listeners: Vec<Listener>,
    pub(crate) lua: Lua,
    pub(crate) log: Log,
    pub(crate) daemon: Daemon,
    /// `[http]`; absent: no server.
    pub(crate) http: Option<Http>,
    /// `[http.client]`.
    pub(crate) http_client: HttpClient,
    /// The Redis servers of handlers, by name.
    pub(crate) redis: Vec<Redis>,
    /// The stores of handlers, by name.
    pub(crate) kv: Vec<Kv>,
    /// The databases of handlers, by name.
    pub(crate) sql: Vec<Sql>,
    /// Warnings, logged at every start and shown by `check`.
    pub(crate) warnings: Vec<String>,
}

impl Config {
    /// The consumer of a listener, if that has `exactlyOnce`.
    pub(crate) fn exactly_once(&self, listener: usize) -> Option<&Consumer> {
        let name = &self.listeners.get(listener)?.consumer;
        let mut consumers = self.consumers.iter();
        consumers.find(|one| one.name == *name && one.transaction.is_some())
    }

    /// Whether the file says anything of a producer: by a table, or by `produces` of a listener.
    pub(crate) fn mentions(&self, producer: &Producer) -> bool {
        let mut listeners = self.listeners.iter();
        producer.is_written
            || producer.name == DEFAULT_PRODUCER && listeners.any(|one| one.produces.is_some())
    }
}

/// A consumer: one membership of a group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Consumer {
    pub(crate) name: String,
    pub(crate) group_id: String,
    /// All properties of librdkafka, by its names.
    pub(crate) properties: BTreeMap<String, Value>,
    /// `rebalanceTimeout`: the longest time that a rebalance waits for this member, hence the longest drain.
    pub(crate) rebalance_timeout: Duration,
    /// `sessionTimeout`.
    pub(crate) session_timeout: Duration,
    /// `metadataMaxAge`: how often patterns are matched against the topics that exist.
    pub(crate) metadata_max_age: Duration,
    /// `requestTimeout`: the deadline of a query or a commit.
    pub(crate) request_timeout: Duration,
    /// With `exactlyOnce`.
    pub(crate) transaction: Option<Transaction>,
}

/// What a consumer commits together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Transaction {
    pub(crate) interval: Duration,
    pub(crate) messages: usize,
    /// How long the brokers keep an open transaction.
    pub(crate) timeout: Duration,
}

/// A producer of handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Producer {
    pub(crate) name: String,
    /// All properties of librdkafka, by its names, with these `acks` and this `compression`.
    pub(crate) properties: BTreeMap<String, Value>,
    pub(crate) acks: Acks,
    pub(crate) is_idempotent: bool,
    pub(crate) compression: Compression,
    /// The longest time that a send waits for its acknowledgement.
    pub(crate) timeout: Duration,
    /// `bufferMemory`: the most bytes of records without an acknowledgement.
    pub(crate) buffer_memory: usize,
    /// `metadataMaxAge`: how long the limit of a topic counts as known.
    pub(crate) metadata_max_age: Duration,
    /// Whether the file has its table: then it connects at the start, and not at the first send.
    pub(crate) is_written: bool,
}

/// Topics to which a listener may send.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Produced {
    /// As written.
    pub(crate) text: String,
}

impl Produced {
    fn new(text: &str) -> Self {
        Self {
            text: text.to_owned(),
        }
    }

    /// The topic, if it is one.
    pub(crate) fn literal(&self) -> Option<&str> {
        (!self.text.contains('*')).then_some(&self.text)
    }

    /// Each `*` stands for any characters, also for none.
    pub(crate) fn has(&self, topic: &str) -> bool {
        let Some((first, rest)) = self.text.split_once('*') else {
            return self.text == topic;
        };
        let Some(mut left) = topic.strip_prefix(first) else {
            return false;
        };
        let parts: Vec<&str> = rest.split('*').collect();
        let Some((last, inner)) = parts.split_last() else {
            return false;
        };
        for part in inner {
            let Some(at) = left.find(part) else {
                return false;
            };
            left = &left[at + part.len()..];
        }
        left.ends_with(last)
    }
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Listener {
    /// Unique; the key of logs, status and of a message's outcome across reloads.
    pub(crate) name: String,
    /// Name of its consumer.
    pub(crate) consumer: String,
    pub(crate) topics: Vec<Topic>,
    pub(crate) handler: Handler,
    /// `subscription.fromBeginning`: counts only where the group has no committed offset.
    pub(crate) from_beginning: bool,
    pub(crate) run: Run,
    pub(crate) max_in_flight: usize,
    /// Deferred messages of a partition at once. The listeners of a topic agree on it.
    pub(crate) max_deferred: usize,
    pub(crate) ordering: Ordering,
    pub(crate) null_keys: NullKeys,
    pub(crate) on_error: OnError,
    pub(crate) retry: Retry,
    /// With `onError` "deadLetter", and for `ctx.deadLetter`.
    pub(crate) dead_letter: Option<DeadLetter>,
    pub(crate) breaker: Option<Breaker>,
    pub(crate) limits: Limits,
    pub(crate) rate_limit: Option<RateLimit>,
    /// A message does not run before it is that old. The listeners of a topic agree on it.
    pub(crate) delay: Option<Duration>,
    /// Of its topics, beside the other topics of the consumer.
    pub(crate) share: Option<u32>,
    /// The topics to which its calls may send; absent: all topics.
    pub(crate) produces: Option<Vec<Produced>>,
    /// Its handler gets batches. No other listener of its consumer takes its topics.
    pub(crate) batch: Option<Batch>,
}

/// The size of a batch, and what its return means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Batch {
    pub(crate) messages: usize,
    pub(crate) bytes: usize,
    /// The longest time that a message waits for others.
    pub(crate) wait: Duration,
    /// `runConfig.eachBatchAutoResolve`: every message is done when the handler returns.
    pub(crate) auto_resolve: bool,
}

/// At most so many runs begin in so much time, retries included, in the whole process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RateLimit {
    pub(crate) messages: u64,
    pub(crate) per: Duration,
}

/// Which messages run one after the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ordering {
    /// Those of a partition.
    Partition,
    /// Those of a key of a partition.
    Key,
    None,
}

/// With `ordering` "key": how messages without a key run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NullKeys {
    /// Each a lane of its own.
    Parallel,
    /// One lane a partition.
    Partition,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DeadLetter {
    /// With the placeholders `{topic}`, `{group}` and `{listener}`.
    pub(crate) topic: String,
    pub(crate) header_style: HeaderStyle,
    /// `allowAutoTopicCreation`: a topic that is missing is created.
    pub(crate) create_topic: bool,
    pub(crate) too_large: TooLarge,
    pub(crate) refused: OnRefusal,
    /// `maxPerMinute`: more of them open the breaker.
    pub(crate) per_minute_max: u32,
}

impl DeadLetter {
    /// The topic of a message's dead letter.
    pub(crate) fn topic_of(&self, topic: &str, group: &str, listener: &str) -> String {
        topic_name::dead_letter_topic(&self.topic, topic, group, listener)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HeaderStyle {
    Moontide,
    Spring,
    Connect,
    Kafka,
}

/// The policy for a dead letter that is too large for the broker even without traceback and error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum TooLarge {
    /// The message stays and blocks its lane.
    Block,
    /// It is sent without its value, and a header says so.
    DropValue,
    Skip,
}

/// The policy for a dead letter that the topic never takes, whatever its size.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnRefusal {
    /// The message stays and blocks its lane.
    Block,
    Skip,
}

/// The circuit breaker of a listener.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Breaker {
    /// Share of failed runs in the window that opens it, above 0 and up to 1.
    pub(crate) ratio: f64,
    pub(crate) window: Duration,
    /// Runs in the window below which it never opens.
    pub(crate) runs_min: u32,
    /// How long it stays open before a probe.
    pub(crate) pause: Duration,
    /// Successful probes in a row that close it.
    pub(crate) probes: u32,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Http {
    pub(crate) listen: std::net::SocketAddr,
    /// The age of the oldest unfinished message of a partition at which `/ready` fails.
    pub(crate) stall_after: Duration,
}

#[derive(Clone, Debug)]
pub(crate) enum Topic {
    Literal(String),
    /// Begins with `^`; matched against the topics that exist.
    Pattern(Regex),
}

impl PartialEq for Topic {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Literal(one), Self::Literal(other)) => one == other,
            (Self::Pattern(one), Self::Pattern(other)) => one.as_str() == other.as_str(),
            _ => false,
        }
    }
}

impl fmt::Display for Topic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Literal(name) => name,
            Self::Pattern(pattern) => pattern.as_str(),
        })
    }
}

/// `"billing/orders.gotData"`: file `billing/orders.lua`, module `billing.orders`, function `gotData`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handler {
    /// As written.
    pub(crate) text: String,
    /// Below the handlers folder, with `/` and without `.lua`.
    pub(crate) path: String,
    /// Absent: the file itself returns the function.
    pub(crate) function: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Run {
    pub(crate) auto_commit: bool,
    pub(crate) auto_commit_interval: Option<Duration>,
    pub(crate) auto_commit_threshold: Option<u64>,
    /// Absent: all assigned partitions.
    pub(crate) partitions_consumed_concurrently: Option<usize>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OnError {
    Retry,
    DeadLetter,
    Skip,
    Stop,
}

/// What a failure means whose cause is outside of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Infrastructure {
    /// The message waits, without an attempt lost.
    Wait,
    /// It fails as with any other error.
    Count,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Retry {
    /// Runs, the first included; absent: without end.
    pub(crate) attempts: Option<u32>,
    pub(crate) initial_delay: Duration,
    pub(crate) max_delay: Duration,
    pub(crate) multiplier: f64,
    /// Share of the delay, 0 to 1, by which it varies up or down.
    pub(crate) jitter: f64,
    /// `retry.topics`: the delays of retry topics, in their order; empty: retries wait in the lane.
    pub(crate) topics: Vec<Duration>,
    pub(crate) infrastructure: Infrastructure,
    /// `retry.allowAutoTopicCreation`: those that are missing are created.
    pub(crate) create_topics: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    /// The longest computing without a pause.
    pub(crate) blocking: Duration,
    /// The longest call, waits included.
    pub(crate) timeout: Duration,
    /// The most bytes that a call may emit.
    pub(crate) emit: usize,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Lua {
    /// The folder of handlers, absolute.
    pub(crate) handlers: PathBuf,
    pub(crate) workers: usize,
    /// Bytes, of one VM.
    pub(crate) memory: usize,
    /// `LuaRocks` trees for `require`, in Lua's own template form, after the bundle.
    pub(crate) path: String,
    pub(crate) cpath: String,
    /// The environment variables that handlers may read.
    pub(crate) env: EnvNames,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Log {
    /// An `EnvFilter` directive, as in `RUST_LOG`.
    pub(crate) level: String,
    pub(crate) format: LogFormat,
    pub(crate) file: Option<PathBuf>,
    pub(crate) rotation: Rotation,
    pub(crate) keep: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LogFormat {
    /// Text on a terminal, journald under systemd, else JSON.
    Auto,
    Text,
    Json,
    Journald,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rotation {
    Daily,
    Hourly,
    Minutely,
    Never,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Daemon {
    pub(crate) drain_deadline: Duration,
    pub(crate) state_directory: PathBuf,
    /// The crashes during the run of a message that make it a suspect.
    pub(crate) crashes_max: u32,
    /// The folder of the control socket.
    pub(crate) runtime_directory: PathBuf,
    /// Whether a change of the files begins a reload.
    pub(crate) watch: bool,
}
