//! `ctx.commitOffsets`: the handler waits for the broker's answer, or requests the commit without waiting.
//!
//! A request without a wait is kept until the slice ends, however the call ends; the host takes it from there. So it
//! costs a handler no yield, and is possible where the state cannot wait.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::sync::Arc;

use mlua::ffi::{self, lua_KContext, lua_State};

use super::call;
use crate::lua::CallId;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, type_name};
use crate::lua::suspend;
use crate::lua::vm::failure;
use crate::nearest::suggestion;
use crate::wait::{Answer, Requested, Wait};

const NAME: &str = "ctx.commitOffsets";
const OPTIONS: [&str; 1] = ["wait"];

impl Shared {
    /// Transactions commit by themselves. While records of the call are on their way before a commit, or were refused
    /// there, no commit may pass them.
    fn may_commit(&self) -> Result<(), String> {
        let listener = self.listener.get();
        if let Some(consumer) = listener.and_then(|one| self.config.exactly_once(one)) {
            return Err(format!(
                "`{NAME}`: consumer `{}` has `exactlyOnce`, so its transactions commit the offsets; remove the call",
                consumer.name
            ));
        }
        if self.owing.borrow().contains(&self.call.get()) {
            return Err(format!(
                "`{NAME}`: an earlier commit of this call has records that are not acknowledged; await it first, and let \
                 the call fail if it raises"
            ));
        }
        Ok(())
    }

    /// No commit passes a deferred message: one that its own call awaits would come back without it.
    fn may_await_commit(&self) -> Result<(), String> {
        if self.deferrals.is_deferred(self.call.get()) {
            return Err(format!(
                "`{NAME}`: the message is deferred, and its offset is committed once it is finished; write \
                 `{{ wait = false }}`, or commit before `ctx.defer`"
            ));
        }
        Ok(())
    }

    /// What the call has emitted so far leaves first, whatever becomes of the call. Returns whether there is any.
    fn wait_for_commit(&self, offset: i64) -> (Wait, bool) {
        let call = self.call.get();
        self.forget_owners();
        match self.take_emitted(CallId(call)) {
            Some(emitted) => {
                self.owing.borrow_mut().insert(call);
                (Wait::EmitAndCommit(emitted, offset), true)
            }
            None => (Wait::Commit(offset), false),
        }
    }

    /// `None`: nothing is resolved of which the host does not know.
    fn wait_for_settling(&self) -> Option<(Wait, bool)> {
        let (done, behind, emitted) = self.take_resolved()?;
        let has_records = emitted.is_some();
        if has_records {
            self.owing.borrow_mut().insert(self.call.get());
        }
        let wait = Wait::Settle {
            done,
            behind,
            emitted: emitted.map(Arc::new),
        };
        Some((wait, has_records))
    }

    /// The call has ended. Returns whether records of it are not acknowledged that it has given to a commit.
    pub(in crate::lua) fn owes(&self, call: CallId) -> bool {
        self.owing.borrow_mut().remove(&call.0)
    }

