//! Batches: how many messages one has, and which message of a failed one is to blame.
//!
//! Pure: no clock, no Lua, no Kafka. The worker has the messages; here they are numbers.

#[cfg(test)]
mod model;
mod trial;

use std::time::{Duration, Instant};

use crate::config::Batch;

pub(crate) use trial::{Then, Trial, Verdict};

/// A message of a batch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Member {
    pub(crate) number: u64,
    pub(crate) lane: u64,
    pub(crate) offset: i64,
}

/// A batch that is filled, message by message.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Filling {
    messages_max: usize,
    bytes_max: usize,
    messages: usize,
    bytes: usize,
    is_full: bool,
}

impl Filling {
    /// `most` messages, beside the limits of the listener.
    pub(crate) fn new(limits: &Batch, most: usize) -> Self {
        Self {
            messages_max: limits.messages.min(most).max(1),
            bytes_max: limits.bytes,
            messages: 0,
            bytes: 0,
            is_full: false,
        }
    }

    /// Whether the batch takes the next message. It takes a large one as its only message.
    pub(crate) fn takes(&mut self, bytes: usize) -> bool {
        let is_too_much = self.messages > 0 && self.bytes + bytes > self.bytes_max;
        if self.is_full || is_too_much {
            self.is_full = true;
            return false;
        }
        self.messages += 1;
        self.bytes += bytes;
        self.is_full = self.messages >= self.messages_max || self.bytes >= self.bytes_max;
        true
    }

    pub(crate) fn is_full(&self) -> bool {
        self.is_full
    }
}

/// When a batch that is not full runs: its oldest message was taken at `taken`.
pub(crate) fn due(taken: Option<Instant>, wait: Duration, now: Instant) -> Result<(), Instant> {
    match taken.map(|taken| taken + wait) {
        Some(at) if at > now => Err(at),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled(limits: (usize, usize), most: usize, sizes: &[usize]) -> (usize, bool) {
        let limits = Batch {
            messages: limits.0,
            bytes: limits.1,
            wait: Duration::ZERO,
            auto_resolve: true,
        };
        let mut filling = Filling::new(&limits, most);
        let taken = sizes.iter().take_while(|bytes| filling.takes(**bytes));
        (taken.count(), filling.is_full())
    }

    #[test]
    fn a_batch_is_full_by_its_messages_or_by_its_bytes() {
        assert_eq!(filled((3, 100), 9, &[1, 1]), (2, false));
        assert_eq!(filled((3, 100), 9, &[1, 1, 1, 1]), (3, true));
        assert_eq!(filled((3, 100), 2, &[1, 1, 1, 1]), (2, true));
        assert_eq!(filled((9, 100), 9, &[60, 41, 1]), (1, true));
        assert_eq!(filled((9, 100), 9, &[60, 40, 1]), (2, true));
        assert_eq!(filled((9, 100), 9, &[500, 1]), (1, true));
    }

    #[test]
    fn the_oldest_message_waits_no_longer_than_the_limit() {
        let (start, wait) = (Instant::now(), Duration::from_millis(50));
        assert_eq!(due(Some(start), wait, start), Err(start + wait));
        assert_eq!(due(Some(start), wait, start + wait), Ok(()));
        assert_eq!(due(None, wait, start), Ok(()));
        assert_eq!(due(Some(start), Duration::ZERO, start), Ok(()));
    }
}
