//! Which offset may be committed for one partition, in one epoch of its assignment.
//!
//! Pure. Offsets that were really received are tracked, in order of arrival, since compacted topics and transactions
//! leave gaps. **Auto: never beyond the lowest unfinished message. Manual: as far as asked, and never beyond another
//! listener's position.** A new epoch (assignment, reset) is a new `Tracker`.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

/// A place in a partition: the next offset, and the leader epoch of the message before it (-1: unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
}

#[derive(Debug)]
pub(crate) struct Tracker {
    start: Position,
    /// What lies below was received in this epoch already.
    expected: i64,
    /// Where the last pause found the lowest unfinished message: what lies above may come twice because of it.
    paused_at: i64,
    newest_leader_epoch: i32,
    /// Number of the first entry.
    base: u64,
    entries: VecDeque<Entry>,
    finished: Position,
    /// Messages that are neither finished nor given up.
    unfinished: usize,
    bytes: usize,
    /// Per manual listener: what it asked for last, or where it came in.
    manual: Vec<Manual>,
    /// How many listeners are not manual: with one at least, the automatic position counts.
    automatic: usize,
    /// An auto listener's own request, until the automatic position moves.
    early: Option<i64>,
}

#[derive(Clone, Debug)]
struct Manual {
    listener: Arc<str>,
    position: i64,
    has_asked: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    offset: i64,
    leader_epoch: i32,
    bytes: u32,
    finished: bool,
}

/// What an arriving message is to this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its number: consecutive, from 0.
    New(u64),
    /// It is in flight or was received a moment ago: a pause can deliver twice.
    Repeated,
    /// It lies below everything unfinished: the client went back (a truncated log, a reset). Begin a new epoch.
    WentBack,
}

impl Tracker {
    /// `manual` names the listeners that commit by themselves; `automatic` is the number of the others.
    pub(crate) fn new(start: Position, manual: Vec<Arc<str>>, automatic: usize) -> Self {
        Self {
            start,
            expected: start.offset,
            paused_at: i64::MAX,
            newest_leader_epoch: start.leader_epoch,
            base: 0,
            entries: VecDeque::new(),
            finished: start,
            unfinished: 0,
            bytes: 0,
            manual: manual
                .into_iter()
                .map(|listener| Manual::new(listener, start.offset))
                .collect(),
            automatic,
            early: None,
        }
    }

    /// After a reload: other listeners, the same messages. What a listener asked for stays asked for; a new one comes in
    /// where everything is finished.
    pub(crate) fn set_listeners(&mut self, manual: Vec<Arc<str>>, automatic: usize) {
        let mut old = std::mem::take(&mut self.manual);
        for listener in manual {
            let known = old.iter().position(|one| one.listener == listener);
            self.manual.push(match known {
                Some(index) => old.swap_remove(index),
                None => Manual::new(listener, self.finished.offset),
            });
        }
        self.automatic = automatic;
    }

    pub(crate) fn arrive(&mut self, offset: i64, leader_epoch: i32, bytes: usize) -> Arrival {
        if offset < self.expected {
            let known = self
                .entries
                .front()
                .map_or(self.finished.offset, |entry| entry.offset)
                .min(self.paused_at);
            // A newer leader epoch at an older offset is another message: the log was truncated below it.
            let rewritten =
                leader_epoch > self.newest_leader_epoch && self.newest_leader_epoch >= 0;
            return if offset < known || rewritten {
                Arrival::WentBack
            } else {
                Arrival::Repeated
            };
        }
        self.newest_leader_epoch = self.newest_leader_epoch.max(leader_epoch);
        // What a pause repeats comes before what is new.
        self.paused_at = i64::MAX;
        self.expected = offset + 1;
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.push_back(Entry {
            offset,
            leader_epoch,
            bytes,
            finished: false,
        });
        self.unfinished += 1;
        self.bytes += bytes as usize;
        Arrival::New(self.base + self.entries.len() as u64 - 1)
    }

    /// The partition is about to be paused.
    pub(crate) fn pause(&mut self) {
        self.paused_at = self.finished.offset;
    }

