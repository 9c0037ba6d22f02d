//! The records that cross modules: a record as Lua sees it, and a record to send.
//!
//! This module knows neither Kafka's client nor Lua, so that each side can be tested without the other.

pub(crate) mod prefetch;
pub(crate) mod trace;

use std::sync::Arc;

/// A callback that gets a header's name and value.
pub(crate) type EachHeader<'a> = &'a mut dyn FnMut(&[u8], Option<&[u8]>);

/// One Kafka message, wherever its bytes are.
pub(crate) trait Record {
    fn offset(&self) -> i64;
    /// Milliseconds since the epoch, or -1 if the broker keeps none.
    fn timestamp_ms(&self) -> i64;
    /// `None` for a null key, `Some(b"")` for an empty one.
    fn key(&self) -> Option<&[u8]>;
    /// `None` for a tombstone.
    fn value(&self) -> Option<&[u8]>;
    /// Calls `each` with every header in the order of the message; names need not be UTF-8 and may repeat.
    fn headers(&self, each: EachHeader<'_>);
}

/// A header's name and value.
type OwnedHeader = (Box<[u8]>, Option<Box<[u8]>>);

/// A record that owns its bytes. A message that waits long is copied into one, so that it does not pin a fetch
/// buffer.
#[derive(Clone, Debug, Default)]
pub(crate) struct OwnedRecord {
    pub(crate) offset: i64,
    pub(crate) timestamp_ms: i64,
    pub(crate) key: Option<Box<[u8]>>,
    pub(crate) value: Option<Box<[u8]>>,
    pub(crate) headers: Vec<OwnedHeader>,
}

impl OwnedRecord {
    pub(crate) fn copy_of(record: &dyn Record) -> Self {
        let mut headers = Vec::new();
        record.headers(&mut |name, value| headers.push((name.into(), value.map(Into::into))));
        Self {
            offset: record.offset(),
            timestamp_ms: record.timestamp_ms(),
            key: record.key().map(Into::into),
            value: record.value().map(Into::into),
            headers,
        }
    }
}

impl Record for OwnedRecord {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn key(&self) -> Option<&[u8]> {
        self.key.as_deref()
    }

    fn value(&self) -> Option<&[u8]> {
        self.value.as_deref()
    }

    fn headers(&self, each: EachHeader<'_>) {
        for (name, value) in &self.headers {
            each(name, value.as_deref());
        }
    }
}

/// A header's name and value.
pub(crate) type Header = (Vec<u8>, Option<Vec<u8>>);

/// A record to send. Without a partition, the key's hash decides, or chance without a key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Outgoing {
    /// Records to the same topic share its name.
    pub(crate) topic: Arc<str>,
    pub(crate) partition: Option<i32>,
    pub(crate) key: Option<Vec<u8>>,
    /// `None` is a tombstone.
    pub(crate) value: Option<Vec<u8>>,
    /// Headers in their order; names may repeat and need not be UTF-8.
    pub(crate) headers: Vec<Header>,
    /// Milliseconds since the epoch; `None` means now.
    pub(crate) timestamp_ms: Option<i64>,
}

impl Outgoing {
    /// A record that is sent alone has about so many bytes beside its own.
    pub(crate) const OVERHEAD: usize = 100;

    /// About its bytes in a log.
    pub(crate) fn size(&self) -> usize {
        let length = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::len);
        let headers: usize = self
            .headers
            .iter()
            .map(|(name, value)| name.len() + length(value))
            .sum();
        Self::OVERHEAD + length(&self.key) + length(&self.value) + headers
    }
}
