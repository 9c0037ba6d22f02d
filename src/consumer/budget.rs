//! How much a consumer may have in flight, in messages and in bytes, and what of it is one partition's. Pure.
//!
//! **Partitions that are held up leave room for the others.**

use crate::offsets::Tracker;

/// Messages in flight (taken and unfinished) of one consumer, or more where its partitions need their least share.
pub(super) const MESSAGES_MAX: usize = 8192;
/// The least share of a partition, whatever their number.
pub(super) const SHARE_MIN: usize = 64;
/// Bytes in flight of one consumer. One message passes, however large.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// The least share of a partition in them.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// What one partition may have in flight: all of the budget where it is alone, else so little that all the others
/// together can't use it up.
pub(super) struct Share {
    /// Those that have one.
    pub(super) partitions: usize,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// So much of the bytes is in use that it matters who has them.
    are_bytes_scarce: bool,
}

impl Share {
    pub(super) fn new(partitions: usize, bytes_in_flight: usize) -> Self {
        let (messages, bytes) = match partitions {
            0 | 1 => (MESSAGES_MAX, BYTES_MAX),
            count => (
                (MESSAGES_MAX / (2 * count)).max(SHARE_MIN),
                (BYTES_MAX / (2 * count)).max(SHARE_BYTES_MIN),
            ),
        };
        Self {
            partitions,
            messages,
            bytes,
            are_bytes_scarce: bytes_in_flight >= BYTES_MAX / 2,
        }
    }

    pub(super) fn is_used_up(&self, tracker: &Tracker) -> bool {
        tracker.unfinished() >= self.messages
            || (self.are_bytes_scarce && tracker.bytes() >= self.bytes)
    }

    pub(super) fn is_half_free(&self, tracker: &Tracker) -> bool {
        tracker.unfinished() <= self.messages / 2 && tracker.bytes() <= self.bytes / 2
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::offsets::Position;

    #[test]
    fn all_partitions_but_one_cannot_use_up_the_budget() {
        for partitions in 2..=256 {
            let share = Share::new(partitions, 0);
            assert!((partitions - 1) * share.bytes < BYTES_MAX, "{partitions}");
            let budget = MESSAGES_MAX.max(partitions * SHARE_MIN * 2);
            assert!(
                (partitions - 1) * 2 * share.messages < budget,
                "{partitions}"
            );
        }
    }

    /// Large messages are no reason to pause a partition as long as there is room for them.
    #[test]
    fn a_share_of_the_bytes_counts_while_they_are_scarce() {
        let start = Position {
            offset: 0,
            leader_epoch: -1,
        };
        let mut tracker = Tracker::new(start, Vec::new(), 1, false);
        let share = Share::new(4, 0);
        tracker.arrive(0, -1, share.bytes, |_| 0);
        assert!(!share.is_used_up(&tracker));
        assert!(Share::new(4, BYTES_MAX / 2).is_used_up(&tracker));
        assert!(!share.is_half_free(&tracker));
        tracker.finish(0..1);
        assert!(share.is_half_free(&tracker));
    }
}
