//! How much a consumer may have in flight, in messages and in bytes, and what of it is one partition's. Pure.
//!
//! **Partitions that are held up leave room for the others.**

use crate::offsets::Tracker;

/// Messages of one batch.
pub(super) const BATCH_MAX: usize = 1024;
/// Messages in flight (taken and unfinished) of one consumer, or more where its partitions need their least share.
const MESSAGES_MAX: usize = 8192;
/// The least share of a partition, whatever their number.
const SHARE_MIN: usize = 128;
/// Bytes in flight of one consumer. One message passes, however large.
const BYTES_MAX: usize = 32 << 20;
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

/// What is in flight of all partitions that take part.
pub(super) struct InFlight {
    pub(super) messages: usize,
    /// As far as it counts against the budget.
    pub(super) bytes: usize,
    pub(super) all: usize,
}

/// What may be taken. Found by a look at every partition, hence once for many batches.
pub(super) struct Room {
    pub(super) share: Share,
    messages: usize,
    bytes: usize,
    /// Of a message, on average.
    size: usize,
    /// The epochs of partitions that have used up their share. They hold the others up until they drain or are paused:
    /// taking can't choose among partitions.
    used_up: Vec<u64>,
}

impl Room {
    pub(super) fn new(share: Share, in_flight: &InFlight, used_up: Vec<u64>) -> Self {
        let is_open = share.partitions > 0 && in_flight.all < 2 * BYTES_MAX;
        let budget = MESSAGES_MAX.max(share.partitions * SHARE_MIN * 2);
        let size = in_flight.all.checked_div(in_flight.messages);
        Self {
            share,
            messages: if is_open {
                budget.saturating_sub(in_flight.messages)
            } else {
                0
            },
            bytes: BYTES_MAX.saturating_sub(in_flight.bytes),
            size: size.unwrap_or(0).max(1),
            used_up,
        }
    }

    /// The messages of the next batch: few large ones, so that it does not take many times the budget.
    pub(super) fn batch(&self) -> usize {
        if !self.used_up.is_empty() {
            return 0;
        }
        self.messages
            .min(BATCH_MAX)
            .min(self.share.messages)
            .min(self.bytes.min(self.share.bytes).div_ceil(self.size))
    }

    /// Nothing of it is left: another look may find more.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_up.is_empty() && self.batch() == 0
    }

    /// A batch of so many messages was taken.
    pub(super) fn took(&mut self, messages: usize) {
        self.messages = self.messages.saturating_sub(messages);
    }

    /// So many of its bytes are in flight now.
    pub(super) fn came(&mut self, bytes: usize) {
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// This partition has used up its share.
    pub(super) fn hold_up(&mut self, epoch: u64) {
        self.used_up.push(epoch);
    }

    /// It has not, or no more.
    pub(super) fn let_go(&mut self, epoch: u64) {
        self.used_up.retain(|one| *one != epoch);
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

    fn room(partitions: usize, messages: usize, bytes: usize, used_up: Vec<u64>) -> Room {
        let in_flight = InFlight {
            messages,
            bytes,
            all: bytes,
        };
        Room::new(Share::new(partitions, bytes), &in_flight, used_up)
    }

    #[test]
    fn a_room_lasts_until_its_messages_or_its_bytes_are_taken() {
        let mut room = room(1, 0, 0, Vec::new());
        for _ in 0..MESSAGES_MAX / BATCH_MAX {
            assert_eq!(room.batch(), BATCH_MAX);
            room.took(BATCH_MAX);
        }
        assert!(room.is_used_up());
        let mut room = self::room(1, 10, 10 << 20, Vec::new());
        assert_eq!(room.batch(), 22);
        room.came(22 << 20);
        assert!(room.is_used_up());
    }

    #[test]
    fn who_has_used_up_its_share_keeps_the_room_from_the_others_until_it_is_let_go() {
        let mut room = room(4, 5000, 5000, vec![7]);
        room.hold_up(8);
        room.let_go(7);
        assert_eq!((room.batch(), room.is_used_up()), (0, false));
        room.let_go(8);
        assert_eq!(room.batch(), 1024);
    }

    #[test]
    fn without_partitions_or_with_twice_the_bytes_there_is_no_room() {
        assert_eq!(room(0, 0, 0, Vec::new()).batch(), 0);
        assert_eq!(room(1, 1, 2 * BYTES_MAX, Vec::new()).batch(), 0);
    }
}
