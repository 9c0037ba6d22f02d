//! `tide.kv`: the stores of the configuration. In memory an operation is done at once; the others are waited for.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod arguments;
mod operations;
mod update;

use std::ffi::{CStr, c_int};
use std::fmt::Write as _;

use mlua::ffi::{self, lua_State};

use crate::lua::api::module::{Body, Entry};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::nearest::suggestion;

pub(in crate::lua) use arguments::METHODS;
pub(super) use arguments::encoded;
pub(super) use operations::{at, decoded, job, push_kept, raw};

pub(super) const ENTRY: Entry = Entry {
    name: "kv",
    path: "tide.kv",
    types: &[
        "Returns a store of `[kv]`.",
        "@param name string",
        "@return tide.Kv",
    ],
    body: Body::C(named),
};

const UPDATE: &str = "update";

/// The metatable of stores, the table of those that were made, and that of their indices.
const METATABLE: &CStr = c"moontide.kv";
const MADE: &CStr = c"moontide.kv.made";
const INDICES: &CStr = c"moontide.kv.indices";

/// Makes the metatable of stores.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 2);
        shared.push_function(state, unknown_method, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, b"tide.kv");
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
    }
}

/// The store of this name, which a VM makes once.
unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: the name is checked before anything is pending; it stays on the stack.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 1);
        let mut store = 0;
        shared.attempt(state, || {
            store = known(state, shared)?;
            Ok(0)
        });
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, MADE.as_ptr());
        ffi::lua_pushvalue(state, 1);
        if ffi::lua_rawget(state, 2) == ffi::LUA_TTABLE {
            return 1;
        }
        ffi::lua_pop(state, 1);
        ffi::lua_createtable(state, 0, METHODS.len() as c_int + 1);
        for (index, method) in METHODS.iter().enumerate() {
            push_bytes(state, method.name.as_bytes());
            push_method(state, shared, index, store, operations::run);
            ffi::lua_rawset(state, 3);
        }
        push_bytes(state, UPDATE.as_bytes());
        push_method(state, shared, 0, store, update::update);
        ffi::lua_rawset(state, 3);
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, METATABLE.as_ptr());
        ffi::lua_setmetatable(state, 3);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, 3);
        ffi::lua_rawset(state, 2);
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, INDICES.as_ptr());
        ffi::lua_pushvalue(state, 3);
        ffi::lua_pushinteger(state, store as i64);
        ffi::lua_rawset(state, -3);
        ffi::lua_settop(state, 3);
        1
    }
}

/// The object lies at 3.
unsafe fn push_method(
    state: *mut lua_State,
    shared: &Shared,
    method: usize,
    store: usize,
    function: ffi::lua_CFunction,
) {
    // SAFETY: runs with plain data pending.
    unsafe {
        ffi::lua_pushinteger(state, method as i64);
        ffi::lua_pushinteger(state, store as i64);
        ffi::lua_pushvalue(state, 3);
        shared.push_function(state, function, 3);
    }
}

/// The index of the store that the first argument names. Raises nothing.
unsafe fn known(state: *mut lua_State, shared: &Shared) -> Result<usize, String> {
    // SAFETY: values are read, never converted in place.
    let (name, found) = unsafe { (bytes_at(state, 1), type_name(state, 1)) };
    let Some(name) = name else {
        return Err(format!("`tide.kv` takes the name of a store, not {found}"));
    };
    let name = String::from_utf8_lossy(name);
    let stores = &shared.config.kv;
    if let Some(index) = stores.iter().position(|one| one.name == name) {
        return Ok(index);
    }
    let names: Vec<&str> = stores.iter().map(|one| one.name.as_str()).collect();
    let meant = if names.is_empty() {
        "and none of another name".to_owned()
    } else {
        suggestion(&name, &names)
    };
    let name = name.escape_debug();
    Err(format!(
        "`tide.kv`: the configuration has no table `[kv.{name}]`, {meant}"
    ))
}

/// The index of the store at `index`, if an object of `tide.kv` lies there. Raises nothing.
pub(super) unsafe fn store_at(state: *mut lua_State, index: c_int) -> Option<usize> {
    // SAFETY: values are read. The table of indices is there as soon as there is an object.
    unsafe {
        let index = ffi::lua_absindex(state, index);
        let mut found = None;
        if ffi::lua_type(state, index) == ffi::LUA_TTABLE
            && ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, INDICES.as_ptr()) == ffi::LUA_TTABLE
        {
            ffi::lua_pushvalue(state, index);
            if ffi::lua_rawget(state, -2) == ffi::LUA_TNUMBER {
                found = usize::try_from(ffi::lua_tointeger(state, -1)).ok();
            }
            ffi::lua_pop(state, 2);
        }
        found
    }
}

unsafe extern "C-unwind" fn unknown_method(state: *mut lua_State) -> c_int {
    // SAFETY: Lua calls it with a table and a key; `attempt` raises after its closure has returned.
    unsafe {
        let shared = Shared::of(state);
        shared.attempt(state, || {
            let Some(name) = bytes_at(state, 2) else {
                let found = type_name(state, 2);
                return Err(format!(
                    "a method of `tide.kv` is named by a string, not by {found}"
                ));
            };
            let name = String::from_utf8_lossy(name);
            let mut names: Vec<_> = METHODS.iter().map(|method| method.name).collect();
            names.push(UPDATE);
            let nearest = suggestion(&name, &names);
            Err(format!("`tide.kv` has no method `{name}`, {nearest}"))
        })
    }
}

/// The type definitions of the object for `LuaLS`.
pub(super) fn definitions() -> String {
    let mut text = String::from(
        "
---@class tide.kv.Ttl
---@field ttl? number|string milliseconds, or a string such as \"60s\"

---A store of handlers.
---@class tide.Kv
---@field update fun(self: tide.Kv, key: string, change: (fun(value: any): any), options?: tide.kv.Ttl): any
",
    );
    for method in METHODS {
        let mut parameters = vec!["self: tide.Kv".to_owned()];
        let typed = method.types.iter().map(|one| (*one).to_owned());
        parameters.extend(typed);
        let (name, parameters, returns) = (method.name, parameters.join(", "), method.returns);
        let returns = if returns == "nothing" {
            String::new()
        } else {
            format!(": {returns}")
        };
        // Writing to a string cannot fail.
        let _ = writeln!(text, "---@field {name} fun({parameters}){returns}");
    }
    text
}
