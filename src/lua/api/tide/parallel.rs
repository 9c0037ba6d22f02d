//! `tide.parallel`: one call that waits for several operations at once.
//!
//! This C function schedules its own coroutines. Each runs until it waits. When all that may run are waiting, the
//! function waits too, and is resumed with the answer to one of their waits. Its state is on its stack: the list, the
//! function, the results, the coroutines by index, and the index of each wait. So it is closed and collected with its
//! call. Nesting needs nothing more: each level knows only the waits of its own coroutines.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::time::Duration;

use mlua::ffi::{self, lua_KContext, lua_State};

use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::lua::vm::{coroutine, failure, hook};
use crate::nearest::suggestion;
use crate::wait::{Wait, WaitId};

pub(super) const ENTRY: Entry = Entry {
    name: "parallel",
    path: "tide.parallel",
    types: &[
        "Runs functions at once and returns their first results by index, with their number in the field `n`.",
        "The first error ends the others and is raised.",
        "@param list table functions, or values for `each`",
        "@param each? fun(value: any, index: integer): any",
        "@param options? { concurrency?: integer } how many run at once; default 64",
        "@return table",
    ],
    body: Body::C(parallel),
};

const OPTIONS: [&str; 1] = ["concurrency"];
/// A coroutine takes some 1.3 kB of the VM, so a list of a million does not make a million coroutines.
const CONCURRENCY: i64 = 64;
/// After so many waits have begun, other calls of the VM have their turn before the next ones begin.
const BEGUN_MAX: u64 = 64;
/// In place of the index of a coroutine: the wait is the pause.
const PAUSE: i64 = -1;

/// The stack of the function.
const LIST: c_int = 1;
const EACH: c_int = 2;
const RESULTS: c_int = 3;
const COROUTINES: c_int = 4;
const OWNERS: c_int = 5;
const PROGRESS: c_int = 6;
/// The most values that a step has on the stack.
const ROOM: c_int = 8;

/// The numbers of the schedule, in a userdata.
struct Progress {
    next: i64,
    count: i64,
    active: i64,
    concurrency: i64,
    /// Nothing starts before the pause is over.
    is_paused: bool,
    /// Its number among what the call does outside.
    ordinal: u64,
}

unsafe extern "C-unwind" fn parallel(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with plain data pending.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 3);
        let (mut count, mut concurrency) = (0, CONCURRENCY);
        shared.attempt(state, || {
            count = list_at(state)?;
            concurrency = concurrency_at(state, 3)?;
            Ok(0)
        });
        suspend::may_wait(state, shared, ENTRY.path);
        ffi::luaL_checkstack(state, ROOM, std::ptr::null());
        ffi::lua_settop(state, EACH);
        ffi::lua_createtable(state, count.min(1 << 20) as c_int, 1);
        ffi::lua_pushinteger(state, count);
        ffi::lua_setfield(state, RESULTS, c"n".as_ptr());
        ffi::lua_createtable(state, 0, 0);
        ffi::lua_createtable(state, 0, 0);
        let block = ffi::lua_newuserdatauv(state, size_of::<Progress>(), 0);
        block.cast::<Progress>().write(Progress {
            next: 1,
            count,
            active: 0,
            concurrency,
            is_paused: false,
            ordinal: number(shared),
        });
        go_on(state, shared)
    }
}

/// A call without a message has no numbers.
fn number(shared: &Shared) -> u64 {
    if !shared.runs_message() {
        return 0;
    }
    // The end of the call forgets the numbers.
    shared.emits.set(true);
    shared.ordinals.next(shared.call.get())
}

/// The length of the list. Without a function for each element, the list has functions. Raises nothing.
unsafe fn list_at(state: *mut lua_State) -> Result<i64, String> {
    // SAFETY: values are read, never converted in place.
    unsafe {
        if ffi::lua_type(state, LIST) != ffi::LUA_TTABLE {
            let found = type_name(state, LIST);
            return Err(format!(
                "`tide.parallel` takes a list of functions, or a list and a function, not {found}"
            ));
        }
        let count = ffi::lua_rawlen(state, LIST) as i64;
        match ffi::lua_type(state, EACH) {
            ffi::LUA_TFUNCTION => return Ok(count),
            ffi::LUA_TNIL => {}
            _ => {
                let found = type_name(state, EACH);
                return Err(format!(
                    "the second argument of `tide.parallel` is a function for each value, not {found}"
                ));
            }
        }
        for index in 1..=count {
            let is_function = ffi::lua_rawgeti(state, LIST, index) == ffi::LUA_TFUNCTION;
            let found = type_name(state, -1);
            ffi::lua_settop(state, -2);
            if !is_function {
                return Err(format!(
                    "`tide.parallel` without a second argument takes a list of functions; value {index} is {found}"
                ));
            }
        }
        Ok(count)
    }
}

