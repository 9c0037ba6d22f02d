//! The largest batch that each topic accepts, as its configuration says. **The call blocks**, up to its time-out.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::collections::HashMap;
use std::ffi::{CStr, CString};
use std::ptr;
use std::time::{Duration, Instant};

use rdkafka_sys as sys;

use super::Error;
use super::admin_request::AdminRequest;
use super::producer::Producer;
use super::queries::millis;

/// The setting of a topic; a broker's own limit is its default.
const LIMIT: &CStr = c"max.message.bytes";

/// The limit of each topic: `None` where the brokers do not tell it. An error may end by itself, or be a missing right.
pub(crate) type Limits = HashMap<String, Result<Option<usize>, Error>>;

impl Producer {
    /// Asks for all these topics at once.
    pub(crate) fn largest_batches(
        &self,
        topics: &[String],
        timeout: Duration,
    ) -> Result<Limits, Error> {
        let names = topics.iter().map(|topic| CString::new(topic.as_str()));
        let names: Vec<CString> = names
            .collect::<Result<_, _>>()
            .map_err(|_| Error::fatal("a topic name with a NUL byte"))?;
        let deadline = Instant::now() + timeout;
        let broker = self.broker_for_questions(timeout)?;
        let left = deadline.saturating_duration_since(Instant::now());
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECONFIGS;
        let request = AdminRequest {
            broker,
            ..AdminRequest::new(api, left.max(Duration::from_millis(1)))
        };
        let kind = sys::rd_kafka_ResourceType_t::RD_KAFKA_RESOURCE_TOPIC;
        let rk = self.native();
        // SAFETY: the handle is alive. The resources are destroyed once, after the request, which copies them.
        unsafe {
            let resources = names.iter();
            let mut resources: Vec<_> = resources
                .map(|name| sys::rd_kafka_ConfigResource_new(kind, name.as_ptr()))
                .collect();
            let (all, count) = (resources.as_mut_ptr(), resources.len());
            let send = |options, queue| {
                sys::rd_kafka_DescribeConfigs(rk, all, count, options, queue);
            };
            let limits = request.ask(rk, send, |event| Ok(read(event)));
            sys::rd_kafka_ConfigResource_destroy_array(all, count);
            limits
        }
    }

    /// `None` is the controller. librdkafka waits for it until the time is over, also for one that is none of the
    /// brokers, as in the embedded broker. Any other broker knows the configuration of topics as well.
    fn broker_for_questions(&self, timeout: Duration) -> Result<Option<i32>, Error> {
        let mut metadata: *const sys::rd_kafka_metadata = ptr::null();
        let all_topics = 0;
        // SAFETY: the handle is alive, and the out-pointer is a local variable; the result is read once and freed.
        unsafe {
            Error::check(sys::rd_kafka_metadata(
                self.native(),
                all_topics,
                ptr::null_mut(),
                &raw mut metadata,
                millis(timeout),
            ))?;
            let count = usize::try_from((*metadata).broker_cnt).unwrap_or(0);
            let of = |index| (*(*metadata).brokers.add(index)).id;
            let brokers: Vec<i32> = (0..count).map(of).collect();
            // The answer may come by a connection of the configuration's address, which has no id.
            let answers = Some((*metadata).orig_broker_id).filter(|id| *id >= 0);
            sys::rd_kafka_metadata_destroy(metadata);
            let controller = sys::rd_kafka_controllerid(self.native(), 0);
            let is_there = brokers.contains(&controller);
            let other = answers.or(brokers.first().copied());
            Ok(other.filter(|_| !is_there))
        }
    }
}

/// # Safety
/// The event is the answer without an error.
unsafe fn read(event: *mut sys::rd_kafka_event_t) -> Limits {
    // SAFETY: by the contract; the result and its resources live as long as the event.
    unsafe {
        let result = sys::rd_kafka_event_DescribeConfigs_result(event);
        if result.is_null() {
            return Limits::new();
        }
        let mut count = 0;
        let all = sys::rd_kafka_DescribeConfigs_result_resources(result, &raw mut count);
        let of = |index| {
            let resource = *all.add(index);
            let name = CStr::from_ptr(sys::rd_kafka_ConfigResource_name(resource));
            (name.to_string_lossy().into_owned(), limit_of(resource))
        };
        (0..count).map(of).collect()
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
