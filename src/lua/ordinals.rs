//! The numbers of what the calls of a VM do outside, in the order in which each call does it.
//!
//! Functions of `tide.parallel` run in any order, so each counts for itself: `2.3.1` is the first deed of the third
//! function of the `tide.parallel` that is the second deed of the call.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::fmt::Write as _;

#[derive(Default)]
pub(super) struct Ordinals {
    /// The functions of `tide.parallel` that run now, the outermost first: `2.3.`.
    path: RefCell<String>,
    /// The last number by call and path.
    last: RefCell<HashMap<u64, HashMap<String, u64>>>,
    is_any: Cell<bool>,
}

impl Ordinals {
    /// The number of the next deed at the present path.
    pub(super) fn next(&self, call: u64) -> u64 {
        let mut last = self.last.borrow_mut();
        let of_call = last.entry(call).or_default();
        let path = self.path.borrow();
        self.is_any.set(true);
        if let Some(number) = of_call.get_mut(path.as_str()) {
            *number += 1;
            return *number;
        }
        of_call.insert(path.clone(), 1);
        1
    }

    /// The next deed, with its path.
    pub(super) fn next_ordinal(&self, call: u64) -> String {
        let number = self.next(call);
        format!("{}{number}", self.path.borrow())
    }

    /// As `next_ordinal`, of the bodies of `once` alone: what else a handler does changes no number of theirs.
    pub(super) fn next_once(&self, call: u64) -> String {
        let path = format!("{}once", self.path.borrow());
        let mut last = self.last.borrow_mut();
        let number = last.entry(call).or_default().entry(path).or_default();
        *number += 1;
        self.is_any.set(true);
        format!("{}{number}", self.path.borrow())
    }

    /// A function of `tide.parallel` goes on. Returns what `leave` takes.
    pub(super) fn enter(&self, parallel: u64, index: i64) -> usize {
        let mut path = self.path.borrow_mut();
        let length = path.len();
        // Writing to a string cannot fail.
        let _ = write!(path, "{parallel}.{index}.");
        length
    }

    /// That function waits or has ended.
    pub(super) fn leave(&self, length: usize) {
        self.path.borrow_mut().truncate(length);
    }

    /// The call has ended.
    pub(super) fn forget(&self, call: u64) {
        if self.is_any.get() {
            let mut last = self.last.borrow_mut();
            last.remove(&call);
            self.is_any.set(!last.is_empty());
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        !self.is_any.get()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_call_and_each_function_counts_for_itself() {
        let ordinals = Ordinals::default();
        assert_eq!(ordinals.next_ordinal(7), "1");
        assert_eq!(ordinals.next_ordinal(8), "1");
        let parallel = ordinals.next(7);
        let third = ordinals.enter(parallel, 3);
        assert_eq!(ordinals.next_ordinal(7), "2.3.1");
        let inner = ordinals.enter(ordinals.next(7), 1);
        assert_eq!(ordinals.next_ordinal(7), "2.3.2.1.1");
        ordinals.leave(inner);
        ordinals.leave(third);
        let first = ordinals.enter(parallel, 1);
        assert_eq!(ordinals.next_ordinal(7), "2.1.1");
        ordinals.leave(first);
        let third = ordinals.enter(parallel, 3);
        assert_eq!(ordinals.next_ordinal(7), "2.3.3");
        ordinals.leave(third);
        assert_eq!(ordinals.next_ordinal(7), "3");
        ordinals.forget(7);
        ordinals.forget(8);
        assert!(ordinals.is_empty());
        assert_eq!(ordinals.next_ordinal(7), "1");
    }
}
