//! The functions of Lua's `coroutine`, replaced so that the host's waits and the watchdog's kill pass through the
//! coroutines of a handler.
//!
//! When a coroutine waits for the host, the coroutine that resumed it waits too, down to the coroutine of the call.
//! The answer travels back the same way. Lua code sees only a resume that takes longer.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::beat::Beat;
use super::hook;
use crate::lua::shared::Shared;
use crate::lua::stack::push_bytes;
use crate::lua::suspend;

/// Lua's own error message.
const NOT_SUSPENDED: &str = "cannot resume non-suspended coroutine";

/// Replaces the functions of the global `coroutine`.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    let functions: [(&std::ffi::CStr, ffi::lua_CFunction); 5] = [
        (c"resume", resume),
        (c"wrap", wrap),
        (c"close", close),
        (c"status", status),
        (c"yield", yield_),
    ];
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_getglobal(state, c"coroutine".as_ptr());
        for (name, function) in functions {
            ffi::lua_getfield(state, -1, name.as_ptr());
            shared.push_function(state, function, 1);
            ffi::lua_setfield(state, -2, name.as_ptr());
        }
        ffi::lua_pop(state, 1);
    }
}

/// Records which state runs, until the next such record.
pub(in crate::lua) fn running(state: *mut lua_State) {
    if let Some(beat) = Beat::current() {
        beat.running.store(state, Ordering::Relaxed);
    }
}

/// The coroutine at `index`, which must belong to Lua code and not to the host.
unsafe fn own(state: *mut lua_State, shared: &Shared, index: c_int) -> *mut lua_State {
    // SAFETY: as in any C function.
    unsafe {
        let inner = ffi::lua_tothread(state, index);
        if inner.is_null() {
            ffi::luaL_checktype(state, index, ffi::LUA_TTHREAD);
        }
        let host = shared.hosts.borrow().contains(&inner);
        if host {
            shared.raise(
                state,
                "a handler's own coroutine cannot be resumed or closed".to_owned(),
            );
        }
        inner
    }
}

/// Whether `inner` waits for the host. For Lua code such a coroutine has not yielded yet.
fn is_held(shared: &Shared, inner: *mut lua_State) -> bool {
    shared.held.borrow().contains_key(&inner)
}

/// The result of a resume: a number of results on top of the outer stack, or an error value.
enum Resumed {
    Results(c_int),
    Failed,
}

/// Resumes `inner` with the topmost `arguments` of `outer`. When `inner` waits for the host or is killed, this does
/// not return: `outer` is suspended in turn, and `then` continues.
unsafe fn drive(
    outer: *mut lua_State,
    shared: &Shared,
    inner: *mut lua_State,
    arguments: c_int,
    then: ffi::lua_KFunction,
) -> Resumed {
    // SAFETY: the steps of Lua's own `auxresume`; nothing with a destructor is pending at a yield.
    unsafe {
        shared.held.borrow_mut().remove(&inner);
        if ffi::lua_checkstack(inner, arguments + 1) == 0 {
            push_bytes(outer, b"too many arguments to resume");
            return Resumed::Failed;
        }
        ffi::lua_xmove(outer, inner, arguments);
        let before = shared.cannot_yield_through.get();
        shared
            .cannot_yield_through
            .set(before || ffi::lua_isyieldable(outer) == 0);
        running(inner);
        let mut results = 0;
        let status = ffi::lua_resume(inner, outer, arguments, &raw mut results);
        running(outer);
        shared.cannot_yield_through.set(before);
        if hook::ends_by_verdict() {
            hook::close_ending(inner, outer, status);
        }
        if hook::ends() {
            hook::pass_on(outer);
        }
        match status {
            ffi::LUA_YIELD if suspend::is_token(inner, results) => {
                ffi::lua_pop(inner, 1);
                shared.hold(inner);
                suspend::push_token(outer);
                ffi::lua_yieldk(outer, 1, 0, Some(then));
                Resumed::Results(0)
            }
            ffi::LUA_OK | ffi::LUA_YIELD => {
                if ffi::lua_checkstack(outer, results + 1) == 0 {
                    ffi::lua_pop(inner, results);
                    push_bytes(outer, b"too many results to resume");
                    return Resumed::Failed;
                }
                ffi::lua_xmove(inner, outer, results);
                Resumed::Results(results)
            }
            _ => {
                ffi::lua_xmove(inner, outer, 1);
                Resumed::Failed
            }
        }
    }
}

unsafe extern "C-unwind" fn resume(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        let shared = Shared::of(state);
        let inner = own(state, shared, 1);
        if is_held(shared, inner) {
            ffi::lua_pushboolean(state, 0);
            push_bytes(state, NOT_SUSPENDED.as_bytes());
            return 2;
        }
        resume_on(state, ffi::LUA_OK, 0)
    }
}

