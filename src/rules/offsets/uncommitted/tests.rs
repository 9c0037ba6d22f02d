//! What is in a transaction, and what its metadata says.

use proptest::prelude::*;

use super::*;

fn tracker(offsets: &[i64]) -> Tracker {
    let start = Position {
        offset: 0,
        leader_epoch: 2,
    };
    let mut tracker = Tracker::new(start, Vec::new(), vec!["a".into()], true);
    tracker.keep_uncommitted();
    for offset in offsets {
        tracker.arrive(*offset, 3, 1, |number| number);
    }
    tracker.begin_transaction(3_000);
    tracker
}

fn found(tracker: &Tracker) -> (i64, Vec<Range<i64>>) {
    let wanted = tracker.wanted();
    (wanted.position.offset, wanted.beyond.ranges)
}

#[test]
fn a_transaction_moves_the_position_past_what_it_contains() {
    let mut tracker = tracker(&[0, 1, 2, 3, 4]);
    for number in [1, 0, 3] {
        assert!(tracker.include(number));
    }
    assert_eq!(found(&tracker), (2, vec![3..4]));
    tracker.requeue();
    assert_eq!(found(&tracker), (0, vec![]));
    tracker.begin_transaction(3_000);
    for number in [0, 3] {
        assert!(tracker.include(number));
    }
    tracker.settle();
    assert_eq!(found(&tracker), (1, vec![3..4]));
    for number in [1, 2, 4] {
        assert!(tracker.include(number));
    }
    assert_eq!(found(&tracker), (5, vec![]));
    tracker.settle();
    assert_eq!(tracker.wanted().position.leader_epoch, 3);
}

#[test]
fn offsets_without_a_message_lie_within_a_range() {
    let mut tracker = tracker(&[0, 10, 20, 30]);
    assert!(tracker.include(2));
    assert_eq!(found(&tracker), (0, vec![11..21]));
    tracker.pass(40);
    assert_eq!(found(&tracker), (0, vec![11..21, 31..40]));
    for number in [0, 1, 3] {
        assert!(tracker.include(number));
    }
    assert_eq!(found(&tracker), (40, vec![]));
}

#[test]
fn what_an_earlier_epoch_finished_stays_finished() {
    let mut tracker = tracker(&[0]);
    tracker.seed(Finished {
        ranges: vec![2..3, 5..7],
        leader_epoch: 3,
    });
    assert_eq!(found(&tracker), (0, vec![2..3, 5..7]));
    for offset in [1, 2, 3] {
        tracker.arrive(offset, 3, 1, |number| number);
    }
    assert_eq!(found(&tracker), (0, vec![2..3, 5..7]));
    assert!(tracker.include(0));
    assert!(tracker.include(1));
    assert_eq!(found(&tracker), (3, vec![5..7]));
}

#[test]
fn what_cannot_be_written_down_does_not_enter_and_the_position_always_does() {
    let mut tracker = tracker(&(0..100).collect::<Vec<_>>());
    tracker.begin_transaction(SLACK + 4);
    // Each second one is a range of its own.
    assert!(tracker.include(2) && tracker.include(4));
    assert!(!tracker.include(6));
    assert!(tracker.include(3), "it joins two ranges");
    tracker.begin_transaction(SLACK + 4);
    assert!(tracker.include(6), "so the next transaction has room");
    assert!(!tracker.include(8));
    assert!(tracker.include(0) && tracker.include(1));
    assert_eq!(found(&tracker), (5, vec![6..7]));
}

#[test]
fn messages_of_a_call_enter_together_or_not_at_all() {
    let mut tracker = tracker(&(0..100).collect::<Vec<_>>());
    tracker.begin_transaction(SLACK + 4);
    let full = |has_first| Err(NoRoom { has_first });
    assert_eq!(tracker.include_all(&[2, 4, 6]), full(false));
    assert_eq!(tracker.include_all(&[0, 2, 4, 6]), full(true));
    assert_eq!(found(&tracker), (0, vec![]), "nothing of them is in");
    assert_eq!(tracker.include_all(&[2, 4]), Ok(()));
    assert!(!tracker.include(6), "the room is used up");
    assert_eq!(tracker.include_all(&[3, 6]), Ok(()), "one joins ranges");
    assert_eq!(found(&tracker), (0, vec![2..5, 6..7]));
    assert_eq!(tracker.include_all(&[0, 1, 5]), Ok(()));
    assert_eq!(found(&tracker), (7, vec![]));
}

proptest! {
    /// Against sets of offsets: whatever enters, the position and the ranges are those of the messages that are
    /// in, and the metadata never takes more bytes than it may.
    #[test]
    fn the_ranges_are_those_of_what_is_in(
        gaps in prop::collection::vec(1_i64..300, 1..60),
        steps in prop::collection::vec((0_u8..12, any::<prop::sample::Index>()), 0..200),
        most in 0_usize..40,
    ) {
        let mut at = 0;
        let offsets: Vec<i64> = gaps.iter().map(|gap| { at += gap; at }).collect();
        let mut tracker = tracker(&offsets);
        let most = SLACK + most;
        tracker.begin_transaction(most);
        let (mut inside, mut committed) = (Vec::new(), Vec::new());
        for (step, index) in steps {
            match step {
                0 => {
                    tracker.requeue();
                    inside.clear();
                    tracker.begin_transaction(most);
                }
                1 => {
                    tracker.settle();
                    committed.append(&mut inside);
                    tracker.begin_transaction(most);
                }
                _ => {
                    let number = index.index(offsets.len());
                    let is_new = !inside.contains(&number) && !committed.contains(&number);
                    if is_new && tracker.include(number as u64) {
                        inside.push(number);
                    }
                }
            }
            let wanted = tracker.wanted();
            let is_in = |number: usize| inside.contains(&number) || committed.contains(&number);
            let first = (0..offsets.len()).find(|number| !is_in(*number));
            let position = first.map_or(at + 1, |first| if first == 0 { 0 } else { offsets[first - 1] + 1 });
            prop_assert_eq!(wanted.position.offset, position);
            for (number, offset) in offsets.iter().enumerate() {
                let mut ranges = wanted.beyond.ranges.iter();
                let is_said = *offset < position || ranges.any(|range| range.contains(offset));
                prop_assert_eq!(is_said, is_in(number));
            }
            prop_assert!(bytes(position, &wanted.beyond.ranges) + SLACK <= most + 10 || wanted.beyond.ranges.is_empty());
        }
    }
}
