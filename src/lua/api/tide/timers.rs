//! `tide.every` and `tide.after`: a file declares functions that the worker runs by the clock.
//!
//! Each VM of a bundle runs the same files, so each declares the same timers. `rules::timers` decides which worker
//! runs a tick.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};
use std::sync::PoisonError;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry};
use crate::lua::api::{duration, fields};
use crate::lua::shared::{Declared, Shared, Stage};
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::failure;
use crate::nearest::suggestion;
use crate::rules::timers::{By, Each, Kind, Timer};

pub(super) const EVERY: Entry = Entry {
    name: "every",
    path: "tide.every",
    types: &[
        "Runs a function once a period, in one worker of the process or in each.",
        "Only at the top level of a file, and in `start` of init.lua.",
        "@param period number|string milliseconds, or a string such as \"10s\"",
        "@param tick fun()",
        "@param options? { each?: \"process\"|\"worker\" } default \"process\"",
        "@return tide.Timer",
    ],
    body: Body::C(every),
};

pub(super) const AFTER: Entry = Entry {
    name: "after",
    path: "tide.after",
    types: &[
        "Runs a function once, after this time, in one worker of the process or in each.",
        "Only at the top level of a file, and in `start` of init.lua.",
        "@param delay number|string milliseconds, or a string such as \"5s\"",
        "@param tick fun()",
        "@param options? { each?: \"process\"|\"worker\" } default \"process\"",
        "@return tide.Timer",
    ],
    body: Body::C(after),
};

const OPTIONS: [&str; 1] = ["each"];
const METATABLE: &CStr = c"moontide.timer";
const FIELDS: [&str; 1] = ["cancel"];
/// The most timers of a VM.
const TIMERS_MAX: usize = 1000;
/// The longest period: moments beyond it may not exist.
const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);

/// The arguments of a declaration.
#[derive(Clone, Copy)]
struct Arguments {
    kind: Kind,
    duration: Duration,
    each: Each,
}

/// Makes the metatable of the objects that are returned.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, index, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"timer");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

unsafe extern "C-unwind" fn index(state: *mut lua_State) -> c_int {
    // SAFETY: called by Lua with a table and a key.
    unsafe { fields::unknown(state, Shared::of(state), 2, "timer", &FIELDS) }
}

unsafe extern "C-unwind" fn every(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe { declare(state, Kind::Every, EVERY.path) }
}

unsafe extern "C-unwind" fn after(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe { declare(state, Kind::After, AFTER.path) }
}

unsafe fn declare(state: *mut lua_State, kind: Kind, name: &str) -> c_int {
    // SAFETY: only numbers are pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 3);
        let mut arguments = Arguments {
            kind,
            duration: Duration::ZERO,
            each: Each::Process,
        };
        shared.attempt(state, || {
            shared.may_declare(name)?;
            arguments.duration = duration_at(state, name)?;
            if ffi::lua_type(state, 2) != ffi::LUA_TFUNCTION {
                let found = type_name(state, 2);
                return Err(format!("`{name}` takes a function to run, not {found}"));
            }
            arguments.each = each_at(state, name)?;
            Ok(0)
        });
        ffi::lua_settop(state, 2);
        let function = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        let at = shared.declare(state, arguments, function);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_pushinteger(state, at as i64);
        shared.push_function(state, cancel, 1);
        ffi::lua_setfield(state, -2, c"cancel".as_ptr());
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, -2);
        1
    }
}

impl Shared {
    fn may_declare(&self, name: &str) -> Result<(), String> {
        if self.stage.get() == Stage::Runs {
            return Err(format!(
                "`{name}` comes too late, since its bundle is in force; call it at the top level of a file that loads with \
                 the bundle, or in `start` of init.lua"
            ));
        }
        if self.timers.borrow().len() >= TIMERS_MAX {
            return Err(format!(
                "`{name}`: a vm has at most {TIMERS_MAX} timers; let one timer do the work of several"
            ));
        }
        Ok(())
    }

