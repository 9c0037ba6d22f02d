//! The operations of a store: from the arguments of a method to its result, at once or behind a wait.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::arguments::{METHODS, Method};
use crate::lua::shared::Shared;
use crate::lua::{plain, suspend};
use crate::state::codec;
use crate::state::op::{Done, Op};
use crate::state::store::Store;
use crate::wait::{Fault, Job, Value, Wait};

/// Upvalues of a method: its index in `METHODS`, that of its store, and its object.
const METHOD: c_int = ffi::lua_upvalueindex(2);
const STORE: c_int = ffi::lua_upvalueindex(3);
const OBJECT: c_int = ffi::lua_upvalueindex(4);

/// Drops a first argument that is the object itself, so that `.` and `:` are alike. Returns the index of the store.
pub(super) unsafe fn enter(state: *mut lua_State) -> usize {
    // SAFETY: `push_method` makes every method, with these upvalues.
    unsafe {
        if ffi::lua_rawequal(state, 1, OBJECT) != 0 {
            ffi::lua_remove(state, 1);
        }
        store_index(state)
    }
}

/// What a method leaves in `shared` for the C function around it.
enum Next {
    Value,
    Wait,
    Fault,
}

pub(super) unsafe extern "C-unwind" fn run(state: *mut lua_State) -> c_int {
    // SAFETY: `push_method` made it. Every Rust value is dropped, or in `shared`, before anything raises.
    unsafe {
        let shared = Shared::of(state);
        let method = &METHODS[ffi::lua_tointeger(state, METHOD) as usize];
        let store = shared.states.store(enter(state));
        let waits = method.scans || store.memory().is_none();
        if waits {
            suspend::may_wait(state, shared, method.path);
        }
        match begin(state, shared, method, store, waits) {
            Next::Value => push_kept(state, shared),
            Next::Wait => suspend::wait_for_answer(state),
            Next::Fault => suspend::raise(state, shared),
        }
    }
}

/// Raises nothing.
fn begin(
    state: *mut lua_State,
    shared: &Shared,
    method: &'static Method,
    store: &Arc<Store>,
    waits: bool,
) -> Next {
    let path = method.path;
    let begun = suspend::arguments(state, shared, path).and_then(|values| {
        let invalid = |reason| Fault::new("invalid", format!("`{path}`{reason}"));
        let op = (method.read)(values).map_err(invalid)?;
        match store.memory() {
            Some((memory, now)) if !waits => {
                let done = memory.run(op, now);
                done.and_then(value).map_err(|fault| at(path, store, fault))
            }
            _ => {
                let job = job(path, method.job, shared, store, op, value)?;
                shared.begin(Wait::Outside(job));
                Ok(None)
            }
        }
    });
    match begun {
        Ok(Some(value)) => {
            shared.keep_plain(Some(Arc::new(value)));
            Next::Value
        }
        Ok(None) => Next::Wait,
        Err(fault) => {
            shared.fault.replace(Some(fault));
            Next::Fault
        }
    }
}

/// The error with its place.
pub(in crate::lua::api::tide) fn at(path: &str, store: &Store, fault: Fault) -> Fault {
    let message = format!("`{path}` at `{}`: {}", store.name, fault.message);
    Fault { message, ..fault }
}

/// An operation outside, which ends with what `value` makes of its result.
pub(in crate::lua::api::tide) fn job(
    path: &'static str,
    name: &'static str,
    shared: &Shared,
    store: &Arc<Store>,
    op: Op,
    value: fn(Done) -> Result<Option<Value>, Fault>,
) -> Result<Job, Fault> {
    let doing = store
        .run(op, shared.redis.as_ref())
        .map_err(|fault| at(path, store, fault))?;
    let about = match name.split_once('.') {
        Some((_, what)) => format!("{what} {}", store.name),
        None => store.name.clone(),
    };
    let store = Arc::clone(store);
    let job = Job::new(name, async move {
        let done = doing.await.and_then(value);
        let value = done.map_err(|fault| at(path, &store, fault))?;
        Ok(value.unwrap_or(Value::Nil))
    });
    Ok(suspend::watched(shared, job, Some(about)))
}

/// The value that a method returns.
fn value(done: Done) -> Result<Option<Value>, Fault> {
    let value = match done {
        Done::Nothing | Done::Value(None) => Value::Nil,
        Done::Value(Some(bytes)) => decoded(&bytes)?,
        Done::Number(number) => Value::Integer(number),
        Done::Deleted(was_there) => Value::Boolean(was_there),
        Done::Swapped(result) => Value::Boolean(result.is_ok()),
        Done::Entries(entries) => {
            let named = |name: &str| Value::Bytes(name.as_bytes().into());
            let mut list = Vec::with_capacity(entries.len());
            for (number, (key, bytes)) in (1..).zip(entries) {
                let pair = vec![
                    (named("key"), Value::Bytes(key)),
                    (named("value"), decoded(&bytes)?),
                ];
                list.push((Value::Integer(number), Value::Table(pair)));
            }
            Value::Table(list)
        }
    };
    Ok(Some(value))
}

/// The value as bytes, as `tide.once` and `update` compare it; nil for no entry.
#[expect(
    clippy::unnecessary_wraps,
    reason = "as `value`, in whose place it stands"
)]
pub(in crate::lua::api::tide) fn raw(done: Done) -> Result<Option<Value>, Fault> {
    Ok(match done {
        Done::Value(Some(bytes)) | Done::Swapped(Err(Some(bytes))) => Some(Value::Bytes(bytes)),
        Done::Swapped(Ok(())) => Some(Value::Boolean(true)),
        _ => None,
    })
}

pub(in crate::lua::api::tide) fn decoded(bytes: &[u8]) -> Result<Value, Fault> {
    codec::decode(bytes).ok_or_else(|| {
        let message = "the entry is none of `tide.kv`: another program has written it";
        Fault::new("invalid", message)
    })
}

/// Pushes the value that `shared` keeps, and returns it.
pub(in crate::lua::api::tide) unsafe fn push_kept(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: `shared` keeps the value during its push.
    unsafe {
        if let Some(value) = shared.kept_plain() {
            plain::push(state, &*value);
            shared.release_plain();
        } else {
            ffi::lua_pushnil(state);
        }
        1
    }
}

/// The index of the store of the running method.
pub(super) fn store_index(state: *mut lua_State) -> usize {
    // SAFETY: reads a number.
    unsafe { ffi::lua_tointeger(state, STORE) as usize }
}
