//! The messages that no transaction has committed yet: which of them the open transaction contains, and the position
//! that it would commit.
//!
//! Pure. **A message enters a transaction only if what is finished beyond the position can be written down
//! afterwards**, as a whole: what is left out would run again after a restart, and its records would be there twice.

use std::collections::VecDeque;
use std::ops::Range;

use crate::rules::commit_metadata::Finished;

use super::{Position, Tracker};

/// The bytes that stay free: the last range may still grow when markers of transactions are passed.
const SLACK: usize = 32;

#[derive(Debug)]
pub(super) struct Uncommitted {
    /// In order of their numbers; the first is not committed.
    entries: VecDeque<Entry>,
    /// The index of the first entry that waits.
    front: usize,
    /// Entries whose transaction is committed, behind an entry that waits.
    swept_later: usize,
    /// The bytes that the metadata has left, at least.
    room: usize,
    /// No further range fits into this transaction.
    is_full: bool,
    /// The most bytes of the metadata.
    most: usize,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    lane: u64,
    offset: i64,
    /// The position after the message that was received before this one.
    before: Position,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Waits,
    Included,
    Committed,
}

/// What the transaction would commit for a partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Wanted {
    pub(crate) position: Position,
    pub(crate) beyond: Finished,
}

impl Uncommitted {
    fn new() -> Self {
        Self {
            entries: VecDeque::new(),
            front: 0,
            swept_later: 0,
            room: 0,
            is_full: false,
            most: 0,
        }
    }

    pub(super) fn arrive(&mut self, number: u64, lane: u64, offset: i64, before: Position) {
        self.entries.push_back(Entry {
            number,
            lane,
            offset,
            before,
            state: State::Waits,
        });
    }

    fn index_of(&self, number: u64) -> Option<usize> {
        let first = self.entries.front()?.number;
        let guess = number.checked_sub(first)? as usize;
        match self.entries.get(guess) {
            Some(entry) if entry.number == number => Some(guess),
            _ => self
                .entries
                .binary_search_by_key(&number, |entry| entry.number)
                .ok(),
        }
    }

    /// Whether the offsets between two neighbours are finished.
    fn touches(&self, left: usize, right: usize) -> bool {
        let (left, right) = (&self.entries[left], &self.entries[right]);
        right.before.offset > left.offset + 1
    }

    /// The most bytes by which the metadata grows with this entry.
    fn growth(&self, index: usize, expected: i64) -> usize {
        if index == self.front {
            return 0;
        }
        let waits = |index: usize| self.entries[index].state == State::Waits;
        let left = !waits(index - 1) || self.touches(index - 1, index);
        let right = match self.entries.get(index + 1) {
            Some(_) => !waits(index + 1) || self.touches(index, index + 1),
            None => expected > self.entries[index].offset + 1,
        };
        let span = expected.abs_diff(self.entries[self.front].offset);
        match (left, right) {
            (true, true) => 0,
            (false, false) => 2 * length(span),
            _ => length(span) - 1,
        }
    }

    fn include(&mut self, index: usize) {
        self.entries[index].state = State::Included;
        if index == self.front {
            let waits = |entry: &Entry| entry.state == State::Waits;
            let rest = self.entries.range(index..);
            self.front += rest.take_while(|entry| !waits(entry)).count();
        }
    }

    fn requeue(&mut self) {
        for entry in &mut self.entries {
            if entry.state == State::Included {
                entry.state = State::Waits;
            }
        }
        self.front = 0;
    }

    fn settle(&mut self) {
        for entry in &mut self.entries {
            if entry.state == State::Included {
                entry.state = State::Committed;
            }
        }
        self.entries.drain(..self.front);
        self.front = 0;
        let swept = |entry: &&Entry| entry.state == State::Committed;
        self.swept_later = self.entries.iter().filter(swept).count();
        if self.swept_later > self.entries.len() / 2 {
            self.entries.retain(|entry| entry.state != State::Committed);
            self.swept_later = 0;
        }
    }
}

/// The bytes of a number, seven bits in each.
fn length(value: u64) -> usize {
    (u64::BITS - value.leading_zeros()).div_ceil(7).max(1) as usize
}

/// The bytes of these ranges in the metadata.
fn bytes(position: i64, ranges: &[Range<i64>]) -> usize {
    let mut at = position;
    let mut bytes = 0;
    for range in ranges {
        bytes += length(range.start.abs_diff(at)) + length(range.end.abs_diff(range.start));
        at = range.end;
    }
    bytes
}

impl Tracker {
    /// From now on every message waits for a transaction.
    pub(crate) fn keep_uncommitted(&mut self) {
        self.uncommitted = Some(Box::new(Uncommitted::new()));
    }