    /// The messages of these numbers have their outcome. Numbers that are finished already are passed over.
    pub(crate) fn finish(&mut self, numbers: Range<u64>) {
        for number in numbers.start.max(self.base)..numbers.end {
            let Some(entry) = self.entries.get_mut((number - self.base) as usize) else {
                break;
            };
            if !entry.finished {
                entry.finished = true;
                self.unfinished -= 1;
                self.bytes -= entry.bytes as usize;
            }
        }
        while let Some(entry) = self.entries.front().filter(|entry| entry.finished) {
            self.finished = Position {
                offset: entry.offset + 1,
                leader_epoch: entry.leader_epoch,
            };
            self.entries.pop_front();
            self.base += 1;
            self.early = None;
        }
    }

    /// A handler's `commitOffsets(offset)`. Returns what stands to be committed by it.
    pub(crate) fn ask(&mut self, listener: &str, offset: i64) -> i64 {
        match self
            .manual
            .iter_mut()
            .find(|one| *one.listener == *listener)
        {
            Some(one) => {
                one.position = offset;
                one.has_asked = true;
            }
            // Another automatic listener may not have run yet.
            None if self.automatic > 1 => self.early = Some(offset.min(self.finished.offset)),
            None => self.early = Some(offset),
        }
        self.target().offset
    }

    /// What to commit now, whether or not it is committed already.
    pub(crate) fn target(&self) -> Position {
        let asked = self.manual.iter().map(|one| one.position).min();
        let own = (self.automatic > 0).then(|| self.early.unwrap_or(self.finished.offset));
        let offset = match (asked, own) {
            (Some(asked), Some(own)) => asked.min(own),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => self.finished.offset,
        };
        // The epoch vouches for the message before the offset; another offset than the finished one has none to show.
        let leader_epoch = if offset == self.finished.offset {
            self.finished.leader_epoch
        } else {
            -1
        };
        Position {
            offset,
            leader_epoch,
        }
    }

    /// Whether commits happen by themselves: no listener is manual.
    pub(crate) fn is_automatic(&self) -> bool {
        self.manual.is_empty()
    }

    /// Whether a handler asked for a commit that counts.
    pub(crate) fn is_asked(&self) -> bool {
        self.early.is_some() || self.manual.iter().any(|one| one.has_asked)
    }

    /// The next offset that may come.
    pub(crate) fn expected(&self) -> i64 {
        self.expected
    }

    /// Below it everything is finished.
    pub(crate) fn finished(&self) -> Position {
        self.finished
    }

