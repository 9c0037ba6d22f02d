//! The stack of a Lua state: bytes, type names and the outermost function, without a conversion in place.

#![expect(unsafe_code, reason = "Lua's C API")]

use std::ffi::c_int;
use std::mem::MaybeUninit;
use std::ptr;
use std::slice;

use mlua::ffi::{self, lua_State};

/// JSON's null is the address of this byte: a light userdata, since Lua's tables keep no nil.
static NULL: u8 = 0;

/// Pushes JSON's null.
pub(in crate::lua) unsafe fn push_null(state: *mut lua_State) {
    // SAFETY: the address is only compared.
    unsafe { ffi::lua_pushlightuserdata(state, ptr::from_ref(&NULL).cast_mut().cast()) };
}

/// Pushes a copy of the table at `index`, a positive index.
pub(in crate::lua) unsafe fn push_copy(state: *mut lua_State, index: c_int) {
    // SAFETY: fields are read without metamethods; a failed allocation raises with plain data pending.
    unsafe {
        ffi::luaL_checkstack(state, 4, ptr::null());
        ffi::lua_createtable(state, 0, 8);
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, index) != 0 {
            ffi::lua_pushvalue(state, -2);
            ffi::lua_insert(state, -2);
            ffi::lua_rawset(state, -4);
        }
    }
}

pub(in crate::lua) unsafe fn is_null(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: reads a pointer.
    unsafe {
        ptr::eq(
            ffi::lua_touserdata(state, index).cast(),
            ptr::from_ref(&NULL),
        )
    }
}

/// Pushes a string of these bytes.
pub(in crate::lua) unsafe fn push_bytes(state: *mut lua_State, bytes: &[u8]) {
    // SAFETY: Lua copies the bytes.
    unsafe { ffi::lua_pushlstring(state, bytes.as_ptr().cast(), bytes.len()) };
}

/// The bytes of the string at `index`, valid while the string is on the stack.
pub(in crate::lua) unsafe fn bytes_at<'a>(state: *mut lua_State, index: c_int) -> Option<&'a [u8]> {
    // SAFETY: the string has this many bytes.
    unsafe { string_at(state, index).map(|(start, length)| slice::from_raw_parts(start, length)) }
}

/// The start of the string at `index`, and its length; a zero byte follows the string.
pub(in crate::lua) unsafe fn string_at(
    state: *mut lua_State,
    index: c_int,
) -> Option<(*const u8, usize)> {
    // SAFETY: called only for strings, so that nothing is converted in place.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TSTRING {
            return None;
        }
        let mut length = 0;
        let start = ffi::lua_tolstring(state, index, &raw mut length);
        Some((start.cast(), length))
    }
}

/// The name of the type at `index`, for error messages.
pub(in crate::lua) unsafe fn type_name(state: *mut lua_State, index: c_int) -> &'static str {
    // SAFETY: reads a tag.
    match unsafe { ffi::lua_type(state, index) } {
        ffi::LUA_TNONE => "no value",
        ffi::LUA_TNIL => "nil",
        ffi::LUA_TBOOLEAN => "a boolean",
        ffi::LUA_TNUMBER => "a number",
        ffi::LUA_TSTRING => "a string",
        ffi::LUA_TTABLE => "a table",
        ffi::LUA_TFUNCTION => "a function",
        ffi::LUA_TTHREAD => "a coroutine",
        // SAFETY: reads a pointer.
        ffi::LUA_TLIGHTUSERDATA if unsafe { is_null(state, index) } => "null",
        _ => "a userdata",
    }
}

/// Pushes on `state` the first value of the outermost function of a coroutine, or nil: the coroutine is `state` itself,
/// or waits until it ends, or is null. There is room for the value on `state`. Raises nothing.
pub(in crate::lua) unsafe fn push_outermost(state: *mut lua_State, coroutine: *mut lua_State) {
    // SAFETY: by the contract. A level that is found describes a function of the coroutine that has not ended.
    unsafe {
        let mut outermost = MaybeUninit::<ffi::lua_Debug>::zeroed().assume_init();
        let mut has = |level| {
            !coroutine.is_null() && ffi::lua_getstack(coroutine, level, &raw mut outermost) != 0
        };
        // Each look walks the whole way, so that the last level is found by halves.
        let (mut last, mut beyond) = (-1, 1);
        while has(beyond - 1) {
            (last, beyond) = (beyond - 1, beyond * 2);
        }
        while beyond - last > 1 {
            let middle = last + (beyond - last) / 2;
            if has(middle) {
                last = middle;
            } else {
                beyond = middle;
            }
        }
        if last < 0
            || ffi::lua_getstack(coroutine, last, &raw mut outermost) == 0
            || ffi::lua_checkstack(coroutine, 1) == 0
            || ffi::lua_getlocal(coroutine, &raw const outermost, 1).is_null()
        {
            return ffi::lua_pushnil(state);
        }
        if coroutine != state {
            ffi::lua_xmove(coroutine, state, 1);
        }
    }
}
