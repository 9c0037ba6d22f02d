//! One producer of the configuration: its clients, the room for its records, and the limits of its topics.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::config;
use crate::kafka::producer::Producer;
use crate::log::log;
use crate::telemetry::metrics::ProducerSnapshot;
use crate::wait::Fault;

use super::clients::{Clients, Pair, Way};
use super::endings::Endings;
use super::stats::Stats;

/// The limit of a question for a topic's limit: without an answer, the record waits for the broker anyway.
const QUESTION_MAX: Duration = Duration::from_secs(5);
/// How long a topic counts as one without a known limit after a question that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// More topics than that are asked for again.
const TOPICS_MAX: usize = 10_000;

pub(super) struct Group {
    pub(super) settings: config::Producer,
    pub(super) stats: Arc<Stats>,
    clients: Arc<Clients>,
    /// A permit a byte, for records whose sends have their room.
    room: Arc<Semaphore>,
    /// A permit a byte, for records whose sends wait for room.
    queue: Arc<Semaphore>,
    /// The largest batch of each topic.
    limits: Mutex<HashMap<String, Limit>>,
    /// Held for a question, so that the sends behind it use its answer.
    asking: tokio::sync::Mutex<()>,
}

/// The place of a send's records. Its drop gives the bytes back.
pub(super) enum Place {
    Room(OwnedSemaphorePermit),
    Queue(OwnedSemaphorePermit),
}

#[derive(Clone, Copy)]
struct Limit {
    /// `usize::MAX` where it is not known.
    bytes: usize,
    until: Instant,
}

impl Group {
    pub(super) fn new(
        settings: &config::Producer,
        stats: Arc<Stats>,
        endings: &Arc<Endings>,
    ) -> Self {
        Self {
            settings: settings.clone(),
            stats,
            clients: Arc::new(Clients::new(settings, endings)),
            room: Arc::new(Semaphore::new(settings.buffer_memory)),
            queue: Arc::new(Semaphore::new(settings.buffer_memory)),
            limits: Mutex::default(),
            asking: tokio::sync::Mutex::default(),
        }
    }

    pub(super) fn default_pair(&self) -> Pair {
        Pair {
            acks: self.settings.acks,
            compression: self.settings.compression,
        }
    }

    /// Makes the client of the producer's own settings, which connects.
    pub(super) fn connect(&self) {
        let made = self
            .clients
            .get(self.default_pair(), Way::Together, usize::MAX);
        if let Err(fault) = made {
            log!(
                warn,
                kafka,
                error = fault.message,
                "a producer does not start"
            );
        }
    }

    /// A client whose batches are no larger than `largest`. Without that limit, the present one.
    pub(super) async fn client(
        &self,
        pair: Pair,
        way: Way,
        largest: usize,
    ) -> Result<Arc<Producer>, Fault> {
        if let Some(producer) = self.clients.present(pair, way, largest)? {
            return Ok(producer);
        }
        let clients = self.clients.clone();
        let made = tokio::task::spawn_blocking(move || clients.get(pair, way, largest)).await;
        made.unwrap_or_else(|error| {
            let message = format!("producer `{}` cannot be made: {error}", self.settings.name);
            Err(Fault::new("internal", message))
        })
    }

    pub(super) fn snapshot(&self) -> ProducerSnapshot {
        self.stats
            .snapshot(&self.settings.name, self.clients.count())
    }

    pub(super) fn close(&self) {
        self.clients.close();
    }

    /// A place for so many bytes: room if there is some now, else a place in the queue for it.
    pub(super) fn place(&self, bytes: u32) -> Result<Place, Fault> {
        if let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) {
            return Ok(Place::Room(room));
        }
        let queue = self.queue.clone().try_acquire_many_owned(bytes);
        queue.map(Place::Queue).map_err(|_| {
            let queued = self.settings.buffer_memory - self.queue.available_permits();
            let message = format!(
                "no record was sent: {queued} bytes wait for room already, and with {bytes} more they would be above \
                 `bufferMemory` ({}) of producer `{}`; send later, or raise it",
                self.settings.buffer_memory, self.settings.name
            );
            Fault::new("busy", message)
        })
    }

    /// Waits for room for so many bytes. The permit is given back when the client has none of them any more.
    pub(super) async fn room(&self, bytes: u32) -> Option<OwnedSemaphorePermit> {
        self.room.clone().acquire_many_owned(bytes).await.ok()
    }

    /// The most bytes of a batch for these topics.
    pub(super) async fn largest(&self, pair: Pair, topics: &[&str]) -> Result<usize, Fault> {
        let mut largest = self.clients.batch();
        for topic in topics {
            let limit = match self.known(topic) {
                Some(limit) => limit,
                None => self.ask(pair, topic).await?,
            };
            largest = largest.min(limit);
        }
        Ok(largest)
    }

    async fn ask(&self, pair: Pair, topic: &str) -> Result<usize, Fault> {
        let _asking = self.asking.lock().await;
        if let Some(limit) = self.known(topic) {
            return Ok(limit);
        }
        let producer = self.client(pair, Way::Together, usize::MAX).await?;
        let name = topic.to_owned();
        let question = move || producer.largest_batch(&name, QUESTION_MAX);
        let answer = tokio::task::spawn_blocking(question).await;
        let (bytes, lasts) = match answer {
            Ok(Ok(bytes)) => (bytes.unwrap_or(usize::MAX), self.settings.metadata_max_age),
            // The topic may be missing, or its configuration may not be read. The record then finds out by itself.
            Ok(Err(error)) => {
                log!(debug, kafka, topic, %error, "the limit of a topic is not known");
                let lasts = if error.is_unsupported() {
                    self.settings.metadata_max_age
                } else {
                    AGAIN
                };
                (usize::MAX, lasts)
            }
            Err(_) => (usize::MAX, AGAIN),
        };
        let mut limits = self.limits();
        if limits.len() >= TOPICS_MAX {
            limits.clear();
        }
        let until = Instant::now() + lasts;
        limits.insert(topic.to_owned(), Limit { bytes, until });
        Ok(bytes)
    }

    fn known(&self, topic: &str) -> Option<usize> {
        let limits = self.limits();
        let limit = limits.get(topic)?;
        (Instant::now() < limit.until).then_some(limit.bytes)
    }

    /// The topic accepts less than was known.
    pub(super) fn forget(&self, topic: &str) {
        self.limits().remove(topic);
    }

    fn limits(&self) -> MutexGuard<'_, HashMap<String, Limit>> {
        self.limits.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
