//! `tide.redis`: commands to Redis servers, whose reply a handler waits for.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod arguments;
mod methods;
mod starting;

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::objects::{self, Objects};
use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::nearest::nearest;

use arguments::Shape;
pub(in crate::lua) use methods::ROWS;
pub(super) use methods::definitions;
use starting::{Function, start};

pub(super) const ENTRY: Entry = Entry {
    name: "redis",
    path: "tide.redis",
    types: &[
        "Returns a Redis server of `[redis]`, with its commands as methods.",
        "@param name string",
        "@return tide.Redis",
    ],
    body: Body::C(named),
};

/// The functions beside the commands.
const OTHERS: &[Entry] = &[
    Entry {
        name: "call",
        path: "redis:call",
        types: &[],
        body: Body::Outside(|caller, values| start(&CALL, caller, values, arguments::call)),
    },
    Entry {
        name: "pipeline",
        path: "redis:pipeline",
        types: &[],
        body: Body::Outside(|caller, values| start(&PIPELINE, caller, values, arguments::pipeline)),
    },
    Entry {
        name: "script",
        path: "redis:script",
        types: &[],
        body: Body::Outside(|caller, values| start(&SCRIPT, caller, values, arguments::script)),
    },
];

const CALL: Function = Function {
    path: "redis:call",
    job: "redis.call",
    shape: Shape::Plain,
};
const PIPELINE: Function = Function {
    path: "redis:pipeline",
    job: "redis.pipeline",
    shape: Shape::Plain,
};
const SCRIPT: Function = Function {
    path: "redis:script",
    job: "redis.script",
    shape: Shape::Plain,
};

const SERVERS: Objects = Objects {
    path: "tide.redis",
    article: "a Redis server",
    table: "redis",
    metatable: c"moontide.redis",
    made: c"moontide.redis.made",
    push_methods,
    unknown_method,
};

/// Makes the metatable of servers.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe { objects::install(state, shared, &SERVERS) }
}

/// The server of this name, which a VM makes once.
unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with nothing pending.
    unsafe {
        let shared = Shared::of(state);
        let servers = &shared.config.redis;
        objects::named(state, shared, &SERVERS, &|| {
            servers.iter().map(|one| one.name.clone()).collect()
        })
    }
}

unsafe fn push_methods(state: *mut lua_State, shared: &Shared) {
    // SAFETY: a table is on top, and the name at index 1.
    unsafe {
        for entry in ROWS.iter().map(|row| &row.entry).chain(OTHERS) {
            push_bytes(state, entry.name.as_bytes());
            ffi::lua_pushvalue(state, 1);
            suspend::push_bound_entry(state, shared, entry);
            ffi::lua_rawset(state, -3);
        }
    }
}

unsafe extern "C-unwind" fn unknown_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key; `attempt` raises after its closure has returned.
    unsafe {
        let shared = Shared::of(state);
        shared.attempt(state, || {
            Err(no_method(bytes_at(state, 2), type_name(state, 2)))
        })
    }
}

/// Any command that is no method is a `call`.
fn no_method(name: Option<&[u8]>, found: &str) -> String {
    let Some(name) = name else {
        return format!("a method of `tide.redis` is named by a string, not by {found}");
    };
    let name = String::from_utf8_lossy(name);
    let others = OTHERS.iter().map(|entry| entry.name);
    let names = ROWS.iter().map(|row| row.method.name).chain(others);
    let is_word = name
        .bytes()
        .all(|byte| byte.is_ascii_alphanumeric() || b"._".contains(&byte));
    let meant =
        nearest(&name, names).map_or_else(String::new, |near| format!(", did you mean `{near}`?"));
    let call = if is_word && name.len() <= 40 {
        format!(
            "(any command is possible as `:call(\"{}\", ...)`)",
            name.to_ascii_uppercase()
        )
    } else {
        "(any command is possible as `:call(name, ...)`)".to_owned()
    };
    let name = name.escape_debug();
    format!("`tide.redis` has no method `{name}`{meant} {call}")
}
