//! Which offsets of a partition are done: all below a floor, and some above it. Its memory does not grow with the run.

use std::collections::BTreeSet;

#[derive(Default)]
pub(crate) struct Floor {
    next: i64,
    above: BTreeSet<i64>,
}

impl Floor {
    /// Everything below is done.
    pub(crate) fn next(&self) -> i64 {
        self.next
    }

    pub(crate) fn has(&self, offset: i64) -> bool {
        offset < self.next || self.above.contains(&offset)
    }

    /// Whether it is new.
    pub(crate) fn insert(&mut self, offset: i64) -> bool {
        let is_new = offset >= self.next && self.above.insert(offset);
        while self.above.remove(&self.next) {
            self.next += 1;
        }
        is_new
    }

    pub(crate) fn count(&self) -> i64 {
        self.next + self.above.len() as i64
    }

    pub(crate) fn missing_below(&self, offset: i64) -> impl Iterator<Item = i64> {
        (self.next..offset).filter(|one| !self.above.contains(one))
    }
}
