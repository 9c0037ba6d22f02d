//! The failure of a call, in words.
//!
//! This code runs after the resume, when Lua's state may be out of memory or of stack. So every access to an error
//! value runs protected, on the main state, with a reserve of memory above the limit.

#![expect(unsafe_code, reason = "reads a dead coroutine's stack")]

use std::ffi::{CStr, c_int};
use std::mem::MaybeUninit;
use std::time::Duration;

use mlua::ffi::{self, lua_Debug, lua_State};

use super::hints;
use crate::lua::stack::{bytes_at, is_null, push_bytes, type_name};
use crate::lua::{Failure, FailureKind};

const NOT_ENOUGH_MEMORY: &[u8] = b"not enough memory";

/// Longer messages are cut: they go to logs and to headers.
pub(super) const MESSAGE_MAX: usize = 8 << 10;
const TRACEBACK_MAX: usize = 16 << 10;

pub(in crate::lua) struct Words {
    pub(in crate::lua) message: String,
    pub(in crate::lua) traceback: Option<String>,
}

impl Words {
    pub(in crate::lua) fn of(self, kind: FailureKind) -> Failure {
        Failure {
            kind,
            message: self.message,
            traceback: self.traceback,
        }
    }
}

/// Whether the value on top of `state` is Lua's own memory error. The handler may have raised it again, or a
/// coroutine passed it on; both put their places before it.
pub(in crate::lua) unsafe fn is_memory_error(state: *mut lua_State) -> bool {
    // SAFETY: reads the top of the stack.
    let text = unsafe { bytes_at(state, -1) };
    let Some(before) = text.and_then(|text| text.strip_suffix(NOT_ENOUGH_MEMORY)) else {
        return false;
    };
    let digits = before.strip_suffix(b": ").unwrap_or_default();
    before.is_empty() || digits.last().is_some_and(u8::is_ascii_digit)
}

/// Describes the error value on top of `state`, a coroutine; includes its stack on request.
pub(in crate::lua) unsafe fn describe(
    main: *mut lua_State,
    state: *mut lua_State,
    with_traceback: bool,
) -> Words {
    // SAFETY: a moved value allocates nothing; all else runs protected.
    unsafe {
        let traceback = if with_traceback {
            traceback(main, state)
        } else {
            None
        };
        if ffi::lua_checkstack(main, 8) == 0 {
            return words("an error that cannot be read: the stack is full");
        }
        // The value is copied: the `__close` methods that are still open get the value too.
        if ffi::lua_checkstack(state, 1) != 0 {
            ffi::lua_pushvalue(state, -1);
        }
        ffi::lua_xmove(state, main, 1);
        Words {
            traceback,
            ..describe_top(main)
        }
    }
}

/// Describes the error value on top of the main state, and pops it.
pub(in crate::lua) unsafe fn describe_top(main: *mut lua_State) -> Words {
    // SAFETY: a light C function allocates nothing; all else runs protected.
    unsafe {
        if ffi::lua_checkstack(main, 8) == 0 {
            return words("an error that cannot be read: the stack is full");
        }
        ffi::lua_pushcclosure(main, message_of, 0);
        ffi::lua_insert(main, -2);
        ffi::lua_pcall(main, 1, 1, 0);
        let message = text_at(main, MESSAGE_MAX);
        ffi::lua_pop(main, 1);
        Words {
            // `require` adds such a line for each empty search path.
            message: hints::explained(message.replace("\n\tno file ''", "")),
            traceback: None,
        }
    }
}

/// The position of the coroutine `state`, or its position when it failed.
pub(in crate::lua) unsafe fn traceback(
    main: *mut lua_State,
    state: *mut lua_State,
) -> Option<String> {
    // SAFETY: a light C function and a moved thread allocate nothing; all else runs protected.
    unsafe {
        if ffi::lua_checkstack(main, 8) == 0 || ffi::lua_checkstack(state, 1) == 0 {
            return None;
        }
        ffi::lua_pushcclosure(main, traceback_of, 0);
        ffi::lua_pushthread(state);
        ffi::lua_xmove(state, main, 1);
        let status = ffi::lua_pcall(main, 1, 1, 0);
        let text =
            (status == ffi::LUA_OK).then(|| without_own_frames(&text_at(main, TRACEBACK_MAX)));
        ffi::lua_pop(main, 1);
        text
    }
}

pub(in crate::lua) fn words(message: &str) -> Words {
    Words {
        message: message.to_owned(),
        traceback: None,
    }
}

pub(in crate::lua) fn too_long(limit: Duration) -> String {
    format!(
        "computed for more than {} ms without a pause (limits.blocking)",
        limit.as_millis()
    )
}

pub(in crate::lua) fn too_long_a_wait(place: Option<String>, max: Duration) -> Words {
    let place = place.map_or_else(String::new, |place| format!("{place}: "));
    words(&format!(
        "{place}takes more than {} s in a wait that holds every other message up",
        max.as_secs()
    ))
}

/// `memory` is the limit, in bytes.
pub(in crate::lua) fn out_of_memory(memory: usize) -> Words {
    let limit = [(30, "GiB"), (20, "MiB"), (10, "KiB"), (0, "B")]
        .iter()
        .find(|(bits, _)| memory.is_multiple_of(1 << bits))
        .map_or_else(String::new, |(bits, unit)| {
            format!("{} {unit}", memory >> bits)
        });
    words(&format!(
        "not enough memory: the vm has {limit} ([lua] memory)"
    ))
}

