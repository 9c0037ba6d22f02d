//! The consumer's own handle on librdkafka: every call of the consumer's thread is here, and none of them blocks.
//!
//! The client has three queues. *Events* is the consumer queue, with rebalances and errors. *Messages* gets the
//! messages of every assigned partition, whose queue is forwarded to it. *Replies* gets the answers to commits. All
//! three ring one bell when they become non-empty. The bell is edge-triggered, so the woken thread drains them until
//! they are empty.
//!
//! The rebalance callback only records the rebalance; the consumer's state machine does the rest. A drain inside the
//! callback would block the thread that the handlers wait for.
#![expect(unsafe_code, reason = "the C API of librdkafka")]

use std::collections::VecDeque;
use std::ffi::{CStr, CString, c_int, c_void};
use std::ptr::{self, NonNull};
use std::sync::Arc;

use rdkafka::config::ClientConfig;
use rdkafka_sys as sys;

use super::callbacks::{self, Bell, Event, LOG_LEVEL_MIN, Shared};
use super::list::{self, List};
use super::{Error, Message, TopicPartition, message};
use crate::message::prefetch;

pub(crate) struct Client {
    pub(super) rk: NonNull<sys::rd_kafka_t>,
    events: NonNull<sys::rd_kafka_queue_t>,
    messages: NonNull<sys::rd_kafka_queue_t>,
    replies: NonNull<sys::rd_kafka_queue_t>,
    /// State that the callbacks write. librdkafka holds its address, so it must outlive the handle.
    shared: Box<Shared>,
}

/// The answer to one commit.
#[derive(Debug)]
pub(crate) struct Committed {
    pub(crate) result: Result<(), Error>,
    /// Each partition has an error of its own, if any.
    pub(crate) partitions: Vec<TopicPartition>,
}

/// What `take` returns of a partition, in the order of its offsets.
pub(crate) enum Taken {
    Message(Message),
    /// The end of the partition: librdkafka has returned everything below this offset, or an error in its place.
    End(i64),
    Error(Error),
}

/// The progress of a close.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Closing {
    Waits,
    Closed,
}

// SAFETY: librdkafka's handle and queues may be used from any thread; `Shared` is behind mutexes. The calls that must
// not overlap (consume, poll, assign, pause) have one caller, the consumer's thread.
unsafe impl Send for Client {}
// SAFETY: as above.
unsafe impl Sync for Client {}

