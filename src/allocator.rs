//! The process's allocator: mimalloc, called without an alignment where none is asked for.
//!
//! Its crate asks for an alignment with every allocation, which takes mimalloc's slower path. What C code allocates
//! (librdkafka, OpenSSL) comes from it too, by the feature `override`; of Lua's blocks the small ones pass it once, see
//! `lua/heap.rs`.

#![expect(unsafe_code, reason = "an allocator is one by contract")]

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::c_void;

use libmimalloc_sys as mi;

/// What any allocation of at least this size is aligned to.
const ALIGNED_TO: usize = 16;

/// The binary's `#[global_allocator]`.
#[derive(Debug)]
pub struct Allocator;

fn is_plain(layout: Layout) -> bool {
    layout.align() <= ALIGNED_TO && layout.align() <= layout.size()
}

// SAFETY: mimalloc keeps what `GlobalAlloc` asks for: blocks of at least that size, alone, aligned (by itself to 16 bytes
// from that size on, else because it is told), null when memory is out, and all of it freed and resized alike.
unsafe impl GlobalAlloc for Allocator {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: asks for no more than memory.
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
        // SAFETY: asks for no more than memory.
        unsafe { mi::mi_zalloc_aligned(layout.size(), layout.align()).cast() }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: by the caller's contract the block is one of these.
        unsafe { mi::mi_free(block.cast::<c_void>()) }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        // SAFETY: by the caller's contract the block is one of these.
        unsafe { mi::mi_realloc_aligned(block.cast::<c_void>(), size, layout.align()).cast() }
    }
}
