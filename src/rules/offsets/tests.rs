//! Positions by table, where lanes are partitions.

use crate::rules::offsets::*;

fn zero(_: u64) -> u64 {
    0
}

impl Tracker {
    /// The handler of the lane's first unfinished message asks.
    pub(super) fn asks(&mut self, listener: &str, lane: u64, offset: i64) -> i64 {
        let mut entries = self.entries.iter();
        let runs = entries.find(|entry| entry.lane == lane && !entry.finished);
        let at = runs.map_or(offset - 1, |entry| entry.offset);
        self.asks_at(listener, lane, at, offset)
    }

    /// The handler of the message at `at` has asked.
    pub(super) fn asks_at(&mut self, listener: &str, lane: u64, at: i64, offset: i64) -> i64 {
        let listener = listener.into();
        self.ask(&Ask {
            listener,
            lane,
            at,
            offset,
        })
    }
}

fn tracker(start: i64) -> Tracker {
    Tracker::new(
        Position {
            offset: start,
            leader_epoch: -1,
        },
        Vec::new(),
        vec!["auto".into()],
        false,
    )
}

#[track_caller]
fn check(arrivals: &[i64], finished: &[u64], target: i64) {
    let mut tracker = tracker(10);
    for (number, &offset) in arrivals.iter().enumerate() {
        assert_eq!(
            tracker.arrive(offset, 0, 1, zero),
            Arrival::New(number as u64)
        );
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
    tracker.arrive(0, 0, 5, zero);
    tracker.arrive(1, 0, 5, zero);
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
fn the_oldest_unfinished_message_tells_its_timestamp_and_then_the_last_one() {
    let mut tracker = tracker(10);
    assert_eq!(tracker.oldest_timestamp(), None);
    for (offset, timestamp_ms) in [(10, 100), (11, 50)] {
        tracker.arrive(offset, 0, 1, zero);
        tracker.stamp(timestamp_ms);
    }
    assert_eq!(tracker.oldest_timestamp(), Some(100));
    tracker.finish(0..1);
    assert_eq!(tracker.oldest_timestamp(), Some(50));
    tracker.finish(1..2);
    assert_eq!(tracker.oldest_timestamp(), Some(50));
}

#[test]
fn what_is_in_flight_is_repeated_and_what_lies_below_went_back() {
    let mut tracker = tracker(10);
    tracker.arrive(10, 0, 1, zero);
    tracker.arrive(11, 0, 1, zero);
    tracker.finish(0..1);
    assert_eq!(tracker.arrive(11, 0, 1, zero), Arrival::Repeated);
    assert_eq!(tracker.arrive(3, 0, 1, zero), Arrival::WentBack);
}

#[test]
fn what_a_pause_repeats_is_known_even_when_it_is_finished() {
    let mut tracker = tracker(10);
    tracker.arrive(10, 3, 1, zero);
    tracker.pause();
    tracker.finish(0..1);
    assert_eq!(tracker.arrive(10, 3, 1, zero), Arrival::Repeated);
    assert_eq!(tracker.arrive(9, 3, 1, zero), Arrival::WentBack);
    assert_eq!(tracker.arrive(10, 4, 1, zero), Arrival::WentBack);
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
        Vec::new(),
        false,
    );
    tracker.arrive(10, 0, 1, zero);
    assert!(!tracker.is_requested());
    assert_eq!(tracker.asks("a", 0, 11), 11);
    assert_eq!(tracker.asks("a", 0, 4), 4);
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
        Vec::new(),
        false,
    );
    assert_eq!(tracker.asks("a", 0, 15), 10);
    assert_eq!(tracker.asks("b", 0, 12), 12);
    tracker.set_listeners(vec!["a".into()], Vec::new());
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
        vec!["auto".into()],
        false,
    );
    tracker.arrive(0, 0, 1, zero);
    assert_eq!(tracker.asks("a", 0, 1), 0);
    tracker.finish(0..1);
    assert_eq!(tracker.target().offset, 1);
}

