//! The hook that ends a call: one that computes too long, or one that has given its verdict.
//!
//! The hook fires at every instruction of a state that must end. If the state can yield, the hook yields: the host
//! has control at once, no `pcall` catches it, and no message handler runs. Nothing resumes the suspended coroutine,
//! which still shows its position. If the state cannot yield (inside a callback of a C function), the hook raises an
//! error, again at each instruction. That ends when the state can yield or the whole call has unwound.

#![expect(unsafe_code, reason = "Lua's hooks")]

use std::ffi::c_int;
use std::sync::atomic::Ordering;

use mlua::ffi::{self, lua_Debug, lua_State};

use super::beat::Beat;
use super::failure;

/// Sets the hook. May be called from a signal handler.
pub(in crate::lua) unsafe fn set(state: *mut lua_State) {
    // SAFETY: the caller's state is alive.
    unsafe { ffi::lua_sethook(state, Some(end), ffi::LUA_MASKCOUNT, 1) };
}

pub(in crate::lua) unsafe fn clear(state: *mut lua_State) {
    // SAFETY: the caller's state is alive.
    unsafe { ffi::lua_sethook(state, None, 0, 0) };
}

/// Whether the watchdog has told the running slice of this thread to end.
pub(in crate::lua) fn killed() -> bool {
    Beat::current().is_some_and(Beat::killed)
}

/// Whether the running slice of this thread ends by its own verdict.
pub(in crate::lua) fn ends_by_verdict() -> bool {
    Beat::current().is_some_and(Beat::ends_by_verdict)
}

pub(in crate::lua) fn ends() -> bool {
    Beat::current().is_some_and(|beat| beat.killed() || beat.ends_by_verdict())
}

/// Marks the running slice: from now on it ends by its own verdict.
pub(in crate::lua) fn ask() {
    if let Some(beat) = Beat::current() {
        beat.set_ends_by_verdict(true);
    }
}

/// Closes `state`, which ended while its call ended by a verdict. Its `__close` methods run like all other code,
/// under the limit of the slice.
pub(in crate::lua) unsafe fn close_ending(
    state: *mut lua_State,
    from: *mut lua_State,
    status: c_int,
) {
    let Some(beat) = Beat::current() else { return };
    // A state that died of the hook's error never calls a hook again, so nothing could end a method that loops.
    let hookless = status != ffi::LUA_YIELD && beat.has_cut();
    if status == ffi::LUA_OK || hookless || beat.killed() {
        return;
    }
    beat.set_ends_by_verdict(false);
    let running = beat.running.swap(state, Ordering::Relaxed);
    // SAFETY: the state is suspended or dead, and its memory is valid: its resumer holds it.
    unsafe {
        clear(state);
        ffi::lua_closethread(state, from);
    }
    beat.running.store(running, Ordering::Relaxed);
    beat.set_ends_by_verdict(true);
}

unsafe extern "C-unwind" fn end(state: *mut lua_State, _: *mut lua_Debug) {
    if let Some(beat) = Beat::current().filter(|beat| beat.killed()) {
        // SAFETY: reads the stack of the running state.
        beat.note_position(|| unsafe { failure::position(state) }.unwrap_or_default());
    }
    // SAFETY: Lua calls this with its running state; no Rust value is pending when it yields or raises.
    unsafe {
        if !ends() {
            // The hook is left over from an earlier slice.
            clear(state);
        } else if ffi::lua_isyieldable(state) != 0 {
            ffi::lua_yieldk(state, 0, 0, None);
        } else {
            if let Some(beat) = Beat::current() {
                beat.set_cut();
            }
            raise(state, 0);
        }
    }
}

/// Continues to end the call in `state`, whose C function ran a deeper state that was told to end.
pub(in crate::lua) unsafe fn pass_on(state: *mut lua_State) -> c_int {
    // SAFETY: as in `end`.
    unsafe {
        set(state);
        if ffi::lua_isyieldable(state) != 0 {
            return ffi::lua_yieldk(state, 0, 0, None);
        }
        raise(state, 1)
    }
}

unsafe fn raise(state: *mut lua_State, level: c_int) -> ! {
    // SAFETY: pushes two strings and raises.
    unsafe {
        ffi::luaL_where(state, level);
        if !killed() {
            ffi::lua_pushstring(state, c"the call has ended".as_ptr());
            ffi::lua_concat(state, 2);
            ffi::lua_error(state);
        }
        let limit_ms = Beat::current().map_or(0, |beat| beat.limit().as_millis() as i64);
        ffi::lua_pushfstring(
            state,
            c"computed for more than %I ms without a pause (limits.blocking)".as_ptr(),
            limit_ms,
        );
        ffi::lua_concat(state, 2);
        ffi::lua_error(state)
    }
}
