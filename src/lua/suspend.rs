//! Waiting: a call asks the host for something, and its coroutine is suspended until the host answers.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::ptr;

use mlua::ffi::{self, lua_KFunction, lua_State};

use super::Wait;
use super::shared::{Shared, TOKEN};

/// Suspends the coroutine that runs, up to the host. `then` finds the answer on top of the stack.
pub(super) unsafe fn begin(
    state: *mut lua_State,
    shared: &Shared,
    wait: Wait,
    name: &str,
    then: lua_KFunction,
) -> c_int {
    // SAFETY: nothing with a destructor is pending when it yields or raises.
    unsafe {
        if ffi::lua_isyieldable(state) == 0
            || shared.walled.get()
            || shared.coroutine.get().is_null()
        {
            let loads = !shared.loading.borrow().is_empty();
            let place = if loads || shared.coroutine.get().is_null() {
                "at the top level of a file; call it from the handler or from init.lua's `start`"
            } else {
                "inside a callback of a C function (a sort, a gsub, a metamethod …)"
            };
            shared.raise(
                state,
                format!("`{name}` waits, which cannot be done {place}"),
            );
        }
        shared.wait.set(Some(wait));
        push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(then))
    }
}

pub(super) unsafe fn push_token(state: *mut lua_State) {
    // SAFETY: the address is only compared.
    unsafe { ffi::lua_pushlightuserdata(state, ptr::from_ref(&TOKEN).cast_mut().cast()) };
}

/// Whether the one value that a suspended coroutine yielded is the host's.
pub(super) unsafe fn is_token(state: *mut lua_State, results: c_int) -> bool {
    // SAFETY: as above.
    unsafe { results == 1 && ptr::eq(ffi::lua_touserdata(state, -1).cast(), ptr::from_ref(&TOKEN)) }
}
