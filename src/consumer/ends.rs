//! Ends of partitions. Offsets without a message (markers, aborted transactions, compacted records) show only there:
//! when librdkafka has fetched up to the end, it puts an event behind the last message in the partition's queue.
//!
//! The event is never older than a message that still waits:
//! 1. librdkafka puts the messages of a fetch, or an error in their place, into the partition's queue.
//! 2. The next fetch finds the end at its own offset, and the event goes behind them into the same queue.
//! 3. `Client::take` returns both in this order, so every message below the end has arrived in the tracker.
//!
//! An event of before a seek or a pause does not count:
//! 1. A seek or a pause gives the partition a new version at once, and librdkafka drops what has an older one.
//! 2. The rest of the batch in hand was returned before. `Trust::Void` and a pause of a message that is not due mark
//!    it, and its event is dropped with its messages.
//! 3. librdkafka tells the end again after each of them.
//!
//! An event of before a new epoch does not count either:
//! 1. A rebalance or a reload ends the epoch, and the partition is no longer active: its messages and events are
//!    dropped.
//! 2. The next epoch begins with an assignment or a seek, which gives the partition a new version.
//! 3. If the log went back within a batch, the event behind the first message of the new epoch belongs to it.
//!
//! An event behind an error may have left out a message: librdkafka goes on behind a batch that it cannot read. The
//! partition is suspect since the error, and the position stays. A seek fetches the offsets again.
//!
//! **librdkafka counts the event itself as a message at the end** (librdkafka#5213): a pause would let it go on one
//! offset too far:
//! 1. The log ends at 7, and librdkafka's own position is 8 because of the event.
//! 2. A pause sets the next fetch to 8. A rebalance is a pause too.
//! 3. A message is written at 7, and the fetch at 8 leaves it out. Or the fetch at 8 comes first, and the broker
//!    answers that 8 is out of range: the whole log comes again.
//!
//! So each pause is followed by a seek to the tracker's position before the partition is resumed. librdkafka serves
//! pause, seek and resume in this order, and fetches nothing between the first and the last.

use crate::kafka::Client;
use crate::telemetry::status::Pause;

use super::Consumer;
use super::held::{Held, Stage, Trust};

impl Held {
    /// librdkafka has returned every message of the partition below `end`, which is the end of its log. For readers
    /// of committed messages it is the begin of the first open transaction.
    pub(super) fn reached_end(&mut self, client: &Client, end: i64) {
        self.reached_end_with(end, |held| held.log_start(client));
    }

    fn reached_end_with(&mut self, end: i64, log_start: impl FnOnce(&Self) -> Option<i64>) {
        if self.stage != Stage::Active || self.pauses.has(Pause::NotDue) {
            return;
        }
        let expected = self.epoch.tracker.expected();
        match self.trust {
            Trust::Suspect if end > expected => self.has_doubtful_end = true,
            Trust::Sound | Trust::Suspect if end >= expected => {
                self.trust = Trust::Sound;
                self.has_doubtful_end = false;
                if end > expected {
                    // Retention may have deleted messages there, up to the end.
                    let log_start = log_start(self);
                    self.epoch.lost.jumped(&(expected..end), log_start);
                    self.epoch.tracker.pass(end);
                }
            }
            _ => {}
        }
    }
}

impl Consumer {
    /// A rebalance has paused every partition of a cooperative group. The group answers it later, which resumes those
    /// that stay. An eager group takes all of them away.
    pub(super) fn stay_at_positions(&mut self) {
        let active = |held: &&Held| held.stage == Stage::Active;
        let these: Vec<_> = self.held.values().filter(active).collect();
        if self.client.is_cooperative() && !these.is_empty() {
            let these: Vec<_> = these.into_iter().map(Held::goes_on_at).collect();
            self.seek(&these);
        }
    }

    /// Fetches offsets again that an error may have left out before the end of the partition.
    pub(super) fn look_for_doubtful_ends(&mut self) {
        if self.phase.is_busy() {
            return;
        }
        let in_doubt = |held: &&mut Held| {
            held.has_doubtful_end
                && held.trust == Trust::Suspect
                && held.stage == Stage::Active
                && !held.pauses.is_any()
        };
        let mut these = Vec::new();
        for held in self.held.values_mut().filter(in_doubt) {
            held.has_doubtful_end = false;
            // No batch is in hand, and an error at the same place is told again.
            held.trust = Trust::Sound;
            held.epoch.tracker.pause();
            these.push(held.goes_on_at());
        }
        if !these.is_empty() {
            self.seek(&these);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Instant;

    use super::super::held::tests::{held, plan};
    use super::*;

    /// The position after the end was told at 20 and the next expected offset was 10.
    #[track_caller]
    fn check(prepare: impl FnOnce(&mut Held), end: i64, position: i64) -> Held {
        let mut held = held(plan(&[], &["a"]), Instant::now());
        prepare(&mut held);
        held.reached_end_with(end, |_| Some(0));
        assert_eq!(held.epoch.tracker.finished().offset, position);
        held
    }

    #[test]
    fn the_end_moves_the_position() {
        let held = check(|_| (), 20, 20);
        assert!(held.needs_commit());
        check(|_| (), 9, 10);
    }

    #[test]
    fn an_end_behind_an_unfinished_message_waits_for_it() {
        let arrive = |held: &mut Held| {
            held.epoch.tracker.arrive(12, -1, 1, |_| 0);
        };
        let mut held = check(arrive, 20, 10);
        held.epoch.tracker.finish(0..1);
        assert_eq!(held.epoch.tracker.finished().offset, 20);
    }

    /// librdkafka went on behind a batch that it could not read: the end may lie behind messages that it left out.
    #[test]
    fn an_end_behind_an_error_moves_nothing_until_the_offsets_are_fetched_again() {
        let mut held = check(|held| held.trust = Trust::Suspect, 20, 10);
        assert!(held.has_doubtful_end);
        held.trust = Trust::Sound;
        held.reached_end_with(20, |_| Some(0));
        assert_eq!(held.epoch.tracker.finished().offset, 20);
        assert!(!held.has_doubtful_end);
    }

    #[test]
    fn an_error_that_left_nothing_out_is_over_at_the_end() {
        let held = check(|held| held.trust = Trust::Suspect, 10, 10);
        assert_eq!(held.trust, Trust::Sound);
    }

    #[test]
    fn an_end_from_before_a_seek_or_another_assignment_moves_nothing() {
        check(|held| held.trust = Trust::Void, 20, 10);
        check(|held| held.stage = Stage::Releasing, 20, 10);
        check(|held| held.pauses.set_not_due(Instant::now()), 20, 10);
    }

    #[test]
    fn what_retention_deleted_up_to_the_end_is_lost() {
        let now = Instant::now();
        let mut held = held(plan(&[], &["a"]), now);
        held.reached_end_with(20, |_| Some(20));
        let lost = held.epoch.lost.tell(now).unwrap();
        assert_eq!((lost.first, lost.last, lost.is_certain), (10, 19, true));
    }
}
