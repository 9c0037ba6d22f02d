//! Which offset may be committed for one partition, in one epoch of its assignment.
//!
//! Pure. Offsets that were really received are tracked, in order of arrival, since compacted topics and transactions
//! leave gaps. **Auto: never beyond the lowest unfinished message. Manual: as far as asked, and never beyond another
//! listener's position; where a partition has many lanes, a request speaks for its own lane only.** What is kept is
//! what is unfinished: the rest follows from it. A new epoch (assignment, reset) is a new `Tracker`.

mod commit_requests;
mod kept;
mod seeds;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;

use crate::rules::commit_metadata::Finished;

pub(crate) use commit_requests::Ask;
use commit_requests::Manual;
use kept::Kept;
use seeds::Seeds;

/// With nothing in flight, room for so many entries stays.
const ENTRIES_KEPT: usize = 128;
/// Finished entries that may stay among the unfinished ones before they are swept out, at least.
const SWEEP_MIN: usize = 1024;

/// A place in a partition: the next offset, and the leader epoch of the message before it (-1: unknown).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Position {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
}

#[derive(Debug)]
pub(crate) struct Tracker {
    start: Position,
    /// Behind the last received message: what lies below was received in this epoch already.
    expected: Position,
    /// Where the last pause found the lowest unfinished message: what lies above may come twice because of it.
    paused_at: i64,
    newest_leader_epoch: i32,
    /// The timestamp of the message that came last, or -1.
    newest_ms: i64,
    /// The number of the next message.
    next: u64,
    /// Unfinished ones, and finished ones behind an unfinished one until they are swept out. The first is unfinished.
    entries: VecDeque<Entry>,
    /// Finished ones in `entries`.
    swept_later: usize,
    /// Messages that are neither finished nor given up.
    unfinished: usize,
    bytes: usize,
    /// How often what is finished beyond the position has changed.
    changes: u64,
    /// What an earlier epoch finished beyond its position.
    seeds: Seeds,
    /// Whether the partition has many lanes.
    by_lane: bool,
    /// One entry a manual listener, with the position that its requests allow.
    manual: Vec<Manual>,
    /// The listeners that commit automatically. With at least one, no commit passes the lowest unfinished message.
    automatic: Vec<Arc<str>>,
    /// The offset that the handler of an automatic listener requested by `ctx.commitOffsets`. It replaces the automatic
    /// position until that moves.
    auto_request: Option<i64>,
    /// Requests by handlers of the coming bundle, until it is in force here.
    kept: Kept,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    number: u64,
    lane: u64,
    offset: i64,
    /// Behind the message that was received before it.
    before: Position,
    bytes: u32,
    finished: bool,
    timestamp_ms: i64,
}

/// Whether a message at this offset is among the entries and not finished.
fn is_unfinished(entries: &VecDeque<Entry>, offset: i64) -> bool {
    let index = entries.partition_point(|entry| entry.offset < offset);
    let entry = entries.get(index);
    entry.is_some_and(|entry| entry.offset == offset && !entry.finished)
}

/// What an arriving message is to this epoch.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Arrival {
    /// Its number: consecutive, from 0.
    New(u64),
    /// An earlier epoch finished it.
    Finished,
    /// It is in flight or was received a moment ago: a pause can deliver twice.
    Repeated,
    /// It lies below everything unfinished: the client went back (a truncated log, a reset). Begin a new epoch.
    WentBack,
}

impl Tracker {
    /// `manual` names the listeners that commit by themselves; `automatic` the others. `by_lane`: the partition has many
    /// lanes, and requests speak for one of them.
    pub(crate) fn new(
        start: Position,
        manual: Vec<Arc<str>>,
        automatic: Vec<Arc<str>>,
        by_lane: bool,
    ) -> Self {
        let mut tracker = Self {
            start,
            expected: start,
            paused_at: i64::MAX,
            newest_leader_epoch: start.leader_epoch,
            newest_ms: -1,
            next: 0,
            entries: VecDeque::new(),
            swept_later: 0,
            unfinished: 0,
            bytes: 0,
            changes: 0,
            seeds: Seeds::default(),
            by_lane,
            manual: Vec::new(),
            automatic: Vec::new(),
            auto_request: None,
            kept: Kept::default(),
        };
        tracker.set_listeners(manual, automatic);
        tracker
    }

