//! A topic of a producer by its handle.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::util::IntoOpaque as _;
use rdkafka_sys as sys;

use super::reports::Opaque;
use super::{Failure, Producer};
use crate::kafka::outgoing::Together;
use crate::message::Outgoing;

/// librdkafka's handle of a topic. A look for the topic by its name costs as much as all else that a record needs.
/// **Its drop comes before that of the producer.**
pub(in crate::kafka) struct Handle(NonNull<sys::rd_kafka_topic_t>);

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Handle {}
// SAFETY: as above.
unsafe impl Sync for Handle {}

impl Handle {
    /// # Safety
    /// `rk` is a producer that is alive, and outlives the handle.
    pub(in crate::kafka) unsafe fn new(rk: *mut sys::rd_kafka_t, name: &str) -> Result<Self, Code> {
        let text = CString::new(name).map_err(|_| Code::InvalidTopic)?;
        // SAFETY: by the contract, and the name is copied. A null configuration is the client's own.
        let rkt = unsafe { sys::rd_kafka_topic_new(rk, text.as_ptr(), ptr::null_mut()) };
        // SAFETY: the call reads a variable of this thread.
        let failed = || unsafe { sys::rd_kafka_last_error() }.into();
        NonNull::new(rkt).map(Self).ok_or_else(failed)
    }

    pub(in crate::kafka) fn as_ptr(&self) -> *mut sys::rd_kafka_topic_t {
        self.0.as_ptr()
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and its one reference ends here.
        unsafe { sys::rd_kafka_topic_destroy(self.0.as_ptr()) };
    }
}

/// A topic for records whose answers have numbers.
pub(crate) struct Topic {
    name: String,
    handle: Handle,
    /// Dropped after the topic.
    producer: Arc<Producer>,
}

impl Topic {
    pub(super) fn new(producer: &Arc<Producer>, name: &str) -> Result<Self, Code> {
        // SAFETY: the producer is alive, and this topic holds it.
        let handle = unsafe { Handle::new(producer.native(), name) }?;
        Ok(Self {
            name: name.to_owned(),
            handle,
            producer: producer.clone(),
        })
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What reports call the topic.
    pub(crate) fn address(&self) -> usize {
        self.handle.as_ptr().addr()
    }

    pub(crate) fn is_of(&self, producer: &Arc<Producer>) -> bool {
        Arc::ptr_eq(&self.producer, producer)
    }

    /// Puts a copy of the record, which is one for this topic, into the queue; never blocks. Its answer has this number,
    /// below 2^63. An error is the only answer.
    pub(crate) fn send(&self, record: &Outgoing, number: u64) -> Result<(), Failure> {
        let opaque = Opaque::Number(number).into_ptr();
        // SAFETY: the topic is alive, and so is its producer, whose delivery callback takes an `Opaque`.
        let sent =
            unsafe { record.enqueue_to(self.producer.native(), self.handle.as_ptr(), opaque) };
        sent.map_err(|code| self.failure(code))
    }

    /// Whether `send_together` takes the record.
    pub(crate) fn takes_together(record: &Outgoing) -> bool {
        Together::takes(record)
    }

    /// As `send`, for several records, in their order. `failed` hears of each that is not sent.
    pub(crate) fn send_together<'r>(
        &self,
        together: &mut Together,
        records: impl Iterator<Item = (&'r Outgoing, u64)>,
        mut failed: impl FnMut(u64, Failure),
    ) {
        let records = records.map(|(record, number)| (record, Opaque::Number(number).into_ptr()));
        let failed = |opaque, code| {
            // SAFETY: it is one of those above, and no report has it.
            if let Opaque::Number(number) = unsafe { Opaque::from_ptr(opaque) } {
                failed(number, self.failure(code));
            }
        };
        // SAFETY: the topic is alive, and so is its producer, whose delivery callback takes an `Opaque`.
        unsafe { together.enqueue(self.handle.as_ptr(), records, failed) };
    }

    fn failure(&self, code: Code) -> Failure {
        let error = KafkaError::MessageProduction(code);
        self.producer.brokers.failure(&self.name, &error)
    }
}
