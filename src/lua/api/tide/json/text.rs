//! Places in a Lua string, which ends with a zero byte.
//!
//! Lua puts a zero byte behind each of its strings (`lua_tolstring`), and JSON uses no zero. So a reader stops there
//! by itself, and checks only at a zero whether the text is over. Bytes are read eight at a time where eight remain.

#![expect(unsafe_code, reason = "reads without asking for the end")]

use std::ptr::NonNull;
use std::slice;

const ONES: u64 = u64::from_ne_bytes([1; 8]);
const HIGH: u64 = ONES << 7;

/// A text whose last byte is followed by a zero byte.
#[derive(Clone, Copy)]
pub(super) struct Text {
    start: At,
    end: At,
}

/// A place in a text: one of its bytes, or the zero byte behind it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct At(NonNull<u8>);

/// An error in a text, and its byte, counted from 0. Plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) what: &'static str,
    pub(super) at: usize,
}

/// The content of a string, up to the first byte that may end it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Run {
    pub(super) end: At,
    pub(super) is_ascii: bool,
}

impl At {
    #[inline]
    pub(super) unsafe fn byte(self) -> u8 {
        // SAFETY: every place has a byte.
        unsafe { self.0.read() }
    }

    /// The place `count` bytes later; none of the bytes between is the zero at the end.
    #[inline]
    pub(super) unsafe fn on(self, count: usize) -> Self {
        // SAFETY: the new place is in the text, or right behind it.
        Self(unsafe { self.0.add(count) })
    }

    /// The first place without a space.
    #[inline]
    pub(super) unsafe fn past_space(self) -> Self {
        let mut at = self;
        // SAFETY: no space is a zero.
        unsafe {
            while matches!(at.byte(), b' ' | b'\n' | b'\t' | b'\r') {
                at = at.on(1);
            }
        }
        at
    }

    /// The number of bytes from `other`, which is not behind this place.
    #[inline]
    pub(super) unsafe fn since(self, other: Self) -> usize {
        // SAFETY: both places are in one text.
        unsafe { self.0.offset_from_unsigned(other.0) }
    }

    /// The bytes between this place and `end`, which is not before it.
    pub(super) unsafe fn until<'a>(self, end: Self) -> &'a [u8] {
        // SAFETY: both places are in one text, which is alive.
        unsafe { slice::from_raw_parts(self.0.as_ptr(), end.since(self)) }
    }
}

impl Text {
    /// The Lua string that begins at `start`; valid as long as the string lives.
    pub(super) unsafe fn new(start: *const u8, length: usize) -> Self {
        // SAFETY: a Lua string has an address, and a zero byte at its end.
        let (start, end) = unsafe {
            let start = At(NonNull::new_unchecked(start.cast_mut()));
            (start, start.on(length))
        };
        Self { start, end }
    }

    pub(super) fn start(self) -> At {
        self.start
    }

    pub(super) fn end(self) -> At {
        self.end
    }

    /// The eight bytes at `at`, the first as the lowest, if eight remain.
    #[inline]
    pub(super) unsafe fn eight(self, at: At) -> Option<u64> {
        // SAFETY: reads only bytes of the text.
        unsafe { (self.end.since(at) >= 8).then(|| u64::from_le(at.0.cast().read_unaligned())) }
    }

    /// The content of a string from `at` on, up to a quote, an escape or a control character.
    #[inline]
    pub(super) unsafe fn run(self, at: At) -> Run {
        let (mut end, mut high) = (at, 0);
        // SAFETY: passes eight bytes where eight remain, and then one that is not the zero byte, a control character.
        unsafe {
            while let Some(bytes) = self.eight(end) {
                let stops = stops(bytes);
                if stops == 0 {
                    high |= bytes;
                    end = end.on(8);
                    continue;
                }
                // Those below the first stop.
                high |= bytes & ((stops ^ (stops - 1)) >> 8);
                end = end.on(stops.trailing_zeros() as usize / 8);
                return Run {
                    end,
                    is_ascii: high & HIGH == 0,
                };
            }
            while !matches!(end.byte(), 0..=0x1f | b'"' | b'\\') {
                high |= u64::from(end.byte());
                end = end.on(1);
            }
        }
        Run {
            end,
            is_ascii: high & HIGH == 0,
        }
    }
}

/// The high bits of the bytes that are a quote, an escape or a control character. Above the first one, other bytes
/// may be marked too.
#[inline]
fn stops(bytes: u64) -> u64 {
    /// Of each byte that is zero, and of none before the first such byte.
    fn zeros(bytes: u64) -> u64 {
        bytes.wrapping_sub(ONES) & !bytes
    }
    let quotes = zeros(bytes ^ (ONES * u64::from(b'"')));
    let escapes = zeros(bytes ^ (ONES * u64::from(b'\\')));
    let controls = bytes.wrapping_sub(ONES * 0x20) & !bytes;
    (quotes | escapes | controls) & HIGH
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of bytes in a block of their own: how many are passed, and whether all of those are ASCII.
    fn run(bytes: &[u8]) -> (usize, bool) {
        let block = [bytes, b"\0"].concat();
        // SAFETY: a zero follows.
        unsafe {
            let text = Text::new(block.as_ptr(), bytes.len());
            let run = text.run(text.start());
            (run.end.since(text.start()), run.is_ascii)
        }
    }

    #[test]
    fn a_run_ends_at_the_first_byte_that_may_end_a_string() {
        for byte in 0..=255_u8 {
            let ends = byte < b' ' || byte == b'"' || byte == b'\\';
            for length in 1..=17 {
                for at in 0..length {
                    let mut text = vec![b'!'; length];
                    text[at] = byte;
                    let expected = if ends {
                        (at, true)
                    } else {
                        (length, byte.is_ascii())
                    };
                    assert_eq!(run(&text), expected, "{byte:#x} at {at} of {length}");
                    // What follows the end is not looked at.
                    text[at + 1..].fill(0xff);
                    if ends {
                        assert_eq!(run(&text), expected, "{byte:#x} at {at} of {length}");
                    }
                    text[at + 1..].fill(b'"');
                    let end = if ends { at } else { at + 1 };
                    let is_ascii = ends || byte.is_ascii();
                    assert_eq!(
                        run(&text),
                        (end.min(length), is_ascii),
                        "{byte:#x} at {at} of {length}"
                    );
                }
            }
        }
    }

    #[test]
    fn eight_bytes_are_there_or_not() {
        let block = b"123456789\0";
        // SAFETY: a zero follows the nine.
        unsafe {
            let text = Text::new(block.as_ptr(), 9);
            let first = text.start();
            assert_eq!(text.eight(first), Some(u64::from_le_bytes(*b"12345678")));
            assert_eq!(
                text.eight(first.on(1)),
                Some(u64::from_le_bytes(*b"23456789"))
            );
            assert_eq!(text.eight(first.on(2)), None);
            assert_eq!(text.eight(text.end()), None);
        }
    }
}
