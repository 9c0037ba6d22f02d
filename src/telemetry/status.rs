//! The status of the daemon, as `moontide status` prints it and the control socket sends it.
//!
//! Plain data: each owner of a fact writes it here; other files print it. Times are milliseconds since the epoch.

mod outside;
mod state;

use serde::{Deserialize, Serialize};

pub(crate) use outside::{OutsideWait, PoolStatus, ProducerStatus, RedisStatus, SqlStatus};
pub(crate) use state::{CacheStatus, KvStatus};

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Status {
    pub(crate) version: String,
    pub(crate) pid: u32,
    pub(crate) config: String,
    pub(crate) started_at: i64,
    pub(crate) bundle: BundleStatus,
    pub(crate) last_reload: Option<ReloadReport>,
    /// The reason why a restart would fail: the files on disk are bad now.
    pub(crate) disk: Option<String>,
    /// A load that was given up, and whose code still runs: until it ends, no reload is possible.
    #[serde(default)]
    pub(crate) stuck_load: Option<StuckLoad>,
    /// Whether a change of the files begins a reload.
    #[serde(default)]
    pub(crate) watches: Option<bool>,
    /// Changed keys that need a restart.
    pub(crate) waiting_for_restart: Vec<String>,
    /// Listeners that an operator has paused.
    #[serde(default)]
    pub(crate) paused: Vec<Paused>,
    /// The number of reloads by result, since the start.
    #[serde(default)]
    pub(crate) reloads: Reloads,
    /// The answer of `/ready`.
    #[serde(default)]
    pub(crate) readiness: Option<Readiness>,
    /// The listeners of the bundle in force, in the order of declaration.
    #[serde(default)]
    pub(crate) listeners: Vec<ListenerStatus>,
    pub(crate) consumers: Vec<ConsumerStatus>,
    /// The producers of the bundle in force.
    #[serde(default)]
    pub(crate) producers: Vec<ProducerStatus>,
    /// The calls of handlers that wait outside, the longest first.
    #[serde(default)]
    pub(crate) waits: Vec<OutsideWait>,
    /// The connections of `tide.http`; absent before its first use.
    #[serde(default)]
    pub(crate) http: Option<PoolStatus>,
    /// The connections of `tide.redis`; those of a server that handlers have not used yet are absent.
    #[serde(default)]
    pub(crate) redis: Vec<RedisStatus>,
    /// The stores of `tide.kv` whose entries this process has.
    #[serde(default)]
    pub(crate) kv: Vec<KvStatus>,
    /// The caches of `tide.cache`.
    #[serde(default)]
    pub(crate) caches: Vec<CacheStatus>,
    /// The connections of `tide.sql`, likewise.
    #[serde(default)]
    pub(crate) sql: Vec<SqlStatus>,
}

/// A load that does not end.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct StuckLoad {
    /// A sentence with the place of the code first.
    pub(crate) why: String,
    pub(crate) since: i64,
}

/// Whether a listener takes messages, over all workers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ListenerStatus {
    pub(crate) name: String,
    pub(crate) breaker: BreakerState,
    /// The time since which the breaker is not closed.
    pub(crate) breaker_since: Option<i64>,
    pub(crate) breaker_reason: Option<String>,
    pub(crate) paused: bool,
    /// Its rate limit holds messages now.
    #[serde(default)]
    pub(crate) rate_limited: bool,
    /// Messages that wait until the broker acknowledges their dead letters or their records for retry topics.
    pub(crate) unacknowledged: usize,
    /// The last error of a send of one of them.
    pub(crate) send_error: Option<String>,
}

/// Where workers differ, the greatest variant counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum BreakerState {
    #[default]
    Closed,
    HalfOpen,
    Open,
}

impl ListenerStatus {
    /// Merges the same listener of another worker.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.paused |= other.paused;
        self.rate_limited |= other.rate_limited;
        self.unacknowledged += other.unacknowledged;
        if self.send_error.is_none() {
            self.send_error.clone_from(&other.send_error);
        }
        if other.breaker > self.breaker {
            self.breaker = other.breaker;
            self.breaker_since = other.breaker_since;
            self.breaker_reason.clone_from(&other.breaker_reason);
        }
    }
}

