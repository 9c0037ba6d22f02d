//! Lanes by table.

use std::time::{Duration, Instant};

use crate::message::OwnedRecord;
use crate::rules::lanes::*;

const TWO: [&str; 2] = ["a", "b"];

fn lane() -> Lane<u64> {
    Lane::new(0, 0, TWO.into_iter())
}

fn lanes(messages: u64) -> Lanes<u64> {
    let mut lanes = Lanes::new();
    lanes.push(0, 0..messages);
    lanes
}

/// The next message gets a lane of its own, which is put back.
fn open(lanes: &mut Lanes<u64>, key: u64) {
    let (number, message) = lanes.take_fresh().unwrap();
    lanes.put(key, Lane::new(number, message, ["a"].into_iter()));
}

#[track_caller]
fn check(stages: [Stage; 2], expected: LaneState) {
    let mut lane = lane();
    for (progress, stage) in lane.progress.iter_mut().zip(stages) {
        progress.stage = stage;
    }
    assert_eq!(lane.state(), expected);
}

#[test]
fn listeners_run_in_the_order_of_declaration() {
    check([Stage::Due, Stage::Due], LaneState::Run(0));
    check([Stage::Running, Stage::Due], LaneState::Busy);
    check([Stage::Due, Stage::Running], LaneState::Busy);
    check([Stage::Final, Stage::Due], LaneState::Run(1));
    check([Stage::Final, Stage::Final], LaneState::Finished);
}

#[test]
fn a_failing_first_listener_does_not_keep_the_second_from_running() {
    let until = Instant::now() + Duration::from_secs(1);
    let later = until + Duration::from_secs(1);
    check([Stage::BackOff(until), Stage::Due], LaneState::Run(1));
    check([Stage::Sending, Stage::Due], LaneState::Run(1));
    check([Stage::Held, Stage::Due], LaneState::Run(1));
    check(
        [Stage::BackOff(until), Stage::Final],
        LaneState::Wait(until),
    );
    check(
        [Stage::BackOff(later), Stage::Unsent(until)],
        LaneState::Wait(until),
    );
    check([Stage::SendDue, Stage::Final], LaneState::Send(0));
    check([Stage::Due, Stage::SendDue], LaneState::Run(0));
    check([Stage::Running, Stage::SendDue], LaneState::Send(1));
    check([Stage::SendDue, Stage::Running], LaneState::Send(0));
    check([Stage::Halted, Stage::Final], LaneState::Stuck);
    check(
        [Stage::Halted, Stage::BackOff(until)],
        LaneState::Wait(until),
    );
    check([Stage::Halted, Stage::Sending], LaneState::Busy);
}

#[test]
fn a_retry_runs_only_the_listener_that_failed() {
    let now = Instant::now();
    let mut lane = lane();
    lane.progress[0].stage = Stage::BackOff(now);
    lane.progress[1].stage = Stage::Final;
    lane.tick(now);
    assert_eq!(lane.state(), LaneState::Run(0));
}

#[test]
fn what_comes_for_an_open_lane_waits_behind_its_head() {
    let mut lanes = lanes(3);
    open(&mut lanes, 7);
    assert_eq!(lanes.fresh(), Some((1, &1)));
    lanes.defer_fresh(7);
    assert_eq!(lanes.fresh(), Some((2, &2)));
    let next = lanes.take(7).unwrap().advance(["a"].into_iter()).unwrap();
    assert_eq!(
        (next.number, next.message, next.state()),
        (1, 1, LaneState::Run(0))
    );
    assert!(next.advance(["a"].into_iter()).is_none());
    assert!(!lanes.has_open());
}

#[test]
fn a_lane_is_in_line_once() {
    let mut lanes = lanes(1);
    open(&mut lanes, 7);
    lanes.wake(7);
    lanes.wake(7);
    assert_eq!((lanes.next_ready(), lanes.next_ready()), (Some(7), None));
    lanes.wake(7);
    lanes.take(7);
    assert_eq!(lanes.next_ready(), None);
}

#[test]
fn a_reload_keeps_outcomes_and_ends_back_offs() {
    let mut lanes = lanes(1);
    let mut lane = Lane::new(0, 0, TWO.into_iter());
    lanes.take_fresh();
    lane.progress[0].stage = Stage::Final;
    lane.progress[1].stage = Stage::BackOff(Instant::now() + Duration::from_secs(9));
    lanes.put(0, lane);
    let mut gone = Vec::new();
    lanes.set_listeners(&["c", "a"].into_iter(), |listener, _| {
        gone.push(listener.to_owned());
    });
    assert_eq!(lanes.get(0).unwrap().state(), LaneState::Run(0));
    assert_eq!(lanes.end_back_offs(None), 0);
    lanes.set_listeners(&std::iter::empty(), |listener, _| {
        gone.push(listener.to_owned());
    });
    assert_eq!(lanes.get(0).unwrap().state(), LaneState::Finished);
    assert_eq!(gone, ["b", "c"]);
}

