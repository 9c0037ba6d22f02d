//! A request for messages, and what the log says of them.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Instant;

use crate::kafka::Message;
use crate::message::Record as _;

use super::Wanted;

/// The most bytes of one answer; one message may pass it.
pub(super) const BYTES_MAX: usize = 4 << 20;
/// Further than that, the client begins anew at the next message instead of reading up to it.
pub(super) const GAP: i64 = 2_000;

/// A request on its way.
pub(super) struct Job {
    pub(super) wanted: Wanted,
    pub(super) found: Vec<(i64, Option<Message>)>,
    pub(super) bytes: usize,
    pub(super) tries: u32,
    pub(super) not_before: Instant,
}

impl Job {
    pub(super) fn is_done(&self) -> bool {
        self.wanted.offsets.is_empty() || self.bytes >= BYTES_MAX
    }

    /// Takes the next wanted offset, if it is such a one.
    pub(super) fn next_if(&mut self, is_such: impl Fn(i64) -> bool) -> Option<i64> {
        let first = *self.wanted.offsets.front()?;
        if !is_such(first) {
            return None;
        }
        self.wanted.offsets.pop_front()
    }

    /// The log has no message between the last one and `offset`: those that are wanted there are gone.
    pub(super) fn pass(&mut self, offset: i64) {
        while let Some(first) = self.next_if(|first| first < offset) {
            self.found.push((first, None));
        }
    }

    /// The next message of the log. It comes back where the request is over before it.
    pub(super) fn took(&mut self, mut message: Message) -> Option<Message> {
        let offset = message.offset();
        self.pass(offset);
        if self.is_done() {
            return Some(message);
        }
        if let Some(first) = self.next_if(|first| first == offset) {
            message.detach();
            self.bytes += message.bytes();
            self.found.push((first, Some(message)));
        }
        None
    }
}

/// The partition that is assigned: the next request goes on there, if it can.
pub(super) struct Reading {
    pub(super) topic: Arc<str>,
    pub(super) partition: i32,
    /// Every message of the log from this offset on is still to come, or among the next ones.
    pub(super) next: i64,
    /// Taken behind the end of a request.
    pub(super) ahead: VecDeque<Message>,
    /// An error stood in place of messages.
    pub(super) is_broken: bool,
}

impl Reading {
    pub(super) fn goes_on_at(&self, job: &Job, first: i64) -> bool {
        if self.is_broken {
            return false;
        }
        let at = self.ahead.front().map_or(self.next, Message::offset);
        let is_near = (at..=at.saturating_add(GAP)).contains(&first);
        is_near && (&self.topic, self.partition) == (&job.wanted.topic, job.wanted.partition)
    }

    pub(super) fn take_ahead(&mut self, job: &mut Job) {
        while let Some(message) = self.ahead.pop_front() {
            if let Some(message) = job.took(message) {
                return self.ahead.push_front(message);
            }
        }
    }

    pub(super) fn took(&mut self, job: &mut Job, message: Message) {
        if self.is_broken {
            return;
        }
        self.next = message.offset() + 1;
        self.ahead.extend(job.took(message));
    }

    pub(super) fn ended(&self, job: &mut Job, end: i64) {
        if !self.is_broken {
            job.pass(end);
        }
    }

    /// librdkafka goes on behind a batch that it cannot read: what comes from here on does not show that the messages
    /// before it are gone.
    pub(super) fn break_off(&mut self) {
        self.is_broken = true;
    }
}
