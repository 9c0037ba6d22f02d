//! The requests of a listener with manual commits, and the position that follows from them.
//!
//! If lanes are partitions, the position is the requested offset itself. In a partition of many lanes, a request
//! covers one of them, and **the position is that of the first message that no request of its lane covers**. The
//! memory for such messages is bounded. A listener without any request costs little, and one with too few requests
//! keeps its position.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::{Entry, Tracker, is_unfinished};

/// The most messages without a request that are remembered; with one more the position never moves again.
pub(super) const UNASKED_MAX: usize = 65_536;

/// A handler's `commitOffsets(offset)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) listener: Arc<str>,
    /// The lane of the message whose handler requests.
    pub(crate) lane: u64,
    /// The offset of that message. It may be finished by now: a request without a wait is reported together with its
    /// finish.
    pub(crate) at: i64,
    pub(crate) offset: i64,
}

#[derive(Clone, Debug)]
pub(super) struct Manual {
    pub(super) listener: Arc<str>,
    pub(super) has_asked: bool,
    has_told_stuck: bool,
    asked: Requested,
}

#[derive(Clone, Debug)]
enum Requested {
    /// If lanes are partitions: the last requested offset, or the position at which the listener started.
    Offset(i64),
    Unasked(Unasked),
}

/// For a partition of many lanes: the messages that no request of their lane covers.
#[derive(Clone, Debug, Default)]
struct Unasked {
    by_offset: BTreeSet<(i64, u64)>,
    /// The same by lane, kept from the first request on, so that a listener without requests costs little.
    by_lane: Option<BTreeSet<(u64, i64)>>,
    /// The listener began here: earlier messages do not concern it, unless they are among those above.
    start: i64,
    /// The position that stays, after there were too many such messages.
    stuck: Option<i64>,
}

impl Tracker {
    /// `ctx.commitOffsets`. Returns the offset to commit now. A request is judged as if it came while its message
    /// ran: messages that the lane has finished since do not matter.
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
            // The message is finished, and the automatic position has passed it: the request is obsolete.
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

    /// `ctx.commitOffsets` by a handler of the coming bundle, which a worker has before the consumer. Its listener
    /// may be new in that bundle, or may switch to manual commits with it. The request of a listener that is already
    /// manual here counts at once. Any other request is kept until the bundle arrives.
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

    /// Whether a handler requested a commit that counts.
    pub(crate) fn is_requested(&self) -> bool {
        self.auto_request.is_some() || self.manual.iter().any(|one| one.has_asked)
    }

    /// Whether this listener finished so many messages without a request that its position stays; true only once.
    pub(crate) fn is_newly_stuck(&mut self, listener: &str) -> bool {
        let mut manual = self.manual.iter_mut();
        manual.any(|one| *one.listener == *listener && one.is_newly_stuck())
    }
}

impl Manual {
    pub(super) fn of_partition(listener: Arc<str>, position: i64) -> Self {
        Self {
            listener,
            has_asked: false,
            has_told_stuck: false,
            asked: Requested::Offset(position),
        }
    }

    /// The listener begins at `start`. Of earlier messages only these, which are unfinished, concern it.
    pub(super) fn of_lanes(
        listener: Arc<str>,
        start: i64,
        unfinished: impl Iterator<Item = (i64, u64)>,
    ) -> Self {
        let unasked = Unasked {
            by_offset: unfinished.collect(),
            start,
            ..Unasked::default()
        };
        Self {
            listener,
            has_asked: false,
            has_told_stuck: false,
            asked: Requested::Unasked(unasked),
        }
    }

    pub(super) fn arrive(&mut self, offset: i64, lane: u64) {
        if let Requested::Unasked(unasked) = &mut self.asked {
            unasked.arrive(offset, lane);
        }
    }

    /// `at`: the offset of the message whose handler requests.
    pub(super) fn ask(&mut self, offset: i64, lane: u64, at: i64) {
        self.has_asked = true;
        match &mut self.asked {
            // A deferred message that runs again is a lane of its own, and takes nothing back.
            Requested::Offset(position) if lane != 0 => *position = offset.max(*position),
            Requested::Offset(position) => *position = offset,
            Requested::Unasked(unasked) => unasked.ask(offset, lane, at),
        }
    }

    /// `received`: the offset just after the last received message.
    pub(super) fn position(&self, received: i64) -> i64 {
        match &self.asked {
            Requested::Offset(position) => *position,
            Requested::Unasked(unasked) => unasked.position(received),
        }
    }

    pub(super) fn is_newly_stuck(&mut self) -> bool {
        let is_stuck =
            matches!(&self.asked, Requested::Unasked(unasked) if unasked.stuck.is_some());
        is_stuck && !std::mem::replace(&mut self.has_told_stuck, true)
    }
}

impl Unasked {
    fn arrive(&mut self, offset: i64, lane: u64) {
        if self.stuck.is_some() {
            return;
        }
        self.insert(offset, lane);
        if self.by_offset.len() > UNASKED_MAX {
            *self = Self {
                stuck: Some(self.position(offset)),
                ..Self::default()
            };
        }
    }

    /// The lane is done up to `offset`. An offset at or before the requesting message takes back earlier requests.
    fn ask(&mut self, offset: i64, lane: u64, at: i64) {
        if self.stuck.is_some() {
            return;
        }
        let by_offset = &mut self.by_offset;
        let by_lane = self.by_lane.get_or_insert_with(|| {
            by_offset
                .iter()
                .map(|&(offset, lane)| (lane, offset))
                .collect()
        });
        while let Some(&(_, covered)) = by_lane.range((lane, i64::MIN)..(lane, offset)).next() {
            by_lane.remove(&(lane, covered));
            by_offset.remove(&(covered, lane));
        }
        if offset <= at {
            self.insert(offset, lane);
        }
    }

    fn insert(&mut self, offset: i64, lane: u64) {
        self.by_offset.insert((offset, lane));
        if let Some(by_lane) = &mut self.by_lane {
            by_lane.insert((lane, offset));
        }
    }

    fn position(&self, received: i64) -> i64 {
        let first = self.by_offset.first().map(|&(offset, _)| offset);
        self.stuck.or(first).unwrap_or(received.max(self.start))
    }
}
