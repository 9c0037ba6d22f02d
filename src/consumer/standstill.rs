//! The age of the oldest message in flight of a partition, and the time for which its position has not moved.
//!
//! Pure: moments come in. There is one entry per batch, because all messages of a batch were taken at the same
//! moment; so no work is done per message. Bounded: if one message keeps the position while others finish, the
//! batches behind it are merged.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

/// The most batches that have an entry of their own.
const BATCHES_MAX: usize = 1024;

#[derive(Debug)]
pub(super) struct Standstill {
    /// Messages below this offset were taken at this moment; both only grow.
    taken: VecDeque<(i64, Instant)>,
    /// Batches within this time are merged into one.
    apart: Duration,
    position: i64,
    moved_at: Instant,
    /// Since when messages wait in the partition while none is in flight.
    waits_since: Option<Instant>,
}

impl Standstill {
    pub(super) fn new(position: i64, now: Instant) -> Self {
        Self {
            taken: VecDeque::new(),
            apart: Duration::ZERO,
            position,
            moved_at: now,
            waits_since: None,
        }
    }

    /// A batch was taken; its last message is just below this offset.
    pub(super) fn took(&mut self, below: i64, now: Instant) {
        self.waits_since = None;
        let last_but_one = self.taken.len().checked_sub(2);
        let is_near = last_but_one
            .and_then(|index| self.taken.get(index))
            .is_some_and(|(_, at)| now.saturating_duration_since(*at) < self.apart);
        if is_near {
            // The newest entry, if it is not the oldest one, counts as taken with this batch.
            self.taken.pop_back();
        }
        self.taken.push_back((below, now));
        if self.taken.len() > BATCHES_MAX {
            self.thin();
        }
    }

    /// Merges half of the batches behind the oldest into their next one, evenly over the time.
    fn thin(&mut self) {
        if let (Some((_, first)), Some((_, last))) = (self.taken.front(), self.taken.back()) {
            self.apart = last.saturating_duration_since(*first) / (BATCHES_MAX / 2) as u32;
        }
        let mut index = 0;
        self.taken.retain(|_| {
            index += 1;
            index % 2 == 1
        });
    }

    /// Messages have finished; all messages below this position have.
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
        if self.taken.is_empty() {
            self.apart = Duration::ZERO;
        }
    }

    /// Notes whether messages wait in the partition while none is in flight.
    pub(super) fn look(&mut self, waits: bool, now: Instant) {
        if waits {
            self.waits_since.get_or_insert(now);
        } else {
            self.waits_since = None;
        }
    }

    /// A pause is over: what stood still for it does so no more.
    pub(super) fn resumed(&mut self, now: Instant) {
        self.moved_at = now;
        self.waits_since = self.waits_since.map(|_| now);
    }

    /// When the oldest message in flight was taken.
    pub(super) fn oldest(&self) -> Option<Instant> {
        self.taken.front().map(|(_, at)| *at)
    }

    /// Since when the position has not moved although the partition has messages.
    pub(super) fn stands_still_since(&self) -> Option<Instant> {
        self.oldest()
            .map(|at| at.max(self.moved_at))
            .or(self.waits_since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(start: Instant, seconds: u64) -> Instant {
        start + Duration::from_secs(seconds)
    }

    #[test]
    fn nothing_stood_still_for_the_time_of_a_pause() {
        let start = Instant::now();
        let mut ages = Standstill::new(10, start);
        ages.look(true, at(start, 1));
        ages.resumed(at(start, 500));
        assert_eq!(ages.stands_still_since(), Some(at(start, 500)));
        ages.took(15, at(start, 501));
        ages.resumed(at(start, 900));
        assert_eq!(ages.stands_still_since(), Some(at(start, 900)));
        assert_eq!(ages.oldest(), Some(at(start, 501)));
        ages.finished(15, at(start, 901));
        ages.resumed(at(start, 950));
        assert_eq!(ages.stands_still_since(), None);
    }

    #[test]
    fn the_oldest_message_is_as_old_as_its_batch() {
        let start = Instant::now();
        let mut ages = Standstill::new(10, start);
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
    fn a_message_that_never_ends_keeps_its_age_and_costs_no_memory_for_what_comes_behind_it() {
        let start = Instant::now();
        let mut ages = Standstill::new(0, start);
        let count = 20 * BATCHES_MAX as u64;
        for second in 0..count {
            ages.took(second as i64 + 1, at(start, second));
        }
        assert!(ages.taken.len() <= BATCHES_MAX);
        assert_eq!(ages.oldest(), Some(start));
        // Younger than it is, by what lies between two that are told apart.
        ages.finished(1, at(start, count));
        let oldest = ages.oldest().unwrap();
        assert!(oldest > start && oldest < at(start, count / 2));
        ages.finished(count as i64, at(start, count));
        assert_eq!(ages.oldest(), None);
    }

    #[test]
    fn a_position_that_moves_does_not_stand_still_however_old_the_messages() {
        let start = Instant::now();
        let mut ages = Standstill::new(10, start);
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
        let mut ages = Standstill::new(10, start);
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
