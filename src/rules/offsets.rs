//! The offset that may be committed for one partition, in one epoch of its assignment.
//!
//! Pure. The tracker holds the offsets of received messages, in order of arrival, because compacted topics and
//! transactions leave gaps. **Automatic commits never pass the lowest unfinished message. Manual commits go as far as
//! requested, and never beyond another listener's position. In a partition of many lanes, a request covers its own
//! lane only.** Only unfinished messages are kept; the rest follows from them. A new epoch (assignment, reset) is a
//! new `Tracker`.

mod commit_requests;
mod deferred;
mod kept;
mod seeds;
mod uncommitted;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::rules::commit_metadata::Finished;

pub(crate) use commit_requests::Ask;
use commit_requests::Manual;
pub(crate) use deferred::Moved;
use deferred::{Deferred, Payload};
use kept::Kept;
use seeds::Seeds;
pub(crate) use uncommitted::NoRoom;
use uncommitted::Uncommitted;

/// With nothing in flight, capacity for this many entries stays.
const ENTRIES_KEPT: usize = 128;
/// The least number of finished entries that may stay among the unfinished ones before they are swept out.
const SWEEP_MIN: usize = 1024;

/// A position in a partition: the next offset, and the leader epoch of the message before it (-1: unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
}

#[derive(Debug)]
pub(crate) struct Tracker {
    start: Position,
    /// Lower offsets were received in this epoch already, or carry no message.
    expected: Position,
    /// Just after the last received message.
    received: i64,
    /// The lowest unfinished offset at the last pause: messages from there on may be delivered twice because of it.
    paused_at: i64,
    newest_leader_epoch: i32,
    /// The timestamp of the last received message, or -1.
    newest_ms: i64,
    /// The number of the next message.
    next: u64,
    /// Unfinished entries, and finished ones after an unfinished one until they are swept out. The first is
    /// unfinished.
    entries: VecDeque<Entry>,
    /// The number of finished entries in `entries`.
    swept_later: usize,
    /// The number of messages that are neither finished nor given up, and not away.
    unfinished: usize,
    bytes: usize,
    deferred: Deferred,
    /// How often the set of messages finished beyond the position has changed.
    changes: u64,
    /// Messages that an earlier epoch finished beyond its position.
    seeds: Seeds,
    /// Whether the partition has many lanes.
    by_lane: bool,
    /// One entry for each manual listener, with the position that its requests allow.
    manual: Vec<Manual>,
    /// The listeners that commit automatically. With at least one, no commit passes the lowest unfinished message.
    automatic: Vec<Arc<str>>,
    /// The offset that the handler of an automatic listener requested by `ctx.commitOffsets`. It replaces the automatic
    /// position until that moves.
    auto_request: Option<i64>,
    /// Requests by handlers of the coming bundle, kept until that bundle is in force here.
    kept: Kept,
    /// In a consumer with transactions: the messages that no transaction has committed.
    uncommitted: Option<Box<Uncommitted>>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    lane: u64,
    offset: i64,
    /// The position after the message that was received before this one.
    before: Position,
    bytes: u32,
    finished: bool,
    payload: Payload,
    timestamp_ms: i64,
}

/// Whether a message at this offset is among the entries and unfinished.
fn is_unfinished(entries: &VecDeque<Entry>, offset: i64) -> bool {
    let index = entries.partition_point(|entry| entry.offset < offset);
    let entry = entries.get(index);
    entry.is_some_and(|entry| entry.offset == offset && !entry.finished)
}

/// The meaning of an arriving message for this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its number: consecutive, from 0.
    New(u64),
    /// An earlier epoch finished it.
    Finished,
    /// It is in flight or was received a moment ago: a pause can cause a second delivery.
    Repeated,
    /// It lies below every unfinished message: the client went back (a truncated log, a reset). Begin a new epoch.
    WentBack,
}

impl Tracker {
    /// `manual` names the listeners with manual commits, `automatic` the others. `by_lane`: the partition has many
    /// lanes, and a request covers one of them.
    pub(crate) fn new(
        start: Position,
        manual: Vec<Arc<str>>,
        automatic: Vec<Arc<str>>,
        by_lane: bool,
    ) -> Self {
        let mut tracker = Self {
            start,
            expected: start,
            received: start.offset,
            paused_at: i64::MAX,
            newest_leader_epoch: start.leader_epoch,
            newest_ms: -1,
            next: 0,
            entries: VecDeque::new(),
            swept_later: 0,
            unfinished: 0,
            bytes: 0,
            deferred: Deferred::default(),
            changes: 0,
            seeds: Seeds::default(),
            by_lane,
            manual: Vec::new(),
            automatic: Vec::new(),
            auto_request: None,
            kept: Kept::default(),
            uncommitted: None,
        };
        tracker.set_listeners(manual, automatic);
        tracker
    }

