//! Queries of the consumer's handle that need an answer of the brokers. **Each blocks**, up to its time-out, so the
//! consumer's thread never calls them.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ffi::{CStr, CString, c_int};
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use rdkafka_sys as sys;

use super::list::List;
use super::{Class, Client, Error, TopicPartition};

impl Client {
    /// The group's committed offsets with their leader epochs; each has an error of its own, if any. **Blocks** up to
    /// the time-out.
    pub(crate) fn committed(
        &self,
        partitions: &[TopicPartition],
        timeout: Duration,
    ) -> Result<Vec<TopicPartition>, Error> {
        let list = List::of(partitions);
        // SAFETY: handle and list are alive; the list is filled in place.
        Error::check(unsafe {
            sys::rd_kafka_committed(self.rk.as_ptr(), list.as_ptr(), millis(timeout))
        })?;
        Ok(list.read())
    }

    /// First and next offset of a partition, from its leader. **Blocks** up to the time-out.
    pub(crate) fn watermarks(
        &self,
        topic: &str,
        partition: i32,
        timeout: Duration,
    ) -> Result<(i64, i64), Error> {
        let topic =
            CString::new(topic).map_err(|_| Error::fatal("a topic name with a NUL byte"))?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the out-pointers are local variables.
        Error::check(unsafe {
            sys::rd_kafka_query_watermark_offsets(
                self.rk.as_ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
                millis(timeout),
            )
        })?;
        Ok((low, high))
    }

    /// The offset of the first message of this time or a later one; `None` if there is none yet. **Blocks** up to the
    /// time-out.
    pub(crate) fn offset_at(
        &self,
        topic: &Arc<str>,
        partition: i32,
        ms: i64,
        timeout: Duration,
    ) -> Result<Option<i64>, Error> {
        let list = List::of(&[TopicPartition::at(topic, partition, ms, -1)]);
        // SAFETY: handle and list are alive; the list is filled in place.
        Error::check(unsafe {
            sys::rd_kafka_offsets_for_times(self.rk.as_ptr(), list.as_ptr(), millis(timeout))
        })?;
        let found = list.read().into_iter().next();
        match found {
            Some(TopicPartition {
                error: Some(error), ..
            }) => Err(error),
            // -1 stands for the end.
            Some(one) => Ok(Some(one.offset).filter(|offset| *offset >= 0)),
            None => Ok(None),
        }
    }

    /// The id of a broker that answers. **Blocks** up to the time-out.
    ///
    /// It asks for all topics: a question for the known ones lets the brokers create those that are missing.
    pub(crate) fn broker_id(&self, timeout: Duration) -> Result<i32, Error> {
        let mut metadata: *const sys::rd_kafka_metadata = ptr::null();
        let all = 1;
        // SAFETY: the out-pointer is a local variable; the result is read once and freed.
        unsafe {
            Error::check(sys::rd_kafka_metadata(
                self.rk.as_ptr(),
                all,
                ptr::null_mut(),
                &raw mut metadata,
                millis(timeout),
            ))?;
            // The answer may come by a connection of the configuration's address, which has no id.
            let mut id = (*metadata).orig_broker_id;
            if id < 0 && (*metadata).broker_cnt > 0 {
                id = (*(*metadata).brokers).id;
            }
            sys::rd_kafka_metadata_destroy(metadata);
            if id < 0 {
                let timed_out = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__TIMED_OUT;
                return Err(Error::new(timed_out, "no broker has told its id"));
            }
            Ok(id)
        }
    }

    /// The id of the cluster; `None` if no broker has told it in time. **Blocks** up to the time-out.
    pub(crate) fn cluster_id(&self, timeout: Duration) -> Option<String> {
        // SAFETY: the handle is alive; librdkafka allocates the string, which is copied and freed once.
        unsafe {
            let id = sys::rd_kafka_clusterid(self.rk.as_ptr(), millis(timeout));
            if id.is_null() {
                return None;
            }
            let text = CStr::from_ptr(id).to_string_lossy().into_owned();
            sys::rd_kafka_mem_free(self.rk.as_ptr(), id.cast());
            Some(text)
        }
    }

    /// All existing topics, with the number of their partitions. **Blocks** up to the time-out.
    pub(crate) fn topics(&self, timeout: Duration) -> Result<Vec<(String, usize)>, Error> {
        let mut metadata: *const sys::rd_kafka_metadata = ptr::null();
        let all = 1;
        // SAFETY: the out-pointer is a local variable; the result is freed below.
        Error::check(unsafe {
            sys::rd_kafka_metadata(
                self.rk.as_ptr(),
                all,
                ptr::null_mut(),
                &raw mut metadata,
                millis(timeout),
            )
        })?;
        let mut topics = Vec::new();
        // SAFETY: `topic_cnt` topics are at `topics`, each with a NUL-terminated name.
        unsafe {
            for index in 0..(*metadata).topic_cnt as usize {
                let topic = (*metadata).topics.add(index);
                // A topic between two leaders exists all the same.
                let error = Error::check((*topic).err).err();
                if error.is_none_or(|error| error.class() == Class::Transient) {
                    let name = CStr::from_ptr((*topic).topic)
                        .to_string_lossy()
                        .into_owned();
                    topics.push((name, (*topic).partition_cnt as usize));
                }
            }
            sys::rd_kafka_metadata_destroy(metadata);
        }
        Ok(topics)
    }
}

pub(super) fn millis(duration: Duration) -> c_int {
    c_int::try_from(duration.as_millis()).unwrap_or(c_int::MAX)
}
