//! Objects by the name of a table of the configuration: a Redis server, a database, a store. A VM makes each once.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::{CStr, c_int};

use mlua::ffi::{self, lua_CFunction, lua_State};

use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::suspend;
use crate::nearest::suggestion;

/// A kind of such objects.
pub(super) struct Objects {
    /// `tide.redis`.
    pub(super) path: &'static str,
    /// `a Redis server`.
    pub(super) article: &'static str,
    /// `redis`: that of `[redis.NAME]`.
    pub(super) table: &'static str,
    pub(super) metatable: &'static CStr,
    pub(super) made: &'static CStr,
    /// Sets the methods of the table on top of the stack; the name is the value at index 1.
    pub(super) push_methods: unsafe fn(*mut lua_State, &Shared),
    pub(super) unknown_method: lua_CFunction,
}

/// Makes the metatable of the objects.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared, objects: &Objects) {
    // SAFETY: runs protected.
    unsafe {
        ffi::lua_createtable(state, 0, 3);
        shared.push_function(state, objects.unknown_method, 0);
        ffi::lua_setfield(state, -2, c"__index".as_ptr());
        push_bytes(state, objects.path.as_bytes());
        ffi::lua_setfield(state, -2, c"__name".as_ptr());
        ffi::lua_pushboolean(state, 1);
        ffi::lua_setfield(state, -2, suspend::OBJECT.as_ptr());
        ffi::lua_setfield(state, ffi::LUA_REGISTRYINDEX, objects.metatable.as_ptr());
    }
}

/// The body of a function that returns the object of its name, which is one of `names`.
pub(super) unsafe fn named(
    state: *mut lua_State,
    shared: &Shared,
    objects: &Objects,
    names: &dyn Fn() -> Vec<String>,
) -> c_int {
    // SAFETY: the name is checked before anything is pending; it stays on the stack.
    unsafe {
        ffi::lua_settop(state, 1);
        shared.attempt(state, || {
            known(bytes_at(state, 1), type_name(state, 1), objects, &names()).map(|()| 0)
        });
        ffi::luaL_getsubtable(state, ffi::LUA_REGISTRYINDEX, objects.made.as_ptr());
        ffi::lua_pushvalue(state, 1);
        if ffi::lua_rawget(state, 2) == ffi::LUA_TTABLE {
            return 1;
        }
        ffi::lua_pop(state, 1);
        ffi::lua_createtable(state, 0, 8);
        (objects.push_methods)(state, shared);
        ffi::lua_getfield(state, ffi::LUA_REGISTRYINDEX, objects.metatable.as_ptr());
        ffi::lua_setmetatable(state, -2);
        ffi::lua_pushvalue(state, 1);
        ffi::lua_pushvalue(state, -2);
        ffi::lua_rawset(state, 2);
        1
    }
}

fn known(
    name: Option<&[u8]>,
    found: &str,
    objects: &Objects,
    names: &[String],
) -> Result<(), String> {
    let Objects {
        path,
        article,
        table,
        ..
    } = objects;
    let Some(name) = name else {
        return Err(format!("`{path}` takes the name of {article}, not {found}"));
    };
    let name = String::from_utf8_lossy(name);
    if names.iter().any(|one| *one == *name) {
        return Ok(());
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let meant = if names.is_empty() {
        "and none of another name".to_owned()
    } else {
        suggestion(&name, &names)
    };
    let name = name.escape_debug();
    Err(format!(
        "`{path}`: the configuration has no table `[{table}.{name}]`, {meant}"
    ))
}
