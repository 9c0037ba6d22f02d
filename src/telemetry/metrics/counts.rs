//! The counters of consumers and workers: plain numbers of one thread, copied out on request.
//!
//! **Counting shares nothing**: no atomics, no locks, no clock. Counters only grow during the life of their owner: a
//! thread, a listener of the config, an assignment of a partition.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::telemetry::status::{ConsumerStatus, Deferred, ListenerStatus, Pause, ProducerStatus};

use super::Histogram;

/// The counters of a consumer since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct ConsumerCounts {
    pub(crate) assigned: u64,
    pub(crate) revoked: u64,
    pub(crate) lost: u64,
    /// Commits that the group accepted, each of one or several partitions.
    pub(crate) commits: u64,
    pub(crate) commit_errors: u64,
    /// Errors of brokers, group and partitions.
    pub(crate) errors: u64,
    /// An upper bound of the messages that the brokers deleted before they were handled.
    pub(crate) messages_lost: u64,
    /// An upper bound of the messages that seeks of handlers passed over.
    pub(crate) passed_over: u64,
    /// Partitions that started at their beginning because their topic was created again.
    pub(crate) partitions_recreated: u64,
}

/// A producer of handlers at one moment, with its counts since its first use.
#[derive(Clone, Debug, Default)]
pub(crate) struct ProducerSnapshot {
    pub(crate) status: ProducerStatus,
    /// Records, by what became of them.
    pub(crate) acknowledged: u64,
    pub(crate) failed: u64,
    pub(crate) sends: Histogram,
}

/// The calls of one function that waits outside, since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct OutsideSnapshot {
    /// The name without `tide.`.
    pub(crate) function: &'static str,
    /// Calls by their end: "ok", the kind of their error, or "givenUp".
    pub(crate) results: BTreeMap<&'static str, u64>,
    pub(crate) calls: Histogram,
}

/// The requests of handlers to one host, since the start.
#[derive(Clone, Debug, Default)]
pub(crate) struct HostSnapshot {
    pub(crate) host: String,
    /// Requests by the class of their status, the kind of their error, or "givenUp".
    pub(crate) results: BTreeMap<&'static str, u64>,
    pub(crate) requests: Histogram,
}

/// A consumer at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct ConsumerSnapshot {
    pub(crate) status: ConsumerStatus,
    pub(crate) counts: ConsumerCounts,
    /// Messages received, in the order of the partitions in the status.
    pub(crate) received: Vec<u64>,
}

/// The outcomes of messages of one partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outcomes {
    pub(crate) done: u64,
    pub(crate) dead_lettered: u64,
    pub(crate) skipped: u64,
    /// Sent to a retry topic.
    pub(crate) retried_later: u64,
}

/// The outcome of a message; for several listeners the greatest variant counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Outcome {
    Done,
    RetriedLater,
    Skipped,
    DeadLettered,
}

/// Calls that a limit ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LimitKills {
    pub(crate) blocking: u64,
    pub(crate) timeout: u64,
    pub(crate) memory: u64,
}

/// The counters of one listener in a worker.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct ListenerCounts {
    /// The time from the start of a call to its end, waits included; its count is that of all runs.
    pub(crate) run: Histogram,
    /// The time from taking a message to its first run.
    pub(crate) wait: Histogram,
    pub(crate) failures: u64,
    /// Runs after a message's first.
    pub(crate) retries: u64,
    pub(crate) outcomes: Outcomes,
    pub(crate) limit_kills: LimitKills,
    /// How often the rate limit of the listener has held a lane.
    pub(crate) rate_limit_holds: u64,
}

impl ListenerCounts {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.run.merge(&other.run);
        self.wait.merge(&other.wait);
        self.failures += other.failures;
        self.retries += other.retries;
        self.outcomes.merge(other.outcomes);
        self.limit_kills.blocking += other.limit_kills.blocking;
        self.limit_kills.timeout += other.limit_kills.timeout;
        self.limit_kills.memory += other.limit_kills.memory;
        self.rate_limit_holds += other.rate_limit_holds;
    }
}

impl Outcomes {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        match outcome {
            Outcome::Done => self.done += 1,
            Outcome::RetriedLater => self.retried_later += 1,
            Outcome::Skipped => self.skipped += 1,
            Outcome::DeadLettered => self.dead_lettered += 1,
        }
    }

    pub(crate) fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.dead_lettered += other.dead_lettered;
        self.skipped += other.skipped;
        self.retried_later += other.retried_later;
    }
}

/// A worker at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct WorkerSnapshot {
    /// Bytes of its VMs, including one that drains.
    pub(crate) memory: usize,
    /// VMs that were replaced after a limit was exceeded.
    pub(crate) vms_replaced: u64,
    pub(crate) listeners: Vec<ListenerSnapshot>,
    pub(crate) partitions: Vec<PartitionSnapshot>,
    pub(crate) timers: Vec<TimerSnapshot>,
}

/// The ticks of one timer in a worker.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TickCounts {
    pub(crate) done: u64,
    pub(crate) failed: u64,
    /// Due while the last one still ran, or no worker had time.
    pub(crate) missed: u64,
}

impl TickCounts {
    pub(crate) fn merge(&mut self, other: Self) {
        self.done += other.done;
        self.failed += other.failed;
        self.missed += other.missed;
    }
}

/// A timer in one worker.
#[derive(Clone, Debug)]
pub(crate) struct TimerSnapshot {
    /// The position of its declaration.
    pub(crate) timer: Arc<str>,
    pub(crate) counts: TickCounts,
}

/// A listener in one worker.
#[derive(Clone, Debug, Default)]
pub(crate) struct ListenerSnapshot {
    pub(crate) counts: ListenerCounts,
    /// Its name, and whether it takes messages in this worker.
    pub(crate) status: ListenerStatus,
}

/// A partition in the worker that has it.
#[derive(Clone, Debug)]
pub(crate) struct PartitionSnapshot {
    pub(crate) consumer: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) outcomes: Outcomes,
    /// Why its listener does not take its next message now: an operator has paused the listener, or its rate limit is
    /// used up.
    pub(crate) waits: Option<Pause>,
    /// Until then a rate limit has held the message that the position waits for; milliseconds since the epoch.
    pub(crate) held_until: Option<i64>,
    pub(crate) deferred: Option<Deferred>,
}
