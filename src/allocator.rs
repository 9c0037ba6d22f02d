//! The process's allocator: mimalloc, called without an alignment unless the layout needs one.
//!
//! Its crate passes an alignment with every allocation, which takes mimalloc's slower path. C code (librdkafka,
//! OpenSSL) also allocates from mimalloc, by the feature `override`. Small blocks of Lua pass through it once, see
//! `lua/heap.rs`.

#![expect(unsafe_code, reason = "an allocator is one by contract")]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys as mi;

/// The alignment of every allocation of at least this size.
const ALIGNED_TO: usize = 16;

/// The binary's `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

fn is_plain(layout: Layout) -> bool {
    layout.align() <= ALIGNED_TO && layout.align() <= layout.size()
}

// SAFETY: mimalloc keeps the contract of `GlobalAlloc`. Blocks have at least the size, do not overlap, and are
// aligned: by themselves to 16 bytes from that size on, else by request. A block is null when memory is out, and all
// blocks are freed and resized alike.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: requests memory and nothing else.
        unsafe {
            if is_plain(layout) {
                mi::mi_malloc(layout.size()).cast()
            } else {
                mi::mi_malloc_aligned(layout.size(), layout.align()).cast()
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: requests memory and nothing else.
        unsafe { mi::mi_zalloc_aligned(layout.size(), layout.align()).cast() }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: by the caller's contract the block comes from this allocator.
        unsafe { mi::mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's contract the block comes from this allocator.
        unsafe { mi::mi_realloc_aligned(block.cast::<c_void>(), size, layout.align()).cast() }
    }
}
