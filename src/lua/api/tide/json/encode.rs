//! Encodes Lua values as JSON text. It raises nothing, so it may own its buffer.

#![expect(unsafe_code, reason = "reads Lua values")]

use std::ffi::c_int;
use std::io::Write;
use std::str;

use mlua::ffi::{self, lua_State};

use super::{ARRAY, DEPTH_MAX};
use crate::lua::stack::{bytes_at, is_null, type_name};
use crate::lua::vm::hook;

/// The fields of a log line end at this length. A table within itself would otherwise be written once for each path
/// through it.
const LOG_MAX: usize = 64 << 10;

/// Values between two checks of the watchdog, and the number of values that a table counts for. A table without
/// elements may still be large to traverse.
const STEPS: u32 = 256;
const TABLE: u32 = 8;

/// The treatment of a value that JSON has no form for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(in crate::lua) enum Strictness {
    /// Such a value is an error, and so is a text of more bytes than this: the text grows outside Lua's memory.
    Strict(usize),
    /// A log line shows the value's type; logging never fails a handler.
    Log,
}

struct Encoder {
    state: *mut lua_State,
    text: Vec<u8>,
    strictness: Strictness,
    /// Values since the last check of the watchdog.
    steps: u32,
}

/// The value at `index` as JSON, or the reason for a failure.
pub(in crate::lua) unsafe fn encode(
    state: *mut lua_State,
    index: c_int,
    strictness: Strictness,
) -> Result<Vec<u8>, String> {
    let mut encoder = Encoder {
        state,
        text: Vec::new(),
        strictness,
        steps: 0,
    };
    // SAFETY: the caller's index is valid; the stack is put back as it was.
    unsafe {
        let top = ffi::lua_gettop(state);
        let result = encoder.value(ffi::lua_absindex(state, index), DEPTH_MAX);
        ffi::lua_settop(state, top);
        result?;
    }
    Ok(encoder.text)
}

/// The form in which a table is written.
enum Shape {
    /// An array, with its length.
    Array(i64),
    Object,
}

impl Encoder {
    /// Stops when the call must end: a table that is reached by several paths is written on each.
    fn step(&mut self, steps: u32) -> Result<(), String> {
        self.steps += steps;
        if self.steps < STEPS {
            return Ok(());
        }
        self.steps = 0;
        if hook::ends() {
            return Err("the call has ended".to_owned());
        }
        Ok(())
    }

    unsafe fn value(&mut self, index: c_int, depth: usize) -> Result<(), String> {
        self.step(1)?;
        // SAFETY: nothing is converted in place, and no metamethod runs.
        unsafe {
            match ffi::lua_type(self.state, index) {
                ffi::LUA_TNIL => self.text.extend(b"null"),
                ffi::LUA_TLIGHTUSERDATA if is_null(self.state, index) => self.text.extend(b"null"),
                ffi::LUA_TBOOLEAN if ffi::lua_toboolean(self.state, index) != 0 => {
                    self.text.extend(b"true");
                }
                ffi::LUA_TBOOLEAN => self.text.extend(b"false"),
                ffi::LUA_TNUMBER if ffi::lua_isinteger(self.state, index) != 0 => {
                    let integer = ffi::lua_tointeger(self.state, index);
                    // Writing to memory does not fail.
                    let _ = write!(self.text, "{integer}");
                }
                ffi::LUA_TNUMBER => self.number(ffi::lua_tonumber(self.state, index))?,
                ffi::LUA_TSTRING => self.string(bytes_at(self.state, index).unwrap_or_default())?,
                ffi::LUA_TTABLE => self.table(index, depth)?,
                _ => {
                    let found = type_name(self.state, index);
                    self.no_form(&format!("{found} has no JSON form"), found)?;
                }
            }
        }
        Ok(())
    }

    fn no_form(&mut self, reason: &str, shown: &str) -> Result<(), String> {
        if self.strictness != Strictness::Log {
            return Err(reason.to_owned());
        }
        self.quoted(&format!("<{shown}>"));
        Ok(())
    }

    /// Whether a log line is full.
    fn is_full(&self) -> Result<bool, String> {
        match self.strictness {
            Strictness::Strict(max) if self.text.len() > max => Err(format!(
                "the text would be longer than {max} bytes ([lua] memory)"
            )),
            Strictness::Strict(_) => Ok(false),
            Strictness::Log => Ok(self.text.len() > LOG_MAX),
        }
    }

    fn number(&mut self, number: f64) -> Result<(), String> {
        if !number.is_finite() {
            return self.no_form(&format!("{number} has no JSON form"), &number.to_string());
        }
        // The shortest text that reads back as the same float; `.0` keeps it one.
        let _ = write!(self.text, "{number:?}");
        Ok(())
    }

    fn string(&mut self, bytes: &[u8]) -> Result<(), String> {
        let bytes = match self.strictness {
            Strictness::Log => &bytes[..bytes.len().min(LOG_MAX)],
            Strictness::Strict(_) => bytes,
        };
        match str::from_utf8(bytes) {
            Ok(text) => self.quoted(text),
            Err(_) if self.strictness == Strictness::Log => {
                self.quoted(&String::from_utf8_lossy(bytes));
            }
            Err(error) => {
                let at = error.valid_up_to() + 1;
                return Err(format!(
                    "a string with invalid UTF-8 at its byte {at} has no JSON form; encode it first, for instance as hexadecimal"
                ));
            }
        }
        Ok(())
    }

