//! The table of deferred messages: data in, data out.

use super::*;
use crate::lua::FailureKind;

const PLACE: InLane = InLane { offset: 5, lane: 0 };

fn key(id: u64) -> Key {
    (0, DeferralId(id))
}

fn open(id: u64, listener: &str) -> Open {
    Open {
        key: key(id),
        listener: listener.to_owned(),
        position: "handlers/a.lua:3".into(),
        since: 0,
        limit: Duration::from_secs(30),
        attempt: 1,
        failing_since: None,
        failed_in: None,
        emits: false,
        is_automatic: true,
        answer: None,
    }
}

fn failed() -> Answer {
    Answer::Failed(Failure {
        kind: FailureKind::Raised,
        message: "no".to_owned(),
        traceback: None,
    })
}

/// One message for each of these offsets, away, with its offset as number and as id.
fn away(offsets: &[i64]) -> Deferred {
    let mut all = Deferred::default();
    for &offset in offsets {
        let number = offset as u64;
        all.add(number, InLane { offset, lane: 0 }, open(number, "a"));
        assert!(!all.is_finished(number));
    }
    all
}

#[test]
fn a_message_is_finished_when_its_last_deferral_is_done() {
    let mut all = Deferred::default();
    all.add(5, PLACE, open(1, "a"));
    all.add(5, PLACE, open(2, "b"));
    assert!(!all.is_finished(5));
    assert_eq!(all.take_moved(), [Moved::Away(5)]);
    assert_eq!(all.len(), 1);
    let (_, is_finished) = all.done(5, key(1)).unwrap();
    assert!(!is_finished);
    assert!(all.done(5, key(1)).is_none(), "twice");
    let (open, is_finished) = all.done(5, key(2)).unwrap();
    assert!(is_finished && open.listener == "b");
    assert!(all.is_finished(5));
    assert_eq!(all.len(), 0);
}

#[test]
fn a_deferral_that_is_done_while_its_message_is_in_its_lane_leaves_no_trace() {
    let mut all = Deferred::default();
    all.add(5, PLACE, open(1, "a"));
    assert_eq!(all.done(5, key(1)).map(|done| done.1), Some(false));
    assert!(all.is_finished(5));
    assert!(all.take_moved().is_empty());
}

#[test]
fn one_that_fails_in_its_lane_needs_no_fetch() {
    let mut all = Deferred::default();
    all.add(5, PLACE, open(1, "a"));
    all.answered(5, key(1), failed());
    assert_eq!(all.take_answered(5).len(), 1);
    assert!(all.ask().is_empty());
    assert!(all.is_finished(5));
}

#[test]
fn those_that_failed_are_asked_for_in_the_order_of_their_offsets_by_one_request() {
    let mut all = away(&[3, 7, 9]);
    all.answered(9, key(9), failed());
    all.answered(3, key(3), Answer::Again);
    assert_eq!(all.ask(), [3, 9]);
    all.answered(7, key(7), failed());
    assert!(all.ask().is_empty(), "one request at a time");
    assert_eq!(all.requested().map(|(offset, _)| offset), Some(3));
    assert_eq!(all.found(3), Some(3));
    all.take_moved();
    assert_eq!(all.here_again(3).len(), 1);
    assert_eq!(all.take_moved(), [Moved::Again(3)]);
    assert_eq!(all.len(), 2);
    // The answer had no room for the other one.
    all.end_request();
    assert_eq!(all.ask(), [7, 9]);
}

#[test]
fn a_message_that_is_skipped_meanwhile_is_not_wanted_any_more() {
    let mut all = away(&[3, 4]);
    all.answered(3, key(3), failed());
    all.answered(4, key(4), failed());
    assert_eq!(all.ask(), [3, 4]);
    assert!(all.done(3, key(3)).unwrap().1);
    assert!(all.is_finished(3));
    assert_eq!(all.found(3), None);
    assert_eq!(all.found(4), Some(4));
    all.end_request();
    assert!(all.ask().is_empty());
}

#[test]
fn a_lost_message_waits_for_its_other_listeners() {
    let mut all = Deferred::default();
    all.add(5, PLACE, open(1, "a"));
    all.add(5, PLACE, open(2, "b"));
    assert!(!all.is_finished(5));
    all.answered(5, key(1), failed());
    assert_eq!(all.ask(), [5]);
    assert_eq!(all.found(5), Some(5));
    let (lost, is_finished) = all.lost(5);
    assert_eq!((lost.len(), is_finished), (1, false));
    assert_eq!(all.done(5, key(2)).map(|done| done.1), Some(true));
}

#[test]
fn a_message_that_runs_again_may_be_deferred_again() {
    let mut all = away(&[5]);
    all.answered(5, key(5), failed());
    assert_eq!(all.ask(), [5]);
    assert_eq!(all.found(5), Some(5));
    all.here_again(5);
    assert_eq!(all.take_answered(5).len(), 1);
    all.add(5, PLACE, open(8, "a"));
    all.take_moved();
    assert!(!all.is_finished(5));
    assert_eq!((all.take_moved(), all.len()), (vec![Moved::Away(5)], 1));
    assert!(all.done(5, key(8)).unwrap().1);
}

#[test]
fn the_messages_that_are_fetched_again_are_bounded() {
    let offsets: Vec<i64> = (0..2 * AGAIN_MAX as i64).collect();
    let mut all = away(&offsets);
    for number in 0..offsets.len() as u64 {
        all.answered(number, key(number), failed());
    }
    let mut here = Vec::new();
    loop {
        let asked = all.ask();
        if asked.is_empty() {
            break;
        }
        assert!(asked.len() <= REQUESTED_MAX);
        for offset in asked {
            let number = all.found(offset).unwrap();
            all.here_again(number);
            here.push(number);
        }
        all.end_request();
    }
    assert_eq!(here.len(), AGAIN_MAX);
    all.take_answered(0);
    assert!(all.is_finished(0));
    assert_eq!(all.ask(), [AGAIN_MAX as i64]);
}
