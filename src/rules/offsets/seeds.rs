//! What an earlier epoch finished beyond its position, until it has arrived.
//!
//! It knows offsets only. **A message that a later leader wrote is none of these**, whatever its offset: then the log
//! was truncated, and what was finished there is gone.

use std::collections::VecDeque;
use std::ops::Range;

use crate::rules::commit_metadata::Finished;

#[derive(Debug)]
pub(super) struct Seeds {
    /// In order, and not below what has arrived.
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

    /// Whether the arriving message was finished. They arrive in order.
    pub(super) fn take(&mut self, offset: i64, leader_epoch: i32) -> bool {
        while self.ranges.front().is_some_and(|one| one.end <= offset) {
            self.ranges.pop_front();
        }
        if leader_epoch > self.leader_epoch && self.leader_epoch >= 0 {
            // A leader that came later wrote it: the log was truncated here, and what followed was another message.
            self.ranges.clear();
        }
        self.ranges.front().is_some_and(|one| one.start <= offset)
    }

    /// What has not arrived, of a partition where `expected` comes next.
    pub(super) fn rest(&self, expected: i64) -> impl Iterator<Item = Range<i64>> {
        self.ranges
            .iter()
            .map(move |one| one.start.max(expected)..one.end)
    }

    pub(super) fn leader_epoch(&self) -> i32 {
        self.leader_epoch
    }
}
