//! One partition in one epoch of its assignment, as shared by the consumer's thread and its worker; and the messages
//! between these two threads.

mod starts;

use std::ops::Range;
use std::sync::atomic::{AtomicI64, AtomicU8, Ordering};
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::time::Instant;

use crate::bundle::Bundle;
use crate::config::Config;
use crate::kafka;
use crate::kafka::refetch::{self, Refetch};
use crate::lua::control::Holdable;
use crate::lua::control::observers::PartitionEvent;
use crate::lua::{CallId, Vm};
use crate::outgoing::outbox::{Outbox, Refused};
use crate::outgoing::required_topics::RequiredTopic;
use crate::outgoing::transactions::Parts;
use crate::rules::offsets::{Ask, Moved};
use crate::rules::route::Plan;
use crate::rules::seek;
use crate::rules::transaction::{self, Member};
use crate::telemetry::metrics::{ConsumerSnapshot, WorkerSnapshot};
use crate::telemetry::status::Blocked;
use crate::threads::mailbox::Mailbox;
use crate::wait::send::Run;
use crate::wait::{Answer, Fault, Reply, Requested, Value, WaitId};

pub(crate) use starts::{Assigned, Described, Found, PartitionKey, Repeats, Starts};

/// With more partitions than this, a partition without messages in flight frees the memory that it had for them.
pub(crate) const MANY: usize = 64;

/// The epoch has ended.
const OVER: u8 = 1;
/// A handler has paused the partition.
const HELD: u8 = 2;
/// The partition comes to rest before a reload.
const RESTS: u8 = 4;

/// What a worker may do in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Admits {
    /// Runs may begin.
    Runs,
    /// Runs of messages that stand before one that has begun.
    Begun,
    /// What runs goes on, and records of ended messages are sent; no run begins.
    NoRuns,
    Nothing,
}

/// An epoch of a partition. Each assignment, seek or reset makes a new one, and requests for an old one are refused.
/// It holds the client, because no message may outlive the client.
pub(crate) struct Partition {
    /// Unique in the process.
    pub(crate) epoch: u64,
    pub(crate) consumer: Arc<str>,
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
    /// The consumer's `groupId`.
    pub(crate) group: Arc<str>,
    /// The outbox of dead letters and durable retries.
    pub(crate) outbox: Arc<Outbox>,
    /// Fetches deferred messages again.
    pub(crate) refetch: Arc<Refetch>,
    /// The seed of the hashes that map messages to lanes.
    pub(crate) seed: u64,
    /// What its messages emit goes into the consumer's transactions.
    pub(crate) is_exactly_once: bool,
    /// The mailbox for finished messages and requests.
    pub(crate) inbox: Arc<Mailbox<ToConsumer>>,
    /// `OVER`, `HELD` and `RESTS`: one read tells a worker all of them.
    state: AtomicU8,
    /// Messages below this offset were left when the epoch began: those around them were finished.
    left_below: AtomicI64,
    blocked: Mutex<Option<Blocked>>,
    client: Arc<kafka::Client>,
}

/// The data that all partitions of a consumer share.
pub(crate) struct Shared {
    pub(crate) consumer: Arc<str>,
    pub(crate) group: Arc<str>,
    pub(crate) outbox: Arc<Outbox>,
    pub(crate) refetch: Arc<Refetch>,
    pub(crate) inbox: Arc<Mailbox<ToConsumer>>,
    pub(crate) client: Arc<kafka::Client>,
    /// `Partition::seed`.
    pub(crate) seed: u64,
    pub(crate) is_exactly_once: bool,
}

pub(crate) enum Answered {
    Starts {
        id: u64,
        starts: Result<Starts, kafka::Error>,
    },
    Topics(Result<Vec<(String, usize)>, kafka::Error>),
    /// Where the seek of a handler leads to.
    Sought {
        id: u64,
        key: PartitionKey,
        found: Result<seek::Found, kafka::Error>,
    },
    Described {
        id: u64,
        described: Result<Described, kafka::Error>,
    },
    /// The group's offsets of the partitions of a transaction whose end is not known.
    ReadBack(Result<Vec<kafka::TopicPartition>, kafka::Error>),
}

