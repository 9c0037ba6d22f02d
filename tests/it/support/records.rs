//! What lies in a topic, every byte of it.
#![expect(
    unsafe_code,
    reason = "the safe reader of headers panics on names that are not UTF-8"
)]

use std::ffi::CStr;
use std::ptr;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::BorrowedMessage;
use rdkafka::{Message as _, Offset, TopicPartitionList};

use super::kafka::Kafka;
use super::wait::{DEADLINE, wait_for};

/// A record as it was read; the fields are Kafka's.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Record {
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    pub(crate) timestamp: Option<i64>,
    pub(crate) key: Option<Vec<u8>>,
    pub(crate) value: Option<Vec<u8>>,
    pub(crate) headers: Vec<(Vec<u8>, Option<Vec<u8>>)>,
}

impl Record {
    /// The text of the only header of that name.
    #[track_caller]
    pub(crate) fn header(&self, name: &str) -> String {
        let all: Vec<_> = self
            .headers
            .iter()
            .filter(|one| one.0 == name.as_bytes())
            .collect();
        assert_eq!(all.len(), 1, "header `{name}` of {self:?}");
        String::from_utf8_lossy(all[0].1.as_deref().unwrap()).into_owned()
    }

    pub(crate) fn has_header(&self, name: &str) -> bool {
        self.headers.iter().any(|one| one.0 == name.as_bytes())
    }
}

impl Kafka {
    /// Waits for so many records of a topic, and returns all that are there, by partition and offset.
    #[track_caller]
    pub(crate) fn read(&self, topic: &str, partitions: i32, count: usize) -> Vec<Record> {
        let consumer: BaseConsumer = self
            .client()
            .set("group.id", "nobody")
            .set("enable.auto.commit", "false")
            .create()
            .unwrap();
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        consumer.assign(&list).unwrap();
        let mut records = Vec::new();
        wait_for(&format!("{count} records in `{topic}`"), DEADLINE, || {
            while let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) {
                records.push(record(&message));
            }
            records.len() >= count
        });
        records.sort_by_key(|record| (record.partition, record.offset));
        records
    }
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    Record {
        partition: message.partition(),
        offset: message.offset(),
        timestamp: message.timestamp().to_millis(),
        key: message.key().map(Into::into),
        value: message.payload().map(Into::into),
        headers: headers(message),
    }
}

fn headers(message: &BorrowedMessage<'_>) -> Vec<(Vec<u8>, Option<Vec<u8>>)> {
    let Some(borrowed) = message.headers() else {
        return Vec::new();
    };
    let list = ptr::from_ref(borrowed).cast::<rdkafka_sys::rd_kafka_headers_t>();
    let mut headers = Vec::new();
    for index in 0.. {
        let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
        // SAFETY: `BorrowedHeaders` is librdkafka's own list behind its pointer, alive as long as the message; the name
        // is NUL-terminated, the value null or `size` bytes long.
        unsafe {
            let found = rdkafka_sys::rd_kafka_header_get_all(
                list,
                index,
                &raw mut name,
                &raw mut value,
                &raw mut size,
            );
            if found as i32 != 0 {
                break;
            }
            let value = (!value.is_null())
                .then(|| std::slice::from_raw_parts(value.cast::<u8>(), size).to_vec());
            headers.push((CStr::from_ptr(name).to_bytes().to_vec(), value));
        }
    }
    headers
}
