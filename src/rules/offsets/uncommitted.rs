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

/// What is finished beyond the position would not fit into the metadata.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NoRoom {
    /// The first message that no transaction has is among those that do not enter.
    pub(crate) has_first: bool,
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

    fn set_all(&mut self, indices: &[usize], state: State) {
        for index in indices {
            self.entries[*index].state = state;
        }
        let waits = |entry: &Entry| entry.state == State::Waits;
        let front = self.entries.iter().position(waits);
        self.front = front.unwrap_or(self.entries.len());
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

    /// As `include`, of messages that enter together or not at all, in the order of their numbers.
    pub(crate) fn include_all(&mut self, numbers: &[u64]) -> Result<(), NoRoom> {
        let uncommitted = self.uncommitted.as_ref();
        let front = uncommitted.and_then(|one| Some(one.entries.get(one.front)?.number));
        let has_first = front.is_some_and(|front| numbers.contains(&front));
        let entered = numbers.iter().take_while(|one| self.include(**one)).count();
        if entered == numbers.len() {
            return Ok(());
        }
        let Some(uncommitted) = &mut self.uncommitted else {
            return Err(NoRoom { has_first });
        };
        // Each was counted as if nothing came behind it.
        let most = uncommitted.most;
        let indices = numbers.iter().map(|one| uncommitted.index_of(*one));
        let indices = indices.collect::<Option<Vec<usize>>>();
        uncommitted.set_all(indices.as_deref().unwrap_or_default(), State::Included);
        let wanted = self.wanted();
        let used = bytes(wanted.position.offset, &wanted.beyond.ranges) + SLACK;
        let fits = indices.is_some() && used <= most;
        if let Some(uncommitted) = &mut self.uncommitted
            && !fits
        {
            let known = numbers.iter().filter_map(|one| uncommitted.index_of(*one));
            let known: Vec<usize> = known.collect();
            uncommitted.set_all(&known, State::Waits);
        }
        self.begin_transaction(most);
        if fits {
            Ok(())
        } else {
            Err(NoRoom { has_first })
        }
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
mod tests;
