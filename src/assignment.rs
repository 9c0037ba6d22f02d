//! One partition in one epoch of its assignment, as the consumer's thread and its worker share it; and the letters
//! that these two exchange.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use crate::bundle::Bundle;
use crate::config::Config;
use crate::kafka;
use crate::lua::{CallId, Vm};
use crate::outgoing::outbox::{Outbox, Refused};
use crate::outgoing::required_topics::Needed;
use crate::rules::commit_metadata::Finished;
use crate::rules::offsets::Ask;
use crate::rules::route::Plan;
use crate::rules::start_offset::{Policy, Start};
use crate::telemetry::metrics::{ConsumerSnapshot, WorkerSnapshot};
use crate::telemetry::status::Blocked;
use crate::threads::mailbox::Mailbox;
use crate::wait::{Answer, Reply, WaitId};

/// With more partitions than so many, one that has nothing in flight gives back the room for what it had.
pub(crate) const MANY: usize = 64;

/// An epoch of a partition: a new assignment, seek or reset makes a new one, and what comes in for an old one is
/// refused. It holds the client, since no message may outlive that.
pub(crate) struct Partition {
    /// Unique in the process.
    pub(crate) epoch: u64,
    pub(crate) consumer: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
    /// The consumer's `groupId`.
    pub(crate) group: Arc<str>,
    /// Where dead letters and durable retries go.
    pub(crate) outbox: Arc<Outbox>,
    /// Of the hashes by which messages find their lanes.
    pub(crate) seed: u64,
    /// Where completions and requests go.
    pub(crate) inbox: Arc<Mailbox<ToConsumer>>,
    over: AtomicBool,
    blocked: Mutex<Option<Blocked>>,
    _client: Arc<kafka::Client>,
}

/// What all partitions of a consumer share.
pub(crate) struct Shared {
    pub(crate) consumer: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) inbox: Arc<Mailbox<ToConsumer>>,
    pub(crate) client: Arc<kafka::Client>,
    /// `Partition::seed`.
    pub(crate) seed: u64,
}

/// A partition that was assigned, with what its topic's listeners want.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) policy: Policy,
    /// `Plan::listeners_hash`.
    pub(crate) listeners: u32,
}

impl Assigned {
    pub(crate) fn key(&self) -> PartitionKey {
        PartitionKey::new(&self.topic, self.partition)
    }
}

/// Where a partition starts, and what is finished beyond it.
pub(crate) struct Found {
    pub(crate) assigned: Assigned,
    pub(crate) start: Start,
    pub(crate) finished: Option<Finished>,
}

/// Where partitions start; those that could not be found out yet are asked for again.
#[derive(Default)]
pub(crate) struct Starts {
    pub(crate) found: Vec<Found>,
    pub(crate) open: Vec<(Assigned, kafka::Error)>,
}

pub(crate) enum Answered {
    Starts {
        id: u64,
        starts: Result<Starts, kafka::Error>,
    },
    Topics(Result<Vec<(String, usize)>, kafka::Error>),
}

/// What a consumer's thread is told.
pub(crate) enum ToConsumer {
    /// These messages have their outcome, and this was asked for by `ctx.commitOffsets` and is not waited for.
    Finished {
        finished: Vec<(Arc<Partition>, Range<u64>)>,
        asked: Vec<Asked>,
    },
    /// After `ToWorker::Release`: no call of this partition runs any more.
    Drained(Arc<Partition>),
    /// `ctx.commitOffsets`, and the handler waits. `listeners_since_bundle` as in `Asked`.
    Commit {
        listeners_since_bundle: u64,
        partition: Arc<Partition>,
        ask: Ask,
        reply: Reply,
    },
    /// What the asking thread found.
    Answered(Answered),
    /// Another bundle is in force in every worker.
    Reload(Arc<Bundle>),
    /// Before such a bundle: finish what runs of topics that it does not have.
    Retire {
        bundle: Arc<Bundle>,
        done: mpsc::Sender<()>,
    },
    Status(mpsc::Sender<ConsumerSnapshot>),
    /// Drain, commit and leave the group until then.
    Close(Instant),
}

/// What handlers of a partition asked for.
pub(crate) struct Asked {
    pub(crate) partition: Arc<Partition>,
    /// The bundle since which the partition's listeners are as they are.
    pub(crate) listeners_since_bundle: u64,
    pub(crate) asks: Vec<Ask>,
}

