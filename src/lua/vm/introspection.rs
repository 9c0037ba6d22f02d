//! `debug`, without access to the values of C functions.
//!
//! The C functions of the host and of Lua's libraries trust their upvalues, their stacks, the registry and the
//! metatables of userdata. Another value there ends the process. So Lua code can read and change only those of Lua
//! functions.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;

use mlua::ffi::{self, lua_Debug, lua_State};

use super::replaced::{Replaced, original};
use crate::lua::shared::Shared;

pub(in crate::lua) const REPLACED: [Replaced; 6] = [
    (c"debug", c"getupvalue", upvalue),
    (c"debug", c"setupvalue", upvalue),
    (c"debug", c"getlocal", get_local),
    (c"debug", c"setlocal", set_local),
    (c"debug", c"setmetatable", set_metatable),
    (c"debug", c"getregistry", get_registry),
];

/// Like Lua's own, but a C function has no upvalues.
unsafe extern "C-unwind" fn upvalue(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        if ffi::lua_iscfunction(state, 1) != 0 {
            return 0;
        }
        original(state)
    }
}

/// A frame of the stack, as the arguments of `getlocal` and `setlocal` name it.
struct Frame {
    of: *mut lua_State,
    /// The number of arguments before the level: the coroutine, if one is named.
    before: c_int,
    debug: lua_Debug,
    is_c: bool,
}

/// Raises if the level does not exist.
unsafe fn frame_at(state: *mut lua_State) -> Frame {
    // SAFETY: `lua_getstack` fills the fields that `lua_getinfo` needs; only plain data is pending when this raises.
    unsafe {
        let thread = ffi::lua_tothread(state, 1);
        let (of, before) = if thread.is_null() {
            (state, 0)
        } else {
            (thread, 1)
        };
        let level = ffi::luaL_checkinteger(state, before + 1);
        let mut debug = MaybeUninit::<lua_Debug>::zeroed();
        let is_level = c_int::try_from(level)
            .is_ok_and(|level| ffi::lua_getstack(of, level, debug.as_mut_ptr()) != 0);
        if !is_level {
            ffi::luaL_argerror(state, before + 1, c"level out of range".as_ptr());
        }
        ffi::lua_getinfo(of, c"S".as_ptr(), debug.as_mut_ptr());
        let debug = debug.assume_init();
        let is_c = CStr::from_ptr(debug.what) == c"C";
        Frame {
            of,
            before,
            debug,
            is_c,
        }
    }
}

/// Like Lua's own, but the frame of a C function has no locals.
unsafe extern "C-unwind" fn get_local(state: *mut lua_State) -> c_int {
    // SAFETY: the steps of Lua's own `getlocal`.
    unsafe {
        let named = if ffi::lua_isthread(state, 1) != 0 {
            2
        } else {
            1
        };
        if ffi::lua_type(state, named) == ffi::LUA_TFUNCTION {
            return original(state);
        }
        let variable = ffi::luaL_checkinteger(state, named + 1) as c_int;
        let frame = frame_at(state);
        if frame.is_c || ffi::lua_checkstack(frame.of, 1) == 0 {
            ffi::lua_pushnil(state);
            return 1;
        }
        let name = ffi::lua_getlocal(frame.of, &raw const frame.debug, variable);
        if name.is_null() {
            ffi::lua_pushnil(state);
            return 1;
        }
        ffi::lua_xmove(frame.of, state, 1);
        ffi::lua_pushstring(state, name);
        ffi::lua_insert(state, -2);
        2
    }
}

/// Like Lua's own, but the frame of a C function has no locals.
unsafe extern "C-unwind" fn set_local(state: *mut lua_State) -> c_int {
    // SAFETY: the steps of Lua's own `setlocal`.
    unsafe {
        let frame = frame_at(state);
        let variable = ffi::luaL_checkinteger(state, frame.before + 2) as c_int;
        ffi::luaL_checkany(state, frame.before + 3);
        ffi::lua_settop(state, frame.before + 3);
        if frame.is_c || ffi::lua_checkstack(frame.of, 1) == 0 {
            ffi::lua_pushnil(state);
            return 1;
        }
        ffi::lua_xmove(state, frame.of, 1);
        let name = ffi::lua_setlocal(frame.of, &raw const frame.debug, variable);
        if name.is_null() {
            ffi::lua_pop(frame.of, 1);
        }
        ffi::lua_pushstring(state, name);
        1
    }
}

/// The metatable of a userdata gives its type: Lua's own libraries check nothing else.
unsafe extern "C-unwind" fn set_metatable(state: *mut lua_State) -> c_int {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe {
        if matches!(
            ffi::lua_type(state, 1),
            ffi::LUA_TUSERDATA | ffi::LUA_TLIGHTUSERDATA
        ) {
            Shared::of(state).raise(
                state,
                "`debug.setmetatable` cannot change the metatable of a userdata, which is its type"
                    .to_owned(),
            );
        }
        original(state)
    }
}

unsafe extern "C-unwind" fn get_registry(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        Shared::of(state).raise(
            state,
            "`debug.getregistry` is not available: the daemon keeps its coroutines there"
                .to_owned(),
        )
    }
}