    /// Whether nothing was finished in this epoch yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.finished == self.start
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Bytes of the unfinished messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

impl Manual {
    fn new(listener: Arc<str>, position: i64) -> Self {
        Self {
            listener,
            position,
            has_asked: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tracker(start: i64) -> Tracker {
        Tracker::new(
            Position {
                offset: start,
                leader_epoch: -1,
            },
            Vec::new(),
            1,
        )
    }

    #[track_caller]
    fn check(arrivals: &[i64], finished: &[u64], target: i64) {
        let mut tracker = tracker(10);
        for (number, &offset) in arrivals.iter().enumerate() {
            assert_eq!(tracker.arrive(offset, 0, 1), Arrival::New(number as u64));
        }
        for &number in finished {
            tracker.finish(number..number + 1);
        }
        assert_eq!(tracker.target().offset, target);
        assert_eq!(tracker.unfinished(), arrivals.len() - finished.len());
        assert_eq!(tracker.bytes(), arrivals.len() - finished.len());
    }

    #[test]
    fn nothing_finished_commits_the_start() {
        check(&[10, 11], &[], 10);
    }

    #[test]
    fn a_later_message_waits_for_an_earlier_one() {
        check(&[10, 11, 12], &[1, 2], 10);
        check(&[10, 11, 12], &[1, 0], 12);
    }

    #[test]
    fn gaps_in_the_log_are_passed_over() {
        check(&[15, 20, 99], &[0, 1], 21);
        check(&[15, 20, 99], &[0, 1, 2], 100);
    }

    #[test]
    fn finishing_twice_counts_once() {
        let mut tracker = tracker(0);
        tracker.arrive(0, 0, 5);
        tracker.arrive(1, 0, 5);
        tracker.finish(1..2);
        tracker.finish(1..2);
        tracker.finish(0..2);
        assert_eq!(
            (
                tracker.target().offset,
                tracker.unfinished(),
                tracker.bytes()
            ),
            (2, 0, 0)
        );
    }

    #[test]
    fn what_is_in_flight_is_repeated_and_what_lies_below_went_back() {
        let mut tracker = tracker(10);
        tracker.arrive(10, 0, 1);
        tracker.arrive(11, 0, 1);
        tracker.finish(0..1);
        assert_eq!(tracker.arrive(11, 0, 1), Arrival::Repeated);
        assert_eq!(tracker.arrive(3, 0, 1), Arrival::WentBack);
    }

    #[test]
    fn what_a_pause_repeats_is_known_even_when_it_is_finished() {
        let mut tracker = tracker(10);
        tracker.arrive(10, 3, 1);
        tracker.pause();
        tracker.finish(0..1);
        assert_eq!(tracker.arrive(10, 3, 1), Arrival::Repeated);
        assert_eq!(tracker.arrive(9, 3, 1), Arrival::WentBack);
        assert_eq!(tracker.arrive(10, 4, 1), Arrival::WentBack);
    }

    #[test]
    fn a_manual_offset_is_committed_literally_even_backwards() {
        let manual: Arc<str> = "a".into();
        let mut tracker = Tracker::new(
            Position {
                offset: 10,
                leader_epoch: -1,
            },
            vec![manual],
            0,
        );
        tracker.arrive(10, 0, 1);
        assert!(!tracker.is_asked());
        assert_eq!(tracker.ask("a", 11), 11);
        assert_eq!(tracker.ask("a", 4), 4);
    }

    #[test]
    fn a_manual_offset_is_held_back_by_another_listener() {
        let both = vec!["a".into(), "b".into()];
        let mut tracker = Tracker::new(
            Position {
                offset: 10,
                leader_epoch: -1,
            },
            both,
            0,
        );
        assert_eq!(tracker.ask("a", 15), 10);
        assert_eq!(tracker.ask("b", 12), 12);
        tracker.set_listeners(vec!["a".into()], 0);
        assert_eq!(tracker.target().offset, 15);
    }

    #[test]
    fn an_automatic_listener_beside_a_manual_one_holds_it_back() {
        let mut tracker = Tracker::new(
            Position {
                offset: 0,
                leader_epoch: -1,
            },
            vec!["a".into()],
            1,
        );
        tracker.arrive(0, 0, 1);
        assert_eq!(tracker.ask("a", 1), 0);
        tracker.finish(0..1);
        assert_eq!(tracker.target().offset, 1);
    }

    #[test]
    fn an_early_commit_counts_until_the_automatic_position_moves() {
        let mut tracker = tracker(0);
        tracker.arrive(0, 0, 1);
        assert_eq!(tracker.ask("auto", 1), 1);
        tracker.arrive(1, 0, 1);
        assert_eq!(tracker.ask("auto", 7), 7);
        tracker.finish(0..1);
        assert_eq!(tracker.target().offset, 1);
    }

    #[test]
    fn an_early_commit_is_held_back_by_another_automatic_listener() {
        let mut tracker = tracker(0);
        tracker.set_listeners(Vec::new(), 2);
        tracker.arrive(0, 0, 1);
        assert_eq!(tracker.ask("a", 1), 0);
    }

    #[test]
    fn a_manual_listener_that_a_reload_brings_comes_in_where_all_is_finished() {
        let start = Position {
            offset: 0,
            leader_epoch: -1,
        };
        let mut tracker = Tracker::new(start, vec!["a".into()], 0);
        tracker.arrive(0, 0, 1);
        tracker.finish(0..1);
        tracker.ask("a", 5);
        tracker.set_listeners(vec!["a".into(), "b".into()], 0);
        assert_eq!(tracker.target().offset, 1);
    }

    #[test]
    fn the_leader_epoch_is_that_of_the_last_finished_message() {
        let mut tracker = tracker(0);
        tracker.arrive(0, 7, 1);
        tracker.arrive(1, 8, 1);
        tracker.finish(0..1);
        assert_eq!(
            tracker.target(),
            Position {
                offset: 1,
                leader_epoch: 7
            }
        );
    }
}