/// Whether an error of a file begins with the file: `handlers/orders.lua: `, or `…/rock.lua:12: ` outside of the
/// bundle. A text such as `prices.lua: No such file or directory` does not.
pub(in crate::lua) fn has_position(message: &str, folder: &str) -> bool {
    let line = message.lines().next().unwrap_or_default();
    let Some((path, rest)) = line.split_once(".lua:") else {
        return false;
    };
    let is_of_bundle = path
        .strip_prefix(folder)
        .is_some_and(|rest| rest.starts_with('/'));
    is_of_bundle
        || rest
            .trim_start_matches(|c: char| c.is_ascii_digit())
            .starts_with(':')
}

/// The string on top of `state`.
pub(in crate::lua) unsafe fn text_at(state: *mut lua_State, max: usize) -> String {
    // SAFETY: copied before it is popped.
    let bytes = unsafe { bytes_at(state, -1) };
    cut(
        bytes.unwrap_or(b"an error value whose `__tostring` fails"),
        max,
    )
}

/// At most `max` bytes of a text, in whole characters.
pub(in crate::lua) fn cut(bytes: &[u8], max: usize) -> String {
    let mut text = String::from_utf8_lossy(&bytes[..bytes.len().min(max)]).into_owned();
    if bytes.len() > max {
        text.push('…');
    }
    text
}

/// Takes one argument, an error value; returns one result, a string.
unsafe extern "C-unwind" fn message_of(state: *mut lua_State) -> c_int {
    // SAFETY: runs protected; plain data only.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE
            && ffi::luaL_getmetafield(state, 1, c"__tostring".as_ptr()) == 0
        {
            ffi::lua_pushstring(state, c"message".as_ptr());
            if matches!(
                ffi::lua_rawget(state, 1),
                ffi::LUA_TSTRING | ffi::LUA_TNUMBER
            ) {
                ffi::luaL_tolstring(state, -1, std::ptr::null_mut());
                return 1;
            }
            push_bytes(
                state,
                b"an error value that is a table, with neither `message` nor `__tostring`",
            );
            return 1;
        }
        ffi::lua_settop(state, 1);
        let has_own_text =
            !is_null(state, 1) && ffi::luaL_getmetafield(state, 1, c"__tostring".as_ptr()) != 0;
        if has_own_text || matches!(ffi::lua_type(state, 1), ffi::LUA_TSTRING | ffi::LUA_TNUMBER) {
            ffi::luaL_tolstring(state, 1, std::ptr::null_mut());
        } else {
            push_bytes(state, b"an error value that is ");
            push_bytes(state, type_name(state, 1).as_bytes());
            ffi::lua_concat(state, 2);
        }
        1
    }
}

/// Takes one argument, a state; returns one result, its traceback.
unsafe extern "C-unwind" fn traceback_of(state: *mut lua_State) -> c_int {
    // SAFETY: a thread on the stack is alive.
    unsafe {
        let of = ffi::lua_tothread(state, 1);
        if of.is_null() {
            return 0;
        }
        ffi::luaL_traceback(state, of, std::ptr::null(), 0);
        1
    }
}

/// `handlers/orders.lua:12` of the innermost Lua function of `state`.
pub(in crate::lua) unsafe fn position(state: *mut lua_State) -> Option<String> {
    let mut debug = MaybeUninit::<lua_Debug>::zeroed();
    // SAFETY: `lua_getstack` fills the fields that `lua_getinfo` needs; neither raises with valid options.
    unsafe {
        for level in 0.. {
            if ffi::lua_getstack(state, level, debug.as_mut_ptr()) == 0 {
                return None;
            }
            ffi::lua_getinfo(state, c"Sl".as_ptr(), debug.as_mut_ptr());
            let debug = debug.assume_init_ref();
            if debug.currentline > 0 {
                let source = CStr::from_ptr(debug.short_src.as_ptr()).to_string_lossy();
                return Some(format!("{source}:{}", debug.currentline));
            }
        }
    }
    None
}

/// Hands the source and the line of the Lua function behind the running one to `note`, or an empty source. A signal
/// handler may call this while the thread runs C code or a finalizer.
pub(in crate::lua) unsafe fn interrupted_position(
    state: *mut lua_State,
    note: impl FnOnce(&[u8], u64),
) {
    let mut debug = MaybeUninit::<lua_Debug>::zeroed();
    // SAFETY: the frames below the running one are complete, and nothing changes them while it runs. The running one
    // may be half made, so it counts only where it is the only one: the finalizer that the host's collection runs.
    // `lua_getstack` and `lua_getinfo` read, and neither allocates, locks or raises with these options.
    unsafe {
        let first = ffi::lua_getstack(state, 1, debug.as_mut_ptr());
        for level in first.. {
            if ffi::lua_getstack(state, level, debug.as_mut_ptr()) == 0 {
                return note(b"", 0);
            }
            ffi::lua_getinfo(state, c"Sl".as_ptr(), debug.as_mut_ptr());
            let debug = debug.assume_init_ref();
            if debug.currentline > 0 {
                let source = CStr::from_ptr(debug.short_src.as_ptr());
                return note(source.to_bytes(), debug.currentline as u64);
            }
        }
    }
}

/// Drops the lines of the C function at the bottom of every call.
fn without_own_frames(traceback: &str) -> String {
    let mut lines: Vec<&str> = traceback.lines().collect();
    while lines
        .last()
        .is_some_and(|line| line.trim_start().starts_with("[C]: in "))
        && lines.len() > 2
    {
        lines.pop();
    }
    lines.join("\n")
}
