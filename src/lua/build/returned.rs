//! What a file returns: the hooks of init.lua, and the function of a handler.

#![expect(unsafe_code, reason = "reads tables through the C API")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use crate::lua::function::Function;
use crate::lua::stack::{bytes_at, push_bytes, type_name};
use crate::lua::vm::Hooks;
use crate::nearest::suggestion;

/// Moves the value on top into the registry. Only for use within `protected`, which leaves memory for it.
unsafe fn reference(state: *mut lua_State) -> c_int {
    // SAFETY: as above.
    unsafe { ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX) }
}

/// Reads init.lua's return value from the top and pops it.
pub(super) unsafe fn hooks_of(main: *mut lua_State, place: &str) -> Result<Hooks, String> {
    // SAFETY: the value lies on top.
    unsafe {
        let mut hooks = Hooks::default();
        match ffi::lua_type(main, -1) {
            ffi::LUA_TFUNCTION => {
                hooks.start = Some(reference(main));
                return Ok(hooks);
            }
            ffi::LUA_TTABLE => {
                hooks.start = function_of(main, "start", place)?;
                hooks.shutdown = function_of(main, "shutdown", place)?;
                let others = functions_of(main);
                if hooks.start.is_none() && hooks.shutdown.is_none() && !others.is_empty() {
                    return Err(format!(
                        "{place}: returns a table with neither `start` nor `shutdown`; there are `{}`",
                        others.join("`, `")
                    ));
                }
            }
            // The value that `require` gives for a file that returns nothing.
            ffi::LUA_TBOOLEAN => {}
            _ => {
                let found = type_name(main, -1);
                return Err(format!(
                    "{place}: returns {found}, but should return a function, or a table with `start` and `shutdown`, or nothing"
                ));
            }
        }
        ffi::lua_pop(main, 1);
        Ok(hooks)
    }
}

/// The function at `name` of the table on top, if there is one.
unsafe fn function_of(
    main: *mut lua_State,
    name: &str,
    place: &str,
) -> Result<Option<c_int>, String> {
    // SAFETY: raw access runs no code of the user.
    unsafe {
        push_bytes(main, name.as_bytes());
        match ffi::lua_rawget(main, -2) {
            ffi::LUA_TFUNCTION => Ok(Some(reference(main))),
            ffi::LUA_TNIL => {
                ffi::lua_pop(main, 1);
                Ok(None)
            }
            _ => {
                let found = type_name(main, -1);
                ffi::lua_pop(main, 1);
                Err(format!(
                    "{place}: `{name}` is {found}, but should be a function"
                ))
            }
        }
    }
}

/// Reads the handler from the module's value on top, and pops it.
pub(super) unsafe fn handler_of(
    main: *mut lua_State,
    function: Option<&str>,
    place: &str,
) -> Result<Function, String> {
    // SAFETY: the value lies on top.
    unsafe {
        let found = match ffi::lua_type(main, -1) {
            // The value that `require` gives for a file that returns nothing.
            ffi::LUA_TBOOLEAN if ffi::lua_toboolean(main, -1) != 0 => "nothing",
            _ => type_name(main, -1),
        };
        let result = match (function, ffi::lua_type(main, -1)) {
            (None, ffi::LUA_TFUNCTION) => return Ok(Function::of(main, reference(main))),
            (None, ffi::LUA_TTABLE) => Err(format!(
                "{place}: returns a table, but the handler names no function of it; {}",
                functions_hint(main, "")
            )),
            (None, _) => Err(format!(
                "{place}: returns {found}, but should return a function"
            )),
            (Some(name), ffi::LUA_TTABLE) => {
                if let Some(reference) = function_of(main, name, place)? {
                    ffi::lua_pop(main, 1);
                    return Ok(Function::of(main, reference));
                }
                Err(format!(
                    "{place}: no function `{name}` in the table that it returns, {}{}",
                    functions_hint(main, name),
                    inherited_hint(main, name)
                ))
            }
            (Some(name), _) => Err(format!(
                "{place}: returns {found}, but should return a table with the function `{name}`"
            )),
        };
        ffi::lua_pop(main, 1);
        result
    }
}

/// The functions of the table on top, the name nearest to `name` first.
unsafe fn functions_hint(main: *mut lua_State, name: &str) -> String {
    // SAFETY: as in `functions_of`.
    let names = unsafe { functions_of(main) };
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    if names.is_empty() {
        "there are no functions in it".to_owned()
    } else {
        suggestion(name, &names)
    }
}

/// A hint for a table on top that would find the function by `__index`.
unsafe fn inherited_hint(main: *mut lua_State, name: &str) -> String {
    // SAFETY: raw access runs no code of the user.
    unsafe {
        let top = ffi::lua_gettop(main);
        let mut inherits = false;
        if ffi::lua_getmetatable(main, -1) != 0 {
            push_bytes(main, b"__index");
            inherits = ffi::lua_rawget(main, -2) != ffi::LUA_TNIL;
        }
        ffi::lua_settop(main, top);
        if inherits {
            format!(
                "; a function that it inherits by `__index` is not seen: write `M.{name} = Base.{name}`"
            )
        } else {
            String::new()
        }
    }
}

/// The names of the functions in the table on top.
unsafe fn functions_of(main: *mut lua_State) -> Vec<String> {
    let mut names = Vec::new();
    // SAFETY: `lua_next` gets keys that it gave, and nothing is converted in place.
    unsafe {
        ffi::lua_pushnil(main);
        while ffi::lua_next(main, -2) != 0 {
            if ffi::lua_type(main, -1) == ffi::LUA_TFUNCTION
                && let Some(name) = bytes_at(main, -2)
            {
                names.push(String::from_utf8_lossy(name).into_owned());
            }
            ffi::lua_pop(main, 1);
        }
    }
    names.sort();
    names
}
