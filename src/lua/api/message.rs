//! Conversion of a record to a handler's arguments, and of the handler's results to an outcome.
//!
//! `entry` is the bottom of every call's coroutine. The resume protects it. It makes the message table through the C
//! API with key strings that were made once, and calls the handler so that the handler may yield.

#![expect(unsafe_code, reason = "the hot path is Lua's C API")]

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_CFunction, lua_KContext, lua_State};

use super::ctx;
use crate::lua::plain;
use crate::lua::shared::Frame;
use crate::lua::shared::Shared;
use crate::lua::stack::push_bytes;
use crate::message::Record;

/// Upvalues of `entry`, after `Shared`.
pub(super) const METATABLE: c_int = 2;
const TOPIC: c_int = 3;
const PARTITION: c_int = 4;
const OFFSET: c_int = 5;
const KEY: c_int = 6;
const VALUE: c_int = 7;
const TIMESTAMP: c_int = 8;
const HEADERS: c_int = 9;
/// The names of the upvalues from `TOPIC` on.
const NAMES: [&str; 7] = [
    "topic",
    "partition",
    "offset",
    "key",
    "value",
    "timestamp",
    "headers",
];

/// Pushes the closure that starts a call.
pub(in crate::lua) unsafe fn push_entry(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe { push_start(state, shared, entry) };
}

/// Pushes a closure that starts calls.
pub(super) unsafe fn push_start(state: *mut lua_State, shared: &Shared, start: lua_CFunction) {
    // SAFETY: runs protected, with room for ten values.
    unsafe {
        ctx::push_metatable(state, shared);
        for name in NAMES {
            push_bytes(state, name.as_bytes());
        }
        shared.push_function(state, start, 1 + NAMES.len() as c_int);
    }
}

unsafe extern "C-unwind" fn entry(state: *mut lua_State) -> c_int {
    // SAFETY: the host handed over a frame that lives until the resume returns. Nothing with a destructor is pending.
    unsafe {
        let shared = Shared::of(state);
        let frame: *const Frame<'_> = shared.take_frame();
        let Some(frame) = frame.as_ref() else {
            // Only `debug` finds this function.
            shared.raise(state, "a call is started by the host alone".to_owned());
        };
        let call = frame.call;
        let handler = shared.handlers.borrow()[call.listener];
        let topic = topic_of(state, shared, call.topic);
        // The first value of this frame is where `trace::carried` finds the message.
        push_message(state, shared, call.record, call.partition, topic);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, handler.reference.into());
        ffi::lua_pushvalue(state, 1);
        if handler.sees_ctx {
            ctx::push(
                state,
                shared,
                frame,
                ffi::lua_upvalueindex(METATABLE),
                topic,
            );
        }
        let arguments = 1 + c_int::from(handler.sees_ctx);
        ffi::lua_callk(state, arguments, 2, 0, Some(returned));
        returned(state, ffi::LUA_OK, 0)
    }
}

/// The C function that starts a tick or a function of init.lua, without arguments.
pub(in crate::lua) unsafe fn push_hook(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe { shared.push_function(state, hook, 0) };
}

unsafe extern "C-unwind" fn hook(state: *mut lua_State) -> c_int {
    // SAFETY: the host handed over a function of the registry. Nothing with a destructor is pending.
    unsafe {
        let shared = Shared::of(state);
        let function = shared.take_hook();
        if function == ffi::LUA_NOREF {
            // Only `debug` finds this function.
            shared.raise(
                state,
                "a tick or an observer is started by the host alone".to_owned(),
            );
        }
        // No message, for `trace::carried`.
        ffi::lua_pushnil(state);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, function.into());
        let mut arguments = 0;
        if let Some(argument) = shared.keep_argument() {
            plain::push(state, &*argument);
            shared.release_plain();
            arguments = 1;
        }
        ffi::lua_callk(state, arguments, 2, 0, Some(returned));
        returned(state, ffi::LUA_OK, 0)
    }
}

/// Returns one result for a failure, the error value; none for a done call.
pub(super) unsafe extern "C-unwind" fn returned(
    state: *mut lua_State,
    _: c_int,
    _: lua_KContext,
) -> c_int {
    // SAFETY: the two results of the handler lie on top.
    unsafe {
        c_int::from(ffi::lua_toboolean(state, -2) == 0 && ffi::lua_type(state, -1) != ffi::LUA_TNIL)
    }
}

