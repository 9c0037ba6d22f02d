//! JSON's null in Lua code: errors about it say `null`, where Lua would say "a userdata value".

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, is_null, push_bytes, push_null};

/// Lua's name for the operation of each event.
const OPERATIONS: [(&CStr, &str); 21] = [
    (c"__index", "index"),
    (c"__newindex", "index"),
    (c"__call", "call"),
    (c"__concat", "concatenate"),
    (c"__len", "get length of"),
    (c"__lt", "compare"),
    (c"__le", "compare"),
    (c"__unm", ARITHMETIC),
    (c"__add", ARITHMETIC),
    (c"__sub", ARITHMETIC),
    (c"__mul", ARITHMETIC),
    (c"__div", ARITHMETIC),
    (c"__mod", ARITHMETIC),
    (c"__pow", ARITHMETIC),
    (c"__idiv", ARITHMETIC),
    (c"__band", BITWISE),
    (c"__bor", BITWISE),
    (c"__bxor", BITWISE),
    (c"__shl", BITWISE),
    (c"__shr", BITWISE),
    (c"__bnot", BITWISE),
];
const ARITHMETIC: &str = "perform arithmetic on";
const BITWISE: &str = "perform bitwise operation on";

/// Gives light userdata their metatable; the one that handlers meet is `tide.json.null`.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        push_null(state);
        ffi::lua_createtable(state, 0, OPERATIONS.len() as c_int + 3);
        for (event, operation) in OPERATIONS {
            push_bytes(state, operation.as_bytes());
            shared.push_function(state, refuse, 1);
            ffi::lua_setfield(state, -2, event.as_ptr());
        }
        shared.push_function(state, text, 0);
        ffi::lua_setfield(state, -2, c"__tostring".as_ptr());
        push_bytes(state, b"null");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_pop(state, 1);
    }
}

/// Raises with Lua's own message.
unsafe extern "C-unwind" fn refuse(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is a string; values are read, never converted in place.
    unsafe {
        let shared = Shared::of(state);
        shared.attempt(state, || {
            let operation = bytes_at(state, ffi::lua_upvalueindex(2)).unwrap_or_default();
            let operation = String::from_utf8_lossy(operation);
            let what = if is_null(state, 1) || is_null(state, 2) {
                "null (`tide.json.null`)"
            } else {
                "a userdata value"
            };
            let field = match bytes_at(state, 2) {
                Some(name) if operation == "index" => {
                    format!(" for its field '{}'", String::from_utf8_lossy(name))
                }
                _ => String::new(),
            };
            Err(format!("attempt to {operation} {what}{field}"))
        })
    }
}

unsafe extern "C-unwind" fn text(state: *mut lua_State) -> c_int {
    // SAFETY: reads a pointer.
    unsafe {
        if is_null(state, 1) {
            push_bytes(state, b"null");
        } else {
            ffi::lua_pushfstring(
                state,
                c"userdata: %p".as_ptr(),
                ffi::lua_touserdata(state, 1),
            );
        }
        1
    }
}
