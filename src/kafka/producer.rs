//! A producer whose caller waits for the broker's acknowledgement.
//!
//! Idempotent, all replicas acknowledge, nothing lingers, and keys find their partitions as with Java's clients. Every
//! wait has a deadline; a record without an acknowledgement is an error, never silence. It must not know what the
//! records are for.

use std::collections::BTreeMap;
use std::sync::mpsc::{self, RecvTimeoutError, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, Message as _, OwnedHeaders};
use rdkafka::producer::{
    BaseRecord, NoCustomPartitioner, Producer as _, ProducerContext, ThreadedProducer,
};

use crate::config::Value;

/// What a producer takes over of a consumer's properties: how to reach the brokers, and as whom.
const CONNECTION: &[&str] = &[
    "api.version.",
    "bootstrap.",
    "broker.",
    "client.",
    "connections.",
    "debug",
    "enable.sasl",
    "enable.ssl",
    "log",
    "https.",
    "metadata.broker.list",
    "reconnect.",
    "sasl.",
    "security.",
    "socket.",
    "ssl.",
];

/// So many records of a batch are on their way at once.
const IN_FLIGHT_MAX: usize = 1000;

/// How long after its own time-out librdkafka may take to say so.
const REPORT_GRACE: Duration = Duration::from_secs(1);

/// A record to be sent; without a partition, the key's hash or chance decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outgoing {
    pub(crate) topic: String,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(String, Option<Vec<u8>>)>,
    /// Milliseconds since the epoch; absent: now.
    pub(crate) timestamp_ms: Option<i64>,
}

/// Where the broker put a record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
}

pub(crate) struct Producer {
    client: ThreadedProducer<Reports>,
    last_error: Arc<Mutex<Option<String>>>,
    brokers: String,
    deadline: Duration,
}

impl Producer {
    /// Connects on first use. `properties` may be a consumer's: what is not about the connection is left out.
    /// `deadline` bounds every call.
    pub(crate) fn new(properties: &BTreeMap<String, Value>, deadline: Duration) -> Result<Self> {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            if CONNECTION.iter().any(|prefix| name.starts_with(prefix)) {
                config.set(name, &value.text);
            }
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("partitioner", "murmur2_random")
            .set(
                "message.timeout.ms",
                deadline.as_millis().max(1).to_string(),
            );
        let brokers = config
            .get("bootstrap.servers")
            .unwrap_or_default()
            .to_owned();
        let last_error = Arc::default();
        let reports = Reports {
            last_error: Arc::clone(&last_error),
        };
        let client =
            ThreadedProducer::from_config_and_context(&config, reports).context("producer")?;
        Ok(Self {
            client,
            last_error,
            brokers,
            deadline,
        })
    }

    /// The topics that exist, without creating any.
    pub(crate) fn topics(&self) -> Result<Vec<String>> {
        let metadata = self
            .client
            .client()
            .fetch_metadata(None, self.deadline)
            .map_err(|error| self.unreachable(&error))?;
        Ok(metadata
            .topics()
            .iter()
            .map(|topic| topic.name().to_owned())
            .collect())
    }

    /// Sends one record and waits for the broker's answer.
    pub(crate) fn send(&self, record: &Outgoing) -> Result<Acknowledged> {
        let mut acknowledged = self.send_all(std::slice::from_ref(record))?;
        acknowledged.pop().context("a record without an answer")
    }

    /// Sends records in their order and waits for all answers, which come in the same order; the first failure is
    /// returned in their place.
    pub(crate) fn send_all(&self, records: &[Outgoing]) -> Result<Vec<Acknowledged>> {
        let mut all = Vec::with_capacity(records.len());
        for records in records.chunks(IN_FLIGHT_MAX) {
            all.extend(self.send_some(records)?);
        }
        Ok(all)
    }

    fn send_some(&self, records: &[Outgoing]) -> Result<Vec<Acknowledged>> {
        let (sender, receiver) = mpsc::channel();
        for (index, record) in records.iter().enumerate() {
            let waiting = Box::new(Waiting {
                index,
                sender: sender.clone(),
            });
            self.client
                .send(record.as_base(waiting))
                .map_err(|(error, _)| {
                    anyhow!(error).context(format!("topic `{}`", record.topic))
                })?;
        }
        drop(sender);
        let until = Instant::now() + self.deadline + REPORT_GRACE;
        let mut answers = vec![None; records.len()];
        for _ in records {
            let (index, answer) =
                match receiver.recv_timeout(until.saturating_duration_since(Instant::now())) {
                    Ok(report) => report,
                    Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => break,
                };
            let topic = || format!("topic `{}`", records[index].topic);
            answers[index] = Some(
                answer
                    .map_err(|error| self.refused(error))
                    .with_context(topic)?,
            );
        }
        answers.into_iter().collect::<Option<_>>().ok_or_else(|| {
            anyhow!(
                "{} did not answer within {} s",
                self.brokers,
                self.deadline.as_secs_f32()
            )
        })
    }

