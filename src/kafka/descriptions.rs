//! Descriptions of topics. A topic has an id beside its name: a topic that was deleted and created again has another.
//! **Each call blocks**, up to its time-out.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::{CStr, CString};
use std::ptr::NonNull;
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::queries::millis;
use super::{Client, Error};

/// The time for the answer to pass through librdkafka's queues, beyond the deadline of the request.
const SLACK: Duration = Duration::from_secs(1);

/// What the brokers say of one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Description {
    pub(crate) topic: Arc<str>,
    pub(crate) result: Result<Existing, Error>,
}

/// A topic that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Existing {
    /// Base64; `None` where the brokers have no ids (before Kafka 2.8).
    pub(crate) id: Option<String>,
    pub(crate) partitions: usize,
}

impl Client {
    /// Describes these topics, in one request to this broker. librdkafka would ask the controller, and wait where
    /// there is none. No topic is created by it. **Blocks** up to the time-out.
    pub(crate) fn describe(
        &self,
        topics: &[Arc<str>],
        broker: i32,
        timeout: Duration,
    ) -> Result<Vec<Description>, Error> {
        let names: Vec<CString> = topics
            .iter()
            .filter_map(|topic| CString::new(&**topic).ok())
            .collect();
        let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let rk = self.rk.as_ptr();
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let mut text = [0; 512];
        // SAFETY: the handle is alive. Collection, options and queue are made here and destroyed once, after the
        // call, which copies what it needs; an answer after the time-out finds the queue gone and is dropped.
        unsafe {
            let options = sys::rd_kafka_AdminOptions_new(rk, api);
            let (errstr, size) = (text.as_mut_ptr(), text.len());
            let is_set = Error::check(sys::rd_kafka_AdminOptions_set_request_timeout(
                options,
                millis(timeout),
                errstr,
                size,
            ))
            .and_then(|()| {
                let refused = sys::rd_kafka_AdminOptions_set_broker(options, broker, errstr, size);
                Error::check(refused)
            });
            let queue = sys::rd_kafka_queue_new(rk);
            let topics =
                sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let result = is_set.and_then(|()| {
                sys::rd_kafka_DescribeTopics(rk, topics, options, queue);
                let event = sys::rd_kafka_queue_poll(queue, millis(timeout + SLACK));
                NonNull::new(event).map_or_else(
                    || {
                        let timed_out = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                        Err(Error::new(timed_out, ""))
                    },
                    |event| read(event),
                )
            });
            sys::rd_kafka_TopicCollection_destroy(topics);
            sys::rd_kafka_queue_destroy(queue);
            sys::rd_kafka_AdminOptions_destroy(options);
            result
        }
    }
}

/// Copies and destroys the answer.
///
/// # Safety
/// The caller owns the event.
unsafe fn read(event: NonNull<sys::rd_kafka_event_t>) -> Result<Vec<Description>, Error> {
    let event = event.as_ptr();
    // SAFETY: by the contract; the result and its descriptions live as long as the event.
    unsafe {
        let code = sys::rd_kafka_event_error(event);
        let descriptions = if Error::check(code).is_ok() {
            let result = sys::rd_kafka_event_DescribeTopics_result(event);
            let mut count = 0;
            let all = if result.is_null() {
                std::ptr::null_mut()
            } else {
                sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count)
            };
            Ok((0..count)
                .map(|index| description(*all.add(index)))
                .collect())
        } else {
            let text = CStr::from_ptr(sys::rd_kafka_event_error_string(event));
            Err(Error::new(code, text.to_string_lossy()))
        };
        sys::rd_kafka_event_destroy(event);
        descriptions
    }
}

/// # Safety
/// The description is alive.
unsafe fn description(one: *const sys::rd_kafka_TopicDescription_t) -> Description {
    // SAFETY: by the contract: name, id and error live as long as the description, which owns the error.
    unsafe {
        let topic = CStr::from_ptr(sys::rd_kafka_TopicDescription_name(one));
        let error = sys::rd_kafka_TopicDescription_error(one);
        let code = if error.is_null() {
            sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR
        } else {
            sys::rd_kafka_error_code(error)
        };
        let mut partitions = 0;
        sys::rd_kafka_TopicDescription_partitions(one, &raw mut partitions);
        let id = sys::rd_kafka_TopicDescription_topic_id(one);
        let is_zero = id.is_null()
            || (sys::rd_kafka_Uuid_most_significant_bits(id) == 0
                && sys::rd_kafka_Uuid_least_significant_bits(id) == 0);
        let text = || {
            CStr::from_ptr(sys::rd_kafka_Uuid_base64str(id))
                .to_string_lossy()
                .into_owned()
        };
        let id = (!is_zero).then(text);
        Description {
            topic: topic.to_string_lossy().into(),
            result: Error::check(code).map(|()| Existing { id, partitions }),
        }
    }
}
