//! A producer whose caller waits for the broker's acknowledgement, or gets it by a callback.
//!
//! The producer is idempotent, waits for all replicas, does not linger, and maps keys to partitions as Java's clients
//! do. Every wait has a deadline. A record without an acknowledgement is an error, never silence. Each record is
//! answered exactly once. This module must not know the purpose of the records.
#![expect(unsafe_code, reason = "calls without a safe form")]

mod brokers;
mod reports;
mod topic;

use std::collections::BTreeMap;
use std::ptr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, anyhow};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::producer::{BaseProducer, Producer as _, PurgeConfig};
use rdkafka::util::IntoOpaque as _;

use crate::failpoint::failpoint;
use crate::kafka::property::Value;
use crate::kafka::refusal::Refusal;
use crate::log::log;
pub(crate) use crate::message::Outgoing;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

use brokers::Brokers;
pub(crate) use reports::{Numbers, Reported};
use reports::{Opaque, Reports, Waiting};
pub(super) use topic::Handle as TopicHandle;
pub(crate) use topic::Topic;

pub(crate) use super::outgoing::Together;

/// The properties that a producer takes over from a consumer: the address of the brokers, and the identity.
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

/// The most records of a batch that are in flight at once.
const IN_FLIGHT_MAX: usize = 1000;

/// How long a poll for answers waits; a producer ends between two polls.
const POLL: Duration = Duration::from_millis(100);

/// The time that librdkafka may take to report its own time-out.
const REPORT_GRACE: Duration = Duration::from_secs(1);

/// The allowance of one turn of the thread beyond the deadline of a record.
const TURN_GRACE: Duration = Duration::from_secs(10);

/// The time that the thread has to end.
const END: Duration = Duration::from_secs(1);

/// The place of a record on the broker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Acknowledged {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Milliseconds since the epoch.
    pub(crate) timestamp_ms: Option<i64>,
}

/// Why a record was not acknowledged, in a sentence that names its topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    code: Option<Code>,
    /// One of [`crate::wait::KINDS`].
    pub(crate) kind: &'static str,
    pub(crate) sentence: String,
}

/// Called exactly once.
pub(crate) type Then = Box<dyn FnOnce(Result<Acknowledged, Failure>) + Send>;

pub(crate) struct Producer {
    client: Arc<BaseProducer<Reports>>,
    brokers: Arc<Brokers>,
    deadline: Duration,
    is_over: Arc<AtomicBool>,
    /// The thread that serves the delivery reports.
    thread: Option<Handle>,
}

/// How records share requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    Together,
    /// One record a request: a broker refuses a whole request for one record in it.
    Alone,
}

/// The settings that differ among producers.
pub(crate) struct Settings<'a> {
    /// The supervisor of the thread that serves the delivery reports.
    pub(crate) supervisor: &'a Supervisor,
    /// The name of that thread.
    pub(crate) name: &'a str,
    /// A consumer's properties are accepted: those that do not concern the connection are left out.
    pub(crate) properties: &'a BTreeMap<String, Value>,
    /// The bound of every call.
    pub(crate) deadline: Duration,
    pub(crate) way: Way,
    pub(crate) extra: &'a [(&'a str, &'a str)],
    /// Hears of the records that have a number in place of a receiver.
    pub(crate) numbers: Option<Arc<dyn Numbers>>,
}

impl Producer {
    /// Makes a producer outside of a daemon, which connects on first use. `properties` may be a consumer's: those
    /// that do not concern the connection are left out. `deadline` bounds every call.
    pub(crate) fn new(properties: &BTreeMap<String, Value>, deadline: Duration) -> Result<Self> {
        Self::with(&Settings {
            supervisor: &Supervisor::without_daemon(),
            name: "producer",
            properties,
            deadline,
            way: Way::Together,
            extra: &[],
            numbers: None,
        })
    }

