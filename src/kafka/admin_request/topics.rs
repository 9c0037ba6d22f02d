//! What the brokers say of topics and of themselves. **Each call blocks.**
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::ptr;
use std::time::{Duration, Instant};

use rdkafka_sys as sys;

use super::native::{all, check, natives, node_id, text};
use super::{AdminRequest, AdminRequests, LOOK, Named};
use crate::kafka::queries::millis;
use crate::kafka::{Class, Error};

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicMetadata {
    pub(crate) name: String,
    pub(crate) partitions: Vec<PartitionMetadata>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PartitionMetadata {
    pub(crate) id: i32,
    /// The code of Kafka's protocol; 0 for none.
    pub(crate) error: i32,
    /// -1 for none.
    pub(crate) leader: i32,
    pub(crate) replicas: Vec<i32>,
    pub(crate) in_sync: Vec<i32>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Cluster {
    pub(crate) id: Option<String>,
    /// The id of the controller; -1 for none.
    pub(crate) controller: i32,
    /// Id, host and port of each broker.
    pub(crate) brokers: Vec<(i32, String, u16)>,
}

/// Nothing can end librdkafka's call for metadata. So its first attempts are short.
const FIRST: Duration = Duration::from_secs(1);

/// Kafka's code for a partition without a leader.
const NO_LEADER: i32 = 5;

impl AdminRequests<'_> {
    /// All topics; none is created by it.
    pub(crate) fn all_topics(&self) -> Result<Vec<TopicMetadata>, Error> {
        // SAFETY: `topic_cnt` topics are at `topics`.
        self.metadata(true, |metadata| unsafe {
            let topics = (0..(*metadata).topic_cnt as usize)
                .filter_map(|index| read_topic((*metadata).topics.add(index)));
            topics.collect()
        })
    }

    /// The broker for a question that each of them answers; `None` for the controller. librdkafka would ask the
    /// controller, and wait where there is none.
    fn any_broker(&self) -> Result<Option<i32>, Error> {
        let rk = self.client.native();
        self.metadata(false, |metadata| {
            // SAFETY: `broker_cnt` brokers are at `brokers`. The client keeps its handle alive, and without a time-out
            // the call only reads what the client has.
            unsafe {
                let count = (*metadata).broker_cnt.max(0) as usize;
                let ids = (0..count).map(|index| (*(*metadata).brokers.add(index)).id);
                let ids: Vec<i32> = ids.collect();
                if ids.contains(&sys::rd_kafka_controllerid(rk, 0)) {
                    return None;
                }
                // An answer by the connection to an address of the configuration has no id.
                let answered = ids.iter().find(|id| **id == (*metadata).orig_broker_id);
                answered.or(ids.first()).copied()
            }
        })
    }

    /// What the brokers say of all topics, or of none.
    fn metadata<T>(
        &self,
        of_topics: bool,
        read: impl Fn(*const sys::rd_kafka_metadata) -> T,
    ) -> Result<T, Error> {
        let mut attempt = FIRST;
        loop {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let result = self.metadata_within(of_topics, left.min(attempt).max(LOOK), &read);
            let is_last = left <= attempt || !(self.is_wanted)();
            match result {
                Err(error) if error.is_without_connection() && !is_last => attempt *= 2,
                result => return result,
            }
        }
    }

    fn metadata_within<T>(
        &self,
        of_topics: bool,
        timeout: Duration,
        read: impl Fn(*const sys::rd_kafka_metadata) -> T,
    ) -> Result<T, Error> {
        let mut metadata: *const sys::rd_kafka_metadata = ptr::null();
        let rk = self.client.native();
        // SAFETY: the client keeps its handle alive, and has no topics of its own. The out-pointer is a local variable,
        // and the result is read and freed once.
        unsafe {
            Error::check(sys::rd_kafka_metadata(
                rk,
                of_topics.into(),
                ptr::null_mut(),
                &raw mut metadata,
                millis(timeout),
            ))?;
            let value = read(metadata);
            sys::rd_kafka_metadata_destroy(metadata);
            Ok(value)
        }
    }

    /// These topics, each with an error of its own; none is created by it.
    pub(crate) fn topics(&self, names: &[String]) -> Result<Vec<Named<TopicMetadata>>, Error> {
        if names.is_empty() {
            return Ok(Vec::new());
        }
        let names = natives(names)?;
        let mut names: Vec<_> = names.iter().map(|name| name.as_ptr()).collect();
        let request = AdminRequest {
            broker: self.any_broker()?,
            ..self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS)
        };
        // SAFETY: the collection is destroyed once, after the request, which copies the names. The descriptions live as
        // long as the event.
        unsafe {
            let topics =
                sys::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
            let found = self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_DescribeTopics(rk, topics, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_DescribeTopics_result(event);
                    let get = |count| sys::rd_kafka_DescribeTopics_result_topics(result, count);
                    Ok(all(get, |one| described(one)))
                },
            );
            sys::rd_kafka_TopicCollection_destroy(topics);
            found
        }
    }

    pub(crate) fn cluster(&self) -> Result<Cluster, Error> {
        let request = AdminRequest {
            broker: self.any_broker()?,
            ..self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBECLUSTER)
        };
        // SAFETY: the result and its nodes live as long as the event.
        unsafe {
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_DescribeCluster(rk, options, queue),
                |event| {
                    let result = sys::rd_kafka_event_DescribeCluster_result(event);
                    let get = |count| sys::rd_kafka_DescribeCluster_result_nodes(result, count);
                    let broker = |node| {
                        let host = text(sys::rd_kafka_Node_host(node));
                        let port = sys::rd_kafka_Node_port(node);
                        (node_id(node), host.unwrap_or_default(), port)
                    };
                    Ok(Cluster {
                        id: text(sys::rd_kafka_DescribeCluster_result_cluster_id(result)),
                        controller: node_id(sys::rd_kafka_DescribeCluster_result_controller(
                            result,
                        )),
                        brokers: all(get, broker),
                    })
                },
            )
        }
    }
}

