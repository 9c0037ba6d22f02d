//! A producer with transactions. **Most calls block**, so each handle has a thread of its own.
//!
//! An answer of a call does not tell everything: librdkafka repeats a request whose connection ended, and the first
//! one may still arrive. It would then end the next transaction of this producer. So an interceptor notes each request
//! that had no answer (`is_clean`), and such a producer must not begin another transaction.
#![expect(unsafe_code, reason = "the C API of librdkafka has no other form")]

use std::ffi::{CStr, c_char, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::config::ClientConfig;
use rdkafka_sys as sys;
use rdkafka_sys::RDKafkaErrorCode as Code;

use super::list::List;
use super::outgoing::Together;
use super::producer::{Outgoing, TopicHandle};
use super::queries::millis;
use super::{Client, Error, Refusal, TopicPartition};

/// Produce, `AddPartitionsToTxn`, `AddOffsetsToTxn`, `EndTxn`, `TxnOffsetCommit`.
const KEYS: [i16; 5] = [0, 24, 25, 26, 28];
/// The handles of topics that are kept. Most handlers write to a few.
const TOPICS: usize = 16;

pub(crate) struct Transactional {
    rk: NonNull<sys::rd_kafka_t>,
    /// librdkafka holds its address, so it outlives the handle.
    shared: Box<Shared>,
    /// Topics of the records before, the last one first.
    topics: Vec<(Arc<str>, TopicHandle)>,
    together: Together,
}

#[derive(Default)]
struct Shared {
    /// A request that may change a transaction had no answer.
    is_unanswered: AtomicBool,
    failed: Mutex<Option<Failed>>,
}

/// A record that was not written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Failed {
    /// The number that the record had at `put`.
    pub(crate) number: usize,
    pub(crate) refusal: Refusal,
    pub(crate) sentence: String,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Trouble {
    pub(crate) text: String,
    pub(crate) consequence: Consequence,
    /// Another producer with the same id has begun, or the brokers have given the transaction up.
    pub(crate) is_fenced: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Consequence {
    /// The same call with the same arguments may succeed.
    Again,
    /// The transaction has to be aborted, and nothing of it is committed.
    Abort,
    /// As before: the brokers take less metadata.
    AbortForMetadata,
    /// What has become of the transaction is not known.
    Unknown,
}

/// What the group knows of a member, at one moment.
pub(crate) struct Membership(NonNull<sys::rd_kafka_consumer_group_metadata_t>);

// SAFETY: librdkafka's handle may be used from any thread, and `Shared` has locks of its own.
unsafe impl Send for Transactional {}
// SAFETY: as above.
unsafe impl Sync for Transactional {}

impl Transactional {
    /// Starts librdkafka's threads, which connect in the background.
    pub(crate) fn new<'a>(
        properties: impl Iterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Error> {
        let mut config = ClientConfig::new();
        for (name, value) in properties {
            config.set(name, value);
        }
        let native = config
            .create_native_config()
            .map_err(|error| Error::fatal(error.to_string()))?;
        let shared = Box::<Shared>::default();
        let opaque = ptr::from_ref::<Shared>(&shared).cast_mut().cast::<c_void>();
        let mut text = [0; 512];
        // SAFETY: `rd_kafka_new` takes ownership of the conf only when it succeeds. So it gets a copy, which is freed
        // when it fails. The opaque is dropped after the handle.
        let rk = unsafe {
            let conf = sys::rd_kafka_conf_dup(native.ptr());
            sys::rd_kafka_conf_set_opaque(conf, opaque);
            sys::rd_kafka_conf_set_dr_msg_cb(conf, Some(on_report));
            sys::rd_kafka_conf_set_log_cb(conf, Some(on_log));
            sys::rd_kafka_conf_interceptor_add_on_new(
                conf,
                INTERCEPTOR.as_ptr(),
                Some(on_new),
                opaque,
            );
            let kind = sys::rd_kafka_type_t::RD_KAFKA_PRODUCER;
            let rk = sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            if rk.is_null() {
                sys::rd_kafka_conf_destroy(conf);
            }
            rk
        };
        match NonNull::new(rk) {
            Some(rk) => Ok(Self {
                rk,
                shared,
                topics: Vec::new(),
                together: Together::default(),
            }),
            // SAFETY: librdkafka wrote a NUL-terminated string into the buffer.
            None => Err(Error::fatal(
                unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy(),
            )),
        }
    }

    /// Whether every request of this producer that may change a transaction has had its answer.
    pub(crate) fn is_clean(&self) -> bool {
        !self.shared.is_unanswered.load(Ordering::Acquire)
    }

    /// The record of this transaction that was not written: a refused one if there is one, else the first.
    pub(crate) fn failed(&self) -> Option<Failed> {
        let failed = self.shared.failed.lock();
        failed.unwrap_or_else(PoisonError::into_inner).clone()
    }

    /// Fences older producers of the same id, and ends their transactions.
    pub(crate) fn init(&self, timeout: Duration) -> Result<(), Trouble> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::rd_kafka_init_transactions(self.rk.as_ptr(), millis(timeout)) })
    }

    pub(crate) fn begin(&self) -> Result<(), Trouble> {
        let failed = self.shared.failed.lock();
        *failed.unwrap_or_else(PoisonError::into_inner) = None;
        // SAFETY: the handle is alive.
        check(unsafe { sys::rd_kafka_begin_transaction(self.rk.as_ptr()) })
    }

    /// Adds records to the transaction, each with its number. Returns how many: with fewer the queue is full. Whatever
    /// else becomes of a record is told by `failed`.
    pub(crate) fn put(&mut self, records: &[(&Outgoing, usize)]) -> usize {
        let mut done = 0;
        while let Some((record, number)) = records.get(done) {
            let topic = match self.topic(&record.topic) {
                Ok(topic) => topic.as_ptr(),
                Err(code) => {
                    self.shared.note(*number, code, &record.topic);
                    done += 1;
                    continue;
                }
            };
            let rest = &records[done..];
            let fits =
                |one: &&(&Outgoing, usize)| Together::takes(one.0) && one.0.topic == record.topic;
            let count = rest.iter().take_while(fits).count();
            let taken = if count > 1 {
                self.put_together(topic, &rest[..count])
            } else {
                usize::from(self.put_one(topic, record, *number))
            };
            done += taken;
            if taken < count.max(1) {
                break;
            }
        }
        done
    }

    /// Returns how many records are in the queue, or failed for good.
    fn put_together(
        &mut self,
        topic: *mut sys::rd_kafka_topic_t,
        records: &[(&Outgoing, usize)],
    ) -> usize {
        let all = records
            .iter()
            .map(|(record, number)| (*record, *number as *mut c_void));
        let (mut left, shared) = (0, &self.shared);
        let failed = |opaque: *mut c_void, code| match code {
            Code::QueueFull => left += 1,
            _ => shared.note(opaque as usize, code, &records[0].0.topic),
        };
        // SAFETY: the topic's producer is alive, and the callback of reports takes the number from the opaque.
        unsafe { self.together.enqueue(topic, all, failed) };
        records.len() - left
    }

    /// Returns false if the queue is full.
    fn put_one(&self, topic: *mut sys::rd_kafka_topic_t, record: &Outgoing, number: usize) -> bool {
        let (rk, opaque) = (self.rk.as_ptr(), number as *mut c_void);
        // SAFETY: both handles are alive, and the callback of reports takes the number from the opaque.
        match unsafe { record.enqueue_to(rk, topic, opaque) } {
            Ok(()) => true,
            Err(Code::QueueFull) => false,
            Err(code) => {
                self.shared.note(number, code, &record.topic);
                true
            }
        }
    }

    /// The handle of the topic, which comes first from now on.
    fn topic(&mut self, name: &Arc<str>) -> Result<&TopicHandle, Code> {
        let is_it =
            |(known, _): &(Arc<str>, TopicHandle)| Arc::ptr_eq(known, name) || known == name;
        match self.topics.iter().position(is_it) {
            Some(0) => {}
            Some(at) => self.topics[..=at].rotate_right(1),
            None => {
                // SAFETY: the producer is alive, and its drop ends the topics first.
                let handle = unsafe { TopicHandle::new(self.rk.as_ptr(), name) }?;
                self.topics.truncate(TOPICS - 1);
                self.topics.insert(0, (name.clone(), handle));
            }
        }
        Ok(&self.topics[0].1)
    }

    /// Serves the reports of records. **Blocks** up to the time-out.
    pub(crate) fn poll(&self, timeout: Duration) {
        // SAFETY: the handle is alive.
        unsafe { sys::rd_kafka_poll(self.rk.as_ptr(), millis(timeout)) };
    }

    /// Waits until every record has its report. Returns false after the time-out.
    pub(crate) fn flush(&self, timeout: Duration) -> bool {
        // SAFETY: the handle is alive.
        Error::check(unsafe { sys::rd_kafka_flush(self.rk.as_ptr(), millis(timeout)) }).is_ok()
    }

    /// The transaction commits these positions of the group.
    pub(crate) fn send_offsets(
        &self,
        offsets: &[TopicPartition],
        membership: &Membership,
        timeout: Duration,
    ) -> Result<(), Trouble> {
        let list = List::of(offsets);
        // SAFETY: the handle, the list and the membership are alive.
        check(unsafe {
            sys::rd_kafka_send_offsets_to_transaction(
                self.rk.as_ptr(),
                list.as_ptr(),
                membership.0.as_ptr(),
                millis(timeout),
            )
        })
    }

    pub(crate) fn commit(&self, timeout: Duration) -> Result<(), Trouble> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::rd_kafka_commit_transaction(self.rk.as_ptr(), millis(timeout)) })
    }

    pub(crate) fn abort(&self, timeout: Duration) -> Result<(), Trouble> {
        // SAFETY: the handle is alive.
        check(unsafe { sys::rd_kafka_abort_transaction(self.rk.as_ptr(), millis(timeout)) })
    }
}