/// The messages to a consumer's thread.
pub(crate) enum ToConsumer {
    /// These messages have their outcome, and these `ctx.commitOffsets` requests have no waiter.
    Finished {
        finished: Vec<(Arc<Partition>, Range<u64>)>,
        asked: Vec<Requests>,
    },
    /// Deferred messages have gone away, or are here again.
    Deferred {
        partition: Arc<Partition>,
        moved: Vec<Moved>,
    },
    /// These messages have their outcome, and their records are to be committed together with it.
    HandedOver(Vec<HandedOver>),
    /// The lane has gone back to its refused message: what it handed over before does not count. Without a lane: all
    /// lanes of a partition with batches.
    WentBack {
        partition: Arc<Partition>,
        lane: Option<u64>,
    },
    /// The answer of the transactional producer of this number, with its text for the log.
    Transaction {
        producer: u64,
        answer: transaction::Answer,
        text: Option<String>,
    },
    /// After `Partition::set_rests`: what has begun of this partition has ended, but for one lane at most.
    AtRest(Arc<Partition>),
    /// After `ToWorker::Release`: no call of this partition runs any more.
    Drained(Arc<Partition>),
    /// `ctx.commitOffsets` with a handler that waits. `listeners_since_bundle` as in `Requests`.
    Commit {
        listeners_since_bundle: u64,
        partition: Arc<Partition>,
        ask: Ask,
        reply: Reply,
    },
    /// The result of the lookup thread.
    Answered(Answered),
    /// This worker's observers of the event have ended.
    Observed {
        id: u64,
        worker: usize,
    },
    /// Another bundle is in force in every worker.
    Reload(Arc<Bundle>),
    /// Before such a bundle: finish the running calls of topics that it does not have.
    Retire {
        bundle: Arc<Bundle>,
        done: mpsc::Sender<()>,
    },
    Status(mpsc::Sender<ConsumerSnapshot>),
    /// A reload is to come, and changes listeners: its partitions come to rest first. The answer says what keeps them
    /// from it.
    ComeToRest {
        bundle: Arc<Bundle>,
        done: mpsc::Sender<Result<(), String>>,
    },
    /// That reload does not come.
    GoOn,
    /// An operator lets a held partition go on. A consumer that does not have it drops the reply.
    Accept {
        topic: String,
        partition: i32,
        reply: mpsc::Sender<Result<String, String>>,
    },
    /// Drain, commit and leave the group until this moment.
    Close(Instant),
}

/// A message that waits for a transaction, or those that one call has finished.
pub(crate) struct HandedOver {
    pub(crate) partition: Arc<Partition>,
    /// Of the first message.
    pub(crate) lane: u64,
    pub(crate) number: u64,
    pub(crate) others: Vec<Member>,
    /// Its listener gets batches.
    pub(crate) is_of_batches: bool,
    /// Of the messages and their records.
    pub(crate) bytes: usize,
    pub(crate) parts: Parts,
}

/// The requests of a partition's handlers.
pub(crate) struct Requests {
    pub(crate) partition: Arc<Partition>,
    /// The bundle since which the partition's listeners are unchanged.
    pub(crate) listeners_since_bundle: u64,
    pub(crate) asks: Vec<Ask>,
}

/// The messages to the thread for topics.
pub(crate) enum ToTopics {
    /// A pattern of this consumer matches these topics.
    Matched {
        consumer: Arc<str>,
        topics: Vec<Arc<str>>,
    },
    /// Another configuration is in force; these of its topics have no answer yet.
    Reload {
        config: Arc<Config>,
        open: Vec<RequiredTopic>,
    },
    Stop,
}

/// The messages to a worker.
pub(crate) enum ToWorker {
    /// Messages with consecutive numbers; declared, hence dropped, before the partition that holds their client.
    Batch {
        messages: Vec<kafka::Message>,
        first: u64,
        taken: Instant,
        plan: Arc<Plan>,
        partition: Arc<Partition>,
    },
    /// The partition's epoch is over: start nothing, let running calls finish, then report.
    Release(Arc<Partition>),
    /// The drain's deadline: end the calls that still run.
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
    /// News of an emission that a lane waits for.
    Emission {
        epoch: u64,
        lane: u64,
        number: u64,
        listener: String,
        news: Emission,
    },
    /// The same of what a batch has emitted.
    BatchEmission {
        epoch: u64,
        batch: u64,
        news: Emission,
    },
    /// The answers to records that no lane waits for, by their numbers.
    Acknowledged {
        runs: Vec<Run>,
        failed: Vec<(u64, Fault)>,
    },
    /// The records before an awaited commit are acknowledged, or one is refused.
    WrittenBeforeCommit {
        vm: u64,
        call: CallId,
        wait: WaitId,
        offset: i64,
        asked: Option<Requested>,
        result: Result<(), Fault>,
    },
    /// What is known of deferred messages that are fetched again.
    FetchedAgain {
        epoch: u64,
        news: refetch::News,
    },
    /// These messages of a partition are committed, by lane and number.
    Settled {
        epoch: u64,
        messages: Vec<(u64, u64)>,
    },
    /// A topic never accepts a record that the message has emitted in this listener.
    RefusedRecord {
        partition: Arc<Partition>,
        lane: u64,
        number: u64,
        listener: String,
        reason: String,
    },
    /// The messages of the call that has finished this one, its first, cannot be committed together: they run again,
    /// each alone.
    Divide {
        partition: Arc<Partition>,
        lane: u64,
        number: u64,
    },
    /// New calls go to this bundle from now on.
    Swap {
        bundle: Arc<Bundle>,
        vm: Box<Vm>,
        done: mpsc::Sender<()>,
    },
    Status(mpsc::Sender<WorkerSnapshot>),
    /// An operator command.
    Order(Order),
    /// A handler has resumed the partition: its runs may begin.
    Wake(Arc<Partition>),
    /// Partitions of a consumer come or go: the observers of the event are to run.
    Observe(Arc<Observed>),
    /// The daemon stops: no tick of a timer begins any more, and those that run end until this moment.
    EndTicks(Instant),
    Stop,
}

