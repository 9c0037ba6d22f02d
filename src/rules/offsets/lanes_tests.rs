//! Positions where a partition has many lanes, and what an earlier epoch finished beyond its position.

use super::commit_requests::UNASKED_MAX;
use crate::rules::offsets::*;

fn tracker(manual: &[&str], automatic: usize) -> Tracker {
    let start = Position {
        offset: 0,
        leader_epoch: 3,
    };
    let manual = manual.iter().map(|&name| name.into()).collect();
    let automatic = (0..automatic).map(|one| format!("auto-{one}").into());
    Tracker::new(start, manual, automatic.collect(), true)
}

/// Messages 0, 1, 2 … of these lanes.
fn arrive(tracker: &mut Tracker, lanes: &[u64]) {
    for &lane in lanes {
        let offset = tracker.expected();
        assert!(matches!(
            tracker.arrive(offset, 3, 1, |_| lane),
            Arrival::New(_)
        ));
    }
}

fn seed(tracker: &mut Tracker, ranges: &[Range<i64>]) {
    tracker.seed(Finished {
        ranges: ranges.to_vec(),
        leader_epoch: 3,
    });
}

#[test]
fn a_manual_request_speaks_for_its_own_lane() {
    let mut tracker = tracker(&["a"], 0);
    arrive(&mut tracker, &[1, 2, 1, 3]);
    assert_eq!(tracker.asks("a", 2, 2), 0);
    assert_eq!(tracker.asks("a", 1, 3), 3);
    assert_eq!(tracker.asks("a", 3, 4), 4);
    arrive(&mut tracker, &[2]);
    assert_eq!(tracker.target().offset, 4);
}

#[test]
fn what_is_finished_but_was_never_asked_for_holds_back() {
    let mut tracker = tracker(&["a"], 0);
    arrive(&mut tracker, &[1, 2]);
    tracker.finish(0..2);
    assert_eq!(tracker.asks("a", 2, 2), 0);
    assert_eq!(tracker.asks("a", 1, 1), 2);
}

#[test]
fn a_manual_request_takes_back_what_its_lane_asked_for() {
    let mut tracker = tracker(&["a"], 0);
    arrive(&mut tracker, &[1, 2]);
    tracker.asks("a", 1, 1);
    assert_eq!(tracker.asks("a", 2, 2), 2);
    assert_eq!(tracker.asks("a", 2, 1), 1);
    assert_eq!(tracker.asks("a", 2, 0), 0);
    assert_eq!(tracker.asks("a", 2, 2), 2);
}

#[test]
fn a_manual_request_that_is_told_late_is_the_same() {
    let mut tracker = tracker(&["a"], 0);
    arrive(&mut tracker, &[1, 2, 1, 1]);
    tracker.finish(0..4);
    assert_eq!(tracker.asks_at("a", 1, 0, 3), 1);
    // The next message of the lane takes back what the one before it asked for, and then comes itself again.
    assert_eq!(tracker.asks_at("a", 2, 1, 2), 3);
    assert_eq!(tracker.asks_at("a", 1, 2, 2), 2);
    assert_eq!(tracker.asks_at("a", 1, 3, 4), 4);
}

#[test]
fn an_early_commit_is_held_back_by_other_lanes() {
    let mut tracker = tracker(&[], 1);
    arrive(&mut tracker, &[1, 2, 1]);
    assert_eq!(tracker.asks("auto", 2, 2), 0);
    assert_eq!(tracker.asks("auto", 1, 1), 1);
    // What has not arrived may be of another lane.
    tracker.finish(1..2);
    assert_eq!(tracker.asks("auto", 1, 99), 3);
}

#[test]
fn the_next_epoch_does_not_pass_what_was_never_asked_for() {
    let mut tracker = tracker(&["a"], 0);
    arrive(&mut tracker, &[1, 2, 1]);
    tracker.finish(0..3);
    tracker.asks("a", 2, 2);
    assert_eq!(tracker.goes_on().offset, 0);
    tracker.asks("a", 1, 1);
    assert_eq!(tracker.goes_on().offset, 2);
    tracker.asks("a", 1, 3);
    assert_eq!(tracker.goes_on(), tracker.finished());
}