    /// Adds the messages that an earlier epoch finished beyond the start: each counts as finished when it arrives.
    pub(crate) fn seed(&mut self, finished: Finished) {
        self.seeds = Seeds::new(finished);
        self.changes += 1;
    }

    /// After a reload: other listeners, the same messages. A listener's requests stay valid; a new listener starts at
    /// the position below which every message is finished.
    pub(crate) fn set_listeners(&mut self, manual: Vec<Arc<str>>, automatic: Vec<Arc<str>>) {
        let mut old = std::mem::take(&mut self.manual);
        for listener in manual {
            let known = old.iter().position(|one| one.listener == listener);
            if let Some(index) = known {
                self.manual.push(old.swap_remove(index));
                continue;
            }
            let one = if self.by_lane {
                let unfinished = self.entries.iter().filter(|entry| !entry.finished);
                let unfinished = unfinished.map(|one| (one.offset, one.lane));
                Manual::of_lanes(listener, self.expected.offset, unfinished)
            } else {
                Manual::of_partition(listener, self.finished().offset)
            };
            self.manual.push(one);
        }
        if self.automatic != automatic {
            // The request covered only the listeners before the reload.
            self.auto_request = None;
        }
        self.automatic = automatic;
        for ask in std::mem::take(&mut self.kept).into_requests() {
            let is_here = self.is_manual(&ask.listener) || self.automatic.contains(&ask.listener);
            if is_here && is_unfinished(&self.entries, ask.at) {
                self.ask(&ask);
            }
        }
    }

    /// A message was received. `lane` maps its number to its lane (0 if lanes are partitions).
    pub(crate) fn arrive(
        &mut self,
        offset: i64,
        leader_epoch: i32,
        bytes: usize,
        lane: impl FnOnce(u64) -> u64,
    ) -> Arrival {
        if offset < self.expected.offset {
            let known = self
                .entries
                .front()
                .map_or(self.expected.offset, |entry| entry.offset)
                .min(self.paused_at);
            // A newer leader epoch at an older offset means another message: the log was truncated below it.
            let rewritten =
                leader_epoch > self.newest_leader_epoch && self.newest_leader_epoch >= 0;
            return if offset < known || rewritten {
                Arrival::WentBack
            } else {
                Arrival::Repeated
            };
        }
        self.newest_leader_epoch = self.newest_leader_epoch.max(leader_epoch);
        // Repeated messages after a pause come before new ones.
        self.paused_at = i64::MAX;
        let before = self.expected;
        self.expected = Position {
            offset: offset + 1,
            leader_epoch,
        };
        self.received = offset + 1;
        if self.seeds.take(offset, leader_epoch) {
            if self.entries.is_empty() {
                self.auto_request = None;
            }
            return Arrival::Finished;
        }
        let number = self.next;
        let lane = lane(number);
        let bytes = u32::try_from(bytes).unwrap_or(u32::MAX);
        self.entries.push_back(Entry {
            number,
            lane,
            offset,
            before,
            bytes,
            finished: false,
            payload: Payload::Here,
            timestamp_ms: -1,
        });
        for one in &mut self.manual {
            one.arrive(offset, lane);
        }
        if let Some(uncommitted) = &mut self.uncommitted {
            uncommitted.arrive(number, lane, offset, before);
        }
        self.next += 1;
        self.unfinished += 1;
        self.bytes += bytes as usize;
        Arrival::New(number)
    }

    /// The partition has no message between the last received one and `end`: only markers of transactions, messages
    /// of aborted transactions, and offsets that compaction emptied. The automatic position follows as soon as every
    /// received message is finished. A manual one stays where it was requested.
    pub(crate) fn pass(&mut self, end: i64) {
        if end <= self.expected.offset {
            return;
        }
        // The leader epoch of the last message may have ended before these offsets. A commit of both together would
        // look like a truncated log.
        self.expected = Position {
            offset: end,
            leader_epoch: -1,
        };
        if self.entries.is_empty() {
            self.auto_request = None;
        }
    }

    /// The timestamp of the message that has just arrived.
    pub(crate) fn stamp(&mut self, timestamp_ms: i64) {
        self.newest_ms = timestamp_ms;
        if let Some(entry) = self.entries.back_mut() {
            entry.timestamp_ms = timestamp_ms;
        }
    }

    /// The timestamp of the oldest unfinished message, or of the last received one if none is in flight.
    pub(crate) fn oldest_timestamp(&self) -> Option<i64> {
        let oldest = self.entries.front().map(|entry| entry.timestamp_ms);
        Some(oldest.unwrap_or(self.newest_ms)).filter(|ms| *ms >= 0)
    }

    /// The partition is about to be paused.
    pub(crate) fn pause(&mut self) {
        self.paused_at = self.finished().offset;
    }

