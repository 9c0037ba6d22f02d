//! An assignment that a later rebalance supersedes before it has begun.
//!
//! **Every assigned partition is begun or revoked, never forgotten**: an incremental rebalance does not name it
//! again.

use std::collections::VecDeque;

use crate::assignment::Assigned;
use crate::kafka::{Rebalance, TopicPartition};

/// An assignment that a rebalance supersedes before it has begun is begun after that rebalance, unless the rebalance
/// revokes it. librdkafka counts the partitions as owned since it reported them. When the topics have changed it
/// rejoins without waiting for the answer, and reports only differences.
pub(super) fn carry_over(open: &[Assigned], queue: &mut VecDeque<Rebalance>) {
    let rest = |told: &[TopicPartition]| -> Vec<TopicPartition> {
        let is_told = |one: &Assigned| {
            let is = |other: &TopicPartition| {
                other.partition == one.partition && *other.topic == *one.topic
            };
            told.iter().any(is)
        };
        open.iter()
            .filter(|one| !is_told(one))
            .map(|one| TopicPartition::new(&one.topic, one.partition))
            .collect()
    };
    match queue.front_mut() {
        Some(Rebalance::Assign(next)) => {
            let rest = rest(next);
            next.extend(rest);
        }
        Some(Rebalance::Revoke(gone)) => {
            let rest = rest(gone);
            if !rest.is_empty() {
                queue.insert(1, Rebalance::Assign(rest));
            }
        }
        Some(Rebalance::Failed(_)) | None => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Error;
    use crate::rules::start_offset::Policy;

    fn open(numbers: &[i32]) -> Vec<Assigned> {
        let policy = Policy {
            from_beginning: false,
            automatic: true,
            is_new_topic: false,
        };
        let one = |&partition: &i32| Assigned {
            topic: "t".into(),
            partition,
            policy,
            listeners: 0,
            repeats: crate::assignment::Repeats::NotKnown,
        };
        numbers.iter().map(one).collect()
    }

    fn list(numbers: &[i32]) -> Vec<TopicPartition> {
        let one = |&number: &i32| TopicPartition::new(&"t".into(), number);
        numbers.iter().map(one).collect()
    }

    #[track_caller]
    fn check(numbers: &[i32], next: Rebalance, expected: &[(&str, &[i32])]) {
        let mut queue = VecDeque::from([next]);
        carry_over(&open(numbers), &mut queue);
        let told = |rebalance: &Rebalance| {
            let (what, list) = match rebalance {
                Rebalance::Assign(list) => ("assign", &list[..]),
                Rebalance::Revoke(list) => ("revoke", &list[..]),
                Rebalance::Failed(_) => ("failed", &[][..]),
            };
            let numbers: Vec<i32> = list.iter().map(|one| one.partition).collect();
            (what, numbers)
        };
        let queue: Vec<_> = queue.iter().map(told).collect();
        let expected: Vec<_> = expected
            .iter()
            .map(|(what, list)| (*what, list.to_vec()))
            .collect();
        assert_eq!(queue, expected);
    }

    #[test]
    fn what_was_not_begun_goes_with_the_next_assignment() {
        check(
            &[1, 2],
            Rebalance::Assign(list(&[])),
            &[("assign", &[1, 2])],
        );
        check(
            &[1, 2],
            Rebalance::Assign(list(&[2, 3])),
            &[("assign", &[2, 3, 1])],
        );
    }

    #[test]
    fn what_is_taken_away_before_it_has_begun_is_not_begun() {
        check(
            &[1, 2],
            Rebalance::Revoke(list(&[2, 5])),
            &[("revoke", &[2, 5]), ("assign", &[1])],
        );
        check(&[1], Rebalance::Revoke(list(&[1])), &[("revoke", &[1])]);
        let failed = Rebalance::Failed(Error::fatal("gone".to_owned()));
        check(&[1], failed, &[("failed", &[])]);
    }
}