#[test]
fn too_many_unasked_messages_hold_the_position_for_good() {
    let mut tracker = tracker(&["a", "b"], 0);
    for offset in 0..=UNASKED_MAX as i64 {
        tracker.arrive(offset, 3, 1, |number| number);
        tracker.asks("b", offset as u64, offset + 1);
        tracker.finish(offset as u64..offset as u64 + 1);
        assert_eq!(tracker.is_newly_stuck("a"), offset == UNASKED_MAX as i64);
    }
    assert_eq!(tracker.asks("a", 0, 1), 0);
    assert!(!tracker.is_newly_stuck("a") && !tracker.is_newly_stuck("b"));
    tracker.set_listeners(vec!["b".into()], Vec::new());
    assert_eq!(tracker.target().offset, UNASKED_MAX as i64 + 1);
}

#[test]
fn a_seed_is_finished_when_it_arrives_and_told_until_the_position_passes_it() {
    let mut tracker = tracker(&[], 1);
    seed(&mut tracker, &[1..3, 5..9]);
    assert_eq!(tracker.beyond().ranges, [1..3, 5..9]);
    assert_eq!(tracker.arrive(0, 3, 1, |_| 0), Arrival::New(0));
    assert_eq!(tracker.arrive(1, 3, 1, |_| 0), Arrival::Finished);
    assert_eq!(tracker.arrive(2, 3, 1, |_| 0), Arrival::Finished);
    assert_eq!(tracker.arrive(3, 3, 1, |_| 0), Arrival::New(1));
    assert_eq!(tracker.beyond().ranges, [1..3, 5..9]);
    assert_eq!((tracker.unfinished(), tracker.bytes()), (2, 2));
    tracker.finish(0..1);
    assert_eq!(tracker.target().offset, 3);
    tracker.finish(1..2);
    // 4 was compacted away.
    assert_eq!(tracker.arrive(7, 3, 1, |_| 0), Arrival::Finished);
    assert_eq!(tracker.target().offset, 8);
    assert_eq!(
        tracker.beyond().ranges,
        std::iter::once(8..9).collect::<Vec<_>>()
    );
}

#[test]
fn what_a_later_leader_wrote_was_never_finished() {
    let mut tracker = tracker(&[], 1);
    seed(&mut tracker, &[1..3, 5..9]);
    assert_eq!(tracker.arrive(0, 4, 1, |_| 0), Arrival::New(0));
    assert_eq!(tracker.arrive(1, 4, 1, |_| 0), Arrival::New(1));
    assert!(tracker.beyond().ranges.is_empty());
}

#[test]
fn only_what_finishes_out_of_order_is_a_change() {
    let mut tracker = tracker(&[], 1);
    arrive(&mut tracker, &[1, 2, 3]);
    let before = tracker.changes();
    tracker.finish(0..1);
    assert_eq!(tracker.changes(), before);
    tracker.finish(2..3);
    assert_ne!(tracker.changes(), before);
}

#[test]
fn what_is_asked_before_a_listener_is_known_as_a_manual_one_stands() {
    let mut tracker = tracker(&["a"], 1);
    arrive(&mut tracker, &[1, 2, 3]);
    for (lane, offset) in [(1, 0), (2, 1)] {
        tracker.asks("a", lane, offset + 1);
        // Its worker has it as a manual one already, and another listener is not done with the message.
        let ask = Ask {
            listener: "auto-0".into(),
            lane,
            at: offset,
            offset: offset + 1,
        };
        assert_eq!(tracker.ask_ahead(&ask), 0);
    }
    tracker.set_listeners(vec!["a".into(), "auto-0".into()], Vec::new());
    assert_eq!(tracker.target().offset, 2);
    tracker.asks("auto-0", 3, 3);
    tracker.asks("a", 3, 3);
    assert_eq!(tracker.target().offset, 3);
}

#[test]
fn requests_of_finished_messages_are_not_kept() {
    let mut tracker = tracker(&[], 1);
    for number in 0..10_000 {
        arrive(&mut tracker, &[number]);
        let at = number as i64;
        tracker.ask_ahead(&Ask {
            listener: "auto-0".into(),
            lane: number,
            at,
            offset: at + 1,
        });
        assert!(tracker.kept.len() <= 17, "{}", tracker.kept.len());
        tracker.finish(number..number + 1);
    }
}
