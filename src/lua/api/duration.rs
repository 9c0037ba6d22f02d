//! Durations as handlers write them.

#![expect(unsafe_code, reason = "reads Lua values")]

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use crate::duration;
use crate::lua::stack::{bytes_at, type_name};

/// Reads a number of milliseconds, or a string with a unit; an error describes the value.
pub(in crate::lua) unsafe fn at(state: *mut lua_State, index: c_int) -> Result<Duration, String> {
    // SAFETY: numbers and strings are read, never converted in place.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER => {
                let ms = ffi::lua_tonumber(state, index);
                duration::of_ms(ms).ok_or_else(|| format!("{ms}"))
            }
            ffi::LUA_TSTRING => {
                let text = String::from_utf8_lossy(bytes_at(state, index).unwrap_or_default());
                duration::parse(&text).ok_or_else(|| format!("{text:?}"))
            }
            _ => Err(type_name(state, index).to_owned()),
        }
    }
}
