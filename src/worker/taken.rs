//! When the messages of a partition were taken: one entry per batch, so that a message costs nothing.
//!
//! Pure. Bounded: if a message never ends in front of many that do, the oldest batches are forgotten. Their remaining
//! messages count as taken with the next batch.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

/// The most batches that are remembered.
const BATCHES_MAX: usize = 1024;

#[derive(Debug, Default)]
pub(super) struct Taken {
    /// Messages below this number were taken at this moment, unless an earlier entry has them; numbers only grow.
    batches: VecDeque<(u64, Instant)>,
    /// The last result: most messages run in the order of arrival.
    found: Option<(Range<u64>, Instant)>,
}

impl Taken {
    /// Adds a batch that ends below this number. `lowest` is the lowest number that may still be looked up.
    pub(super) fn push(&mut self, below: u64, at: Instant, lowest: u64) {
        while self.batches.len() >= BATCHES_MAX
            || self.batches.front().is_some_and(|one| one.0 <= lowest)
        {
            self.batches.pop_front();
        }
        self.batches.push_back((below, at));
    }

    pub(super) fn at(&mut self, number: u64) -> Option<Instant> {
        if let Some((numbers, at)) = &self.found
            && numbers.contains(&number)
        {
            return Some(*at);
        }
        let first = self.batches.partition_point(|one| one.0 <= number);
        let (below, at) = *self.batches.get(first)?;
        let before = first.checked_sub(1).and_then(|one| self.batches.get(one));
        let above = before.map_or(number, |one| one.0);
        self.found = Some((above..below, at));
        Some(at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_message_was_taken_with_its_batch() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut taken = Taken::default();
        taken.push(5, at(1), 0);
        taken.push(9, at(2), 3);
        assert_eq!(taken.at(0), Some(at(1)));
        assert_eq!(taken.at(4), Some(at(1)));
        assert_eq!(taken.at(5), Some(at(2)));
        assert_eq!(taken.at(9), None);
        taken.push(12, at(3), 5);
        assert_eq!(taken.batches.len(), 2);
    }

    #[test]
    fn batches_behind_a_message_that_never_ends_are_forgotten_in_the_end() {
        let start = Instant::now();
        let mut taken = Taken::default();
        for batch in 1..=3 * BATCHES_MAX as u64 {
            taken.push(batch, start, 0);
        }
        assert_eq!(taken.batches.len(), BATCHES_MAX);
        assert_eq!(taken.at(0), Some(start));
    }
}
