//! `tide.error`: the kinds of errors that functions of `tide` raise as tables.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::nearest::suggestion;

pub(super) const MODULE: Module = Module {
    path: "tide.error",
    about: "The kinds of errors.",
    entries: &[Entry {
        name: "is",
        path: "tide.error.is",
        types: &[
            "Whether an error is of this kind.",
            "@param err any",
            "@param kind \"timeout\"|\"unreachable\"|\"refused\"|\"busy\"|\"closed\"|\"invalid\"|\"tooLarge\"|\"notFound\"|\"conflict\"|\"internal\"",
            "@return boolean",
        ],
        body: Body::C(is),
    }],
};

/// Every kind of an error.
const KINDS: [&str; 10] = [
    "timeout",
    "unreachable",
    "refused",
    "busy",
    "closed",
    "invalid",
    "tooLarge",
    "notFound",
    "conflict",
    "internal",
];

unsafe extern "C-unwind" fn is(state: *mut lua_State) -> c_int {
    // SAFETY: `attempt` raises after its closure has returned; raw access runs no code of the user.
    unsafe {
        ffi::lua_settop(state, 2);
        Shared::of(state).attempt(state, || {
            let Some(kind) = bytes_at(state, 2) else {
                let found = type_name(state, 2);
                return Err(format!("`tide.error.is` takes a kind, not {found}"));
            };
            if KINDS.iter().any(|one| one.as_bytes() == kind) {
                return Ok(0);
            }
            let kind = failure::cut(kind, 100);
            let nearest = suggestion(&kind, &KINDS);
            Err(format!("`tide.error.is` knows no kind `{kind}`, {nearest}"))
        });
        let mut is_kind = 0;
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            push_bytes(state, b"kind");
            ffi::lua_rawget(state, 1);
            is_kind = ffi::lua_rawequal(state, 2, 3);
        }
        ffi::lua_pushboolean(state, is_kind);
        1
    }
}
