//! JSON text into Lua values, by RFC 8259. Owns nothing while it pushes.

#![expect(unsafe_code, reason = "pushes Lua values")]

use std::cell::Cell;
use std::ffi::c_int;
use std::str;

use mlua::ffi::{self, lua_State};

use super::keys::Keys;
use super::{DEPTH_MAX, push_null};
use crate::lua::shared::push_bytes;

/// Levels of a document whose shape is remembered.
const LEVELS: usize = 8;
/// A table is made for so many elements at most before they are there.
const EXPECTED_MAX: u8 = 64;
/// An object that is not empty is made for as many.
const FIELDS_MIN: c_int = 4;
/// Decimal digits that fit an `i64`, whichever they are.
const DIGITS: usize = 18;

/// What the last documents looked like: messages of a topic resemble each other. Plain data, of a block of Lua's.
#[derive(Default)]
pub(super) struct Shapes {
    keys: Keys,
    /// How many elements the last two objects, and arrays, at each level had: a table that is made large enough need not
    /// grow. The smaller number counts, as what is made too large stays so.
    objects: [Cell<(u8, u8)>; LEVELS],
    arrays: [Cell<(u8, u8)>; LEVELS],
}

/// Of the level whose elements have `depth` levels left.
fn at_level(cells: &[Cell<(u8, u8)>; LEVELS], depth: usize) -> Option<&Cell<(u8, u8)>> {
    cells.get(DEPTH_MAX - 1 - depth)
}

fn expected(cells: &[Cell<(u8, u8)>; LEVELS], depth: usize) -> c_int {
    let last = at_level(cells, depth).map(Cell::get);
    last.map_or(0, |(one, other)| one.min(other).into())
}

fn found(cells: &[Cell<(u8, u8)>; LEVELS], depth: usize, count: usize) {
    if let Some(cell) = at_level(cells, depth) {
        let count = u8::try_from(count).map_or(EXPECTED_MAX, |count| count.min(EXPECTED_MAX));
        cell.set((count, cell.get().0));
    }
}

/// What is wrong, and at which byte, counted from 0. Plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Error {
    pub(super) what: &'static str,
    pub(super) at: usize,
}

pub(super) struct Decoder<'a> {
    state: *mut lua_State,
    text: &'a [u8],
    at: usize,
    shapes: &'a Shapes,
    places: Places,
}

/// Indices of what every document needs.
#[derive(Clone, Copy)]
pub(super) struct Places {
    /// The metatable that marks arrays.
    pub(super) array: c_int,
    /// The table of the keys in `Shapes`.
    pub(super) keys: c_int,
}

impl<'a> Decoder<'a> {
    pub(super) fn new(
        state: *mut lua_State,
        text: &'a [u8],
        shapes: &'a Shapes,
        places: Places,
    ) -> Self {
        Self {
            state,
            text,
            at: 0,
            shapes,
            places,
        }
    }

    /// Pushes the one value of the document.
    pub(super) unsafe fn document(&mut self) -> Result<(), Error> {
        // SAFETY: the caller's state is alive; room is checked for each level.
        unsafe { self.value(DEPTH_MAX)? };
        self.skip_space();
        if self.at < self.text.len() {
            self.fail("trailing characters")
        } else {
            Ok(())
        }
    }

