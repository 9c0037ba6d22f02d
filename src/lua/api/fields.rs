//! Fields of the tables and userdata that handlers see.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::lua_State;

use super::module::Module;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::nearest::suggestion;

/// Raises for the unknown field at `key` of a module, one of `modules`.
pub(in crate::lua) unsafe fn unknown_of(
    state: *mut lua_State,
    shared: &Shared,
    key: c_int,
    module: &Module,
    modules: &[Module],
) -> c_int {
    // SAFETY: `attempt` raises after its closure has returned, and the names with it.
    unsafe {
        shared.attempt(state, || {
            Err(message(state, key, module.path, &module.fields(modules)))
        })
    }
}

/// Raises for the unknown field at `key` of `object`.
pub(in crate::lua) unsafe fn unknown(
    state: *mut lua_State,
    shared: &Shared,
    key: c_int,
    object: &str,
    fields: &[&str],
) -> c_int {
    // SAFETY: `attempt` raises after its closure has returned.
    unsafe { shared.attempt(state, || Err(message(state, key, object, fields))) }
}

unsafe fn message(state: *mut lua_State, key: c_int, object: &str, fields: &[&str]) -> String {
    // SAFETY: values are read, never converted in place.
    let (bytes, found) = unsafe { (bytes_at(state, key), type_name(state, key)) };
    let Some(bytes) = bytes else {
        return format!("a field of `{object}` is named by a string, not by {found}");
    };
    let name = String::from_utf8_lossy(bytes);
    let nearest = suggestion(&name, fields);
    let hint = match (object, &*name) {
        ("tide" | "ctx", "produce" | "send" | "emit") => "; `tide.kafka.send` sends records",
        ("ctx", "value" | "key" | "timestamp") => {
            "; the message is the first argument of a handler"
        }
        _ => "",
    };
    format!("`{object}` has no field `{name}`, {nearest}{hint}")
}