/// What the thread that looks after topics is told.
pub(crate) enum ToTopics {
    /// A pattern of this consumer's matches these.
    Matched {
        consumer: Arc<str>,
        topics: Vec<Arc<str>>,
    },
    /// Another configuration is in force; these of its topics were not answered yet.
    Reload {
        config: Arc<Config>,
        open: Vec<Needed>,
    },
    Stop,
}

/// What a worker is told.
pub(crate) enum ToWorker {
    /// Messages of consecutive numbers; declared, hence dropped, before the partition that holds their client.
    Batch {
        messages: Vec<kafka::Message>,
        first: u64,
        taken: Instant,
        plan: Arc<Plan>,
        partition: Arc<Partition>,
    },
    /// The partition's epoch is over: start nothing, let running calls finish, then report.
    Release(Arc<Partition>),
    /// The drain's deadline: end what still runs.
    Cancel(Arc<Partition>),
    Answer {
        vm: u64,
        call: CallId,
        wait: WaitId,
        answer: Answer,
    },
    /// The broker's answer to a record that a lane waits for.
    Delivered {
        epoch: u64,
        lane: u64,
        number: u64,
        listener: String,
        result: Result<(), Refused>,
    },
    /// New calls go to this bundle from now on.
    Swap {
        bundle: Arc<Bundle>,
        vm: Box<Vm>,
        done: mpsc::Sender<()>,
    },
    Status(mpsc::Sender<WorkerSnapshot>),
    /// What somebody wants by hand.
    Order(Order),
    Stop,
}

/// What is done by hand to what runs. A worker that it does not concern drops it, and with it the reply.
pub(crate) enum Order {
    /// Ends a message without its handlers, or those that are named; the reply says what was done or why not.
    Skip {
        message: Handle,
        listener: Option<String>,
        dead_letter: bool,
        /// Who and why, for the log and the dead letter.
        reason: String,
        reply: mpsc::Sender<Result<String, String>>,
    },
    /// Ends back-offs; the reply says how many.
    Retry {
        listener: Option<String>,
        reply: mpsc::Sender<usize>,
    },
    /// Calls under way finish.
    Pause { listener: String, paused: bool },
}

/// A message, by its coordinates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Handle {
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

/// A partition by its topic and number, whatever its epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionKey {
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
}

impl PartitionKey {
    pub(crate) fn new(topic: &Arc<str>, number: i32) -> Self {
        let topic = topic.clone();
        Self { topic, number }
    }
}

impl Partition {
    pub(crate) fn new(epoch: u64, topic: &Arc<str>, partition: i32, of: Shared) -> Self {
        Self {
            epoch,
            consumer: of.consumer,
            topic: topic.clone(),
            number: partition,
            group: of.group,
            outbox: of.outbox,
            seed: of.seed,
            inbox: of.inbox,
            over: AtomicBool::new(false),
            blocked: Mutex::default(),
            _client: of.client,
        }
    }

    pub(crate) fn key(&self) -> PartitionKey {
        PartitionKey::new(&self.topic, self.number)
    }

    /// The epoch ends: no further call may start, even before the worker reads its letter.
    pub(crate) fn end(&self) {
        self.over.store(true, Ordering::Release);
    }

    pub(crate) fn is_over(&self) -> bool {
        self.over.load(Ordering::Acquire)
    }

    pub(crate) fn blocked(&self) -> Option<Blocked> {
        self.blocked
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn set_blocked(&self, blocked: Option<Blocked>) {
        *self.blocked.lock().unwrap_or_else(PoisonError::into_inner) = blocked;
    }
}

#[cfg(test)]
impl Partition {
    /// Of a client that knows no broker.
    pub(crate) fn without_brokers(epoch: u64, topic: &str) -> Self {
        let properties = [("group.id", "test")].into_iter();
        let client = kafka::Client::new(properties, Arc::new(|| ())).expect("a client");
        let of = Shared {
            consumer: "default".into(),
            group: "test".into(),
            outbox: Arc::new(Outbox::new(
                "default",
                &std::collections::BTreeMap::new(),
                &crate::threads::supervisor::Supervisor::without_daemon(),
            )),
            inbox: Arc::new(Mailbox::default()),
            client: Arc::new(client),
            seed: 1,
        };
        Self::new(epoch, &topic.into(), 0, of)
    }
}
