//! Topics that are created, grow, or are deleted. **Each call blocks.**
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use rdkafka_sys as sys;

use super::native::{Owned, Sentence, native, natives, topics};
use super::{AdminRequest, AdminRequests, Changes};
use crate::kafka::Error;
use crate::wait::admin::{MorePartitions, NewTopic};

/// librdkafka reports a wrong argument of an object by a sentence without a code.
const WRONG: sys::rd_kafka_resp_err_t = sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__INVALID_ARG;

impl AdminRequests<'_> {
    pub(crate) fn create_topics(
        &self,
        new: &[NewTopic],
        validate_only: bool,
    ) -> Result<Changes, Error> {
        let request = AdminRequest {
            validate_only,
            bounds_operation: true,
            ..self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATETOPICS)
        };
        // SAFETY: the request copies the objects. The results live as long as the event.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_NewTopic_destroy_array);
            for topic in new {
                objects.push(new_topic(topic)?);
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_CreateTopics(rk, first, count, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_CreateTopics_result(event);
                    Ok(topics(|count| {
                        sys::rd_kafka_CreateTopics_result_topics(result, count)
                    }))
                },
            )
        }
    }

    pub(crate) fn create_partitions(
        &self,
        more: &[MorePartitions],
        validate_only: bool,
    ) -> Result<Changes, Error> {
        let request = AdminRequest {
            validate_only,
            bounds_operation: true,
            ..self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_CREATEPARTITIONS)
        };
        // SAFETY: as above.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_NewPartitions_destroy_array);
            for topic in more {
                objects.push(new_partitions(topic)?);
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_CreatePartitions(rk, first, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_CreatePartitions_result(event);
                    Ok(topics(|count| {
                        sys::rd_kafka_CreatePartitions_result_topics(result, count)
                    }))
                },
            )
        }
    }

    pub(crate) fn delete_topics(&self, names: &[String]) -> Result<Changes, Error> {
        let names = natives(names)?;
        let request = AdminRequest {
            bounds_operation: true,
            ..self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETETOPICS)
        };
        // SAFETY: as above.
        unsafe {
            let mut objects = Owned::new(sys::rd_kafka_DeleteTopic_destroy_array);
            for name in &names {
                objects.push(sys::rd_kafka_DeleteTopic_new(name.as_ptr()));
            }
            let (first, count) = objects.parts();
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_DeleteTopics(rk, first, count, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_DeleteTopics_result(event);
                    Ok(topics(|count| {
                        sys::rd_kafka_DeleteTopics_result_topics(result, count)
                    }))
                },
            )
        }
    }
}

fn new_topic(topic: &NewTopic) -> Result<*mut sys::rd_kafka_NewTopic_t, Error> {
    let name = native(&topic.name)?;
    let settings = topic.settings.iter();
    let settings: Vec<_> = settings
        .map(|(name, value)| Ok((native(name)?, native(value)?)))
        .collect::<Result<_, Error>>()?;
    // librdkafka takes the number from the assignment, and wants none beside it.
    let (partitions, replication) = if topic.replicas.is_empty() {
        (topic.partitions, topic.replication)
    } else {
        (topic.replicas.len() as i32, -1)
    };
    let mut sentence = Sentence::new();
    // SAFETY: the calls copy their arguments. After an error the object is destroyed here.
    unsafe {
        let (text, size) = sentence.parts();
        let object = sys::rd_kafka_NewTopic_new(name.as_ptr(), partitions, replication, text, size);
        if object.is_null() {
            return Err(sentence.error(WRONG));
        }
        for (name, value) in &settings {
            let code = sys::rd_kafka_NewTopic_set_config(object, name.as_ptr(), value.as_ptr());
            if let Err(error) = Error::check(code) {
                sys::rd_kafka_NewTopic_destroy(object);
                return Err(error);
            }
        }
        for (partition, brokers) in (0..).zip(&topic.replicas) {
            let mut brokers = brokers.clone();
            let (text, size) = sentence.parts();
            let code = sys::rd_kafka_NewTopic_set_replica_assignment(
                object,
                partition,
                brokers.as_mut_ptr(),
                brokers.len(),
                text,
                size,
            );
            if Error::check(code).is_err() {
                sys::rd_kafka_NewTopic_destroy(object);
                return Err(sentence.error(code));
            }
        }
        Ok(object)
    }
}

fn new_partitions(more: &MorePartitions) -> Result<*mut sys::rd_kafka_NewPartitions_t, Error> {
    let name = native(&more.topic)?;
    let mut sentence = Sentence::new();
    // SAFETY: as above.
    unsafe {
        let (text, size) = sentence.parts();
        let object = sys::rd_kafka_NewPartitions_new(name.as_ptr(), more.count, text, size);
        if object.is_null() {
            return Err(sentence.error(WRONG));
        }
        for (index, brokers) in (0..).zip(&more.replicas) {
            let mut brokers = brokers.clone();
            let (text, size) = sentence.parts();
            let code = sys::rd_kafka_NewPartitions_set_replica_assignment(
                object,
                index,
                brokers.as_mut_ptr(),
                brokers.len(),
                text,
                size,
            );
            if Error::check(code).is_err() {
                sys::rd_kafka_NewPartitions_destroy(object);
                return Err(sentence.error(code));
            }
        }
        Ok(object)
    }
}
