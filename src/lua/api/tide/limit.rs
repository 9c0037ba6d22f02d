//! `tide.limit`: so many runs in a time, and so many at once, over all workers of the process.
//!
//! What a call takes is given back by the guard on the stack of `limit:run`, however the call ends.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};
use std::sync::Arc;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::options::{self, Fields};
use crate::duration;
use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::lua::{guards, plain, suspend};
use crate::nearest::suggestion;
use crate::state::lease::{Lease, Slot};
use crate::state::limit::{self, Limit, Settings};
use crate::wait::{Job, Value, Wait};

pub(super) const ENTRY: Entry = Entry {
    name: "limit",
    path: "tide.limit",
    types: &[
        "Returns a limit of the process: so many runs in a time, so many at once, or both.",
        "@param name string",
        "@param options? { rate?: string, concurrency?: integer, timeout?: number|string }",
        "@return tide.Limit",
    ],
    body: Body::C(named),
};

/// The type definitions of the object for `LuaLS`.
pub(super) const DEFINITIONS: &str = "
---A limit of the process.
---@class tide.Limit
---@field run fun(self: tide.Limit, run: (fun(...: any): ...: any), ...: any): ...: any
---@field take fun(self: tide.Limit, count?: integer)
";

/// The methods, as their page has them.
pub(in crate::lua) const METHODS: [&str; 2] = ["run", "take"];

const PATH: &str = "tide.limit";
const NAMES: [&str; 3] = ["rate", "concurrency", "timeout"];
const FORM: &str = "{ rate = \"100/1s\", concurrency = 8 }";
const NAME_MAX: usize = 200;
const CONCURRENCY_MAX: i64 = 1_000_000;
const TIMEOUT: Duration = Duration::from_secs(60);
const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 86_400);
/// The most limits of a VM.
const LIMITS_MAX: usize = 1000;

const METATABLE: &CStr = c"moontide.limit";
const MADE: &CStr = c"moontide.limit.made";

/// Upvalues of a method: the index of its limit, and its object.
const LIMIT: c_int = ffi::lua_upvalueindex(2);
const OBJECT: c_int = ffi::lua_upvalueindex(3);

/// Makes the metatable of limits.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, unknown_method, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, PATH.as_bytes());
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

unsafe extern "C-unwind" fn unknown_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key; `attempt` raises after its closure has returned.
    unsafe {
        let shared = Shared::of(state);
        shared.attempt(state, || {
            let name = bytes_at(state, 2).map(|name| failure::cut(name, 100));
            let name = name.unwrap_or_default();
            let nearest = suggestion(&name, &METHODS);
            Err(format!("`{PATH}` has no method `{name}`, {nearest}"))
        })
    }
}

/// The limit of this name, which a VM makes once.
unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: only a number is pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 2);
        let mut index = 0;
        shared.attempt(state, || {
            index = one_of(state, shared).map_err(|reason| format!("`{PATH}`{reason}"))?;
            Ok(0)
        });
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, MADE.as_ptr());
        if ffi::lua_rawgeti(state, 3, index as i64 + 1) == ffi::LUA_TTABLE {
            return 1;
        }
        ffi::lua_settop(state, 3);
        ffi::lua_createtable(state, 0, METHODS.len() as c_int);
        let functions: [ffi::lua_CFunction; 2] = [run, take];
        for (name, function) in METHODS.iter().zip(functions) {
            push_bytes(state, name.as_bytes());
            ffi::lua_pushinteger(state, index as i64);
            ffi::lua_pushvalue(state, 4);
            shared.push_function(state, function, 2);
            ffi::lua_rawset(state, 4);
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, 4);
        ffi::lua_pushvalue(state, 4);
        ffi::lua_rawseti(state, 3, index as i64 + 1);
        1
    }
}