/// An event that observers are to hear of.
pub(crate) struct Observed {
    /// Unique in the consumer.
    pub(crate) id: u64,
    pub(crate) event: PartitionEvent,
    /// What an observer is given.
    pub(crate) argument: Arc<Value>,
    /// The epochs of partitions that go.
    pub(crate) epochs: Vec<u64>,
    /// Calls of these partitions may end before the observers begin, until this moment.
    pub(crate) begins_at: Instant,
    /// Observers that still run are given up then.
    pub(crate) ends_at: Instant,
    /// The mailbox of the consumer, if it waits for the end of the observers.
    pub(crate) inbox: Option<Arc<Mailbox<ToConsumer>>>,
}

/// What becomes of the records that a message has emitted.
#[derive(Debug)]
pub(crate) enum Emission {
    /// They are sent again later.
    Troubled(Fault),
    /// All are acknowledged, or one is refused.
    Over(Result<(), Fault>),
}

/// The commands of an operator. A worker that a command does not concern drops it, and with it the reply.
pub(crate) enum Order {
    /// Ends a message without its handlers, in every listener or the named one. The reply has the result or the
    /// reason for a refusal.
    Skip {
        message: Handle,
        listener: Option<String>,
        dead_letter: bool,
        /// The operator and the reason, for the log and the dead letter.
        reason: String,
        reply: mpsc::Sender<Result<String, String>>,
    },
    /// Ends back-offs; the reply has their number.
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

impl Partition {
    pub(crate) fn new(epoch: u64, topic: &Arc<str>, partition: i32, of: Shared) -> Self {
        Self {
            epoch,
            consumer: of.consumer,
            topic: topic.clone(),
            number: partition,
            group: of.group,
            outbox: of.outbox,
            refetch: of.refetch,
            seed: of.seed,
            is_exactly_once: of.is_exactly_once,
            inbox: of.inbox,
            state: AtomicU8::new(0),
            left_below: AtomicI64::new(0),
            blocked: Mutex::default(),
            client: of.client,
        }
    }

    pub(crate) fn key(&self) -> PartitionKey {
        PartitionKey::new(&self.topic, self.number)
    }

    /// The epoch ends: no further call may start, even before the worker reads `Release`.
    pub(crate) fn end(&self) {
        self.state.fetch_or(OVER, Ordering::Release);
    }

    /// Nothing new begins until nothing is finished beyond the position; a wake-up follows the end of that.
    pub(crate) fn set_rests(&self, rests: bool) {
        if rests {
            self.state.fetch_or(RESTS, Ordering::Release);
        } else {
            self.state.fetch_and(!RESTS, Ordering::Release);
        }
    }

    pub(crate) fn rests(&self) -> bool {
        self.state.load(Ordering::Acquire) & RESTS != 0
    }

    pub(crate) fn set_left_below(&self, offset: i64) {
        self.left_below.store(offset, Ordering::Relaxed);
    }

    pub(crate) fn is_left(&self, offset: i64) -> bool {
        offset < self.left_below.load(Ordering::Relaxed)
    }

    pub(crate) fn is_over(&self) -> bool {
        self.admits() == Admits::Nothing
    }

    /// Which runs may begin now.
    pub(crate) fn admits(&self) -> Admits {
        match self.state.load(Ordering::Acquire) {
            0 => Admits::Runs,
            RESTS => Admits::Begun,
            state if state & OVER == 0 => Admits::NoRuns,
            _ => Admits::Nothing,
        }
    }

    /// The offset behind the last message of the partition, as of the last fetch; 0 before the first one.
    pub(crate) fn high_watermark(&self) -> i64 {
        let known = self.client.known_watermarks(&self.topic, self.number);
        known.map_or(0, |(_, high)| high)
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

impl Holdable for Partition {
    fn set_held(&self, is_held: bool) -> bool {
        let before = if is_held {
            self.state.fetch_or(HELD, Ordering::Release)
        } else {
            self.state.fetch_and(!HELD, Ordering::Release)
        };
        before & HELD != 0
    }

    fn is_over(&self) -> bool {
        Self::is_over(self)
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
            refetch: Arc::new(Refetch::without_thread()),
            inbox: Arc::new(Mailbox::default()),
            client: Arc::new(client),
            seed: 1,
            is_exactly_once: false,
        };
        Self::new(epoch, &topic.into(), 0, of)
    }
}
