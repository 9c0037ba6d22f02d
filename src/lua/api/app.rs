//! `app`: attributes of the whole process, over all workers and bundles.
//!
//! Attributes are plain data and are copied, so that no VM ever sees another VM's values.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::fields::unknown;
use crate::lua::attributes::BYTES_MAX;
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes};

const FIELDS: [&str; 2] = ["getAttr", "setAttr"];
const REGISTRY: &std::ffi::CStr = c"moontide.app";

/// Makes the table of `ctx.app` and `tide.app`.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, set, 0);
        ffi::lua_setfield(state, -2, c"setAttr".as_ptr());
        shared.push_function(state, get, 0);
        ffi::lua_setfield(state, -2, c"getAttr".as_ptr());
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"app");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, REGISTRY.as_ptr());
    }
}

/// Pushes that table.
pub(in crate::lua) unsafe fn push(state: *mut lua_State) {
    // SAFETY: `install` put it there.
    unsafe { ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, REGISTRY.as_ptr()) };
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua with a table and a key.
    unsafe { unknown(state, Shared::of(state), 2, "app", &FIELDS) }
}

/// Drops a first argument that is the app itself, and checks the key.
unsafe fn enter(state: *mut lua_State, arguments: c_int) {
    // SAFETY: plain stack work.
    unsafe {
        push(state);
        if ffi::lua_gettop(state) > 1 && ffi::lua_rawequal(state, 1, -1) != 0 {
            ffi::lua_remove(state, 1);
        }
        ffi::lua_pop(state, 1);
        ffi::luaL_checklstring(state, 1, std::ptr::null_mut());
        ffi::lua_settop(state, arguments);
    }
}

unsafe extern "C-unwind" fn set(state: *mut lua_State) -> c_int {
    // SAFETY: reading plain data raises nothing.
    unsafe {
        enter(state, 2);
        let shared = Shared::of(state);
        shared.attempt(state, || {
            let key: Box<[u8]> = bytes_at(state, 1).unwrap_or_default().into();
            let (value, bytes) = plain::read(state, 2, BYTES_MAX)
                .map_err(|reason| format!("`app.setAttr` takes plain data: {reason}"))?;
            shared.app.set(key, value, bytes)?;
            Ok(0)
        })
    }
}

unsafe extern "C-unwind" fn get(state: *mut lua_State) -> c_int {
    // SAFETY: `shared` keeps the value during its push, so nothing is pending if memory ends.
    unsafe {
        enter(state, 1);
        let shared = Shared::of(state);
        let value = shared.app.get(bytes_at(state, 1).unwrap_or_default());
        let Some(value) = shared.keep_plain(value) else {
            ffi::lua_pushnil(state);
            return 1;
        };
        plain::push(state, &*value);
        shared.release_plain();
        1
    }
}