impl Client {
    /// Starts librdkafka's threads, which connect in the background.
    pub(crate) fn new<'a>(
        properties: impl Iterator<Item = (&'a str, &'a str)>,
        bell: Bell,
    ) -> Result<Self, Error> {
        let mut config = ClientConfig::new();
        let mut oauth = false;
        let mut log_level = LOG_LEVEL_MIN;
        for (name, value) in properties {
            if let ("log_level", Ok(level)) = (name, value.parse()) {
                log_level = level;
            }
            oauth |= matches!(name, "sasl.mechanisms" | "sasl.mechanism") && value == "OAUTHBEARER";
            config.set(name, value);
        }
        config.set("log_level", log_level.max(LOG_LEVEL_MIN).to_string());
        let native = config
            .create_native_config()
            .map_err(|error| Error::fatal(error.to_string()))?;
        let shared = Box::new(Shared::new(bell, log_level));
        let opaque = ptr::from_ref::<Shared>(&shared).cast_mut().cast::<c_void>();
        let mut text = [0; 512];
        // SAFETY: `rd_kafka_new` takes ownership of the conf only when it succeeds. So it gets a copy, which is freed
        // when it fails. The opaque is dropped after the handle, so it outlives it.
        let rk = unsafe {
            let conf = sys::rd_kafka_conf_dup(native.ptr());
            sys::rd_kafka_conf_set_opaque(conf, opaque);
            sys::rd_kafka_conf_set_rebalance_cb(conf, Some(callbacks::on_rebalance));
            sys::rd_kafka_conf_set_error_cb(conf, Some(callbacks::on_error));
            sys::rd_kafka_conf_set_log_cb(conf, Some(callbacks::on_log));
            callbacks::hear_of_connections(conf, opaque);
            let kind = sys::rd_kafka_type_t::RD_KAFKA_CONSUMER;
            let rk = sys::rd_kafka_new(kind, conf, text.as_mut_ptr(), text.len());
            if rk.is_null() {
                sys::rd_kafka_conf_destroy(conf);
            }
            rk
        };
        let Some(rk) = NonNull::new(rk) else {
            // SAFETY: librdkafka wrote a NUL-terminated string into the buffer.
            return Err(Error::fatal(
                unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy(),
            ));
        };
        // SAFETY: the handle is alive; this client owns its references to the queues until `drop` destroys them.
        unsafe {
            if oauth {
                // A thread of librdkafka then refreshes the tokens, independently of the consumer's thread. An error
                // means that no such callback is needed, which is fine.
                let error = sys::rd_kafka_sasl_background_callbacks_enable(rk.as_ptr());
                sys::rd_kafka_error_destroy(error);
            }
            sys::rd_kafka_poll_set_consumer(rk.as_ptr());
            let client = Self {
                rk,
                events: NonNull::new_unchecked(sys::rd_kafka_queue_get_consumer(rk.as_ptr())),
                messages: NonNull::new_unchecked(sys::rd_kafka_queue_new(rk.as_ptr())),
                replies: NonNull::new_unchecked(sys::rd_kafka_queue_new(rk.as_ptr())),
                shared,
            };
            for queue in [client.events, client.messages, client.replies] {
                sys::rd_kafka_queue_cb_event_enable(
                    queue.as_ptr(),
                    Some(callbacks::on_queue),
                    opaque,
                );
            }
            Ok(client)
        }
    }

    /// Joins the group with these topics, or changes the subscription; an empty list leaves the group.
    pub(crate) fn subscribe(&self, topics: &[Arc<str>]) -> Result<(), Error> {
        // SAFETY: the handle and the list are alive.
        Error::check(unsafe {
            if topics.is_empty() {
                sys::rd_kafka_unsubscribe(self.rk.as_ptr())
            } else {
                sys::rd_kafka_subscribe(self.rk.as_ptr(), List::of_topics(topics).as_ptr())
            }
        })
    }

    /// Serves the callbacks. Returns the events that they recorded, and the errors of the group.
    pub(crate) fn events(&self) -> VecDeque<Event> {
        loop {
            // SAFETY: the handle is alive. No message of a partition can arrive here, since every partition queue is
            // forwarded.
            let message = unsafe { sys::rd_kafka_consumer_poll(self.rk.as_ptr(), 0) };
            let Some(message) = NonNull::new(message) else {
                break;
            };
            // SAFETY: this client owns the message and may read and destroy it.
            unsafe {
                let error = message_error(message).unwrap_or_else(|| {
                    Error::fatal("a message came outside of its partition's queue")
                });
                let topic = message.as_ref().rkt;
                self.shared.push(if topic.is_null() {
                    Event::Error(error)
                } else {
                    Event::TopicError(topic_name(topic), error)
                });
                sys::rd_kafka_message_destroy(message.as_ptr());
            }
        }
        self.shared.take()
    }

    /// Takes up to `most` messages that have already arrived, and returns their number. Messages of one partition
    /// come in order. `each` gets the topic's address as a cheap key, valid while the partition is assigned. It also
    /// gets the partition, the message and a function for the topic's name.
    pub(crate) fn take(
        &self,
        most: usize,
        mut each: impl FnMut(usize, i32, Taken, &dyn Fn() -> Arc<str>),
    ) -> usize {
        let mut buffer: Vec<*mut sys::rd_kafka_message_t> = Vec::with_capacity(most);
        // SAFETY: the buffer has room for `most` pointers; a time-out of 0 returns the messages that have arrived.
        let count = unsafe {
            sys::rd_kafka_consume_batch_queue(self.messages.as_ptr(), 0, buffer.as_mut_ptr(), most)
        };
        let count = usize::try_from(count).unwrap_or(0);
        // SAFETY: `count` pointers were written.
        unsafe { buffer.set_len(count) };
        for (index, &message) in buffer.iter().enumerate() {
            prefetch(&buffer[index..]);
            // SAFETY: batch messages are never null, belong to this client, and live until destroyed.
            unsafe {
                let message = NonNull::new_unchecked(message);
                let topic = message.as_ref().rkt;
                let partition = message.as_ref().partition;
                let name = || -> Arc<str> { topic_name(topic) };
                let Some(error) = message_error(message) else {
                    let message = Taken::Message(Message::from_native(message));
                    each(topic as usize, partition, message, &name);
                    continue;
                };
                let offset = message.as_ref().offset;
                let taken = if error.is_partition_end() {
                    Taken::End(offset)
                } else {
                    Taken::Error(error)
                };
                each(topic as usize, partition, taken, &name);
                sys::rd_kafka_message_destroy(message.as_ptr());
            }
        }
        count
    }

    /// The answers to commits that have arrived.
    pub(crate) fn replies(&self) -> Vec<Committed> {
        let mut replies = Vec::new();
        loop {
            // SAFETY: the queue is alive; this client owns the event until it is destroyed.
            unsafe {
                let event = sys::rd_kafka_queue_poll(self.replies.as_ptr(), 0);
                if event.is_null() {
                    return replies;
                }
                if sys::rd_kafka_event_type(event) == sys::RD_KAFKA_EVENT_OFFSET_COMMIT {
                    let partitions = list::read(sys::rd_kafka_event_topic_partition_list(event));
                    replies.push(Committed {
                        result: Error::check(sys::rd_kafka_event_error(event)),
                        partitions,
                    });
                }
                sys::rd_kafka_event_destroy(event);
            }
        }
    }

    /// Sends one commit of exactly these offsets; the answer comes by `replies`.
    pub(crate) fn commit(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let list = List::of(partitions);
        // SAFETY: the call copies the list; without a callback the answer is an event.
        Error::check(unsafe {
            sys::rd_kafka_commit_queue(
                self.rk.as_ptr(),
                list.as_ptr(),
                self.replies.as_ptr(),
                None,
                ptr::null_mut(),
            )
        })
    }

    /// Answers an assignment: these partitions start at their offsets, and `take` returns their messages.
    pub(crate) fn assign(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        self.forward(partitions);
        let list = List::of(partitions);
        // SAFETY: handle and list are alive.
        unsafe {
            if self.is_cooperative() {
                check_error(sys::rd_kafka_incremental_assign(
                    self.rk.as_ptr(),
                    list.as_ptr(),
                ))?;
            } else {
                Error::check(sys::rd_kafka_assign(self.rk.as_ptr(), list.as_ptr()))?;
            }
            // A pause can outlive an assignment inside librdkafka, and would keep the partition silent for ever.
            Error::check(sys::rd_kafka_resume_partitions(
                self.rk.as_ptr(),
                list.as_ptr(),
            ))?;
        }
        if !self.is_cooperative() {
            // A partition that was assigned before is stopped and started, and its forwarding ends with the stop. The
            // stop has happened by now: the resume waits until librdkafka has served it, and the stop was queued
            // before it.
            self.forward(partitions);
        }
        Ok(())
    }

    fn forward(&self, partitions: &[TopicPartition]) {
        for one in partitions {
            let Ok(topic) = CString::new(&*one.topic) else {
                continue;
            };
            // SAFETY: both queues are alive; the forwarding persists after this reference is destroyed.
            unsafe {
                let queue = sys::rd_kafka_queue_get_partition(
                    self.rk.as_ptr(),
                    topic.as_ptr(),
                    one.partition,
                );
                if !queue.is_null() {
                    sys::rd_kafka_queue_forward(queue, self.messages.as_ptr());
                    sys::rd_kafka_queue_destroy(queue);
                }
            }
        }
    }

    /// Moves assigned partitions to other offsets. Messages fetched before are no longer handed out, except for a
    /// batch that the caller already holds.
    pub(crate) fn seek(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let list = List::of(partitions);
        let do_not_wait = 0;
        // SAFETY: handle and list are alive.
        unsafe {
            check_error(sys::rd_kafka_seek_partitions(
                self.rk.as_ptr(),
                list.as_ptr(),
                do_not_wait,
            ))
        }
    }

    /// Answers a revocation of these partitions.
    pub(crate) fn unassign(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        if self.is_cooperative() {
            let list = List::of(partitions);
            // SAFETY: handle and list are alive.
            unsafe {
                check_error(sys::rd_kafka_incremental_unassign(
                    self.rk.as_ptr(),
                    list.as_ptr(),
                ))
            }
        } else {
            self.unassign_all()
        }
    }

    pub(crate) fn unassign_all(&self) -> Result<(), Error> {
        // SAFETY: the handle is alive; null means an empty assignment.
        Error::check(unsafe { sys::rd_kafka_assign(self.rk.as_ptr(), ptr::null()) })
    }

    /// Whether rebalances come as differences (cooperative-sticky, KIP-848) or as whole assignments.
    pub(crate) fn is_cooperative(&self) -> bool {
        // SAFETY: a static string, or null before the first join.
        let name = unsafe { sys::rd_kafka_rebalance_protocol(self.rk.as_ptr()) };
        // SAFETY: as above.
        !name.is_null() && unsafe { CStr::from_ptr(name) }.to_bytes() == b"COOPERATIVE"
    }

    /// Whether another member already owns the partitions under revocation; then nothing may be committed.
    pub(crate) fn is_assignment_lost(&self) -> bool {
        // SAFETY: the handle is alive.
        unsafe { sys::rd_kafka_assignment_lost(self.rk.as_ptr()) != 0 }
    }

    /// Pauses the partitions and purges their prefetched messages. They later continue after the last message of
    /// `take`.
    pub(crate) fn pause(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let list = List::of(partitions);
        // SAFETY: handle and list are alive.
        Error::check(unsafe { sys::rd_kafka_pause_partitions(self.rk.as_ptr(), list.as_ptr()) })
    }

    pub(crate) fn resume(&self, partitions: &[TopicPartition]) -> Result<(), Error> {
        let list = List::of(partitions);
        // SAFETY: handle and list are alive.
        Error::check(unsafe { sys::rd_kafka_resume_partitions(self.rk.as_ptr(), list.as_ptr()) })
    }

    /// First and next offset of a partition as of the last fetch; `None` before the first fetch.
    pub(crate) fn known_watermarks(&self, topic: &str, partition: i32) -> Option<(i64, i64)> {
        let topic = CString::new(topic).ok()?;
        let (mut low, mut high) = (-1, -1);
        // SAFETY: the out-pointers are local variables.
        let result = unsafe {
            sys::rd_kafka_get_watermark_offsets(
                self.rk.as_ptr(),
                topic.as_ptr(),
                partition,
                &raw mut low,
                &raw mut high,
            )
        };
        (Error::check(result).is_ok() && high >= 0).then_some((low, high))
    }

    /// The error that ended this client for good, if any.
    pub(crate) fn fatal_error(&self) -> Option<Error> {
        let mut text = [0; 512];
        // SAFETY: the buffer is a local variable.
        let code =
            unsafe { sys::rd_kafka_fatal_error(self.rk.as_ptr(), text.as_mut_ptr(), text.len()) };
        Error::check(code).err()?;
        // SAFETY: librdkafka wrote a NUL-terminated string.
        Some(Error::fatal(
            unsafe { CStr::from_ptr(text.as_ptr()) }.to_string_lossy(),
        ))
    }

    /// Begins to leave the group: a last revocation comes by `events`, and `closing` reports the end.
    pub(crate) fn close(&self) -> Result<(), Error> {
        // SAFETY: the handle and its consumer queue are alive.
        unsafe {
            check_error(sys::rd_kafka_consumer_close_queue(
                self.rk.as_ptr(),
                self.events.as_ptr(),
            ))
        }
    }

    pub(crate) fn closing(&self) -> Closing {
        // SAFETY: the handle is alive.
        if unsafe { sys::rd_kafka_consumer_closed(self.rk.as_ptr()) } != 0 {
            Closing::Closed
        } else {
            Closing::Waits
        }
    }
}

