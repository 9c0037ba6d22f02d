//! The load: numbered messages at a steady rate, and which of them the brokers have acknowledged.
//!
//! A message's number is its offset less the copies before it: the producer is idempotent, and the topic has nothing else
//! in it, but where all brokers are killed at once a producer has to begin anew and may write a batch a second time. So
//! what stands in a topic is known by two integers a partition, however long the run is.

use std::sync::atomic::{AtomicBool, AtomicI32, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::error::KafkaError;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};
use rdkafka::types::RDKafkaErrorCode;

use crate::cluster::Cluster;
use crate::fate::key_of;

/// Partitions are added up to this many.
pub(crate) const PARTITIONS_MAX: usize = 24;
/// While nothing is acknowledged, no more than this is kept for later.
const OUTSTANDING_MAX: i64 = 20_000;
const TICK: Duration = Duration::from_millis(10);
const VALUE_SIZE: usize = 100;

/// What the driver and those who look at it share.
#[derive(Default)]
pub(crate) struct Load {
    pub(crate) partitions: AtomicI32,
    pub(crate) rate: AtomicU64,
    /// By partition: every message that stands below this offset is acknowledged, or a copy of one.
    acked: [AtomicI64; PARTITIONS_MAX],
    /// By partition: the copies among them.
    copies: [AtomicI64; PARTITIONS_MAX],
    stopped: AtomicBool,
    /// The driver's own promise broken: without it nothing can be said about the daemon.
    broken: Mutex<Option<String>>,
}

impl Load {
    pub(crate) fn acked(&self, partition: usize) -> i64 {
        self.acked[partition].load(Ordering::Acquire)
    }

    pub(crate) fn acked_in_all(&self) -> i64 {
        (0..PARTITIONS_MAX)
            .map(|partition| self.acked(partition))
            .sum()
    }

    pub(crate) fn copies(&self, partition: usize) -> i64 {
        self.copies[partition].load(Ordering::Acquire)
    }

    pub(crate) fn copies_in_all(&self) -> i64 {
        (0..PARTITIONS_MAX)
            .map(|partition| self.copies(partition))
            .sum()
    }

    pub(crate) fn broken(&self) -> Option<String> {
        self.broken.lock().unwrap().clone()
    }

    fn break_down(&self, reason: String) {
        self.broken.lock().unwrap().get_or_insert(reason);
    }
}

pub(crate) struct Driver {
    pub(crate) load: Arc<Load>,
    thread: Option<JoinHandle<()>>,
}

impl Driver {
    /// Produces to the first partitions of `topic`, so many messages a second, until it is told to stop.
    pub(crate) fn start(cluster: &Cluster, topic: &str, partitions: i32, rate: u64) -> Self {
        let load = Arc::new(Load::default());
        load.partitions.store(partitions, Ordering::SeqCst);
        load.rate.store(rate, Ordering::SeqCst);
        let mut config = cluster.client();
        config
            .set("acks", "all")
            .set("enable.idempotence", "true")
            .set("message.timeout.ms", "0")
            .set("linger.ms", "20")
            // librdkafka numbers a batch of unknown offset upwards from -1001: so none of its messages has one.
            .set("batch.num.messages", "1000")
            .set("queue.buffering.max.messages", "1000000");
        let producer = config
            .create_with_context(Acknowledged(load.clone()))
            .unwrap();
        let (topic, shared) = (topic.to_owned(), load.clone());
        let thread = std::thread::spawn(move || drive(&producer, &topic, &shared));
        Self {
            load,
            thread: Some(thread),
        }
    }

