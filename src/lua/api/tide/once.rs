//! `tide.once`: a function runs once a key, over all workers of the process, and its result is recorded.
//!
//! Of several calls with one key one leads. The others wait outside, and get its result. A lead that is given up goes
//! to the next call that waits, by the guard on the stack of this function.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::sync::Arc;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};
use smallvec::SmallVec;

use super::kv;
use crate::lua::api::duration;
use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::lua::{guards, plain, suspend};
use crate::nearest::suggestion;
use crate::state::flights::{Joined, Landed, WAITING_MAX};
use crate::state::lease::{Lease, Slot};
use crate::state::op::{KEY_MAX, Op, TTL_MAX};
use crate::wait::{Fault, Job, Value, Wait};

pub(super) const ENTRY: Entry = Entry {
    name: "once",
    path: "tide.once",
    types: &[
        "Runs a function once a key, and records its result for this time.",
        "@param key string",
        "@param ttl number|string milliseconds, or a string such as \"1h\"",
        "@param run fun(): any",
        "@param options? { store?: tide.Kv } default a store of the process",
        "@return boolean ran, any result",
    ],
    body: Body::C(once),
};

const PATH: &str = "tide.once";
/// What the keys begin with in their store, so that they meet no others.
const PREFIX: &[u8] = b"once:";
const OPTIONS: [&str; 1] = ["store"];

/// The stack: the key with its prefix, the time in milliseconds, the function, the index of the store, the guard, and
/// the result.
const KEY: c_int = 1;
const TTL: c_int = 2;
const RUN: c_int = 3;
const STORE: c_int = 4;
const GUARD: c_int = 5;
const RESULT: c_int = 6;

type Key = SmallVec<[u8; 128]>;

/// What a step leaves in `shared`.
#[derive(Clone, Copy)]
enum Next {
    /// The recorded result.
    Recorded,
    Lead,
    Wait,
    Missing,
    Fault,
}

unsafe extern "C-unwind" fn once(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua. Rust values are dropped, or in `shared`, before anything raises.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 4);
        let (mut ttl, mut store) = (0, 0);
        shared.attempt(state, || {
            let arguments = read(state, shared).map_err(|reason| format!("`{PATH}`{reason}"))?;
            (ttl, store) = arguments;
            Ok(0)
        });
        match look(state, shared, store) {
            Next::Recorded => return recorded(state, shared),
            Next::Fault => suspend::raise(state, shared),
            _ => {}
        }
        suspend::may_wait(state, shared, PATH);
        push_bytes(state, PREFIX);
        ffi::lua_pushvalue(state, KEY);
        ffi::lua_concat(state, 2);
        ffi::lua_replace(state, KEY);
        ffi::lua_pushinteger(state, ttl);
        ffi::lua_replace(state, TTL);
        ffi::lua_pushinteger(state, store as i64);
        ffi::lua_replace(state, STORE);
        let number = guards::push_guard(state, shared);
        guards::close_with(state, GUARD);
        match join(state, shared, number) {
            Next::Lead => lead(state, shared),
            Next::Wait => wait(state, waited),
            _ => suspend::raise(state, shared),
        }
    }
}

/// The time in milliseconds and the index of the store. Raises nothing.
unsafe fn read(state: *mut lua_State, shared: &Shared) -> Result<(i64, usize), String> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        let Some(key) = bytes_at(state, KEY) else {
            let found = type_name(state, KEY);
            return Err(format!(" takes a key, which is a string, not {found}"));
        };
        if key.is_empty() || key.len() + PREFIX.len() > KEY_MAX {
            let (found, most) = (key.len(), KEY_MAX - PREFIX.len());
            return Err(format!(
                " takes a key of 1 to {most} bytes, and this one has {found}; a hash of it is short"
            ));
        }
        let form = crate::duration::FORM;
        let ttl = match duration::at(state, TTL) {
            Ok(ttl) if !ttl.is_zero() && ttl <= TTL_MAX => ttl,
            Ok(ttl) => {
                let found = crate::duration::short(ttl);
                return Err(format!(
                    " keeps a result for 1 ms to 10 years, not for {found}"
                ));
            }
            Err(found) => {
                return Err(format!(
                    " takes the time for which a result is kept, {form}, not {found}"
                ));
            }
        };
        if ffi::lua_type(state, RUN) != ffi::LUA_TFUNCTION {
            let found = type_name(state, RUN);
            return Err(format!(" takes a function to run, not {found}"));
        }
        let store = store_at(state)?.unwrap_or_else(|| shared.states.once());
        Ok((ttl.as_millis() as i64, store))
    }
}

