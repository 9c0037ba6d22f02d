//! How old what a partition has in hand is, and how long its position stands still.
//!
//! Pure: moments come in. One entry a batch, since all of a batch was taken at the same moment; so nothing is done a
//! message.

use std::collections::VecDeque;
use std::time::Instant;

#[derive(Debug)]
pub(super) struct Ages {
    /// Messages below this offset were taken at this moment; both only grow.
    taken: VecDeque<(i64, Instant)>,
    position: i64,
    moved_at: Instant,
    /// Since when messages wait in the partition and none is in hand.
    waits_since: Option<Instant>,
}

impl Ages {
    pub(super) fn new(position: i64, now: Instant) -> Self {
        Self {
            taken: VecDeque::new(),
            position,
            moved_at: now,
            waits_since: None,
        }
    }

    /// A batch was taken, the last of it just below this offset.
    pub(super) fn took(&mut self, below: i64, now: Instant) {
        self.waits_since = None;
        self.taken.push_back((below, now));
    }

    /// Messages have finished; below this position all of them.
    pub(super) fn finished(&mut self, position: i64, now: Instant) {
        if position != self.position {
            self.position = position;
            self.moved_at = now;
        }
        while self
            .taken
            .front()
            .is_some_and(|(below, _)| *below <= position)
        {
            self.taken.pop_front();
        }
    }

    /// A look at whether messages wait in the partition though none is in hand.
    pub(super) fn look(&mut self, waits: bool, now: Instant) {
        if waits {
            self.waits_since.get_or_insert(now);
        } else {
            self.waits_since = None;
        }
    }

    /// When the oldest message in hand was taken.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.taken.front().map(|(_, at)| *at)
    }

    /// Since when the position has not moved although there is something to do.
    pub(super) fn stands_still_since(&self) -> Option<Instant> {
        self.oldest()
            .map(|at| at.max(self.moved_at))
            .or(self.waits_since)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn the_oldest_message_is_as_old_as_its_batch() {
        let start = Instant::now();
        let mut ages = Ages::new(10, start);
        assert_eq!(ages.oldest(), None);
        ages.took(15, at(start, 1));
        ages.took(20, at(start, 2));
        ages.finished(14, at(start, 3));
        assert_eq!(ages.oldest(), Some(at(start, 1)));
        ages.finished(15, at(start, 3));
        assert_eq!(ages.oldest(), Some(at(start, 2)));
        ages.finished(20, at(start, 3));
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn a_position_that_moves_does_not_stand_still_however_old_the_messages() {
        let start = Instant::now();
        let mut ages = Ages::new(10, start);
        ages.took(15, at(start, 1));
        assert_eq!(ages.stands_still_since(), Some(at(start, 1)));
        ages.finished(11, at(start, 50));
        assert_eq!(ages.stands_still_since(), Some(at(start, 50)));
        ages.finished(11, at(start, 70));
        assert_eq!(ages.stands_still_since(), Some(at(start, 50)));
        ages.finished(15, at(start, 80));
        assert_eq!(ages.stands_still_since(), None);
    }

    #[test]
    fn what_waits_and_is_not_received_stands_still_from_the_first_look() {
        let start = Instant::now();
        let mut ages = Ages::new(10, start);
        ages.look(true, at(start, 5));
        ages.look(true, at(start, 10));
        assert_eq!(ages.stands_still_since(), Some(at(start, 5)));
        ages.look(false, at(start, 15));
        assert_eq!(ages.stands_still_since(), None);
        ages.look(true, at(start, 20));
        ages.took(11, at(start, 21));
        ages.finished(11, at(start, 22));
        assert_eq!(ages.stands_still_since(), None);
    }
}