/// `None` for a topic that is not there, or not for this client.
///
/// # Safety
/// The topic is alive.
unsafe fn read_topic(topic: *const sys::rd_kafka_metadata_topic) -> Option<TopicMetadata> {
    // SAFETY: by the contract; `partition_cnt` partitions are at `partitions`, and likewise with their brokers.
    unsafe {
        let error = Error::check((*topic).err).err();
        if error.is_some_and(|error| error.class() != Class::Transient) {
            return None;
        }
        let ids = |first: *const i32, count: i32| -> Vec<i32> {
            (0..count.max(0) as usize)
                .map(|index| *first.add(index))
                .collect()
        };
        let partition = |index| {
            let one = (*topic).partitions.add(index);
            PartitionMetadata {
                id: (*one).id,
                error: (*one).err as i32,
                leader: (*one).leader,
                replicas: ids((*one).replicas, (*one).replica_cnt),
                in_sync: ids((*one).isrs, (*one).isr_cnt),
            }
        };
        let partitions = (0..(*topic).partition_cnt.max(0) as usize).map(partition);
        Some(TopicMetadata {
            name: text((*topic).topic)?,
            partitions: in_order(partitions.collect()),
        })
    }
}

/// # Safety
/// The description is alive.
unsafe fn described(
    one: *const sys::rd_kafka_TopicDescription_t,
) -> Result<TopicMetadata, (String, Error)> {
    // SAFETY: by the contract; its parts live as long.
    unsafe {
        let name = text(sys::rd_kafka_TopicDescription_name(one)).unwrap_or_default();
        if let Err(error) = check(sys::rd_kafka_TopicDescription_error(one)) {
            return Err((name, error));
        }
        let partition = |part| {
            let leader = node_id(sys::rd_kafka_TopicPartitionInfo_leader(part));
            let replicas = |count| sys::rd_kafka_TopicPartitionInfo_replicas(part, count);
            let in_sync = |count| sys::rd_kafka_TopicPartitionInfo_isr(part, count);
            PartitionMetadata {
                id: sys::rd_kafka_TopicPartitionInfo_partition(part),
                // This request has no error of a partition, beside the missing leader.
                error: if leader < 0 { NO_LEADER } else { 0 },
                leader,
                replicas: all(replicas, |node| node_id(node)),
                in_sync: all(in_sync, |node| node_id(node)),
            }
        };
        let get = |count| sys::rd_kafka_TopicDescription_partitions(one, count);
        let partitions = in_order(all(get, partition));
        Ok(TopicMetadata { name, partitions })
    }
}

fn in_order(mut partitions: Vec<PartitionMetadata>) -> Vec<PartitionMetadata> {
    partitions.sort_by_key(|partition| partition.id);
    partitions
}
