//! A record to send, handed to librdkafka byte for byte.
//!
//! The crate's own records are not used: their header names are UTF-8, and a record received with other names must be
//! sent with them. This module must not know the receiver of the answer.
#![expect(
    unsafe_code,
    reason = "headers with names of any bytes are made by the C API of librdkafka"
)]

use std::ffi::{CString, c_void};
use std::ptr;

use rdkafka_sys as sys;
use rdkafka_sys::RDKafkaErrorCode as Code;

use crate::log::log;
use crate::message::{Header, Outgoing};

/// librdkafka's value for "no partition given".
const BY_KEY: i32 = -1;

impl Outgoing {
    /// Puts a copy into the producer's queue; never blocks. The delivery report returns `opaque`, unless this fails.
    ///
    /// # Safety
    /// `rk` is a producer that is alive, and `opaque` has the type that its delivery callback expects.
    pub(super) unsafe fn enqueue(
        &self,
        rk: *mut sys::rd_kafka_t,
        opaque: *mut c_void,
    ) -> Result<(), Code> {
        let topic = CString::new(&*self.topic).map_err(|_| Code::InvalidTopic)?;
        let tag = sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_TOPIC;
        // SAFETY: by the contract; the name lives as long as the call.
        unsafe { self.produce(rk, (tag, topic.as_ptr().cast()), opaque) }
    }

    /// As `enqueue`, to a topic by its handle, whatever the record's own.
    ///
    /// # Safety
    /// `rkt` is a topic of the producer `rk` that is alive, and `opaque` has the type that its delivery callback expects.
    pub(super) unsafe fn enqueue_to(
        &self,
        rk: *mut sys::rd_kafka_t,
        rkt: *mut sys::rd_kafka_topic_t,
        opaque: *mut c_void,
    ) -> Result<(), Code> {
        if !self.headers.is_empty() || self.timestamp_ms.is_some() {
            let tag = sys::rd_kafka_vtype_t::RD_KAFKA_VTYPE_RKT;
            // SAFETY: by the contract.
            return unsafe { self.produce(rk, (tag, rkt.cast_const().cast()), opaque) };
        }
        let (value, value_size) = raw(self.value.as_deref());
        let (key, key_size) = raw(self.key.as_deref());
        let (partition, flags) = (self.partition.unwrap_or(BY_KEY), sys::RD_KAFKA_MSG_F_COPY);
        let value = value.cast_mut();
        // SAFETY: by the contract; the bytes are copied, and the error is a variable of this thread.
        unsafe {
            match sys::rd_kafka_produce(
                rkt, partition, flags, value, value_size, key, key_size, opaque,
            ) {
                0 => Ok(()),
                _ => Err(sys::rd_kafka_last_error().into()),
            }
        }
    }

    /// # Safety
    /// As `enqueue`; the tag is that of a topic's name or handle, and the pointer is one.
    unsafe fn produce(
        &self,
        rk: *mut sys::rd_kafka_t,
        topic: (sys::rd_kafka_vtype_t, *const c_void),
        opaque: *mut c_void,
    ) -> Result<(), Code> {
        let (value, value_size) = raw(self.value.as_deref());
        let (key, key_size) = raw(self.key.as_deref());
        let headers = native_headers(&self.headers)?;
        // SAFETY: by the contract; each tag is followed by the arguments that librdkafka reads for it. The bytes are
        // copied. On success librdkafka owns the headers, otherwise this function still does.
        unsafe {
            use sys::rd_kafka_vtype_t as tag;
            let result = sys::rd_kafka_producev(
                rk,
                topic.0,
                topic.1,
                tag::RD_KAFKA_VTYPE_PARTITION,
                self.partition.unwrap_or(BY_KEY),
                tag::RD_KAFKA_VTYPE_MSGFLAGS,
                sys::RD_KAFKA_MSG_F_COPY,
                tag::RD_KAFKA_VTYPE_VALUE,
                value,
                value_size,
                tag::RD_KAFKA_VTYPE_KEY,
                key,
                key_size,
                tag::RD_KAFKA_VTYPE_OPAQUE,
                opaque,
                tag::RD_KAFKA_VTYPE_TIMESTAMP,
                self.timestamp_ms.unwrap_or(0),
                tag::RD_KAFKA_VTYPE_HEADERS,
                headers,
                tag::RD_KAFKA_VTYPE_END,
            );
            match Code::from(result) {
                Code::NoError => Ok(()),
                error => {
                    if !headers.is_null() {
                        sys::rd_kafka_headers_destroy(headers);
                    }
                    Err(error)
                }
            }
        }
    }
}

/// Records for one topic that librdkafka takes by one call, which reads the clock and locks the topic once.
#[derive(Default)]
pub(crate) struct Together(Vec<sys::rd_kafka_message_t>);

// SAFETY: between two sends the list is empty.
unsafe impl Send for Together {}
// SAFETY: as above.
unsafe impl Sync for Together {}

impl Together {
    /// Whether the record may be among them. librdkafka 2.12.1 takes no headers and no timestamp here, and counts a
    /// record for ever whose own partition does not exist.
    pub(super) fn takes(record: &Outgoing) -> bool {
        record.headers.is_empty() && record.timestamp_ms.is_none() && record.partition.is_none()
    }

