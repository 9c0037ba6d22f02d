//! Fields of the tables and userdata that handlers see.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::lua_State;

use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::nearest::suggestion;

/// Raises for the unknown field at `key` of `object`.
pub(in crate::lua) unsafe fn unknown(
    state: *mut lua_State,
    shared: &Shared,
    key: c_int,
    object: &str,
    fields: &[&str],
) -> c_int {
    // SAFETY: `attempt` raises after its closure has returned.
    unsafe {
        shared.attempt(state, || {
            let Some(key) = bytes_at(state, key) else {
                return Err(format!(
                    "a field of `{object}` is named by a string, not by {}",
                    type_name(state, key)
                ));
            };
            let key = String::from_utf8_lossy(key);
            Err(format!(
                "`{object}` has no field `{key}`, {}",
                suggestion(&key, fields)
            ))
        })
    }
}
