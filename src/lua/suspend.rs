//! Waits: a call requests something from the host, and its coroutine is suspended until the host answers.
//!
//! **Only this file yields to the host and delivers its answers.** A function of a module takes plain data and
//! returns plain data. `enter` is the C function around it: it reads the arguments, calls the function, and suspends
//! the coroutine with no Rust value pending. `land` turns the answer into a Lua value, or raises the fault.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::cell::RefCell;
use std::ffi::{CStr, c_int};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::ptr;
use std::sync::Arc;

use mlua::ffi::{self, lua_KContext, lua_KFunction, lua_State};

use super::api::module::{Body, Caller, Entry};
use super::api::trace;
use super::plain;
use super::shared::{Shared, TOKEN};
use super::stack::{bytes_at, push_bytes};
use crate::rules::identity::{Origin, identity};
use crate::wait::{AWAY, Answer, Fault, Job, Value, Wait};

/// The metatable of faults.
const FAULT: &CStr = c"moontide.fault";
/// The field of metatables of tables whose functions are bound to a value.
pub(super) const OBJECT: &CStr = c"moontide.object";
/// The upvalue of `enter` with its entry.
const ENTRY: c_int = ffi::lua_upvalueindex(2);
/// The upvalue with a value that comes before the arguments, where there is one.
const BOUND: c_int = ffi::lua_upvalueindex(3);

/// Makes the metatable of faults.
pub(super) unsafe fn install(state: *mut lua_State) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        ffi::lua_pushcclosure(state, fault_text, 0);
        ffi::lua_setfield(state, -2, c"__tostring".as_ptr());
        push_bytes(state, b"tide.error");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, FAULT.as_ptr());
    }
}

/// Pushes the C function around an entry that waits outside.
pub(super) unsafe fn push_entry(state: *mut lua_State, shared: &Shared, entry: &'static Entry) {
    // SAFETY: runs protected; the entry is static.
    unsafe {
        ffi::lua_pushlightuserdata(state, ptr::from_ref(entry).cast_mut().cast());
        shared.push_function(state, enter, 1);
    }
}

/// As `push_entry`, for a function that gets the value on top of the stack before its arguments. That value is taken
/// from the stack.
pub(super) unsafe fn push_bound_entry(
    state: *mut lua_State,
    shared: &Shared,
    entry: &'static Entry,
) {
    // SAFETY: runs protected; the entry is static.
    unsafe {
        ffi::lua_pushlightuserdata(state, ptr::from_ref(entry).cast_mut().cast());
        ffi::lua_insert(state, -2);
        shared.push_function(state, enter, 2);
    }
}

/// Puts the bound value before the arguments; a first argument that is the function's own object is left out.
unsafe fn bind(state: *mut lua_State) {
    // SAFETY: a C function of Lua; values are compared, never converted in place.
    unsafe {
        if ffi::lua_type(state, BOUND) == ffi::LUA_TNONE {
            return;
        }
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE
            && ffi::luaL_getmetafield(state, 1, OBJECT.as_ptr()) != ffi::LUA_TNIL
        {
            ffi::lua_pop(state, 1);
            ffi::lua_remove(state, 1);
        }
        ffi::lua_pushvalue(state, BOUND);
        ffi::lua_insert(state, 1);
    }
}

/// Suspends the running coroutine, up to the host. `then` takes the answer from `shared`.
pub(super) unsafe fn begin(
    state: *mut lua_State,
    shared: &Shared,
    wait: Wait,
    name: &str,
    then: lua_KFunction,
) -> c_int {
    // SAFETY: no value with a destructor is pending when it yields or raises: the check comes first, and then
    // `shared` owns the wait.
    unsafe {
        may_wait(state, shared, name);
        shared.begin(wait);
        push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(then))
    }
}

/// Raises if the running state cannot wait.
pub(super) unsafe fn may_wait(state: *mut lua_State, shared: &Shared, name: &str) {
    // SAFETY: `raise` takes the message away before it raises.
    unsafe {
        let is_outside_of_a_call = shared.coroutine.get().is_null();
        if ffi::lua_isyieldable(state) != 0
            && !shared.cannot_yield_through.get()
            && !is_outside_of_a_call
        {
            return;
        }
        let loads = !shared.loading.borrow().is_empty();
        let place = if loads || is_outside_of_a_call {
            "at the top level of a file; call it from a handler, from a timer or from init.lua's `start`"
        } else {
            "inside a callback of a C function (a sort, a gsub, a metamethod …)"
        };
        shared.raise(
            state,
            format!("`{name}` waits, which cannot be done {place}"),
        );
    }
}

pub(super) unsafe fn push_token(state: *mut lua_State) {
    // SAFETY: the address is only compared.
    unsafe { ffi::lua_pushlightuserdata(state, ptr::from_ref(&TOKEN).cast_mut().cast()) };
}

