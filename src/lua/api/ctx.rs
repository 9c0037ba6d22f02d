//! `ctx`: the data and the methods of a handler's call.
//!
//! A ctx is a userdata of plain numbers with Lua values beside it, so that it needs no finalizer. A method is a
//! closure over its ctx, made at its first use. It accepts `.` and `:` alike, and raises when another call runs.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_CFunction, lua_State};

use super::batch::of_ctx;
use super::call::{Ctx, MESSAGE, OWN, block_at, enter, push_topic};
use super::fields::unknown;
use super::{app, commit, consumer, defer, emit, logger, trace, verdict};
use crate::lua::shared::Frame;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes};

/// The user values of a ctx, after its message.
const REQUEST_CONTEXT: c_int = 2;
const ATTRIBUTES: c_int = 3;
const TRACE: c_int = 4;

pub(in crate::lua) const FIELDS: [&str; 29] = [
    "topic",
    "partition",
    "message",
    "requestContext",
    "logger",
    "getLogger",
    "setAttr",
    "getAttr",
    "startTime",
    "attempt",
    "headers",
    "trace",
    "app",
    "commitOffsets",
    "emit",
    "defer",
    "consumer",
    "offset",
    "retry",
    "deadLetter",
    "skip",
    "resolveOffset",
    "failAt",
    "commitOffsetsIfNecessary",
    "uncommittedOffsets",
    "isRunning",
    "isStale",
    "heartbeat",
    "pause",
];

/// Pushes the metatable of all ctx of a VM.
pub(in crate::lua) unsafe fn push_metatable(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        shared.push_function(state, new_index, 0);
        ffi::lua_setfield(state, -2, c"__newindex".as_ptr());
        push_bytes(state, b"ctx");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
    }
}