    /// The messages of these numbers have their outcome. Numbers that are finished already are ignored.
    pub(crate) fn finish(&mut self, numbers: Range<u64>) {
        let first = self.index_of(numbers.start);
        let (mut marked, mut away) = (0, 0);
        for entry in self.entries.range_mut(first..) {
            if entry.number >= numbers.end {
                break;
            }
            if !entry.finished {
                entry.finished = true;
                marked += 1;
                match self.deferred.finish(entry) {
                    Payload::Away => away += 1,
                    Payload::Here | Payload::Again => self.bytes -= entry.bytes as usize,
                }
            }
        }
        self.unfinished -= marked - away;
        self.swept_later += marked;
        while self.entries.front().is_some_and(|entry| entry.finished) {
            self.entries.pop_front();
            self.swept_later -= 1;
            self.auto_request = None;
        }
        if marked > 0 && self.swept_later > 0 {
            self.changes += 1;
        }
        if self.swept_later > SWEEP_MIN.max(self.entries.len() / 2) {
            self.entries.retain(|entry| !entry.finished);
            self.swept_later = 0;
        }
    }

    /// Shrinks the tracker if nothing is in flight: with many partitions, each of which once had much in flight,
    /// memory would grow.
    pub(crate) fn give_room_back(&mut self) {
        if self.entries.is_empty() && self.entries.capacity() > ENTRIES_KEPT {
            self.entries = VecDeque::new();
        }
    }

    /// The first entry with this number or a later one.
    fn index_of(&self, number: u64) -> usize {
        let Some(front) = self.entries.front() else {
            return 0;
        };
        // No entry before it was swept out: the usual case.
        let index = number.saturating_sub(front.number) as usize;
        match self.entries.get(index) {
            Some(entry) if entry.number == number => index,
            _ => self.entries.partition_point(|entry| entry.number < number),
        }
    }

    /// The position to commit now, even if it is committed already.
    pub(crate) fn target(&self) -> Position {
        let finished = self.finished();
        let manual = self.manual.iter();
        let asked = manual.map(|one| one.position(self.received)).min();
        let own =
            (!self.automatic.is_empty()).then(|| self.auto_request.unwrap_or(finished.offset));
        let offset = match (asked, own) {
            (Some(asked), Some(own)) => asked.min(own),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => finished.offset,
        };
        let offset = self.deferred.below(offset);
        // The leader epoch belongs to the message before the offset; an offset other than the finished one has no
        // known epoch.
        let leader_epoch = if offset == finished.offset {
            finished.leader_epoch
        } else {
            -1
        };
        Position {
            offset,
            leader_epoch,
        }
    }

    /// The ranges that are finished beyond the position. A range may span offsets without a message.
    pub(crate) fn beyond(&self) -> Finished {
        let mut ranges: Vec<Range<i64>> = Vec::new();
        let mut push = |range: Range<i64>| match ranges.last_mut() {
            _ if range.is_empty() => {}
            Some(last) if last.end >= range.start => last.end = range.end,
            _ => ranges.push(range),
        };
        let mut behind = None;
        for entry in self.entries.iter().filter(|entry| !entry.finished) {
            if let Some(begin) = behind {
                push(begin..entry.before.offset);
            }
            behind = Some(entry.offset + 1);
        }
        if let Some(begin) = behind {
            push(begin..self.expected.offset);
        }
        self.seeds.rest(self.expected.offset).for_each(push);
        Finished {
            ranges,
            leader_epoch: self.newest_leader_epoch.max(self.seeds.leader_epoch()),
        }
    }

    /// How often `beyond` has changed, apart from changes of the position.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether commits are automatic: no listener is manual.
    pub(crate) fn is_automatic(&self) -> bool {
        self.manual.is_empty()
    }

    /// The next expected offset.
    pub(crate) fn expected(&self) -> i64 {
        self.expected.offset
    }

    /// The position below which every message is finished.
    pub(crate) fn finished(&self) -> Position {
        self.entries
            .front()
            .map_or(self.expected, |entry| entry.before)
    }

    /// The start of the next epoch of the same assignment. If requests cover lanes, the next epoch does not know the
    /// messages without a request in this one, and would commit past them. So they are delivered again.
    pub(crate) fn goes_on(&self) -> Position {
        if let Some(position) = self.committable() {
            return position;
        }
        let (finished, target) = (self.finished(), self.target());
        let is_behind = !self.is_automatic() && self.by_lane && target.offset < finished.offset;
        if is_behind { target } else { finished }
    }

    /// Whether no message was finished in this epoch yet.
    pub(crate) fn is_untouched(&self) -> bool {
        self.finished() == self.start
    }

    pub(crate) fn unfinished(&self) -> usize {
        self.unfinished
    }

    /// Bytes of the unfinished messages.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod lanes_tests;
#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