    /// Produces no more, and returns once everything is acknowledged.
    pub(crate) fn stop(&mut self) {
        self.load.stopped.store(true, Ordering::SeqCst);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Driver {
    fn drop(&mut self) {
        self.load.stopped.store(true, Ordering::SeqCst);
    }
}

struct Acknowledged(Arc<Load>);

impl ClientContext for Acknowledged {}

impl ProducerContext for Acknowledged {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, number: usize) {
        match delivery {
            Ok(message) => {
                let partition = message.partition() as usize;
                let (number, known) = (number as i64, self.0.copies(partition));
                let Some(copies) = copies_before(number, message.offset(), known) else {
                    self.0.break_down(format!(
                        "driver: message {number} of partition {partition} stands at offset {}",
                        message.offset()
                    ));
                    return;
                };
                self.0.copies[partition].store(copies, Ordering::Release);
                self.0.acked[partition].store(number + copies + 1, Ordering::Release);
            }
            Err((error, message)) => self.0.break_down(format!(
                "driver: message {number} of partition {} was not produced: {error}",
                message.partition()
            )),
        }
    }
}

/// How many copies stand before a message, as its delivery tells; `None` where fewer than `known`.
///
/// A batch of which the broker says that it has it already is delivered without an offset: its messages stand at least
/// where the known copies let them, and the next message that has an offset tells of others.
fn copies_before(number: i64, offset: i64, known: i64) -> Option<i64> {
    let copies = if offset < 0 { known } else { offset - number };
    (copies >= known).then_some(copies)
}

fn drive(producer: &BaseProducer<Acknowledged>, topic: &str, load: &Load) {
    let mut next = [0_i64; PARTITIONS_MAX];
    let mut owed = 0.0;
    let mut last = Instant::now();
    let mut partition = 0;
    while !load.stopped.load(Ordering::SeqCst) {
        let now = Instant::now();
        let rate = load.rate.load(Ordering::Relaxed) as f64;
        // What an outage has kept back is not made up for.
        owed = (owed + (now - last).as_secs_f64() * rate).min(rate / 10.0);
        last = now;
        let outstanding = next.iter().sum::<i64>() + load.copies_in_all() - load.acked_in_all();
        while owed >= 1.0 && outstanding < OUTSTANDING_MAX {
            owed -= 1.0;
            partition = (partition + 1) % load.partitions.load(Ordering::Relaxed) as usize;
            match send(producer, topic, partition, next[partition]) {
                Ok(true) => next[partition] += 1,
                Ok(false) => break,
                Err(error) => {
                    load.break_down(format!("driver: {error}"));
                    return;
                }
            }
        }
        producer.poll(TICK);
    }
    let started = Instant::now();
    while producer.in_flight_count() > 0 {
        producer.poll(TICK);
        if started.elapsed() > Duration::from_secs(120) {
            load.break_down("driver: not everything is acknowledged after two minutes".into());
            return;
        }
    }
}

/// Whether it was taken.
fn send(
    producer: &BaseProducer<Acknowledged>,
    topic: &str,
    partition: usize,
    number: i64,
) -> Result<bool, KafkaError> {
    let value = format!("{number:<VALUE_SIZE$}");
    let key = key_of(number);
    let record = BaseRecord::with_opaque_to(topic, number as usize)
        .partition(partition as i32)
        .key(&key)
        .payload(&value);
    match producer.send(record) {
        Ok(()) => Ok(true),
        // A partition that was added may not be known here yet.
        Err((
            KafkaError::MessageProduction(
                RDKafkaErrorCode::QueueFull | RDKafkaErrorCode::UnknownPartition,
            ),
            _,
        )) => Ok(false),
        Err((error, _)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_stands_where_its_number_and_the_copies_before_it_say() {
        assert_eq!(copies_before(7, 7, 0), Some(0));
        assert_eq!(copies_before(7, 10, 0), Some(3));
        assert_eq!(copies_before(7, 10, 3), Some(3));
        assert_eq!(copies_before(7, 9, 3), None);
        assert_eq!(copies_before(7, 6, 0), None);
    }

    #[test]
    fn a_delivery_without_an_offset_tells_of_no_more_copies() {
        assert_eq!(copies_before(27_930, -1001, 1_921), Some(1_921));
        assert_eq!(copies_before(28_929, -2, 0), Some(0));
    }
}
