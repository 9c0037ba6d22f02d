//! `tide.log`: lines in the daemon's log from any code: init.lua, timers, and the top level of files.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::json;
use crate::log::{LINE_BYTES_MAX, cut, log};
use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::shared::Shared;
use crate::lua::stack::bytes_at;
use crate::lua::vm::failure;

macro_rules! level {
    ($name:literal, $function:ident) => {
        Entry {
            name: $name,
            path: concat!("tide.log.", $name),
            types: &[
                concat!("Logs a line of the level ", $name, "."),
                "@param message any",
                "@param fields? table",
            ],
            body: Body::C($function),
        }
    };
}

pub(super) const MODULE: Module = Module {
    path: "tide.log",
    about: "Lines in the log, outside of a call too.",
    entries: &[
        level!("debug", debug),
        level!("error", error),
        level!("info", info),
        level!("warn", warn),
    ],
};

struct Line<'a> {
    /// `handlers/init.lua:12`.
    position: Option<&'a str>,
    /// Of the running call of a message.
    listener: Option<&'a str>,
    topic: Option<&'a str>,
    partition: Option<i32>,
    offset: Option<i64>,
    fields: Option<&'a str>,
    message: &'a str,
}

/// The level of an event is part of its code.
macro_rules! functions {
    ($($level:ident)+) => {
        $(
            unsafe extern "C-unwind" fn $level(state: *mut lua_State) -> c_int {
                // SAFETY: a C function of Lua.
                unsafe {
                    with_line(state, |line| {
                        log!(
                            $level,
                            handler,
                            listener = line.listener,
                            topic = line.topic,
                            partition = line.partition,
                            offset = line.offset,
                            position = line.position,
                            fields = line.fields,
                            "{}",
                            line.message
                        );
                    })
                }
            }
        )+
    };
}

functions! { debug error info warn }

unsafe fn with_line(state: *mut lua_State, write: impl FnOnce(&Line<'_>)) -> c_int {
    // SAFETY: the message becomes a string first; nothing may raise while the line is written. `about` is that of the
    // running slice, which outlives this call.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        ffi::luaL_tolstring(state, 1, std::ptr::null_mut());
        let fields = match ffi::lua_type(state, 2) {
            ffi::LUA_TNIL => None,
            _ => json::encode(state, 2, json::Strictness::Log).ok(),
        };
        let fields = fields.as_deref().map(|fields| cut(fields, LINE_BYTES_MAX));
        let position = failure::position(state);
        let about = shared.about.get().as_ref();
        let about = about.filter(|_| shared.listener.get().is_some() && shared.call.get() != 0);
        write(&Line {
            position: position.as_deref(),
            listener: about.map(|about| about.listener),
            topic: about.map(|about| about.topic),
            partition: about.map(|about| about.partition),
            offset: about.map(|about| about.offset),
            fields: fields.as_deref(),
            message: &cut(bytes_at(state, 3).unwrap_or_default(), LINE_BYTES_MAX),
        });
    }
    0
}
