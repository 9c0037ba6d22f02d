//! Messages that are done but for the acknowledgement of what they, or earlier ones of their lane, have emitted.
//!
//! Pure. **A message is final when its own emissions and those of every earlier message of its lane are acknowledged.**
//! So a lane goes on meanwhile, and the position does not.

use std::collections::VecDeque;

use super::spread::Map;

/// Answers come together, and in order: that of so many messages behind one follows soon.
const SOON: usize = 3;

/// By lane, in the order of the lane.
#[derive(Debug)]
pub(crate) struct Unacknowledged<T> {
    lanes: Map<u64, VecDeque<Entry<T>>>,
}

#[derive(Debug)]
struct Entry<T> {
    number: u64,
    /// Emissions without an acknowledgement.
    open: usize,
    message: T,
}

impl<T> Default for Unacknowledged<T> {
    fn default() -> Self {
        Self {
            lanes: Map::default(),
        }
    }
}

impl<T> Unacknowledged<T> {
    /// Whether no lane has such a message: the usual case.
    pub(crate) fn is_empty(&self) -> bool {
        self.lanes.is_empty()
    }

    pub(crate) fn has(&self, lane: u64) -> bool {
        !self.is_empty() && self.lanes.contains_key(&lane)
    }

    /// The lane goes on behind this message, which has so many emissions without an acknowledgement.
    pub(crate) fn push(&mut self, lane: u64, number: u64, open: usize, message: T) {
        self.lanes.entry(lane).or_default().push_back(Entry {
            number,
            open,
            message,
        });
    }

    /// The last message of the lane: it is final when all of the lane are.
    pub(crate) fn last_mut(&mut self, lane: u64) -> Option<&mut T> {
        let last = self.lanes.get_mut(&lane)?.back_mut()?;
        Some(&mut last.message)
    }

    pub(crate) fn get(&self, lane: u64, number: u64) -> Option<&T> {
        let entries = self.lanes.get(&lane)?;
        let index = index_of(entries, number)?;
        Some(&entries[index].message)
    }

    /// An emission of this message is acknowledged, which `note` writes down. Calls `is_final` for each message that is
    /// final by that, and `soon` with one whose acknowledgement comes in a moment. Returns whether the message is here.
    pub(crate) fn acknowledged(
        &mut self,
        lane: u64,
        number: u64,
        note: impl FnOnce(&mut T),
        soon: impl FnOnce(&T),
        mut is_final: impl FnMut(u64, T),
    ) -> bool {
        let Some(entries) = self.lanes.get_mut(&lane) else {
            return false;
        };
        let Some(index) = index_of(entries, number) else {
            return false;
        };
        if let Some(entry) = entries.get(index + SOON) {
            soon(&entry.message);
        }
        entries[index].open = entries[index].open.saturating_sub(1);
        note(&mut entries[index].message);
        while entries.front().is_some_and(|first| first.open == 0)
            && let Some(first) = entries.pop_front()
        {
            is_final(first.number, first.message);
        }
        if entries.is_empty() {
            self.lanes.remove(&lane);
        }
        true
    }

    /// The lane goes back to this message: takes it and those behind it.
    pub(crate) fn take_from(&mut self, lane: u64, number: u64) -> Vec<(u64, T)> {
        let Some(entries) = self.lanes.get_mut(&lane) else {
            return Vec::new();
        };
        let Some(index) = index_of(entries, number) else {
            return Vec::new();
        };
        let taken = entries.drain(index..);
        let taken = taken.map(|one| (one.number, one.message)).collect();
        if entries.is_empty() {
            self.lanes.remove(&lane);
        }
        taken
    }

    /// Every lane goes back to its first message.
    pub(crate) fn take_all(&mut self) -> Vec<(u64, Vec<(u64, T)>)> {
        let lanes = self.lanes.drain();
        let messages = |entries: VecDeque<Entry<T>>| {
            let entries = entries.into_iter();
            entries.map(|one| (one.number, one.message)).collect()
        };
        lanes
            .map(|(lane, entries)| (lane, messages(entries)))
            .collect()
    }

    pub(crate) fn all(&self) -> impl Iterator<Item = &T> {
        let entries = self.lanes.values().flatten();
        entries.map(|entry| &entry.message)
    }

    /// Lanes and numbers.
    #[cfg(test)]
    pub(crate) fn all_places(&self) -> Vec<(u64, u64)> {
        let lanes = self.lanes.iter();
        let places = lanes.flat_map(|(lane, all)| all.iter().map(|one| (*lane, one.number)));
        places.collect()
    }

    pub(crate) fn each(&mut self, mut each: impl FnMut(&mut T)) {
        for entry in self.lanes.values_mut().flatten() {
            each(&mut entry.message);
        }
    }
}

fn index_of<T>(entries: &VecDeque<Entry<T>>, number: u64) -> Option<usize> {
    // Answers come in order, mostly.
    if entries.front().is_some_and(|first| first.number == number) {
        return Some(0);
    }
    entries.binary_search_by_key(&number, |one| one.number).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finals(all: &mut Unacknowledged<&'static str>, lane: u64, number: u64) -> Vec<&'static str> {
        let mut found = Vec::new();
        all.acknowledged(lane, number, |_| (), |_| (), |_, name| found.push(name));
        found
    }

    #[test]
    fn a_message_is_final_after_every_earlier_one_of_its_lane() {
        let mut all = Unacknowledged::default();
        all.push(7, 1, 1, "a");
        all.push(7, 2, 2, "b");
        all.push(7, 5, 0, "nothing emitted");
        all.push(8, 3, 1, "another lane");
        assert!(finals(&mut all, 7, 2).is_empty());
        assert_eq!(finals(&mut all, 8, 3), ["another lane"]);
        assert!(!all.has(8));
        assert!(finals(&mut all, 7, 2).is_empty());
        assert_eq!(finals(&mut all, 7, 1), ["a", "b", "nothing emitted"]);
        assert!(all.is_empty());
    }

    #[test]
    fn a_lane_goes_back_with_everything_behind() {
        let mut all = Unacknowledged::default();
        for (number, name) in [(1, "a"), (2, "b"), (3, "c")] {
            all.push(7, number, 1, name);
        }
        assert_eq!(all.take_from(7, 2), [(2, "b"), (3, "c")]);
        assert!(all.take_from(7, 2).is_empty());
        assert!(
            finals(&mut all, 7, 3).is_empty(),
            "an answer that comes too late"
        );
        assert_eq!(finals(&mut all, 7, 1), ["a"]);
        assert!(all.is_empty());
    }

    #[test]
    fn the_last_message_of_a_lane_waits_for_all() {
        let mut all = Unacknowledged::default();
        all.push(7, 1, 1, "a");
        all.push(7, 4, 0, "b");
        *all.last_mut(7).unwrap() = "c";
        assert_eq!(all.last_mut(8), None);
        assert_eq!(all.get(7, 1), Some(&"a"));
        assert_eq!(all.get(7, 2), None);
        assert_eq!(finals(&mut all, 7, 1), ["a", "c"]);
    }
}
