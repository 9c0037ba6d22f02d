//! The delivery reports of a producer, which its thread takes from librdkafka's queue.
//!
//! A record carries what its answer belongs to: the address of a receiver, or a number. Numbers cost nothing: the
//! reports of one event, which is the answer to one request, become runs of consecutive numbers.
#![expect(
    unsafe_code,
    reason = "the receiver of an answer passes through librdkafka as an address, and events have no safe form"
)]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::message::DeliveryResult;
use rdkafka::producer::{BaseProducer, NoCustomPartitioner, Producer as _, ProducerContext};
use rdkafka::util::IntoOpaque;
use rdkafka_sys as sys;

use super::brokers::Brokers;
use super::{Acknowledged, Failure, Then};
use crate::kafka::queries::millis;
use crate::message::Outgoing;
use crate::wait::send::Run;

/// Reports that one look at an event takes from it.
const TAKEN: usize = 512;

/// The answers of one event to records with numbers. All of them have one topic.
pub(crate) struct Reported {
    /// As `Topic::address` tells it.
    pub(crate) topic: usize,
    /// In the order of the records.
    pub(crate) acknowledged: Vec<Run>,
    pub(crate) failed: Vec<(u64, Failure)>,
    /// Of all these records, and their sum of `Outgoing::size`.
    pub(crate) records: usize,
    pub(crate) bytes: usize,
    /// The mean of how long the first and the last of them were under way.
    pub(crate) took: Duration,
}

/// Hears of the answers to records with numbers, on the producer's thread, which it must not block.
pub(crate) trait Numbers: Send + Sync {
    fn reported(&self, reported: Reported);
}

/// What a record's answer belongs to.
pub(super) enum Opaque {
    Waiting(Box<Waiting>),
    /// Below 2^63.
    Number(u64),
}

impl IntoOpaque for Opaque {
    fn into_ptr(self) -> *mut c_void {
        match self {
            // The address of an aligned box is even.
            Self::Waiting(waiting) => Box::into_raw(waiting).cast(),
            Self::Number(number) => ptr::without_provenance_mut((number << 1 | 1) as usize),
        }
    }

    unsafe fn from_ptr(opaque: *mut c_void) -> Self {
        if opaque.addr() & 1 == 1 {
            return Self::Number(opaque.addr() as u64 >> 1);
        }
        // SAFETY: by the contract, `into_ptr` made it of a box, which nobody else has.
        Self::Waiting(unsafe { Box::from_raw(opaque.cast()) })
    }
}

/// The receiver of a record's answer.
pub(super) struct Waiting {
    topic: String,
    /// Taken once. The lock is never contended; it makes the box `Sync`, which the crate requires.
    then: Mutex<Option<Then>>,
}

impl Waiting {
    pub(super) fn new(topic: &str, then: Then) -> Self {
        Self {
            topic: topic.to_owned(),
            then: Mutex::new(Some(then)),
        }
    }

    pub(super) fn answer(self, answer: Result<Acknowledged, Failure>) {
        let then = self.then.into_inner();
        if let Some(then) = then.unwrap_or_else(PoisonError::into_inner) {
            then(answer);
        }
    }
}

/// Passes each delivery report to its receiver.
pub(super) struct Reports {
    brokers: Arc<Brokers>,
    numbers: Option<Arc<dyn Numbers>>,
}

impl Reports {
    pub(super) fn new(brokers: &Arc<Brokers>, numbers: Option<Arc<dyn Numbers>>) -> Self {
        Self {
            brokers: brokers.clone(),
            numbers,
        }
    }
}

/// An idempotent producer may log this at each start: the connection to an address of `brokers` ends when the id of the
/// broker is known, and the request for a producer id is repeated on the connection that follows.
pub(super) fn is_usual(facility: &str, text: &str) -> bool {
    facility == "GETPID" && text.contains("Broker handle destroyed")
}

fn line(level: c_int, facility: &str, text: &str) {
    let level = if is_usual(facility, text) {
        RDKafkaLogLevel::Debug as c_int
    } else {
        level
    };
    crate::kafka::log::line(level, facility, "producer", text);
}

