//! Conversion of librdkafka's list of topic partitions to and from plain Rust values.
//!
//! The crate's own list does not carry leader epochs. Without them a truncated log looks like one that retention
//! shortened.
#![expect(
    unsafe_code,
    reason = "librdkafka's lists are C structs that we fill and read"
)]

use std::ffi::{CStr, CString};
use std::ptr;
use std::sync::Arc;

use rdkafka_sys as sys;

use super::Error;

/// One partition with its data; the call decides which fields count.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TopicPartition {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    /// The next offset; negative for none.
    pub(crate) offset: i64,
    /// -1 when unknown.
    pub(crate) leader_epoch: i32,
    /// The metadata of a commit; empty for none.
    pub(crate) metadata: String,
    pub(crate) error: Option<Error>,
}

/// No offset: the value that a query passes in.
pub(crate) const NO_OFFSET: i64 = -1001;

impl TopicPartition {
    pub(crate) fn new(topic: &Arc<str>, partition: i32) -> Self {
        Self::at(topic, partition, NO_OFFSET, -1)
    }

    pub(crate) fn at(topic: &Arc<str>, partition: i32, offset: i64, leader_epoch: i32) -> Self {
        Self {
            topic: topic.clone(),
            partition,
            offset,
            leader_epoch,
            metadata: String::new(),
            error: None,
        }
    }
}

/// An owned native list.
pub(super) struct List(ptr::NonNull<sys::rd_kafka_topic_partition_list_t>);

impl List {
    pub(super) fn of(partitions: &[TopicPartition]) -> Self {
        // SAFETY: librdkafka allocates the list and aborts when it cannot, so it is never null.
        let list = unsafe {
            ptr::NonNull::new_unchecked(sys::rd_kafka_topic_partition_list_new(
                partitions.len() as i32
            ))
        };
        for one in partitions {
            let Ok(topic) = CString::new(&*one.topic) else {
                continue;
            };
            // SAFETY: this value owns the list; `add` returns an element of it, valid until the next `add`.
            unsafe {
                let element = sys::rd_kafka_topic_partition_list_add(
                    list.as_ptr(),
                    topic.as_ptr(),
                    one.partition,
                );
                (*element).offset = one.offset;
                if one.leader_epoch >= 0 {
                    sys::rd_kafka_topic_partition_set_leader_epoch(element, one.leader_epoch);
                }
                if !one.metadata.is_empty() {
                    // librdkafka frees the metadata together with the list, by `free`: it must come from malloc.
                    let copy = libc::malloc(one.metadata.len());
                    if !copy.is_null() {
                        ptr::copy_nonoverlapping(
                            one.metadata.as_ptr(),
                            copy.cast(),
                            one.metadata.len(),
                        );
                        (*element).metadata = copy;
                        (*element).metadata_size = one.metadata.len();
                    }
                }
            }
        }
        Self(list)
    }

    /// For `subscribe`, which takes topics only.
    pub(super) fn of_topics(topics: &[Arc<str>]) -> Self {
        let unassigned = -1;
        Self::of(
            &topics
                .iter()
                .map(|topic| TopicPartition::new(topic, unassigned))
                .collect::<Vec<_>>(),
        )
    }

    pub(super) fn as_ptr(&self) -> *mut sys::rd_kafka_topic_partition_list_t {
        self.0.as_ptr()
    }

    pub(super) fn read(&self) -> Vec<TopicPartition> {
        // SAFETY: this value owns the list, which is alive.
        unsafe { read(self.as_ptr()) }
    }
}

impl Drop for List {
    fn drop(&mut self) {
        // SAFETY: made by `of`, destroyed only here.
        unsafe { sys::rd_kafka_topic_partition_list_destroy(self.as_ptr()) }
    }
}

/// Copies a native list.
///
/// # Safety
/// `list` is null or a live list.
pub(super) unsafe fn read(
    list: *const sys::rd_kafka_topic_partition_list_t,
) -> Vec<TopicPartition> {
    if list.is_null() {
        return Vec::new();
    }
    // SAFETY: by the contract; `cnt` elements are at `elems`.
    let elements = unsafe { (*list).elems };
    // SAFETY: likewise.
    let count = unsafe { (*list).cnt };
    (0..count as usize)
        .map(|index| {
            // SAFETY: index < cnt; topic is a NUL-terminated string that lives as long as the list, and metadata is
            // null or has metadata_size bytes.
            unsafe {
                let element = elements.add(index);
                let metadata = if (*element).metadata.is_null() {
                    String::new()
                } else {
                    let bytes = std::slice::from_raw_parts(
                        (*element).metadata.cast::<u8>(),
                        (*element).metadata_size,
                    );
                    String::from_utf8_lossy(bytes).into_owned()
                };
                TopicPartition {
                    topic: CStr::from_ptr((*element).topic).to_string_lossy().into(),
                    partition: (*element).partition,
                    offset: (*element).offset,
                    leader_epoch: sys::rd_kafka_topic_partition_get_leader_epoch(element),
                    metadata,
                    error: Error::check((*element).err).err(),
                }
            }
        })
        .collect()
}
