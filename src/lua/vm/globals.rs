//! The functions of Lua's own libraries that a daemon must replace, and the reason for each.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::ptr;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::replaced::{self, Replaced, original};
use super::{hook, introspection};
use crate::lua::shared::Shared;
use crate::lua::stack::bytes_at;

const REPLACED: [Replaced; 9] = [
    (c"os", c"exit", exit),
    (c"os", c"execute", start_process),
    (c"os", c"setlocale", set_locale),
    (c"io", c"popen", start_process),
    (c"debug", c"sethook", set_hook),
    (c"_G", c"load", load),
    (c"_G", c"loadfile", load_file),
    (c"_G", c"dofile", do_file),
    (c"_G", c"xpcall", xpcall),
];

pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        replaced::install(state, shared, &REPLACED);
        replaced::install(state, shared, &introspection::REPLACED);
    }
}

unsafe extern "C-unwind" fn exit(state: *mut lua_State) -> c_int {
    let message = "`os.exit` would end the daemon with every message in flight; raise an error to fail this one, or set `onError = \"stop\"`";
    // SAFETY: `raise` takes the message away before it raises.
    unsafe { Shared::of(state).raise(state, message.to_owned()) }
}

/// `os.execute` and `io.popen`: the child process inherits no descriptor of the daemon. Exec closes the descriptors
/// that Rust opens in any case, but not librdkafka's pipes and the files of `io.open`.
unsafe extern "C-unwind" fn start_process(state: *mut lua_State) -> c_int {
    // SAFETY: changes a flag of descriptors. A kernel before 5.11 refuses, and the result is as in plain Lua.
    unsafe {
        libc::syscall(
            libc::SYS_close_range,
            3,
            libc::c_uint::MAX,
            libc::CLOSE_RANGE_CLOEXEC,
        );
        original(state)
    }
}

/// The locale belongs to the process: another decimal point would change the numbers of every VM.
unsafe extern "C-unwind" fn set_locale(state: *mut lua_State) -> c_int {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe {
        if ffi::lua_type(state, 1) > ffi::LUA_TNIL {
            Shared::of(state).raise(
                state,
                "`os.setlocale` would change the locale of every handler; without a locale it returns the present one"
                    .to_owned(),
            );
        }
        original(state)
    }
}

/// The only hook of a state is the watchdog's.
unsafe extern "C-unwind" fn set_hook(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe {
        Shared::of(state).raise(
            state,
            "`debug.sethook` is not available: `limits.blocking` needs the hook".to_owned(),
        )
    }
}

/// Raises if the mode at `index` excludes text chunks, and sets it to "t".
unsafe fn text_only(state: *mut lua_State, index: c_int) {
    // SAFETY: a C function of Lua.
    unsafe {
        if ffi::lua_gettop(state) < index {
            ffi::lua_settop(state, index);
        }
        if bytes_at(state, index).is_some_and(|mode| !mode.contains(&b't')) {
            Shared::of(state).raise(
                state,
                "precompiled chunks are not loaded, only text".to_owned(),
            );
        }
        ffi::lua_pushstring(state, c"t".as_ptr());
        ffi::lua_replace(state, index);
    }
}

unsafe extern "C-unwind" fn load(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        text_only(state, 3);
        original(state)
    }
}

unsafe extern "C-unwind" fn load_file(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        ffi::luaL_checklstring(state, 1, ptr::null_mut());
        text_only(state, 2);
        original(state)
    }
}

unsafe extern "C-unwind" fn do_file(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        let name = ffi::luaL_checklstring(state, 1, ptr::null_mut());
        ffi::lua_settop(state, 1);
        let status = ffi::luaL_loadfilex(state, name, c"t".as_ptr());
        if status != ffi::LUA_OK {
            if status != ffi::LUA_ERRSYNTAX {
                // An error within a file already has its place there.
                ffi::luaL_where(state, 1);
                ffi::lua_insert(state, -2);
                ffi::lua_concat(state, 2);
            }
            ffi::lua_error(state);
        }
        ffi::lua_callk(state, 0, ffi::LUA_MULTRET, 0, Some(done_file));
        done_file(state, ffi::LUA_OK, 0)
    }
}

unsafe extern "C-unwind" fn done_file(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the file's name lies below the results.
    unsafe { ffi::lua_gettop(state) - 1 }
}

/// Like Lua's own, but the message handler does not run for a call that is being ended: it could loop where no hook
/// fires.
unsafe extern "C-unwind" fn xpcall(state: *mut lua_State) -> c_int {
    // SAFETY: the steps of Lua's own `xpcall`.
    unsafe {
        let arguments = ffi::lua_gettop(state) - 2;
        ffi::luaL_checktype(state, 2, ffi::LUA_TFUNCTION);
        ffi::lua_pushvalue(state, 2);
        ffi::lua_pushcclosure(state, handle, 1);
        ffi::lua_replace(state, 2);
        ffi::lua_pushboolean(state, 1);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_rotate(state, 3, 2);
        let status = ffi::lua_pcallk(state, arguments, ffi::LUA_MULTRET, 2, 2, Some(finish));
        finish(state, status, 2)
    }
}

unsafe extern "C-unwind" fn handle(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua with the error value.
    unsafe {
        if !hook::ends() {
            ffi::lua_pushvalue(state, ffi::lua_upvalueindex(1));
            ffi::lua_insert(state, 1);
            ffi::lua_callk(state, ffi::lua_gettop(state) - 1, 1, 0, None);
        }
        1
    }
}

unsafe extern "C-unwind" fn finish(
    state: *mut lua_State,
    status: c_int,
    below: lua_KContext,
) -> c_int {
    // SAFETY: after a failure the error value lies on top.
    unsafe {
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            ffi::lua_pushboolean(state, 0);
            ffi::lua_pushvalue(state, -2);
            return 2;
        }
        ffi::lua_gettop(state) - below as c_int
    }
}
