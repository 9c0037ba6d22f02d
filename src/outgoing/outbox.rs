//! The sends of the workers of one consumer: dead letters and durable retries.
//!
//! A send never blocks its caller. The producers are created at the first send, so that a daemon whose handlers do
//! not fail pays nothing for them. Every record is answered exactly once, also when the outbox is closed. The outbox
//! must not depend on the meaning of the records.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Result;

use crate::failpoint::failpoint;
use crate::kafka::Refusal;
use crate::kafka::producer::{self, Acknowledged, Failure, Outgoing, Producer, Way};
use crate::kafka::property::Value;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

/// The limit for a record, including the producer's own retries.
const DEADLINE: Duration = Duration::from_secs(30);

/// How long the drop of a failed producer may take; nothing waits for it.
const DROP_MAX: Duration = Duration::from_secs(40);

/// A required topic is never created by mistake; one created just now may take this long to be known. A sent record
/// lies in memory twice, and its original counts against the budget of messages in flight. So the queue takes that
/// budget and the largest message that a consumer gets.
const PROPERTIES: [(&str, &str); 4] = [
    ("allow.auto.create.topics", "false"),
    ("topic.metadata.propagation.max.ms", "10000"),
    ("message.max.bytes", "100000000"),
    ("queue.buffering.max.kbytes", "140000"),
];

/// The reason why a record was not acknowledged, in a sentence that names its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refused {
    /// More bytes than the topic accepts, even for the record alone.
    TooLarge(String),
    /// The topic never accepts this record, whatever other records are in the request.
    ForGood(String),
    /// A later send may succeed.
    Other(String),
}

/// Called exactly once.
pub(crate) type Then = Box<dyn FnOnce(Result<Acknowledged, Refused>) + Send>;

/// The outbox of one consumer, for that consumer's brokers; shared by the workers.
pub(crate) struct Outbox {
    supervisor: Supervisor,
    /// The name of the consumer.
    name: String,
    properties: BTreeMap<String, Value>,
    producers: Mutex<Producers>,
}

#[derive(Default)]
struct Producers {
    is_closed: bool,
    together: Option<Open>,
    alone: Option<Open>,
    /// A thread drops the failed producers: the drop waits, and a sender must not wait.
    buried: Vec<Handle>,
}

#[derive(Clone)]
struct Open {
    producer: Arc<Producer>,
    trust: Arc<Trust>,
}

impl Open {
    fn may_be_used(&self) -> bool {
        !self.producer.is_dead() && !self.trust.is_lost.load(Ordering::Relaxed)
    }
}

/// Whether acknowledgements of a producer count.
///
/// An idempotent librdkafka numbers the records behind one that it has given up as if that one had never been. The
/// broker may have written it nevertheless, takes the next one for a repetition, and says so, which librdkafka tells as
/// an acknowledgement (<https://github.com/confluentinc/librdkafka/issues/4134>).
#[derive(Default)]
struct Trust {
    is_lost: AtomicBool,
}

impl Trust {
    /// The answer, or why it does not count: the record is sent again, by another producer.
    fn judge(
        &self,
        answer: Result<Acknowledged, Failure>,
        topic: &str,
    ) -> Result<Acknowledged, Judged> {
        match answer {
            Ok(_) if self.is_lost.load(Ordering::Relaxed) => Err(Judged::Uncertain(format!(
                "topic `{topic}`: acknowledged behind a record that was given up, so it may not be written"
            ))),
            Ok(acknowledged) => Ok(acknowledged),
            Err(failure) => {
                if failure.is_timeout() {
                    self.is_lost.store(true, Ordering::Relaxed);
                }
                Err(Judged::Failed(failure))
            }
        }
    }
}

enum Judged {
    Failed(Failure),
    Uncertain(String),
}

impl Outbox {
    /// `name` and `properties` are the consumer's.
    pub(crate) fn new(
        name: &str,
        properties: &BTreeMap<String, Value>,
        supervisor: &Supervisor,
    ) -> Self {
        Self {
            supervisor: supervisor.clone(),
            name: name.to_owned(),
            properties: properties.clone(),
            producers: Mutex::default(),
        }
    }

