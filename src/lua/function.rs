//! The Lua function of a listener, and what it wants to be called with.

#![expect(unsafe_code, reason = "asks Lua about a function")]

use std::ffi::{CStr, c_int};
use std::mem;
use std::ptr;

use mlua::ffi::{self, lua_State};

/// The Lua function of a listener.
#[derive(Clone, Copy)]
pub(super) struct Function {
    /// Its reference in the registry.
    pub(super) reference: c_int,
    /// Whether the function can read a second argument; if not, no `ctx` is made for it.
    pub(super) sees_ctx: bool,
    /// Whether the function is a method: it takes the message as `self`.
    pub(super) is_method: bool,
}

impl Function {
    /// Describes the function that `reference` refers to.
    pub(super) unsafe fn of(state: *mut lua_State, reference: c_int) -> Self {
        // SAFETY: the caller has stack room for the function. Nothing here allocates, and every field of `about` may
        // be 0 before the call.
        let (about, is_method) = unsafe {
            let mut about: ffi::lua_Debug = mem::zeroed();
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, reference.into());
            let first = ffi::lua_getlocal(state, ptr::null(), 1);
            let is_method = !first.is_null() && CStr::from_ptr(first) == c"self";
            ffi::lua_getinfo(state, c">u".as_ptr(), &raw mut about);
            (about, is_method)
        };
        Self {
            reference,
            // A C function reports that it takes any number of arguments.
            sees_ctx: about.nparams > 1 || about.isvararg != 0,
            is_method,
        }
    }
}
