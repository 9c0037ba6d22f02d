//! JSON text into Lua values, by RFC 8259. Owns nothing while it pushes.

#![expect(unsafe_code, reason = "pushes Lua values")]

use std::str;

use mlua::ffi::{self, lua_State};

use super::{DEPTH_MAX, mark_array, push_null};
use crate::lua::shared::push_bytes;

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
}

impl<'a> Decoder<'a> {
    pub(super) fn new(state: *mut lua_State, text: &'a [u8]) -> Self {
        Self { state, text, at: 0 }
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
            ffi::lua_createtable(self.state, 0, 0);
            mark_array(self.state);
            self.skip_space();
            if self.peek() == Some(b']') {
                self.at += 1;
                return Ok(());
            }
            for i in 1.. {
                self.value(depth)?;
                ffi::lua_rawseti(self.state, -2, i);
                if !self.another(b']', "expected `,` or `]`")? {
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
            ffi::lua_createtable(self.state, 0, 4);
            self.skip_space();
            if self.peek() == Some(b'}') {
                self.at += 1;
                return Ok(());
            }
            loop {
                self.skip_space();
                if self.peek() != Some(b'"') {
                    return self.fail("expected a key in quotes");
                }
                self.string()?;
                self.skip_space();
                if self.peek() != Some(b':') {
                    return self.fail("expected `:`");
                }
                self.at += 1;
                self.value(depth)?;
                ffi::lua_rawset(self.state, -3);
                if !self.another(b'}', "expected `,` or `}`")? {
                    return Ok(());
                }
            }
        }
    }

    unsafe fn number(&mut self) -> Result<(), Error> {
        let start = self.at;
        let mut integral = true;
        if self.peek() == Some(b'-') {
            self.at += 1;
        }
        match self.peek() {
            Some(b'0') => self.at += 1,
            Some(b'1'..=b'9') => self.digits()?,
            _ => return self.fail("expected a digit"),
        }
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
        // The bytes are ASCII by now.
        let text = str::from_utf8(&self.text[start..self.at]).unwrap_or_default();
        // SAFETY: numbers allocate nothing.
        unsafe {
            match text.parse::<i64>() {
                // `-0` is a float: there is no such integer.
                Ok(integer) if integral && text != "-0" => {
                    ffi::lua_pushinteger(self.state, integer);
                }
                _ => match text.parse::<f64>() {
                    Ok(number) if number.is_finite() => ffi::lua_pushnumber(self.state, number),
                    _ => {
                        return Err(Error {
                            what: "a number out of range",
                            at: start,
                        });
                    }
                },
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

    /// Pushes the string whose quote is next.
    unsafe fn string(&mut self) -> Result<(), Error> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            match self.peek() {
                Some(b'"') => break,
                Some(b'\\') => {
                    escaped = true;
                    self.at += 2;
                }
                Some(0..=0x1f) => return self.fail("a control character in a string"),
                Some(_) => self.at += 1,
                None => return self.fail("unexpected end of a string"),
            }
        }
        let raw = &self.text[start..self.at];
        if let Err(error) = str::from_utf8(raw) {
            return Err(Error {
                what: "invalid UTF-8",
                at: start + error.valid_up_to(),
            });
        }
        // SAFETY: plain data only.
        unsafe {
            if escaped {
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
