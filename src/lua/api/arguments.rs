//! The arguments of a function that answers at once, and its results.
//!
//! Strings are read where they lie on Lua's stack, without a copy.

#![expect(unsafe_code, reason = "reads Lua values")]

use std::ffi::c_int;
use std::marker::PhantomData;

use mlua::ffi::{self, lua_State};

use super::tide::options::Fields;
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::wait::{Fault, Value};

/// The arguments on the stack, which does not change while this exists.
pub(in crate::lua) struct Arguments<'s> {
    state: *mut lua_State,
    pub(in crate::lua) shared: &'s Shared,
    /// The function as handlers write it, for errors.
    pub(in crate::lua) path: &'static str,
    stack: PhantomData<&'s [u8]>,
}

/// The results of such a function.
#[derive(Debug, PartialEq)]
pub(in crate::lua) enum Results {
    One(Value),
    Several(Vec<Value>),
}

impl<'s> Arguments<'s> {
    /// The arguments of the running C function, which neither raises nor changes its stack meanwhile.
    pub(in crate::lua) unsafe fn of(
        state: *mut lua_State,
        shared: &'s Shared,
        path: &'static str,
    ) -> Self {
        Self {
            state,
            shared,
            path,
            stack: PhantomData,
        }
    }

    /// Whether the argument is missing or nil.
    pub(in crate::lua) fn is_absent(&self, index: c_int) -> bool {
        // SAFETY: reads a tag.
        unsafe { ffi::lua_type(self.state, index) <= ffi::LUA_TNIL }
    }

    /// A string of any bytes.
    pub(in crate::lua) fn bytes(&self, index: c_int, name: &str) -> Result<&'s [u8], Fault> {
        // SAFETY: the string stays on the stack.
        let bytes = unsafe { bytes_at(self.state, index) };
        bytes.ok_or_else(|| self.other(index, name, "a string"))
    }

    /// A string that is UTF-8.
    pub(in crate::lua) fn text(&self, index: c_int, name: &str) -> Result<&'s str, Fault> {
        let bytes = self.bytes(index, name)?;
        std::str::from_utf8(bytes).map_err(|error| {
            let at = error.valid_up_to() + 1;
            self.invalid(format!("`{name}` is not UTF-8 at its byte {at}"))
        })
    }

    /// An integer, also one that Lua's arithmetic made a float.
    pub(in crate::lua) fn integer(&self, index: c_int, name: &str) -> Result<i64, Fault> {
        // SAFETY: only a number is converted, and not in place.
        unsafe {
            let mut is_integer = 0;
            if ffi::lua_type(self.state, index) == ffi::LUA_TNUMBER {
                let number = ffi::lua_tointegerx(self.state, index, &raw mut is_integer);
                if is_integer != 0 {
                    return Ok(number);
                }
                let number = ffi::lua_tonumber(self.state, index);
                return Err(self.invalid(format!("`{name}` is {number}, not an integer")));
            }
        }
        Err(self.other(index, name, "an integer"))
    }

    /// A copy of plain data.
    pub(in crate::lua) fn value(&self, index: c_int) -> Result<Value, Fault> {
        // SAFETY: the index may be one without a value, which is nil.
        let copy = unsafe {
            if ffi::lua_type(self.state, index) == ffi::LUA_TNONE {
                return Ok(Value::Nil);
            }
            plain::read(self.state, index, self.shared.memory)
        };
        let copy = copy.map_err(|reason| self.invalid(format!("argument {index}: {reason}")))?;
        Ok(copy.0)
    }

    /// A table of options, which may be absent.
    pub(in crate::lua) fn options(&self, index: c_int, names: &[&str]) -> Result<Fields, Fault> {
        let value = match self.value(index)? {
            Value::Nil => Value::Table(Vec::new()),
            value => value,
        };
        self.fields(value, "a table of options", names)
    }

    /// The fields of a table, which `what` describes.
    pub(in crate::lua) fn fields(
        &self,
        value: Value,
        what: &str,
        names: &[&str],
    ) -> Result<Fields, Fault> {
        Fields::of(value, format!("`{}`", self.path), what, names)
            .map_err(|message| Fault::new("invalid", message))
    }

    /// The error about an argument that is wrong.
    pub(in crate::lua) fn invalid(&self, message: impl AsRef<str>) -> Fault {
        self.fault("invalid", message)
    }

    /// The error about a result that is too large.
    pub(in crate::lua) fn too_large(&self, message: impl AsRef<str>) -> Fault {
        self.fault("tooLarge", message)
    }

    pub(in crate::lua) fn fault(&self, kind: &'static str, message: impl AsRef<str>) -> Fault {
        Fault::new(kind, format!("`{}`: {}", self.path, message.as_ref()))
    }

    fn other(&self, index: c_int, name: &str, expected: &str) -> Fault {
        // SAFETY: reads a tag.
        let found = unsafe { type_name(self.state, index) };
        let message = format!("`{}` takes `{name}` as {expected}, not {found}", self.path);
        Fault::new("invalid", message)
    }
}

impl From<Value> for Results {
    fn from(value: Value) -> Self {
        Self::One(value)
    }
}

impl From<Vec<u8>> for Results {
    fn from(bytes: Vec<u8>) -> Self {
        Self::One(Value::Bytes(bytes.into()))
    }
}

impl From<String> for Results {
    fn from(text: String) -> Self {
        text.into_bytes().into()
    }
}

impl From<i64> for Results {
    fn from(number: i64) -> Self {
        Self::One(Value::Integer(number))
    }
}

impl From<bool> for Results {
    fn from(is_so: bool) -> Self {
        Self::One(Value::Boolean(is_so))
    }
}