impl ClientContext for Reports {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        line(level as c_int, facility, text);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        if error.rdkafka_error_code() != Some(Code::AllBrokersDown) {
            self.brokers.failed(reason);
        }
    }
}

/// The crate calls this at a flush only; `serve` takes all other reports.
impl ProducerContext<NoCustomPartitioner> for Reports {
    type DeliveryOpaque = Opaque;

    fn delivery(&self, result: &DeliveryResult<'_>, opaque: Opaque) {
        let (Ok(message) | Err((_, message))) = result;
        // SAFETY: the message is alive, and it is the one that the crate has borrowed.
        unsafe {
            let mut taking = Taking::new(self);
            taking.take(message.ptr(), opaque);
            taking.end();
        }
    }
}

/// Serves one event, or none within this time.
pub(super) fn serve(client: &BaseProducer<Reports>, wait: Duration) {
    let reports = &**client.client().context();
    // SAFETY: the handle is alive; this function owns the queue's reference and the event until it gives them back. Each
    // accessor is that of the event's type, and its strings live as long as the event.
    unsafe {
        let queue = sys::rd_kafka_queue_get_main(client.client().native_ptr());
        let event = sys::rd_kafka_queue_poll(queue, millis(wait));
        sys::rd_kafka_queue_destroy(queue);
        match sys::rd_kafka_event_type(event) {
            sys::RD_KAFKA_EVENT_DR => reports.delivered(event),
            sys::RD_KAFKA_EVENT_LOG => Reports::logged(event),
            sys::RD_KAFKA_EVENT_ERROR => {
                let error = sys::rd_kafka_event_error(event);
                let reason = CStr::from_ptr(sys::rd_kafka_event_error_string(event));
                let reason = reason.to_string_lossy();
                reports.error(KafkaError::Global(error.into()), reason.trim());
            }
            _ => {}
        }
        sys::rd_kafka_event_destroy(event);
    }
}

impl Reports {
    /// # Safety
    /// The event has delivery reports.
    unsafe fn delivered(&self, event: *mut sys::rd_kafka_event_t) {
        let mut messages = [ptr::null(); TAKEN];
        // SAFETY: by the contract; the messages live as long as the event, and each is returned once.
        unsafe {
            let mut taking = Taking::new(self);
            loop {
                let count = sys::rd_kafka_event_message_array(event, messages.as_mut_ptr(), TAKEN);
                if count == 0 {
                    break;
                }
                for message in &messages[..count] {
                    taking.take(*message, Opaque::from_ptr((**message)._private));
                }
            }
            taking.end();
        }
    }

    /// # Safety
    /// The event is a line of the log.
    unsafe fn logged(event: *mut sys::rd_kafka_event_t) {
        let (mut facility, mut text): (*const c_char, *const c_char) = (ptr::null(), ptr::null());
        let mut level: c_int = 0;
        // SAFETY: by the contract; the out-pointers are local variables.
        unsafe {
            let (facility_at, text_at) = (&raw mut facility, &raw mut text);
            if sys::rd_kafka_event_log(event, facility_at, text_at, &raw mut level) == 0 {
                let [facility, text] = [facility, text].map(|one| CStr::from_ptr(one));
                let (facility, text) = (facility.to_string_lossy(), text.to_string_lossy());
                line(level, facility.trim(), text.trim());
            }
        }
    }
}

/// The reports of one event.
struct Taking<'a> {
    reports: &'a Reports,
    is_any_acknowledged: bool,
    /// The last one with a number.
    last: *const sys::rd_kafka_message_t,
    reported: Reported,
}

impl<'a> Taking<'a> {
    fn new(reports: &'a Reports) -> Self {
        Self {
            reports,
            is_any_acknowledged: false,
            last: ptr::null(),
            reported: Reported {
                topic: 0,
                acknowledged: Vec::new(),
                failed: Vec::new(),
                records: 0,
                bytes: 0,
                took: Duration::ZERO,
            },
        }
    }

