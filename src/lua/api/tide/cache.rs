//! `tide.cache`: a function whose results are kept for the process, by its arguments.
//!
//! Of several calls with equal arguments one runs the function, and the others wait outside for its result, over all
//! workers. While an old result may serve, nobody waits but the call that renews it.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod settings;

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::{kv, once};
use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::vm::hook;
use crate::lua::{guards, plain, suspend};
use crate::state::cache::{Cache, Found, Settings};
use crate::state::codec;
use crate::state::flights::{Joined, WAITING_MAX};
use crate::state::lease::{Lease, Slot};
use crate::state::op::KEY_MAX;
use crate::wait::{Fault, Job, Value, Wait};

pub(super) const ENTRY: Entry = Entry {
    name: "cache",
    path: "tide.cache",
    types: &[
        "Returns a function that keeps the results of this one, by its arguments.",
        "@param run fun(...: any): any",
        "@param options { ttl: number|string, stale?: number|string, capacity?: integer, name?: string }",
        "@return fun(...: any): any",
    ],
    body: Body::C(cache),
};

const PATH: &str = "tide.cache";
/// The most caches of a VM.
const CACHES_MAX: usize = 1000;

/// Upvalues of a cached function: the index of its cache, and the function itself.
const CACHE: c_int = ffi::lua_upvalueindex(2);
const RUN: c_int = ffi::lua_upvalueindex(3);

/// The stack of a cached function, behind a miss: the key, the guard, the old result as bytes or nil, the arguments.
const KEY: c_int = 1;
const GUARD: c_int = 2;
const OLD: c_int = 3;
const HEAD: c_int = 3;

unsafe extern "C-unwind" fn cache(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; only a number is pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        let mut index = 0;
        shared.attempt(state, || {
            let settings =
                settings::read(state, shared).map_err(|reason| format!("`{PATH}`{reason}"))?;
            index = one_of(shared, &settings)?;
            Ok(0)
        });
        ffi::lua_pushinteger(state, index as i64);
        ffi::lua_pushvalue(state, 1);
        shared.push_function(state, cached, 2);
        1
    }
}

/// The index of the cache of these settings in the VM.
fn one_of(shared: &Shared, settings: &Settings) -> Result<usize, String> {
    let mut caches = shared.states.caches.borrow_mut();
    let known = caches.iter().position(|one| one.settings() == settings);
    if let Some(index) = known {
        return Ok(index);
    }
    let mut others = caches.iter().map(|one| one.settings());
    if let Some(other) = others.find(|one| one.name == settings.name) {
        let name = &settings.name;
        let same_file = other.file == settings.file;
        return Err(format!(
            "`{PATH}`: there is a cache `{name}` {} already; give each its `name`",
            if same_file {
                "with other settings"
            } else {
                "of another file"
            }
        ));
    }
    if caches.len() >= CACHES_MAX {
        return Err(format!(
            "`{PATH}`: a vm has at most {CACHES_MAX} caches; make them at the top level of a file, not for each message"
        ));
    }
    caches.push(shared.app.state.cache(settings));
    Ok(caches.len() - 1)
}

/// What a look leaves in `shared`.
enum Next {
    /// The value that is returned.
    Kept,
    /// The old result, as bytes.
    Stale(Vec<u8>),
    Missing,
    Lead,
    Wait,
    Fault,
}

unsafe extern "C-unwind" fn cached(state: *mut lua_State) -> c_int {
    // SAFETY: `cache` made it. Rust values are dropped, or in `shared`, before anything raises.
    unsafe {
        let shared = Shared::of(state);
        let mut key = Vec::new();
        match look(state, shared, &mut key) {
            Next::Kept => {
                drop(key);
                kv::push_kept(state, shared)
            }
            Next::Stale(old) => {
                push_head(state, shared, key, Some(old));
                renew(state, shared)
            }
            Next::Missing => {
                push_head(state, shared, key, None);
                join(state, shared)
            }
            _ => {
                drop(key);
                suspend::raise(state, shared)
            }
        }
    }
}

/// The cache of the running function.
fn of(state: *mut lua_State, shared: &Shared) -> Option<Arc<Cache>> {
    // SAFETY: reads a number.
    let index = unsafe { ffi::lua_tointeger(state, CACHE) } as usize;
    shared.states.caches.borrow().get(index).cloned()
}

/// Raises nothing.
fn look(state: *mut lua_State, shared: &Shared, key: &mut Vec<u8>) -> Next {
    if let Err(fault) = key_of(state, key) {
        return fail(shared, fault);
    }
    let Some(cache) = of(state, shared) else {
        return fail(shared, Fault::new("internal", "a cache is missing"));
    };
    match cache.look(key) {
        Found::Fresh(bytes) => keep(shared, &bytes),
        Found::Stale(bytes) => Next::Stale(bytes.to_vec()),
        Found::Nothing => Next::Missing,
    }
}

