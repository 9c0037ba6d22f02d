//! One call of `send`: its records, until each has its answer or the time is over.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::OwnedSemaphorePermit;
use tokio::sync::mpsc::{self, UnboundedReceiver, UnboundedSender};
use tokio::time::timeout_at;

use crate::duration::short;
use crate::kafka::Refusal;
use crate::kafka::producer::{Acknowledged, Failure, Producer, Way};
use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::{Acks, Coordinates, Failed, Fate, Few, Request};

use super::clients::{Pair, Use};
use super::group::{Counted, Group};
use super::stats::Stats;

/// The answer to one record, by its index in the request.
type Report = (usize, Way, Result<Acknowledged, Failure>);

/// Whether a handler waits for the records, or has emitted them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Awaited,
    Emitted,
}

/// Sends the records, whose bytes are counted, and waits for their answers.
pub(super) async fn send(
    group: Arc<Group>,
    request: Request,
    timeout: Duration,
    (counted, bytes): (Counted, u32),
    kind: Kind,
) -> Result<Vec<Coordinates>, Failed> {
    let began = Instant::now();
    let mut count = Count {
        stats: group.stats.clone(),
        began,
        open: request.records.len(),
    };
    let pair = match kind {
        Kind::Awaited => Pair {
            acks: request.acks.unwrap_or(group.settings.acks),
            compression: request.compression.unwrap_or(group.settings.compression),
        },
        Kind::Emitted => group.emitted_pair(),
    };
    let (reports, answers) = mpsc::unbounded_channel();
    let mut call = Call {
        fates: vec![None; request.records.len()],
        records: request.records,
        function: request.function,
        kind,
        deadline: (began + timeout).into(),
        timeout,
        held: None,
        group,
        pair,
        reports,
    };
    let result = call.run(answers, counted, bytes).await;
    let error = result.as_ref().err().map(|failed| failed.message.as_str());
    count.end(call.written(), error);
    result
}

/// Counts the end of a call, also of one that is given up.
struct Count {
    stats: Arc<Stats>,
    began: Instant,
    /// Records that are not counted yet.
    open: usize,
}

impl Count {
    fn end(&mut self, written: usize, error: Option<&str>) {
        let failed = std::mem::take(&mut self.open).saturating_sub(written);
        self.stats
            .ended((1, self.began.elapsed()), written, failed, error);
    }
}

impl Drop for Count {
    fn drop(&mut self) {
        if self.open > 0 {
            self.end(0, None);
        }
    }
}

struct Call {
    group: Arc<Group>,
    pair: Pair,
    function: &'static str,
    kind: Kind,
    records: Few<Outgoing>,
    fates: Vec<Option<Fate>>,
    deadline: tokio::time::Instant,
    timeout: Duration,
    /// The room for the records; each record in flight has it, too.
    held: Option<Arc<OwnedSemaphorePermit>>,
    reports: UnboundedSender<Report>,
}

/// Counts a send that waits for room.
struct Queued<'s>(&'s Stats);

impl Drop for Queued<'_> {
    fn drop(&mut self) {
        self.0.queued(-1);
    }
}

impl Call {
    async fn run(
        &mut self,
        answers: UnboundedReceiver<Report>,
        counted: Counted,
        bytes: u32,
    ) -> Result<Vec<Coordinates>, Failed> {
        self.take_room(counted, bytes)
            .await
            .map_err(|fault| self.none(&fault))?;
        let clients = self.clients().await.map_err(|fault| self.none(&fault))?;
        for (index, (way, producer)) in clients.iter().enumerate() {
            self.enqueue(index, *way, producer);
        }
        self.wait(answers).await;
        let error = clients
            .iter()
            .find_map(|(_, producer)| producer.last_error());
        drop(clients);
        self.result(error)
    }

    async fn take_room(&mut self, counted: Counted, bytes: u32) -> Result<(), Fault> {
        let in_queue = match counted {
            Counted::Room(room) => {
                self.held = Some(Arc::new(room));
                return Ok(());
            }
            Counted::Queue(in_queue) => in_queue,
        };
        let stats = self.group.stats.clone();
        stats.queued(1);
        let queued = Queued(&stats);
        let room = timeout_at(self.deadline, self.group.room(bytes)).await;
        drop((queued, in_queue));
        let Ok(Some(room)) = room else {
            let message = format!(
                "no record was sent: within {} there was no room for {bytes} bytes beside the unacknowledged ones \
                 (`bufferMemory` {})",
                short(self.timeout),
                self.group.settings.buffer_memory
            );
            return Err(Fault::new("busy", message));
        };
        self.held = Some(Arc::new(room));
        Ok(())
    }

    /// The client of each record.
    async fn clients(&self) -> Result<Vec<(Way, Arc<Producer>)>, Fault> {
        // The question for the limits of the topics needs a client, whatever its batches.
        let most = match self.kind {
            Kind::Awaited => Use::Awaited(usize::MAX),
            Kind::Emitted => self.group.for_emitted(usize::MAX),
        };
        let any = self.made(most).await?;
        let topics: BTreeSet<&str> = self.records.iter().map(|one| &*one.topic).collect();
        let topics: Vec<&str> = topics.into_iter().collect();
        let largest = self.group.largest(&any, &topics, self.deadline).await;
        drop(any);
        let largest = largest.ok_or_else(|| {
            let message = format!(
                "no record was sent: no broker answered within {}",
                short(self.timeout)
            );
            Fault::new("unreachable", message)
        })?;
        let mut clients = Vec::with_capacity(self.records.len());
        if self.kind == Kind::Awaited {
            let client = self.made(Use::Awaited(largest)).await?;
            clients.resize(self.records.len(), (Way::Together, client));
            return Ok(clients);
        }
        for record in &self.records {
            let purpose = self.group.for_emitted(self.group.limit(&record.topic));
            clients.push(match self.made(purpose).await {
                Ok(client) => {
                    self.group
                        .settled(&record.topic, &client, self.deadline)
                        .await?;
                    (Way::Together, client)
                }
                // More sizes of batches than there are clients.
                Err(_) => (Way::Alone, self.made(Use::Alone).await?),
            });
        }
        Ok(clients)
    }