impl Drop for Transactional {
    /// **Blocks** until librdkafka's threads have ended.
    fn drop(&mut self) {
        self.topics.clear();
        // SAFETY: the handle is destroyed once. Records that are in its queue are thrown away first.
        unsafe {
            let how = sys::RD_KAFKA_PURGE_F_QUEUE | sys::RD_KAFKA_PURGE_F_INFLIGHT;
            sys::rd_kafka_purge(self.rk.as_ptr(), how as c_int);
            sys::rd_kafka_destroy(self.rk.as_ptr());
        }
    }
}

impl Shared {
    fn note(&self, number: usize, code: Code, topic: &str) {
        if matches!(code, Code::PurgeQueue | Code::PurgeInflight) {
            // The transaction is given up for another record.
            return;
        }
        let refusal = Refusal::of(code);
        let mut failed = self.failed.lock().unwrap_or_else(PoisonError::into_inner);
        let is_weak = |failed: &Failed| failed.refusal == Refusal::Transient;
        if failed.as_ref().is_none_or(is_weak) {
            *failed = Some(Failed {
                number,
                refusal,
                sentence: format!("topic `{topic}`: {code}"),
            });
        }
    }
}

impl Client {
    /// What the group knows of this member now. `None`: it is no member. **Blocks** for a moment.
    pub(crate) fn membership(&self) -> Option<Membership> {
        // SAFETY: the handle is alive; the caller owns what the call returns.
        let found = unsafe { sys::rd_kafka_consumer_group_metadata(self.rk.as_ptr()) };
        let membership = Membership(NonNull::new(found)?);
        // SAFETY: it is alive; the string is its own.
        let (generation, member) = unsafe {
            let member = sys::rd_kafka_consumer_group_metadata_member_id(found);
            (
                sys::rd_kafka_consumer_group_metadata_generation_id(found),
                !member.is_null() && *member != 0,
            )
        };
        // The brokers would accept the offsets of a client that has never joined, whoever owns the partitions.
        (generation >= 0 && member).then_some(membership)
    }
}

