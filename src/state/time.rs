//! The time of stores in memory, of caches and of limits: a clock that never goes back.

use std::time::Instant;

use crate::clock::Clock;

/// Counts from its making.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    clock: Clock,
    began: Instant,
}

impl Time {
    pub(super) fn new(clock: Clock) -> Self {
        let began = clock.now();
        Self { clock, began }
    }

    pub(super) fn ms(&self) -> u64 {
        self.clock.since(self.began).as_millis() as u64
    }

    pub(super) fn ns(&self) -> u64 {
        self.clock.since(self.began).as_nanos() as u64
    }
}
