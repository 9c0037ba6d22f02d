//! `sql:transaction` and `sql:once`: a function that runs within a transaction.
//!
//! Each is one C function with three waits: for the beginning, for the waits of the body itself, and for the commit.
//! **An object lies open on its stack**, as a variable of Lua with `<close>`. However the function is left (an error, a
//! call that is given up, a verdict), Lua closes the object, and that rolls back what is not committed.

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_CFunction, lua_KContext, lua_State};

use super::WITHIN;
use super::arguments::{Options, options};
use super::starting::none_here;
use crate::lua::api::fields;
use crate::lua::plain;
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::rules::identity::{identity, scope};
use crate::wait::sql::{Begin, Identity, Prepared};
use crate::wait::{Fault, Job, Value};

pub(super) const FUNCTIONS: &[(&str, lua_CFunction)] =
    &[("once", once), ("transaction", transaction)];

/// The metatables of the open object and of `tx`.
const OPEN: &CStr = c"moontide.sql.open";
const TX: &CStr = c"moontide.sql.tx";
/// The upvalue with the name of the database.
const NAME: c_int = ffi::lua_upvalueindex(2);

/// The stack of the function.
const BODY: c_int = 1;
const GUARD: c_int = 2;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Which {
    Transaction,
    Once,
}

impl Which {
    fn path(self) -> &'static str {
        match self {
            Self::Transaction => "sql:transaction",
            Self::Once => "sql:once",
        }
    }
}

/// Makes the metatables.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 3);
        shared.push_function(state, closed, 0);
        ffi::lua_setfield(state, -2, c"__close".as_ptr());
        // The stack of a call that ends with its VM is not closed.
        shared.push_function(state, closed, 0);
        ffi::lua_setfield(state, -2, c"__gc".as_ptr());
        ffi::lua_pushboolean(state, 0);
        ffi::lua_setfield(state, -2, c"__metatable".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, OPEN.as_ptr());
        ffi::lua_createtable(state, 0, 3);
        shared.push_function(state, unknown_method, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"tide.sql.tx");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 1);
        ffi::lua_setfield(state, -2, suspend::OBJECT.as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, TX.as_ptr());
    }
}

unsafe extern "C-unwind" fn transaction(state: *mut lua_State) -> c_int {
    // SAFETY: as a C function of Lua.
    unsafe { begin(state, Which::Transaction) }
}

unsafe extern "C-unwind" fn once(state: *mut lua_State) -> c_int {
    // SAFETY: as a C function of Lua.
    unsafe { begin(state, Which::Once) }
}

unsafe fn begin(state: *mut lua_State, which: Which) -> c_int {
    // SAFETY: no Rust value is pending where Lua may raise: `shared` has the fault, the transaction and its job.
    unsafe {
        let shared = Shared::of(state);
        suspend::may_wait(state, shared, which.path());
        leave_object_out(state);
        ffi::lua_settop(state, 2);
        ffi::luaL_checkstack(state, 8, std::ptr::null());
        let mut read = Options::default();
        shared.attempt(state, || {
            read = arguments(state, shared, which)?;
            Ok(0)
        });
        // In the place of the options. It is closed from here on, also where nothing has begun.
        let guard = ffi::lua_newuserdatauv(state, size_of::<u64>(), 0).cast::<u64>();
        guard.write(0);
        ffi::lua_replace(state, GUARD);
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, OPEN.as_ptr());
        ffi::lua_setmetatable(state, GUARD);
        ffi::lua_toclose(state, GUARD);
        match opened(state, shared, which, read) {
            Ok(id) => guard.write(id),
            Err(fault) => {
                shared.fault.replace(Some(fault));
                suspend::raise(state, shared);
            }
        }
        suspend::push_token(state);
        let then = match which {
            Which::Transaction => begun_transaction,
            Which::Once => begun_once,
        };
        ffi::lua_yieldk(state, 1, 0, Some(then))
    }
}