impl Membership {
    pub(crate) fn generation(&self) -> i32 {
        // SAFETY: it is alive.
        unsafe { sys::rd_kafka_consumer_group_metadata_generation_id(self.0.as_ptr()) }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        // SAFETY: it is destroyed once.
        unsafe { sys::rd_kafka_consumer_group_metadata_destroy(self.0.as_ptr()) }
    }
}

/// The result of a call, whose error is read and destroyed.
fn check(error: *mut sys::rd_kafka_error_t) -> Result<(), Trouble> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: the caller's call has returned it, and nobody else has it.
    unsafe {
        let code = Code::from(sys::rd_kafka_error_code(error));
        let text = CStr::from_ptr(sys::rd_kafka_error_string(error));
        let consequence = if code == Code::OffsetMetadataTooLarge {
            Consequence::AbortForMetadata
        } else if sys::rd_kafka_error_txn_requires_abort(error) != 0 {
            Consequence::Abort
        } else if sys::rd_kafka_error_is_retriable(error) != 0 {
            Consequence::Again
        } else {
            Consequence::Unknown
        };
        let trouble = Trouble {
            text: format!("{code:?}: {}", text.to_string_lossy()),
            consequence,
            is_fenced: matches!(
                code,
                Code::Fenced | Code::ProducerFenced | Code::InvalidProducerEpoch
            ),
        };
        sys::rd_kafka_error_destroy(error);
        Err(trouble)
    }
}

