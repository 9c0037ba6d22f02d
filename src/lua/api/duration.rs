//! Durations as handlers write them.

#![expect(unsafe_code, reason = "reads Lua values")]

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use crate::lua::stack::{bytes_at, type_name};

/// A number of milliseconds, or a string with a unit; else what was found.
pub(in crate::lua) unsafe fn at(state: *mut lua_State, index: c_int) -> Result<Duration, String> {
    // SAFETY: numbers and strings are read, never converted in place.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER => {
                let ms = ffi::lua_tonumber(state, index);
                Duration::try_from_secs_f64(ms / 1000.0).map_err(|_| format!("{ms}"))
            }
            ffi::LUA_TSTRING => {
                let text = String::from_utf8_lossy(bytes_at(state, index).unwrap_or_default());
                parse(&text).ok_or_else(|| format!("{text:?}"))
            }
            _ => Err(type_name(state, index).to_owned()),
        }
    }
}

pub(in crate::lua) fn parse(text: &str) -> Option<Duration> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().ok()?;
    let seconds = match unit.trim() {
        "ms" => number / 1000.0,
        "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return None,
    };
    Duration::try_from_secs_f64(seconds).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_have_a_unit() {
        assert_eq!(parse("250ms"), Some(Duration::from_millis(250)));
        assert_eq!(parse("1.5s"), Some(Duration::from_millis(1500)));
        assert_eq!(parse("2m"), Some(Duration::from_mins(2)));
        assert_eq!(parse("5"), None);
        assert_eq!(parse("s"), None);
        assert_eq!(parse("-5s"), None);
    }
}
