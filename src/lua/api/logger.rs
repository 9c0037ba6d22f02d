//! `ctx.logger` and `print`: lines in the daemon's log, with the coordinates of the message.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::call::{Ctx, MESSAGE, block_at, push_topic};
use super::fields::unknown;
use super::tide::json;
use super::trace;
use crate::log::{LINE_BYTES_MAX, cut, log};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes};

const METATABLE: &std::ffi::CStr = c"moontide.logger";
const LEVELS: [&str; 4] = ["debug", "info", "warn", "error"];

/// The user values of a logger, whose block is a `Ctx`.
const NAME: c_int = 1;
/// The id of the message's trace; nil without one.
const TRACE: c_int = 2;

pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::luaL_newmetatable(state, METATABLE.as_ptr());
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"logger");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_pop(state, 1);
        shared.push_function(state, print, 0);
        ffi::lua_setglobal(state, c"print".as_ptr());
    }
}

/// Replaces the name on top of the stack with a logger of that name, with the coordinates of the ctx at `ctx`.
pub(in crate::lua) unsafe fn push(state: *mut lua_State, ctx: c_int) {
    // SAFETY: the block is a copy of the ctx's.
    unsafe {
        let coordinates = *ffi::lua_touserdata(state, ctx).cast::<Ctx>();
        let block = ffi::lua_newuserdatauv(state, size_of::<Ctx>(), TRACE).cast::<Ctx>();
        block.write(coordinates);
        ffi::lua_insert(state, -2);
        ffi::lua_setiuservalue(state, -2, NAME);
        ffi::lua_getiuservalue(state, ctx, MESSAGE);
        if let Some(id) = trace::id(state) {
            push_bytes(state, id.as_str().as_bytes());
            ffi::lua_setiuservalue(state, -2, TRACE);
        }
        ffi::luaL_setmetatable(state, METATABLE.as_ptr());
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: reads its arguments.
    unsafe {
        let shared = Shared::of(state);
        if block_at(state, 1).is_none() {
            // Only `debug` reaches this function with another value.
            shared.raise(state, "this value is not a logger".to_owned());
        }
        let level = match bytes_at(state, 2).unwrap_or_default() {
            b"debug" => 0,
            b"info" => 1,
            b"warn" => 2,
            b"error" => 3,
            _ => return unknown(state, shared, 2, "logger", &LEVELS),
        };
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushinteger(state, level);
        shared.push_function(state, log, 2);
        1
    }
}

const OWN: c_int = ffi::lua_upvalueindex(2);

/// Logs one line: a message of any type, and fields.
unsafe extern "C-unwind" fn log(state: *mut lua_State) -> c_int {
    // SAFETY: the upvalues are a logger and a level; nothing may raise while the line is written.
    unsafe {
        let shared = Shared::of(state);
        if ffi::lua_rawequal(state, 1, OWN) != 0 {
            ffi::lua_remove(state, 1);
        }
        let Some(coordinates) = block_at(state, OWN) else {
            return 0;
        };
        let level = ffi::lua_tointegerx(state, ffi::lua_upvalueindex(3), std::ptr::null_mut());
        ffi::lua_settop(state, 2);
        ffi::luaL_tolstring(state, 1, std::ptr::null_mut());
        ffi::lua_getiuservalue(state, OWN, NAME);
        push_topic(state, &coordinates);
        ffi::lua_getiuservalue(state, OWN, TRACE);
        let fields = match ffi::lua_type(state, 2) {
            ffi::LUA_TNIL => None,
            _ => json::encode(state, 2, json::Strictness::Log).ok(),
        };
        let fields = fields.as_deref().map(|fields| cut(fields, LINE_BYTES_MAX));
        let trace_id = bytes_at(state, 6).map(String::from_utf8_lossy);
        let line = Line {
            listener: shared.listener_name(coordinates.listener),
            topic: &text(state, 5),
            coordinates: &coordinates,
            logger: &text(state, 4),
            trace_id: trace_id.as_deref(),
            message: &text(state, 3),
            fields: fields.as_deref(),
        };
        line.write(level);
    }
    0
}

unsafe fn text<'a>(state: *mut lua_State, index: c_int) -> std::borrow::Cow<'a, str> {
    // SAFETY: the string stays on the stack while the line is written.
    let text = unsafe { bytes_at(state, index) }.unwrap_or_default();
    // The limit also holds for a line on its way to the log.
    cut(text, LINE_BYTES_MAX)
}

struct Line<'a> {
    listener: &'a str,
    topic: &'a str,
    coordinates: &'a Ctx,
    logger: &'a str,
    trace_id: Option<&'a str>,
    message: &'a str,
    fields: Option<&'a str>,
}

/// The level of an event is part of its code.
macro_rules! event {
    ($level:ident, $line:expr) => {
        log!(
            $level,
            handler,
            listener = $line.listener,
            topic = $line.topic,
            partition = $line.coordinates.partition,
            offset = $line.coordinates.offset,
            logger = $line.logger,
            trace_id = $line.trace_id,
            fields = $line.fields,
            "{}",
            $line.message
        )
    };
}

impl Line<'_> {
    fn write(&self, level: i64) {
        match level {
            0 => event!(debug, self),
            1 => event!(info, self),
            2 => event!(warn, self),
            _ => event!(error, self),
        }
    }
}

unsafe extern "C-unwind" fn print(state: *mut lua_State) -> c_int {
    // SAFETY: the arguments first become strings, in place; after that they are only read.
    unsafe {
        let arguments = ffi::lua_gettop(state);
        for i in 1..=arguments {
            ffi::luaL_tolstring(state, i, std::ptr::null_mut());
            ffi::lua_replace(state, i);
        }
        let words: Vec<_> = (1..=arguments).map(|i| text(state, i)).collect();
        log!(info, handler, "{}", words.join("\t"));
    }
    0
}
