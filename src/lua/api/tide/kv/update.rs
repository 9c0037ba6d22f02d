//! `kv:update`: a function changes the value of a key, and nothing comes between.
//!
//! The function gets the value, and what it returns is put in the place of that value if it is there still. Otherwise
//! the function runs again with the new one. No lock is held while it runs.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::arguments;
use super::operations::{at, decoded, enter, job, push_kept, raw, store_index};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::{plain, suspend};
use crate::state::op::{Done, Op};
use crate::state::store::Store;
use crate::wait::{Fault, Value, Wait};

const PATH: &str = "kv:update";
const JOB: &str = "kv.update";

/// The stack: the arguments, of which the third is the time to live in milliseconds or 0, then the value as bytes or
/// nil, and what the function returned.
const KEY: c_int = 1;
const CHANGE: c_int = 2;
const TTL: c_int = 3;
const OLD: c_int = 4;
const NEW: c_int = 5;

/// Runs of the function, at most: each further one means that another call has changed the value meanwhile.
const RUNS_MAX: isize = 1000;

pub(super) unsafe extern "C-unwind" fn update(state: *mut lua_State) -> c_int {
    // SAFETY: `push_method` made it; only numbers are pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        let store = enter(state);
        let waits = shared.states.store(store).memory().is_none();
        if waits {
            suspend::may_wait(state, shared, PATH);
        }
        ffi::lua_settop(state, TTL);
        let mut ttl = 0;
        shared.attempt(state, || {
            let ms = read(state).map_err(|reason| format!("`{PATH}`{reason}"))?;
            ttl = ms;
            Ok(0)
        });
        ffi::lua_settop(state, CHANGE);
        ffi::lua_pushinteger(state, ttl);
        if waits {
            return wait_for(state, shared, store, None, 0);
        }
        let found = look(state, shared, store);
        push_old(state, shared, found);
        change(state, shared, store, 0)
    }
}

/// The time to live in milliseconds; 0 for none. Raises nothing.
unsafe fn read(state: *mut lua_State) -> Result<i64, String> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        let key = match bytes_at(state, KEY) {
            Some(bytes) => Value::Bytes(bytes.into()),
            None => plain::read(state, KEY, 1 << 10).map_or(Value::Nil, |(value, _)| value),
        };
        arguments::key(key)?;
        if ffi::lua_type(state, CHANGE) != ffi::LUA_TFUNCTION {
            let found = type_name(state, CHANGE);
            return Err(format!(
                " takes a function that changes the value, not {found}"
            ));
        }
        let (options, _) = plain::read(state, TTL, 1 << 20)
            .map_err(|reason| format!(" takes options of plain data: {reason}"))?;
        let ttl = arguments::of_update(options)?;
        Ok(ttl.map_or(0, |ttl| ttl.as_millis() as i64))
    }
}

/// The value in memory, as bytes.
fn look(state: *mut lua_State, shared: &Shared, store: usize) -> Option<Vec<u8>> {
    let (memory, now) = shared.states.store(store).memory()?;
    // SAFETY: the key was checked.
    let key = unsafe { bytes_at(state, KEY) }?;
    memory.get(key, now).map(Vec::from)
}

unsafe fn push_old(state: *mut lua_State, shared: &Shared, found: Option<Vec<u8>>) {
    // SAFETY: the bytes move into `shared` before Lua may raise.
    unsafe {
        ffi::lua_settop(state, TTL);
        match found {
            Some(bytes) => shared.push_owned(state, bytes),
            None => ffi::lua_pushnil(state),
        }
    }
}

/// Calls the function with the value, then puts its result in the place of the value.
unsafe fn change(state: *mut lua_State, shared: &Shared, store: usize, mut runs: isize) -> c_int {
    // SAFETY: the stack is as `update` made it. Rust values are dropped, or in `shared`, before anything raises.
    unsafe {
        loop {
            ffi::lua_pushvalue(state, CHANGE);
            if keep_decoded(state, shared) {
                push_kept(state, shared);
            } else {
                suspend::raise(state, shared);
            }
            // Without a continuation: a wait in it raises.
            ffi::lua_callk(state, 1, 1, 0, None);
            let Some(op) = swap(state, shared) else {
                suspend::raise(state, shared)
            };
            runs += 1;
            let one = shared.states.store(store);
            let Some((memory, now)) = one.memory() else {
                return wait_for(state, shared, store, Some(op), runs);
            };
            match put(shared, one, memory.run(op, now), runs) {
                Put::Done => return 1,
                Put::Again(found) => push_old(state, shared, found),
                Put::Fault => suspend::raise(state, shared),
            }
        }
    }
}

