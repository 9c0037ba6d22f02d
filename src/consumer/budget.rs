//! The budget of a consumer: messages and bytes in flight, and the share of each partition. Pure.
//!
//! **Partitions that have used up their share leave room for the others.**

use crate::rules::offsets::Tracker;

/// The most messages of one batch.
pub(super) const BATCH_MAX: usize = 1024;
/// The most messages in flight (taken and unfinished) of a partition that is alone.
const ALONE_MAX: usize = 8192;
/// Messages in flight that several partitions share, beyond the least share of each. A fetch brings some thousand
/// small messages of one partition in a row. The pool is large enough that the messages of one worker do not keep the
/// other workers waiting. **A partition may have half as many of them as it leaves free.** With a quarter, most
/// messages of a fetch must run before the messages behind them can be taken, and another worker runs out meanwhile.
/// With all of them, so much is in flight that the next partition is held up beyond the patience for it, and paused.
const POOL: usize = 16_384;
/// The least share of a partition, however many partitions there are. The batch that uses it up may bring as much
/// again.
const SHARE_MIN: usize = 64;
/// The most bytes in flight of one consumer. A single message passes, however large it is.
const BYTES_MAX: usize = 32 << 20;
/// More real bytes than that in librdkafka's queue are too many.
const HEAVY: usize = 2 * BYTES_MAX;
/// The least share of a partition in these bytes.
const SHARE_BYTES_MIN: usize = 64 << 10;

/// The bounds of librdkafka's own queue. It counts the messages of a consumer and the bytes of their values, neither
/// headers nor its bookkeeping.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ahead {
    messages: usize,
    bytes: usize,
}

impl Ahead {
    /// By the properties of the consumer, in librdkafka's words.
    pub(super) fn of<'a>(property: impl Fn(&str) -> Option<&'a str>) -> Self {
        let number = |name| property(name).and_then(|text| text.parse().ok());
        let kilobytes: Option<usize> = number("queued.max.messages.kbytes");
        Self {
            messages: number("queued.min.messages").unwrap_or(usize::MAX),
            bytes: kilobytes.map_or(usize::MAX, |many| many.saturating_mul(1024)),
        }
    }

    /// Whether librdkafka's queue may take far more memory than the budget, full of messages like these. `bytes` are
    /// their real bytes, `counted` those of their values.
    pub(super) fn is_heavy(self, messages: usize, bytes: usize, counted: usize) -> bool {
        let by_count = self.messages.saturating_mul(bytes / messages.max(1));
        let by_bytes = self.bytes.saturating_mul(bytes / counted.max(1));
        by_count.min(by_bytes) > HEAVY
    }
}

/// The most that one partition may have in flight: the whole budget if it is alone, else a part of the free budget.
/// So partitions that are held up leave room for the others, however many they are.
pub(super) struct Share {
    /// The number of partitions with a share.
    pub(super) partitions: usize,
    pub(super) messages: usize,
    pub(super) bytes: usize,
    /// The free part of the pool.
    free: usize,
    /// So many bytes are in use that each partition's part of them matters.
    are_bytes_scarce: bool,
    /// The largest weight of a partition.
    largest: u32,
}

/// A part of `all` by the weight of a partition.
fn part(all: usize, weight: u32, largest: u32) -> usize {
    (all as u64 * u64::from(weight.min(largest)) / u64::from(largest)) as usize
}

impl Share {
    pub(super) fn new(in_flight: &InFlight) -> Self {
        let partitions = in_flight.partitions;
        let mut share = Self {
            partitions,
            messages: 0,
            bytes: if partitions > 1 {
                (BYTES_MAX / (2 * partitions)).max(SHARE_BYTES_MIN)
            } else {
                BYTES_MAX
            },
            free: POOL.saturating_sub(in_flight.pooled),
            are_bytes_scarce: in_flight.bytes >= BYTES_MAX / 2,
            largest: in_flight.largest.max(1),
        };
        share.divide();
        share
    }

    fn divide(&mut self) {
        self.messages = if self.partitions > 1 {
            SHARE_MIN + self.free / 2
        } else {
            ALONE_MAX
        };
    }

    /// The messages of a partition of this weight.
    fn messages_of(&self, weight: u32) -> usize {
        if self.partitions > 1 {
            SHARE_MIN + part(self.free / 2, weight, self.largest)
        } else {
            self.messages
        }
    }

    fn bytes_of(&self, weight: u32) -> usize {
        if self.partitions > 1 {
            part(self.bytes, weight, self.largest).max(SHARE_BYTES_MIN)
        } else {
            self.bytes
        }
    }

    pub(super) fn is_used_up(&self, tracker: &Tracker, weight: u32) -> bool {
        tracker.unfinished() >= self.messages_of(weight)
            || (self.are_bytes_scarce && tracker.bytes() >= self.bytes_of(weight))
    }

    /// Whether a partition has so few messages in flight that it may soon have nothing to run.
    pub(super) fn is_low(&self, tracker: &Tracker) -> bool {
        tracker.unfinished() < (self.messages / 2).min(SHARE_MIN)
    }

