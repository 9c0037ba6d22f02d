//! `require "tide"`: the functions of a handler beside those of its own call.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod base64;
mod cache;
#[cfg(feature = "failpoints")]
mod echo;
mod env;
mod error;
mod form;
mod gzip;
mod hash;
mod hex;
mod http;
pub(crate) mod json;
pub(super) mod kafka;
pub(in crate::lua) mod kv;
pub(in crate::lua) mod limit;
mod log;
mod objects;
mod observers;
mod once;
pub(in crate::lua) mod options;
mod parallel;
mod random;
pub(in crate::lua) mod redis;
mod regex;
pub(in crate::lua) mod sql;
mod time;
mod timers;
mod url;

use std::ffi::c_int;
use std::ptr;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::module::{self, Body, Entry, Module};
use super::{app, duration, fields};
use crate::lua::at_once;
use crate::lua::shared::Shared;
use crate::lua::stack::{push_bytes, push_null};
use crate::lua::suspend;
use crate::wait::Wait;

const TIDE: Module = Module {
    path: "tide",
    about: "The library of handlers.",
    entries: &[
        timers::AFTER,
        Entry {
            name: "app",
            path: "tide.app",
            types: &["Attributes of the whole process.", "@type app"],
            body: Body::Value(|state, _| {
                // SAFETY: runs protected, after `app::install`.
                unsafe { app::push(state) }
            }),
        },
        cache::ENTRY,
        env::ENTRY,
        timers::EVERY,
        kv::ENTRY,
        limit::ENTRY,
        Entry {
            name: "now",
            path: "tide.now",
            types: &[
                "Returns the time of day in milliseconds since the epoch.",
                "@return integer",
            ],
            body: Body::C(now),
        },
        Entry {
            name: "null",
            path: "tide.null",
            types: &[
                "The null of JSON, and the value of a tombstone.",
                "@type lightuserdata",
            ],
            body: Body::Value(|state, _| {
                // SAFETY: runs protected.
                unsafe { push_null(state) }
            }),
        },
        observers::ON,
        once::ENTRY,
        parallel::ENTRY,
        redis::ENTRY,
        Entry {
            name: "sleep",
            path: "tide.sleep",
            types: &[
                "Suspends the handler for this long; other handlers run meanwhile.",
                "@param duration number|string milliseconds, or a string such as \"5s\"",
            ],
            body: Body::C(sleep),
        },
        sql::ENTRY,
    ],
};

/// **The one list of modules**, `tide` itself first.
pub(in crate::lua) const MODULES: &[Module] = &[
    TIDE,
    base64::MODULE,
    #[cfg(feature = "failpoints")]
    echo::MODULE,
    error::MODULE,
    gzip::MODULE,
    hash::MODULE,
    hex::MODULE,
    hash::HMAC,
    http::MODULE,
    json::MODULE,
    kafka::MODULE,
    kafka::ADMIN,
    log::MODULE,
    random::MODULE,
    regex::MODULE,
    time::MODULE,
    url::MODULE,
    random::UUID,
];

/// The type definitions of `tide` for `LuaLS`.
pub(in crate::lua) fn definitions() -> String {
    // `echo` is not available to users.
    let modules = MODULES.iter().filter(|module| module.path != "tide.echo");
    redis::definitions()
        + &kv::definitions()
        + limit::DEFINITIONS
        + sql::DEFINITIONS
        + &module::definitions(modules)
}

/// Makes the modules and registers `tide` for `require`.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        suspend::install(state);
        json::install(state, shared);
        timers::install(state, shared);
        kafka::install(state, shared);
        http::install(state, shared);
        redis::install(state, shared);
        regex::install(state, shared);
        kv::install(state, shared);
        limit::install(state, shared);
        sql::install(state, shared);
        for module in MODULES {
            push_module(state, shared, module);
            put_into_parent(state, module.path);
        }
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, ffi::LUA_LOADED_TABLE);
        ffi::lua_insert(state, -2);
        ffi::lua_setfield(state, -2, c"tide".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// Takes the table of a module from the stack, and makes it a field of its parent, `tide` below it or a module in that.
/// `tide` itself has none, and stays.
unsafe fn put_into_parent(state: *mut lua_State, path: &str) {
    let Some((parents, name)) = path.rsplit_once('.') else {
        return;
    };
    // SAFETY: runs protected. Metatables are bypassed, since they know only the fields of their own lists.
    unsafe {
        ffi::lua_pushvalue(state, -2);
        for parent in parents.split('.').skip(1) {
            push_bytes(state, parent.as_bytes());
            ffi::lua_rawget(state, -2);
            ffi::lua_remove(state, -2);
        }
        push_bytes(state, name.as_bytes());
        ffi::lua_pushvalue(state, -3);
        ffi::lua_rawset(state, -3);
        ffi::lua_pop(state, 2);
    }
}

/// Pushes the table of a module; an unknown field raises.
unsafe fn push_module(state: *mut lua_State, shared: &Shared, module: &'static Module) {
    // SAFETY: runs protected; the module is static.
    unsafe {
        ffi::lua_createtable(state, 0, module.entries.len() as c_int);
        for entry in module.entries {
            push_bytes(state, entry.name.as_bytes());
            match entry.body {
                Body::C(function) => shared.push_function(state, function, 0),
                Body::Now(_) => at_once::push_entry(state, shared, entry),
                Body::Outside(_) | Body::OutsideBetween { .. } => {
                    suspend::push_entry(state, shared, entry);
                }
                Body::Value(push) => push(state, shared),
            }
            ffi::lua_rawset(state, -3);
        }
        ffi::lua_createtable(state, 0, 2);
        ffi::lua_pushlightuserdata(state, ptr::from_ref(module).cast_mut().cast());
        shared.push_function(state, index, 1);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, module.path.as_bytes());
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: only `push_module` makes this closure; Lua calls it with a table and a key.
    unsafe {
        let module = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(2)).cast::<Module>();
        fields::unknown_of(state, Shared::of(state), 2, module, MODULES)
    }
}

unsafe extern "C-unwind" fn now(state: *mut lua_State) -> c_int {
    // SAFETY: pushes one value.
    unsafe { ffi::lua_pushinteger(state, Shared::of(state).clock.wall_ms()) };
    1
}

unsafe extern "C-unwind" fn sleep(state: *mut lua_State) -> c_int {
    // SAFETY: the duration is read into plain data before anything is pending.
    unsafe {
        let shared = Shared::of(state);
        let mut wait = Duration::ZERO;
        shared.attempt(state, || {
            wait = duration::at(state, 1).map_err(|found| {
                format!("`tide.sleep` takes {}, not {found}", crate::duration::FORM)
            })?;
            Ok(0)
        });
        ffi::lua_settop(state, 0);
        suspend::begin(state, shared, Wait::Sleep(wait), "tide.sleep", slept)
    }
}

unsafe extern "C-unwind" fn slept(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: takes the answer, which carries no data.
    unsafe { Shared::of(state) }.answer.take();
    0
}