/// The key strings are upvalues of the running function, which `push_start` has made.
#[inline]
pub(super) unsafe fn push_message(
    state: *mut lua_State,
    shared: &Shared,
    record: &dyn Record,
    partition: i32,
    topic: c_int,
) {
    // SAFETY: a coroutine starts with room for twenty values; each key is an upvalue of the running function.
    unsafe {
        ffi::lua_createtable(state, 0, NAMES.len() as c_int);
        let name = |field: c_int| ffi::lua_pushvalue(state, ffi::lua_upvalueindex(field));
        let set = || ffi::lua_rawset(state, -3);
        name(TOPIC);
        ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, topic.into());
        set();
        name(PARTITION);
        ffi::lua_pushinteger(state, partition.into());
        set();
        name(OFFSET);
        ffi::lua_pushinteger(state, record.offset());
        set();
        // A nil field needs no entry in a new table.
        for (field, bytes) in [(KEY, record.key()), (VALUE, record.value())] {
            if let Some(bytes) = bytes {
                name(field);
                push_bytes(state, bytes);
                set();
            }
        }
        let timestamp = record.timestamp_ms();
        if timestamp != -1 {
            name(TIMESTAMP);
            ffi::lua_pushinteger(state, timestamp);
            set();
        }
        name(HEADERS);
        push_headers(state, shared, record);
        set();
    }
}

/// The registry reference to a topic's name. The messages of a lane share their `Arc`, so it is looked up once.
pub(super) unsafe fn topic_of(state: *mut lua_State, shared: &Shared, topic: &Arc<str>) -> c_int {
    if let Some((last, reference)) = &*shared.topic.borrow()
        && Arc::ptr_eq(last, topic)
    {
        return *reference;
    }
    let known = shared.topics.borrow().get(topic).copied();
    let reference = if let Some(reference) = known {
        reference
    } else {
        // SAFETY: nothing is borrowed while this may raise.
        let reference = unsafe {
            push_bytes(state, topic.as_bytes());
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX)
        };
        let mut topics = shared.topics.borrow_mut();
        topics.insert(Arc::clone(topic), reference);
        reference
    };
    shared.topic.replace(Some((Arc::clone(topic), reference)));
    reference
}

/// Pushes a table from name to value, or to a list of values if the name repeats. A null header becomes an empty
/// string.
unsafe fn push_headers(state: *mut lua_State, shared: &Shared, record: &dyn Record) {
    // A `longjmp` must not jump over the record's code. So its headers are copied first: name and value, each after
    // its size.
    {
        let mut scratch = shared.headers.borrow_mut();
        scratch.clear();
        record.headers(&mut |name, value| {
            for bytes in [name, value.unwrap_or_default()] {
                scratch.extend_from_slice(&bytes.len().to_ne_bytes());
                scratch.extend_from_slice(bytes);
            }
        });
    }
    // SAFETY: the buffer belongs to `shared`, and nothing changes it before the loop ends.
    unsafe {
        ffi::lua_createtable(state, 0, 0);
        let mut rest: &[u8] = &*shared.headers.as_ptr();
        while !rest.is_empty() {
            let name = take(&mut rest);
            let value = take(&mut rest);
            push_bytes(state, name);
            ffi::lua_pushvalue(state, -1);
            match ffi::lua_rawget(state, -3) {
                ffi::LUA_TNIL => {
                    ffi::lua_pop(state, 1);
                    push_bytes(state, value);
                    ffi::lua_rawset(state, -3);
                }
                ffi::LUA_TTABLE => {
                    push_bytes(state, value);
                    let next = ffi::lua_rawlen(state, -2) + 1;
                    ffi::lua_rawseti(state, -2, next as i64);
                    ffi::lua_pop(state, 2);
                }
                _ => {
                    ffi::lua_createtable(state, 2, 0);
                    ffi::lua_insert(state, -2);
                    ffi::lua_rawseti(state, -2, 1);
                    push_bytes(state, value);
                    ffi::lua_rawseti(state, -2, 2);
                    ffi::lua_rawset(state, -3);
                }
            }
        }
    }
}

fn take<'a>(rest: &mut &'a [u8]) -> &'a [u8] {
    const SIZE: usize = size_of::<usize>();
    let mut size = [0; SIZE];
    size.copy_from_slice(&rest[..SIZE]);
    let end = SIZE + usize::from_ne_bytes(size);
    let taken = &rest[SIZE..end];
    *rest = &rest[end..];
    taken
}
