//! The offsets of a partition with a fixed number of messages in flight, and the metadata of its commits.
//!
//! Messages end in the order of arrival, or in a random order, which is the same in every run.

use crate::rules::commit_metadata::{self, Agreement, Finished};
use crate::rules::offsets::{Arrival, Position, Tracker};

pub struct Offsets {
    tracker: Tracker,
    /// Numbers, in no order.
    in_flight: Vec<u64>,
    /// The index of the message that ends next, when messages end in their order.
    oldest: usize,
    next: i64,
    chance: fastrand::Rng,
}

/// The metadata of a commit: the finished messages beyond its position.
pub struct Metadata {
    place: Agreement,
    finished: Finished,
    text: String,
}

impl Offsets {
    pub fn new(in_flight: usize) -> Self {
        let start = Position {
            offset: 0,
            leader_epoch: 0,
        };
        let mut offsets = Self {
            tracker: Tracker::new(start, Vec::new(), vec!["a".into()], true),
            in_flight: Vec::new(),
            oldest: 0,
            next: 0,
            chance: fastrand::Rng::with_seed(1),
        };
        for _ in 0..in_flight {
            let number = offsets.arrive();
            offsets.in_flight.push(number);
        }
        offsets
    }

    fn arrive(&mut self) -> u64 {
        let offset = self.next;
        self.next += 1;
        let arrival = self.tracker.arrive(offset, 0, 200, |number| number);
        self.tracker.stamp(offset);
        match arrival {
            Arrival::New(number) => number,
            other => panic!("{other:?}"),
        }
    }

    fn replace(&mut self, index: usize) {
        let new = self.arrive();
        let number = std::mem::replace(&mut self.in_flight[index], new);
        self.tracker.finish(number..number + 1);
    }

    /// The oldest message ends, and another arrives.
    pub fn in_order(&mut self) {
        let index = self.oldest;
        self.oldest = (index + 1) % self.in_flight.len();
        self.replace(index);
    }

    /// A random message ends, and another arrives. Must not be combined with `in_order`.
    pub fn in_any_order(&mut self) {
        let index = self.chance.usize(..self.in_flight.len());
        self.replace(index);
    }

    /// The position that a commit would have now.
    pub fn position(&self) -> i64 {
        self.tracker.target().offset
    }

    /// Collects the finished messages beyond the position as ranges, and returns the number of ranges.
    pub fn beyond(&self) -> usize {
        self.tracker.beyond().ranges.len()
    }

    pub fn metadata(&self) -> Metadata {
        let position = self.tracker.target();
        let place = Agreement {
            offset: position.offset,
            leader_epoch: position.leader_epoch,
            listeners: commit_metadata::listeners_hash(["orders"].into_iter()),
        };
        let finished = self.tracker.beyond();
        let text = commit_metadata::encode(place, &finished);
        Metadata {
            place,
            finished,
            text,
        }
    }
}

impl Metadata {
    pub fn bytes(&self) -> usize {
        self.text.len()
    }

    pub fn encode(&self) -> String {
        commit_metadata::encode(self.place, &self.finished)
    }

    /// Returns the number of ranges that it reads.
    pub fn decode(&self) -> usize {
        let finished = commit_metadata::decode(&self.text, self.place, i64::MAX);
        finished.expect("what was written is read").ranges.len()
    }
}