#[test]
fn an_early_commit_counts_until_the_automatic_position_moves() {
    let mut tracker = tracker(0);
    tracker.arrive(0, 0, 1, zero);
    assert_eq!(tracker.asks("auto", 0, 1), 1);
    tracker.arrive(1, 0, 1, zero);
    assert_eq!(tracker.asks("auto", 0, 7), 7);
    tracker.finish(0..1);
    assert_eq!(tracker.target().offset, 1);
}

#[test]
fn an_early_commit_that_is_told_late_yields_to_the_automatic_position() {
    let mut tracker = tracker(0);
    tracker.arrive(0, 0, 1, zero);
    tracker.arrive(1, 0, 1, zero);
    tracker.finish(0..1);
    assert_eq!(tracker.asks_at("auto", 0, 0, 0), 1);
    assert_eq!(tracker.asks_at("auto", 0, 0, 9), 1);
    assert_eq!(tracker.asks_at("auto", 0, 1, 2), 2);
}

#[test]
fn an_early_commit_is_held_back_by_another_automatic_listener() {
    let mut tracker = tracker(0);
    tracker.set_listeners(Vec::new(), vec!["a".into(), "b".into()]);
    tracker.arrive(0, 0, 1, zero);
    assert_eq!(tracker.asks("a", 0, 1), 0);
}

#[test]
fn an_early_commit_does_not_speak_for_listeners_that_come_later() {
    for automatic in [["auto", "new"], ["new", "newer"]] {
        let mut tracker = tracker(0);
        tracker.arrive(0, 0, 1, zero);
        assert_eq!(tracker.asks("auto", 0, 1), 1);
        tracker.set_listeners(Vec::new(), vec!["auto".into()]);
        assert_eq!(tracker.target().offset, 1);
        tracker.set_listeners(Vec::new(), automatic.map(Into::into).into());
        assert_eq!(tracker.target().offset, 0);
    }
}

#[test]
fn a_manual_listener_that_a_reload_brings_comes_in_where_all_is_finished() {
    let start = Position {
        offset: 0,
        leader_epoch: -1,
    };
    let mut tracker = Tracker::new(start, vec!["a".into()], Vec::new(), false);
    tracker.arrive(0, 0, 1, zero);
    tracker.finish(0..1);
    tracker.asks("a", 0, 5);
    tracker.set_listeners(vec!["a".into(), "b".into()], Vec::new());
    assert_eq!(tracker.target().offset, 1);
}

#[test]
fn the_leader_epoch_is_that_of_the_last_finished_message() {
    let mut tracker = tracker(0);
    tracker.arrive(0, 7, 1, zero);
    tracker.arrive(1, 8, 1, zero);
    tracker.finish(0..1);
    assert_eq!(
        tracker.target(),
        Position {
            offset: 1,
            leader_epoch: 7
        }
    );
}

#[test]
fn a_partition_that_had_many_messages_and_has_none_gives_their_room_back() {
    let mut tracker = tracker(0);
    for offset in 0..5000 {
        tracker.arrive(offset, 0, 1, zero);
    }
    tracker.finish(0..5000);
    tracker.give_room_back();
    assert!(tracker.entries.capacity() <= ENTRIES_KEPT);
}

/// The epoch of the last message may have ended before the offsets behind it: together they would look like a truncated
/// log.
#[test]
fn offsets_without_a_message_have_no_leader_epoch() {
    let mut tracker = tracker(10);
    tracker.arrive(10, 3, 1, zero);
    tracker.finish(0..1);
    let at = |offset, leader_epoch| Position {
        offset,
        leader_epoch,
    };
    assert_eq!(tracker.target(), at(11, 3));
    tracker.pass(11);
    assert_eq!(tracker.target(), at(11, 3));
    tracker.pass(20);
    assert_eq!(tracker.target(), at(20, -1));
    assert_eq!(tracker.arrive(19, 3, 1, zero), Arrival::WentBack);
    assert_eq!(tracker.arrive(20, 3, 1, zero), Arrival::New(1));
}
