//! The memory of one VM: counted, refused above a limit, with small blocks kept for the next object of their size.
//!
//! Handlers make the same few objects repeatedly, and Lua gives the size of each block that it frees. So a small
//! block goes onto a list of its size and is reused from there. That takes a few instructions, without the allocator
//! that all threads share. The kept blocks have a bound, and count neither as used nor towards the limit. Invariant:
//! a block is as large as its size rounded up, whatever its earlier use.

#![expect(unsafe_code, reason = "an allocator for Lua")]

use std::alloc::{self, Layout};
use std::cell::Cell;
use std::ffi::c_void;
use std::ptr;

/// The alignment of blocks, as in C, and the step between the sizes of small blocks.
const STEP: usize = 16;
/// The largest size of a kept block.
const SMALL_MAX: usize = 512;
/// The most bytes that are kept: the garbage of some thousand messages.
const KEPT_MAX: usize = 1 << 20;

/// A kept block, with a link to the block freed before it.
struct Kept {
    next: *mut Self,
}

pub(in crate::lua) struct Heap {
    limit: Cell<isize>,
    /// Bytes that Lua may still allocate: less than 0 after the limit was lowered.
    left: Cell<isize>,
    /// The kept bytes, in steps.
    kept: Cell<usize>,
    /// The list that next gives a block back, when too much is kept.
    next: Cell<usize>,
    /// For each size, the block that was freed last.
    lists: [Cell<*mut Kept>; SMALL_MAX / STEP],
}

impl Heap {
    /// A heap without a limit.
    pub(in crate::lua) fn new() -> Self {
        Self {
            limit: Cell::new(isize::MAX),
            left: Cell::new(isize::MAX),
            kept: Cell::new(0),
            next: Cell::new(0),
            lists: [const { Cell::new(ptr::null_mut()) }; SMALL_MAX / STEP],
        }
    }

    /// Bytes that Lua holds.
    pub(in crate::lua) fn used(&self) -> usize {
        (self.limit.get() - self.left.get()).unsigned_abs()
    }

    pub(in crate::lua) fn set_limit(&self, bytes: usize) {
        let limit = isize::try_from(bytes).unwrap_or(isize::MAX);
        let used = self.limit.get() - self.left.get();
        self.limit.set(limit);
        self.left.set(limit - used);
    }

    /// The allocator function for `lua_newstate`, which also gets the heap's address.
    pub(in crate::lua) unsafe extern "C" fn allocate(
        heap: *mut c_void,
        block: *mut c_void,
        old: usize,
        new: usize,
    ) -> *mut c_void {
        // SAFETY: the heap outlives the state. By Lua's contract `block` is null, or a block of this heap with its
        // present size. If it is null, `old` gives the kind of object.
        unsafe {
            let heap = &*heap.cast::<Self>();
            if new == 0 {
                if !block.is_null() {
                    heap.free(block, old);
                }
                ptr::null_mut()
            } else if block.is_null() {
                heap.take(new)
            } else {
                heap.resize(block, old, new)
            }
        }
    }

    #[inline]
    fn take(&self, size: usize) -> *mut c_void {
        let steps = steps(size);
        if let Some(list) = self.lists.get(steps.wrapping_sub(1)) {
            let (first, left) = (list.get(), self.left.get() - size.cast_signed());
            if !first.is_null() && left >= 0 {
                // SAFETY: a block in the list is alive and has no other owner.
                list.set(unsafe { (*first).next });
                self.left.set(left);
                self.kept.set(self.kept.get() - steps);
                return first.cast();
            }
        }
        self.make(size)
    }

    /// Returns null above the limit, or when memory is out.
    #[cold]
    #[inline(never)]
    fn make(&self, size: usize) -> *mut c_void {
        let size_max = isize::MAX.unsigned_abs() - STEP;
        let left = self.left.get().saturating_sub_unsigned(size);
        if size > size_max || left < 0 {
            return ptr::null_mut();
        }
        // SAFETY: the size is above 0, and not too large.
        let block = unsafe { alloc::alloc(layout(size)).cast::<c_void>() };
        if !block.is_null() {
            self.left.set(left);
        }
        block
    }

    #[inline]
    unsafe fn free(&self, block: *mut c_void, size: usize) {
        self.left.set(self.left.get() + size.cast_signed());
        let steps = steps(size);
        let Some(list) = self.lists.get(steps - 1) else {
            // SAFETY: the block was made with this layout.
            return unsafe { alloc::dealloc(block.cast(), layout(size)) };
        };
        let block = block.cast::<Kept>();
        // SAFETY: the block is free from now on, large enough, and aligned for any type.
        unsafe { block.write(Kept { next: list.get() }) };
        list.set(block);
        self.kept.set(self.kept.get() + steps);
        if self.kept.get() > KEPT_MAX / STEP {
            self.give_back();
        }
    }

    /// Frees blocks until the bound holds: one block of each list in turn, since the wanted sizes change.
    #[cold]
    #[inline(never)]
    fn give_back(&self) {
        while self.kept.get() > KEPT_MAX / STEP {
            let index = self.next.get();
            self.next.set((index + 1) % self.lists.len());
            let (list, steps) = (&self.lists[index], index + 1);
            let block = list.get();
            if !block.is_null() {
                // SAFETY: a block in the list is alive, has no other owner, and has the list's size.
                unsafe {
                    list.set((*block).next);
                    alloc::dealloc(block.cast(), layout(steps * STEP));
                }
                self.kept.set(self.kept.get() - steps);
            }
        }
    }