    pub(crate) fn with(settings: &Settings<'_>) -> Result<Self> {
        let mut config = ClientConfig::new();
        for (name, value) in connection(settings.properties) {
            config.set(name, value);
        }
        config
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "0")
            .set("partitioner", "murmur2_random")
            .set(
                "message.timeout.ms",
                settings.deadline.as_millis().max(1).to_string(),
            );
        for (name, value) in settings.extra {
            config.set(*name, *value);
        }
        if settings.way == Way::Alone {
            config.set("batch.num.messages", "1");
        }
        let addresses = config.get("bootstrap.servers").unwrap_or_default();
        let brokers = Arc::new(Brokers::new(addresses, settings.deadline));
        let reports = Reports::new(&brokers, settings.numbers.clone());
        let client = BaseProducer::from_config_and_context(&config, reports).context("producer")?;
        let (client, is_over) = (Arc::new(client), Arc::<AtomicBool>::default());
        let kind = Kind::Counted(settings.deadline + TURN_GRACE);
        let thread = settings.supervisor.spawn(settings.name, kind, {
            let (client, is_over) = (client.clone(), is_over.clone());
            move |beat| {
                while !is_over.load(Ordering::Relaxed) {
                    beat.turn();
                    failpoint!("producer-turn");
                    reports::serve(&client, POLL);
                }
            }
        })?;
        Ok(Self {
            client,
            brokers,
            deadline: settings.deadline,
            is_over,
            thread: Some(thread),
        })
    }

    /// The topics that exist, without creating any.
    pub(crate) fn topics(&self) -> Result<Vec<String>> {
        let metadata = self
            .client
            .client()
            .fetch_metadata(None, self.deadline)
            .map_err(|error| anyhow!(self.brokers.unreachable(&error)))?;
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

    /// Sends records in their order and waits for all answers, which come in the same order. If a record fails, the
    /// result is the first failure instead.
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
            let sender = sender.clone();
            let then = move |answer| {
                // The receiver may have given up by then.
                let _ = sender.send((index, answer));
            };
            self.send_then(record, Box::new(then));
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
            answers[index] = Some(answer.map_err(|failure| anyhow!(failure.sentence))?);
        }
        answers.into_iter().collect::<Option<_>>().ok_or_else(|| {
            anyhow!(
                "{} did not answer within {} s",
                self.brokers.addresses,
                self.deadline.as_secs_f32()
            )
        })
    }

    /// Sends one record without waiting. `then` is called exactly once, by a thread of the producer, which it must
    /// not block. If librdkafka does not take the record, `then` is called before this returns.
    pub(crate) fn send_then(&self, record: &Outgoing, then: Then) {
        let opaque = Opaque::Waiting(Box::new(Waiting::new(&record.topic, then))).into_ptr();
        // SAFETY: the handle belongs to this producer, whose delivery callback takes an `Opaque`.
        if let Err(error) = unsafe { record.enqueue(self.native(), opaque) } {
            // SAFETY: `into_ptr` above made the pointer, and no delivery report has it when the record was refused.
            if let Opaque::Waiting(waiting) = unsafe { Opaque::from_ptr(opaque) } {
                let error = KafkaError::MessageProduction(error);
                waiting.answer(Err(self.brokers.failure(&record.topic, &error)));
            }
        }
    }

    /// Whether the client has ended for good; it would refuse every further record.
    pub(crate) fn is_dead(&self) -> bool {
        // SAFETY: the handle is alive; without a buffer the call writes no text.
        let code = unsafe { rdkafka_sys::rd_kafka_fatal_error(self.native(), ptr::null_mut(), 0) };
        code != rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
    }

    /// Whether a broker has ever told this client which brokers there are.
    pub(crate) fn knows_brokers(&self) -> bool {
        // SAFETY: the handle is alive; without a time-out the call only reads what the client has.
        unsafe { rdkafka_sys::rd_kafka_controllerid(self.native(), 0) >= 0 }
    }

    /// Takes back every record that is in no request yet; its answer says so.
    pub(crate) fn take_back(&self) {
        // A broker that is being looked up keeps the call waiting otherwise.
        let flags =
            rdkafka_sys::RD_KAFKA_PURGE_F_QUEUE | rdkafka_sys::RD_KAFKA_PURGE_F_NON_BLOCKING;
        // SAFETY: the handle is alive. It fails for other flags and clients only.
        unsafe { rdkafka_sys::rd_kafka_purge(self.native(), flags) };
    }

    /// Records without an answer yet.
    pub(crate) fn in_flight(&self) -> usize {
        usize::try_from(self.client.in_flight_count()).unwrap_or(0)
    }

    /// The first error of a connection since the last acknowledgement, while it lasts.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.brokers.last_error()
    }

    /// The handle of a topic, for records whose answers have numbers.
    pub(crate) fn topic(self: &Arc<Self>, name: &str) -> Result<Topic, Failure> {
        let code = |code| {
            self.brokers
                .failure(name, &KafkaError::MessageProduction(code))
        };
        Topic::new(self, name).map_err(code)
    }

    pub(super) fn native(&self) -> *mut rdkafka_sys::rd_kafka_t {
        self.client.client().native_ptr()
    }

    /// Waits until every record has its answer. Records without an answer at the deadline are given up, and their
    /// answer says so.
    pub(crate) fn close(&self, deadline: Instant) {
        let left = || deadline.saturating_duration_since(Instant::now());
        if self.client.flush(left()).is_err() {
            self.client.purge(PurgeConfig::default().queue().inflight());
            if let Err(error) = self.client.flush(REPORT_GRACE) {
                log!(warn, kafka, %error, "a producer closed with unacknowledged records");
            }
        }
    }
}

