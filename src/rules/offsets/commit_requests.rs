//! What a listener that commits by itself asked for, and the position that follows from it.
//!
//! Where lanes are partitions that is the offset as it stands. Where a partition has many lanes, a request speaks for
//! one of them, and **the position is that of the first message that no request of its lane covers**. The memory of
//! such messages is bounded: a listener that never asks costs little, and one that asks for too few keeps its position.

use std::collections::BTreeSet;
use std::sync::Arc;

/// Messages nobody asked for that are remembered; with one more the position stays for good.
pub(super) const UNASKED_MAX: usize = 65_536;

/// A handler's `commitOffsets(offset)`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Ask {
    pub(crate) listener: Arc<str>,
    /// Of the message whose handler asks.
    pub(crate) lane: u64,
    /// That message's own offset. It may be finished by now: what is not waited for is told together with that.
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
    /// Where lanes are partitions: the last offset, as it stands, or where the listener came in.
    Offset(i64),
    Unasked(Unasked),
}

/// Where a partition has many lanes: the messages that no request of their lane covers.
#[derive(Clone, Debug, Default)]
struct Unasked {
    by_offset: BTreeSet<(i64, u64)>,
    /// The same by lane, since the first request: a listener that never asks should cost little.
    by_lane: Option<BTreeSet<(u64, i64)>>,
    /// There were too many: here the position stays.
    stuck: Option<i64>,
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

    /// These messages are unfinished; all that came before does not concern the listener.
    pub(super) fn of_lanes(
        listener: Arc<str>,
        unfinished: impl Iterator<Item = (i64, u64)>,
    ) -> Self {
        let unasked = Unasked {
            by_offset: unfinished.collect(),
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

    /// `at`: the message whose handler asks.
    pub(super) fn ask(&mut self, offset: i64, lane: u64, at: i64) {
        self.has_asked = true;
        match &mut self.asked {
            Requested::Offset(position) => *position = offset,
            Requested::Unasked(unasked) => unasked.ask(offset, lane, at),
        }
    }

    /// `expected`: the next offset that may come.
    pub(super) fn position(&self, expected: i64) -> i64 {
        match &self.asked {
            Requested::Offset(position) => *position,
            Requested::Unasked(unasked) => unasked.position(expected),
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

    /// The lane is done up to `offset`. One at or before the message that asks takes back what was asked before.
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

    fn position(&self, expected: i64) -> i64 {
        let first = self.by_offset.first().map(|&(offset, _)| offset);
        self.stuck.or(first).unwrap_or(expected)
    }
}