/// The arguments as bytes. Equal numbers are equal, whether they are integers or not.
fn key_of(state: *mut lua_State, key: &mut Vec<u8>) -> Result<(), Fault> {
    let invalid = |message: String| Fault::new("invalid", format!("`{PATH}`: {message}"));
    // SAFETY: values are read, never converted in place.
    unsafe {
        for index in 1..=ffi::lua_gettop(state) {
            match ffi::lua_type(state, index) {
                ffi::LUA_TNIL | ffi::LUA_TBOOLEAN | ffi::LUA_TNUMBER | ffi::LUA_TSTRING => {}
                _ => {
                    let found = type_name(state, index);
                    return Err(invalid(format!(
                        "results are kept by arguments that are strings, numbers, booleans or nil; argument {index} is \
                         {found}"
                    )));
                }
            }
            let (value, _) = plain::read(state, index, KEY_MAX + 128).map_err(invalid)?;
            let value = match value {
                Value::Number(number) => {
                    // As Lua's own tables have it.
                    let is_whole = number.fract() == 0.0 && number.abs() < 2f64.powi(63);
                    if is_whole {
                        Value::Integer(number as i64)
                    } else {
                        Value::Number(number)
                    }
                }
                other => other,
            };
            codec::write(&value, key);
        }
    }
    if key.len() > KEY_MAX {
        let found = key.len();
        return Err(invalid(format!(
            "the arguments have {found} bytes, more than {KEY_MAX}"
        )));
    }
    Ok(())
}

fn fail(shared: &Shared, fault: Fault) -> Next {
    shared.fault.replace(Some(fault));
    Next::Fault
}

fn keep(shared: &Shared, bytes: &[u8]) -> Next {
    match kv::decoded(bytes) {
        Ok(value) => {
            shared.keep_plain(Some(Arc::new(value)));
            Next::Kept
        }
        Err(fault) => fail(shared, fault),
    }
}

/// Puts the head of the stack below the arguments.
unsafe fn push_head(state: *mut lua_State, shared: &Shared, key: Vec<u8>, old: Option<Vec<u8>>) {
    // SAFETY: the old result lies in the scratch of `shared` before Lua may raise; so does the key after it.
    unsafe {
        shared.states.old.replace(old);
        // The key needs one of the places that every C function has.
        shared.push_owned(state, key);
        ffi::luaL_checkstack(state, ffi::lua_gettop(state) + 8, std::ptr::null());
        guards::push_guard(state, shared);
        match shared.states.old.take() {
            Some(old) => shared.push_owned(state, old),
            None => ffi::lua_pushnil(state),
        }
        ffi::lua_rotate(state, 1, HEAD);
        guards::close_with(state, GUARD);
    }
}

/// An old result serves, and this call renews it if no other does.
unsafe fn renew(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: the head lies on the stack.
    unsafe {
        match lead_if_free(state, shared) {
            Next::Lead => run(state),
            Next::Kept => kv::push_kept(state, shared),
            _ => suspend::raise(state, shared),
        }
    }
}

/// Raises nothing.
fn lead_if_free(state: *mut lua_State, shared: &Shared) -> Next {
    let Some(cache) = of(state, shared) else {
        return fail(shared, Fault::new("internal", "a cache is missing"));
    };
    // SAFETY: the head lies on the stack.
    unsafe {
        // A place where the function could not wait is no reason to fail while the old result serves.
        let may_wait = ffi::lua_isyieldable(state) != 0;
        let lead = bytes_at(state, KEY).and_then(|key| cache.flights.lead(key));
        match lead {
            Some(lead) if may_wait => {
                let number = guards::guard_at(state, GUARD);
                let slot = Slot::of(Lease::Lead(lead));
                shared.states.hold(number, shared.call.get(), slot);
                Next::Lead
            }
            _ => keep(shared, bytes_at(state, OLD).unwrap_or_default()),
        }
    }
}

/// Joins the flight of the arguments.
unsafe fn join(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: the head lies on the stack.
    unsafe {
        suspend::may_wait(state, shared, PATH);
        match joined(state, shared) {
            Next::Lead => lead(state, shared),
            Next::Wait => {
                suspend::push_token(state);
                ffi::lua_yieldk(state, 1, 0, Some(waited))
            }
            _ => suspend::raise(state, shared),
        }
    }
}

/// Raises nothing.
fn joined(state: *mut lua_State, shared: &Shared) -> Next {
    let Some(cache) = of(state, shared) else {
        return fail(shared, Fault::new("internal", "a cache is missing"));
    };
    // SAFETY: the head lies on the stack.
    let (key, number) = unsafe { (bytes_at(state, KEY), guards::guard_at(state, GUARD)) };
    let call = shared.call.get();
    match cache.flights.join(key.unwrap_or_default()) {
        Joined::Lead(lead) => {
            let slot = Slot::of(Lease::Lead(lead));
            shared.states.hold(number, call, slot);
            Next::Lead
        }
        Joined::Full => {
            let message = format!("`{PATH}`: {WAITING_MAX} calls wait for this result already");
            fail(shared, Fault::new("busy", message))
        }
        Joined::Waits(landed) => {
            let slot = Slot::default();
            shared.states.hold(number, call, slot.clone());
            let job = Job::new("cache", once::landing(landed, slot));
            let about = cache.settings().name.clone();
            let job = suspend::watched(shared, job, Some(about));
            shared.begin(Wait::Outside(job));
            Next::Wait
        }
    }
}