    pub(super) fn is_half_free(&self, tracker: &Tracker, weight: u32) -> bool {
        tracker.unfinished() <= self.messages_of(weight) / 2
            && tracker.bytes() <= self.bytes_of(weight) / 2
    }
}

/// The messages in flight of a partition that count against the pool.
fn pooled(messages: usize) -> usize {
    messages.saturating_sub(2 * SHARE_MIN)
}

/// The messages and bytes in flight of all partitions that have a share.
#[derive(Default)]
pub(super) struct InFlight {
    pub(super) partitions: usize,
    messages: usize,
    pooled: usize,
    bytes: usize,
    largest: u32,
}

impl InFlight {
    /// Adds one more partition with its messages, bytes and weight.
    pub(super) fn add(&mut self, messages: usize, bytes: usize, weight: u32) {
        self.partitions += 1;
        self.largest = self.largest.max(weight);
        self.messages += messages;
        self.pooled += pooled(messages);
        self.bytes += bytes;
    }
}

/// The room for further messages. It takes a look at every partition, hence one look serves many batches.
pub(super) struct Room {
    pub(super) share: Share,
    /// The bytes in flight leave room for more.
    is_open: bool,
    messages: usize,
    bytes: usize,
    /// The average size of a message.
    size: usize,
    /// The epochs of partitions that have used up their share. They hold up the others until they drain or are
    /// paused, because taking messages cannot choose among partitions.
    used_up: Vec<u64>,
}

impl Room {
    /// `bytes` are the bytes in flight that count against the budget.
    pub(super) fn new(share: Share, in_flight: &InFlight, bytes: usize, used_up: Vec<u64>) -> Self {
        let is_open = share.partitions > 0 && in_flight.bytes < 2 * BYTES_MAX;
        let budget = match share.partitions {
            0 | 1 => ALONE_MAX,
            count => POOL + count * 2 * SHARE_MIN,
        };
        let size = in_flight.bytes.checked_div(in_flight.messages);
        Self {
            share,
            is_open,
            messages: budget.saturating_sub(in_flight.messages),
            bytes: BYTES_MAX.saturating_sub(bytes),
            size: size.unwrap_or(0).max(1),
            used_up,
        }
    }

    /// The size of the next batch. Large messages make small batches, so that one batch does not exceed the budget
    /// many times.
    pub(super) fn batch(&self) -> usize {
        if !self.is_open || !self.used_up.is_empty() {
            return 0;
        }
        self.messages
            .min(BATCH_MAX)
            .min(self.share.messages)
            .min(self.bytes.min(self.share.bytes).div_ceil(self.size))
    }

    /// Whether the room is used up; another look may find more.
    pub(super) fn is_used_up(&self) -> bool {
        self.used_up.is_empty() && self.batch() == 0
    }

    /// A batch of this many messages was taken.
    pub(super) fn took(&mut self, messages: usize) {
        self.messages = self.messages.saturating_sub(messages);
    }

    /// A partition has more messages in flight than before, and `bytes` more bytes.
    pub(super) fn came(&mut self, before: usize, now: usize, bytes: usize) {
        let from_pool = pooled(now).saturating_sub(pooled(before));
        self.share.free = self.share.free.saturating_sub(from_pool);
        self.share.divide();
        self.bytes = self.bytes.saturating_sub(bytes);
    }

    /// A partition has fewer messages in flight than before.
    pub(super) fn went(&mut self, before: usize, now: usize) {
        self.messages += before.saturating_sub(now);
        self.share.free += pooled(before).saturating_sub(pooled(now));
        self.share.divide();
    }

    /// The partition has used up its share.
    pub(super) fn hold_up(&mut self, epoch: u64) {
        self.used_up.push(epoch);
    }