    fn fail<T>(&self, what: &'static str) -> Result<T, Error> {
        Err(Error { what, at: self.at })
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.at).copied()
    }

    #[inline]
    fn skip_space(&mut self) {
        while let Some(b' ' | b'\n' | b'\t' | b'\r') = self.peek() {
            self.at += 1;
        }
    }

    unsafe fn value(&mut self, depth: usize) -> Result<(), Error> {
        self.skip_space();
        // SAFETY: each level checks the stack before it pushes.
        unsafe {
            match self.peek() {
                Some(b'"') => self.string(),
                Some(b'{') => self.object(depth),
                Some(b'[') => self.array(depth),
                Some(b'-' | b'0'..=b'9') => self.number(),
                Some(b't') => {
                    self.word(b"true")?;
                    ffi::lua_pushboolean(self.state, 1);
                    Ok(())
                }
                Some(b'f') => {
                    self.word(b"false")?;
                    ffi::lua_pushboolean(self.state, 0);
                    Ok(())
                }
                Some(b'n') => {
                    self.word(b"null")?;
                    push_null(self.state);
                    Ok(())
                }
                Some(_) => self.fail("expected a value"),
                None => self.fail("unexpected end"),
            }
        }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), Error> {
        if !self.text[self.at..].starts_with(word) {
            return self.fail("expected a value");
        }
        self.at += word.len();
        Ok(())
    }

    /// Room for a table, a key and a value.
    unsafe fn deeper(&mut self, depth: usize) -> Result<usize, Error> {
        // SAFETY: `lua_checkstack` raises nothing.
        if depth == 0 || unsafe { ffi::lua_checkstack(self.state, 6) } == 0 {
            return self.fail("more than 128 levels");
        }
        self.at += 1;
        Ok(depth - 1)
    }

    /// After an element: whether another one follows.
    fn another(&mut self, close: u8, expected: &'static str) -> Result<bool, Error> {
        self.skip_space();
        match self.peek() {
            Some(b',') => {
                self.at += 1;
                Ok(true)
            }
            Some(byte) if byte == close => {
                self.at += 1;
                Ok(false)
            }
            Some(_) => self.fail(expected),
            None => self.fail("unexpected end"),
        }
    }

    unsafe fn array(&mut self, depth: usize) -> Result<(), Error> {
        // SAFETY: `deeper` made room.
        unsafe {
            let depth = self.deeper(depth)?;
            self.skip_space();
            let is_empty = self.peek() == Some(b']');
            let size = if is_empty {
                0
            } else {
                expected(&self.shapes.arrays, depth)
            };
            ffi::lua_createtable(self.state, size, 0);
            ffi::lua_pushvalue(self.state, self.places.array);
            ffi::lua_setmetatable(self.state, -2);
            if is_empty {
                self.at += 1;
                return Ok(());
            }
            for i in 1.. {
                self.value(depth)?;
                ffi::lua_rawseti(self.state, -2, i);
                if !self.another(b']', "expected `,` or `]`")? {
                    found(&self.shapes.arrays, depth, i as usize);
                    break;
                }
            }
        }
        Ok(())
    }

    unsafe fn object(&mut self, depth: usize) -> Result<(), Error> {
        // SAFETY: `deeper` made room.
        unsafe {
            let depth = self.deeper(depth)?;
            self.skip_space();
            if self.peek() == Some(b'}') {
                ffi::lua_createtable(self.state, 0, 0);
                self.at += 1;
                return Ok(());
            }
            let size = expected(&self.shapes.objects, depth).max(FIELDS_MIN);
            ffi::lua_createtable(self.state, 0, size);
            for count in 1.. {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return self.fail("expected a key in quotes");
                }
                self.key()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return self.fail("expected `:`");
                }
                self.at += 1;
                self.value(depth)?;
                ffi::lua_rawset(self.state, -3);
                if !self.another(b'}', "expected `,` or `}`")? {
                    found(&self.shapes.objects, depth, count);
                    break;
                }
            }
        }
        Ok(())
    }

    unsafe fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        let mut integral = true;
        let negative = self.peek() == Some(b'-');
        if negative {
            self.at += 1;
        }
        let first = self.at;
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.fail("expected a digit"),
        }
        let digits = first..self.at;
        if self.peek() == Some(b'.') {
            integral = false;
            self.at += 1;
            self.digits()?;
        }
        if let Some(b'e' | b'E') = self.peek() {
            integral = false;
            self.at += 1;
            if let Some(b'+' | b'-') = self.peek() {
                self.at += 1;
            }
            self.digits()?;
        }
        // `-0` is a float: there is no such integer.
        if integral && digits.len() <= DIGITS && !(negative && self.text[first] == b'0') {
            let digits = self.text[digits].iter();
            let number = digits.fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
            let number = if negative { -number } else { number };
            // SAFETY: numbers allocate nothing.
            unsafe { ffi::lua_pushinteger(self.state, number) };
            return Ok(());
        }
        // SAFETY: as above.
        unsafe { self.long_number(start, integral) }
    }

    /// One that has a fraction or an exponent, or more digits than are sure to fit.
    unsafe fn long_number(&self, start: usize, integral: bool) -> Result<(), Error> {
        // The bytes are ASCII by now.
        let text = str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        // SAFETY: numbers allocate nothing.
        unsafe {
            if integral
                && text != "-0"
                && let Ok(integer) = text.parse::<i64>()
            {
                ffi::lua_pushinteger(self.state, integer);
                return Ok(());
            }
            match text.parse::<f64>() {
                Ok(number) if number.is_finite() => ffi::lua_pushnumber(self.state, number),
                _ => {
                    return Err(Error {
                        what: "a number out of range",
                        at: start,
                    });
                }
            }
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), Error> {
        let start = self.at;
        while let Some(b'0'..=b'9') = self.peek() {
            self.at += 1;
        }
        if self.at == start {
            self.fail("expected a digit")
        } else {
            Ok(())
        }
    }

    /// Pushes the string whose quote is next, as the key of an object.
    unsafe fn key(&mut self) -> Result<(), Error> {
        let start = self.at + 1;
        let length = plain(self.text.get(start..).unwrap_or_default());
        // SAFETY: `deeper` made room.
        unsafe {
            if self.text.get(start + length) != Some(&b'"') {
                return self.string();
            }
            let (keys, table) = (&self.shapes.keys, self.places.keys);
            keys.push(self.state, table, self.text, start, length);
        }
        self.at = start + length + 1;
        Ok(())
    }

    /// Pushes the string whose quote is next.
    unsafe fn string(&mut self) -> Result<(), Error> {
        self.at += 1;
        let start = self.at;
        let (mut is_escaped, mut is_ascii) = (false, true);
        loop {
            self.at += plain(self.text.get(self.at..).unwrap_or_default());
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    is_escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return self.fail("a control character in a string"),
                Some(byte) => {
                    is_ascii &= byte.is_ascii();
                    self.at += 1;
                }
                None => return self.fail("unexpected end of a string"),
            }
        }
        let raw = &self.text[start..self.at];
        // What an escape passes over may be any byte.
        if (is_escaped || !is_ascii)
            && let Err(error) = str::from_utf8(raw)
        {
            return Err(Error {
                what: "invalid UTF-8",
                at: start + error.valid_up_to(),
            });
        }
        // SAFETY: plain data only.
        unsafe {
            if is_escaped {
                self.push_unescaped(start, raw)?;
            } else {
                push_bytes(self.state, raw);
            }
        }
        self.at += 1;
        Ok(())
    }

    /// The escapes are resolved into a block of Lua's, which its collector frees whatever happens.
    unsafe fn push_unescaped(&mut self, start: usize, raw: &[u8]) -> Result<(), Error> {
        // SAFETY: the block is as long as the raw text, and no escape is longer than what it stands for.
        unsafe {
            let block = ffi::lua_newuserdatauv(self.state, raw.len(), 0).cast::<u8>();
            let into = std::slice::from_raw_parts_mut(block, raw.len());
            let length = unescape(raw, into).map_err(|error| Error {
                at: start + error.at,
                ..error
            })?;
            push_bytes(self.state, &into[..length]);
            ffi::lua_remove(self.state, -2);
        }
        Ok(())
    }
}

