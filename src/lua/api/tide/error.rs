//! `tide.error`: the errors that have a kind.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::suspend;
use crate::nearest::suggestion;
use crate::wait::KINDS;

pub(super) const MODULE: Module = Module {
    path: "tide.error",
    about: "Errors that have a kind.",
    entries: &[Entry {
        name: "is",
        path: "tide.error.is",
        types: &[
            "Tells whether `err` is an error of a function of `tide`, and of this kind.",
            "@param err any",
            "@param kind \"busy\"|\"closed\"|\"conflict\"|\"internal\"|\"invalid\"|\"notFound\"|\"refused\"|\"timeout\"|\"tooLarge\"|\"unknown\"|\"unreachable\"",
            "@return boolean",
        ],
        body: Body::C(is),
    }],
};

unsafe extern "C-unwind" fn is(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with plain data pending.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        ffi::luaL_checkstack(state, 4, std::ptr::null());
        shared.attempt(state, || {
            known(bytes_at(state, 2), type_name(state, 2)).map(|()| 0)
        });
        let is_it = suspend::kind_at(state, 1) == bytes_at(state, 2);
        ffi::lua_pushboolean(state, is_it.into());
        1
    }
}

/// A kind that does not exist would never match.
fn known(kind: Option<&[u8]>, found: &str) -> Result<(), String> {
    let Some(kind) = kind else {
        return Err(format!(
            "`tide.error.is` takes the name of a kind, not {found}"
        ));
    };
    if KINDS.iter().any(|one| one.as_bytes() == kind) {
        return Ok(());
    }
    let kind = String::from_utf8_lossy(kind);
    Err(format!(
        "`tide.error.is`: there is no kind `{kind}`, {}",
        suggestion(&kind, &KINDS)
    ))
}