enum Put {
    Done,
    /// The value that is there by now.
    Again(Option<Vec<u8>>),
    /// In `shared`.
    Fault,
}

fn put(shared: &Shared, store: &Store, done: Result<Done, Fault>, runs: isize) -> Put {
    match done {
        Ok(Done::Swapped(Err(found))) if runs < RUNS_MAX => Put::Again(found.map(Vec::from)),
        Ok(Done::Swapped(Err(_))) => {
            shared.fault.replace(Some(conflict()));
            Put::Fault
        }
        Ok(_) => Put::Done,
        Err(fault) => {
            shared.fault.replace(Some(at(PATH, store, fault)));
            Put::Fault
        }
    }
}

fn conflict() -> Fault {
    let message = format!("`{PATH}`: other calls have changed the value {RUNS_MAX} times");
    Fault::new("conflict", message)
}

/// Leaves the value for the function in `shared`, or a fault. Raises nothing.
fn keep_decoded(state: *mut lua_State, shared: &Shared) -> bool {
    // SAFETY: reads a string.
    let value = match unsafe { bytes_at(state, OLD) } {
        None => Ok(Value::Nil),
        Some(bytes) => decoded(bytes),
    };
    match value {
        Ok(value) => {
            shared.keep_plain(Some(value.into()));
            true
        }
        Err(fault) => {
            let message = format!("`{PATH}`: {}", fault.message);
            shared.fault.replace(Some(Fault { message, ..fault }));
            false
        }
    }
}

/// The operation that puts the function's result into the store; `None` leaves a fault. Raises nothing.
fn swap(state: *mut lua_State, shared: &Shared) -> Option<Op> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        let read = plain::read(state, NEW, shared.memory)
            .map_err(|reason| format!(": the function returns plain data: {reason}"));
        let new = read.and_then(|(value, _)| match value {
            Value::Nil => Ok(None),
            value => arguments::encoded(&value).map(Some),
        });
        match new {
            Ok(new) => {
                let ttl = ffi::lua_tointeger(state, TTL) as u64;
                Some(Op::Swap {
                    key: bytes_at(state, KEY)?.into(),
                    old: bytes_at(state, OLD).map(Into::into),
                    new: new.map(Into::into),
                    ttl: (ttl > 0).then(|| Duration::from_millis(ttl)),
                })
            }
            Err(reason) => {
                let fault = Fault::new("invalid", format!("`{PATH}`{reason}"));
                shared.fault.replace(Some(fault));
                None
            }
        }
    }
}

/// Waits for the exchange, or for the value that comes first.
unsafe fn wait_for(
    state: *mut lua_State,
    shared: &Shared,
    store: usize,
    op: Option<Op>,
    runs: isize,
) -> c_int {
    // SAFETY: the job moves into `shared` before the coroutine is suspended; the check for it was made.
    unsafe {
        if !begin(state, shared, store, op) {
            suspend::raise(state, shared);
        }
        suspend::push_token(state);
        ffi::lua_yieldk(state, 1, runs, Some(answered))
    }
}

/// Leaves the wait in `shared`, or a fault. Raises nothing.
fn begin(state: *mut lua_State, shared: &Shared, store: usize, op: Option<Op>) -> bool {
    // SAFETY: the key was checked.
    let key = unsafe { bytes_at(state, KEY) }.unwrap_or_default();
    let op = op.unwrap_or_else(|| Op::Get { key: key.into() });
    match job(PATH, JOB, shared, shared.states.store(store), op, raw) {
        Ok(job) => {
            shared.begin(Wait::Outside(job));
            true
        }
        Err(fault) => {
            shared.fault.replace(Some(fault));
            false
        }
    }
}

unsafe extern "C-unwind" fn answered(state: *mut lua_State, _: c_int, runs: lua_KContext) -> c_int {
    // SAFETY: the stack is as it was at the yield, without the token.
    unsafe {
        let shared = Shared::of(state);
        let store = store_index(state);
        let found = match suspend::take_answer(shared) {
            None => suspend::raise(state, shared),
            // The exchange was made, and the function's result is the value.
            Some(Value::Boolean(true)) => {
                ffi::lua_settop(state, NEW);
                return 1;
            }
            Some(Value::Bytes(bytes)) => Some(Vec::from(bytes)),
            Some(_) => None,
        };
        if runs >= RUNS_MAX {
            drop(found);
            shared.fault.replace(Some(conflict()));
            suspend::raise(state, shared);
        }
        push_old(state, shared, found);
        change(state, shared, store, runs)
    }
}
