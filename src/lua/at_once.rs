//! Functions that answer at once: plain data in, plain data out, on the thread of the VM.
//!
//! The function borrows its arguments from the stack. Only when it has returned, and nothing of it is pending, its
//! results are pushed or its fault is raised.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::api::arguments::{Arguments, Results};
use super::api::module::{Body, Entry};
use super::plain;
use super::shared::Shared;
use super::suspend;
use crate::wait::{Fault, Value};

/// Pushes the C function around an entry that answers at once.
pub(super) unsafe fn push_entry(state: *mut lua_State, shared: &Shared, entry: &'static Entry) {
    // SAFETY: runs protected; the entry is static.
    unsafe {
        ffi::lua_pushlightuserdata(state, ptr::from_ref(entry).cast_mut().cast());
        shared.push_function(state, enter, 1);
    }
}

unsafe extern "C-unwind" fn enter(state: *mut lua_State) -> c_int {
    // SAFETY: only `push_entry` makes this closure.
    unsafe {
        let entry = &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(2)).cast::<Entry>();
        let Body::Now(work) = entry.body else {
            return 0;
        };
        answer(state, Shared::of(state), entry.path, work)
    }
}

/// Runs `work` and pushes its results, or raises its fault.
pub(super) unsafe fn answer(
    state: *mut lua_State,
    shared: &Shared,
    path: &'static str,
    work: impl FnOnce(&Arguments<'_>) -> Result<Results, Fault>,
) -> c_int {
    // SAFETY: `work` leaves the stack as it is. Before anything raises, its result is in `shared`, or plain.
    unsafe {
        let arguments = Arguments::of(state, shared, path);
        let kept = match suspend::guarded(|| work(&arguments)) {
            Ok(Results::One(Value::Bytes(bytes))) => {
                shared.push_owned(state, bytes.into_vec());
                return 1;
            }
            Ok(Results::One(
                value @ (Value::Nil | Value::Boolean(_) | Value::Integer(_) | Value::Number(_)),
            )) => {
                plain::push(state, &value);
                return 1;
            }
            Ok(Results::One(value)) => {
                shared.keep_plain(Some(Arc::new(Value::Table(vec![(Value::Nil, value)]))))
            }
            Ok(Results::Several(values)) => {
                let values = values.into_iter().map(|value| (Value::Nil, value));
                shared.keep_plain(Some(Arc::new(Value::Table(values.collect()))))
            }
            Err(fault) => {
                shared.fault.replace(Some(fault));
                None
            }
        };
        let Some(kept) = kept else {
            suspend::raise(state, shared)
        };
        let Value::Table(values) = &*kept else {
            return 0;
        };
        ffi::luaL_checkstack(state, values.len() as c_int + 1, ptr::null());
        for (_, value) in values {
            plain::push(state, value);
        }
        let count = values.len() as c_int;
        shared.release_plain();
        count
    }
}

/// Runs `work` and returns its plain result, or raises its fault.
pub(super) unsafe fn attempt<T: Copy>(
    state: *mut lua_State,
    shared: &Shared,
    path: &'static str,
    work: impl FnOnce(&Arguments<'_>) -> Result<T, Fault>,
) -> T {
    // SAFETY: as in `answer`.
    unsafe {
        let arguments = Arguments::of(state, shared, path);
        match suspend::guarded(|| work(&arguments)) {
            Ok(value) => return value,
            Err(fault) => {
                shared.fault.replace(Some(fault));
            }
        }
        suspend::raise(state, shared)
    }
}