/// The option `store`. Raises nothing.
unsafe fn store_at(state: *mut lua_State) -> Result<Option<usize>, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, STORE) {
            ffi::LUA_TNIL => return Ok(None),
            ffi::LUA_TTABLE => {}
            _ => {
                let found = type_name(state, STORE);
                return Err(format!(
                    " takes options as a table, as `{{ store = tide.kv(\"name\") }}`, not {found}"
                ));
            }
        }
        let mut store = None;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, STORE) != 0 {
            let value = ffi::lua_gettop(state);
            match bytes_at(state, value - 1) {
                Some(b"store") => {
                    store = kv::store_at(state, value);
                    if store.is_none() {
                        let found = type_name(state, value);
                        return Err(format!(": `store` is a store of `tide.kv`, not {found}"));
                    }
                }
                Some(key) => {
                    let key = failure::cut(key, 100);
                    let nearest = suggestion(&key, &OPTIONS);
                    return Err(format!(" knows no option `{key}`, {nearest}"));
                }
                None => {
                    let found = type_name(state, value - 1);
                    return Err(format!(
                        ": the options have names as keys, not {found}; there is `store`"
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
        Ok(store)
    }
}

/// The result in a store in memory. The key has no prefix yet. Raises nothing.
fn look(state: *mut lua_State, shared: &Shared, store: usize) -> Next {
    // SAFETY: the key was checked.
    let key = unsafe { bytes_at(state, KEY) }.unwrap_or_default();
    let Some((memory, now)) = shared.states.store(store).memory() else {
        return Next::Missing;
    };
    let mut name = Key::from_slice(PREFIX);
    name.extend_from_slice(key);
    memory
        .get(&name, now)
        .map_or(Next::Missing, |bytes| keep(shared, &bytes))
}

/// Keeps the value for its push.
fn keep(shared: &Shared, bytes: &[u8]) -> Next {
    match kv::decoded(bytes) {
        Ok(value) => {
            shared.keep_plain(Some(Arc::new(value)));
            Next::Recorded
        }
        Err(fault) => fail(
            shared,
            Fault {
                message: format!("`{PATH}`: {}", fault.message),
                ..fault
            },
        ),
    }
}

fn fail(shared: &Shared, fault: Fault) -> Next {
    shared.fault.replace(Some(fault));
    Next::Fault
}

/// Returns what another call has recorded.
unsafe fn recorded(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: `shared` keeps the value.
    unsafe {
        ffi::lua_pushboolean(state, 0);
        kv::push_kept(state, shared);
        2
    }
}

unsafe fn wait(state: *mut lua_State, then: ffi::lua_KFunction) -> c_int {
    // SAFETY: no Rust value is pending.
    unsafe {
        suspend::push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(then))
    }
}

/// Joins the flight of the key. Raises nothing.
fn join(state: *mut lua_State, shared: &Shared, number: u64) -> Next {
    // SAFETY: the key was checked.
    let (key, store) = unsafe { (bytes_at(state, KEY), ffi::lua_tointeger(state, STORE)) };
    let store = shared.states.store(store as usize);
    let call = shared.call.get();
    match store.flights.join(key.unwrap_or_default()) {
        Joined::Lead(lead) => {
            let slot = Slot::of(Lease::Lead(lead));
            shared.states.hold(number, call, slot);
            Next::Lead
        }
        Joined::Full => {
            let message = format!("`{PATH}`: {WAITING_MAX} calls wait for this key already");
            fail(shared, Fault::new("busy", message))
        }
        Joined::Waits(landed) => {
            let slot = Slot::default();
            shared.states.hold(number, call, slot.clone());
            let job = Job::new(PATH_OF_JOB, landing(landed, slot));
            let job = suspend::watched(shared, job, Some(format!("at {}", store.name)));
            shared.begin(Wait::Outside(job));
            Next::Wait
        }
    }
}

const PATH_OF_JOB: &str = "once";

/// Ends with the bytes of the result, or with null where the call leads now.
pub(super) async fn landing(
    landed: tokio::sync::oneshot::Receiver<Landed>,
    slot: Slot,
) -> Result<Value, Fault> {
    match landed.await {
        Ok(Landed::Result(bytes)) => Ok(Value::Bytes((&*bytes).into())),
        Ok(Landed::Lead(lead)) => {
            slot.put(Lease::Lead(lead));
            Ok(Value::Null)
        }
        Err(_) => Err(Fault::new("internal", "a flight ended without a result")),
    }
}

unsafe extern "C-unwind" fn waited(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the stack is as it was at the yield, without the token.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, GUARD);
        let next = match suspend::take_answer(shared) {
            Some(Value::Bytes(bytes)) => keep(shared, &bytes),
            Some(_) => Next::Lead,
            None => Next::Fault,
        };
        match next {
            Next::Recorded => recorded(state, shared),
            Next::Lead => lead(state, shared),
            _ => suspend::raise(state, shared),
        }
    }
}

/// The call leads. What was recorded meanwhile counts.
unsafe fn lead(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: as in `once`.
    unsafe {
        match look_as_leader(state, shared) {
            Next::Recorded => recorded(state, shared),
            Next::Missing => run(state),
            Next::Wait => wait(state, looked),
            _ => suspend::raise(state, shared),
        }
    }
}