    /// Sends a record without waiting: to its partition if the topic has that, else by its key. `then` is called
    /// exactly once, by a thread that it must not block. If the record was not even accepted, it is called before
    /// this returns.
    pub(crate) fn send(self: &Arc<Self>, record: Outgoing, then: Then) {
        self.send_by(Way::Together, record, then);
    }

    fn send_by(self: &Arc<Self>, way: Way, record: Outgoing, then: Then) {
        let open = match self.open(way) {
            Ok(open) => open,
            Err(error) => {
                let sentence = format!("topic `{}`: {error:#}", record.topic);
                return then(Err(Refused::Other(sentence)));
            }
        };
        let record = Arc::new(record);
        let (outbox, sent) = (self.clone(), record.clone());
        let trust = open.trust;
        let then = move |answer| match trust.judge(answer, &sent.topic) {
            Ok(acknowledged) => then(Ok(acknowledged)),
            Err(Judged::Uncertain(sentence)) => then(Err(Refused::Other(sentence))),
            Err(Judged::Failed(failure)) => outbox.failed(way, sent, &failure, then),
        };
        open.producer.send_then(&record, Box::new(then));
    }

    fn failed(self: &Arc<Self>, way: Way, record: Arc<Outgoing>, failure: &Failure, then: Then) {
        let mut sentence = failure.sentence.clone();
        if failure.refusal() == Refusal::ForGood && record.key.is_none() {
            sentence.push_str("; the message has no key, which a compacted topic needs");
        }
        match next(way, &record, failure.refusal()) {
            Next::Tell(refused) => then(Err(refused(sentence))),
            Next::Again(way, change) => {
                let mut record = Arc::unwrap_or_clone(record);
                change(&mut record);
                self.send_by(way, record, then);
            }
        }
    }

    fn open(&self, way: Way) -> Result<Open> {
        let mut producers = self.lock();
        if producers.is_closed {
            anyhow::bail!("not sent, as the consumer is closing");
        }
        let slot = match way {
            Way::Together => &mut producers.together,
            Way::Alone => &mut producers.alone,
        };
        match slot {
            Some(open) if open.may_be_used() => return Ok(open.clone()),
            _ => {}
        }
        let producer = Arc::new(Producer::with(&producer::Settings {
            supervisor: &self.supervisor,
            name: &format!("producer-{}", self.name),
            properties: &self.properties,
            deadline: DEADLINE,
            way,
            extra: &PROPERTIES,
            numbers: None,
        })?);
        let open = Open {
            producer,
            trust: Arc::default(),
        };
        if let Some(dead) = slot.replace(open.clone()) {
            producers.buried.retain(|thread| !thread.has_ended());
            let name = format!("outbox-{}", self.name);
            let thread = self
                .supervisor
                .spawn(&name, Kind::Job(DROP_MAX), move |_| {
                    failpoint!("outbox-turn");
                    drop(dead);
                })?;
            producers.buried.push(thread);
        }
        Ok(open)
    }

