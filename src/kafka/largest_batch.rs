//! The largest batch that a topic accepts, as its configuration says. **The call blocks**, up to its time-out.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::time::Duration;

use rdkafka_sys as sys;

use super::Error;
use super::producer::Producer;
use super::queries::millis;

/// The setting of a topic; a broker's own limit is its default.
const LIMIT: &CStr = c"max.message.bytes";

/// The time for the answer to pass through librdkafka's queues, beyond the deadline of the request.
const SLACK: Duration = Duration::from_millis(500);

impl Producer {
    /// `None` where the brokers do not tell it. An error may end by itself, or be a missing right.
    pub(crate) fn largest_batch(
        &self,
        topic: &str,
        timeout: Duration,
    ) -> Result<Option<usize>, Error> {
        let name = CString::new(topic).map_err(|_| Error::fatal("a topic name with a NUL byte"))?;
        let rk = self.native();
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let mut text = [0; 512];
        // SAFETY: the handle is alive. Resource, options and queue are made here and destroyed once, after the call,
        // which copies what it needs; an answer after the time-out finds the queue gone and is dropped.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, api);
            let is_set = Error::check(sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                millis(timeout),
                text.as_mut_ptr(),
                text.len(),
            ));
            let queue = sys::rd_kafka_queue_new(rk);
            let mut resource = sys::rd_kafka_ConfigResource_new(kind, name.as_ptr());
            let result = is_set.and_then(|()| {
                sys::rd_kafka_DescribeConfigs(rk, &raw mut resource, 1, options, queue);
                let event = sys::rd_kafka_queue_poll(queue, millis(timeout + SLACK));
                NonNull::new(event).map_or_else(
                    || {
                        let timed_out = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                        Err(Error::new(timed_out, ""))
                    },
                    |event| read(event),
                )
            });
            sys::rd_kafka_ConfigResource_destroy(resource);
            sys::rd_kafka_queue_destroy(queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            result
        }
    }
}

/// Reads and destroys the answer.
///
/// # Safety
/// The caller owns the event.
unsafe fn read(event: NonNull<sys::rd_kafka_event_t>) -> Result<Option<usize>, Error> {
    let event = event.as_ptr();
    // SAFETY: by the contract; the result and its resources live as long as the event.
    unsafe {
        let code = sys::rd_kafka_event_error(event);
        let limit = if Error::check(code).is_ok() {
            let result = sys::rd_kafka_event_DescribeConfigs_result(event);
            let mut count = 0;
            let all = if result.is_null() {
                std::ptr::null_mut()
            } else {
                sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count)
            };
            if count == 0 { Ok(None) } else { limit_of(*all) }
        } else {
            let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event));
            Err(Error::new(code, text.to_string_lossy()))
        };
        sys::rd_kafka_event_destroy(event);
        limit
    }
}

/// # Safety
/// The resource is alive.
unsafe fn limit_of(
    resource: *const sys::rd_kafka_ConfigResource_t,
) -> Result<Option<usize>, Error> {
    // SAFETY: by the contract: the entries live as long as the resource, and a value may be null.
    unsafe {
        Error::check(sys::rd_kafka_ConfigResource_error(resource))?;
        let mut count = 0;
        let entries = sys::rd_kafka_ConfigResource_configs(resource, &raw mut count);
        let of = |index| {
            let entry: *const sys::rd_kafka_ConfigEntry_t = *entries.add(index);
            let value = sys::rd_kafka_ConfigEntry_value(entry);
            let is_limit = CStr::from_ptr(sys::rd_kafka_ConfigEntry_name(entry)) == LIMIT;
            (is_limit && !value.is_null()).then(|| CStr::from_ptr(value))
        };
        let value = (0..count).find_map(of);
        Ok(value.and_then(|value| value.to_str().ok()?.parse().ok()))
    }
}
