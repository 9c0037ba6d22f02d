//! `require "tide"`: what a handler can do beside its own call.

#![expect(unsafe_code, reason = "C functions for Lua")]

pub(crate) mod json;

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::fields::unknown;
use super::{app, duration};
use crate::lua::shared::Shared;
use crate::lua::stack::push_bytes;
use crate::lua::{Wait, suspend};

pub(in crate::lua) const FIELDS: [&str; 4] = ["app", "json", "now", "sleep"];

/// Makes the module and puts it where `require` finds it.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        shared.push_function(state, sleep, 0);
        ffi::lua_setfield(state, -2, c"sleep".as_ptr());
        shared.push_function(state, now, 0);
        ffi::lua_setfield(state, -2, c"now".as_ptr());
        json::push(state, shared);
        ffi::lua_setfield(state, -2, c"json".as_ptr());
        app::push(state);
        ffi::lua_setfield(state, -2, c"app".as_ptr());
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"tide");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, ffi::LUA_LOADED_TABLE);
        ffi::lua_insert(state, -2);
        ffi::lua_setfield(state, -2, c"tide".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua with a table and a key.
    unsafe { unknown(state, Shared::of(state), 2, "tide", &FIELDS) }
}

unsafe extern "C-unwind" fn now(state: *mut lua_State) -> c_int {
    // SAFETY: pushes one value.
    unsafe { ffi::lua_pushinteger(state, Shared::of(state).clock.wall_ms()) };
    1
}

unsafe extern "C-unwind" fn sleep(state: *mut lua_State) -> c_int {
    // SAFETY: the duration is read into plain data before anything is pending.
    unsafe {
        let shared = Shared::of(state);
        let mut duration = Duration::ZERO;
        shared.attempt(state, || {
            duration = duration::at(state, 1).map_err(|found| {
                format!("`tide.sleep` takes milliseconds or a duration such as \"5s\", \"250ms\" or \"1m\", not {found}")
            })?;
            Ok(0)
        });
        ffi::lua_settop(state, 0);
        suspend::begin(state, shared, Wait::Sleep(duration), "tide.sleep", slept)
    }
}

unsafe extern "C-unwind" fn slept(_: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    0
}
