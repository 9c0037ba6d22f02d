//! `ctx.trace`: the trace context in the headers of a message, as a table that is made at its first use.
//!
//! A message costs nothing for it: its header table is asked when a handler asks, or writes a line of the log.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::call::MESSAGE;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, push_outermost};
use crate::message::Header;
use crate::message::trace::{BAGGAGE, CARRIED, TRACEPARENT, TRACESTATE, TraceId};

/// Keeps the names of the headers: a look for one then allocates nothing, and so it raises nothing.
pub(in crate::lua) unsafe fn install(state: *mut lua_State) {
    // SAFETY: runs protected.
    unsafe {
        for name in CARRIED.iter().chain(&["headers"]) {
            push_bytes(state, name.as_bytes());
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        }
    }
}

/// Replaces the message on top of the stack with the table of its trace context.
pub(super) unsafe fn push(state: *mut lua_State, shared: &Shared) {
    // SAFETY: as in `id`; the table has room for its fields.
    unsafe {
        push_headers(state);
        ffi::lua_createtable(state, 0, 3);
        let has_trace = traceparent(state, -2).is_some();
        // The state belongs to the parent: without one it says nothing.
        let names = [TRACEPARENT, TRACESTATE].into_iter().filter(|_| has_trace);
        for name in names.chain([BAGGAGE]) {
            push_bytes(state, name.as_bytes());
            match joined(state, -3, name) {
                Some(value) => {
                    shared.push_owned(state, value);
                    ffi::lua_rawset(state, -3);
                }
                None => ffi::lua_pop(state, 1),
            }
        }
        ffi::lua_replace(state, -3);
        ffi::lua_pop(state, 1);
    }
}

/// Takes the message on top of the stack away, and returns the id of its trace.
pub(super) unsafe fn id(state: *mut lua_State) -> Option<TraceId> {
    // SAFETY: there is room for a few values, and an id has no destructor.
    unsafe {
        push_headers(state);
        let id = traceparent(state, -1);
        ffi::lua_pop(state, 2);
        id
    }
}

/// The headers of the running call's message that whatever it produces carries on; none where no message runs.
pub(in crate::lua) fn carried(state: *mut lua_State, shared: &Shared) -> Vec<Header> {
    // SAFETY: there is room for a few values.
    unsafe {
        if ffi::lua_checkstack(state, 5) == 0 {
            return Vec::new();
        }
        push_outermost(state, shared.coroutine.get());
        carried_of_top(state)
    }
}

/// Those of the message at `index`.
pub(in crate::lua) unsafe fn carried_of(state: *mut lua_State, index: c_int) -> Vec<Header> {
    // SAFETY: the index is valid.
    unsafe {
        if ffi::lua_checkstack(state, 5) == 0 {
            return Vec::new();
        }
        ffi::lua_pushvalue(state, index);
        carried_of_top(state)
    }
}

/// Those of the message on top of the stack, which is taken away.
unsafe fn carried_of_top(state: *mut lua_State) -> Vec<Header> {
    let mut carried = Vec::new();
    // SAFETY: there is room for a few values, and reads of tables and strings raise nothing.
    unsafe {
        push_headers(state);
        for name in CARRIED {
            let count = match push_value(state, -1, name) {
                ffi::LUA_TTABLE => ffi::lua_rawlen(state, -1) as i64,
                _ => 0,
            };
            let mut take = |value: Option<&[u8]>| {
                let header = value.map(|value| (name.as_bytes().to_vec(), Some(value.to_vec())));
                carried.extend(header);
            };
            take(bytes_at(state, -1));
            for place in 1..=count {
                ffi::lua_rawgeti(state, -1, place);
                take(bytes_at(state, -1));
                ffi::lua_pop(state, 1);
            }
            ffi::lua_pop(state, 1);
        }
        ffi::lua_pop(state, 2);
    }
    carried
}

/// Whether the message of this ctx has headers, whatever they are. Raises nothing, and leaves values on the stack.
pub(super) unsafe fn may_carry(state: *mut lua_State, ctx: c_int) -> bool {
    // SAFETY: a ctx has its message; a field is read without metamethods, of tables only.
    unsafe {
        ffi::lua_getiuservalue(state, ctx, MESSAGE);
        push_headers(state);
        let has_none = ffi::lua_type(state, -1) == ffi::LUA_TTABLE && {
            ffi::lua_pushnil(state);
            ffi::lua_next(state, -2) == 0
        };
        ffi::lua_settop(state, 1);
        !has_none
    }
}

/// Pushes the headers of the message on top of the stack; the handler may have put anything in their place.
unsafe fn push_headers(state: *mut lua_State) {
    // SAFETY: a field is read without metamethods, of tables only.
    unsafe {
        if ffi::lua_type(state, -1) != ffi::LUA_TTABLE {
            return ffi::lua_pushnil(state);
        }
        push_bytes(state, b"headers");
        if ffi::lua_rawget(state, -2) != ffi::LUA_TTABLE {
            ffi::lua_pop(state, 1);
            ffi::lua_pushnil(state);
        }
    }
}

/// Pushes the value of a header: nil, a string, or the list of a header that repeats.
unsafe fn push_value(state: *mut lua_State, headers: c_int, name: &str) -> c_int {
    // SAFETY: as in `push_headers`.
    unsafe {
        let headers = ffi::lua_absindex(state, headers);
        if ffi::lua_type(state, headers) != ffi::LUA_TTABLE {
            ffi::lua_pushnil(state);
            return ffi::LUA_TNIL;
        }
        push_bytes(state, name.as_bytes());
        ffi::lua_rawget(state, headers)
    }
}

/// The trace of the one `traceparent`.
unsafe fn traceparent(state: *mut lua_State, headers: c_int) -> Option<TraceId> {
    // SAFETY: the string is on the stack while it is read.
    unsafe {
        push_value(state, headers, TRACEPARENT);
        let id = bytes_at(state, -1).and_then(TraceId::of);
        ffi::lua_pop(state, 1);
        id
    }
}

/// The values of a header, with a comma between two of them, as both specifications join lists. `None` if all are
/// empty.
unsafe fn joined(state: *mut lua_State, headers: c_int, name: &str) -> Option<Vec<u8>> {
    // SAFETY: nothing raises while the bytes are pending: a raw read by number allocates nothing.
    unsafe {
        let count = match push_value(state, headers, name) {
            ffi::LUA_TTABLE => ffi::lua_rawlen(state, -1) as i64,
            _ => 0,
        };
        let mut whole = bytes_at(state, -1).unwrap_or_default().to_vec();
        for place in 1..=count {
            ffi::lua_rawgeti(state, -1, place);
            let value = bytes_at(state, -1).unwrap_or_default();
            if !whole.is_empty() && !value.is_empty() {
                whole.push(b',');
            }
            whole.extend_from_slice(value);
            ffi::lua_pop(state, 1);
        }
        ffi::lua_pop(state, 1);
        (!whole.is_empty()).then_some(whole)
    }
}