const INTERCEPTOR: &CStr = c"unanswered";

/// # Safety
/// Called by librdkafka alone.
unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _: *const sys::rd_kafka_conf_t,
    opaque: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the handle is the new one, and the opaque that of the conf.
    unsafe {
        sys::rd_kafka_interceptor_add_on_response_received(
            rk,
            INTERCEPTOR.as_ptr(),
            Some(on_response),
            opaque,
        )
    }
}

/// # Safety
/// Called by librdkafka alone, on a thread of a broker.
unsafe extern "C" fn on_response(
    _: *mut sys::rd_kafka_t,
    _: c_int,
    _: *const c_char,
    _: i32,
    key: i16,
    _: i16,
    _: i32,
    _: usize,
    _: i64,
    error: sys::rd_kafka_resp_err_t,
    opaque: *mut c_void,
) -> sys::rd_kafka_resp_err_t {
    // A request that has never left cannot arrive.
    let is_answered = matches!(
        Code::from(error),
        Code::NoError | Code::TimedOutQueue | Code::PurgeQueue | Code::State | Code::BrokerDestroy
    );
    if KEYS.contains(&key) && !is_answered {
        // SAFETY: the opaque is that of the conf, which outlives the handle.
        let shared = unsafe { &*opaque.cast::<Shared>() };
        shared.is_unanswered.store(true, Ordering::Release);
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
}

/// # Safety
/// Called by librdkafka alone.
unsafe extern "C" fn on_report(
    _: *mut sys::rd_kafka_t,
    message: *const sys::rd_kafka_message_t,
    opaque: *mut c_void,
) {
    // SAFETY: the message lives as long as the call, and its opaque is the number of `put`; the topic has a name.
    unsafe {
        let message = &*message;
        let code = Code::from(message.err);
        if code != Code::NoError {
            let topic = CStr::from_ptr(sys::rd_kafka_topic_name(message.rkt));
            let shared = &*opaque.cast::<Shared>();
            shared.note(message._private as usize, code, &topic.to_string_lossy());
        }
    }
}

/// # Safety
/// Called by librdkafka alone.
unsafe extern "C" fn on_log(
    _: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: both strings are NUL-terminated and live as long as the call.
    let [facility, text] =
        unsafe { [facility, text].map(|text| CStr::from_ptr(text).to_string_lossy()) };
    super::log::line(level, &facility, "transactions", &text);
}