    /// Waits for the answers until `deadline`. Then every record without an answer is refused, and so is every later
    /// record.
    pub(crate) fn close(&self, deadline: Instant) {
        let (open, buried) = {
            let mut producers = self.lock();
            producers.is_closed = true;
            let open = [producers.together.take(), producers.alone.take()];
            (open, std::mem::take(&mut producers.buried))
        };
        for open in open.into_iter().flatten() {
            open.producer.close(deadline);
        }
        for thread in buried {
            thread.join(deadline);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Producers> {
        self.producers
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
    }
}

/// The consequence of a refusal.
enum Next {
    /// The record is sent again with this change.
    Again(Way, fn(&mut Outgoing)),
    Tell(fn(String) -> Refused),
}

/// A cure is applied only to a known cause in this record: from the answer to a request of its own.
fn next(way: Way, record: &Outgoing, refusal: Refusal) -> Next {
    if way == Way::Together && refusal.may_be_a_neighbours() {
        return Next::Again(Way::Alone, |_| {});
    }
    match refusal {
        Refusal::NoPartition if record.partition.is_some() => {
            Next::Again(way, |record| record.partition = None)
        }
        Refusal::Timestamp if record.timestamp_ms.is_some() => {
            Next::Again(way, |record| record.timestamp_ms = None)
        }
        // The record has the present time already: the clocks differ, until an operator corrects one.
        Refusal::Timestamp | Refusal::Neighbour | Refusal::Transient | Refusal::NoPartition => {
            Next::Tell(Refused::Other)
        }
        Refusal::TooLarge => Next::Tell(Refused::TooLarge),
        Refusal::ForGood => Next::Tell(Refused::ForGood),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::kafka::mock::{Broker, Code};

    fn outbox(brokers: &str, more: &[(&str, &str)]) -> Arc<Outbox> {
        outbox_of(brokers, more, &Supervisor::without_daemon())
    }

    fn outbox_of(brokers: &str, more: &[(&str, &str)], supervisor: &Supervisor) -> Arc<Outbox> {
        let value = |text: &str| Value {
            text: text.to_owned(),
            secret: false,
        };
        let properties = [("bootstrap.servers", brokers), ("group.id", "g")];
        let all = properties.iter().chain(more);
        let properties = all.map(|(name, text)| ((*name).to_owned(), value(text)));
        Arc::new(Outbox::new("default", &properties.collect(), supervisor))
    }

    fn letter(partition: i32, key: &str) -> Outgoing {
        Outgoing {
            topic: "dead".into(),
            partition: Some(partition),
            key: Some(key.into()),
            value: Some(b"a letter".to_vec()),
            ..Outgoing::default()
        }
    }

    #[track_caller]
    fn answer(outbox: &Arc<Outbox>, record: Outgoing) -> Result<Acknowledged, Refused> {
        let (sender, receiver) = mpsc::channel();
        outbox.send(record, Box::new(move |answer| sender.send(answer).unwrap()));
        let answer = receiver.recv_timeout(Duration::from_secs(40)).unwrap();
        assert!(receiver.recv().is_err(), "answered twice");
        answer
    }

    #[test]
    fn a_record_keeps_its_partition_or_goes_by_its_key_where_there_is_none() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 3).unwrap();
        let outbox = outbox(broker.address(), &[]);
        let kept = answer(&outbox, letter(2, "k")).unwrap();
        assert_eq!(kept.partition, 2);
        let first = answer(&outbox, letter(7, "k")).unwrap();
        assert!(first.partition < 3);
        for _ in 0..5 {
            let next = answer(&outbox, letter(9, "k")).unwrap();
            assert_eq!(next.partition, first.partition);
        }
    }

    #[test]
    fn a_record_that_even_the_client_finds_too_large_is_refused_as_such() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let outbox = outbox(broker.address(), &[]);
        let huge = Outgoing {
            value: Some(vec![0; 100_000_001]),
            ..letter(0, "k")
        };
        match answer(&outbox, huge) {
            Err(Refused::TooLarge(sentence)) => {
                assert!(sentence.starts_with("topic `dead`: "), "{sentence}");
            }
            other => panic!("{other:?}"),
        }
        answer(&outbox, letter(0, "k")).unwrap();
    }

    #[test]
    fn behind_a_record_that_was_given_up_no_acknowledgement_counts() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let outbox = outbox(broker.address(), &[]);
        let acknowledged = answer(&outbox, letter(0, "k")).unwrap();
        let first = outbox.open(Way::Together).unwrap();
        assert!(first.trust.judge(Ok(acknowledged), "dead").is_ok());

        let away = producer::Producer::new(
            &BTreeMap::from([(
                "bootstrap.servers".to_owned(),
                Value {
                    text: "127.0.0.1:1".to_owned(),
                    secret: false,
                },
            )]),
            Duration::from_millis(100),
        )
        .unwrap();
        let (sender, receiver) = mpsc::channel();
        let then = move |answer| sender.send(answer).unwrap();
        away.send_then(&letter(0, "k"), Box::new(then));
        let given_up = receiver.recv_timeout(Duration::from_secs(40)).unwrap();
        let judged = first.trust.judge(given_up, "dead");
        assert!(matches!(judged, Err(Judged::Failed(failure)) if failure.is_timeout()));