    async fn made(&self, purpose: Use) -> Result<Arc<Producer>, Fault> {
        let client = self.group.client(self.pair, purpose);
        timeout_at(self.deadline, client).await.unwrap_or_else(|_| {
            let message = format!(
                "no record was sent: librdkafka made no client within {}",
                short(self.timeout)
            );
            Err(Fault::new("timeout", message))
        })
    }

    fn enqueue(&self, index: usize, way: Way, producer: &Producer) {
        let record = &self.records[index];
        let (stats, held) = (self.group.stats.clone(), self.held.clone());
        let (reports, bytes) = (self.reports.clone(), record.size());
        stats.sent(1, bytes);
        let then = move |answer| {
            stats.reported(1, bytes);
            drop(held);
            // The call may have been given up.
            let _ = reports.send((index, way, answer));
        };
        producer.send_then(record, Box::new(then));
    }

    /// Until every record has its answer, or the time is over.
    async fn wait(&mut self, mut answers: UnboundedReceiver<Report>) {
        let mut open = self.records.len();
        while open > 0 {
            let Ok(Some((index, way, answer))) = timeout_at(self.deadline, answers.recv()).await
            else {
                return;
            };
            let fate = match answer {
                Ok(acknowledged) => Fate::Written(self.coordinates(acknowledged)),
                Err(failure) => {
                    if failure.refusal() == Refusal::TooLarge {
                        self.group.forget(&self.records[index].topic);
                    }
                    let is_own = way == Way::Alone || !failure.refusal().may_be_a_neighbours();
                    match self.alone(way, &failure).await {
                        Some(Ok(alone)) => {
                            self.enqueue(index, Way::Alone, &alone);
                            continue;
                        }
                        Some(Err(fault)) => Fate::Failed(fault),
                        // In a request with others another record may have been at fault.
                        None if is_own && failure.is_for_good() => {
                            Fate::Refused(Fault::new(failure.kind, failure.sentence))
                        }
                        None => Fate::Failed(Fault::new(failure.kind, failure.sentence)),
                    }
                }
            };
            self.fates[index] = Some(fate);
            open -= 1;
        }
    }

    /// The client that sends a refused record again, alone. `None` if the refusal is final, or the time is over.
    async fn alone(&self, way: Way, failure: &Failure) -> Option<Result<Arc<Producer>, Fault>> {
        if way == Way::Alone || !failure.refusal().may_be_a_neighbours() {
            return None;
        }
        let client = self.group.client(self.pair, Use::Alone);
        timeout_at(self.deadline, client).await.ok()
    }

    fn coordinates(&self, acknowledged: Acknowledged) -> Coordinates {
        let is_answered = self.pair.acks != Acks::None && acknowledged.offset >= 0;
        Coordinates {
            partition: acknowledged.partition,
            offset: is_answered.then_some(acknowledged.offset),
            timestamp_ms: acknowledged.timestamp_ms,
        }
    }

    fn written(&self) -> usize {
        let fates = self.fates.iter();
        fates
            .filter(|fate| matches!(fate, Some(Fate::Written(_))))
            .count()
    }

    /// No record was sent.
    fn none(&self, fault: &Fault) -> Failed {
        let results = vec![Fate::Failed(fault.clone()); self.records.len()];
        Failed {
            kind: fault.kind,
            message: format!("`{}`: {}", self.function, fault.message),
            results,
        }
    }

    /// `error`: the reason why the brokers were not reached.
    fn result(&self, error: Option<String>) -> Result<Vec<Coordinates>, Failed> {
        let written = self.fates.iter().map(|fate| match fate {
            Some(Fate::Written(written)) => Some(*written),
            _ => None,
        });
        if let Some(written) = written.collect() {
            return Ok(written);
        }
        let first = self.fates.iter().flatten().find_map(|fate| match fate {
            Fate::Failed(fault) | Fate::Refused(fault) => Some(fault),
            _ => None,
        });
        let unknown = self.fates.iter().filter(|fate| fate.is_none()).count();
        let (kind, why) = match first {
            Some(fault) => (fault.kind, fault.message.clone()),
            None => self.late(error),
        };
        let (all, written) = (self.records.len(), self.written());
        let counts = if all == 1 {
            String::new()
        } else {
            format!(
                "; of {all} records {written} are written, {} are not, {unknown} are unknown: see `results`",
                all - written - unknown
            )
        };
        let fates = self.fates.iter();
        Err(Failed {
            kind,
            message: format!("`{}`: {why}{counts}", self.function),
            results: fates
                .map(|fate| fate.clone().unwrap_or(Fate::Unknown))
                .collect(),
        })
    }

    /// The kind and the sentence of a send without an answer in time.
    fn late(&self, error: Option<String>) -> (&'static str, String) {
        let topics = self.records.iter().zip(&self.fates);
        let topic = topics
            .filter(|(_, fate)| fate.is_none())
            .map(|(record, _)| &*record.topic)
            .next()
            .unwrap_or_default();
        let (kind, reason) = match error {
            Some(error) => ("unreachable", format!(": {error}")),
            None => ("timeout", String::new()),
        };
        let after = short(self.timeout);
        let sentence = format!(
            "topic `{topic}`: no acknowledgement within {after}{reason}; the record may still be written"
        );
        (kind, sentence)
    }
}
