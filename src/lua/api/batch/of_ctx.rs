//! The methods of `ctx` that only the call of a batch has.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::api::call::{self, Ctx};
use crate::lua::api::commit;
use crate::lua::api::verdict;
use crate::lua::control::Key;
use crate::lua::open_batch::OpenBatch;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::lua::vm::failure;
use crate::lua::{Verdict, control};
use crate::rules::topic_pauses::{By, Selection};
use crate::wait::Fault;

/// The start of a method. Raises where the running call has no batch.
unsafe fn enter<'a>(state: *mut lua_State, name: &str) -> (&'a Shared, Ctx) {
    // SAFETY: as in `call::enter`.
    unsafe {
        let (shared, ctx) = call::enter(state);
        if shared.with_batch(|_| ()).is_none() {
            shared.raise(
                state,
                format!(
                    "`{name}` is for a batch, and this listener gets messages one by one; set `eachBatch = true`"
                ),
            );
        }
        (shared, ctx)
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn resolve_offset(state: *mut lua_State) -> c_int {
    const NAME: &str = "ctx.resolveOffset";
    // SAFETY: the argument is read into plain data before anything raises.
    unsafe {
        let (shared, _) = enter(state, NAME);
        ffi::lua_settop(state, 1);
        shared.attempt(state, || {
            let offset = commit::offset_at(state, 1, NAME)?;
            shared.with_batch(|batch| batch.resolve(offset));
            Ok(0)
        })
    }
}

/// Ends the call: the messages before this one are done, and it has failed.
pub(in crate::lua) unsafe extern "C-unwind" fn fail_at(state: *mut lua_State) -> c_int {
    const NAME: &str = "ctx.failAt";
    // SAFETY: `ask` is the end of the method, and `enter` leaves the arguments as they are.
    unsafe {
        let (shared, _) = enter(state, NAME);
        let read = |state| {
            let number = ffi::lua_tointegerx(state, 1, std::ptr::null_mut());
            let is_number = ffi::lua_type(state, 1) == ffi::LUA_TNUMBER;
            let found = type_name(state, 1);
            let reason = verdict::reason_at(state, 2, NAME)?;
            let index = shared.with_batch(|batch| index_of(batch, number));
            let index = index.filter(|_| is_number).unwrap_or_else(|| {
                Err(format!(
                    "`{NAME}` takes the index of a message in `batch.messages`, not {found}"
                ))
            })?;
            Ok(Verdict::FailAt { index, reason })
        };
        verdict::end_by(state, shared, NAME, 2, read)
    }
}

fn index_of(batch: &OpenBatch, number: i64) -> Result<usize, String> {
    let (length, resolved) = (batch.len(), batch.resolved());
    match usize::try_from(number) {
        Ok(number) if (1..=length).contains(&number) && number > resolved => Ok(number - 1),
        Ok(number) if (1..=length).contains(&number) => Err(format!(
            "`ctx.failAt`: message {number} is resolved already; name one behind it"
        )),
        _ => Err(format!(
            "`ctx.failAt` takes the index of a message, from 1 to {length}, not {number}"
        )),
    }
}

/// The message of a consumer of kafkajs: Moontide's heartbeats need no handler.
pub(in crate::lua) unsafe extern "C-unwind" fn heartbeat(state: *mut lua_State) -> c_int {
    // SAFETY: as in `enter`.
    unsafe { enter(state, "ctx.heartbeat") };
    0
}

/// The partition of the call; `None` in a retry topic, whose own partition it is not.
fn key(ctx: &Ctx, topic: &[u8]) -> Option<Key> {
    (!ctx.is_retry).then(|| (String::from_utf8_lossy(topic).into_owned(), ctx.partition))
}

/// What the consumer says of the call's partition.
unsafe fn standing(state: *mut lua_State, name: &str) -> control::Standing {
    // SAFETY: nothing raises while the key is pending.
    unsafe {
        let (shared, ctx) = enter(state, name);
        call::push_topic(state, &ctx);
        let key = key(&ctx, bytes_at(state, -1).unwrap_or_default());
        let consumer = shared.config.listeners.get(ctx.listener);
        let consumer = consumer.map_or("", |one| one.consumer.as_str());
        key.map_or(control::Standing::Ours, |key| {
            shared.app.consumers.of(consumer).standing(&key)
        })
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn is_running(state: *mut lua_State) -> c_int {
    // SAFETY: as in `standing`.
    unsafe {
        let standing = standing(state, "ctx.isRunning");
        ffi::lua_pushboolean(state, c_int::from(standing != control::Standing::Over));
        1
    }
}

pub(in crate::lua) unsafe extern "C-unwind" fn is_stale(state: *mut lua_State) -> c_int {
    // SAFETY: as in `standing`.
    unsafe {
        let standing = standing(state, "ctx.isStale");
        ffi::lua_pushboolean(state, c_int::from(standing != control::Standing::Ours));
        1
    }
}

/// `{ topics = { { topic = …, partitions = { { partition = …, offset = … } } } } }`
pub(in crate::lua) unsafe extern "C-unwind" fn uncommitted_offsets(state: *mut lua_State) -> c_int {
    // SAFETY: a C function has room for twenty values; only plain data is pending.
    unsafe {
        let (shared, ctx) = enter(state, "ctx.uncommittedOffsets");
        let offset = shared.with_batch(|batch| batch.uncommitted()).flatten();
        ffi::lua_settop(state, 0);
        ffi::lua_createtable(state, 0, 1);
        ffi::lua_createtable(state, 1, 0);
        if let Some(offset) = offset {
            ffi::lua_createtable(state, 0, 2);
            call::push_topic(state, &ctx);
            ffi::lua_setfield(state, -2, c"topic".as_ptr());
            ffi::lua_createtable(state, 1, 0);
            ffi::lua_createtable(state, 0, 2);
            ffi::lua_pushinteger(state, ctx.partition.into());
            ffi::lua_setfield(state, -2, c"partition".as_ptr());
            ffi::lua_pushinteger(state, offset);
            ffi::lua_setfield(state, -2, c"offset".as_ptr());
            ffi::lua_rawseti(state, -2, 1);
            ffi::lua_setfield(state, -2, c"partitions".as_ptr());
            ffi::lua_rawseti(state, -2, 1);
        }
        ffi::lua_setfield(state, -2, c"topics".as_ptr());
        1
    }
}

/// Pauses the partition, and returns the function that resumes it.
pub(in crate::lua) unsafe extern "C-unwind" fn pause(state: *mut lua_State) -> c_int {
    const NAME: &str = "ctx.pause";
    // SAFETY: every Rust value is dropped, or in `shared`, before anything raises.
    unsafe {
        let (shared, ctx) = enter(state, NAME);
        if ctx.is_retry {
            shared.raise(
                state,
                format!(
                    "`{NAME}` pauses the partition of the batch, and this message lies in a retry topic; name one by \
                     `ctx.consumer.pause`"
                ),
            );
        }
        ffi::lua_settop(state, 0);
        call::push_topic(state, &ctx);
        let consumer = shared.config.listeners.get(ctx.listener);
        push_bytes(state, consumer.map_or(b"", |one| one.consumer.as_bytes()));
        if let Err(fault) = pause_or_resume(state, shared, ctx.partition, (1, 2), Some(&ctx)) {
            shared.fault.replace(Some(fault));
            suspend::raise(state, shared);
        }
        ffi::lua_pushinteger(state, ctx.partition.into());
        shared.push_function(state, resume, 3);
        1
    }
}

/// The function that `ctx.pause` has returned; it may be called at any time.
unsafe extern "C-unwind" fn resume(state: *mut lua_State) -> c_int {
    // SAFETY: `pause` makes the upvalues.
    unsafe {
        let shared = Shared::of(state);
        let partition = ffi::lua_tointegerx(state, ffi::lua_upvalueindex(4), std::ptr::null_mut());
        let places = (ffi::lua_upvalueindex(2), ffi::lua_upvalueindex(3));
        if let Err(fault) = pause_or_resume(state, shared, partition as i32, places, None) {
            shared.fault.replace(Some(fault));
            suspend::raise(state, shared);
        }
        0
    }
}

/// Pauses by the call of a ctx, or resumes; topic and consumer lie at these places. Raises nothing.
unsafe fn pause_or_resume(
    state: *mut lua_State,
    shared: &Shared,
    partition: i32,
    (topic, consumer): (c_int, c_int),
    by: Option<&Ctx>,
) -> Result<(), Fault> {
    // SAFETY: strings are read.
    let (topic, consumer, position) = unsafe {
        let text = |place| String::from_utf8_lossy(bytes_at(state, place).unwrap_or_default());
        let position = failure::position(state);
        (text(topic).into_owned(), text(consumer), position)
    };
    let control = shared.app.consumers.of(&consumer);
    let selection = Selection {
        topic,
        partitions: Some(vec![partition]),
    };
    let Some(ctx) = by else {
        return control.resume(&[selection]);
    };
    let listener = format!("listener `{}`", shared.listener_name(ctx.listener));
    let who: Vec<_> = std::iter::once(listener).chain(position).collect();
    let by = By {
        who: who.join(", "),
        since: shared.clock.wall_ms(),
    };
    control.pause(&[selection], &by)
}

/// What is resolved counts as done now. With an argument, that is committed.
pub(in crate::lua) unsafe extern "C-unwind" fn commit_if_necessary(state: *mut lua_State) -> c_int {
    const NAME: &str = "ctx.commitOffsetsIfNecessary";
    // SAFETY: the argument is read into plain data before anything is pending.
    unsafe {
        let (shared, ctx) = enter(state, NAME);
        ffi::lua_settop(state, 1);
        if shared.config.exactly_once(ctx.listener).is_some() {
            // Transactions commit by themselves.
            return 0;
        }
        if ffi::lua_type(state, 1) == ffi::LUA_TNIL {
            return commit::settle(state, shared, NAME);
        }
        call::push_topic(state, &ctx);
        let mut offset = None;
        shared.attempt(state, || {
            offset = offset_of(state, ctx.partition)?;
            Ok(0)
        });
        match offset {
            Some(offset) => commit::commit(state, shared, NAME, offset),
            None => 0,
        }
    }
}

/// An offset, or the table of `ctx.uncommittedOffsets`; the topic of the batch lies above it. `None`: it names none.
unsafe fn offset_of(state: *mut lua_State, partition: i32) -> Result<Option<i64>, String> {
    const NAME: &str = "ctx.commitOffsetsIfNecessary";
    // SAFETY: fields are read without metamethods, of tables only.
    unsafe {
        if ffi::lua_type(state, 1) != ffi::LUA_TTABLE {
            return commit::offset_at(state, 1, NAME).map(Some);
        }
        let refuse = || {
            Err(format!(
                "`{NAME}` takes an offset, or `{{ topics = {{ {{ topic = …, partitions = {{ {{ partition = …, offset = … \
                 }} }} }} }} }}` of the batch's own partition, as `ctx.uncommittedOffsets` returns it"
            ))
        };
        let field = |name: &str, kind: c_int| {
            push_bytes(state, name.as_bytes());
            ffi::lua_rawget(state, -2) == kind
        };
        let first = || ffi::lua_rawgeti(state, -1, 1) == ffi::LUA_TTABLE;
        ffi::lua_pushvalue(state, 1);
        if !field("topics", ffi::LUA_TTABLE) {
            return refuse();
        }
        if ffi::lua_rawlen(state, -1) == 0 {
            return Ok(None);
        }
        if ffi::lua_rawlen(state, -1) > 1 || !first() {
            return refuse();
        }
        let is_topic = field("topic", ffi::LUA_TSTRING) && ffi::lua_rawequal(state, -1, 2) != 0;
        ffi::lua_pop(state, 1);
        if !is_topic || !field("partitions", ffi::LUA_TTABLE) || !first() {
            return refuse();
        }
        push_bytes(state, b"partition");
        ffi::lua_rawget(state, -2);
        let is_own = match bytes_at(state, -1) {
            Some(text) => text == partition.to_string().as_bytes(),
            None => ffi::lua_tointegerx(state, -1, std::ptr::null_mut()) == i64::from(partition),
        };
        ffi::lua_pop(state, 1);
        if !is_own {
            return refuse();
        }
        push_bytes(state, b"offset");
        ffi::lua_rawget(state, -2);
        let top = ffi::lua_gettop(state);
        commit::offset_at(state, top, NAME).map(Some)
    }
}
