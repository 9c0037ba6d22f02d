//! One message: librdkafka's own, whose bytes are in a fetch buffer, or a copy.
#![expect(
    unsafe_code,
    reason = "reads librdkafka's message struct without copying it"
)]

use std::ffi::{CStr, c_char, c_void};
use std::ptr::{self, NonNull};

use rdkafka_sys as sys;

use crate::message::prefetch::{prefetch, prefetch_bytes};
use crate::message::{EachHeader, OwnedRecord, Record};

/// A message taken from a partition. It must be dropped before its client is: an owner of messages also owns the
/// client, through their partition.
pub(crate) struct Message(Body);

/// Bytes before a message, and from its start on, that are read sooner or later.
const BEFORE: usize = 128;
const FROM: usize = 256;
/// The smallest page size of any Linux.
const PAGE: usize = 4096;

/// What librdkafka allocates for one message, and the entries of trackers, lanes and queues.
const BOOKKEEPING: usize = 640;
/// What librdkafka allocates for one header beside its bytes.
const HEADER_BOOKKEEPING: usize = 96;
/// Headers that librdkafka does not parse have no known size. They are more than 100,000, of 2 bytes at least, or
/// broken.
const REFUSED_BYTES: usize = 1 << 20;

enum Body {
    Native {
        message: NonNull<sys::rd_kafka_message_t>,
        headers: Headers,
    },
    Owned(Box<OwnedRecord>),
}

/// The headers of a message, as librdkafka reports them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Headers {
    None,
    Parsed,
    /// The message has headers that librdkafka does not parse: more than 100,000, or broken ones.
    Refused,
}

// SAFETY: librdkafka's messages are not bound to a thread; the reference counts inside are atomic.
unsafe impl Send for Message {}

impl Message {
    /// Parses the headers, if any. It parses here and not at their first use, since the thread that takes messages
    /// has more time than the thread that runs Lua.
    ///
    /// # Safety
    /// `message` came from a consume call, carries no error, and belongs to the caller alone.
    pub(super) unsafe fn from_native(message: NonNull<sys::rd_kafka_message_t>) -> Self {
        // SAFETY: by the contract.
        let headers = unsafe {
            if may_have_headers(message) {
                parse_headers(message)
            } else {
                Headers::None
            }
        };
        Self(Body::Native { message, headers })
    }

    /// Prefetches the description of the message: another thread wrote it, and it is needed in a moment.
    pub(crate) fn prefetch(&self) {
        if let Body::Native { message, .. } = &self.0 {
            prefetch_message(*message);
        }
    }

    /// Prefetches the bytes of the message. Its description should have arrived.
    pub(crate) fn prefetch_bytes(&self) {
        if let Some(value) = self.value() {
            prefetch_bytes(value);
        }
    }

    /// A message that no broker sent.
    #[cfg(any(test, feature = "micro"))]
    pub(crate) fn of(record: OwnedRecord) -> Self {
        Self(Body::Owned(Box::new(record)))
    }

    /// Copies the bytes, so that librdkafka can free the fetch buffer.
    pub(crate) fn detach(&mut self) {
        if matches!(self.0, Body::Native { .. }) {
            let copy = OwnedRecord::copy_of(self);
            *self = Self(Body::Owned(Box::new(copy)));
        }
    }

    /// The message's share of the budget: its bytes, and the bookkeeping of librdkafka and Moontide around them.
    pub(crate) fn bytes(&self) -> usize {
        let headers = match &self.0 {
            Body::Native {
                headers: Headers::None,
                ..
            } => 0,
            Body::Native {
                headers: Headers::Refused,
                ..
            } => REFUSED_BYTES,
            _ => self.header_bytes(),
        };
        BOOKKEEPING + headers + self.key().map_or(0, <[u8]>::len) + self.counted_bytes()
    }