/// Whether the daemon does its work, and otherwise the reasons.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Readiness {
    pub(crate) ready: bool,
    pub(crate) reasons: Vec<Reason>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reason {
    /// A consumer, a partition or a listener.
    pub(crate) what: String,
    pub(crate) since: i64,
    pub(crate) why: String,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Reloads {
    pub(crate) applied: u64,
    pub(crate) unchanged: u64,
    pub(crate) rejected: u64,
}

/// A listener that takes no message until an operator resumes it, or the daemon restarts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Paused {
    pub(crate) listener: String,
    pub(crate) since: i64,
    /// The operator.
    pub(crate) by: String,
    pub(crate) reason: Option<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct BundleStatus {
    pub(crate) number: u64,
    /// Hexadecimal hash of the bytes of config and Lua files.
    pub(crate) hash: String,
    pub(crate) loaded_at: i64,
}

/// The result of a reload.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ReloadReport {
    pub(crate) at: i64,
    pub(crate) result: ReloadResult,
    /// The bundle in force after the reload.
    pub(crate) bundle: u64,
    /// The error of a rejected bundle, or a sentence on the changes.
    pub(crate) message: String,
    /// Keys whose new value needs a restart.
    pub(crate) waiting_for_restart: Vec<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum ReloadResult {
    Applied,
    Unchanged,
    Rejected,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ConsumerStatus {
    pub(crate) name: String,
    pub(crate) group_id: String,
    /// `connecting`, `joining`, `assigned`, `rebalancing`, `draining`, `closed`; `silent` if the consumer did not
    /// answer.
    pub(crate) state: String,
    #[serde(default)]
    pub(crate) state_since: i64,
    /// The error that explains the state, with its place.
    pub(crate) error: Option<String>,
    pub(crate) error_since: Option<i64>,
    /// Every error of group and brokers, and of partitions that have not begun, until its place works again.
    #[serde(default)]
    pub(crate) errors: Vec<ErrorStatus>,
    /// The subscribed topics, patterns expanded.
    pub(crate) subscription: Vec<String>,
    /// Subscribed topics that are not available: misspelt, deleted, forbidden.
    #[serde(default)]
    pub(crate) topic_errors: Vec<TopicError>,
    /// With `exactlyOnce`.
    #[serde(default)]
    pub(crate) transactions: Option<TransactionStatus>,
    pub(crate) partitions: Vec<PartitionStatus>,
}

/// The transactions of a consumer.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TransactionStatus {
    /// The transactional id.
    pub(crate) id: String,
    /// Messages that have their outcome and are not committed, and their bytes with those of their records.
    pub(crate) waiting: usize,
    pub(crate) waiting_bytes: usize,
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
    /// Those whose end had to be read from the group's offsets.
    pub(crate) unknown: u64,
    /// Producers in whose place another one came.
    pub(crate) replaced: u64,
    /// Those whose call has not come back yet.
    pub(crate) left: usize,
    /// Messages with a record that its topic never accepts.
    pub(crate) refused: u64,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct TopicError {
    pub(crate) topic: String,
    pub(crate) error: String,
    pub(crate) since: i64,
}

/// The last error of a place.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct ErrorStatus {
    /// `group`, `commits`, `lookups`, `broker HOST:PORT` or `TOPIC[PARTITION]`.
    pub(crate) place: String,
    pub(crate) error: String,
    pub(crate) since: i64,
    pub(crate) is_broker: bool,
    /// Without a change by an operator the error does not end.
    pub(crate) lasts: bool,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PartitionStatus {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    /// The next offset to commit.
    pub(crate) position: Option<i64>,
    pub(crate) committed: Option<i64>,
    /// Messages between the position and the end of the partition; absent while the end is not known, which is not
    /// the same as 0.
    pub(crate) lag: Option<i64>,
    /// The time since which the end of the partition is not known.
    #[serde(default)]
    pub(crate) lag_unknown_since: Option<i64>,
    /// The error because of which nothing is received.
    #[serde(default)]
    pub(crate) error: Option<ErrorStatus>,
    /// Taken and unfinished.
    pub(crate) in_flight: usize,
    #[serde(default)]
    pub(crate) in_flight_bytes: usize,
    /// Age of the oldest message that is not handled, by its timestamp.
    #[serde(default)]
    pub(crate) lag_ms: Option<i64>,
    /// When the oldest unfinished message was taken.
    #[serde(default)]
    pub(crate) oldest_unfinished_since: Option<i64>,
    /// The time since which the position has not moved although messages wait.
    #[serde(default)]
    pub(crate) stands_still_since: Option<i64>,
    #[serde(default)]
    pub(crate) paused: Option<Pause>,
    /// The code that has paused it; beside another reason too.
    #[serde(default)]
    pub(crate) paused_by: Option<PausedBy>,
    pub(crate) blocked: Option<Blocked>,
    /// Absent without a deferred message.
    #[serde(default)]
    pub(crate) deferred: Option<Deferred>,
}

/// The deferred messages of a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Deferred {
    pub(crate) messages: usize,
    /// The one with the lowest offset, its listener, and the place of its `ctx.defer`.
    pub(crate) offset: i64,
    pub(crate) listener: String,
    pub(crate) at: String,
    pub(crate) since: i64,
    /// The position waits for that one.
    pub(crate) holds_position: bool,
}

/// The code that has paused a partition.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PausedBy {
    /// The listener, and the position of the call.
    pub(crate) who: String,
    pub(crate) since: i64,
}

