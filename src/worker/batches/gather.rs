//! Which messages the next batch of a partition has.

use std::collections::HashSet;
use std::time::Instant;

use crate::config::{Batch, Ordering};
use crate::kafka::Message;
use crate::message::Record as _;
use crate::rules::batch::{Filling, Member, due};
use crate::rules::lanes::{Lane, LaneState, lane_of};
use crate::worker::slot::Slot;

pub(super) enum Gathered {
    Nothing,
    /// The next message has to run alone.
    Alone,
    /// More messages may come until then.
    Until(Instant),
    /// So many messages that have not begun.
    Front(usize),
    /// Messages of open lanes, and the next `fresh` that have not begun.
    Members {
        members: Vec<Member>,
        fresh: usize,
    },
}

/// A message that may be in the batch.
struct Candidate {
    member: Member,
    bytes: usize,
    is_fresh: bool,
}

impl Slot {
    /// At most `most` messages for the next batch.
    pub(super) fn gather(&mut self, limits: &Batch, most: usize, now: Instant) -> Gathered {
        self.forget_stale_offers();
        if self.lanes.has_open() {
            if self.plan.ordering != Ordering::Partition {
                self.defer_open(limits.messages);
            } else if self.batches.offered.is_empty() {
                return Gathered::Nothing;
            }
        }
        if self.batches.offered.is_empty() {
            return self.gather_front(limits, most, now);
        }
        self.gather_mixed(limits, most, now)
    }

    /// Whether the head of the lane may run in a batch.
    pub(super) fn may_gather(&self, lane: &Lane<Message>) -> bool {
        let [progress] = &lane.progress[..] else {
            return false;
        };
        lane.state() == LaneState::Run(0)
            && progress.attempt == 0
            && !lane.alone
            && !lane.is_strict
            && !self.batches.singles.contains(&lane.number)
            && !self.runs_alone(lane.message.offset())
    }

    /// Whether a crash makes the message run alone.
    fn runs_alone(&self, offset: i64) -> bool {
        offset < self.batches.alone_below || self.place.suspect(offset).is_some()
    }

    fn fresh_that_may_begin(&self) -> impl Iterator<Item = (u64, &Message)> {
        let fresh = self.lanes.fresh_all();
        fresh.take_while(|(number, _)| *number < self.begins_below)
    }

    fn forget_stale_offers(&mut self) {
        let mut offered = std::mem::take(&mut self.batches.offered);
        offered.retain(|(number, key)| {
            let lane = self.lanes.get(*key);
            lane.is_some_and(|lane| lane.number == *number && self.may_gather(lane))
        });
        self.batches.offered = offered;
    }

    /// Messages of open lanes stand behind these, until `most` others are found.
    fn defer_open(&mut self, most: usize) {
        let (plan, seed) = (self.plan.clone(), self.partition.seed);
        self.lanes
            .defer_open(most, self.begins_below, |number, message| {
                lane_of(plan.ordering, plan.null_keys, seed, message, number)
            });
    }

    fn gather_front(&mut self, limits: &Batch, most: usize, now: Instant) -> Gathered {
        let mut filling = Filling::new(limits, most);
        let (mut count, mut first, mut is_cut) = (0, None, false);
        for (number, message) in self.fresh_that_may_begin() {
            if self.runs_alone(message.offset()) {
                if count == 0 {
                    return Gathered::Alone;
                }
                is_cut = true;
                break;
            }
            if !filling.takes(message.own_bytes()) {
                break;
            }
            count += 1;
            first.get_or_insert(number);
        }
        let Some(first) = first else {
            return Gathered::Nothing;
        };
        if filling.is_full() || is_cut {
            return Gathered::Front(count);
        }
        match due(self.taken.at(first), limits.wait, now) {
            Ok(()) => Gathered::Front(count),
            Err(at) => Gathered::Until(at),
        }
    }

    fn gather_mixed(&mut self, limits: &Batch, most: usize, now: Instant) -> Gathered {
        let mut filling = Filling::new(limits, most);
        let mut members = Vec::new();
        let (mut fresh, mut is_cut) = (0, false);
        for one in self.candidates(limits.messages) {
            if one.is_fresh && self.runs_alone(one.member.offset) {
                is_cut = true;
                break;
            }
            if !filling.takes(one.bytes) {
                break;
            }
            fresh += usize::from(one.is_fresh);
            members.push(one.member);
        }
        let Some(first) = members.first() else {
            return Gathered::Nothing;
        };
        let due = due(self.taken.at(first.number), limits.wait, now);
        match due {
            Err(at) if !filling.is_full() && !is_cut => return Gathered::Until(at),
            _ => {}
        }
        let lanes: HashSet<u64> = members.iter().map(|one| one.lane).collect();
        let offered = &mut self.batches.offered;
        offered.retain(|(_, lane)| !lanes.contains(lane));
        Gathered::Members { members, fresh }
    }

    /// In their order: the messages of offered lanes, and those that have not begun.
    fn candidates(&self, most: usize) -> Vec<Candidate> {
        let mut candidates = Vec::new();
        let mut add = |number: u64, lane: u64, message: &Message, is_fresh: bool| {
            candidates.push(Candidate {
                member: Member {
                    number,
                    lane,
                    offset: message.offset(),
                },
                bytes: message.own_bytes(),
                is_fresh,
            });
        };
        for (_, key) in &self.batches.offered {
            let messages = self.lanes.get(*key).into_iter().flat_map(Lane::messages);
            let singles = &self.batches.singles;
            let messages = messages.take_while(|(number, _)| !singles.contains(number));
            for (number, message) in messages.take(most) {
                add(number, *key, message, false);
            }
        }
        for (number, message) in self.fresh_that_may_begin().take(most) {
            add(number, self.lane_of(number, message), message, true);
        }
        candidates.sort_unstable_by_key(|one| one.member.number);
        candidates
    }
}