/// `db:transaction(body)` and `db.transaction(body)` are alike.
unsafe fn leave_object_out(state: *mut lua_State) {
    // SAFETY: values are compared, never converted in place.
    unsafe {
        if ffi::lua_type(state, 1) == ffi::LUA_TTABLE
            && ffi::luaL_getmetafield(state, 1, suspend::OBJECT.as_ptr()) != ffi::LUA_TNIL
        {
            ffi::lua_pop(state, 1);
            ffi::lua_remove(state, 1);
        }
    }
}

/// Raises nothing.
unsafe fn arguments(
    state: *mut lua_State,
    shared: &Shared,
    which: Which,
) -> Result<Options, String> {
    let path = which.path();
    // SAFETY: both are valid indices.
    unsafe {
        if ffi::lua_type(state, BODY) != ffi::LUA_TFUNCTION {
            let found = type_name(state, BODY);
            return Err(format!(
                "`{path}` takes a function, which gets `tx`, not {found}"
            ));
        }
        let options_at = plain::read(state, 2, shared.memory);
        let (value, _) =
            options_at.map_err(|reason| format!("`{path}` takes options: {reason}"))?;
        options(value, which == Which::Once).map_err(|reason| format!("`{path}`{reason}"))
    }
}

/// Makes the transaction, and begins its first wait. Raises nothing.
unsafe fn opened(
    state: *mut lua_State,
    shared: &Shared,
    which: Which,
    options: Options,
) -> Result<u64, Fault> {
    let path = which.path();
    // SAFETY: the name of the database is a string.
    let name = unsafe { bytes_at(state, NAME) };
    let name = String::from_utf8_lossy(name.unwrap_or_default()).into_owned();
    let identity = match which {
        Which::Transaction => None,
        Which::Once => Some(next_identity(shared).ok_or_else(|| {
            let message = format!(
                "`{path}` needs the one message for which its call runs: not in a batch, a timer or init.lua; there, \
                 `transaction` and a unique column do it"
            );
            Fault::new("invalid", message)
        })?),
    };
    let call = shared.call.get();
    let begin = Begin {
        function: path,
        isolation: options.isolation,
        is_read_only: options.is_read_only,
        identity,
        within_transaction: shared.transactions.is_within(call, &name),
    };
    let databases = shared.sql.as_deref().ok_or_else(|| none_here(path))?;
    let transaction = databases.transaction(&name, begin)?;
    wait(shared, "sql.begin", transaction.begin());
    Ok(shared.transactions.add(call, &name, transaction))
}

/// That of the next body of `once`. Bodies have numbers of their own: what else a handler does changes none of them.
fn next_identity(shared: &Shared) -> Option<Identity> {
    let (origin, consumer) = suspend::origin_of(shared)?;
    let ordinal = shared.ordinals.next_once(shared.call.get());
    Some(Identity {
        text: identity(&origin, &ordinal),
        scope: scope(&origin),
        topic: origin.topic.to_owned(),
        partition: origin.partition,
        offset: origin.offset,
        positions: shared.app.consumers.of(consumer),
    })
}

fn wait(shared: &Shared, job: &'static str, prepared: Prepared) {
    let Prepared { about, requesting } = prepared;
    suspend::begin_job(shared, Job::new(job, requesting), Some(about));
}

unsafe extern "C-unwind" fn begun_transaction(
    state: *mut lua_State,
    _: c_int,
    _: lua_KContext,
) -> c_int {
    // SAFETY: as a continuation of Lua.
    unsafe { begun(state, Which::Transaction) }
}

unsafe extern "C-unwind" fn begun_once(state: *mut lua_State, _: c_int, _: lua_KContext) -> c_int {
    // SAFETY: as a continuation of Lua.
    unsafe { begun(state, Which::Once) }
}