#[test]
fn what_is_under_way_keeps_the_lane_though_its_listener_is_gone() {
    for stage in [Stage::Running, Stage::Sending] {
        let mut lane = lane();
        lane.progress[0].stage = stage;
        lane.progress[1].stage = Stage::Final;
        assert!(lane.set_listeners(["b"].into_iter()).is_empty());
        assert_eq!(lane.state(), LaneState::Busy);
    }
}

#[test]
fn back_offs_end_for_one_listener_or_all() {
    let until = Instant::now() + Duration::from_secs(9);
    let mut lanes = lanes(1);
    let mut lane = lane();
    lanes.take_fresh();
    lane.progress[0].stage = Stage::BackOff(until);
    lane.progress[1].stage = Stage::Unsent(until);
    lanes.put(0, lane);
    assert_eq!(lanes.end_back_offs(Some("b")), 1);
    assert_eq!(lanes.next_ready(), Some(0));
    assert_eq!(lanes.get(0).unwrap().state(), LaneState::Send(1));
    assert_eq!(lanes.end_back_offs(None), 1);
    assert_eq!(lanes.get(0).unwrap().state(), LaneState::Run(0));
}

#[test]
fn what_waits_longer_than_from_one_look_to_the_next_is_found() {
    let mut lanes = lanes(3);
    let found = |lanes: &mut Lanes<u64>| {
        let mut old = Vec::new();
        lanes.each_old(|message| old.push(*message));
        old.sort_unstable();
        old
    };
    open(&mut lanes, 7);
    lanes.defer_fresh(7);
    assert!(found(&mut lanes).is_empty());
    lanes.push(9, 9..10);
    assert_eq!(found(&mut lanes), [0, 1, 2]);
    lanes.take(7);
    assert_eq!(found(&mut lanes), [2, 9]);
}

#[track_caller]
fn key_of(ordering: Ordering, null_keys: NullKeys, key: Option<&[u8]>, number: u64) -> u64 {
    let record = OwnedRecord {
        key: key.map(Into::into),
        ..OwnedRecord::default()
    };
    lane_of(ordering, null_keys, 5, &record, number)
}

#[test]
fn a_lane_is_a_partition_a_key_or_a_message() {
    use NullKeys::{Parallel, Partition as Together};
    let by_key = |key, number| key_of(Ordering::Key, Parallel, key, number);
    assert_eq!(key_of(Ordering::Partition, Parallel, Some(b"a"), 9), 0);
    assert_eq!(by_key(Some(b"a"), 1), by_key(Some(b"a"), 2));
    assert_ne!(by_key(Some(b"a"), 1), by_key(Some(b""), 1));
    assert_ne!(by_key(None, 1), by_key(None, 2));
    assert_eq!(
        key_of(Ordering::Key, Together, None, 1),
        key_of(Ordering::Key, Together, None, 2)
    );
    assert_ne!(
        key_of(Ordering::None, Parallel, Some(b"a"), 1),
        key_of(Ordering::None, Parallel, Some(b"a"), 2)
    );
}

#[test]
fn a_partition_that_had_many_messages_and_has_none_gives_their_room_back() {
    let mut lanes = lanes(5000);
    while lanes.take_fresh().is_some() {}
    lanes.give_room_back();
    assert!(lanes.incoming.capacity() <= INCOMING_KEPT);
}

#[test]
fn behind_the_last_message_that_has_begun_all_are_untouched() {
    let mut lanes = Lanes::new();
    assert_eq!(lanes.untouched_from(), 0);
    lanes.push(0, ['a', 'b', 'c', 'd', 'e']);
    assert_eq!(lanes.untouched_from(), 0);
    let (number, message) = lanes.take_fresh().unwrap();
    assert_eq!(lanes.untouched_from(), 1);
    lanes.put(7, Lane::new(number, message, ["x"].into_iter()));
    // The third one stands behind it, the second one has not begun.
    lanes.defer_open(1, 3, |_, message| if *message == 'c' { 7 } else { 0 });
    lanes.defer_open(2, 3, |_, message| if *message == 'c' { 7 } else { 0 });
    assert_eq!(lanes.fresh().map(|one| one.0), Some(1));
    assert_eq!(lanes.untouched_from(), 3);
    for _ in 0..3 {
        lanes.take_fresh();
    }
    assert_eq!(lanes.untouched_from(), 5);
}