/// Pushes the ctx of a call, whose message is the first value of the stack; a batch has nil there.
pub(in crate::lua) unsafe fn push(
    state: *mut lua_State,
    shared: &Shared,
    frame: &Frame<'_>,
    metatable: c_int,
    topic: c_int,
) {
    let call = frame.call;
    // SAFETY: the block is large enough for a `Ctx`, and Lua aligns it for any type.
    unsafe {
        let block = ffi::lua_newuserdatauv(state, size_of::<Ctx>(), TRACE).cast::<Ctx>();
        block.write(Ctx {
            call: frame.id,
            listener: call.listener,
            offset: call.record.offset(),
            partition: call.partition,
            topic,
            is_retry: call.is_retry,
            attempt: call.attempt,
            start_ms: shared.clock.coarse_wall_ms(),
        });
        ffi::lua_pushvalue(state, 1);
        ffi::lua_setiuservalue(state, -2, MESSAGE);
        ffi::lua_pushvalue(state, metatable);
        ffi::lua_setmetatable(state, -2);
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: only the metatable has this function, and Lua code cannot reach it; the first argument is a ctx.
    unsafe {
        let shared = Shared::of(state);
        let Some(ctx) = block_at(state, 1) else {
            // Only `debug` reaches this function.
            shared.raise(state, "this value is not a `ctx`".to_owned());
        };
        match bytes_at(state, 2).unwrap_or_default() {
            b"topic" => push_topic(state, &ctx),
            b"partition" => ffi::lua_pushinteger(state, ctx.partition.into()),
            b"offset" => ffi::lua_pushinteger(state, ctx.offset),
            b"message" => _ = ffi::lua_getiuservalue(state, 1, MESSAGE),
            b"requestContext" => push_own_table(state, 1, REQUEST_CONTEXT),
            b"startTime" => ffi::lua_pushinteger(state, ctx.start_ms),
            b"attempt" => ffi::lua_pushinteger(state, ctx.attempt.into()),
            b"logger" => {
                push_bytes(state, shared.listener_name(ctx.listener).as_bytes());
                logger::push(state, 1);
            }
            b"trace" => push_trace(state, shared),
            b"app" => app::push(state),
            b"consumer" => consumer::push_of_ctx(state, shared, &ctx),
            b"getLogger" => push_method(state, shared, get_logger),
            b"setAttr" => push_method(state, shared, set_attribute),
            b"getAttr" => push_method(state, shared, get_attribute),
            b"headers" => push_method(state, shared, headers),
            b"commitOffsets" => push_method(state, shared, commit::commit_offsets),
            b"emit" => push_method(state, shared, emit::emit),
            b"defer" => push_method(state, shared, defer::defer),
            b"retry" => push_method(state, shared, verdict::retry),
            b"deadLetter" => push_method(state, shared, verdict::dead_letter),
            b"skip" => push_method(state, shared, verdict::skip),
            b"resolveOffset" => push_method(state, shared, of_ctx::resolve_offset),
            b"failAt" => push_method(state, shared, of_ctx::fail_at),
            b"commitOffsetsIfNecessary" => push_method(state, shared, of_ctx::commit_if_necessary),
            b"uncommittedOffsets" => push_method(state, shared, of_ctx::uncommitted_offsets),
            b"isRunning" => push_method(state, shared, of_ctx::is_running),
            b"isStale" => push_method(state, shared, of_ctx::is_stale),
            b"heartbeat" => push_method(state, shared, of_ctx::heartbeat),
            b"pause" => push_method(state, shared, of_ctx::pause),
            _ => return unknown(state, shared, 2, "ctx", &FIELDS),
        }
        1
    }
}

unsafe extern "C-unwind" fn new_index(state: *mut lua_State) -> c_int {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe {
        let shared = Shared::of(state);
        shared.raise(
            state,
            "`ctx` cannot be changed; keep values in `ctx.requestContext` or by `ctx.setAttr`"
                .to_owned(),
        )
    }
}

/// Pushes the table at `value` of the userdata at `ctx`; the table is made at its first use.
unsafe fn push_own_table(state: *mut lua_State, ctx: c_int, value: c_int) {
    // SAFETY: the userdata has four values.
    unsafe {
        if ffi::lua_getiuservalue(state, ctx, value) == ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_pop(state, 1);
        ffi::lua_createtable(state, 0, 0);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setiuservalue(state, ctx, value);
    }
}

/// Pushes the trace context of the ctx, the first argument; the table is made at its first use.
unsafe fn push_trace(state: *mut lua_State, shared: &Shared) {
    // SAFETY: as in `push_own_table`.
    unsafe {
        if ffi::lua_getiuservalue(state, 1, TRACE) == ffi::LUA_TTABLE {
            return;
        }
        ffi::lua_pop(state, 1);
        ffi::lua_getiuservalue(state, 1, MESSAGE);
        trace::push(state, shared);
        ffi::lua_pushvalue(state, -1);
        ffi::lua_setiuservalue(state, 1, TRACE);
    }
}

unsafe fn push_method(state: *mut lua_State, shared: &Shared, method: lua_CFunction) {
    // SAFETY: the ctx is the first argument of `index`.
    unsafe {
        ffi::lua_pushvalue(state, 1);
        shared.push_function(state, method, 1);
    }
}

unsafe extern "C-unwind" fn get_logger(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe {
        enter(state);
        ffi::luaL_checklstring(state, 1, std::ptr::null_mut());
        ffi::lua_settop(state, 1);
        logger::push(state, OWN);
        1
    }
}

unsafe extern "C-unwind" fn set_attribute(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe {
        enter(state);
        ffi::luaL_checklstring(state, 1, std::ptr::null_mut());
        ffi::lua_settop(state, 2);
        push_own_table(state, OWN, ATTRIBUTES);
        ffi::lua_insert(state, 1);
        ffi::lua_rawset(state, 1);
        0
    }
}

unsafe extern "C-unwind" fn get_attribute(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe {
        enter(state);
        ffi::luaL_checklstring(state, 1, std::ptr::null_mut());
        ffi::lua_settop(state, 1);
        push_own_table(state, OWN, ATTRIBUTES);
        ffi::lua_insert(state, 1);
        ffi::lua_rawget(state, 1);
        1
    }
}

unsafe extern "C-unwind" fn headers(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe {
        let (shared, _) = enter(state);
        ffi::luaL_checklstring(state, 1, std::ptr::null_mut());
        if ffi::lua_getiuservalue(state, OWN, MESSAGE) == ffi::LUA_TNIL {
            shared.raise(
                state,
                "`ctx.headers` is for one message, and this is a batch; read `message.headers`"
                    .to_owned(),
            );
        }
        ffi::lua_getfield(state, -1, c"headers".as_ptr());
        ffi::lua_pushvalue(state, 1);
        let found = if ffi::lua_type(state, -2) == ffi::LUA_TTABLE {
            ffi::lua_rawget(state, -2)
        } else {
            ffi::LUA_TNIL
        };
        ffi::lua_createtable(state, 1, 0);
        match found {
            ffi::LUA_TNIL => {}
            ffi::LUA_TTABLE => {
                let length = ffi::lua_rawlen(state, -2) as i64;
                for i in 1..=length {
                    // Lua's length of a table with gaps may be any number.
                    if ffi::lua_rawgeti(state, -2, i) == ffi::LUA_TNIL {
                        ffi::lua_pop(state, 1);
                        break;
                    }
                    ffi::lua_rawseti(state, -2, i);
                }
            }
            _ => {
                ffi::lua_pushvalue(state, -2);
                ffi::lua_rawseti(state, -2, 1);
            }
        }
        1
    }
}