/// Raises nothing.
fn look_as_leader(state: *mut lua_State, shared: &Shared) -> Next {
    let (store, key) = at(state, shared);
    match store.memory() {
        Some((memory, now)) => memory
            .get(&key, now)
            .map_or(Next::Missing, |bytes| land_and_keep(state, shared, &bytes)),
        None => begin(shared, state, Op::Get { key: key.into() }),
    }
}

/// The store, and the key with its prefix.
fn at(state: *mut lua_State, shared: &Shared) -> (&Arc<crate::state::store::Store>, Vec<u8>) {
    // SAFETY: the key was checked.
    let (key, store) = unsafe { (bytes_at(state, KEY), ffi::lua_tointeger(state, STORE)) };
    let key = key.unwrap_or_default().to_vec();
    (shared.states.store(store as usize), key)
}

/// Begins an operation on the store. Raises nothing.
fn begin(shared: &Shared, state: *mut lua_State, op: Op) -> Next {
    let (store, _) = at(state, shared);
    match kv::job(PATH, PATH_OF_JOB, shared, store, op, kv::raw) {
        Ok(job) => {
            shared.begin(Wait::Outside(job));
            Next::Wait
        }
        Err(fault) => fail(shared, fault),
    }
}

/// Gives the result to those that wait.
fn land(state: *mut lua_State, shared: &Shared, bytes: &[u8]) {
    // SAFETY: the guard lies there.
    let number = unsafe { guards::guard_at(state, GUARD) };
    if let Some(Lease::Lead(lead)) = shared.states.take(number) {
        lead.land(&bytes.into());
    }
}

/// As `land`, and keeps the result for its push.
fn land_and_keep(state: *mut lua_State, shared: &Shared, bytes: &[u8]) -> Next {
    land(state, shared, bytes);
    keep(shared, bytes)
}

unsafe extern "C-unwind" fn looked(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: as in `waited`.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, GUARD);
        let next = match suspend::take_answer(shared) {
            Some(Value::Bytes(bytes)) => land_and_keep(state, shared, &bytes),
            Some(_) => Next::Missing,
            None => Next::Fault,
        };
        match next {
            Next::Recorded => recorded(state, shared),
            Next::Missing => run(state),
            _ => suspend::raise(state, shared),
        }
    }
}

/// Runs the function, which may wait.
unsafe fn run(state: *mut lua_State) -> c_int {
    // SAFETY: no Rust value is pending.
    unsafe {
        ffi::lua_pushvalue(state, RUN);
        ffi::lua_callk(state, 0, 1, 0, Some(ran));
        ran(state, ffi::LUA_OK, 0)
    }
}

unsafe extern "C-unwind" fn ran(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the function's result lies at RESULT.
    unsafe {
        let shared = Shared::of(state);
        match record(state, shared) {
            Next::Recorded => done(state),
            Next::Wait => wait(state, written),
            _ => suspend::raise(state, shared),
        }
    }
}

/// The function's result as bytes.
fn result(state: *mut lua_State, shared: &Shared) -> Result<Vec<u8>, Fault> {
    // SAFETY: the result lies there.
    let read = unsafe { plain::read(state, RESULT, shared.memory) };
    let read = read.map_err(|reason| format!(": the function returns plain data: {reason}"));
    read.and_then(|(value, _)| kv::encoded(&value))
        .map_err(|reason| Fault::new("invalid", format!("`{PATH}`{reason}")))
}

/// Records the function's result. Raises nothing.
fn record(state: *mut lua_State, shared: &Shared) -> Next {
    let bytes = match result(state, shared) {
        Ok(bytes) => bytes,
        Err(fault) => return fail(shared, fault),
    };
    let (store, key) = at(state, shared);
    // SAFETY: `once` put it there.
    let ttl = unsafe { ffi::lua_tointeger(state, TTL) };
    let op = Op::Set {
        key: key.into(),
        value: bytes.as_slice().into(),
        ttl: Some(Duration::from_millis(ttl as u64)),
    };
    let Some((memory, now)) = store.memory() else {
        return begin(shared, state, op);
    };
    match memory.run(op, now) {
        Ok(_) => {
            land(state, shared, &bytes);
            Next::Recorded
        }
        Err(fault) => fail(shared, kv::at(PATH, store, fault)),
    }
}

unsafe extern "C-unwind" fn written(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: as in `waited`.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, RESULT);
        let next = match suspend::take_answer(shared) {
            Some(_) => match result(state, shared) {
                Ok(bytes) => {
                    land(state, shared, &bytes);
                    Next::Recorded
                }
                Err(fault) => fail(shared, fault),
            },
            None => Next::Fault,
        };
        match next {
            Next::Recorded => done(state),
            _ => suspend::raise(state, shared),
        }
    }
}

/// Returns the function's own result.
unsafe fn done(state: *mut lua_State) -> c_int {
    // SAFETY: the result lies there.
    unsafe {
        ffi::lua_pushboolean(state, 1);
        ffi::lua_pushvalue(state, RESULT);
        2
    }
}