    /// The partition has not used up its share, or no longer.
    pub(super) fn let_go(&mut self, epoch: u64) {
        self.used_up.retain(|one| *one != epoch);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::offsets::Position;

    fn in_flight(partitions: usize, messages: usize, bytes: usize) -> InFlight {
        let mut in_flight = InFlight::default();
        in_flight.add(messages, bytes, 1);
        for _ in 1..partitions {
            in_flight.add(0, 0, 1);
        }
        in_flight
    }

    fn room(partitions: usize, messages: usize, bytes: usize, used_up: Vec<u64>) -> Room {
        let in_flight = match partitions {
            0 => InFlight::default(),
            _ => self::in_flight(partitions, messages, bytes),
        };
        Room::new(Share::new(&in_flight), &in_flight, bytes, used_up)
    }

    fn tracker() -> Tracker {
        let start = Position {
            offset: 0,
            leader_epoch: -1,
        };
        Tracker::new(start, Vec::new(), vec!["a".into()], false)
    }

    /// 10,000 messages and 16 MiB of values: small messages and large values fit, large headers do not.
    #[test]
    fn messages_are_heavy_whose_bytes_librdkafka_does_not_count() {
        let properties = |name: &str| match name {
            "queued.min.messages" => Some("10000"),
            "queued.max.messages.kbytes" => Some("16384"),
            _ => None,
        };
        let ahead = Ahead::of(properties);
        let is_heavy =
            |bytes: usize, counted: usize| ahead.is_heavy(100, 100 * bytes, 100 * counted);
        assert!(!is_heavy(750, 10));
        assert!(!is_heavy(1_640, 1_000));
        assert!(!is_heavy(1_000_700, 1_000_000));
        assert!(is_heavy(160_000, 10));
        assert!(is_heavy(160_000, 0));
        assert!(is_heavy(80_000, 8_000));
        assert!(!ahead.is_heavy(0, 0, 0));
    }

    /// Each takes as much as it gets, one after the other, and finishes nothing.
    #[test]
    fn all_partitions_but_one_cannot_use_up_the_budget() {
        for partitions in [2, 3, 8, 64, 1000] {
            let mut room = room(partitions, 0, 0, Vec::new());
            let mut in_flight = vec![0; partitions];
            for own in &mut in_flight[1..] {
                while *own < room.share.messages {
                    let batch = room.batch();
                    assert!(batch > 0, "{partitions}");
                    room.took(batch);
                    room.came(*own, *own + batch, 0);
                    *own += batch;
                }
            }
            assert!(room.batch() >= SHARE_MIN, "{partitions}");
            let mut look = InFlight::default();
            for own in &in_flight {
                look.add(*own, 0, 1);
            }
            let share = Share::new(&look);
            assert_eq!(share.messages, room.share.messages, "{partitions}");
            let room = Room::new(share, &look, 0, Vec::new());
            assert!(room.batch() >= SHARE_MIN, "{partitions}");
        }
    }

    #[test]
    fn all_partitions_but_one_cannot_use_up_the_bytes() {
        for partitions in 2..=256 {
            let share = Share::new(&in_flight(partitions, 0, 0));
            assert!((partitions - 1) * share.bytes < BYTES_MAX, "{partitions}");
        }
    }

    /// It weighs a third of the other one.
    #[test]
    fn the_share_of_a_light_partition_is_used_up_earlier() {
        let mut look = InFlight::default();
        look.add(0, 0, 3);
        look.add(0, 0, 1);
        let share = Share::new(&look);
        let mut tracker = tracker();
        for offset in 0..(SHARE_MIN + POOL / 6) as i64 {
            assert!(!share.is_used_up(&tracker, 1), "{offset}");
            tracker.arrive(offset, -1, 1, |_| 0);
        }
        assert!(share.is_used_up(&tracker, 1));
        assert!(!share.is_used_up(&tracker, 3));
        assert!(!share.is_half_free(&tracker, 1));
        assert!(share.is_half_free(&tracker, 3));
    }

    #[test]
    fn a_room_knows_what_has_finished_since_the_look() {
        let mut room = room(2, 0, 0, Vec::new());
        let all = room.share.messages;
        room.took(1000);
        room.came(0, 1000, 0);
        let less = room.share.messages;
        assert!(less < all);
        room.went(1000, 600);
        assert!(less < room.share.messages && room.share.messages < all);
        room.went(600, 0);
        assert_eq!(room.share.messages, all);
    }

    /// Large messages are no reason to pause a partition as long as there is room for them.
    #[test]
    fn a_share_of_the_bytes_counts_while_they_are_scarce() {
        let mut tracker = tracker();
        let share = Share::new(&in_flight(4, 0, 0));
        tracker.arrive(0, -1, share.bytes, |_| 0);
        assert!(!share.is_used_up(&tracker, 1));
        assert!(Share::new(&in_flight(4, 9, BYTES_MAX / 2)).is_used_up(&tracker, 1));
        assert!(!share.is_half_free(&tracker, 1));
        tracker.finish(0..1);
        assert!(share.is_half_free(&tracker, 1));
    }

    /// Some of its keys may be stuck.
    #[test]
    fn a_partition_with_a_few_unfinished_messages_is_low() {
        let share = Share::new(&in_flight(4, 0, 0));
        let mut tracker = tracker();
        for offset in 0..63 {
            tracker.arrive(offset, -1, 1, |_| 0);
        }
        assert!(share.is_low(&tracker));
        // Where shares are small, so is what keeps a partition busy.
        assert!(!Share::new(&in_flight(4, POOL + 2 * SHARE_MIN, 0)).is_low(&tracker));
        tracker.arrive(63, -1, 1, |_| 0);
        assert!(!share.is_low(&tracker));
    }

    #[test]
    fn a_room_lasts_until_its_messages_or_its_bytes_are_taken() {
        let mut room = room(1, 0, 0, Vec::new());
        for _ in 0..ALONE_MAX / BATCH_MAX {
            assert_eq!(room.batch(), BATCH_MAX);
            room.took(BATCH_MAX);
        }
        assert!(room.is_used_up());
        let mut room = self::room(1, 10, 10 << 20, Vec::new());
        assert_eq!(room.batch(), 22);
        room.came(10, 32, 22 << 20);
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
        let mut room = room(2, 9, 2 * BYTES_MAX, Vec::new());
        assert_eq!(room.batch(), 0);
        // How many bytes are left is known at the next look.
        room.went(9, 0);
        assert_eq!(room.batch(), 0);
    }
}