/// Whether the one value that a suspended coroutine yielded is the host's token.
pub(super) unsafe fn is_token(state: *mut lua_State, results: c_int) -> bool {
    // SAFETY: as above.
    unsafe { results == 1 && ptr::eq(ffi::lua_touserdata(state, -1).cast(), ptr::from_ref(&TOKEN)) }
}

/// Suspends the running coroutine for a wait outside that `shared` has begun; its answer is returned or raised.
pub(super) unsafe fn wait_for_answer(state: *mut lua_State) -> c_int {
    // SAFETY: no Rust value is pending.
    unsafe {
        ffi::lua_settop(state, 0);
        push_token(state);
        ffi::lua_yieldk(state, 1, 0, Some(land))
    }
}

unsafe extern "C-unwind" fn enter(state: *mut lua_State) -> c_int {
    // SAFETY: only `push_entry` makes this closure. Every Rust value is dropped, or in `shared`, before anything
    // raises.
    unsafe {
        let shared = Shared::of(state);
        let entry = &*ffi::lua_touserdata(state, ENTRY).cast::<Entry>();
        // The check comes before the module does anything.
        may_wait(state, shared, entry.path);
        bind(state);
        if let Body::OutsideBetween { before, .. } = entry.body {
            before(state, shared);
        }
        if start(state, shared, entry) {
            ffi::lua_settop(state, 0);
            push_token(state);
            return ffi::lua_yieldk(state, 1, 0, Some(land_in_entry));
        }
        raise(state, shared)
    }
}

/// Calls the module's function and leaves its wait or its fault in `shared`. Returns whether the call waits.
fn start(state: *mut lua_State, shared: &Shared, entry: &Entry) -> bool {
    let (Body::Outside(start) | Body::OutsideBetween { start, .. }) = entry.body else {
        return false;
    };
    let about = RefCell::new(None);
    let caller = Caller {
        listener: shared.listener.get(),
        senders: shared.senders.as_deref(),
        admin: shared.admin.as_deref(),
        http: shared.http.as_deref(),
        redis: shared.redis.as_deref(),
        sql: shared.sql.as_deref(),
        transactions: &shared.transactions,
        call: shared.call.get(),
        identity: &|| identity_of(shared),
        about: &about,
        trace: &|| trace::carried(state, shared),
    };
    let values = arguments(state, shared, entry.path);
    match values.and_then(|values| guarded(|| start(&caller, values))) {
        Ok(job) => {
            begin_job(shared, job, about.take());
            true
        }
        Err(fault) => {
            shared.fault.replace(Some(fault));
            false
        }
    }
}

/// The same job, which counts and shows in the status while it runs.
pub(super) fn watched(shared: &Shared, job: Job, about: Option<String>) -> Job {
    let listener = shared.listener.get();
    let listener = listener.map(|index| shared.listener_name(index).to_owned());
    shared.app.outside_calls.watched(job, about, listener)
}

/// Makes the job a wait of the running coroutine, which is about to suspend.
pub(super) fn begin_job(shared: &Shared, job: Job, about: Option<String>) {
    shared.begin(Wait::Outside(watched(shared, job, about)));
}

/// The identity of the next deed of the running call.
fn identity_of(shared: &Shared) -> Option<String> {
    let (origin, _) = origin_of(shared)?;
    let ordinal = shared.ordinals.next_ordinal(shared.call.get());
    Some(identity(&origin, &ordinal))
}

/// The message of the running call, which does something that has a number, with the name of its consumer. A batch has
/// none: what it does for its messages depends on how it was cut.
pub(super) fn origin_of(shared: &Shared) -> Option<(Origin<'_>, &str)> {
    if !shared.runs_message() {
        return None;
    }
    let listener = shared.config.listeners.get(shared.listener.get()?)?;
    let mut consumers = shared.config.consumers.iter();
    let consumer = consumers.find(|one| one.name == listener.consumer)?;
    // SAFETY: the slice that runs now has set it, and outlives this call.
    let about = unsafe { shared.about.get().as_ref() }?;
    // The end of the call forgets the numbers.
    shared.emits.set(true);
    let origin = Origin {
        group: &consumer.group_id,
        listener: &listener.name,
        topic: about.topic,
        partition: about.partition,
        offset: about.offset,
        timestamp_ms: about.timestamp_ms,
    };
    Some((origin, &listener.consumer))
}

/// Copies of the arguments, of which each has at most as many bytes as the VM. Raises nothing.
pub(super) fn arguments(
    state: *mut lua_State,
    shared: &Shared,
    path: &str,
) -> Result<Vec<Value>, Fault> {
    // SAFETY: all are valid indices.
    unsafe {
        (1..=ffi::lua_gettop(state))
            .map(|index| {
                let copy = plain::read(state, index, shared.memory);
                copy.map(|(value, _)| value).map_err(|reason| {
                    let message = format!("`{path}` takes plain data, argument {index}: {reason}");
                    Fault::new("invalid", message)
                })
            })
            .collect()
    }
}