    /// Adds a timer; returns its index.
    unsafe fn declare(
        &self,
        state: *mut lua_State,
        arguments: Arguments,
        function: c_int,
    ) -> usize {
        // SAFETY: reads the frames of the running state.
        let position = unsafe { failure::position(state) }.unwrap_or_default();
        let file = position.rsplit_once(':').map_or("", |(file, _)| file);
        let mut timer = Timer {
            file: file.to_owned(),
            kind: arguments.kind,
            duration: arguments.duration,
            each: arguments.each,
            ordinal: 0,
        };
        let mut timers = self.timers.borrow_mut();
        let like = timers.iter().filter(|one| one.timer.is_like(&timer));
        timer.ordinal = like.count();
        timers.push(Declared {
            timer,
            position: position.into(),
            function,
            is_cancelled: false,
        });
        timers.len() - 1
    }

    /// The timer begins no further tick: in this VM, or in all VMs of the process.
    fn cancel_timer(&self, at: usize) {
        let mut timers = self.timers.borrow_mut();
        let Some(declared) = timers.get_mut(at) else {
            return;
        };
        declared.is_cancelled = true;
        if let Some(worker) = self.worker.get() {
            let by = By {
                worker,
                bundle: self.bundle,
            };
            let schedule = self.app.timers.lock();
            let mut schedule = schedule.unwrap_or_else(PoisonError::into_inner);
            schedule.cancel(by, &declared.timer);
        }
    }
}

unsafe extern "C-unwind" fn cancel(state: *mut lua_State) -> c_int {
    // SAFETY: the upvalue is the index of the timer.
    unsafe {
        let at = ffi::lua_tointegerx(state, ffi::lua_upvalueindex(2), std::ptr::null_mut());
        Shared::of(state).cancel_timer(at as usize);
        0
    }
}

/// The first argument. Raises nothing.
unsafe fn duration_at(state: *mut lua_State, name: &str) -> Result<Duration, String> {
    // SAFETY: values are read, never converted in place.
    let found = unsafe { duration::at(state, 1) };
    let form = crate::duration::FORM;
    match found {
        Ok(duration) if duration.is_zero() => {
            Err(format!("`{name}` takes a time of 1 ms or more, not 0"))
        }
        Ok(duration) if duration > DURATION_MAX => {
            Err(format!("`{name}` takes a time of 366 days at most"))
        }
        Ok(duration) => Ok(duration),
        Err(found) => Err(format!("`{name}` takes {form}, not {found}")),
    }
}

/// The option `each`. Raises nothing.
unsafe fn each_at(state: *mut lua_State, name: &str) -> Result<Each, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, 3) {
            ffi::LUA_TNIL => return Ok(Each::Process),
            ffi::LUA_TTABLE => {}
            _ => {
                let found = type_name(state, 3);
                return Err(format!(
                    "`{name}` takes options as a table, as `{{ each = \"worker\" }}`, not {found}"
                ));
            }
        }
        let mut each = Each::Process;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 3) != 0 {
            let value = ffi::lua_gettop(state);
            match (bytes_at(state, value - 1), bytes_at(state, value)) {
                (Some(b"each"), Some(b"process")) => each = Each::Process,
                (Some(b"each"), Some(b"worker")) => each = Each::Worker,
                (Some(b"each"), found) => {
                    let found = match found {
                        Some(text) => format!("{:?}", failure::cut(text, 100)),
                        None => type_name(state, value).to_owned(),
                    };
                    return Err(format!(
                        "`each` of `{name}` is \"process\" or \"worker\", not {found}"
                    ));
                }
                (Some(key), _) => {
                    let key = failure::cut(key, 100);
                    let nearest = suggestion(&key, &OPTIONS);
                    return Err(format!("`{name}` knows no `{key}`, {nearest}"));
                }
                (None, _) => {
                    let found = type_name(state, value - 1);
                    return Err(format!(
                        "the options of `{name}` have names as keys, not {found}; there is `each`"
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
        Ok(each)
    }
}
