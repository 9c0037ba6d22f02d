//! The callbacks of librdkafka: rebalances and errors are only recorded, queues ring the bell, log lines go to
//! Moontide's log.
#![expect(unsafe_code, reason = "callbacks of the C API of librdkafka")]

use std::collections::VecDeque;
use std::ffi::{CStr, c_char, c_int, c_void};
use std::sync::{Arc, Mutex, PoisonError};

use rdkafka_sys as sys;

use super::list;
use super::{Broker, Connection, Error, Step, TopicPartition, Unfit};

/// Rings when a queue becomes non-empty.
pub(crate) type Bell = Arc<dyn Fn() + Send + Sync>;

/// State that the callbacks write. librdkafka holds its address, so it outlives the handle.
pub(super) struct Shared {
    bell: Bell,
    events: Mutex<VecDeque<Event>>,
    /// The lowest level of librdkafka's lines that are logged, as of syslog.
    log_level: c_int,
}

/// librdkafka's lines at this level say who closes connections, so it always writes them.
pub(super) const LOG_LEVEL_MIN: c_int = 6;

/// An event of the consumer queue.
#[derive(Debug)]
pub(crate) enum Event {
    Rebalance(Rebalance),
    /// Of the group, or of the client as a whole.
    Error(Error),
    BrokerError(Broker, Error),
    /// This client cannot use the broker, or what is there in its place.
    Unfit(Broker, Unfit),
    Connection(Connection),
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
    pub(super) fn new(bell: Bell, log_level: c_int) -> Self {
        Self {
            bell,
            log_level,
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
    shared.push(match Broker::of_error(&reason) {
        Some((broker, error)) => Event::BrokerError(broker, Error::new(code, error)),
        None => Event::Error(Error::new(code, reason)),
    });
}

/// The name of the interceptor that hears of connections.
const INTERCEPTOR: &CStr = c"connections";

/// Has the changes of connections told to the client that has this conf.
///
/// # Safety
/// `conf` is alive, and `opaque` is the address of a [`Shared`] that outlives the client.
pub(super) unsafe fn hear_of_connections(conf: *mut sys::rd_kafka_conf_t, opaque: *mut c_void) {
    // SAFETY: by the contract. It fails for a second interceptor of the same name only.
    unsafe {
        sys::rd_kafka_conf_interceptor_add_on_new(conf, INTERCEPTOR.as_ptr(), Some(on_new), opaque);
    }
}

/// # Safety
/// Called by librdkafka alone.
unsafe extern "C" fn on_new(
    rk: *mut sys::rd_kafka_t,
    _: *const sys::rd_kafka_conf_t,
    opaque: *mut c_void,
    _: *mut c_char,
    _: usize,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the handle is the new one, and the opaque that of `hear_of_connections`.
    unsafe {
        sys::rd_kafka_interceptor_add_on_broker_state_change(
            rk,
            INTERCEPTOR.as_ptr(),
            Some(on_connection),
            opaque,
        )
    }
}

/// librdkafka's thread of the broker calls this with the broker locked, so it only records the change.
///
/// # Safety
/// Called by librdkafka alone.
unsafe extern "C" fn on_connection(
    _: *mut sys::rd_kafka_t,
    id: i32,
    _: *const c_char,
    name: *const c_char,
    port: c_int,
    state: *const c_char,
    opaque: *mut c_void,
) -> sys::rd_kafka_resp_err_t {
    // SAFETY: the opaque is that of `hear_of_connections`; the strings are NUL-terminated and live as long as the
    // call.
    let (shared, name, state) = unsafe {
        (
            &*opaque.cast::<Shared>(),
            CStr::from_ptr(name).to_string_lossy(),
            CStr::from_ptr(state).to_string_lossy(),
        )
    };
    if let Some(broker) = Broker::of_connection(&name, port, id) {
        let step = Step::of(&state);
        shared.push(Event::Connection(Connection { broker, step }));
        (shared.bell)();
    }
    sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
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
    // creation, and has the opaque of the conf otherwise.
    let (client, shared, facility, text) = unsafe {
        let (client, shared) = if rk.is_null() {
            ("".into(), None)
        } else {
            let shared = sys::rd_kafka_opaque(rk).cast::<Shared>();
            let name = CStr::from_ptr(sys::rd_kafka_name(rk));
            (name.to_string_lossy(), shared.as_ref())
        };
        let [facility, text] = [facility, text].map(|text| CStr::from_ptr(text).to_string_lossy());
        (client, shared, facility, text)
    };
    let Some(shared) = shared else {
        return super::log::line(level, &facility, &client, &text);
    };
    if let Some((broker, unfit)) = Unfit::of_line(&facility, &text) {
        shared.push(Event::Unfit(broker, unfit));
        (shared.bell)();
    }
    if level <= shared.log_level {
        super::log::line(level, &facility, &client, &text);
    }
}
