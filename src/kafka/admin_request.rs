//! One request of librdkafka's admin API on a handle that exists: options, a queue of its own, and the wait for the
//! answer. **The call blocks**, up to its time-out.
//!
//! The files below have the requests of `tide.kafka.admin`.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

mod configs;
mod groups;
mod kinds;
mod native;
mod new_topics;
mod offsets;
mod topics;

use std::ffi::CStr;
use std::time::{Duration, Instant};

use rdkafka_sys as sys;

use super::Error;
use super::producer::Producer;
use super::queries::millis;

pub(crate) use configs::Setting;
pub(crate) use groups::{Group, Member};
pub(crate) use topics::{PartitionMetadata, TopicMetadata};

/// The time for the answer to pass through librdkafka's queues, beyond the deadline of the request.
const SLACK: Duration = Duration::from_secs(1);
/// The interval between two looks whether somebody still waits.
const LOOK: Duration = Duration::from_millis(100);

/// Each thing that was to be changed, by its name, and what became of it.
pub(crate) type Changes = Vec<(String, Result<(), Error>)>;

/// A thing that was asked for, or its name and why there is none.
type Named<T> = Result<T, (String, Error)>;

/// The requests of one call: each ends at the deadline, or soon after nobody waits any more.
pub(crate) struct AdminRequests<'c> {
    pub(crate) client: &'c Producer,
    pub(crate) deadline: Instant,
    pub(crate) is_wanted: &'c dyn Fn() -> bool,
}

impl AdminRequests<'_> {
    fn request(&self, api: sys::rd_kafka_admin_op_t) -> AdminRequest {
        let left = self.deadline.saturating_duration_since(Instant::now());
        // librdkafka takes 0 for no limit.
        AdminRequest::new(api, left.max(Duration::from_millis(1)))
    }

    /// # Safety
    /// As for [`AdminRequest::ask`].
    unsafe fn ask<T>(
        &self,
        request: &AdminRequest,
        send: impl FnOnce(
            *mut sys::rd_kafka_t,
            *const sys::rd_kafka_AdminOptions_t,
            *mut sys::rd_kafka_queue_t,
        ),
        read: impl FnOnce(*mut sys::rd_kafka_event_t) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let rk = self.client.native();
        // SAFETY: by the contract; the client keeps its handle alive.
        unsafe {
            request.ask_while(
                rk,
                self.is_wanted,
                |options, queue| send(rk, options, queue),
                read,
            )
        }
    }
}

pub(super) struct AdminRequest {
    pub(super) api: sys::rd_kafka_admin_op_t,
    /// `None`: librdkafka chooses the broker.
    pub(super) broker: Option<i32>,
    pub(super) timeout: Duration,
    /// Whether the brokers have this time for a change of topics. Without it they have a minute.
    pub(super) bounds_operation: bool,
    /// Whether the brokers only check the change.
    pub(super) validate_only: bool,
}

impl AdminRequest {
    pub(super) fn new(api: sys::rd_kafka_admin_op_t, timeout: Duration) -> Self {
        Self {
            api,
            broker: None,
            timeout,
            bounds_operation: false,
            validate_only: false,
        }
    }

    /// `send` makes the request with the options and the queue. `read` reads an answer that is no error.
    ///
    /// # Safety
    /// The handle is alive. `send` and `read` keep none of their arguments.
    pub(super) unsafe fn ask<T>(
        &self,
        rk: *mut sys::rd_kafka_t,
        send: impl FnOnce(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
        read: impl FnOnce(*mut sys::rd_kafka_event_t) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // SAFETY: by the contract.
        unsafe { self.ask_while(rk, &|| true, send, read) }
    }

    /// As `ask`, but ends soon after nobody waits for the answer any more.
    ///
    /// # Safety
    /// As for `ask`.
    unsafe fn ask_while<T>(
        &self,
        rk: *mut sys::rd_kafka_t,
        is_wanted: &dyn Fn() -> bool,
        send: impl FnOnce(*const sys::rd_kafka_AdminOptions_t, *mut sys::rd_kafka_queue_t),
        read: impl FnOnce(*mut sys::rd_kafka_event_t) -> Result<T, Error>,
    ) -> Result<T, Error> {
        // SAFETY: options, queue and event are made here and destroyed once, after the calls, which copy what they
        // need; an answer after the time-out finds the queue gone and is dropped.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, self.api);
            let queue = sys::rd_kafka_queue_new(rk);
            let result = self.set(options).and_then(|()| {
                send(options, queue);
                let until = Instant::now() + self.timeout + SLACK;
                let event = loop {
                    let left = until.saturating_duration_since(Instant::now());
                    let event = sys::rd_kafka_queue_poll(queue, millis(left.min(LOOK)));
                    if !event.is_null() {
                        break event;
                    }
                    if left.is_zero() || !is_wanted() {
                        let timed_out = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                        return Err(Error::new(timed_out, ""));
                    }
                };
                let code = sys::rd_kafka_event_error(event);
                let result = if Error::check(code).is_ok() {
                    read(event)
                } else {
                    let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event));
                    Err(Error::new(code, text.to_string_lossy()))
                };
                sys::rd_kafka_event_destroy(event);
                result
            });
            sys::rd_kafka_queue_destroy(queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            result
        }
    }

    /// # Safety
    /// The options are alive.
    unsafe fn set(&self, options: *mut sys::rd_kafka_AdminOptions_t) -> Result<(), Error> {
        let mut text = [0; 512];
        let (errstr, size) = (text.as_mut_ptr(), text.len());
        // SAFETY: by the contract; librdkafka writes at most `size` bytes.
        unsafe {
            let timeout = millis(self.timeout);
            let code =
                sys::rd_kafka_AdminOptions_set_request_timeout(options, timeout, errstr, size);
            Error::check(code)?;
            if self.bounds_operation {
                let code = sys::rd_kafka_AdminOptions_set_operation_timeout(
                    options, timeout, errstr, size,
                );
                Error::check(code)?;
            }
            if self.validate_only {
                let code = sys::rd_kafka_AdminOptions_set_validate_only(options, 1, errstr, size);
                Error::check(code)?;
            }
            let Some(broker) = self.broker else {
                return Ok(());
            };
            let code = sys::rd_kafka_AdminOptions_set_broker(options, broker, errstr, size);
            Error::check(code)
        }
    }
}