/// The index of the limit in the VM. Raises nothing.
unsafe fn one_of(state: *mut lua_State, shared: &Shared) -> Result<usize, String> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        let name = match bytes_at(state, 1) {
            Some(name) if (1..=NAME_MAX).contains(&name.len()) => {
                String::from_utf8_lossy(name).into_owned()
            }
            _ => {
                let found = type_name(state, 1);
                return Err(format!(
                    " takes a name, a string of 1 to {NAME_MAX} bytes, not {found}"
                ));
            }
        };
        let mut limits = shared.states.limits.borrow_mut();
        let known = limits
            .iter()
            .position(|(limit, _)| limit.settings().name == name);
        if ffi::lua_type(state, 2) == ffi::LUA_TNIL {
            return known.ok_or_else(|| {
                format!(": there is no limit `{name}` yet; make it with options, as `{FORM}`")
            });
        }
        let settings = settings(state, name)?;
        if let Some(index) = known {
            let (limit, position) = &limits[index];
            if *limit.settings() == settings {
                return Ok(index);
            }
            return Err(format!(
                ": {position} has made the limit `{}` with other settings; leave the options out here, or take another \
                 name",
                settings.name
            ));
        }
        if limits.len() >= LIMITS_MAX {
            return Err(format!(
                ": a vm has at most {LIMITS_MAX} limits; a limit for each key of messages counts by `tide.kv`"
            ));
        }
        let position = failure::position(state).unwrap_or_default();
        limits.push((shared.app.state.limit(&settings), position));
        Ok(limits.len() - 1)
    }
}

/// Raises nothing.
unsafe fn settings(state: *mut lua_State, name: String) -> Result<Settings, String> {
    // SAFETY: values are read, never converted in place.
    let (options, _) = unsafe { plain::read(state, 2, 1 << 20) }
        .map_err(|reason| format!(" takes options of plain data: {reason}"))?;
    let what = format!("options as a table, as `{FORM}`");
    let mut fields = Fields::of(options, String::new(), &what, &NAMES)?;
    let value = fields.take("rate");
    let rate = match &value {
        Value::Nil => None,
        other => {
            let rate = other.text().and_then(limit::rate);
            if rate.is_none() {
                let found = options::shown(other);
                return fields.error(format!(
                    "`rate` is {found}, not a number and a time such as \"100/1s\", \"5/m\" or \"1000/1h\""
                ));
            }
            rate
        }
    };
    let concurrency = options::integer(&mut fields, "concurrency", 1, CONCURRENCY_MAX)?;
    if rate.is_none() && concurrency.is_none() {
        return fields.error(format!(
            "`rate` and `concurrency` are missing; one of them is needed, as in `{FORM}`"
        ));
    }
    let timeout = options::timeout(&mut fields)?.unwrap_or(TIMEOUT);
    if timeout > TIMEOUT_MAX {
        let found = duration::short(timeout);
        return fields.error(format!("`timeout` is {found}, more than 7 days"));
    }
    Ok(Settings {
        name,
        rate,
        concurrency: concurrency.map(|most| most as usize),
        timeout,
    })
}

/// The limit of the running method; drops a first argument that is the object itself.
unsafe fn enter(state: *mut lua_State) {
    // SAFETY: `named` makes every method, with these upvalues.
    unsafe {
        if ffi::lua_rawequal(state, 1, OBJECT) != 0 {
            ffi::lua_remove(state, 1);
        }
    }
}

fn of(state: *mut lua_State, shared: &Shared) -> Option<Arc<Limit>> {
    // SAFETY: reads a number.
    let index = unsafe { ffi::lua_tointeger(state, LIMIT) } as usize;
    let limits = shared.states.limits.borrow();
    limits.get(index).map(|(limit, _)| Arc::clone(limit))
}