        let judged = first.trust.judge(Ok(acknowledged), "dead");
        assert!(matches!(judged, Err(Judged::Uncertain(_))));
        answer(&outbox, letter(0, "k")).unwrap();
        let second = outbox.open(Way::Together).unwrap();
        assert!(!Arc::ptr_eq(&first.producer, &second.producer));
    }

    /// What became of a record with a timestamp of its own after each request was answered with the next of `codes`.
    #[track_caller]
    fn answer_after(codes: &[Code]) -> Result<Acknowledged, Refused> {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let outbox = outbox(broker.address(), &[]);
        answer(&outbox, letter(0, "k")).unwrap();
        broker.refuse(codes);
        let record = Outgoing {
            timestamp_ms: Some(4_000_000_000_000),
            ..letter(0, "k")
        };
        answer(&outbox, record)
    }

    #[test]
    fn whatever_is_refused_beside_others_is_sent_again_alone() {
        for code in [
            Code::InvalidRecord,
            Code::InvalidTimestamp,
            Code::InvalidMessage,
            Code::MessageSizeTooLarge,
            Code::PolicyViolation,
        ] {
            assert!(answer_after(&[code]).is_ok(), "{code:?}");
        }
    }

    #[test]
    fn what_is_refused_alone_is_cured_by_the_present_time_or_refused_for_good() {
        let timestamp = Code::InvalidTimestamp;
        assert!(answer_after(&[timestamp; 2]).is_ok());
        let refused = answer_after(&[timestamp; 3]);
        assert!(matches!(refused, Err(Refused::Other(_))), "{refused:?}");
        let refused = answer_after(&[Code::InvalidRecord; 2]);
        assert!(matches!(refused, Err(Refused::ForGood(_))), "{refused:?}");
        let refused = answer_after(&[Code::TopicAuthorizationFailed]);
        assert!(matches!(refused, Err(Refused::Other(_))), "{refused:?}");
    }

    #[test]
    fn what_is_sent_after_the_close_is_refused_and_what_was_sent_before_is_answered() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let nobody = listener.local_addr().unwrap().to_string();
        drop(listener);
        let outbox = outbox(&nobody, &[]);
        let (sender, receiver) = mpsc::channel();
        for _ in 0..3 {
            let sender = sender.clone();
            outbox.send(
                letter(0, "k"),
                Box::new(move |answer| sender.send(answer).unwrap()),
            );
        }
        outbox.close(Instant::now() + Duration::from_millis(50));
        for _ in 0..3 {
            let answer = receiver.recv_timeout(Duration::from_secs(20)).unwrap();
            let expected = "topic `dead`: the producer was closed";
            assert_eq!(answer, Err(Refused::Other(expected.to_owned())));
        }
        let expected = "topic `dead`: not sent, as the consumer is closing";
        let late = answer(&outbox, letter(0, "k"));
        assert_eq!(late, Err(Refused::Other(expected.to_owned())));
    }

    #[test]
    fn a_producer_that_ended_for_good_is_replaced_and_dropped_on_a_thread() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let (endings, mut heard) = tokio::sync::mpsc::unbounded_channel();
        let outbox = outbox_of(broker.address(), &[], &Supervisor::new(endings));
        answer(&outbox, letter(0, "k")).unwrap();
        let open = outbox.lock().together.clone().unwrap();
        open.producer.end_for_good();
        drop(open);
        answer(&outbox, letter(0, "k")).unwrap();
        assert_eq!(outbox.lock().buried.len(), 1);
        outbox.close(Instant::now() + Duration::from_secs(20));
        assert!(heard.try_recv().is_err(), "no thread ended unasked");
    }

    #[test]
    fn whoever_is_answered_may_be_the_last_to_hold_the_outbox() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let outbox = outbox(broker.address(), &[]);
        let (sender, receiver) = mpsc::channel();
        let (go, wait) = mpsc::channel::<()>();
        let held = outbox.clone();
        outbox.send(
            letter(0, "k"),
            Box::new(move |answer| {
                // Until the test has let go of its own.
                let _ = wait.recv();
                drop(held);
                sender.send(answer.is_ok()).unwrap();
            }),
        );
        drop(outbox);
        drop(go);
        assert_eq!(receiver.recv_timeout(Duration::from_secs(20)), Ok(true));
    }
}
