//! `tide.kv`: the stores of the configuration. In memory an operation is done at once; the others are waited for.

#![expect(unsafe_code, reason = "C functions for Lua")]

mod arguments;
mod operations;
mod update;

use std::ffi::{CStr, c_int};
use std::fmt::Write as _;

use mlua::ffi::{self, lua_State};

use super::objects::{self, Objects};
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

/// The table of the indices of the stores that were made.
const INDICES: &CStr = c"moontide.kv.indices";

const STORES: Objects = Objects {
    path: "tide.kv",
    article: "a store",
    table: "kv",
    metatable: c"moontide.kv",
    made: c"moontide.kv.made",
    push_methods,
    unknown_method,
};

/// Makes the metatable of stores.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected.
    unsafe { objects::install(state, shared, &STORES) }
}

/// The store of this name, which a VM makes once.
unsafe extern "C-unwind" fn named(state: *mut lua_State) -> c_int {
    // SAFETY: a C function of Lua, with nothing pending.
    unsafe {
        let shared = Shared::of(state);
        let stores = &shared.config.kv;
        objects::named(state, shared, &STORES, &|| {
            stores.iter().map(|one| one.name.clone()).collect()
        })
    }
}

unsafe fn push_methods(state: *mut lua_State, shared: &Shared) {
    // SAFETY: a table is on top, and the name of a store at index 1; only plain data is pending.
    unsafe {
        let object = ffi::lua_gettop(state);
        let name = bytes_at(state, 1).unwrap_or_default();
        let mut stores = shared.config.kv.iter();
        let store = stores.position(|one| one.name.as_bytes() == name);
        let store = store.unwrap_or_default();
        for (index, method) in METHODS.iter().enumerate() {
            push_bytes(state, method.name.as_bytes());
            push_method(state, shared, index, store, operations::run);
            ffi::lua_rawset(state, object);
        }
        push_bytes(state, UPDATE.as_bytes());
        push_method(state, shared, 0, store, update::update);
        ffi::lua_rawset(state, object);
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, INDICES.as_ptr());
        ffi::lua_pushvalue(state, object);
        ffi::lua_pushinteger(state, store as i64);
        ffi::lua_rawset(state, -3);
        ffi::lua_settop(state, object);
    }
}

/// The object lies below the name of the method, which is on top.
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
        ffi::lua_pushvalue(state, -4);
        shared.push_function(state, function, 3);
    }
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