unsafe extern "C-unwind" fn waited(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the stack is as it was at the yield, without the token.
    unsafe {
        let shared = Shared::of(state);
        let next = match suspend::take_answer(shared) {
            Some(Value::Bytes(bytes)) => keep(shared, &bytes),
            Some(_) => Next::Lead,
            None => Next::Fault,
        };
        match next {
            Next::Kept => kv::push_kept(state, shared),
            Next::Lead => lead(state, shared),
            _ => suspend::raise(state, shared),
        }
    }
}

/// The call leads. A result that came meanwhile counts.
unsafe fn lead(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: the head lies on the stack.
    unsafe {
        match look_as_leader(state, shared) {
            Next::Kept => kv::push_kept(state, shared),
            Next::Missing => run(state),
            _ => suspend::raise(state, shared),
        }
    }
}

/// Raises nothing.
fn look_as_leader(state: *mut lua_State, shared: &Shared) -> Next {
    // SAFETY: the head lies on the stack.
    let key = unsafe { bytes_at(state, KEY) };
    let found = of(state, shared)
        .zip(key)
        .map(|(cache, key)| cache.look_again(key));
    match found {
        Some(Found::Fresh(bytes)) => {
            land(state, shared, &bytes);
            keep(shared, &bytes)
        }
        _ => Next::Missing,
    }
}

fn land(state: *mut lua_State, shared: &Shared, bytes: &Arc<[u8]>) {
    // SAFETY: the head lies on the stack.
    let number = unsafe { guards::guard_at(state, GUARD) };
    if let Some(Lease::Lead(lead)) = shared.states.take(number) {
        lead.land(bytes);
    }
}

/// Calls the function with copies of the arguments. Where an old result serves, an error of it is caught.
unsafe fn run(state: *mut lua_State) -> c_int {
    // SAFETY: `push_head` has checked the room; no Rust value is pending.
    unsafe {
        let count = ffi::lua_gettop(state) - HEAD;
        ffi::lua_pushvalue(state, RUN);
        for index in 1..=count {
            ffi::lua_pushvalue(state, HEAD + index);
        }
        if ffi::lua_type(state, OLD) == ffi::LUA_TNIL {
            ffi::lua_callk(state, count, 1, 0, Some(ran));
            return ran(state, ffi::LUA_OK, 0);
        }
        let status = ffi::lua_pcallk(state, count, 1, 0, 0, Some(ran));
        ran(state, status, 0)
    }
}

unsafe extern "C-unwind" fn ran(state: *mut lua_State, status: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the result, or the error, lies on top.
    unsafe {
        let shared = Shared::of(state);
        if status != ffi::LUA_OK && status != ffi::LUA_YIELD {
            if hook::ends() {
                return hook::pass_on(state);
            }
            if status == ffi::LUA_ERRMEM {
                ffi::lua_error(state);
            }
            return match keep_old(state, shared) {
                Next::Kept => kv::push_kept(state, shared),
                _ => suspend::raise(state, shared),
            };
        }
        match put(state, shared) {
            Next::Kept => 1,
            _ => suspend::raise(state, shared),
        }
    }
}

/// The function has failed: the old result goes on. Raises nothing.
fn keep_old(state: *mut lua_State, shared: &Shared) -> Next {
    // SAFETY: the head lies on the stack.
    let (key, old) = unsafe { (bytes_at(state, KEY), bytes_at(state, OLD)) };
    if let Some((cache, key)) = of(state, shared).zip(key) {
        cache.keep(key);
    }
    let old: Arc<[u8]> = old.unwrap_or_default().into();
    land(state, shared, &old);
    keep(shared, &old)
}

/// Keeps the result on top of the stack. Raises nothing.
fn put(state: *mut lua_State, shared: &Shared) -> Next {
    // SAFETY: values are read, never converted in place.
    let read = unsafe { plain::read(state, -1, shared.memory) };
    let read = read.map_err(|reason| format!(": the function returns plain data: {reason}"));
    let bytes = match read.and_then(|(value, _)| kv::encoded(&value)) {
        Ok(bytes) => Arc::<[u8]>::from(bytes),
        Err(reason) => return fail(shared, Fault::new("invalid", format!("`{PATH}`{reason}"))),
    };
    // SAFETY: the head lies on the stack.
    let key = unsafe { bytes_at(state, KEY) };
    if let Some((cache, key)) = of(state, shared).zip(key) {
        cache.put(key, Arc::clone(&bytes));
    }
    land(state, shared, &bytes);
    Next::Kept
}
