//! Plain data: values that can be copied from one VM into another.

#![expect(unsafe_code, reason = "reads and pushes Lua values")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::stack::{bytes_at, is_null, push_bytes, push_null, type_name};
use super::vm::hook;
use crate::wait::Value;

/// Deeper tables are refused: they are most likely cycles.
const DEPTH_MAX: usize = 100;

/// More values are refused: a table that is reached by several paths is copied on each.
const VALUES_MAX: usize = 1_000_000;

/// Values between two checks of the watchdog.
const STEPS: usize = 256;

/// What a value costs beside the bytes of a string: its own, and those around it in a table.
const VALUE_BYTES: usize = 2 * size_of::<Value>();

/// What a copy has read so far.
struct Reading {
    values: usize,
    bytes: usize,
    most: usize,
}

impl Reading {
    fn add(&mut self, bytes: usize) -> Result<(), String> {
        self.bytes += bytes;
        if self.bytes > self.most {
            return Err(format!("more than {} bytes", self.most));
        }
        Ok(())
    }
}

/// Copies the value at `index`, of at most `most` bytes. Returns the copy and its bytes. Raises nothing.
pub(super) unsafe fn read(
    state: *mut lua_State,
    index: c_int,
    most: usize,
) -> Result<(Value, usize), String> {
    let mut reading = Reading {
        values: 0,
        bytes: 0,
        most,
    };
    // SAFETY: the caller's index is valid.
    let value = unsafe {
        let index = ffi::lua_absindex(state, index);
        read_within(state, index, DEPTH_MAX, &mut reading)?
    };
    Ok((value, reading.bytes))
}

unsafe fn read_within(
    state: *mut lua_State,
    index: c_int,
    depth: usize,
    reading: &mut Reading,
) -> Result<Value, String> {
    reading.values += 1;
    if reading.values > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    if reading.values.is_multiple_of(STEPS) && hook::ends() {
        return Err("the call has ended".to_owned());
    }
    reading.add(VALUE_BYTES)?;
    // SAFETY: nothing here converts in place, and `lua_next` gets only keys that it returned.
    unsafe {
        Ok(match ffi::lua_type(state, index) {
            ffi::LUA_TNIL => Value::Nil,
            ffi::LUA_TBOOLEAN => Value::Boolean(ffi::lua_toboolean(state, index) != 0),
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, index) != 0 => {
                Value::Integer(ffi::lua_tointeger(state, index))
            }
            ffi::LUA_TNUMBER => Value::Number(ffi::lua_tonumber(state, index)),
            ffi::LUA_TSTRING => {
                let bytes = bytes_at(state, index).unwrap_or_default();
                reading.add(bytes.len())?;
                Value::Bytes(bytes.into())
            }
            ffi::LUA_TLIGHTUSERDATA if is_null(state, index) => Value::Null,
            ffi::LUA_TTABLE => {
                if depth == 0 || ffi::lua_checkstack(state, 4) == 0 {
                    return Err(format!(
                        "a table within itself, or more than {DEPTH_MAX} deep"
                    ));
                }
                let mut pairs = Vec::new();
                ffi::lua_pushnil(state);
                while ffi::lua_next(state, index) != 0 {
                    let top = ffi::lua_gettop(state);
                    pairs.push((
                        read_within(state, top - 1, depth - 1, reading)?,
                        read_within(state, top, depth - 1, reading)?,
                    ));
                    ffi::lua_settop(state, top - 1);
                }
                pairs.shrink_to_fit();
                Value::Table(pairs)
            }
            _ => return Err(format!("{} cannot be copied", type_name(state, index))),
        })
    }
}

/// Pushes a copy of `value`. May raise; no Rust value is pending then.
pub(super) unsafe fn push(state: *mut lua_State, value: &Value) {
    // SAFETY: the caller keeps `value` alive, and the stack is checked at each level.
    unsafe {
        match value {
            Value::Nil => ffi::lua_pushnil(state),
            Value::Boolean(value) => ffi::lua_pushboolean(state, (*value).into()),
            Value::Integer(value) => ffi::lua_pushinteger(state, *value),
            Value::Number(value) => ffi::lua_pushnumber(state, *value),
            Value::Bytes(bytes) => push_bytes(state, bytes),
            Value::Null => push_null(state),
            Value::Table(pairs) => {
                ffi::luaL_checkstack(state, 4, std::ptr::null());
                let is_list = matches!(pairs.first(), Some((Value::Integer(1), _)));
                let (list, others) = if is_list {
                    (pairs.len(), 0)
                } else {
                    (0, pairs.len())
                };
                ffi::lua_createtable(state, list as c_int, others as c_int);
                for (key, value) in pairs {
                    push(state, key);
                    push(state, value);
                    ffi::lua_rawset(state, -3);
                }
            }
        }
    }
}
