//! Decodes JSON text into Lua values, by RFC 8259. The decoder owns nothing while it pushes.
//!
//! The position is passed on by value, so that it stays in a register; an error is kept aside.

#![expect(unsafe_code, reason = "pushes Lua values")]

use std::cell::Cell;
use std::ffi::c_int;
use std::str;

use mlua::ffi::{self, lua_State};

use super::DEPTH_MAX;
use super::escape::unescape;
use super::number::{Number, number};
use super::shapes::Shapes;
use super::text::{At, Error, Text};
use crate::lua::stack::{push_bytes, push_null};
use crate::lua::vm::hook;

/// The room for elements of a new object that is not empty.
const FIELDS_MIN: c_int = 4;
/// Tables, or elements of one table, between two checks of the watchdog. A power of two.
const STEPS: u32 = 4096;
/// Stack room is requested for this many levels at once; one level takes a table, a key and a value.
const LEVELS: usize = 4;
const ROOM: c_int = 3;

pub(super) struct Decoder<'a> {
    state: *mut lua_State,
    text: Text,
    shapes: &'a Shapes,
    places: StackSlots,
    error: Cell<Error>,
    tables: Cell<u32>,
}

/// Stack indices that every document needs.
#[derive(Clone, Copy)]
pub(super) struct StackSlots {
    /// The metatable that marks arrays.
    pub(super) array: c_int,
    /// The table of the keys in `Shapes`.
    pub(super) keys: c_int,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        state: *mut lua_State,
        text: Text,
        shapes: &'a Shapes,
        places: StackSlots,
    ) -> Self {
        Self {
            state,
            text,
            shapes,
            places,
            error: Cell::new(Error { what: "", at: 0 }),
            tables: Cell::new(0),
        }
    }

    /// Pushes the one value of the document.
    pub(super) unsafe fn document(&self) -> Result<(), Error> {
        // SAFETY: the caller's state is alive; room is checked for the levels.
        unsafe {
            if let Some(end) = self.value(self.text.start(), DEPTH_MAX) {
                let end = end.past_space();
                if end == self.text.end() {
                    return Ok(());
                }
                self.fail(end, "trailing characters");
            }
        }
        Err(self.error.get())
    }

    /// Records the error and returns `None`.
    #[cold]
    unsafe fn fail(&self, at: At, what: &'static str) -> Option<At> {
        // SAFETY: `at` is a place of the text.
        let at = unsafe { at.since(self.text.start()) };
        self.error.set(Error { what, at });
        None
    }

    /// Records the error `expected`, or an unexpected end of the text, and returns `None`.
    #[cold]
    unsafe fn fail_or_end(&self, at: At, expected: &'static str) -> Option<At> {
        let is_end = at == self.text.end();
        // SAFETY: as above.
        unsafe { self.fail(at, if is_end { "unexpected end" } else { expected }) }
    }

    /// Pushes the value at `at`, or behind the space there; returns the place behind it.
    unsafe fn value(&self, at: At, depth: usize) -> Option<At> {
        // SAFETY: each level has room before it pushes.
        unsafe {
            let at = at.past_space();
            match at.byte() {
                b'"' => self.string(at),
                b'{' => self.object(at, depth),
                b'[' => self.array(at, depth),
                b'-' | b'0'..=b'9' => self.number(at),
                b't' => {
                    let end = self.word(at, b"true")?;
                    ffi::lua_pushboolean(self.state, 1);
                    Some(end)
                }
                b'f' => {
                    let end = self.word(at, b"false")?;
                    ffi::lua_pushboolean(self.state, 0);
                    Some(end)
                }
                b'n' => {
                    let end = self.word(at, b"null")?;
                    push_null(self.state);
                    Some(end)
                }
                _ => self.fail_or_end(at, "expected a value"),
            }
        }
    }

    unsafe fn word(&self, at: At, word: &[u8]) -> Option<At> {
        // SAFETY: passes only bytes that were seen.
        unsafe {
            if at.until(self.text.end()).starts_with(word) {
                Some(at.on(word.len()))
            } else {
                self.fail(at, "expected a value")
            }
        }
    }

    unsafe fn number(&self, at: At) -> Option<At> {
        // SAFETY: numbers allocate nothing.
        unsafe {
            match number(at) {
                Ok((Number::Integer(number), end)) => {
                    ffi::lua_pushinteger(self.state, number);
                    Some(end)
                }
                Ok((Number::Float(number), end)) => {
                    ffi::lua_pushnumber(self.state, number);
                    Some(end)
                }
                Err((at, what)) => self.fail(at, what),
            }
        }
    }

    /// Makes room for the values of the level that opens at `at`; returns how many further levels it may have.
    #[inline]
    unsafe fn deeper(&self, at: At, depth: usize) -> Option<usize> {
        // SAFETY: `lua_checkstack` raises nothing.
        unsafe {
            let has_room = !depth.is_multiple_of(LEVELS)
                || ffi::lua_checkstack(self.state, LEVELS as c_int * ROOM) != 0;
            if depth == 0 || !has_room {
                self.fail(at, "more than 128 levels")?;
            }
            self.tables.set(self.tables.get().wrapping_add(1));
            self.look(self.tables.get(), at)?;
        }
        Some(depth - 1)
    }

    /// Checks the watchdog now and then: a document may be long.
    #[inline]
    unsafe fn look(&self, steps: u32, at: At) -> Option<()> {
        if steps.is_multiple_of(STEPS) && hook::ends() {
            // SAFETY: `at` is a place of the text.
            unsafe { self.fail(at, "the call has ended") }?;
        }
        Some(())
    }

    unsafe fn array(&self, open: At, depth: usize) -> Option<At> {
        // SAFETY: `deeper` made room; only brackets and commas are passed.
        unsafe {
            let depth = self.deeper(open, depth)?;
            let mut at = open.on(1).past_space();
            let is_empty = at.byte() == b']';
            let size = if is_empty {
                0
            } else {
                self.shapes.arrays.expected(depth)
            };
            ffi::lua_createtable(self.state, size, 0);
            ffi::lua_pushvalue(self.state, self.places.array);
            ffi::lua_setmetatable(self.state, -2);
            if is_empty {
                return Some(at.on(1));
            }
            let mut count = 0;
            loop {
                at = self.value(at, depth)?.past_space();
                count += 1;
                ffi::lua_rawseti(self.state, -2, count);
                self.look(count as u32, at)?;
                match at.byte() {
                    b',' => at = at.on(1),
                    b']' => break,
                    _ => return self.fail_or_end(at, "expected `,` or `]`"),
                }
            }
            self.shapes.arrays.found(depth, count as usize);
            Some(at.on(1))
        }
    }

    unsafe fn object(&self, open: At, depth: usize) -> Option<At> {
        // SAFETY: `deeper` made room; only brackets, colons and commas are passed.
        unsafe {
            let depth = self.deeper(open, depth)?;
            let mut at = open.on(1).past_space();
            if at.byte() == b'}' {
                ffi::lua_createtable(self.state, 0, 0);
                return Some(at.on(1));
            }
            let size = self.shapes.objects.expected(depth).max(FIELDS_MIN);
            ffi::lua_createtable(self.state, 0, size);
            let mut count = 0;
            loop {
                if at.byte() != b'"' {
                    return self.fail(at, "expected a key in quotes");
                }
                at = self.key(at)?.past_space();
                if at.byte() != b':' {
                    return self.fail(at, "expected `:`");
                }
                at = self.value(at.on(1), depth)?.past_space();
                ffi::lua_rawset(self.state, -3);
                count += 1;
                self.look(count as u32, at)?;
                match at.byte() {
                    b',' => at = at.on(1).past_space(),
                    b'}' => break,
                    _ => return self.fail_or_end(at, "expected `,` or `}`"),
                }
            }
            self.shapes.objects.found(depth, count);
            Some(at.on(1))
        }
    }

    /// Pushes the string whose quote is at `quote`, as the key of an object.
    #[inline]
    unsafe fn key(&self, quote: At) -> Option<At> {
        // SAFETY: `deeper` made room.
        unsafe {
            let start = quote.on(1);
            let run = self.text.run(start);
            if run.end.byte() != b'"' || !run.is_ascii {
                return self.other_string(start, run.end, run.is_ascii);
            }
            let (keys, table) = (&self.shapes.keys, self.places.keys);
            keys.push(self.state, table, self.text, start, run.end);
            Some(run.end.on(1))
        }
    }

    /// Pushes the string whose quote is at `quote`.
    #[inline]
    unsafe fn string(&self, quote: At) -> Option<At> {
        // SAFETY: there is room for a value.
        unsafe {
            let start = quote.on(1);
            let run = self.text.run(start);
            if run.end.byte() != b'"' || !run.is_ascii {
                return self.other_string(start, run.end, run.is_ascii);
            }
            push_bytes(self.state, start.until(run.end));
            Some(run.end.on(1))
        }
    }

    /// Pushes the string from `start` on if it is not all ASCII, has escapes, or does not end; its first run ends at
    /// `at`.
    #[inline(never)]
    unsafe fn other_string(&self, start: At, mut at: At, mut is_ascii: bool) -> Option<At> {
        let mut is_escaped = false;
        // SAFETY: an escape passes a byte that is not the zero at the end.
        unsafe {
            loop {
                match at.byte() {
                    b'"' => break,
                    b'\\' if at.on(1) != self.text.end() => {
                        is_escaped = true;
                        at = at.on(2);
                    }
                    b'\\' => return self.fail(at.on(1), "unexpected end of a string"),
                    _ if at == self.text.end() => {
                        return self.fail(at, "unexpected end of a string");
                    }
                    _ => return self.fail(at, "a control character in a string"),
                }
                let run = self.text.run(at);
                at = run.end;
                is_ascii &= run.is_ascii;
            }
            let raw = start.until(at);
            // An escape may pass any byte.
            if (is_escaped || !is_ascii)
                && let Err(error) = str::from_utf8(raw)
            {
                return self.fail(start.on(error.valid_up_to()), "invalid UTF-8");
            }
            if is_escaped {
                self.push_unescaped(start, raw)?;
            } else {
                push_bytes(self.state, raw);
            }
            Some(at.on(1))
        }
    }

    /// Resolves the escapes into a block of Lua, which its collector frees in every case.
    unsafe fn push_unescaped(&self, start: At, raw: &[u8]) -> Option<At> {
        // SAFETY: the block is as long as the raw text, and no character is longer than its escape.
        unsafe {
            let block = ffi::lua_newuserdatauv(self.state, raw.len(), 0).cast::<u8>();
            let into = std::slice::from_raw_parts_mut(block, raw.len());
            match unescape(raw, into) {
                Ok(length) => {
                    push_bytes(self.state, &into[..length]);
                    ffi::lua_remove(self.state, -2);
                    Some(start)
                }
                Err(error) => self.fail(start.on(error.at), error.what),
            }
        }
    }
}