unsafe fn begun(state: *mut lua_State, which: Which) -> c_int {
    // SAFETY: the stack is as `begin` left it, but for the values of the resume.
    unsafe {
        let shared = Shared::of(state);
        let runs = match suspend::take_answer(shared) {
            Some(value) => value == Value::Boolean(true),
            None => suspend::raise(state, shared),
        };
        ffi::lua_settop(state, GUARD);
        if !runs {
            ffi::lua_pushboolean(state, 0);
            return 1;
        }
        ffi::lua_pushvalue(state, BODY);
        push_tx(state, shared);
        let context = lua_KContext::from(which == Which::Once);
        ffi::lua_callk(state, 1, ffi::LUA_MULTRET, context, Some(ran));
        ran(state, ffi::LUA_OK, context)
    }
}

/// Pushes the object that the body gets.
unsafe fn push_tx(state: *mut lua_State, shared: &Shared) {
    // SAFETY: the guard is at its place; nothing is pending.
    unsafe {
        let id = *ffi::lua_touserdata(state, GUARD).cast::<u64>();
        ffi::lua_createtable(state, 0, WITHIN.len() as c_int);
        for (_, entry) in super::FUNCTIONS {
            push_bytes(state, entry.name.as_bytes());
            ffi::lua_pushinteger(state, id as i64);
            suspend::push_bound_entry(state, shared, entry);
            ffi::lua_rawset(state, -3);
        }
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, TX.as_ptr());
        ffi::lua_setmetatable(state, -2);
    }
}

/// The body has returned: its results lie above the guard. The context is 1 for `once`.
unsafe extern "C-unwind" fn ran(state: *mut lua_State, _: c_int, context: lua_KContext) -> c_int {
    // SAFETY: `shared` has the job before the coroutine suspends.
    unsafe {
        let shared = Shared::of(state);
        if commits(state, shared) {
            // The results are kept by their number, which tells those of the resume from them.
            let top = ffi::lua_gettop(state) as lua_KContext;
            suspend::push_token(state);
            return ffi::lua_yieldk(state, 1, 2 * top + context, Some(committed));
        }
        suspend::raise(state, shared)
    }
}

/// Begins the wait for the commit, or leaves a fault in `shared`. Raises nothing.
unsafe fn commits(state: *mut lua_State, shared: &Shared) -> bool {
    // SAFETY: the guard is at its place.
    let id = unsafe { *ffi::lua_touserdata(state, GUARD).cast::<u64>() };
    if let Some(transaction) = shared.transactions.get(id) {
        wait(shared, "sql.commit", transaction.commit());
        return true;
    }
    let fault = Fault::new("closed", "the call that waited for this was given up");
    shared.fault.replace(Some(fault));
    false
}

unsafe extern "C-unwind" fn committed(
    state: *mut lua_State,
    _: c_int,
    context: lua_KContext,
) -> c_int {
    // SAFETY: the results lie above the guard; what the resume has pushed is cut off.
    unsafe {
        let shared = Shared::of(state);
        if suspend::take_answer(shared).is_none() {
            suspend::raise(state, shared);
        }
        ffi::lua_settop(state, (context / 2) as c_int);
        let mut results = ffi::lua_gettop(state) - GUARD;
        if context % 2 == 1 {
            ffi::luaL_checkstack(state, 1, std::ptr::null());
            ffi::lua_pushboolean(state, 1);
            ffi::lua_insert(state, GUARD + 1);
            results += 1;
        }
        results
    }
}

/// `__close` and `__gc` of the open object.
unsafe extern "C-unwind" fn closed(state: *mut lua_State) -> c_int {
    // SAFETY: a full userdata of that size is read. Any number is acceptable: the transaction is looked up.
    unsafe {
        let shared = Shared::of(state);
        if ffi::lua_type(state, 1) == ffi::LUA_TUSERDATA
            && ffi::lua_rawlen(state, 1) == size_of::<u64>()
        {
            shared
                .transactions
                .end(*ffi::lua_touserdata(state, 1).cast::<u64>());
        }
        0
    }
}

unsafe extern "C-unwind" fn unknown_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key.
    unsafe { fields::unknown(state, Shared::of(state), 2, "tx", &WITHIN) }
}
