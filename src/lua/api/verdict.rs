//! `ctx.retry`, `ctx.deadLetter` and `ctx.skip`: the handler gives its verdict on the message, and its call ends.
//!
//! The verdict is kept first, then the call unwinds. If the coroutine can yield, it unwinds like a wait, else like
//! the watchdog's kill. Nothing in between (a `pcall`, a coroutine) can undo the verdict, and the first verdict
//! counts. A coroutine that gave a verdict is never resumed: `coroutine` and the host close it on the way.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::{call, duration};
use crate::lua::Verdict;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::vm::{failure, hook};
use crate::nearest::suggestion;

const AFTER_MAX: Duration = Duration::from_secs(24 * 3600);
/// Longer reasons are cut: they go to logs and to headers.
const REASON_MAX: usize = 8 << 10;
const KEYS: [&str; 2] = ["after", "reason"];

impl Shared {
    pub(in crate::lua) fn has_verdict(&self) -> bool {
        self.verdict.borrow().is_some()
    }

    fn keep_verdict(&self, name: &str, verdict: Verdict) -> Result<c_int, String> {
        if self.coroutine.get().is_null() || !self.loading.borrow().is_empty() {
            return Err(format!(
                "`{name}` ends a handler's call, which cannot be done at the top level of a file; call it from the handler"
            ));
        }
        let mut kept = self.verdict.borrow_mut();
        if kept.is_some() {
            return Err(format!(
                "`{name}` comes too late: the call has already requested the end of the message"
            ));
        }
        *kept = Some(verdict);
        Ok(0)
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn retry(state: *mut lua_State) -> c_int {
    // SAFETY: a method of a ctx.
    unsafe { ask(state, "ctx.retry", retry_at) }
}

pub(in crate::lua) unsafe extern "C-unwind" fn dead_letter(state: *mut lua_State) -> c_int {
    let read = |state| {
        // SAFETY: as in `ask`.
        let reason = unsafe { reason_at(state, 1, "ctx.deadLetter") }?;
        Ok(Verdict::DeadLetter { reason })
    };
    // SAFETY: a method of a ctx.
    unsafe { ask(state, "ctx.deadLetter", read) }
}

pub(in crate::lua) unsafe extern "C-unwind" fn skip(state: *mut lua_State) -> c_int {
    let read = |state| {
        // SAFETY: as in `ask`.
        let reason = unsafe { reason_at(state, 1, "ctx.skip") }?;
        Ok(Verdict::Skip { reason })
    };
    // SAFETY: a method of a ctx.
    unsafe { ask(state, "ctx.skip", read) }
}

/// Keeps the verdict that `read` makes of the arguments, and ends the call.
unsafe fn ask(
    state: *mut lua_State,
    name: &str,
    read: unsafe fn(*mut lua_State) -> Result<Verdict, String>,
) -> c_int {
    // SAFETY: as in `end_by`.
    unsafe {
        let (shared, _) = call::enter(state);
        if shared.with_batch(|_| ()).is_some() {
            let message = format!(
                "`{name}` is for one message, and this is a batch; name one by `ctx.failAt(i, reason)`"
            );
            shared.raise(state, message);
        }
        end_by(state, shared, name, 1, |state| read(state))
    }
}

/// Keeps the verdict that `read` makes of so many arguments, and ends the call.
pub(super) unsafe fn end_by(
    state: *mut lua_State,
    shared: &Shared,
    name: &str,
    arguments: c_int,
    read: impl FnOnce(*mut lua_State) -> Result<Verdict, String>,
) -> c_int {
    // SAFETY: the verdict is moved away before anything raises or yields.
    unsafe {
        if hook::killed() {
            return hook::pass_on(state);
        }
        ffi::lua_settop(state, arguments);
        shared.attempt(state, || shared.keep_verdict(name, read(state)?));
        hook::ask();
        // The hook is for C code that resumes coroutines by itself, and continues when one of them yields.
        hook::set(shared.coroutine.get());
        if ffi::lua_isyieldable(state) != 0 {
            return ffi::lua_yieldk(state, 0, 0, Some(resumed));
        }
        hook::pass_on(state)
    }
}

/// Only such C code calls this function.
unsafe extern "C-unwind" fn resumed(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe { Shared::of(state).raise(state, "the call has ended".to_owned()) }
}

/// Reads nothing, a reason, or a table.
unsafe fn retry_at(state: *mut lua_State) -> Result<Verdict, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, 1) {
            ffi::LUA_TNIL => Ok(Verdict::Retry {
                after: None,
                reason: None,
            }),
            ffi::LUA_TSTRING => {
                let reason = reason_at(state, 1, "ctx.retry")?;
                if let Some(text) = reason.as_deref()
                    && crate::duration::parse(text).is_some()
                {
                    return Err(format!(
                        "`ctx.retry` takes a reason; write a delay as a named field: `ctx.retry{{ after = {text:?} }}`"
                    ));
                }
                Ok(Verdict::Retry {
                    after: None,
                    reason,
                })
            }
            ffi::LUA_TTABLE => retry_of_table(state),
            _ => Err(format!(
                "`ctx.retry` takes a reason, or a table as `{{ after = \"5s\", reason = \"…\" }}`, not {}",
                type_name(state, 1)
            )),
        }
    }
}

unsafe fn retry_of_table(state: *mut lua_State) -> Result<Verdict, String> {
    let (mut after, mut reason) = (None, None);
    // SAFETY: as in `retry_at`.
    unsafe {
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, 1) != 0 {
            let value = ffi::lua_gettop(state);
            match bytes_at(state, value - 1) {
                Some(b"after") => after = Some(after_at(state, value)?),
                Some(b"reason") => reason = reason_at(state, value, "ctx.retry")?,
                Some(key) => {
                    let key = String::from_utf8_lossy(key);
                    let key = failure::cut(key.as_bytes(), 100);
                    return Err(format!(
                        "`ctx.retry` knows no `{key}`, {}",
                        suggestion(&key, &KEYS)
                    ));
                }
                None => {
                    return Err(format!(
                        "the table of `ctx.retry` has names as keys, not {}; there are `after`, `reason`",
                        type_name(state, value - 1)
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
    }
    Ok(Verdict::Retry { after, reason })
}

unsafe fn after_at(state: *mut lua_State, index: c_int) -> Result<Duration, String> {
    // SAFETY: reads a value.
    let found = unsafe { duration::at(state, index) };
    let found = found.and_then(|after| {
        if after <= AFTER_MAX {
            return Ok(after);
        }
        Err(format!("{} s", after.as_secs()))
    });
    found.map_err(|found| {
        format!(
            "`after` of `ctx.retry` is {}, from 0 to 24 h, not {found}",
            crate::duration::FORM
        )
    })
}

/// Reads a string, or none.
pub(super) unsafe fn reason_at(
    state: *mut lua_State,
    index: c_int,
    name: &str,
) -> Result<Option<String>, String> {
    // SAFETY: only strings are read.
    unsafe {
        match bytes_at(state, index) {
            Some(reason) => Ok(Some(failure::cut(reason, REASON_MAX))),
            None if ffi::lua_type(state, index) <= ffi::LUA_TNIL => Ok(None),
            None => Err(format!(
                "the reason of `{name}` is a string, not {}; `tostring` makes one",
                type_name(state, index)
            )),
        }
    }
}