#[cfg(test)]
impl Producer {
    /// Ends the client for good, as a fatal error does.
    pub(crate) fn end_for_good(&self) {
        let code = rdkafka_sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_OUT_OF_ORDER_SEQUENCE_NUMBER;
        let rk = self.client.client().native_ptr();
        // SAFETY: the handle is alive, and the text is a static string.
        unsafe { rdkafka_sys::rd_kafka_test_fatal_error(rk, code, c"on purpose".as_ptr()) };
    }
}

impl Drop for Producer {
    /// Gives up every record without an answer; the client's own drop still delivers their answers. A callback of an
    /// answer may be the last owner of the producer; its thread then ends after that callback.
    fn drop(&mut self) {
        let Some(thread) = self.thread.take() else {
            return;
        };
        thread.may_end();
        self.is_over.store(true, Ordering::Relaxed);
        if thread.thread().id() != std::thread::current().id() {
            thread.join(Instant::now() + END);
        }
    }
}

/// The properties of a consumer that name the address of the brokers and the identity.
pub(super) fn connection(
    properties: &BTreeMap<String, Value>,
) -> impl Iterator<Item = (&str, &str)> {
    properties
        .iter()
        .filter(|(name, _)| is_of_connection(name))
        .map(|(name, value)| (name.as_str(), value.text.as_str()))
}

/// Whether a property names the address of the brokers or the identity.
pub(crate) fn is_of_connection(name: &str) -> bool {
    CONNECTION.iter().any(|prefix| name.starts_with(prefix))
}

impl Failure {
    /// The refusal that the code stands for.
    pub(crate) fn refusal(&self) -> Refusal {
        self.code.map_or(Refusal::Transient, Refusal::of)
    }

    /// Whether librdkafka has given the record up, which may be written.
    pub(crate) fn is_timeout(&self) -> bool {
        self.code == Some(Code::MessageTimedOut)
    }

    /// Whether the record would be refused again, until somebody changes the topic or the rights of this user.
    pub(crate) fn is_for_good(&self) -> bool {
        let is_forbidden = matches!(
            self.code,
            Some(Code::TopicAuthorizationFailed | Code::ClusterAuthorizationFailed)
        );
        is_forbidden || self.kind == "invalid" || self.refusal() != Refusal::Transient
    }
}

#[cfg(test)]
mod tests;
