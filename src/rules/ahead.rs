//! Records that their lanes do not wait for: from their numbers to what they belong to.
//!
//! Pure. Records have consecutive numbers, in the order in which they leave, and the answers to them come as runs of
//! numbers. So an answer needs no table: its place follows from its number.

use std::collections::VecDeque;

use crate::wait::send::Run;

#[derive(Debug)]
pub(crate) struct Ahead<T> {
    /// The number of the next record.
    next: u64,
    /// In the order of their numbers; those that have ended may stand between others.
    groups: VecDeque<Group<T>>,
}

/// Records that have one answer together.
#[derive(Debug)]
struct Group<T> {
    /// The number of the first record.
    first: u64,
    records: u64,
    /// Records without an answer; 0 when the answer is out, or does not count any more.
    open: u64,
    of: T,
}

impl<T> Default for Ahead<T> {
    fn default() -> Self {
        Self {
            next: 1,
            groups: VecDeque::new(),
        }
    }
}

impl<T: Copy> Ahead<T> {
    /// The number of the first of the records that leave next.
    pub(crate) fn next(&self) -> u64 {
        self.next
    }

    /// So many records have left, from `next` on.
    pub(crate) fn push(&mut self, records: u64, of: T) {
        self.groups.push_back(Group {
            first: self.next,
            records,
            open: records,
            of,
        });
        self.next += records;
    }

    /// Calls `ended` with the first number of each group whose records are all acknowledged by this.
    pub(crate) fn acknowledged(&mut self, run: Run, mut ended: impl FnMut(u64, T)) {
        let end = run.first + run.count;
        let mut at = self.index_of(run.first);
        while let Some(group) = self.groups.get_mut(at).filter(|group| group.first < end) {
            let acknowledged = end.min(group.first + group.records) - run.first.max(group.first);
            if group.open > 0 {
                group.open = group.open.saturating_sub(acknowledged);
                if group.open == 0 {
                    ended(group.first, group.of);
                }
            }
            at += 1;
        }
        self.shorten();
    }

    /// A record has failed: what its group belongs to, with its first number, unless its answer does not count.
    pub(crate) fn failed(&mut self, number: u64) -> Option<(u64, T)> {
        let at = self.index_of(number);
        let group = self.groups.get_mut(at);
        let group = group.filter(|group| group.first <= number && group.open > 0)?;
        group.open = 0;
        let found = (group.first, group.of);
        self.shorten();
        Some(found)
    }

    /// The answer to the group with this first number does not count any more. Returns whether it was open.
    pub(crate) fn recall(&mut self, first: u64) -> bool {
        self.failed(first).is_some()
    }

    /// The answers to these do not count any more.
    pub(crate) fn forget(&mut self, is_meant: impl Fn(T) -> bool) {
        let groups = self.groups.iter_mut();
        for group in groups.filter(|group| is_meant(group.of)) {
            group.open = 0;
        }
        self.shorten();
    }

    /// The index of the group with this record, or of the first one behind it.
    fn index_of(&self, number: u64) -> usize {
        // Most groups have one record, and answers come in order.
        let first = self.groups.front().map_or(number, |group| group.first);
        let guess = number.saturating_sub(first) as usize;
        let is_it = |group: &Group<T>| group.first == number;
        if self.groups.get(guess).is_some_and(is_it) {
            return guess;
        }
        self.groups
            .partition_point(|group| group.first + group.records <= number)
    }

    fn shorten(&mut self) {
        while self.groups.front().is_some_and(|group| group.open == 0) {
            self.groups.pop_front();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(ahead: &mut Ahead<char>, first: u64, count: u64) -> String {
        let mut found = String::new();
        ahead.acknowledged(Run { first, count }, |_, one| found.push(one));
        found
    }

    fn of(groups: &[(u64, char)]) -> Ahead<char> {
        let mut ahead = Ahead::default();
        for (records, of) in groups {
            ahead.push(*records, *of);
        }
        ahead
    }

    #[test]
    fn a_run_ends_the_groups_whose_records_are_all_acknowledged() {
        let mut ahead = of(&[(1, 'a'), (3, 'b'), (1, 'c'), (2, 'd')]);
        assert_eq!(ended(&mut ahead, 1, 2), "a");
        assert_eq!(ended(&mut ahead, 4, 2), "c");
        assert_eq!(ended(&mut ahead, 3, 1), "b");
        assert_eq!(ended(&mut ahead, 6, 2), "d");
        assert!(ahead.groups.is_empty());
        assert_eq!(ahead.next(), 8);
    }

    #[test]
    fn answers_come_in_any_order() {
        let mut ahead = of(&[(1, 'a'), (1, 'b'), (1, 'c')]);
        assert_eq!(ended(&mut ahead, 3, 1), "c");
        assert_eq!(ended(&mut ahead, 2, 1), "b");
        assert_eq!(ahead.groups.len(), 3);
        assert_eq!(ended(&mut ahead, 1, 1), "a");
        assert!(ahead.groups.is_empty());
        assert_eq!(ended(&mut ahead, 1, 3), "", "an answer that comes too late");
    }

    #[test]
    fn what_does_not_count_any_more_ends_nothing() {
        let mut ahead = of(&[(1, 'a'), (2, 'b'), (1, 'c'), (1, 'd')]);
        assert_eq!(ahead.failed(3), Some((2, 'b')));
        assert_eq!(ahead.failed(2), None, "it has failed before");
        assert!(ahead.recall(4) && !ahead.recall(4));
        ahead.forget(|one| one == 'd');
        assert_eq!(ended(&mut ahead, 1, 5), "a");
        assert!(ahead.groups.is_empty());
    }

    #[test]
    fn what_has_ended_is_not_taken_for_the_next_one() {
        let mut ahead = of(&[(1, 'a'), (1, 'b')]);
        assert_eq!(ahead.failed(1), Some((1, 'a')));
        assert!(!ahead.recall(1));
        assert_eq!(ended(&mut ahead, 2, 1), "b");
    }
}