impl Drop for Client {
    /// Every message has been dropped by now, since each is held together with an `Arc` of the client.
    fn drop(&mut self) {
        // SAFETY: each queue is destroyed once, before the handle. The close is done or not wanted: the flag keeps
        // librdkafka from waiting for one.
        unsafe {
            for queue in [self.events, self.messages, self.replies] {
                sys::rd_kafka_queue_cb_event_enable(queue.as_ptr(), None, ptr::null_mut());
                sys::rd_kafka_queue_destroy(queue.as_ptr());
            }
            sys::rd_kafka_destroy_flags(
                self.rk.as_ptr(),
                sys::RD_KAFKA_DESTROY_F_NO_CONSUMER_CLOSE as c_int,
            );
        }
    }
}

/// The prefetch asks for the description of a message this many messages ahead. When the description has arrived, it
/// asks for the bytes behind the value: the headers.
const DESCRIBED_AHEAD: usize = 8;
const HEADERS_AHEAD: usize = 4;

/// librdkafka's thread wrote these bytes: without a prefetch, each message costs a wait for memory.
fn prefetch(messages: &[*mut sys::rd_kafka_message_t]) {
    let at = |ahead| messages.get(ahead).copied().and_then(NonNull::new);
    if let Some(message) = at(DESCRIBED_AHEAD) {
        message::prefetch_message(message);
    }
    if let Some(message) = at(HEADERS_AHEAD) {
        // SAFETY: a message of the batch that has not been handed out is alive; the prefetched bytes are not read.
        let (value, len) = unsafe { (message.as_ref().payload, message.as_ref().len) };
        prefetch::prefetch(value.cast::<u8>().wrapping_add(len), 1);
    }
}

