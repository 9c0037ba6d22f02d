//! The response as a table: `status`, `headers`, `body`, and the methods `check` and `json`.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use super::super::json;
use crate::lua::api::fields::unknown;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::wait::http::Response;
use crate::wait::{Fault, Value};

const RESPONSE: &CStr = c"moontide.http.response";
const HEADERS: &CStr = c"moontide.http.headers";
const FIELDS: [&str; 5] = ["body", "check", "headers", "json", "status"];

/// Makes the metatables of responses and of their headers.
pub(in crate::lua::api::tide) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected, behind `json::install`.
    unsafe {
        ffi::luaL_newmetatable(state, RESPONSE.as_ptr());
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, check, 0);
        ffi::lua_setfield(state, -2, c"check".as_ptr());
        json::push_decoding(state, shared, decode);
        ffi::lua_setfield(state, -2, c"json".as_ptr());
        shared.push_function(state, method, 1);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_pop(state, 1);
        ffi::luaL_newmetatable(state, HEADERS.as_ptr());
        shared.push_function(state, header, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// The response as plain data. A header that repeats is a list.
pub(super) fn value(response: Response) -> Value {
    let text = |text: &str| Value::Bytes(text.as_bytes().into());
    let mut headers: Vec<(String, Vec<Value>)> = Vec::new();
    for (name, value) in response.headers {
        let value = Value::Bytes(value.into());
        match headers.iter_mut().find(|(known, _)| *known == name) {
            Some((_, values)) => values.push(value),
            None => headers.push((name, vec![value])),
        }
    }
    let headers = headers.into_iter().map(|(name, mut values)| {
        let value = match values.len() {
            1 => values.remove(0),
            _ => Value::Table((1..).map(Value::Integer).zip(values).collect()),
        };
        (text(&name), value)
    });
    Value::Table(vec![
        (text("status"), Value::Integer(response.status.into())),
        (text("headers"), Value::Table(headers.collect())),
        (text("body"), Value::Bytes(response.body.into())),
    ])
}

/// Makes the table on top of the stack a response.
pub(super) unsafe fn complete(state: *mut lua_State, _: &Shared) {
    // SAFETY: a C function of Lua; `value` made the table.
    unsafe {
        ffi::luaL_checkstack(state, 3, std::ptr::null());
        push_bytes(state, b"headers");
        if ffi::lua_rawget(state, -2) == ffi::LUA_TTABLE {
            ffi::luaL_setmetatable(state, HEADERS.as_ptr());
        }
        ffi::lua_pop(state, 1);
        ffi::luaL_setmetatable(state, RESPONSE.as_ptr());
    }
}

/// A field that the table itself does not have.
unsafe extern "C-unwind" fn method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key; the second upvalue is the table of methods.
    unsafe {
        ffi::lua_settop(state, 2);
        ffi::lua_pushvalue(state, 2);
        if ffi::lua_rawget(state, ffi::lua_upvalueindex(2)) != ffi::LUA_TNIL {
            return 1;
        }
        unknown(state, Shared::of(state), 2, "response", &FIELDS)
    }
}

/// A header by its name, whatever its case.
unsafe extern "C-unwind" fn header(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key. `push_owned` takes the name before anything may raise.
    unsafe {
        ffi::lua_settop(state, 2);
        let Some(name) = bytes_at(state, 2) else {
            return 0;
        };
        let name = name.to_ascii_lowercase();
        Shared::of(state).push_owned(state, name);
        ffi::lua_rawget(state, 1);
        1
    }
}

/// The response itself, or an error with its status from 400 on.
unsafe extern "C-unwind" fn check(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; the fault is in `shared` before anything raises.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        own_field(state, shared, c"status", "check");
        let status = ffi::lua_tointegerx(state, 2, std::ptr::null_mut());
        if status < 400 {
            ffi::lua_settop(state, 1);
            return 1;
        }
        let kind = match status {
            404 | 410 => "notFound",
            409 | 412 => "conflict",
            413 => "tooLarge",
            _ => "refused",
        };
        shared.fault.replace(Some(Fault {
            kind,
            message: format!("the response has the status {status}"),
            fields: vec![("status", Value::Integer(status))],
        }));
        suspend::raise(state, shared)
    }
}

/// The body as JSON.
unsafe extern "C-unwind" fn decode(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua with the upvalues of `json::decode`, which gets the body as its argument.
    unsafe {
        ffi::lua_settop(state, 1);
        own_field(state, Shared::of(state), c"body", "json");
        ffi::lua_remove(state, 1);
        json::decode(state)
    }
}

/// Pushes a field of the response at index 1, or raises.
unsafe fn own_field(state: *mut lua_State, shared: &Shared, name: &CStr, method: &str) {
    // SAFETY: a C function of Lua with one value on its stack.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            push_bytes(state, name.to_bytes());
            ffi::lua_rawget(state, 1);
            return;
        }
        let found = type_name(state, 1);
        shared.raise(
            state,
            format!(
                "`{method}` is a method of a response, as `response:{method}()`; it got {found}"
            ),
        );
    }
}
