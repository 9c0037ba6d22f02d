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

/// Copies the value at `index`. Raises nothing.
pub(super) unsafe fn read(state: *mut lua_State, index: c_int) -> Result<Value, String> {
    // SAFETY: the caller's index is valid.
    unsafe { read_within(state, ffi::lua_absindex(state, index), DEPTH_MAX, &mut 0) }
}

unsafe fn read_within(
    state: *mut lua_State,
    index: c_int,
    depth: usize,
    values: &mut usize,
) -> Result<Value, String> {
    *values += 1;
    if *values > VALUES_MAX {
        return Err(format!("more than {VALUES_MAX} values"));
    }
    if values.is_multiple_of(STEPS) && hook::ends() {
        return Err("the call has ended".to_owned());
    }
    // SAFETY: nothing here converts in place, and `lua_next` gets only keys that it returned.
    unsafe {
        Ok(match ffi::lua_type(state, index) {
            ffi::LUA_TNIL => Value::Nil,
            ffi::LUA_TBOOLEAN => Value::Boolean(ffi::lua_toboolean(state, index) != 0),
            ffi::LUA_TNUMBER if ffi::lua_isinteger(state, index) != 0 => {
                Value::Integer(ffi::lua_tointeger(state, index))
            }
            ffi::LUA_TNUMBER => Value::Number(ffi::lua_tonumber(state, index)),
            ffi::LUA_TSTRING => Value::Bytes(bytes_at(state, index).unwrap_or_default().into()),
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
                        read_within(state, top - 1, depth - 1, values)?,
                        read_within(state, top, depth - 1, values)?,
                    ));
                    ffi::lua_settop(state, top - 1);
                }
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
                ffi::lua_createtable(state, 0, pairs.len() as c_int);
                for (key, value) in pairs {
                    push(state, key);
                    push(state, value);
                    ffi::lua_rawset(state, -3);
                }
            }
        }
    }
}
