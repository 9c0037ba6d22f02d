//! Commit requests of a partition's handlers that do not wait, until they are reported with the finished messages.
//!
//! Pure. **Passed to the tracker in this order, they have the same effect as if each had been passed at once.** A
//! request that a later one makes redundant is left out. So a partition that is one lane has one request of each
//! listener.

use std::sync::Arc;

use crate::rules::offsets::Ask;
use crate::wait::Requested;

#[derive(Debug, Default)]
pub(super) struct CommitRequests(Vec<Ask>);

/// The listener, and the message whose handler requests.
#[derive(Clone, Copy, Debug)]
pub(super) struct Who<'a> {
    pub(super) listener: &'a str,
    pub(super) lane: u64,
    pub(super) at: i64,
}

impl Who<'_> {
    fn is_of(&self, ask: &Ask) -> bool {
        ask.lane == self.lane && *ask.listener == *self.listener
    }
}

impl CommitRequests {
    /// `names` usually has the listener's name as a shared string.
    pub(super) fn add(
        &mut self,
        who: Who<'_>,
        asked: Requested,
        by_lane: bool,
        names: &[Arc<str>],
    ) {
        let Requested { highest, last } = asked;
        if highest > last && by_lane {
            // The highest request stays in effect, except for the part that the last one takes back.
            self.push(who, highest, by_lane, names);
        }
        self.push(who, last, by_lane, names);
    }

    fn push(&mut self, who: Who<'_>, offset: i64, by_lane: bool, names: &[Arc<str>]) {
        let before = if by_lane {
            // Only the last entry: an earlier one of the lane may have others after it, and the list may be long.
            let last = self.0.last_mut();
            last.filter(|ask| who.is_of(ask) && ask.offset <= offset)
        } else {
            self.0.iter_mut().find(|ask| who.is_of(ask))
        };
        if let Some(before) = before {
            (before.at, before.offset) = (who.at, offset);
            return;
        }
        let shared = names.iter().find(|name| ***name == *who.listener);
        self.0.push(Ask {
            listener: shared.map_or_else(|| who.listener.into(), Arc::clone),
            lane: who.lane,
            at: who.at,
            offset,
        });
    }

    /// The same handler waits for a commit of `offset`; that answer serves every request that it covers.
    pub(super) fn covered(&mut self, who: Who<'_>, offset: i64) {
        self.0.retain(|ask| !who.is_of(ask) || ask.offset > offset);
    }

    pub(super) fn take(&mut self) -> Vec<Ask> {
        std::mem::take(&mut self.0)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::rules::offsets::{Position, Tracker};

    fn once(offset: i64) -> Requested {
        Requested {
            highest: offset,
            last: offset,
        }
    }

    fn who(lane: u64, at: i64) -> Who<'static> {
        Who {
            listener: "a",
            lane,
            at,
        }
    }

    #[track_caller]
    fn check(asks: &mut CommitRequests, expected: &[(u64, i64, i64)]) {
        let asks = asks.take();
        let told: Vec<_> = asks
            .iter()
            .map(|ask| (ask.lane, ask.at, ask.offset))
            .collect();
        assert_eq!(told, expected);
    }

    #[test]
    fn of_a_partition_that_is_one_lane_the_last_counts() {
        let mut asks = CommitRequests::default();
        for at in 0..1000 {
            asks.add(who(0, at), once(at + 1), false, &[]);
        }
        check(&mut asks, &[(0, 999, 1000)]);
        asks.add(who(0, 5), once(9), false, &[]);
        asks.add(who(0, 6), once(6), false, &[]);
        check(&mut asks, &[(0, 6, 6)]);
    }

    #[test]
    fn every_listener_has_its_own() {
        let mut asks = CommitRequests::default();
        let names: [Arc<str>; 1] = ["a".into()];
        for at in 0..3 {
            for listener in ["a", "b"] {
                let who = Who {
                    listener,
                    ..who(0, at)
                };
                asks.add(who, once(at + 1), false, &names);
            }
        }
        let asks = asks.take();
        assert_eq!(asks.len(), 2);
        assert!(Arc::ptr_eq(&asks[0].listener, &names[0]));
        assert_eq!((&*asks[1].listener, asks[1].offset), ("b", 3));
    }

    #[test]
    fn lanes_are_kept_apart() {
        let mut asks = CommitRequests::default();
        asks.add(who(1, 0), once(1), true, &[]);
        asks.add(who(1, 1), once(2), true, &[]);
        asks.add(who(2, 2), once(3), true, &[]);
        check(&mut asks, &[(1, 1, 2), (2, 2, 3)]);
    }

    #[test]
    fn what_the_same_handler_waits_for_answers_for_what_it_covers() {
        let mut asks = CommitRequests::default();
        asks.add(who(1, 0), once(1), true, &[]);
        asks.add(who(2, 1), once(2), true, &[]);
        asks.covered(who(1, 0), 1);
        check(&mut asks, &[(2, 1, 2)]);
        asks.add(who(1, 0), once(9), true, &[]);
        asks.covered(who(1, 0), 8);
        check(&mut asks, &[(1, 0, 9)]);
    }

    proptest! {
        /// Each message of a partition asks a few times, as it runs; what is told late is told as `CommitRequests` has it.
        #[test]
        fn what_is_left_out_changes_no_position(
            messages in prop::collection::vec((0_u64..3, prop::collection::vec(-3_i64..5, 0..4)), 1..30),
            by_lane: bool,
            report in 1_usize..10,
            is_manual: bool,
        ) {
            let start = Position { offset: 0, leader_epoch: -1 };
            let manual: Vec<Arc<str>> = if is_manual { vec!["a".into()] } else { Vec::new() };
            let automatic: Vec<Arc<str>> = if is_manual { Vec::new() } else { vec!["a".into()] };
            let new = || Tracker::new(start, manual.clone(), automatic.clone(), by_lane);
            let (mut at_once, mut late, mut asks) = (new(), new(), CommitRequests::default());
            let lanes: Vec<u64> = messages.iter().map(|one| if by_lane { one.0 } else { 0 }).collect();
            for (at, &lane) in lanes.iter().enumerate() {
                at_once.arrive(at as i64, -1, 1, |_| lane);
                late.arrive(at as i64, -1, 1, |_| lane);
            }
            for (number, (_, wishes)) in messages.iter().enumerate() {
                let (at, lane) = (number as i64, lanes[number]);
                let offsets: Vec<i64> = wishes.iter().map(|by| (at + by).max(0)).collect();
                for &offset in &offsets {
                    at_once.ask(&Ask { listener: "a".into(), lane, at, offset });
                }
                let numbers = number as u64..number as u64 + 1;
                at_once.finish(numbers.clone());
                late.finish(numbers);
                if let (Some(&highest), Some(&last)) = (offsets.iter().max(), offsets.last()) {
                    asks.add(who(lane, at), Requested { highest, last }, by_lane, &[]);
                }
                if number % report == 0 || number + 1 == messages.len() {
                    for ask in asks.take() {
                        late.ask(&ask);
                    }
                    prop_assert_eq!(late.target(), at_once.target());
                    prop_assert_eq!(late.is_requested(), at_once.is_requested());
                }
            }
        }
    }
}
