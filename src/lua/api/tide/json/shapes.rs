//! The shapes of recent documents: messages of a topic resemble each other. Plain data, in a block of Lua.

use std::cell::Cell;
use std::ffi::c_int;

use super::DEPTH_MAX;
use super::keys::Keys;

/// Levels of a document whose shape is kept.
const LEVELS: usize = 8;
/// The most elements that a new table has room for in advance.
const EXPECTED_MAX: u8 = 64;

#[derive(Default)]
pub(super) struct Shapes {
    pub(super) keys: Keys,
    pub(super) objects: Counts,
    pub(super) arrays: Counts,
}

/// The number of elements of the last two objects, or arrays, at each level: a table with enough room need not grow.
/// The smaller number counts, since a table with too much room keeps it.
#[derive(Default)]
pub(super) struct Counts([Cell<(u8, u8)>; LEVELS]);

impl Counts {
    /// The shape of the level whose elements have `depth` levels left.
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