/// # Safety
/// `error` is null or an error that the caller owns.
unsafe fn check_error(error: *mut sys::rd_kafka_error_t) -> Result<(), Error> {
    if error.is_null() {
        return Ok(());
    }
    // SAFETY: by the contract; destroyed once, after its string was copied.
    unsafe {
        let text = CStr::from_ptr(sys::rd_kafka_error_string(error))
            .to_string_lossy()
            .into_owned();
        let result = Error::new(sys::rd_kafka_error_code(error), text);
        sys::rd_kafka_error_destroy(error);
        Err(result)
    }
}

/// # Safety
/// `message` is alive.
unsafe fn message_error(message: NonNull<sys::rd_kafka_message_t>) -> Option<Error> {
    // SAFETY: by the contract.
    let code = unsafe { message.as_ref().err };
    if code as i32 == 0 {
        return None;
    }
    // SAFETY: by the contract; the string, if any, belongs to the message.
    let text = unsafe {
        let text = sys::rd_kafka_message_errstr(message.as_ptr());
        if text.is_null() {
            String::new()
        } else {
            CStr::from_ptr(text).to_string_lossy().into_owned()
        }
    };
    Some(Error::new(code, text))
}

/// # Safety
/// `topic` is null or alive.
unsafe fn topic_name(topic: *mut sys::rd_kafka_topic_t) -> Arc<str> {
    if topic.is_null() {
        return "".into();
    }
    // SAFETY: by the contract; the name is a NUL-terminated string of the topic.
    unsafe { CStr::from_ptr(sys::rd_kafka_topic_name(topic)) }
        .to_string_lossy()
        .into()
}