    fn quoted(&mut self, text: &str) {
        self.text.push(b'"');
        let mut rest = text.as_bytes();
        while let Some(at) = rest
            .iter()
            .position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\')
        {
            self.text.extend(&rest[..at]);
            match rest[at] {
                b'\n' => self.text.extend(b"\\n"),
                b'\r' => self.text.extend(b"\\r"),
                b'\t' => self.text.extend(b"\\t"),
                byte @ (b'"' | b'\\') => self.text.extend([b'\\', byte]),
                byte => {
                    let _ = write!(self.text, "\\u{byte:04x}");
                }
            }
            rest = &rest[at + 1..];
        }
        self.text.extend(rest);
        self.text.push(b'"');
    }

    unsafe fn table(&mut self, index: c_int, depth: usize) -> Result<(), String> {
        self.step(TABLE)?;
        // SAFETY: `lua_checkstack` raises nothing.
        if depth == 0 || unsafe { ffi::lua_checkstack(self.state, 6) } == 0 {
            return self.no_form(
                "a table within itself, or more than 128 deep",
                "a deep table",
            );
        }
        // SAFETY: room was made; `lua_next` gets only keys that it returned.
        unsafe {
            match self.shape(index)? {
                Shape::Array(length) => {
                    self.text.push(b'[');
                    for i in 1..=length {
                        if i > 1 {
                            self.text.push(b',');
                        }
                        if self.is_full()? {
                            self.quoted("…");
                            break;
                        }
                        ffi::lua_rawgeti(self.state, index, i);
                        self.value(ffi::lua_gettop(self.state), depth - 1)?;
                        ffi::lua_pop(self.state, 1);
                    }
                    self.text.push(b']');
                }
                Shape::Object => self.object(index, depth)?,
            }
        }
        Ok(())
    }

    unsafe fn object(&mut self, index: c_int, depth: usize) -> Result<(), String> {
        // SAFETY: as in `table`.
        unsafe {
            self.text.push(b'{');
            let mut first = true;
            ffi::lua_pushnil(self.state);
            while ffi::lua_next(self.state, index) != 0 {
                if !first {
                    self.text.push(b',');
                }
                first = false;
                if self.is_full()? {
                    self.quoted("…");
                    self.text.push(b':');
                    self.quoted("…");
                    break;
                }
                let top = ffi::lua_gettop(self.state);
                self.key(top - 1)?;
                self.text.push(b':');
                self.value(top, depth - 1)?;
                ffi::lua_settop(self.state, top - 1);
            }
            self.text.push(b'}');
        }
        Ok(())
    }

    unsafe fn key(&mut self, index: c_int) -> Result<(), String> {
        // SAFETY: a number is formatted here rather than converted in place, which would confuse `lua_next`.
        unsafe {
            match ffi::lua_type(self.state, index) {
                ffi::LUA_TSTRING => self.string(bytes_at(self.state, index).unwrap_or_default()),
                ffi::LUA_TNUMBER if ffi::lua_isinteger(self.state, index) != 0 => {
                    self.quoted(&ffi::lua_tointeger(self.state, index).to_string());
                    Ok(())
                }
                _ => {
                    let found = type_name(self.state, index);
                    self.no_form(&format!("{found} cannot be a key of an object"), found)
                }
            }
        }
    }

    /// A marked table is an array, and so is a table whose keys are 1 to n without a gap. An empty table is an
    /// object.
    unsafe fn shape(&mut self, index: c_int) -> Result<Shape, String> {
        // SAFETY: raw access only.
        unsafe {
            let length = ffi::lua_rawlen(self.state, index) as i64;
            let marked = self.is_marked(index);
            let mut keys = 0;
            let mut others = false;
            ffi::lua_pushnil(self.state);
            while ffi::lua_next(self.state, index) != 0 {
                ffi::lua_pop(self.state, 1);
                keys += 1;
                self.step(1)?;
                let inside = ffi::lua_isinteger(self.state, -1) != 0
                    && (1..=length).contains(&ffi::lua_tointeger(self.state, -1));
                others |= !inside;
            }
            match (marked, others) {
                (true, true) if self.strictness != Strictness::Log => {
                    Err("an array has a key that is no index of it".to_owned())
                }
                (true, false) => Ok(Shape::Array(length)),
                (false, false) if length > 0 && keys == length => Ok(Shape::Array(length)),
                _ => Ok(Shape::Object),
            }
        }
    }

    unsafe fn is_marked(&self, index: c_int) -> bool {
        // SAFETY: the metatable is found by its name in the registry, which `push` filled.
        unsafe {
            if ffi::lua_getmetatable(self.state, index) == 0 {
                return false;
            }
            ffi::lua_getfield(self.state, ffi::LUA_REGISTRYINDEX, ARRAY.as_ptr());
            let marked = ffi::lua_rawequal(self.state, -1, -2) != 0;
            ffi::lua_pop(self.state, 2);
            marked
        }
    }
}
