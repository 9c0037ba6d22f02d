//! Files into functions: the bundle's snapshot, `require`, and what `load` and its kin may read.
//!
//! Nothing of the handlers folder is read from disk here, and no precompiled chunk is ever loaded: bytecode that was
//! tampered with can do anything.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;

use mlua::ffi::{self, lua_State};

use super::shared::{Shared, bytes_at};

/// Sets the search paths and puts the bundle before them.
pub(super) unsafe fn install(state: *mut lua_State, shared: &Shared) {
    // SAFETY: runs protected; `package` is a table with a list of searchers.
    unsafe {
        ffi::lua_getglobal(state, c"package".as_ptr());
        ffi::lua_getfield(state, -1, c"searchers".as_ptr());
        let searchers = ffi::lua_rawlen(state, -1) as i64;
        for i in (2..=searchers).rev() {
            ffi::lua_rawgeti(state, -1, i);
            ffi::lua_rawseti(state, -2, i + 1);
        }
        shared.push_function(state, search, 0);
        ffi::lua_rawseti(state, -2, 2);
        ffi::lua_pop(state, 2);
    }
}

/// The searcher: a loader and the chunk's name, or why there is none.
unsafe extern "C-unwind" fn search(state: *mut lua_State) -> c_int {
    // SAFETY: the source's bytes belong to `shared`, which keeps them; nothing is pending where Lua may raise.
    unsafe {
        let shared = Shared::of(state);
        let mut name = 0;
        ffi::luaL_checklstring(state, 1, &raw mut name);
        let Some(module) = bytes_at(state, 1) else {
            return 0;
        };
        let module: &str = match std::str::from_utf8(module) {
            Ok(module) => module,
            Err(_) => return 0,
        };
        let (source, chunk) = shared.source_of(module);
        shared.push_owned(state, chunk);
        match source {
            Some(source) => load_source(state, &*source),
            None => 1,
        }
    }
}

/// Compiles `source` under the chunk name on top of the stack; two results, the function and the name.
pub(super) unsafe fn load_source(state: *mut lua_State, source: &[u8]) -> c_int {
    // SAFETY: the name stays on the stack as long as it is used.
    unsafe {
        let chunk = ffi::lua_tolstring(state, -1, std::ptr::null_mut());
        let status = ffi::luaL_loadbufferx(
            state,
            source.as_ptr().cast(),
            source.len(),
            chunk,
            c"t".as_ptr(),
        );
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_insert(state, -2);
        2
    }
}

impl Shared {
    /// The bytes of module `name` and its chunk name, or what was looked for.
    fn source_of(&self, module: &str) -> (Option<*const [u8]>, Vec<u8>) {
        let path = format!("{}.lua", module.replace('.', "/"));
        match self.sources.get(&path) {
            Some(source) if !module.contains('/') => {
                (Some(&raw const **source), self.chunk_name(&path))
            }
            Some(_) => (
                None,
                format!("no module '{module}' in the bundle: its name is written with dots")
                    .into_bytes(),
            ),
            None => (
                None,
                format!("no file '{}/{path}' in the bundle", self.folder).into_bytes(),
            ),
        }
    }

    /// `@handlers/billing/orders.lua`: what positions in messages begin with.
    pub(super) fn chunk_name(&self, path: &str) -> Vec<u8> {
        format!("@{}/{path}", self.folder).into_bytes()
    }
}
