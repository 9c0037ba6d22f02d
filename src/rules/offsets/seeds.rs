//! The messages that an earlier epoch finished beyond its position, until they arrive.
//!
//! Only their offsets are known. **A message written by a later leader is none of them**, even at one of these
//! offsets: the log was truncated there, and the finished messages are lost.

use std::collections::VecDeque;
use std::ops::Range;

use crate::rules::commit_metadata::Finished;

#[derive(Debug)]
pub(super) struct Seeds {
    /// In order; none lies below the offsets that have arrived.
    ranges: VecDeque<Range<i64>>,
    leader_epoch: i32,
}

impl Default for Seeds {
    fn default() -> Self {
        Self {
            ranges: VecDeque::new(),
            leader_epoch: -1,
        }
    }
}

impl Seeds {
    pub(super) fn new(finished: Finished) -> Self {
        Self {
            ranges: finished.ranges.into(),
            leader_epoch: finished.leader_epoch,
        }
    }

    /// Whether the arriving message was finished. Messages arrive in order.
    pub(super) fn take(&mut self, offset: i64, leader_epoch: i32) -> bool {
        while self.ranges.front().is_some_and(|one| one.end <= offset) {
            self.ranges.pop_front();
        }
        if leader_epoch > self.leader_epoch && self.leader_epoch >= 0 {
            // A later leader wrote this message: the log was truncated here, and the offsets behind it hold other
            // messages.
            self.ranges.clear();
        }
        self.ranges.front().is_some_and(|one| one.start <= offset)
    }

    /// The ranges that have not arrived, in a partition where `expected` is the next offset.
    pub(super) fn rest(&self, expected: i64) -> impl Iterator<Item = Range<i64>> {
        self.ranges
            .iter()
            .map(move |one| one.start.max(expected)..one.end)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.ranges.is_empty()
    }

    pub(super) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }
}
