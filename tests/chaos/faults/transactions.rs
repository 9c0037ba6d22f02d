//! Records that nobody is to see: transactions that are aborted, by their producer or by its successor, between others
//! and at the end of partitions.

use std::sync::Mutex;
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, DeliveryResult, Producer as _, ProducerContext};

use super::members::{start_all, stop_all};
use super::side::{Ledger, forget, listen};
use crate::cluster::Cluster;
use crate::dice::Dice;
use crate::stage::Stage;
use crate::support::kafka::unique;

const PARTITIONS: i32 = 3;
const REQUEST: Duration = Duration::from_secs(30);
/// Fewer than the transactions that the brokers give up by themselves, after a minute.
const OPEN: Duration = Duration::from_secs(2);

/// A member is killed while transactions come to their ends, or the group starts again before an aborted tail; both where
/// there is time.
pub(crate) fn abort(stage: &mut Stage, dice: &mut Dice) {
    let name = listen(stage, "aborted", PARTITIONS, &[]);
    let id = unique("transactions");
    let mut writer = Writer {
        producer: producer(&stage.cluster, &id),
        topic: name.clone(),
        written: 0,
        ledger: Ledger::new(stage, &name, PARTITIONS),
    };
    let kills = dice.below(2) == 0;
    let restarts = stage.short(!kills, true);
    let victim = dice.one_of(&stage.fleet.recruits());
    let killed_in = stage.short(kills, true).then(|| dice.below(10));
    for round in 0..stage.short(10, 20) {
        writer.write(dice.below(20), dice.one_of(&ENDS));
        if killed_in == Some(round) {
            stage.fleet.members[victim].kill();
        }
        writer.ledger.is_handled(stage);
    }
    if !stage.fleet.members[victim].is_running() {
        stage.fleet.members[victim].start(&[]);
    }
    // Of a producer that is gone: its successor has them aborted.
    writer.write(1 + dice.below(20), End::Open);
    stage.pass(OPEN);
    writer.producer = producer(&stage.cluster, &id);
    check(stage, &writer, "what was committed");

    for _ in 0..=dice.below(3) {
        writer.write(1 + dice.below(50), End::Abort);
    }
    if restarts {
        stop_all(stage);
        start_all(stage);
    }
    writer.write(1, End::Commit);
    writer.write(1 + dice.below(50), End::Abort);
    check(stage, &writer, "what lies between aborted tails");
    // The position moves over what nobody is to see.
    writer.ledger.wait_for_commits(stage);
    check(stage, &writer, "what lies between aborted tails");
    forget(stage);
    stage.cluster.delete_topic(&name);
}

fn check(stage: &mut Stage, writer: &Writer, what: &str) {
    writer.ledger.wait(stage, what);
    let values = stage.fleet.side_values(&writer.topic);
    if let Some(seen) = values.iter().find(|value| value.starts_with("aborted")) {
        stage.fail(&format!("{seen} of {} is handled", writer.topic));
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum End {
    Commit,
    Abort,
    Open,
}

const ENDS: [End; 2] = [End::Commit, End::Abort];

struct Writer {
    producer: BaseProducer<Places>,
    topic: String,
    written: usize,
    ledger: Ledger,
}

impl Writer {
    /// One transaction, with so many messages in each partition.
    fn write(&mut self, count: usize, end: End) {
        let word = match end {
            End::Commit => "kept",
            End::Abort | End::Open => "aborted",
        };
        self.producer.begin_transaction().unwrap();
        for partition in 0..PARTITIONS {
            for _ in 0..count {
                self.written += 1;
                let value = format!("{word}-{}", self.written);
                let record =
                    BaseRecord::<str, str, usize>::with_opaque_to(&self.topic, self.written)
                        .partition(partition)
                        .payload(&value);
                self.producer
                    .send(record)
                    .map_err(|(error, _)| error)
                    .unwrap();
            }
        }
        self.producer.flush(REQUEST).unwrap();
        match end {
            End::Commit => self.producer.commit_transaction(REQUEST).unwrap(),
            End::Abort => self.producer.abort_transaction(REQUEST).unwrap(),
            End::Open => {}
        }
        let places = std::mem::take(&mut *self.producer.context().0.lock().unwrap());
        assert_eq!(
            places.len(),
            count * PARTITIONS as usize,
            "all is acknowledged"
        );
        if end == End::Commit {
            for (place, number) in places {
                self.ledger.owe(place, &format!("{word}-{number}"));
            }
        }
    }
}

/// The partition, offset and number of what is acknowledged.
#[derive(Default)]
struct Places(Mutex<Vec<((i32, i64), usize)>>);

impl ClientContext for Places {}

impl ProducerContext for Places {
    type DeliveryOpaque = usize;

    fn delivery(&self, delivery: &DeliveryResult<'_>, number: usize) {
        let message = delivery.as_ref().expect("the broker acknowledges");
        let place = (message.partition(), message.offset());
        self.0.lock().unwrap().push((place, number));
    }
}

/// Whatever its predecessor of the same id has left open is aborted.
fn producer(cluster: &Cluster, id: &str) -> BaseProducer<Places> {
    let producer: BaseProducer<Places> = cluster
        .client()
        .set("transactional.id", id)
        .set("linger.ms", "5")
        .create_with_context(Places::default())
        .unwrap();
    producer.init_transactions(REQUEST).unwrap();
    producer
}