    /// What an earlier epoch finished beyond the start: it counts as finished when it arrives.
    pub(crate) fn seed(&mut self, finished: Finished) {
        self.seeds = Seeds::new(finished);
        self.changes += 1;
    }

    /// After a reload: other listeners, the same messages. What a listener asked for stays asked for; a new one comes in
    /// where everything is finished.
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
                Manual::of_lanes(listener, unfinished.map(|one| (one.offset, one.lane)))
            } else {
                Manual::of_partition(listener, self.finished().offset)
            };
            self.manual.push(one);
        }
        if self.automatic != automatic {
            // It spoke for those that there were.
            self.auto_request = None;
        }
        self.automatic = automatic;
        for ask in std::mem::take(&mut self.kept).into_asks() {
            let is_here = self.is_manual(&ask.listener) || self.automatic.contains(&ask.listener);
            if is_here && is_unfinished(&self.entries, ask.at) {
                self.ask(&ask);
            }
        }
    }

    /// A message was received. `lane` tells its lane by its number (0 where lanes are partitions).
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
            // A newer leader epoch at an older offset is another message: the log was truncated below it.
            let rewritten =
                leader_epoch > self.newest_leader_epoch && self.newest_leader_epoch >= 0;
            return if offset < known || rewritten {
                Arrival::WentBack
            } else {
                Arrival::Repeated
            };
        }
        self.newest_leader_epoch = self.newest_leader_epoch.max(leader_epoch);
        // What a pause repeats comes before what is new.
        self.paused_at = i64::MAX;
        let before = self.expected;
        self.expected = Position {
            offset: offset + 1,
            leader_epoch,
        };
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
            timestamp_ms: -1,
        });
        for one in &mut self.manual {
            one.arrive(offset, lane);
        }
        self.next += 1;
        self.unfinished += 1;
        self.bytes += bytes as usize;
        Arrival::New(number)
    }

    /// The timestamp of the message that has just arrived.
    pub(crate) fn stamp(&mut self, timestamp_ms: i64) {
        self.newest_ms = timestamp_ms;
        if let Some(entry) = self.entries.back_mut() {
            entry.timestamp_ms = timestamp_ms;
        }
    }

    /// The timestamp of the oldest unfinished message, or where nothing is in hand of the one that came last.
    pub(crate) fn oldest_timestamp(&self) -> Option<i64> {
        let oldest = self.entries.front().map(|entry| entry.timestamp_ms);
        Some(oldest.unwrap_or(self.newest_ms)).filter(|ms| *ms >= 0)
    }

    /// The partition is about to be paused.
    pub(crate) fn pause(&mut self) {
        self.paused_at = self.finished().offset;
    }

    /// The messages of these numbers have their outcome. Numbers that are finished already are passed over.
    pub(crate) fn finish(&mut self, numbers: Range<u64>) {
        let first = self.index_of(numbers.start);
        let mut marked = 0;
        for entry in self.entries.range_mut(first..) {
            if entry.number >= numbers.end {
                break;
            }
            if !entry.finished {
                entry.finished = true;
                marked += 1;
                self.bytes -= entry.bytes as usize;
            }
        }
        self.unfinished -= marked;
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

    /// One of many partitions, each of which has had much in flight once: with nothing in flight it keeps little.
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
        // Nothing was swept out before it: the usual case.
        let index = number.saturating_sub(front.number) as usize;
        match self.entries.get(index) {
            Some(entry) if entry.number == number => index,
            _ => self.entries.partition_point(|entry| entry.number < number),
        }
    }

    /// `ctx.commitOffsets`. Returns the offset that is to be committed now. A request is judged as if it came while its
    /// message ran: what the lane has finished since does not matter.
    pub(crate) fn ask(&mut self, ask: &Ask) -> i64 {
        let &Ask {
            lane, at, offset, ..
        } = ask;
        let mut manual = self.manual.iter_mut();
        if let Some(one) = manual.find(|one| one.listener == ask.listener) {
            one.ask(offset, lane, at);
            return self.target().offset;
        }
        if at < self.finished().offset {
            // The message is finished, and the automatic position has moved past it: the request is over.
            return self.target().offset;
        }
        let mut request = offset;
        if self.by_lane {
            let others =
                |entry: &&Entry| !entry.finished && (entry.lane != lane || entry.offset >= offset);
            let held_back = self.entries.iter().find(others).map(|entry| entry.offset);
            request = request.min(held_back.unwrap_or(self.expected.offset));
        }
        if self.automatic.len() > 1 {
            // Another automatic listener may not have run yet.
            request = request.min(self.finished().offset);
        }
        self.auto_request = Some(request);
        self.target().offset
    }

    /// `ctx.commitOffsets` by a handler of the coming bundle, which a worker has before the consumer. Its listener may be
    /// new in that bundle, or manual only from it on. The request of a listener that is manual here counts at once, any
    /// other one is kept until the bundle comes.
    pub(crate) fn ask_ahead(&mut self, ask: &Ask) -> i64 {
        if self.is_manual(&ask.listener) {
            return self.ask(ask);
        }
        if is_unfinished(&self.entries, ask.at) {
            self.kept.ask(ask, |at| is_unfinished(&self.entries, at));
        }
        self.target().offset
    }

    pub(crate) fn is_manual(&self, listener: &str) -> bool {
        self.manual.iter().any(|one| *one.listener == *listener)
    }

    /// What to commit now, whether or not it is committed already.
    pub(crate) fn target(&self) -> Position {
        let (finished, expected) = (self.finished(), self.expected.offset);
        let asked = self.manual.iter().map(|one| one.position(expected)).min();
        let own =
            (!self.automatic.is_empty()).then(|| self.auto_request.unwrap_or(finished.offset));
        let offset = match (asked, own) {
            (Some(asked), Some(own)) => asked.min(own),
            (Some(one), None) | (None, Some(one)) => one,
            (None, None) => finished.offset,
        };
        // The epoch vouches for the message before the offset; another offset than the finished one has none to show.
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

    /// What is finished beyond the position. A range may span offsets that do not exist.
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

    /// How often `beyond` has changed otherwise than by the position.
    pub(crate) fn changes(&self) -> u64 {
        self.changes
    }

    /// Whether commits happen by themselves: no listener is manual.
    pub(crate) fn is_automatic(&self) -> bool {
        self.manual.is_empty()
    }

    /// Whether a handler asked for a commit that counts.
    pub(crate) fn is_asked(&self) -> bool {
        self.auto_request.is_some() || self.manual.iter().any(|one| one.has_asked)
    }

    /// Whether so much was finished unasked that this listener's position stays where it is; true only once.
    pub(crate) fn is_newly_stuck(&mut self, listener: &str) -> bool {
        let mut manual = self.manual.iter_mut();
        manual.any(|one| *one.listener == *listener && one.is_newly_stuck())
    }

    /// The next offset that may come.
    pub(crate) fn expected(&self) -> i64 {
        self.expected.offset
    }

    /// Below it everything is finished.
    pub(crate) fn finished(&self) -> Position {
        self.entries
            .front()
            .map_or(self.expected, |entry| entry.before)
    }

    /// Where the next epoch of the same assignment goes on. Where requests speak for lanes, that knows nothing of what this
    /// one was not asked for, and would commit over it: it comes again.
    pub(crate) fn goes_on(&self) -> Position {
        let (finished, target) = (self.finished(), self.target());
        let is_behind = !self.is_automatic() && self.by_lane && target.offset < finished.offset;
        if is_behind { target } else { finished }
    }

    /// Whether nothing was finished in this epoch yet.
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