/// How many bytes at the start, at least, are ASCII that stands for itself: eight at a time, until one of them is not.
fn plain(text: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = ONES << 7;
    /// The high bit of each byte that is zero, and of none before the first such byte.
    fn zeros(bytes: u64) -> u64 {
        bytes.wrapping_sub(ONES) & !bytes
    }
    let (chunks, rest) = text.as_chunks::<8>();
    for (index, chunk) in chunks.iter().enumerate() {
        let bytes = u64::from_le_bytes(*chunk);
        let quotes = zeros(bytes ^ (ONES * u64::from(b'"')));
        let escapes = zeros(bytes ^ (ONES * u64::from(b'\\')));
        let controls = bytes.wrapping_sub(ONES * 0x20) & !bytes;
        let others = (quotes | escapes | controls | bytes) & HIGH;
        if others != 0 {
            return index * 8 + others.trailing_zeros() as usize / 8;
        }
    }
    let is_plain = |byte: &u8| matches!(byte, 0x20..=0x7f) && *byte != b'"' && *byte != b'\\';
    let others = rest.iter().position(|byte| !is_plain(byte));
    text.len() - rest.len() + others.unwrap_or(rest.len())
}

fn unescape(raw: &[u8], into: &mut [u8]) -> Result<usize, Error> {
    let mut from = 0;
    let mut to = 0;
    while let Some(&byte) = raw.get(from) {
        if byte != b'\\' {
            into[to] = byte;
            from += 1;
            to += 1;
            continue;
        }
        let simple = match raw.get(from + 1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&(b'"' | b'\\' | b'/')) => raw[from + 1],
            Some(b'u') => {
                let (char, length) = unicode(raw, from)?;
                to += char.encode_utf8(&mut into[to..]).len();
                from += length;
                continue;
            }
            _ => {
                return Err(Error {
                    what: "an unknown escape",
                    at: from,
                });
            }
        };
        into[to] = simple;
        from += 2;
        to += 1;
    }
    Ok(to)
}

/// The character of the `\u` at `at`, with its other half where it has one, and how long that is in the text.
fn unicode(raw: &[u8], at: usize) -> Result<(char, usize), Error> {
    let lone = Error {
        what: "half of a surrogate pair",
        at,
    };
    let first = hex(raw, at)?;
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).map(|char| (char, 6)).ok_or(lone);
    }
    if first >= 0xdc00 || raw.get(at + 6..at + 8) != Some(b"\\u") {
        return Err(lone);
    }
    let second = hex(raw, at + 6)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(lone);
    }
    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(code).map(|char| (char, 12)).ok_or(lone)
}

fn hex(raw: &[u8], at: usize) -> Result<u32, Error> {
    let digits = raw
        .get(at + 2..at + 6)
        .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    digits
        .and_then(|digits| str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or(Error {
            what: "four hexadecimal digits are missing after `\\u`",
            at,
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_plain_ends_at_the_first_byte_that_is_not() {
        for byte in 0..=255_u8 {
            let is_plain = matches!(byte, 0x20..=0x7f) && byte != b'"' && byte != b'\\';
            for length in 1..=17 {
                for at in 0..length {
                    let mut text = vec![b'!'; length];
                    text[at] = byte;
                    // Whatever follows it is not looked at.
                    text[at + 1..].fill(b'"');
                    let end = if is_plain { at + 1 } else { at };
                    assert_eq!(plain(&text), end, "{byte:#x} at {at} of {length}");
                }
            }
        }
    }
}
