//! The object keys of recent documents, as Lua strings: messages of a topic share their keys. A known key is found in
//! half the time that Lua needs to look a string up by its bytes.

#![expect(unsafe_code, reason = "pushes Lua values")]

use std::cell::Cell;
use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::text::{At, Text};
use crate::lua::stack::push_bytes;

/// A power of two.
const SLOTS: usize = 128;
const LONGEST: usize = 16;

/// A key by its bytes: the first eight, the last eight (they may overlap), and the length. A shorter key has all its
/// bytes in the first eight. A key without bytes is not stored.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Key {
    first: u64,
    last: u64,
    length: u8,
}

impl Key {
    const NONE: Self = Self {
        first: 0,
        last: 0,
        length: 0,
    };

    /// The key between `start` and `end`. `None` if it is too long or empty, or if the text ends right behind it.
    #[inline]
    unsafe fn at(text: Text, start: At, end: At) -> Option<Self> {
        // SAFETY: `text` checks for its end.
        unsafe {
            let length = end.since(start);
            let first = text.eight(start)?;
            let (first, last) = match length {
                1..8 => (first & ((1 << (length * 8)) - 1), 0),
                8..=LONGEST => (first, text.eight(start.on(length - 8))?),
                _ => return None,
            };
            Some(Self {
                first,
                last,
                length: length as u8,
            })
        }
    }

    #[inline]
    fn slot(self) -> usize {
        let mixed = self.first ^ self.last.rotate_left(29) ^ u64::from(self.length);
        (mixed.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> (64 - SLOTS.ilog2())) as usize
    }
}

/// The key of each slot in the Lua table that `push_table` makes. Plain data, in a block of Lua.
pub(super) struct Keys([Cell<Key>; SLOTS]);

impl Default for Keys {
    fn default() -> Self {
        Self([const { Cell::new(Key::NONE) }; SLOTS])
    }
}

impl Keys {
    /// Pushes the table of the key strings, which live and end with the slots.
    pub(super) unsafe fn push_table(state: *mut lua_State) {
        // SAFETY: runs protected.
        unsafe { ffi::lua_createtable(state, SLOTS as c_int, 0) };
    }

    /// Pushes the key between `start` and `end`; `table` is the index of the key table.
    #[inline]
    pub(super) unsafe fn push(
        &self,
        state: *mut lua_State,
        table: c_int,
        text: Text,
        start: At,
        end: At,
    ) {
        // SAFETY: the caller has made room for two values. Only the making of a string may raise, and nothing has
        // changed by then: the table already has all its slots.
        unsafe {
            let Some(key) = Key::at(text, start, end) else {
                return push_bytes(state, start.until(end));
            };
            let slot = key.slot();
            let index = slot as i64 + 1;
            if self.0[slot].get() == key {
                ffi::lua_rawgeti(state, table, index);
                return;
            }
            push_bytes(state, start.until(end));
            ffi::lua_pushvalue(state, -1);
            ffi::lua_rawseti(state, table, index);
            self.0[slot].set(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of the first `length` bytes of `text`.
    fn of(text: &str, length: usize) -> Option<Key> {
        let block = format!("{text}\0");
        // SAFETY: a zero follows the text.
        unsafe {
            let text = Text::new(block.as_ptr(), text.len());
            Key::at(text, text.start(), text.start().on(length))
        }
    }

    #[test]
    fn a_key_is_its_bytes_and_nothing_beside_them() {
        for length in 1..=LONGEST {
            let key = "abcdefghijklmnop".get(..length).unwrap_or_default();
            let one = of(&format!("{key}\":1,\"x\":2"), length);
            assert!(one.is_some());
            assert!(one == of(&format!("{key}\":\"other\"}}"), length));
            for at in 0..length {
                let mut other = key.to_owned();
                other.replace_range(at..=at, "!");
                assert!(
                    one != of(&format!("{other}\":1,\"x\":2"), length),
                    "{other}"
                );
            }
        }
        assert!(of("a\":1,\"x\":2", 1) != of("a\0\":1,\"x\":2", 2));
    }

    #[test]
    fn what_has_no_place_is_none() {
        assert!(of("\":1234567", 0).is_none());
        assert!(of("abcdefghijklmnopq\":1", 17).is_none());
        assert!(of("a\":1}", 1).is_none(), "the text ends too early");
        assert!(of("abcdefgh", 8).is_some());
    }
}