    /// The bytes of key, value and headers.
    pub(crate) fn own_bytes(&self) -> usize {
        let mut bytes = self.key().map_or(0, <[u8]>::len) + self.counted_bytes();
        let is_bare = matches!(
            self.0,
            Body::Native {
                headers: Headers::None | Headers::Refused,
                ..
            }
        );
        if !is_bare {
            self.headers(&mut |name, value| bytes += name.len() + value.map_or(0, <[u8]>::len));
        }
        bytes
    }

    /// The headers lie in the fetch buffer, and librdkafka copies each of them when it parses them.
    fn header_bytes(&self) -> usize {
        let mut bytes = 0;
        self.headers(&mut |name, value| {
            bytes += HEADER_BOOKKEEPING + 2 * (name.len() + value.map_or(0, <[u8]>::len));
        });
        bytes
    }

    /// The bytes that librdkafka counts against its own limit: the value alone.
    pub(crate) fn counted_bytes(&self) -> usize {
        self.value().map_or(0, <[u8]>::len)
    }

    /// Whether the message has headers that librdkafka does not parse, so that no handler sees them. Unknown for a
    /// copy.
    pub(crate) fn has_refused_headers(&self) -> bool {
        let Body::Native { headers, .. } = &self.0 else {
            return false;
        };
        *headers == Headers::Refused
    }

    pub(crate) fn leader_epoch(&self) -> i32 {
        match &self.0 {
            // SAFETY: alive until drop.
            Body::Native { message, .. } => unsafe {
                sys::rd_kafka_message_leader_epoch(message.as_ptr())
            },
            Body::Owned(_) => -1,
        }
    }
}

impl Record for Message {
    fn offset(&self) -> i64 {
        match &self.0 {
            // SAFETY: alive until drop.
            Body::Native { message, .. } => unsafe { message.as_ref().offset },
            Body::Owned(record) => record.offset,
        }
    }

    fn timestamp_ms(&self) -> i64 {
        match &self.0 {
            // SAFETY: alive until drop; a null type pointer is allowed.
            Body::Native { message, .. } => unsafe {
                sys::rd_kafka_message_timestamp(message.as_ptr(), ptr::null_mut())
            },
            Body::Owned(record) => record.timestamp_ms,
        }
    }

    fn key(&self) -> Option<&[u8]> {
        match &self.0 {
            Body::Native { message, .. } => {
                // SAFETY: alive until drop; the key is null or has key_len bytes.
                unsafe { bytes((*message.as_ptr()).key, (*message.as_ptr()).key_len) }
            }
            Body::Owned(record) => record.key(),
        }
    }

    fn value(&self) -> Option<&[u8]> {
        match &self.0 {
            Body::Native { message, .. } => {
                // SAFETY: alive until drop; the payload is null or has len bytes.
                unsafe { bytes((*message.as_ptr()).payload, (*message.as_ptr()).len) }
            }
            Body::Owned(record) => record.value(),
        }
    }

    fn headers(&self, each: EachHeader<'_>) {
        let message = match &self.0 {
            Body::Native {
                message,
                headers: Headers::Parsed,
            } => *message,
            Body::Native { .. } => return,
            Body::Owned(record) => return record.headers(each),
        };
        // SAFETY: alive until drop, and a message has one owner.
        let Ok(headers) = (unsafe { headers_of(message) }) else {
            return;
        };
        for index in 0.. {
            let (mut name, mut value, mut size) = (ptr::null(), ptr::null(), 0);
            // SAFETY: the out-pointers are local variables; the name is a string of librdkafka, the value null or
            // `size` bytes long.
            unsafe {
                let found = sys::rd_kafka_header_get_all(
                    headers,
                    index,
                    &raw mut name,
                    &raw mut value,
                    &raw mut size,
                );
                if found as i32 != 0 {
                    return;
                }
                // Names need not be UTF-8, and the crate's reader panics on such names, so it is not used.
                each(name_of(name, value), bytes(value, size));
            }
        }
    }
}

impl Drop for Message {
    fn drop(&mut self) {
        if let Body::Native { message, .. } = self.0 {
            // SAFETY: this message has one owner and is destroyed once.
            unsafe { sys::rd_kafka_message_destroy(message.as_ptr()) }
        }
    }
}

