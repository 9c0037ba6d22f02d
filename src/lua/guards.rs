//! Guards: a function that holds something of the state of the process has a value to be closed on its stack.
//!
//! The guard gives back what is held when the function returns, raises, or is closed with its coroutine. A call that
//! the watchdog has ended is not closed, so the end of each call gives back what is left (`States::release_call`).

#![expect(unsafe_code, reason = "values on the stack of C functions")]

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use super::shared::Shared;
use super::stack::push_bytes;

const METATABLE: &CStr = c"moontide.lease";

/// Makes the metatable of guards.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        shared.push_function(state, closed, 0);
        ffi::lua_setfield(state, -2, c"__close".as_ptr());
        shared.push_function(state, closed, 0);
        ffi::lua_setfield(state, -2, c"__gc".as_ptr());
        push_bytes(state, b"tide.lease");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

/// Pushes a guard, still of nothing; it must be marked by `close_with` once it lies where it stays. Returns its number.
pub(super) unsafe fn push_guard(state: *mut lua_State, shared: &Shared) -> u64 {
    // SAFETY: a number is pending where Lua may raise.
    unsafe {
        let number = shared.states.next_number();
        let block = ffi::lua_newuserdatauv(state, size_of::<u64>(), 0).cast::<u64>();
        block.write(number);
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, -2);
        number
    }
}

/// The guard at `index` is closed with the function that runs.
pub(super) unsafe fn close_with(state: *mut lua_State, index: c_int) {
    // SAFETY: the value has a `__close`.
    unsafe { ffi::lua_toclose(state, index) };
}

/// The number of the guard at `index`; 0 for any other value, under which nothing is held.
pub(super) unsafe fn guard_at(state: *mut lua_State, index: c_int) -> u64 {
    // SAFETY: a full userdata of that size is read. Any number is acceptable: it only gives back.
    unsafe {
        let is_block = ffi::lua_type(state, index) == ffi::LUA_TUSERDATA
            && ffi::lua_rawlen(state, index) == size_of::<u64>();
        if is_block {
            *ffi::lua_touserdata(state, index).cast::<u64>()
        } else {
            0
        }
    }
}

unsafe extern "C-unwind" fn closed(state: *mut lua_State) -> c_int {
    // SAFETY: only the metatable of guards has this function.
    unsafe {
        let number = guard_at(state, 1);
        Shared::of(state).states.release(number);
        0
    }
}