    pub(crate) fn is_transactional(&self) -> bool {
        self.uncommitted.is_some()
    }

    /// A transaction begins. The ranges of its metadata may have so many bytes.
    pub(crate) fn begin_transaction(&mut self, most: usize) {
        let wanted = self.wanted();
        let Some(uncommitted) = &mut self.uncommitted else {
            return;
        };
        let used = bytes(wanted.position.offset, &wanted.beyond.ranges) + SLACK;
        uncommitted.most = most;
        uncommitted.room = most.saturating_sub(used);
        uncommitted.is_full = false;
    }

    /// The lane of a message that is in no transaction yet.
    pub(crate) fn waiting(&self, number: u64) -> Option<u64> {
        let uncommitted = self.uncommitted.as_ref()?;
        let entry = uncommitted.entries.get(uncommitted.index_of(number)?)?;
        (entry.state == State::Waits).then_some(entry.lane)
    }

    /// The position that a transaction without further messages would commit.
    pub(crate) fn committable(&self) -> Option<Position> {
        let uncommitted = self.uncommitted.as_ref()?;
        let first = uncommitted.entries.get(uncommitted.front);
        Some(first.map_or(self.expected, |entry| entry.before))
    }

    /// What the next epoch of the same assignment does not run again: `goes_on` is its start.
    pub(crate) fn goes_on_beyond(&self) -> Finished {
        if self.is_transactional() {
            self.wanted().beyond
        } else {
            self.beyond()
        }
    }

    /// The open transaction contains this message, which has its outcome. Returns false if it does not fit.
    pub(crate) fn include(&mut self, number: u64) -> bool {
        let expected = self.expected.offset;
        let Some(uncommitted) = &mut self.uncommitted else {
            return false;
        };
        let Some(index) = uncommitted.index_of(number) else {
            return false;
        };
        let growth = uncommitted.growth(index, expected);
        if growth > uncommitted.room {
            if uncommitted.is_full {
                return false;
            }
            let most = uncommitted.most;
            // The bytes were counted as if each range took the most.
            self.begin_transaction(most);
            let Some(uncommitted) = &mut self.uncommitted else {
                return false;
            };
            if growth > uncommitted.room {
                uncommitted.is_full = true;
                return false;
            }
        }
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.room = uncommitted.room.saturating_sub(growth);
            uncommitted.include(index);
        }
        true
    }

    /// The transaction has not committed: what it contained waits again.
    pub(crate) fn requeue(&mut self) {
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.requeue();
        }
    }

    /// The transaction has committed.
    pub(crate) fn settle(&mut self) {
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.settle();
        }
    }

    /// What the transaction commits: its own messages are finished, too.
    pub(crate) fn wanted(&self) -> Wanted {
        let leader_epoch = self.newest_leader_epoch.max(self.seeds.leader_epoch());
        let (mut ranges, mut behind) = (Vec::<Range<i64>>::new(), None);
        let mut push = |range: Range<i64>| match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => ranges.push(range),
        };
        let entries = self.uncommitted.iter().flat_map(|one| &one.entries);
        let mut waiting = entries.filter(|entry| entry.state == State::Waits);
        let position = waiting
            .clone()
            .next()
            .map_or(self.expected, |entry| entry.before);
        for entry in &mut waiting {
            if let Some(begin) = behind {
                push(begin..entry.before.offset);
            }
            behind = Some(entry.offset + 1);
        }
        if let Some(begin) = behind {
            push(begin..self.expected.offset);
        }
        self.seeds.rest(self.expected.offset).for_each(push);
        Wanted {
            position,
            beyond: Finished {
                ranges,
                leader_epoch,
            },
        }
    }
}