    #[cold]
    #[inline(never)]
    unsafe fn resize(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
        let left = self.left.get().saturating_sub_unsigned(new) + old.cast_signed();
        if new > old && left < 0 {
            return ptr::null_mut();
        }
        if steps(old) == steps(new) {
            self.left.set(left);
            return block;
        }
        // SAFETY: each block is made, resized and freed by its size in steps; two blocks do not overlap.
        unsafe {
            if old > SMALL_MAX && new > SMALL_MAX {
                let block = alloc::realloc(block.cast(), layout(old), steps(new) * STEP);
                if !block.is_null() {
                    self.left.set(left);
                }
                return block.cast();
            }
            // The block is known to fit, or it shrinks and therefore must fit.
            let before = self.left.replace(isize::MAX / 2);
            let other = self.take(new);
            if other.is_null() {
                self.left.set(before);
                return other;
            }
            ptr::copy_nonoverlapping(block.cast::<u8>(), other.cast(), old.min(new));
            self.free(block, old);
            self.left.set(left);
            other
        }
    }
}

impl Drop for Heap {
    fn drop(&mut self) {
        for (step, list) in (1..).zip(&self.lists) {
            let mut block = list.get();
            while !block.is_null() {
                // SAFETY: each block is read before it is freed, by the size of all blocks in the list.
                unsafe {
                    let next = (*block).next;
                    alloc::dealloc(block.cast(), layout(step * STEP));
                    block = next;
                }
            }
        }
    }
}

/// The steps of a size above 0, rounded up.
fn steps(size: usize) -> usize {
    (size.wrapping_sub(1) / STEP).wrapping_add(1)
}

/// The layout of a block for this many bytes: more than none, and less than half of all addresses.
unsafe fn layout(size: usize) -> Layout {
    // SAFETY: the alignment is a power of two, and the caller answers for the size.
    unsafe { Layout::from_size_align_unchecked(steps(size) * STEP, STEP) }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Heap {
        fn realloc(&self, block: *mut c_void, old: usize, new: usize) -> *mut c_void {
            // SAFETY: as the tests use it, within Lua's contract.
            unsafe { Self::allocate(ptr::from_ref(self).cast_mut().cast(), block, old, new) }
        }

        fn alloc(&self, size: usize) -> *mut c_void {
            self.realloc(ptr::null_mut(), 5, size)
        }
    }

    #[test]
    fn what_is_freed_comes_back_for_the_next_block_of_its_step() {
        let heap = Heap::new();
        let (a, b) = (heap.alloc(40), heap.alloc(40));
        heap.realloc(a, 40, 0);
        assert_eq!(heap.used(), 40);
        assert_ne!(heap.alloc(49), a);
        assert_eq!(heap.alloc(33), a);
        assert_eq!(heap.used(), 40 + 49 + 33);
        heap.realloc(b, 40, 0);
        heap.realloc(a, 33, 0);
        assert_eq!(heap.kept.get(), 6);
    }

    #[test]
    fn a_block_that_is_resized_keeps_its_bytes() {
        let heap = Heap::new();
        let mut block = heap.alloc(1);
        let mut size = 1;
        // SAFETY: the block has room for what is written and read.
        unsafe { block.cast::<u8>().write(7) };
        for new in [16, 17, 512, 513, 70_000, 69_999, 600, 512, 100, 3] {
            block = heap.realloc(block, size, new);
            size = new;
            // SAFETY: as above.
            unsafe { assert_eq!(block.cast::<u8>().read(), 7, "{new}") };
            assert_eq!(heap.used(), new);
        }
        heap.realloc(block, size, 0);
        assert_eq!(heap.used(), 0);
    }

    #[test]
    fn above_the_limit_nothing_grows_and_everything_shrinks() {
        let heap = Heap::new();
        let (a, mut b) = (heap.alloc(1000), heap.alloc(1000));
        heap.set_limit(500);
        assert!(heap.alloc(1).is_null());
        assert!(heap.realloc(a, 1000, 1001).is_null());
        assert_eq!(heap.used(), 2000);
        for (old, new) in [(1000, 900), (900, 512), (512, 511), (511, 16), (16, 1)] {
            assert!(heap.realloc(b, old, old + 20).is_null());
            b = heap.realloc(b, old, new);
            assert!(!b.is_null());
            assert_eq!(heap.used(), 1000 + new);
        }
        heap.realloc(a, 1000, 0);
        heap.realloc(b, 1, 0);
        assert!(heap.alloc(usize::MAX).is_null());
        assert!(heap.alloc(501).is_null());
        assert!(!heap.alloc(500).is_null());
    }

    #[test]
    fn what_is_kept_has_a_bound() {
        let heap = Heap::new();
        let blocks: Vec<_> = (0..2 * KEPT_MAX / 512).map(|_| heap.alloc(512)).collect();
        for block in blocks {
            heap.realloc(block, 512, 0);
        }
        assert_eq!((heap.used(), heap.kept.get()), (0, KEPT_MAX / STEP));
        // Other sizes are kept all the same.
        for block in [heap.alloc(100), heap.alloc(100)] {
            heap.realloc(block, 100, 0);
        }
        assert!(heap.kept.get() <= KEPT_MAX / STEP);
        assert!(!heap.lists[100 / STEP].get().is_null());
    }
}