/// Takes `count` runs under this number, or begins the wait for them. Returns whether it has them. Raises nothing.
fn taken(
    state: *mut lua_State,
    shared: &Shared,
    name: &'static str,
    count: u64,
    number: u64,
) -> bool {
    let Some(limit) = of(state, shared) else {
        return true;
    };
    let call = shared.call.get();
    if let Some(share) = limit.try_take(count) {
        let lease = Lease::Share {
            _given_back_by_its_end: share,
        };
        if number > 0 {
            shared.states.hold(number, call, Slot::of(lease));
        }
        return true;
    }
    let slot = Slot::default();
    if number > 0 {
        shared.states.hold(number, call, slot.clone());
    }
    let about = limit.settings().name.clone();
    let job = Job::new(name, async move {
        let share = limit.wait(count).await?;
        slot.put(Lease::Share {
            _given_back_by_its_end: share,
        });
        Ok(Value::Nil)
    });
    let job = suspend::watched(shared, job, Some(about));
    shared.begin(Wait::Outside(job));
    false
}

unsafe extern "C-unwind" fn run(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; only numbers are pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        enter(state);
        suspend::may_wait(state, shared, "limit:run");
        shared.attempt(state, || {
            if ffi::lua_type(state, 1) == ffi::LUA_TFUNCTION {
                return Ok(0);
            }
            let found = type_name(state, 1);
            Err(format!("`limit:run` takes a function to run, not {found}"))
        });
        ffi::luaL_checkstack(state, 4, std::ptr::null());
        let number = guards::push_guard(state, shared);
        ffi::lua_insert(state, 1);
        guards::close_with(state, 1);
        if taken(state, shared, "limit.run", 1, number) {
            return call(state);
        }
        suspend::push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(got))
    }
}

unsafe extern "C-unwind" fn got(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the stack is as it was at the yield, without the token.
    unsafe {
        let shared = Shared::of(state);
        if suspend::take_answer(shared).is_none() {
            suspend::raise(state, shared);
        }
        call(state)
    }
}

/// Calls the function with its arguments, which lie above the guard.
unsafe fn call(state: *mut lua_State) -> c_int {
    // SAFETY: no Rust value is pending.
    unsafe {
        let count = ffi::lua_gettop(state) - 2;
        ffi::lua_callk(state, count, ffi::LUA_MULTRET, 0, Some(ran));
        ran(state, ffi::LUA_OK, 0)
    }
}

unsafe extern "C-unwind" fn ran(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the results lie above the guard, which is closed with the return.
    unsafe { ffi::lua_gettop(state) - 1 }
}

unsafe extern "C-unwind" fn take(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua; only numbers are pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        enter(state);
        suspend::may_wait(state, shared, "limit:take");
        ffi::lua_settop(state, 1);
        let mut count = 1;
        shared.attempt(state, || {
            count = count_at(state, shared).map_err(|reason| format!("`limit:take`{reason}"))?;
            Ok(0)
        });
        ffi::lua_settop(state, 0);
        if taken(state, shared, "limit.take", count, 0) {
            return 0;
        }
        suspend::push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(took))
    }
}

unsafe extern "C-unwind" fn took(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: nothing is pending.
    unsafe {
        let shared = Shared::of(state);
        if suspend::take_answer(shared).is_none() {
            suspend::raise(state, shared);
        }
        0
    }
}

/// Raises nothing.
unsafe fn count_at(state: *mut lua_State, shared: &Shared) -> Result<u64, String> {
    let Some(limit) = of(state, shared) else {
        return Ok(1);
    };
    let settings = limit.settings();
    let Some(rate) = settings.rate.filter(|_| settings.concurrency.is_none()) else {
        let name = &settings.name;
        return Err(format!(
            " is for a limit with `rate` alone, and `{name}` has `concurrency`; `limit:run` gives back what it takes"
        ));
    };
    // SAFETY: values are read, never converted in place.
    let (value, _) = unsafe { plain::read(state, 1, 1 << 10) }
        .map_err(|reason| format!(" takes a number: {reason}"))?;
    let most = rate.messages.min(i64::MAX as u64) as i64;
    match options::whole(&value) {
        _ if value == Value::Nil => Ok(1),
        Some(count) if (1..=most).contains(&count) => Ok(count as u64),
        _ => Err(format!(
            " takes an integer from 1 to {most}, the rate of the limit, not {}",
            options::shown(&value)
        )),
    }
}