#[cfg(test)]
#[expect(
    clippy::single_range_in_vec_init,
    reason = "lists of ranges, some of which have one"
)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn tracker(offsets: &[i64]) -> Tracker {
        let start = Position {
            offset: 0,
            leader_epoch: 2,
        };
        let mut tracker = Tracker::new(start, Vec::new(), vec!["a".into()], true);
        tracker.keep_uncommitted();
        for offset in offsets {
            tracker.arrive(*offset, 3, 1, |number| number);
        }
        tracker.begin_transaction(3_000);
        tracker
    }

    fn found(tracker: &Tracker) -> (i64, Vec<Range<i64>>) {
        let wanted = tracker.wanted();
        (wanted.position.offset, wanted.beyond.ranges)
    }

    #[test]
    fn a_transaction_moves_the_position_past_what_it_contains() {
        let mut tracker = tracker(&[0, 1, 2, 3, 4]);
        for number in [1, 0, 3] {
            assert!(tracker.include(number));
        }
        assert_eq!(found(&tracker), (2, vec![3..4]));
        tracker.requeue();
        assert_eq!(found(&tracker), (0, vec![]));
        tracker.begin_transaction(3_000);
        for number in [0, 3] {
            assert!(tracker.include(number));
        }
        tracker.settle();
        assert_eq!(found(&tracker), (1, vec![3..4]));
        for number in [1, 2, 4] {
            assert!(tracker.include(number));
        }
        assert_eq!(found(&tracker), (5, vec![]));
        tracker.settle();
        assert_eq!(tracker.wanted().position.leader_epoch, 3);
    }

    #[test]
    fn offsets_without_a_message_lie_within_a_range() {
        let mut tracker = tracker(&[0, 10, 20, 30]);
        assert!(tracker.include(2));
        assert_eq!(found(&tracker), (0, vec![11..21]));
        tracker.pass(40);
        assert_eq!(found(&tracker), (0, vec![11..21, 31..40]));
        for number in [0, 1, 3] {
            assert!(tracker.include(number));
        }
        assert_eq!(found(&tracker), (40, vec![]));
    }

    #[test]
    fn what_an_earlier_epoch_finished_stays_finished() {
        let mut tracker = tracker(&[0]);
        tracker.seed(Finished {
            ranges: vec![2..3, 5..7],
            leader_epoch: 3,
        });
        assert_eq!(found(&tracker), (0, vec![2..3, 5..7]));
        for offset in [1, 2, 3] {
            tracker.arrive(offset, 3, 1, |number| number);
        }
        assert_eq!(found(&tracker), (0, vec![2..3, 5..7]));
        assert!(tracker.include(0));
        assert!(tracker.include(1));
        assert_eq!(found(&tracker), (3, vec![5..7]));
    }

    #[test]
    fn what_cannot_be_written_down_does_not_enter_and_the_position_always_does() {
        let mut tracker = tracker(&(0..100).collect::<Vec<_>>());
        tracker.begin_transaction(SLACK + 4);
        // Each second one is a range of its own.
        assert!(tracker.include(2) && tracker.include(4));
        assert!(!tracker.include(6));
        assert!(tracker.include(3), "it joins two ranges");
        tracker.begin_transaction(SLACK + 4);
        assert!(tracker.include(6), "so the next transaction has room");
        assert!(!tracker.include(8));
        assert!(tracker.include(0) && tracker.include(1));
        assert_eq!(found(&tracker), (5, vec![6..7]));
    }

    proptest! {
        /// Against sets of offsets: whatever enters, the position and the ranges are those of the messages that are
        /// in, and the metadata never takes more bytes than it may.
        #[test]
        fn the_ranges_are_those_of_what_is_in(
            gaps in prop::collection::vec(1_i64..300, 1..60),
            steps in prop::collection::vec((0_u8..12, any::<prop::sample::Index>()), 0..200),
            most in 0_usize..40,
        ) {
            let mut at = 0;
            let offsets: Vec<i64> = gaps.iter().map(|gap| { at += gap; at }).collect();
            let mut tracker = tracker(&offsets);
            let most = SLACK + most;
            tracker.begin_transaction(most);
            let (mut inside, mut committed) = (Vec::new(), Vec::new());
            for (step, index) in steps {
                match step {
                    0 => {
                        tracker.requeue();
                        inside.clear();
                        tracker.begin_transaction(most);
                    }
                    1 => {
                        tracker.settle();
                        committed.append(&mut inside);
                        tracker.begin_transaction(most);
                    }
                    _ => {
                        let number = index.index(offsets.len());
                        let is_new = !inside.contains(&number) && !committed.contains(&number);
                        if is_new && tracker.include(number as u64) {
                            inside.push(number);
                        }
                    }
                }
                let wanted = tracker.wanted();
                let is_in = |number: usize| inside.contains(&number) || committed.contains(&number);
                let first = (0..offsets.len()).find(|number| !is_in(*number));
                let position = first.map_or(at + 1, |first| if first == 0 { 0 } else { offsets[first - 1] + 1 });
                prop_assert_eq!(wanted.position.offset, position);
                for (number, offset) in offsets.iter().enumerate() {
                    let mut ranges = wanted.beyond.ranges.iter();
                    let is_said = *offset < position || ranges.any(|range| range.contains(offset));
                    prop_assert_eq!(is_said, is_in(number));
                }
                prop_assert!(bytes(position, &wanted.beyond.ranges) + SLACK <= most + 10 || wanted.beyond.ranges.is_empty());
            }
        }
    }
}
