//! A topic of a producer by its handle, for records whose answers have numbers.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::CString;
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::util::IntoOpaque as _;
use rdkafka_sys as sys;

use super::reports::Opaque;
use super::{Failure, Producer};
use crate::message::Outgoing;

/// A look for the topic by its name costs as much as all else that a record needs.
pub(crate) struct Topic {
    name: String,
    rkt: NonNull<sys::rd_kafka_topic_t>,
    /// Dropped after the topic.
    producer: Arc<Producer>,
}

// SAFETY: librdkafka's handles may be used from any thread.
unsafe impl Send for Topic {}
// SAFETY: as above.
unsafe impl Sync for Topic {}

impl Topic {
    pub(super) fn new(producer: &Arc<Producer>, name: &str) -> Result<Self, Code> {
        let text = CString::new(name).map_err(|_| Code::InvalidTopic)?;
        // SAFETY: the handle is alive, and the name is copied. A null configuration is the client's own.
        let rkt =
            unsafe { sys::rd_kafka_topic_new(producer.native(), text.as_ptr(), ptr::null_mut()) };
        match NonNull::new(rkt) {
            Some(rkt) => Ok(Self {
                name: name.to_owned(),
                rkt,
                producer: producer.clone(),
            }),
            // SAFETY: the call reads a variable of this thread.
            None => Err(unsafe { sys::rd_kafka_last_error() }.into()),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// What reports call the topic.
    pub(crate) fn address(&self) -> usize {
        self.rkt.as_ptr().addr()
    }

    pub(crate) fn is_of(&self, producer: &Arc<Producer>) -> bool {
        Arc::ptr_eq(&self.producer, producer)
    }

    /// Puts a copy of the record, which is one for this topic, into the queue; never blocks. Its answer has this number,
    /// below 2^63. An error is the only answer.
    pub(crate) fn send(&self, record: &Outgoing, number: u64) -> Result<(), Failure> {
        let opaque = Opaque::Number(number).into_ptr();
        // SAFETY: the topic is alive, and so is its producer, whose delivery callback takes an `Opaque`.
        let sent = unsafe { record.enqueue_to(self.producer.native(), self.rkt.as_ptr(), opaque) };
        sent.map_err(|code| {
            let error = KafkaError::MessageProduction(code);
            self.producer.brokers.failure(&self.name, &error)
        })
    }
}

impl Drop for Topic {
    fn drop(&mut self) {
        // SAFETY: the handle is alive, and its one reference of this topic ends here.
        unsafe { sys::rd_kafka_topic_destroy(self.rkt.as_ptr()) };
    }
}