    /// # Safety
    /// The message is alive, and the opaque is its own.
    unsafe fn take(&mut self, message: *const sys::rd_kafka_message_t, opaque: Opaque) {
        // SAFETY: by the contract.
        let (code, rkt) = unsafe { ((*message).err, (*message).rkt) };
        let is_acknowledged = code == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR;
        self.is_any_acknowledged |= is_acknowledged;
        // The broker's own error message is not available: librdkafka 2.12.1 frees it before it reports.
        // `rd_kafka_message_produce_errstr` then reads freed memory.
        let failure = |name: &str| {
            let error = KafkaError::MessageProduction(code.into());
            self.reports.brokers.failure(name, &error)
        };
        match opaque {
            Opaque::Waiting(waiting) if is_acknowledged => {
                // SAFETY: by the contract.
                waiting.answer(Ok(unsafe { acknowledged(message) }));
            }
            Opaque::Waiting(waiting) => {
                let failure = failure(&waiting.topic);
                waiting.answer(Err(failure));
            }
            Opaque::Number(number) => {
                let failed = (!is_acknowledged).then(|| {
                    // SAFETY: a produced message has its topic.
                    let name = unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(rkt)) };
                    failure(&name.to_string_lossy())
                });
                let all = &mut self.reported;
                if all.records == 0 {
                    all.topic = rkt.addr();
                    // SAFETY: by the contract.
                    all.took = unsafe { latency(message) };
                }
                all.records += 1;
                self.last = message;
                // SAFETY: by the contract.
                all.bytes += unsafe { size(message) };
                match (failed, all.acknowledged.last_mut()) {
                    (Some(failed), _) => all.failed.push((number, failed)),
                    (None, Some(run)) if run.first + run.count == number => run.count += 1,
                    (None, _) => all.acknowledged.push(Run {
                        first: number,
                        count: 1,
                    }),
                }
            }
        }
    }

    /// # Safety
    /// The messages are alive still.
    unsafe fn end(mut self) {
        if self.is_any_acknowledged {
            self.reports.brokers.answered();
        }
        if self.reported.records > 0
            && let Some(numbers) = &self.reports.numbers
        {
            // SAFETY: by the contract.
            self.reported.took = (self.reported.took + unsafe { latency(self.last) }) / 2;
            numbers.reported(self.reported);
        }
    }
}

/// How long the record has been under way.
///
/// # Safety
/// The message is alive.
unsafe fn latency(message: *const sys::rd_kafka_message_t) -> Duration {
    // SAFETY: by the contract.
    let us = unsafe { sys::rd_kafka_message_latency(message) };
    Duration::from_micros(us.try_into().unwrap_or(0))
}

/// # Safety
/// The message is alive and acknowledged.
unsafe fn acknowledged(message: *const sys::rd_kafka_message_t) -> Acknowledged {
    let mut kind = sys::rd_kafka_timestamp_type_t::RD_KAFKA_TIMESTAMP_NOT_AVAILABLE;
    // SAFETY: by the contract; the out-pointer is a local variable.
    unsafe {
        let timestamp = sys::rd_kafka_message_timestamp(message, &raw mut kind);
        Acknowledged {
            partition: (*message).partition,
            offset: (*message).offset,
            timestamp_ms: (timestamp >= 0).then_some(timestamp),
        }
    }
}

/// The record's `Outgoing::size`.
///
/// # Safety
/// The message is alive.
unsafe fn size(message: *const sys::rd_kafka_message_t) -> usize {
    let mut list = ptr::null_mut();
    // SAFETY: by the contract; the list belongs to the message, and an index beyond its end is an error.
    unsafe {
        let mut bytes = Outgoing::OVERHEAD + (*message).len + (*message).key_len;
        let error = sys::rd_kafka_message_headers(message, &raw mut list);
        if error != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return bytes;
        }
        for index in 0..sys::rd_kafka_header_cnt(list) {
            let (mut name, mut value, mut length) = (ptr::null(), ptr::null(), 0);
            let (name_at, value_at) = (&raw mut name, &raw mut value);
            let error =
                sys::rd_kafka_header_get_all(list, index, name_at, value_at, &raw mut length);
            if error == sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                bytes += CStr::from_ptr(name).count_bytes() + length;
            }
        }
        bytes
    }
}
