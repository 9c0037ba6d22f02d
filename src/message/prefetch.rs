//! Hints to the processor about memory that is needed in a moment.
//!
//! A message waits while thousands of others pass, and nothing of it is in a cache any more. Without a hint each look
//! at it waits for the memory.
#![expect(unsafe_code, reason = "the instruction has no safe form")]

/// Bytes of a cache line of the processor.
const LINE: usize = 64;
/// In a long value, the processor soon predicts the next bytes by itself.
const AHEAD: usize = 512;

/// Gives the processor a hint, not an access: any address is allowed.
pub(crate) fn prefetch(start: *const u8, len: usize) {
    #[cfg(target_arch = "x86_64")]
    for at in (0..len).step_by(LINE) {
        use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
        // SAFETY: the instruction neither reads nor faults.
        unsafe { _mm_prefetch::<_MM_HINT_T0>(start.wrapping_add(at).cast()) };
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = (start, len);
}

/// The same for bytes that are read from their start on.
pub(crate) fn prefetch_bytes(bytes: &[u8]) {
    prefetch(bytes.as_ptr(), bytes.len().min(AHEAD));
}
