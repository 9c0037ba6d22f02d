//! `ctx.defer`: the handler returns, and other code finishes the message later, by `done()` or `fail()`.
//!
//! The object is a userdata with the number of its deferral. When Lua collects it, the message has failed: nothing can
//! finish it any more.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};
use std::time::Duration;

use mlua::ffi::{self, lua_CFunction, lua_State};

use super::{call, duration, fields};
use crate::lua::deferrals::{DeferralId, Given};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::nearest::suggestion;

const NAME: &str = "ctx.defer";
const METATABLE: &CStr = c"moontide.deferral";
const OPTIONS: [&str; 1] = ["timeout"];
const FIELDS: [&str; 2] = ["done", "fail"];
const TIMEOUT_MAX: Duration = Duration::from_secs(7 * 24 * 3600);
/// Longer texts are cut: they go to logs and to headers.
const REASON_MAX: usize = 8 << 10;

/// Makes the metatable of the objects that are returned.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 4);
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        shared.push_function(state, collected, 0);
        ffi::lua_setfield(state, -2, c"__gc".as_ptr());
        push_bytes(state, b"deferral");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

impl Shared {
    fn may_defer(&self) -> Result<(), String> {
        let listener = self.listener.get();
        if let Some(consumer) = listener.and_then(|one| self.config.exactly_once(one)) {
            return Err(format!(
                "`{NAME}`: consumer `{}` has `exactlyOnce`, and a transaction commits the offset of a message with what \
                 its handler emits; remove `exactlyOnce`, or finish the message in its handler",
                consumer.name
            ));
        }
        if self.with_batch(|_| ()).is_some() {
            return Err(format!(
                "`{NAME}` is for one message, and this is a batch; take the messages one by one, without `eachBatch`"
            ));
        }
        if self.deferrals.is_deferred(self.call.get()) {
            return Err(format!(
                "`{NAME}`: the message of this call is deferred already; keep the object of the first call of it"
            ));
        }
        Ok(())
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn defer(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`; only numbers are pending where Lua may raise.
    unsafe {
        let (shared, _) = call::enter(state);
        ffi::lua_settop(state, 1);
        let mut timeout = None;
        shared.attempt(state, || {
            shared.may_defer()?;
            timeout = timeout_at(state)?;
            Ok(0)
        });
        ffi::lua_settop(state, 0);
        let block = ffi::lua_newuserdatauv(state, size_of::<u64>(), 0).cast::<u64>();
        let id = shared.deferrals.next();
        block.write(id.0);
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, -2);
        // Nothing raises from here on.
        let position = failure::position(state).unwrap_or_default();
        let call = shared.call.get();
        shared.deferrals.begin(call, id, timeout, &position);
        shared.emits.set(true);
        1
    }
}

/// The option `timeout`; `None` where it is not given. Raises nothing.
unsafe fn timeout_at(state: *mut lua_State) -> Result<Option<Duration>, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, 1) {
            ffi::LUA_TNIL => return Ok(None),
            ffi::LUA_TTABLE => {}
            _ => {
                return Err(format!(
                    "`{NAME}` takes options as a table, as `{{ timeout = \"30s\" }}`, not {}",
                    type_name(state, 1)
                ));
            }
        }
        let mut timeout = None;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            let value = ffi::lua_gettop(state);
            match bytes_at(state, value - 1) {
                Some(b"timeout") => timeout = Some(duration_at(state, value)?),
                Some(key) => {
                    let key = failure::cut(key, 100);
                    let nearest = suggestion(&key, &OPTIONS);
                    return Err(format!("`{NAME}` knows no `{key}`, {nearest}"));
                }
                None => {
                    let found = type_name(state, value - 1);
                    return Err(format!(
                        "the options of `{NAME}` have names as keys, not {found}; there is `timeout`"
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
        Ok(timeout)
    }
}

unsafe fn duration_at(state: *mut lua_State, index: c_int) -> Result<Duration, String> {
    // SAFETY: reads a value.
    let found = unsafe { duration::at(state, index) };
    let found = found.and_then(|timeout| {
        if (Duration::from_millis(1)..=TIMEOUT_MAX).contains(&timeout) {
            return Ok(timeout);
        }
        Err(format!("{} s", timeout.as_secs_f64()))
    });
    found.map_err(|found| {
        format!(
            "`timeout` of `{NAME}` is {}, from 1 ms to 7 d, not {found}",
            crate::duration::FORM
        )
    })
}

/// The deferral of the object at `index`.
unsafe fn id_at(state: *mut lua_State, index: c_int) -> Option<DeferralId> {
    // SAFETY: a full userdata of that size is read. Any number is acceptable, since every use of it is checked.
    unsafe {
        let is_block = ffi::lua_type(state, index) == ffi::LUA_TUSERDATA
            && ffi::lua_rawlen(state, index) == size_of::<u64>();
        is_block.then(|| DeferralId(*ffi::lua_touserdata(state, index).cast::<u64>()))
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua with an object and a key.
    unsafe {
        let shared = Shared::of(state);
        let method: lua_CFunction = match bytes_at(state, 2).unwrap_or_default() {
            b"done" => done,
            b"fail" => fail,
            _ => return fields::unknown(state, shared, 2, "deferral", &FIELDS),
        };
        ffi::lua_pushvalue(state, 1);
        shared.push_function(state, method, 1);
        1
    }
}

/// The start of a method. Drops a first argument that is the object itself, so that `.` and `:` are alike.
unsafe fn enter<'a>(state: *mut lua_State) -> (&'a Shared, DeferralId) {
    // SAFETY: `index` makes every method, with its object as the second upvalue.
    unsafe {
        let shared = Shared::of(state);
        let own = ffi::lua_upvalueindex(2);
        if ffi::lua_rawequal(state, 1, own) != 0 {
            ffi::lua_remove(state, 1);
        }
        match id_at(state, own) {
            Some(id) => (shared, id),
            // Only `debug` reaches this function.
            None => shared.raise(state, "this value is not a deferral".to_owned()),
        }
    }
}

unsafe extern "C-unwind" fn done(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe {
        let (shared, id) = enter(state);
        let counts = shared.deferrals.give(id, Given::Done);
        ffi::lua_pushboolean(state, counts.into());
        1
    }
}

unsafe extern "C-unwind" fn fail(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`. A metamethod of the error may raise, and nothing is pending then.
    unsafe {
        let (shared, id) = enter(state);
        ffi::lua_settop(state, 1);
        let reason = if ffi::lua_type(state, 1) == ffi::LUA_TNIL {
            "`fail` was called for a deferred message, without a reason".to_owned()
        } else {
            ffi::luaL_tolstring(state, 1, std::ptr::null_mut());
            failure::cut(bytes_at(state, -1).unwrap_or_default(), REASON_MAX)
        };
        let counts = shared.deferrals.give(id, Given::Failed(reason));
        ffi::lua_pushboolean(state, counts.into());
        1
    }
}

unsafe extern "C-unwind" fn collected(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua's collector with an object; nothing here raises.
    unsafe {
        if let Some(id) = id_at(state, 1) {
            Shared::of(state).deferrals.give(id, Given::Collected);
        }
        0
    }
}
