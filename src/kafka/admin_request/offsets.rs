//! Offsets of partitions and of groups. **Each call blocks.**
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::sync::Arc;

use rdkafka_sys as sys;

use super::native::{Owned, all, check, native};
use super::{AdminRequest, AdminRequests};
use crate::kafka::list::{self, List};
use crate::kafka::{Error, TopicPartition};

impl AdminRequests<'_> {
    /// An offset in each of these partitions of a topic: the first of a message with this timestamp or a later one, in
    /// milliseconds. `END` and `BEGINNING` of [`crate::wait::admin`] stand for these, and -1 in a result for none.
    /// The first error of a partition is the result.
    pub(crate) fn offsets_at(
        &self,
        topic: &str,
        partitions: &[i32],
        ms: i64,
    ) -> Result<Vec<(i32, i64)>, Error> {
        if partitions.is_empty() {
            return Ok(Vec::new());
        }
        let topic: Arc<str> = topic.into();
        let asked = partitions
            .iter()
            .map(|partition| TopicPartition::at(&topic, *partition, ms, -1));
        let asked = List::of(&asked.collect::<Vec<_>>());
        let request = self.request(sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS);
        // SAFETY: the request copies the list. The results live as long as the event.
        let found = unsafe {
            self.ask(
                &request,
                |rk, options, queue| sys::rd_kafka_ListOffsets(rk, asked.as_ptr(), options, queue),
                |event| {
                    let result = sys::rd_kafka_event_ListOffsets_result(event);
                    let get = |count| sys::rd_kafka_ListOffsets_result_infos(result, count);
                    let one = |info| {
                        let one = sys::rd_kafka_ListOffsetsResultInfo_topic_partition(info);
                        Error::check((*one).err).map(|()| ((*one).partition, (*one).offset))
                    };
                    all(get, one).into_iter().collect::<Result<Vec<_>, _>>()
                },
            )
        };
        found.map(|mut offsets| {
            offsets.sort_unstable();
            offsets
        })
    }

    /// The committed offsets of a group, each with an error of its own, if any. Without partitions: all that there are.
    pub(crate) fn committed_of(
        &self,
        group: &str,
        partitions: Option<&[TopicPartition]>,
    ) -> Result<Vec<TopicPartition>, Error> {
        let name = native(group)?;
        let list = partitions.map(List::of);
        let list = list.as_ref();
        let list = list.map_or(std::ptr::null_mut(), List::as_ptr);
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTCONSUMERGROUPOFFSETS;
        let request = self.request(api);
        // SAFETY: the object copies group and list, and the request the object.
        unsafe {
            let mut groups = Owned::new(sys::rd_kafka_ListConsumerGroupOffsets_destroy_array);
            groups.push(sys::rd_kafka_ListConsumerGroupOffsets_new(
                name.as_ptr(),
                list,
            ));
            let (objects, count) = groups.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_ListConsumerGroupOffsets(rk, objects, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_ListConsumerGroupOffsets_result(event);
                    read_group(|count| {
                        sys::rd_kafka_ListConsumerGroupOffsets_result_groups(result, count)
                    })
                },
            )
        }
    }

    /// Commits offsets for a group, which must not have members. Each has an error of its own, if any.
    pub(crate) fn commit_for(
        &self,
        group: &str,
        partitions: &[TopicPartition],
    ) -> Result<Vec<TopicPartition>, Error> {
        let name = native(group)?;
        let list = List::of(partitions);
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_ALTERCONSUMERGROUPOFFSETS;
        let request = self.request(api);
        // SAFETY: the object copies group and list, and the request the object.
        unsafe {
            let mut groups = Owned::new(sys::rd_kafka_AlterConsumerGroupOffsets_destroy_array);
            groups.push(sys::rd_kafka_AlterConsumerGroupOffsets_new(
                name.as_ptr(),
                list.as_ptr(),
            ));
            let (objects, count) = groups.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_AlterConsumerGroupOffsets(rk, objects, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_AlterConsumerGroupOffsets_result(event);
                    read_group(|count| {
                        sys::rd_kafka_AlterConsumerGroupOffsets_result_groups(result, count)
                    })
                },
            )
        }
    }

    /// Deletes the messages before these offsets. Each has an error of its own, if any, or the first offset that is
    /// left.
    pub(crate) fn delete_before(
        &self,
        partitions: &[TopicPartition],
    ) -> Result<Vec<TopicPartition>, Error> {
        let list = List::of(partitions);
        let api = sys::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DELETERECORDS;
        let request = AdminRequest {
            bounds_operation: true,
            ..self.request(api)
        };
        // SAFETY: the object copies the list, and the request the object. The result lives as long as the event.
        unsafe {
            let mut all = Owned::new(sys::rd_kafka_DeleteRecords_destroy_array);
            all.push(sys::rd_kafka_DeleteRecords_new(list.as_ptr()));
            let (objects, count) = all.parts();
            self.ask(
                &request,
                |rk, options, queue| {
                    sys::rd_kafka_DeleteRecords(rk, objects, count, options, queue);
                },
                |event| {
                    let result = sys::rd_kafka_event_DeleteRecords_result(event);
                    Ok(list::read(sys::rd_kafka_DeleteRecords_result_offsets(
                        result,
                    )))
                },
            )
        }
    }
}

/// The partitions of the one group in a result.
///
/// # Safety
/// As for `all`.
unsafe fn read_group(
    get: impl FnOnce(*mut usize) -> *mut *const sys::rd_kafka_group_result_t,
) -> Result<Vec<TopicPartition>, Error> {
    // SAFETY: by the contract; error and list live as long as the group.
    unsafe {
        let groups = all(get, |group| {
            check(sys::rd_kafka_group_result_error(group))?;
            Ok(list::read(sys::rd_kafka_group_result_partitions(group)))
        });
        let groups: Result<Vec<_>, Error> = groups.into_iter().collect();
        Ok(groups?.into_iter().flatten().collect())
    }
}