    fn refused(&self, error: KafkaError) -> anyhow::Error {
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageTimedOut) => self.unreachable(&error),
            _ => error.into(),
        }
    }

    fn unreachable(&self, error: &KafkaError) -> anyhow::Error {
        let last = self.last_error.lock();
        let last = last.unwrap_or_else(PoisonError::into_inner).clone();
        let reason = last.unwrap_or_else(|| {
            error
                .rdkafka_error_code()
                .map_or_else(|| error.to_string(), |code| code.to_string())
        });
        anyhow!(
            "{} did not answer within {} s: {reason}",
            self.brokers,
            self.deadline.as_secs_f32()
        )
    }
}

impl Outgoing {
    /// About its bytes in a log: each record has some hundred bytes beside its own when it is sent alone.
    pub(crate) fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + length(value))
            .sum();
        100 + length(&self.key) + length(&self.value) + headers
    }

    fn as_base(&self, waiting: Box<Waiting>) -> BaseRecord<'_, [u8], [u8], Box<Waiting>> {
        let mut base = BaseRecord::with_opaque_to(&self.topic, waiting);
        base.partition = self.partition;
        base.key = self.key.as_deref();
        base.payload = self.value.as_deref();
        base.timestamp = self.timestamp_ms;
        if !self.headers.is_empty() {
            let headers = OwnedHeaders::new_with_capacity(self.headers.len());
            base.headers = Some(self.headers.iter().fold(headers, |headers, (key, value)| {
                headers.insert(Header {
                    key,
                    value: value.as_ref(),
                })
            }));
        }
        base
    }
}

/// Who waits for a record's answer. It may have given up by then: the answer then goes nowhere.
struct Waiting {
    index: usize,
    sender: Sender<(usize, Result<Acknowledged, KafkaError>)>,
}

/// Carries each delivery report to whoever waits for it.
struct Reports {
    /// Why a broker could not be reached, for when the wait is over: its own code only says that it was.
    last_error: Arc<Mutex<Option<String>>>,
}

impl ClientContext for Reports {
    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(RDKafkaErrorCode::AllBrokersDown) {
            let mut last = self
                .last_error
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            last.get_or_insert_with(|| reason.to_owned());
        }
    }
}

impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Box<Waiting>;

    fn delivery(&self, result: &DeliveryResult<'_>, waiting: Box<Waiting>) {
        let answer = match result {
            Ok(message) => Ok(Acknowledged {
                partition: message.partition(),
                offset: message.offset(),
            }),
            Err((error, _)) => Err(error.clone()),
        };
        waiting.sender.send((waiting.index, answer)).ok();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::mock::Broker;

    fn producer(brokers: &str, deadline: Duration) -> Producer {
        let value = |text: &str| Value {
            text: text.to_owned(),
            secret: false,
        };
        let properties = [
            ("bootstrap.servers", brokers),
            ("group.id", "not a producer's"),
        ];
        let properties = properties.map(|(name, text)| (name.to_owned(), value(text)));
        Producer::new(&BTreeMap::from(properties), deadline).unwrap()
    }

    fn record(topic: &str, partition: i32, value: &str) -> Outgoing {
        Outgoing {
            topic: topic.to_owned(),
            partition: Some(partition),
            value: Some(value.into()),
            headers: vec![
                ("trace".to_owned(), Some(b"1".to_vec())),
                ("empty".to_owned(), None),
            ],
            ..Outgoing::default()
        }
    }

    #[test]
    fn records_are_acknowledged_in_the_order_in_which_they_were_given() {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 2).unwrap();
        broker.create_topic("orders", 2).unwrap();
        let producer = producer(broker.address(), Duration::from_secs(20));
        let records = [
            record("orders", 0, "a"),
            record("orders", 1, "b"),
            record("orders", 0, "c"),
        ];
        let acknowledged = producer.send_all(&records).unwrap();
        let at = |partition, offset| Acknowledged { partition, offset };
        assert_eq!(acknowledged, [at(0, 0), at(1, 0), at(0, 1)]);
        assert_eq!(producer.topics().unwrap(), ["orders"]);
    }

    #[test]
    fn one_key_is_one_partition() {
        let broker = Broker::start().unwrap();
        broker.create_topic("orders", 5).unwrap();
        let producer = producer(broker.address(), Duration::from_secs(20));
        let keyed = Outgoing {
            topic: "orders".to_owned(),
            key: Some(b"k".to_vec()),
            ..Outgoing::default()
        };
        let acknowledged = producer.send_all(&vec![keyed; 8]).unwrap();
        assert!(
            acknowledged
                .iter()
                .all(|each| each.partition == acknowledged[0].partition),
            "{acknowledged:?}"
        );
    }

    #[test]
    fn a_broker_that_is_not_there_is_named_with_the_deadline() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap().to_string();
        drop(listener);
        let error = producer(&address, Duration::from_millis(300))
            .send(&record("orders", 0, "a"))
            .unwrap_err();
        let error = format!("{error:#}");
        assert!(
            error.contains(&format!("{address} did not answer within 0.3 s")),
            "{error}"
        );
    }
}
