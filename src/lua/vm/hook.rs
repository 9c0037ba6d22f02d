//! How a call ends that computes too long, or that has said what becomes of its message.
//!
//! The hook fires at every instruction of a state that was told to end. Where the state can yield, it yields: control
//! is back in the host at once, no `pcall` catches it, no message handler runs, and the suspended coroutine, which
//! nobody resumes, still shows where it was. Elsewhere (inside a C function's callback) it raises, again at each
//! instruction, until it stands where it can yield or the whole call has unwound.

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

/// Whether the watchdog told what runs on this thread to end.
pub(in crate::lua) fn killed() -> bool {
    Beat::current().is_some_and(Beat::killed)
}

/// Whether what runs on this thread ends because it asked for it.
pub(in crate::lua) fn ends_by_verdict() -> bool {
    Beat::current().is_some_and(Beat::ends_by_verdict)
}

pub(in crate::lua) fn ends() -> bool {
    Beat::current().is_some_and(|beat| beat.killed() || beat.ends_by_verdict())
}

/// From here on what runs is to end.
pub(in crate::lua) fn ask() {
    if let Some(beat) = Beat::current() {
        beat.set_ends_by_verdict(true);
    }
}

/// Closes `state`, which ended on the way out of a call that asked for it: its `__close` methods run as any code does,
/// under the limit of the slice.
pub(in crate::lua) unsafe fn close_ending(
    state: *mut lua_State,
    from: *mut lua_State,
    status: c_int,
) {
    let Some(beat) = Beat::current() else { return };
    // A state that died of the hook's error never calls a hook again: nothing could end a method that loops.
    let hookless = status != ffi::LUA_YIELD && beat.has_cut();
    if status == ffi::LUA_OK || hookless || beat.killed() {
        return;
    }
    beat.set_ends_by_verdict(false);
    let running = beat.running.swap(state, Ordering::Relaxed);
    // SAFETY: the state is suspended or dead, and alive: whoever resumed it holds it.
    unsafe {
        clear(state);
        ffi::lua_closethread(state, from);
    }
    beat.running.store(running, Ordering::Relaxed);
    beat.set_ends_by_verdict(true);
}

unsafe extern "C-unwind" fn end(state: *mut lua_State, _: *mut lua_Debug) {
    if let Some(beat) = Beat::current().filter(|beat| beat.killed()) {
        // SAFETY: reads the stack of the state that runs.
        beat.note_position(|| unsafe { failure::position(state) }.unwrap_or_default());
    }
    // SAFETY: Lua calls this with its running state; nothing of Rust's is pending when it yields or raises.
    unsafe {
        if !ends() {
            // Left over from a slice that is gone.
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

/// Goes on ending the call in `state`, a C function of which a deeper state was told to end.
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