    /// Puts copies of the records into the producer's queue, in their order; never blocks. `failed` has the opaque of
    /// each one that is not there, and why. Behind a queue that is full no further one is taken.
    ///
    /// # Safety
    /// `rkt` is a topic of a producer that is alive, and each opaque has the type that its delivery callback expects.
    pub(super) unsafe fn enqueue<'r>(
        &mut self,
        rkt: *mut sys::rd_kafka_topic_t,
        records: impl Iterator<Item = (&'r Outgoing, *mut c_void)>,
        mut failed: impl FnMut(*mut c_void, Code),
    ) {
        self.0.extend(records.map(|(record, opaque)| {
            let (payload, len) = raw(record.value.as_deref());
            let (key, key_len) = raw(record.key.as_deref());
            sys::rd_kafka_message_t {
                err: sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR,
                rkt: ptr::null_mut(),
                partition: BY_KEY,
                payload: payload.cast_mut(),
                len,
                key: key.cast_mut(),
                key_len,
                offset: 0,
                _private: opaque,
            }
        }));
        let count = self.0.len();
        // SAFETY: by the contract; the records live as long as this call, which copies their bytes.
        let taken = unsafe {
            sys::rd_kafka_produce_batch(
                rkt,
                BY_KEY,
                sys::RD_KAFKA_MSG_F_COPY,
                self.0.as_mut_ptr(),
                count as i32,
            )
        };
        if taken as usize != count {
            for message in &self.0 {
                if message.err != sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
                    failed(message._private, message.err.into());
                }
            }
        }
        self.0.clear();
    }
}

/// Null for an empty list: a record without headers stays one.
fn native_headers(headers: &[Header]) -> Result<*mut sys::rd_kafka_headers_t, Code> {
    if headers.is_empty() {
        return Ok(ptr::null_mut());
    }
    // SAFETY: librdkafka copies the names and values, whose lengths are given, and aborts when it cannot allocate.
    unsafe {
        let list = sys::rd_kafka_headers_new(headers.len());
        for (name, value) in headers {
            let (value, size) = raw(value.as_deref());
            let added = sys::rd_kafka_header_add(
                list,
                name.as_ptr().cast(),
                name.len() as isize,
                value,
                size as isize,
            );
            if let Err(error) = super::Error::check(added) {
                log!(debug, kafka, %error, "librdkafka refused a header");
                sys::rd_kafka_headers_destroy(list);
                return Err(Code::from(added));
            }
        }
        Ok(list)
    }
}

/// Null for `None`, and never null for empty bytes.
fn raw(bytes: Option<&[u8]>) -> (*const c_void, usize) {
    bytes.map_or((ptr::null(), 0), |bytes| {
        (bytes.as_ptr().cast(), bytes.len())
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::sync::Arc;
    use std::time::{Duration, Instant};

    use super::*;
    use crate::kafka::mock::Broker;
    use crate::kafka::producer::Producer;
    use crate::kafka::property::Value;
    use crate::kafka::{Client, Taken, TopicPartition};
    use crate::message::{OwnedRecord, Record as _};

    /// What lies in partition 0, read by the consumer's own handle.
    fn read(address: &str, topic: &str, count: usize) -> Vec<OwnedRecord> {
        let properties = [
            ("bootstrap.servers", address),
            ("group.id", "readers"),
            ("auto.offset.reset", "earliest"),
        ];
        let client = Client::new(properties.into_iter(), Arc::new(|| ())).unwrap();
        let start = TopicPartition::at(&topic.into(), 0, 0, -1);
        client.assign(&[start]).unwrap();
        let until = Instant::now() + Duration::from_secs(20);
        let mut records = Vec::new();
        while records.len() < count {
            assert!(Instant::now() < until, "{records:?}");
            client.events();
            client.take(10, |_, _, taken, _| {
                if let Taken::Message(message) = taken {
                    records.push(OwnedRecord::copy_of(&message));
                }
            });
            std::thread::sleep(Duration::from_millis(5));
        }
        records
    }

    #[test]
    fn a_record_arrives_byte_for_byte() {
        let broker = Broker::start().unwrap();
        broker.create_topic("dead", 1).unwrap();
        let address = Value {
            text: broker.address().to_owned(),
            secret: false,
        };
        let properties = BTreeMap::from([("bootstrap.servers".to_owned(), address)]);
        let producer = Producer::new(&properties, Duration::from_secs(20)).unwrap();
        let odd = Outgoing {
            topic: "dead".into(),
            partition: Some(0),
            key: Some(vec![0xff, 0, 1]),
            value: Some(vec![0, 0xfe]),
            headers: vec![
                (vec![0xff, 0xfe], Some(vec![0, 1])),
                (b"a".to_vec(), None),
                (b"a".to_vec(), Some(Vec::new())),
                (Vec::new(), Some(b"no name".to_vec())),
                (b"a\0b".to_vec(), Some(b"1".to_vec())),
                (b"a\0\0".to_vec(), Some(Vec::new())),
                (b"\0c".to_vec(), None),
            ],
            timestamp_ms: Some(1_700_000_000_123),
        };
        let empty = Outgoing {
            topic: "dead".into(),
            key: Some(Vec::new()),
            value: Some(Vec::new()),
            ..Outgoing::default()
        };
        let nothing = Outgoing {
            topic: "dead".into(),
            ..Outgoing::default()
        };
        let sent = [odd, empty, nothing];
        producer.send_all(&sent).unwrap();
        for (found, sent) in read(broker.address(), "dead", 3).iter().zip(&sent) {
            assert_eq!(found.key(), sent.key.as_deref());
            assert_eq!(found.value(), sent.value.as_deref());
            let mut headers: Vec<Header> = Vec::new();
            found.headers(&mut |name, value| headers.push((name.into(), value.map(Into::into))));
            assert_eq!(headers, sent.headers);
            if let Some(timestamp_ms) = sent.timestamp_ms {
                assert_eq!(found.timestamp_ms, timestamp_ms);
            }
        }
    }
}
