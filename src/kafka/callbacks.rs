//! The callbacks of librdkafka: rebalances and errors are only recorded, queues ring the bell, log lines go to
//! Moontide's log.
#![expect(unsafe_code, reason = "callbacks of the C API of librdkafka")]

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka_sys as sys;

use super::list;
use super::{Error, TopicPartition};

/// Rings when a queue becomes non-empty.
pub(crate) type Bell = Arc<dyn Fn() + Send + Sync>;

/// State that the callbacks write. librdkafka holds its address, so it outlives the handle.
pub(super) struct Shared {
    bell: Bell,
    events: Mutex<VecDeque<Event>>,
}

/// An event of the consumer queue.
#[derive(Debug)]
pub(crate) enum Event {
    Rebalance(Rebalance),
    Error(Error),
    /// The error of a subscribed topic that is not available.
    TopicError(Arc<str>, Error),
}

/// Each rebalance must be answered, by assign or unassign.
#[derive(Debug)]
pub(crate) enum Rebalance {
    Assign(Vec<TopicPartition>),
    Revoke(Vec<TopicPartition>),
    /// Neither of the two: the answer is to give up every partition.
    Failed(Error),
}

impl Shared {
    pub(super) fn new(bell: Bell) -> Self {
        Self {
            bell,
            events: Mutex::default(),
        }
    }

    pub(super) fn take(&self) -> VecDeque<Event> {
        std::mem::take(&mut *self.lock())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, VecDeque<Event>> {
        self.events.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn push(&self, event: Event) {
        self.lock().push_back(event);
    }
}

/// # Safety
/// Called by librdkafka alone.
pub(super) unsafe extern "C" fn on_queue(_: *mut sys::rd_kafka_t, opaque: *mut c_void) {
    // SAFETY: the address was given at `queue_cb_event_enable`, and lives until `drop` removes the callback.
    let shared = unsafe { &*opaque.cast::<Shared>() };
    (shared.bell)();
}

/// # Safety
/// Called by librdkafka alone.
pub(super) unsafe extern "C" fn on_rebalance(
    _: *mut sys::rd_kafka_t,
    code: sys::rd_kafka_resp_err_t,
    partitions: *mut sys::rd_kafka_topic_partition_list_t,
    opaque: *mut c_void,
) {
    // SAFETY: this client's own poll makes the call, with the opaque of the conf and a list that lives as long as the
    // call.
    let (shared, partitions) = unsafe { (&*opaque.cast::<Shared>(), list::read(partitions)) };
    shared.push(Event::Rebalance(match code {
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => {
            Rebalance::Assign(partitions)
        }
        sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__REVOKE_PARTITIONS => {
            Rebalance::Revoke(partitions)
        }
        other => Rebalance::Failed(Error::new(other, "")),
    }));
}

/// # Safety
/// Called by librdkafka alone.
pub(super) unsafe extern "C" fn on_error(
    _: *mut sys::rd_kafka_t,
    code: c_int,
    reason: *const c_char,
    opaque: *mut c_void,
) {
    // SAFETY: this client's own poll makes the call, with the opaque of the conf and a NUL-terminated reason.
    let (shared, reason) = unsafe {
        (
            &*opaque.cast::<Shared>(),
            CStr::from_ptr(reason).to_string_lossy(),
        )
    };
    // SAFETY: librdkafka's own code is one of the enum's values.
    let code = unsafe { std::mem::transmute::<c_int, sys::rd_kafka_resp_err_t>(code) };
    shared.push(Event::Error(Error::new(code, reason)));
}

/// # Safety
/// Called by librdkafka alone.
pub(super) unsafe extern "C" fn on_log(
    rk: *const sys::rd_kafka_t,
    level: c_int,
    facility: *const c_char,
    text: *const c_char,
) {
    // SAFETY: all strings are NUL-terminated and live as long as the call; the handle may be null during its
    // creation.
    unsafe {
        let client = if rk.is_null() {
            "".into()
        } else {
            CStr::from_ptr(sys::rd_kafka_name(rk)).to_string_lossy()
        };
        let facility = CStr::from_ptr(facility).to_string_lossy();
        super::log::line(
            level,
            &facility,
            &client,
            &CStr::from_ptr(text).to_string_lossy(),
        );
    }
}