/// Prefetches the message and the bytes around it. librdkafka keeps the message inside the operation that brought it,
/// and reads that operation when both are freed.
pub(super) fn prefetch_message(message: NonNull<sys::rd_kafka_message_t>) {
    let start = message.as_ptr().cast::<u8>();
    prefetch(start.wrapping_sub(BEFORE), BEFORE + FROM);
}

/// False when the message certainly has no headers. librdkafka makes a buffer to find that out, which takes longer
/// than all other work of the thread for the message.
///
/// In a record the number of its headers follows the value (<https://kafka.apache.org/documentation/#record>); for
/// none it is a byte of 0. Older formats have no headers: the next message follows, or nothing.
///
/// # Safety
/// `message` is alive.
unsafe fn may_have_headers(message: NonNull<sys::rd_kafka_message_t>) -> bool {
    // SAFETY: by the contract.
    let (value, len) = unsafe { (message.as_ref().payload, message.as_ref().len) };
    if value.is_null() || len == 0 {
        // The value is in another place.
        return true;
    }
    let behind = value.cast::<u8>().wrapping_add(len);
    if behind.addr().is_multiple_of(PAGE) {
        return true;
    }
    // SAFETY: the byte belongs to the record, or at least to the page of the value's last byte, so it can be read.
    // The read is volatile, since another owner may have the byte when nothing follows.
    unsafe { behind.read_volatile() != 0 }
}

/// # Safety
/// `message` is alive, and no other thread uses it.
unsafe fn parse_headers(message: NonNull<sys::rd_kafka_message_t>) -> Headers {
    // SAFETY: by the contract.
    match unsafe { headers_of(message) } {
        Ok(_) => Headers::Parsed,
        Err(sys::rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR__NOENT) => Headers::None,
        Err(_) => Headers::Refused,
    }
}

/// The headers belong to the message, and are parsed once.
///
/// # Safety
/// `message` is alive, and no other thread uses it.
unsafe fn headers_of(
    message: NonNull<sys::rd_kafka_message_t>,
) -> Result<*mut sys::rd_kafka_headers_t, sys::rd_kafka_resp_err_t> {
    let mut headers = ptr::null_mut();
    // SAFETY: by the contract; the place of the result is a local variable.
    let error = unsafe { sys::rd_kafka_message_headers(message.as_ptr(), &raw mut headers) };
    if error as i32 == 0 {
        Ok(headers)
    } else {
        Err(error)
    }
}

/// The bytes of a header's name, including those after a NUL, although librdkafka returns a C string. librdkafka
/// keeps a value behind the name and its closing NUL, which gives the name's length. Before a name it keeps its
/// length, which serves a header without a value (`rd_kafka_header_s` in `rdkafka_header.h`). A test fails if a later
/// version differs.
///
/// # Safety
/// Both come from one header of a live list.
unsafe fn name_of<'a>(name: *const c_char, value: *const c_void) -> &'a [u8] {
    // SAFETY: by the contract, the name ends with a NUL, and the length is two words before it.
    unsafe {
        let visible = CStr::from_ptr(name).to_bytes();
        let kept = name.cast::<[u8; size_of::<usize>()]>().sub(2).read();
        let kept = usize::from_ne_bytes(kept);
        let is_whole = if value.is_null() {
            kept >= visible.len() && i32::try_from(kept).is_ok()
        } else {
            value.addr().checked_sub(name.addr() + 1) == Some(kept)
        };
        if is_whole {
            std::slice::from_raw_parts(name.cast(), kept)
        } else {
            visible
        }
    }
}

/// # Safety
/// `start` is null or has `len` bytes that outlive the result.
unsafe fn bytes<'a>(start: *const c_void, len: usize) -> Option<&'a [u8]> {
    if start.is_null() {
        None
    } else {
        // SAFETY: by the contract.
        Some(unsafe { std::slice::from_raw_parts(start.cast(), len) })
    }
}
