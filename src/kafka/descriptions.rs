//! Descriptions of topics. A topic has an id beside its name: a topic that was deleted and created again has another.
//! **Each call blocks**, up to its time-out.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::{CStr, CString};
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::admin_request::AdminRequest;
use super::{Client, Error};

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
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        let request = AdminRequest {
            broker: Some(broker),
            ..AdminRequest::new(api, timeout)
        };
        let rk = self.rk.as_ptr();
        // SAFETY: the handle is alive. The collection is destroyed once, after the request, which copies the names.
        unsafe {
            let topics =
                sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let send = |options, queue| sys::rd_kafka_DescribeTopics(rk, topics, options, queue);
            let descriptions = request.ask(rk, send, |event| Ok(read(event)));
            sys::rd_kafka_TopicCollection_destroy(topics);
            descriptions
        }
    }
}

/// # Safety
/// The event is the answer without an error.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Vec<Description> {
    // SAFETY: by the contract; the result and its descriptions live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Vec::new();
        }
        let mut count = 0;
        let all = sys::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        (0..count)
            .map(|index| description(*all.add(index)))
            .collect()
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