    /// A request after a verdict does not count.
    fn ask(&self, offset: i64) {
        if self.has_verdict() {
            return;
        }
        let with = |before: Option<Requested>| Requested {
            highest: before.map_or(offset, |one| one.highest).max(offset),
            last: offset,
        };
        if !self.ask_behind_emitted(with) {
            self.asked.set(Some(with(self.asked.get())));
        }
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn commit_offsets(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`; the arguments are read into plain data before anything is pending.
    unsafe {
        let (shared, _) = call::enter(state);
        ffi::lua_settop(state, 2);
        let (mut offset, mut waits) = (0, true);
        shared.attempt(state, || {
            offset = offset_at(state, 1, NAME)?;
            shared.may_commit()?;
            waits = waits_at(state, 2)?;
            Ok(0)
        });
        if !waits {
            shared.ask(offset);
            return 0;
        }
        commit(state, shared, NAME, offset)
    }
}

/// Commits the offset, and waits for the broker's answer.
pub(super) unsafe fn commit(
    state: *mut lua_State,
    shared: &Shared,
    name: &str,
    offset: i64,
) -> c_int {
    // SAFETY: the wait is in `shared` before the state yields.
    unsafe {
        shared.attempt(state, || {
            shared.may_commit()?;
            shared.may_await_commit().map(|()| 0)
        });
        suspend::may_wait(state, shared, name);
        let (wait, has_records) = shared.wait_for_commit(offset);
        let then = if has_records {
            written_and_committed
        } else {
            committed
        };
        suspend::begin(state, shared, wait, name, then)
    }
}

/// The host is told of the messages of a batch that are resolved, and what belongs to them is written first.
pub(super) unsafe fn settle(state: *mut lua_State, shared: &Shared, name: &str) -> c_int {
    // SAFETY: as in `commit`.
    unsafe {
        shared.attempt(state, || shared.may_commit().map(|()| 0));
        suspend::may_wait(state, shared, name);
        let Some((wait, has_records)) = shared.wait_for_settling() else {
            return 0;
        };
        let then = if has_records {
            written_and_committed
        } else {
            committed
        };
        suspend::begin(state, shared, wait, name, then)
    }
}

/// Takes the broker's answer, which the host left.
unsafe extern "C-unwind" fn committed(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the reason is moved away before anything is raised.
    unsafe {
        let shared = Shared::of(state);
        let reason = match shared.answer.take() {
            Some(Answer::Committed(Ok(offset))) => {
                shared.with_batch(|batch| batch.committed(offset));
                ffi::lua_pushinteger(state, offset);
                return 1;
            }
            Some(Answer::Committed(Err(reason))) => reason,
            // Lua code resumed the coroutine after the end of the call that asked.
            _ => "the call that asked for this commit was given up".to_owned(),
        };
        shared.raise(state, reason)
    }
}

/// As `committed`, behind records of the call. Without an acknowledgement of them the call owes them still.
unsafe extern "C-unwind" fn written_and_committed(
    state: *mut lua_State,
    status: c_int,
    context: lua_KContext,
) -> c_int {
    // SAFETY: as in `committed`.
    unsafe {
        let shared = Shared::of(state);
        let answer = shared.answer.take();
        if let Some(Answer::Unwritten(fault)) = answer {
            shared.raise(state, fault.message);
        }
        if matches!(answer, Some(Answer::Committed(_))) {
            shared.owing.borrow_mut().remove(&shared.call.get());
        }
        shared.answer.replace(answer);
        committed(state, status, context)
    }
}

/// Reads an offset in the forms that Kafka clients use: integers, floats with an integral value, and decimal strings.
pub(super) unsafe fn offset_at(
    state: *mut lua_State,
    index: c_int,
    name: &str,
) -> Result<i64, String> {
    // SAFETY: numbers and strings are read, never converted in place.
    unsafe {
        let offset = match ffi::lua_type(state, index) {
            ffi::LUA_TNUMBER => {
                let mut exact = 0;
                let integer = ffi::lua_tointegerx(state, index, &raw mut exact);
                if exact == 0 {
                    let number = ffi::lua_tonumber(state, index);
                    return Err(format!("`{name}` takes a whole offset, not {number}"));
                }
                integer
            }
            ffi::LUA_TSTRING => {
                let text = String::from_utf8_lossy(bytes_at(state, index).unwrap_or_default());
                let digits = text.bytes().all(|byte| byte.is_ascii_digit());
                let parsed = if digits { text.parse().ok() } else { None };
                parsed.ok_or_else(|| {
                    format!("`{name}` takes an offset in decimal digits, not {text:?}")
                })?
            }
            _ => {
                return Err(format!(
                    "`{name}` takes an offset, not {}",
                    type_name(state, index)
                ));
            }
        };
        if offset < 0 {
            return Err(format!(
                "`{name}` takes an offset of 0 or more, not {offset}"
            ));
        }
        Ok(offset)
    }
}

/// The option `wait`; true by default.
unsafe fn waits_at(state: *mut lua_State, index: c_int) -> Result<bool, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNIL => return Ok(true),
            ffi::LUA_TTABLE => {}
            _ => {
                return Err(format!(
                    "`ctx.commitOffsets` takes options as a table, as `{{ wait = false }}`, not {}",
                    type_name(state, index)
                ));
            }
        }
        let mut waits = true;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, index) != 0 {
            let value = ffi::lua_gettop(state);
            match bytes_at(state, value - 1) {
                Some(b"wait") if ffi::lua_type(state, value) == ffi::LUA_TBOOLEAN => {
                    waits = ffi::lua_toboolean(state, value) != 0;
                }
                Some(b"wait") => {
                    return Err(format!(
                        "`wait` of `ctx.commitOffsets` is true or false, not {}",
                        type_name(state, value)
                    ));
                }
                Some(key) => {
                    let key = failure::cut(key, 100);
                    let nearest = suggestion(&key, &OPTIONS);
                    return Err(format!("`ctx.commitOffsets` knows no `{key}`, {nearest}"));
                }
                None => {
                    return Err(format!(
                        "the options of `ctx.commitOffsets` have names as keys, not {}; there is `wait`",
                        type_name(state, value - 1)
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
        Ok(waits)
    }
}