/// The reason why nothing is fetched from a partition, or why its next message does not run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Pause {
    /// The partition has used up its share of the messages in flight.
    Budget,
    /// Of a retry topic or a topic with a delay: the next message is not due yet.
    NotDue,
    /// Its messages in flight wait for a listener that an operator has paused.
    Listener,
    /// Its messages in flight wait for the rate limit of a listener.
    RateLimit,
    /// A handler, a timer or init.lua has paused it.
    Handler,
    /// It is about to go on at another position, which a handler has requested.
    Seek,
}

/// A message that keeps its lane waiting.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Blocked {
    pub(crate) offset: i64,
    pub(crate) listener: String,
    /// Runs so far.
    pub(crate) attempt: u32,
    /// The time of the first failure.
    pub(crate) since: i64,
    pub(crate) next_attempt_at: i64,
    pub(crate) error: String,
}

impl Status {
    /// One line for the service manager: the running work, the errors, the waiting work.
    pub(crate) fn sentence(&self) -> String {
        let partitions = || {
            self.consumers
                .iter()
                .flat_map(|consumer| &consumer.partitions)
        };
        let lag: i64 = partitions().filter_map(|partition| partition.lag).sum();
        let unknown = match partitions().filter(|one| one.lag.is_none()).count() {
            0 => String::new(),
            unknown => format!(" (unknown in {unknown} partitions)"),
        };
        let mut parts = vec![format!(
            "bundle {}, {} consumers, {} partitions, lag {lag}{unknown}",
            self.bundle.number,
            self.consumers.len(),
            partitions().count(),
        )];
        for consumer in &self.consumers {
            match (&consumer.error, consumer.state.as_str()) {
                (Some(error), state) => {
                    parts.push(format!("consumer `{}` {state}: {error}", consumer.name));
                }
                (None, "assigned") => {}
                (None, state) => parts.push(format!("consumer `{}` {state}", consumer.name)),
            }
        }
        let mut failing = partitions().filter_map(|partition| partition.error.as_ref());
        if let Some(ErrorStatus { place, error, .. }) = failing.next() {
            let others = more(failing.count());
            parts.push(format!("nothing received: {place}: {error}{others}"));
        }
        let mut blocked =
            partitions().filter_map(|partition| Some((partition, partition.blocked.as_ref()?)));
        if let Some((partition, first)) = blocked.next() {
            let (topic, number) = (&partition.topic, partition.partition);
            let others = more(blocked.count());
            parts.push(format!(
                "blocked: {topic}[{number}]@{} in listener `{}`, attempt {}{others}",
                first.offset, first.listener, first.attempt
            ));
        }
        if !self.paused.is_empty() {
            let names: Vec<_> = self
                .paused
                .iter()
                .map(|one| one.listener.as_str())
                .collect();
            parts.push(format!("paused: `{}`", names.join("`, `")));
        }
        if self.stuck_load.is_some() {
            parts.push("a load does not end, no reload is possible".to_owned());
        }
        if self.disk.is_some() {
            parts.push("the files on disk are bad, a restart would fail".to_owned());
        }
        if !self.waiting_for_restart.is_empty() {
            parts.push(format!(
                "waits for a restart: {}",
                self.waiting_for_restart.join(", ")
            ));
        }
        parts.join("; ")
    }
}

fn more(others: usize) -> String {
    match others {
        0 => String::new(),
        others => format!(" and {others} more"),
    }
}

/// A request on the control socket: one line of JSON, answered by one line of JSON.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "command")]
pub(crate) enum Request {
    Reload,
    Status,
    Order(Order),
}

/// A command of an operator.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", tag = "order")]
pub(crate) enum Order {
    #[serde(rename_all = "camelCase")]
    Skip {
        topic: String,
        partition: i32,
        offset: i64,
        listener: Option<String>,
        dead_letter: bool,
        reason: Option<String>,
    },
    Retry {
        listener: Option<String>,
        reason: Option<String>,
    },
    Pause {
        listener: String,
        reason: Option<String>,
    },
    Resume {
        listener: String,
        reason: Option<String>,
    },
    /// In a held partition messages that are finished run again.
    Accept {
        topic: String,
        partition: i32,
        reason: Option<String>,
    },
}

/// The answer to a request, with the daemon that gives it.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Answer {
    pub(crate) daemon: Identity,
    pub(crate) response: Response,
}

/// A daemon. Several may run on one machine.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Identity {
    pub(crate) pid: u32,
    pub(crate) config: String,
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) enum Response {
    Reloaded(ReloadReport),
    Status(Box<Status>),
    /// An operator command was carried out; the effect.
    Done(String),
    /// The mistake in the request, or the reason for its refusal.
    Error(String),
}
