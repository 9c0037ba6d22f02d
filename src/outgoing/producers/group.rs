//! One producer of the configuration: its clients, the room for its records, and the limits of its topics.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, SemaphorePermit};
use tokio::time::{Instant, timeout_at};

use crate::config;
use crate::kafka::producer::Producer;
use crate::log::log;
use crate::outgoing::endings::Endings;
use crate::telemetry::metrics::ProducerSnapshot;
use crate::wait::Fault;
use crate::wait::send::Acks;

use super::clients::{Clients, Pair, Use};
use super::hearing::{Hearing, Receivers};
use super::limits::Limits;
use super::routes::{Route, Routes};
use super::stats::Stats;

/// The interval between two looks at the records of another client.
const LOOK: Duration = Duration::from_millis(5);

pub(super) struct Group {
    pub(super) settings: config::Producer,
    pub(super) stats: Arc<Stats>,
    clients: Arc<Clients>,
    /// A permit a byte, for records whose sends have their room.
    room: Arc<Semaphore>,
    /// A permit a byte, for records whose sends wait for room.
    queue: Arc<Semaphore>,
    limits: Arc<Limits>,
}

/// Where the records of a send are counted. Its drop gives the bytes back.
pub(super) enum Counted {
    Room(OwnedSemaphorePermit),
    Queue(OwnedSemaphorePermit),
}

impl Group {
    pub(super) fn new(
        settings: &config::Producer,
        stats: Arc<Stats>,
        endings: &Arc<Endings>,
        receivers: &Arc<Receivers>,
    ) -> Self {
        let room = Arc::new(Semaphore::new(settings.buffer_memory));
        let limits = Limits::new(settings.metadata_max_age);
        let routes = Arc::new(Routes::default());
        let hearing = Hearing::new(&room, &stats, &limits, &routes, receivers);
        Self {
            settings: settings.clone(),
            stats,
            clients: Arc::new(Clients::new(settings, endings, hearing, routes)),
            room,
            queue: Arc::new(Semaphore::new(settings.buffer_memory)),
            limits,
        }
    }

    pub(super) fn default_pair(&self) -> Pair {
        Pair {
            acks: self.settings.acks,
            compression: self.settings.compression,
        }
    }

    /// A message is done by the acknowledgement of its records, so all replicas acknowledge them.
    pub(super) fn emitted_pair(&self) -> Pair {
        Pair {
            acks: Acks::All,
            compression: self.settings.compression,
        }
    }

    /// Makes the client of the producer's own settings, which connects.
    pub(super) fn connect(&self) {
        let made = self
            .clients
            .get(self.default_pair(), Use::Awaited(usize::MAX));
        if let Err(fault) = made {
            log!(
                warn,
                kafka,
                error = fault.message,
                "a producer does not start"
            );
        }
    }

    pub(super) async fn client(&self, pair: Pair, purpose: Use) -> Result<Arc<Producer>, Fault> {
        if let Some(producer) = self.clients.present(pair, purpose)? {
            return Ok(producer);
        }
        let clients = self.clients.clone();
        let made = tokio::task::spawn_blocking(move || clients.get(pair, purpose)).await;
        made.unwrap_or_else(|error| {
            let message = format!("producer `{}` cannot be made: {error}", self.settings.name);
            Err(Fault::new("internal", message))
        })
    }

    pub(super) fn snapshot(&self) -> ProducerSnapshot {
        self.stats
            .snapshot(&self.settings.name, self.clients.count())
    }

    pub(super) fn take_back(&self) {
        self.clients.take_back();
    }

    pub(super) fn close(&self) {
        self.clients.close();
    }

    /// Counts so many bytes: as room if there is some now, else in the queue for it.
    pub(super) fn count(&self, bytes: u32) -> Result<Counted, Fault> {
        if let Ok(room) = self.room.clone().try_acquire_many_owned(bytes) {
            return Ok(Counted::Room(room));
        }
        let queue = self.queue.clone().try_acquire_many_owned(bytes);
        queue.map(Counted::Queue).map_err(|_| {
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

    /// The most bytes of a batch for these topics, none of which may have a known limit. `None`: no broker has answered
    /// until the deadline.
    pub(super) async fn largest(
        &self,
        producer: &Arc<Producer>,
        topics: &[&str],
        deadline: Instant,
    ) -> Option<usize> {
        let (mut waits, question) = self.limits.ask(topics);
        if let Some(question) = question {
            let producer = producer.clone();
            tokio::task::spawn_blocking(move || question.put(&producer));
        }
        let mut answers = pin!(async {
            for wait in &mut waits {
                // Nothing is ever sent: the channel changes only by its end.
                let _ = wait.changed().await;
            }
        });
        // The question goes to one broker, the controller if there is one. Those of the records may answer without it.
        let half = Instant::now() + deadline.saturating_duration_since(Instant::now()) / 2;
        if timeout_at(half, &mut answers).await.is_err() && !producer.knows_brokers() {
            timeout_at(deadline, &mut answers).await.ok()?;
        }
        Some(self.clients.batch().min(self.limits.least(topics)))
    }

    /// What a record for this topic needs to leave at once; `None` while anything of it is not known or not there.
    pub(super) fn route(&self, topic: &str) -> Option<Arc<Route>> {
        let (limit, until) = self.limits.known(topic)?;
        let purpose = self.for_emitted(limit);
        let client = self.clients.present(self.emitted_pair(), purpose).ok()??;
        self.clients.routes.of(topic, &client, until)
    }

    /// Waits until no other client has records of this topic: those of this client would overtake them.
    pub(super) async fn settled(
        &self,
        topic: &str,
        client: &Arc<Producer>,
        deadline: Instant,
    ) -> Result<(), Fault> {
        while self.clients.routes.has_others(topic, client) {
            if Instant::now() >= deadline {
                let message = format!(
                    "no record was sent: earlier ones of topic `{topic}`, whose `max.message.bytes` has changed, have no \
                     acknowledgement"
                );
                return Err(Fault::new("timeout", message));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    pub(super) fn for_emitted(&self, limit: usize) -> Use {
        Use::Emitted(self.clients.batch_of_emitted(limit))
    }

    /// The limit of a topic, as far as it is known.
    pub(super) fn limit(&self, topic: &str) -> usize {
        self.limits.least(&[topic])
    }

    /// The limit of a topic, if the answer to its question is there. `None` also for a topic that is missing.
    pub(super) fn known_limit(&self, topic: &str) -> Option<usize> {
        self.limits
            .known(topic)
            .map(|(limit, _)| limit)
            .filter(|_| !self.limits.is_missing(topic))
    }

    pub(super) fn is_missing(&self, topic: &str) -> bool {
        self.limits.is_missing(topic)
    }

    /// Takes room for so many bytes, if there is some now.
    pub(super) fn take_room(&self, bytes: usize) -> bool {
        let bytes = u32::try_from(bytes).ok();
        let room = bytes.and_then(|bytes| self.room.try_acquire_many(bytes).ok());
        room.map(SemaphorePermit::forget).is_some()
    }

    pub(super) fn give_room_back(&self, bytes: usize) {
        self.room.add_permits(bytes);
    }

    /// The topic accepts less than was known.
    pub(super) fn forget(&self, topic: &str) {
        self.limits.forget(topic);
    }
}
