//! Functions of Lua's own libraries, replaced by functions of Moontide that may call the original.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_CFunction, lua_State};

use crate::lua::shared::Shared;

/// A global table, a name in it, and the function that replaces it.
pub(in crate::lua) type Replaced = (&'static CStr, &'static CStr, lua_CFunction);

/// Each function gets the original as its second upvalue.
pub(in crate::lua) unsafe fn install(
    state: *mut lua_State,
    shared: &Shared,
    functions: &[Replaced],
) {
    // SAFETY: runs protected.
    unsafe {
        for (table, name, function) in functions {
            ffi::lua_getglobal(state, table.as_ptr());
            ffi::lua_getfield(state, -1, name.as_ptr());
            shared.push_function(state, *function, 1);
            ffi::lua_setfield(state, -2, name.as_ptr());
            ffi::lua_pop(state, 1);
        }
    }
}

/// Calls the original with unchanged arguments.
pub(in crate::lua) unsafe fn original(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is a function.
    unsafe {
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_insert(state, 1);
        ffi::lua_callk(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET, 0, None);
        ffi::lua_gettop(state)
    }
}