/// The option `concurrency`. Raises nothing.
unsafe fn concurrency_at(state: *mut lua_State, index: c_int) -> Result<i64, String> {
    // SAFETY: values are read, never converted in place; a key of the table itself is never an invalid one.
    unsafe {
        match ffi::lua_type(state, index) {
            ffi::LUA_TNIL => return Ok(CONCURRENCY),
            ffi::LUA_TTABLE => {}
            _ => {
                let found = type_name(state, index);
                return Err(format!(
                    "`tide.parallel` takes options as a table, as `{{ concurrency = 8 }}`, not {found}"
                ));
            }
        }
        let mut concurrency = CONCURRENCY;
        ffi::lua_pushnil(state);
        while ffi::lua_next(state, index) != 0 {
            let value = ffi::lua_gettop(state);
            match bytes_at(state, value - 1) {
                Some(b"concurrency") => {
                    let is_integer = ffi::lua_isinteger(state, value) != 0;
                    concurrency = ffi::lua_tointegerx(state, value, std::ptr::null_mut());
                    if !is_integer || concurrency < 1 {
                        return Err(
                            "`concurrency` of `tide.parallel` is an integer from 1".to_owned()
                        );
                    }
                }
                Some(key) => {
                    let key = failure::cut(key, 100);
                    let nearest = suggestion(&key, &OPTIONS);
                    return Err(format!("`tide.parallel` knows no `{key}`, {nearest}"));
                }
                None => {
                    let found = type_name(state, value - 1);
                    return Err(format!(
                        "the options of `tide.parallel` have names as keys, not {found}; there is `concurrency`"
                    ));
                }
            }
            ffi::lua_settop(state, value - 1);
        }
        Ok(concurrency)
    }
}

/// Starts the coroutines that may start, then waits for one of them or returns the results.
unsafe fn go_on(state: *mut lua_State, shared: &Shared) -> c_int {
    // SAFETY: the stack is as `parallel` made it.
    unsafe {
        let progress = ffi::lua_touserdata(state, PROGRESS).cast::<Progress>();
        let before = shared.last_wait();
        while !(*progress).is_paused
            && (*progress).active < (*progress).concurrency
            && (*progress).next <= (*progress).count
        {
            if shared.last_wait().0 - before.0 >= BEGUN_MAX {
                shared.begin(Wait::Sleep(Duration::ZERO));
                ffi::lua_pushinteger(state, PAUSE);
                ffi::lua_rawseti(state, OWNERS, shared.last_wait().0 as i64);
                (*progress).is_paused = true;
                break;
            }
            let index = (*progress).next;
            (*progress).next += 1;
            (*progress).active += 1;
            let inner = ffi::lua_newthread(state);
            ffi::lua_rawseti(state, COROUTINES, index);
            let has_each = ffi::lua_type(state, EACH) == ffi::LUA_TFUNCTION;
            if has_each {
                ffi::lua_pushvalue(state, EACH);
            }
            ffi::lua_rawgeti(state, LIST, index);
            if has_each {
                ffi::lua_pushinteger(state, index);
            }
            ffi::lua_xmove(state, inner, if has_each { 3 } else { 1 });
            drive(state, shared, inner, index, if has_each { 2 } else { 0 });
        }
        if (*progress).active > 0 || (*progress).is_paused {
            suspend::push_token(state);
            return ffi::lua_yieldk(state, 1, 0, Some(answered));
        }
        ffi::lua_settop(state, RESULTS);
        1
    }
}

/// Continues with the host's answer to one of the waits.
unsafe extern "C-unwind" fn answered(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: the stack is as `parallel` made it, except for the values of the resume.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, PROGRESS);
        let wait = shared.answered.get().0 as i64;
        ffi::lua_rawgeti(state, OWNERS, wait);
        let index = ffi::lua_tointegerx(state, -1, std::ptr::null_mut());
        ffi::lua_pushnil(state);
        ffi::lua_rawseti(state, OWNERS, wait);
        if index == PAUSE {
            shared.answer.take();
            let progress = ffi::lua_touserdata(state, PROGRESS).cast::<Progress>();
            (*progress).is_paused = false;
            return go_on(state, shared);
        }
        ffi::lua_rawgeti(state, COROUTINES, index);
        let inner = ffi::lua_tothread(state, -1);
        ffi::lua_settop(state, PROGRESS);
        if inner.is_null() {
            // Lua code resumed the function after the end of the call that waited.
            shared.raise(
                state,
                "the call that waited for this was given up".to_owned(),
            );
        }
        drive(state, shared, inner, index, 0);
        go_on(state, shared)
    }
}

