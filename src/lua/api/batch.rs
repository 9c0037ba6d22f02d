//! Batches as handlers see them: the table of a batch, and the start of its call.
//!
//! A batch is a plain table with a metatable of the VM. A method is a closure over its batch, made at its first use;
//! it accepts `.` and `:` alike.

#![expect(unsafe_code, reason = "C functions for Lua")]

pub(in crate::lua) mod of_ctx;
mod open;

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_State};

use super::ctx;
use super::fields::unknown;
use super::message::{self, METATABLE};
use crate::lua::shared::{BatchFrame, Frame, Shared};
use crate::lua::stack::{bytes_at, push_bytes};

const BATCH: &CStr = c"moontide.batch";
const FIELDS: [&str; 9] = [
    "topic",
    "partition",
    "messages",
    "highWatermark",
    "firstOffset",
    "lastOffset",
    "isEmpty",
    "offsetLag",
    "offsetLagLow",
];
/// The first one of the methods among the fields.
const METHODS: usize = 4;

/// Makes the metatable of batches.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::luaL_newmetatable(state, BATCH.as_ptr());
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        shared.push_function(state, length, 0);
        ffi::lua_setfield(state, -2, c"__len".as_ptr());
        push_bytes(state, b"batch");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// Pushes the closure that starts the call of a batch. Its upvalues are those of the start of any other call.
pub(in crate::lua) unsafe fn push_entry(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe { message::push_start(state, shared, entry) };
}

unsafe extern "C-unwind" fn entry(state: *mut lua_State) -> c_int {
    // SAFETY: the host handed over a frame that lives until the resume returns. Nothing with a destructor is pending.
    unsafe {
        let shared = Shared::of(state);
        let frame: *const BatchFrame<'_> = shared.take_batch_frame();
        let Some(frame) = frame.as_ref() else {
            // Only `debug` finds this function.
            shared.raise(state, "a call is started by the host alone".to_owned());
        };
        let call = &frame.batch.call;
        let handler = shared.handlers.borrow()[call.listener];
        let topic = message::topic_of(state, shared, call.topic);
        // No message of its own, for `trace::carried` and for `ctx`.
        ffi::lua_pushnil(state);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, handler.reference.into());
        push_batch(state, shared, frame, topic);
        if handler.sees_ctx {
            let of_ctx = Frame { call, id: frame.id };
            let metatable = ffi::lua_upvalueindex(METATABLE);
            ctx::push(state, shared, &of_ctx, metatable, topic);
        }
        let arguments = 1 + c_int::from(handler.sees_ctx);
        ffi::lua_callk(state, arguments, 2, 0, Some(message::returned));
        message::returned(state, ffi::LUA_OK, 0)
    }
}

unsafe fn push_batch(state: *mut lua_State, shared: &Shared, frame: &BatchFrame<'_>, topic: c_int) {
    let batch = frame.batch;
    // SAFETY: a coroutine starts with room for twenty values.
    unsafe {
        ffi::lua_createtable(state, 0, METHODS as c_int);
        push_bytes(state, b"topic");
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, topic.into());
        ffi::lua_rawset(state, -3);
        push_bytes(state, b"partition");
        ffi::lua_pushinteger(state, batch.call.partition.into());
        ffi::lua_rawset(state, -3);
        push_bytes(state, b"highWatermark");
        ffi::lua_pushinteger(state, batch.high_watermark);
        ffi::lua_rawset(state, -3);
        push_bytes(state, b"messages");
        let count = c_int::try_from(batch.records.len()).unwrap_or(c_int::MAX);
        ffi::lua_createtable(state, count, 0);
        for (index, record) in batch.records.iter().enumerate() {
            message::push_message(state, shared, *record, batch.call.partition, topic);
            ffi::lua_rawseti(state, -2, index as i64 + 1);
        }
        ffi::lua_rawset(state, -3);
        ffi::luaL_setmetatable(state, BATCH.as_ptr());
    }
}

unsafe extern "C-unwind" fn length(state: *mut lua_State) -> c_int {
    // SAFETY: only the metatable has this function; `debug` may hand over any value.
    unsafe {
        ffi::lua_settop(state, 1);
        let length = if push_messages(state, 1) {
            ffi::lua_rawlen(state, -1) as i64
        } else {
            0
        };
        ffi::lua_pushinteger(state, length);
        1
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: as in `length`.
    unsafe {
        let shared = Shared::of(state);
        let name = bytes_at(state, 2).unwrap_or_default();
        let methods = &FIELDS[METHODS..];
        let Some(method) = methods.iter().position(|one| one.as_bytes() == name) else {
            return unknown(state, shared, 2, "batch", &FIELDS);
        };
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushinteger(state, method as i64);
        shared.push_function(state, call, 2);
        1
    }
}

/// Pushes the messages of the batch at `index`, if it still has them.
unsafe fn push_messages(state: *mut lua_State, index: c_int) -> bool {
    // SAFETY: a field is read without metamethods, of tables only.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TTABLE {
            return false;
        }
        push_bytes(state, b"messages");
        ffi::lua_rawget(state, index) == ffi::LUA_TTABLE
    }
}

/// A method of the batch that is the second upvalue; the third one is its index.
unsafe extern "C-unwind" fn call(state: *mut lua_State) -> c_int {
    // SAFETY: `index` makes the upvalues; values are read, never converted in place.
    unsafe {
        ffi::lua_settop(state, 0);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        let method = ffi::lua_tointegerx(state, ffi::lua_upvalueindex(3), std::ptr::null_mut());
        let count = if push_messages(state, 1) {
            ffi::lua_rawlen(state, 2) as i64
        } else {
            0
        };
        let offset = |place: i64| {
            if count == 0 || ffi::lua_rawgeti(state, 2, place) != ffi::LUA_TTABLE {
                return None;
            }
            push_bytes(state, b"offset");
            ffi::lua_rawget(state, -2);
            let mut is_whole = 0;
            let offset = ffi::lua_tointegerx(state, -1, &raw mut is_whole);
            (is_whole != 0).then_some(offset)
        };
        push_bytes(state, b"highWatermark");
        ffi::lua_rawget(state, 1);
        let last_known = ffi::lua_tointegerx(state, -1, std::ptr::null_mut()) - 1;
        match FIELDS[METHODS + usize::try_from(method).unwrap_or_default()] {
            "isEmpty" => ffi::lua_pushboolean(state, c_int::from(count == 0)),
            "firstOffset" => match offset(1) {
                Some(first) => ffi::lua_pushinteger(state, first),
                None => ffi::lua_pushnil(state),
            },
            "lastOffset" => {
                ffi::lua_pushinteger(state, offset(count).unwrap_or(last_known));
            }
            "offsetLag" => {
                let last = offset(count).unwrap_or(last_known);
                ffi::lua_pushinteger(state, (last_known - last).max(0));
            }
            _ => {
                let first = offset(1).unwrap_or(last_known);
                ffi::lua_pushinteger(state, (last_known - first).max(0));
            }
        }
        1
    }
}