/// A panic in a module becomes an error of that call.
pub(super) fn guarded<T>(work: impl FnOnce() -> Result<T, Fault>) -> Result<T, Fault> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| Err(lost()))
}

/// The log has the panic itself.
fn lost() -> Fault {
    let message = "a bug of Moontide ended the call; the log has a line of the target `panic`";
    Fault::new("internal", message)
}

/// As `land`, and then the last step of the entry.
unsafe extern "C-unwind" fn land_in_entry(
    state: *mut lua_State,
    status: c_int,
    context: lua_KContext,
) -> c_int {
    // SAFETY: the running function is still the closure of `push_entry`; nothing is pending behind `land`.
    unsafe {
        let results = land(state, status, context);
        let entry = &*ffi::lua_touserdata(state, ENTRY).cast::<Entry>();
        if let Body::OutsideBetween { after, .. } = entry.body {
            after(state, Shared::of(state));
        }
        results
    }
}

unsafe extern "C-unwind" fn land(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: `shared` keeps the value during its push, and the fault during its raise.
    unsafe {
        let shared = Shared::of(state);
        if let Some(value) = shared.keep_plain(take_answer(shared).map(Arc::new)) {
            plain::push(state, &*value);
            shared.release_plain();
            return 1;
        }
        raise(state, shared)
    }
}

/// The answer of a job; `None` leaves its fault in `shared`.
pub(super) fn take_answer(shared: &Shared) -> Option<Value> {
    let fault = match shared.answer.take() {
        Some(Answer::Outside(Ok(value))) => return Some(value),
        Some(Answer::Outside(Err(fault))) => fault,
        Some(Answer::Lost) => lost(),
        // Lua code resumed the coroutine after the end of the call that waited.
        _ => Fault::new("closed", "the call that waited for this was given up"),
    };
    shared.fault.replace(Some(fault));
    None
}

/// The kind of the fault at `index`; `None` for any other value.
pub(super) unsafe fn kind_at<'k>(state: *mut lua_State, index: c_int) -> Option<&'k [u8]> {
    // SAFETY: values are read, never converted in place; the fault, which is on the stack, keeps its kind.
    unsafe {
        if ffi::lua_type(state, index) != ffi::LUA_TTABLE
            || ffi::lua_getmetatable(state, index) == 0
        {
            return None;
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, FAULT.as_ptr());
        let is_fault = ffi::lua_rawequal(state, -1, -2) != 0;
        ffi::lua_pop(state, 2);
        if !is_fault {
            return None;
        }
        push_bytes(state, b"kind");
        ffi::lua_rawget(state, index);
        let kind = bytes_at(state, -1);
        ffi::lua_pop(state, 1);
        kind
    }
}

/// Whether the value on top of `state` is a fault that says that something outside is away. It raises nothing, also when
/// memory is out: the strings that it looks for are those of the fault itself.
pub(super) unsafe fn is_away(state: *mut lua_State) -> bool {
    // SAFETY: there is room for what `kind_at` pushes.
    unsafe {
        if ffi::lua_checkstack(state, 4) == 0 {
            return false;
        }
        let kind = kind_at(state, ffi::lua_gettop(state));
        kind.is_some_and(|kind| AWAY.iter().any(|one| one.as_bytes() == kind))
    }
}

/// Raises the fault in `shared`: a table with `kind`, `message` and its further fields.
pub(super) unsafe fn raise(state: *mut lua_State, shared: &Shared) -> ! {
    // SAFETY: `shared` keeps the fault until the table is complete. A finalizer that runs meanwhile may leave and raise
    // a fault of its own.
    unsafe {
        let fault = shared.keep_fault();
        ffi::lua_settop(state, 0);
        ffi::lua_createtable(state, 0, 2);
        if let Some(fault) = fault {
            let fault = &*fault;
            push_bytes(state, fault.kind.as_bytes());
            ffi::lua_setfield(state, -2, c"kind".as_ptr());
            ffi::luaL_where(state, 1);
            push_bytes(state, fault.message.as_bytes());
            ffi::lua_concat(state, 2);
            ffi::lua_setfield(state, -2, c"message".as_ptr());
            for (name, value) in &fault.fields {
                push_bytes(state, name.as_bytes());
                plain::push(state, value);
                ffi::lua_rawset(state, -3);
            }
            shared.release_fault();
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, FAULT.as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_error(state)
    }
}

unsafe extern "C-unwind" fn fault_text(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua.
    unsafe {
        ffi::lua_settop(state, 1);
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE {
            push_bytes(state, b"message");
            ffi::lua_rawget(state, 1);
            ffi::luaL_tolstring(state, -1, ptr::null_mut());
        } else {
            push_bytes(state, b"tide.error");
        }
        1
    }
}