/// Runs one of the coroutines until it waits or ends. If it fails, gives up the others and then raises its error.
unsafe fn drive(
    outer: *mut lua_State,
    shared: &Shared,
    inner: *mut lua_State,
    index: i64,
    arguments: c_int,
) {
    // SAFETY: the steps of `coroutine`'s `drive`; the coroutine is anchored in the table.
    unsafe {
        shared.held.borrow_mut().remove(&inner);
        let before = shared.last_wait();
        coroutine::running(inner);
        let mut results = 0;
        let ordinal = (*ffi::lua_touserdata(outer, PROGRESS).cast::<Progress>()).ordinal;
        let path = shared.ordinals.enter(ordinal, index);
        let status = ffi::lua_resume(inner, outer, arguments, &raw mut results);
        shared.ordinals.leave(path);
        coroutine::running(outer);
        if hook::ends_by_verdict() {
            hook::close_ending(inner, outer, status);
        }
        if hook::ends() {
            hook::pass_on(outer);
        }
        match status {
            ffi::LUA_YIELD if suspend::is_token(inner, results) => {
                ffi::lua_settop(inner, -2);
                shared.hold(inner);
                own_waits_since(outer, shared, before, index);
            }
            ffi::LUA_OK => {
                if results == 0 {
                    ffi::lua_pushnil(outer);
                } else {
                    // Only the first result counts.
                    ffi::lua_settop(inner, -results);
                    ffi::lua_xmove(inner, outer, 1);
                }
                ffi::lua_rawseti(outer, RESULTS, index);
                ffi::lua_pushnil(outer);
                ffi::lua_rawseti(outer, COROUTINES, index);
                (*ffi::lua_touserdata(outer, PROGRESS).cast::<Progress>()).active -= 1;
            }
            ffi::LUA_YIELD => {
                push_bytes(outer, b"attempt to yield from a function of `tide.parallel`; to wait, use `tide.sleep`");
                fail(outer, shared);
            }
            _ => {
                // The value is copied: the `__close` methods that are still open get the value too.
                if ffi::lua_checkstack(inner, 1) != 0 {
                    ffi::lua_pushvalue(inner, -1);
                }
                ffi::lua_xmove(inner, outer, 1);
                fail(outer, shared);
            }
        }
    }
}

/// Assigns the waits begun since `before` to this coroutine.
unsafe fn own_waits_since(outer: *mut lua_State, shared: &Shared, before: WaitId, index: i64) {
    // SAFETY: nothing is borrowed while the table grows, which may raise or run a finalizer.
    unsafe {
        // Their numbers rise.
        let is_earlier = |(wait, _): &(WaitId, Wait)| wait.0 <= before.0;
        let mut at = shared.waits.borrow().begun.partition_point(is_earlier);
        loop {
            let wait = {
                let waits = shared.waits.borrow();
                let Some((wait, _)) = waits.begun.get(at) else {
                    return;
                };
                wait.0
            };
            at += 1;
            ffi::lua_pushinteger(outer, index);
            ffi::lua_rawseti(outer, OWNERS, wait as i64);
        }
    }
}

/// Gives up the waits, closes every coroutine, and raises the value on top.
unsafe fn fail(outer: *mut lua_State, shared: &Shared) -> ! {
    // SAFETY: the keys of a table stay unchanged while it is traversed.
    unsafe {
        ffi::lua_pushnil(outer);
        while ffi::lua_next(outer, OWNERS) != 0 {
            let wait = ffi::lua_tointegerx(outer, -2, std::ptr::null_mut());
            shared.give_up(WaitId(wait as u64));
            ffi::lua_settop(outer, -2);
        }
        ffi::lua_pushnil(outer);
        while ffi::lua_next(outer, COROUTINES) != 0 {
            let inner = ffi::lua_tothread(outer, -1);
            shared.held.borrow_mut().remove(&inner);
            coroutine::running(inner);
            ffi::lua_closethread(inner, outer);
            coroutine::running(outer);
            ffi::lua_settop(outer, -2);
        }
        if hook::ends() {
            hook::pass_on(outer);
        }
        ffi::lua_error(outer)
    }
}
