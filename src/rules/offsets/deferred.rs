//! Deferred messages: their lanes go on, and the position does not. **No commit passes one before it is finished**, also
//! where commits are manual.
//!
//! A message is *away* while its bytes are given back. It then counts neither as in flight nor in bytes.

use std::collections::BTreeSet;

use super::{Entry, Tracker};

/// Where the bytes of a message are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Payload {
    Here,
    /// The message is deferred.
    Away,
    /// It was deferred, and has been fetched again.
    Again,
}

/// Where a deferred message is, by its number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Moved {
    /// Its bytes are given back, and its lane goes on.
    Away(u64),
    /// It was fetched again.
    Again(u64),
    /// It was to be fetched again, and the log does not have it.
    Lost(u64),
}

#[derive(Debug, Default)]
pub(super) struct Deferred {
    /// The offsets of messages that are or were deferred, until they are finished.
    offsets: BTreeSet<i64>,
    /// Whether there was ever one: messages finish beyond the position then, whatever the lanes are.
    pub(super) was_any: bool,
}

impl Deferred {
    /// The message of this entry is finished. Returns where its bytes were.
    pub(super) fn finish(&mut self, entry: &Entry) -> Payload {
        if entry.payload != Payload::Here {
            self.offsets.remove(&entry.offset);
        }
        entry.payload
    }

    /// The highest offset up to this one that may be committed.
    pub(super) fn below(&self, offset: i64) -> i64 {
        self.offsets
            .first()
            .map_or(offset, |first| offset.min(*first))
    }
}

impl Tracker {
    /// A deferred message has moved.
    pub(crate) fn moved(&mut self, moved: Moved) {
        let (number, payload) = match moved {
            Moved::Away(number) => (number, Payload::Away),
            Moved::Again(number) => (number, Payload::Again),
            // It will be finished as any other.
            Moved::Lost(_) => return,
        };
        let index = self.index_of(number);
        let entry = self.entries.get_mut(index);
        let Some(entry) = entry.filter(|one| one.number == number && !one.finished) else {
            return;
        };
        let before = std::mem::replace(&mut entry.payload, payload);
        self.deferred.was_any = true;
        self.deferred.offsets.insert(entry.offset);
        let bytes = entry.bytes as usize;
        match (before == Payload::Away, payload == Payload::Away) {
            (false, true) => {
                self.unfinished -= 1;
                self.bytes -= bytes;
            }
            (true, false) => {
                self.unfinished += 1;
                self.bytes += bytes;
            }
            _ => {}
        }
    }

    /// Whether messages may be finished beyond the position although the partition is one lane.
    pub(crate) fn defers(&self) -> bool {
        self.deferred.was_any || !self.seeds.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rules::offsets::{Ask, Position};

    fn tracker(manual: &[&str], automatic: &[&str], by_lane: bool) -> Tracker {
        let start = Position {
            offset: 0,
            leader_epoch: -1,
        };
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        let mut tracker = Tracker::new(start, names(manual), names(automatic), by_lane);
        for offset in 0..10 {
            tracker.arrive(offset, -1, 100, |number| if by_lane { number } else { 0 });
        }
        tracker
    }

    fn ask(tracker: &mut Tracker, lane: u64, at: i64, offset: i64) -> i64 {
        tracker.ask(&Ask {
            listener: "a".into(),
            lane,
            at,
            offset,
        })
    }

    #[test]
    fn a_deferred_message_holds_the_position_and_nothing_else() {
        let mut tracker = tracker(&[], &["a"], false);
        assert!(!tracker.defers());
        for number in [0, 1] {
            tracker.moved(Moved::Away(number));
        }
        tracker.moved(Moved::Away(1));
        assert_eq!((tracker.unfinished(), tracker.bytes()), (8, 800));
        tracker.finish(2..6);
        tracker.finish(1..2);
        assert_eq!((tracker.unfinished(), tracker.bytes()), (4, 400));
        assert_eq!(tracker.target().offset, 0);
        let beyond = tracker.beyond().ranges;
        assert_eq!((beyond.len(), &beyond[0]), (1, &(1..6)));
        assert!(tracker.defers());
        tracker.finish(0..1);
        assert_eq!(tracker.target().offset, 6);
        assert_eq!((tracker.unfinished(), tracker.bytes()), (4, 400));
    }

    #[test]
    fn a_message_that_is_fetched_again_counts_again() {
        let mut tracker = tracker(&[], &["a"], true);
        tracker.moved(Moved::Away(3));
        tracker.moved(Moved::Again(3));
        assert_eq!((tracker.unfinished(), tracker.bytes()), (10, 1000));
        tracker.moved(Moved::Away(3));
        tracker.moved(Moved::Again(3));
        tracker.finish(0..10);
        assert_eq!((tracker.unfinished(), tracker.bytes()), (0, 0));
        assert_eq!(tracker.target().offset, 10);
        // What is finished stays so.
        tracker.moved(Moved::Away(3));
        assert_eq!((tracker.unfinished(), tracker.target().offset), (0, 10));
    }

    #[test]
    fn no_request_passes_a_deferred_message() {
        for by_lane in [false, true] {
            let mut tracker = tracker(&["a"], &[], by_lane);
            let lane = |at: i64| if by_lane { at as u64 } else { 0 };
            tracker.moved(Moved::Away(1));
            for at in 0..5 {
                tracker.finish(at as u64..at as u64 + u64::from(at != 1));
                let asked = ask(&mut tracker, lane(at), at, at + 1);
                assert_eq!(asked, (at + 1).min(1), "{by_lane} {at}");
            }
            tracker.moved(Moved::Again(1));
            assert_eq!(tracker.target().offset, 1);
            tracker.finish(1..2);
            assert_eq!(tracker.target().offset, 5);
        }
    }

    /// With automatic commits a request counts beyond the position.
    #[test]
    fn a_request_beside_automatic_commits_does_not_pass_one_either() {
        let mut tracker = tracker(&[], &["a"], false);
        tracker.moved(Moved::Away(2));
        assert_eq!(ask(&mut tracker, 0, 3, 7), 2);
    }

    #[test]
    fn a_message_that_runs_again_takes_no_request_back() {
        let mut tracker = tracker(&["a"], &[], false);
        tracker.moved(Moved::Away(0));
        ask(&mut tracker, 0, 5, 6);
        tracker.moved(Moved::Again(0));
        ask(&mut tracker, u64::MAX, 0, 1);
        tracker.finish(0..1);
        assert_eq!(tracker.target().offset, 6);
    }
}
