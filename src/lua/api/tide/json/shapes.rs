//! What the last documents looked like: messages of a topic resemble each other. Plain data, of a block of Lua's.

use std::cell::Cell;
use std::ffi::c_int;

use super::DEPTH_MAX;
use super::keys::Keys;

/// Levels of a document whose shape is remembered.
const LEVELS: usize = 8;
/// A table is made for so many elements at most before they are there.
const EXPECTED_MAX: u8 = 64;

#[derive(Default)]
pub(super) struct Shapes {
    pub(super) keys: Keys,
    pub(super) objects: Counts,
    pub(super) arrays: Counts,
}

/// How many elements the last two objects, or arrays, at each level had: a table that is made large enough need not grow.
/// The smaller number counts, as what is made too large stays so.
#[derive(Default)]
pub(super) struct Counts([Cell<(u8, u8)>; LEVELS]);

impl Counts {
    /// Of the level whose elements have `depth` levels left.
    fn at_level(&self, depth: usize) -> Option<&Cell<(u8, u8)>> {
        self.0.get(DEPTH_MAX - 1 - depth)
    }

    pub(super) fn expected(&self, depth: usize) -> c_int {
        let last = self.at_level(depth).map(Cell::get);
        last.map_or(0, |(one, other)| one.min(other).into())
    }

    pub(super) fn found(&self, depth: usize, count: usize) {
        if let Some(cell) = self.at_level(depth) {
            let count = u8::try_from(count).map_or(EXPECTED_MAX, |count| count.min(EXPECTED_MAX));
            cell.set((count, cell.get().0));
        }
    }
}
