//! A worker without its thread and without Kafka: batches go in as letters, and finished messages come out.
//!
//! Its partition belongs to a client that knows no broker. The messages own their bytes, which are not a fetch
//! buffer's.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::{self, UnboundedReceiver};

use super::{Shape, TOPIC};
use crate::assignment::{Partition, Shared, ToConsumer, ToWorker};
use crate::crash::exclusive::Exclusive;
use crate::crash::journal::Journal;
use crate::kafka::refetch::Refetch;
use crate::kafka::{Client, Message};
use crate::lua::{Vm, Watchdog};
use crate::outgoing::outbox::Outbox;
use crate::rules::route::{self, Plan};
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Progress;
use crate::threads::supervisor::{Ending, Supervisor};
use crate::worker;

/// Two of them must not be alive at once: a thread has one pulse.
pub struct Worker {
    inner: worker::Worker,
    partition: Arc<Partition>,
    plan: Arc<Plan>,
    shape: Shape,
    next: u64,
    letters: Vec<ToConsumer>,
    _endings: UnboundedReceiver<Ending>,
    _journal: Journal,
    _watchdog: Watchdog,
}

/// Messages on their way to the worker.
pub struct Batch(ToWorker);

impl Worker {
    /// `file` is the text of the handler's file; the journal lies in the folder.
    pub fn new(file: &str, shape: Shape, folder: &Path) -> Self {
        let bundle = Arc::new(super::bundle(file));
        let plan = route::plan(&bundle.config, "default", TOPIC).expect("the topic has a listener");
        let watchdog =
            Watchdog::start(&Supervisor::without_daemon()).expect("a thread can be started");
        let pulse = watchdog.watch_current_thread("micro");
        let app = Arc::default();
        let vm = Vm::build(&bundle, &app, &pulse).unwrap_or_else(|error| panic!("{error}"));
        let (journal, mut pages) = Journal::start(folder, 1, 3);
        let mailbox = Arc::new(Mailbox::default());
        let (endings, told) = mpsc::unbounded_channel();
        let start = worker::Start {
            index: 0,
            count: 1,
            mailbox: Arc::clone(&mailbox),
            endings,
            beat: Progress::default().register("micro", Duration::from_secs(10)),
            app,
            pulse,
            bundle,
            vm,
            page: pages.pop().expect("a page for each worker"),
            solo: Arc::new(Exclusive::new(vec![mailbox])),
            rates: Arc::new(worker::rates::Rates::new(Instant::now())),
            chance: fastrand::Rng::with_seed(1),
        };
        Self {
            inner: worker::Worker::new(start),
            partition: Arc::new(partition()),
            plan: Arc::new(plan),
            shape,
            next: 0,
            letters: Vec::new(),
            _endings: told,
            _journal: journal.expect("the folder takes a journal"),
            _watchdog: watchdog,
        }
    }

    pub fn batch(&mut self, messages: u64) -> Batch {
        let first = self.next;
        self.next += messages;
        let messages = (first..self.next).map(|number| {
            let record = self.shape.record(number as i64);
            Message::of(record)
        });
        Batch(ToWorker::Batch {
            messages: messages.collect(),
            first,
            taken: Instant::now(),
            plan: Arc::clone(&self.plan),
            partition: Arc::clone(&self.partition),
        })
    }

    /// Runs every message of the batch, and reports the finished ones to the consumer.
    pub fn run(&mut self, batch: Batch) {
        // Turns until no work is left.
        let mut letters = vec![batch.0];
        while self.inner.turn(&mut letters) == worker::Turn::Busy {}
        self.partition.inbox.take(&mut self.letters);
        let last = match self.letters.last() {
            Some(ToConsumer::Finished { finished, .. }) => finished.last(),
            _ => None,
        };
        let end = last.map(|(_, numbers)| numbers.end);
        assert_eq!(end, Some(self.next), "a message is not done");
        self.letters.clear();
    }
}

fn partition() -> Partition {
    // A consumer needs a group; without brokers it stays alone.
    let properties = [("group.id", "micro")].into_iter();
    let client = Client::new(properties, Arc::new(|| ())).expect("a client without brokers");
    let of = Shared {
        consumer: "default".into(),
        group: "micro".into(),
        outbox: Arc::new(Outbox::new(
            "default",
            &BTreeMap::new(),
            &Supervisor::without_daemon(),
        )),
        inbox: Arc::new(Mailbox::default()),
        client: Arc::new(client),
        refetch: Arc::new(Refetch::without_thread()),
        seed: 1,
        is_exactly_once: false,
    };
    Partition::new(1, &TOPIC.into(), 0, of)
}
