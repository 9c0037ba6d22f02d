//! One request of librdkafka's admin API on a handle that exists: options, a queue of its own, and the wait for the
//! answer. **The call blocks**, up to its time-out.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::CStr;
use std::time::Duration;

use rdkafka_sys as sys;

use super::Error;
use super::queries::millis;

/// The time for the answer to pass through librdkafka's queues, beyond the deadline of the request.
const SLACK: Duration = Duration::from_secs(1);

pub(super) struct AdminRequest {
    pub(super) api: sys::rd_kafka_admin_op_t,
    /// `None`: librdkafka chooses the broker.
    pub(super) broker: Option<i32>,
    pub(super) timeout: Duration,
}

impl AdminRequest {
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
        // SAFETY: options, queue and event are made here and destroyed once, after the calls, which copy what they
        // need; an answer after the time-out finds the queue gone and is dropped.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, self.api);
            let queue = sys::rd_kafka_queue_new(rk);
            let result = self.set(options).and_then(|()| {
                send(options, queue);
                let event = sys::rd_kafka_queue_poll(queue, millis(self.timeout + SLACK));
                if event.is_null() {
                    let timed_out = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                    return Err(Error::new(timed_out, ""));
                }
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
            let Some(broker) = self.broker else {
                return Ok(());
            };
            let code = sys::rd_kafka_AdminOptions_set_broker(options, broker, errstr, size);
            Error::check(code)
        }
    }
}