/// The first value of the stack is the coroutine. The values above it are passed in: the arguments, or the host's
/// answer.
unsafe extern "C-unwind" fn resume_on(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: `own` checked the first value.
    unsafe {
        let inner = ffi::lua_tothread(state, 1);
        match drive(
            state,
            Shared::of(state),
            inner,
            ffi::lua_gettop(state) - 1,
            resume_on,
        ) {
            Resumed::Results(results) => {
                ffi::lua_pushboolean(state, 1);
                ffi::lua_insert(state, -(results + 1));
                results + 1
            }
            Resumed::Failed => {
                ffi::lua_pushboolean(state, 0);
                ffi::lua_insert(state, -2);
                2
            }
        }
    }
}

unsafe extern "C-unwind" fn wrap(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        ffi::luaL_checktype(state, 1, ffi::LUA_TFUNCTION);
        let inner = ffi::lua_newthread(state);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_xmove(state, inner, 1);
        Shared::of(state).push_function(state, wrapped, 1);
        1
    }
}

unsafe extern "C-unwind" fn wrapped(state: *mut lua_State) -> c_int {
    // SAFETY: as in `wrapped_on`.
    unsafe {
        let shared = Shared::of(state);
        let inner = ffi::lua_tothread(state, ffi::lua_upvalueindex(2));
        if is_held(shared, inner) {
            shared.raise(state, NOT_SUSPENDED.to_owned());
        }
        wrapped_on(state, ffi::LUA_OK, 0)
    }
}

unsafe extern "C-unwind" fn wrapped_on(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the second upvalue is the coroutine that `wrap` made.
    unsafe {
        let inner = ffi::lua_tothread(state, ffi::lua_upvalueindex(2));
        match drive(
            state,
            Shared::of(state),
            inner,
            ffi::lua_gettop(state),
            wrapped_on,
        ) {
            Resumed::Results(results) => results,
            Resumed::Failed => raise_from(state, inner),
        }
    }
}

/// Closes the failed coroutine and raises its error in `state`; an error that is a string gets the position.
unsafe fn raise_from(state: *mut lua_State, inner: *mut lua_State) -> c_int {
    // SAFETY: the steps of Lua's own `auxwrap`.
    unsafe {
        let mut status = ffi::lua_status(inner);
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            running(inner);
            status = ffi::lua_closethread(inner, state);
            running(state);
            if hook::ends() {
                return hook::pass_on(state);
            }
            ffi::lua_xmove(inner, state, 1);
        }
        if status != ffi::LUA_ERRMEM && ffi::lua_type(state, -1) == ffi::LUA_TSTRING {
            ffi::luaL_where(state, 1);
            ffi::lua_insert(state, -2);
            ffi::lua_concat(state, 2);
        }
        ffi::lua_error(state)
    }
}

/// Lua's own `close`. It runs the coroutine's `__close` methods on that coroutine.
unsafe extern "C-unwind" fn close(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is the original function, which gets its usual arguments.
    unsafe {
        let shared = Shared::of(state);
        let inner = own(state, shared, 1);
        if is_held(shared, inner) {
            shared.raise(state, "cannot close a normal coroutine".to_owned());
        }
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_insert(state, 1);
        running(inner);
        let status = ffi::lua_pcall(state, ffi::lua_gettop(state) - 1, ffi::LUA_MULTRET, 0);
        running(state);
        if hook::ends() {
            return hook::pass_on(state);
        }
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_gettop(state)
    }
}

/// Lua's own `status`, which would report `suspended` for a coroutine that waits for the host.
unsafe extern "C-unwind" fn status(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is the original.
    unsafe {
        let inner = ffi::lua_tothread(state, 1);
        if !inner.is_null() && is_held(Shared::of(state), inner) {
            push_bytes(state, b"normal");
            return 1;
        }
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_insert(state, 1);
        ffi::lua_callk(state, ffi::lua_gettop(state) - 1, 1, 0, None);
        1
    }
}

/// Lua's own `yield`, which raises in the coroutine of the call: only the host resumes that one.
unsafe extern "C-unwind" fn yield_(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        let shared = Shared::of(state);
        let is_host = state == shared.coroutine.get()
            || ffi::lua_isyieldable(state) == 0 && shared.hosts.borrow().contains(&state);
        if is_host {
            shared.raise(
                state,
                "attempt to yield from outside a coroutine; to wait, use `tide.sleep`".to_owned(),
            );
        }
        ffi::lua_yieldk(state, ffi::lua_gettop(state), 0, None)
    }
}
