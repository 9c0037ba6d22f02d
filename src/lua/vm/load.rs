//! Compilation of files: the bundle's snapshot, `require`, and the limits on `load` and its kin.
//!
//! No file of the handlers folder is read from disk here, and no precompiled chunk is ever loaded: tampered bytecode
//! can do anything.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::ffi::c_int;
use std::ptr;

use mlua::ffi::{self, lua_State};

use super::{failure, hints};
use crate::lua::shared::Shared;
use crate::lua::stack::{bytes_at, push_bytes};

/// Sets the search paths and puts the bundle before them.
pub(in crate::lua) unsafe fn install(state: *mut lua_State, shared: &Shared) {
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
        ffi::lua_pushvalue(state, -2);
        shared.push_function(state, search_path, 1);
        ffi::lua_rawseti(state, -2, 3);
        ffi::lua_pop(state, 1);
        push_bytes(state, shared.path.as_bytes());
        ffi::lua_setfield(state, -2, c"path".as_ptr());
        push_bytes(state, shared.cpath.as_bytes());
        ffi::lua_setfield(state, -2, c"cpath".as_ptr());
        ffi::lua_pop(state, 1);
    }
}

/// The searcher: returns a loader and the chunk's name, or the reason for a miss.
unsafe extern "C-unwind" fn search(state: *mut lua_State) -> c_int {
    // SAFETY: `shared` owns and keeps the source's bytes; nothing is pending when Lua may raise.
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
        shared.attempt(state, || {
            // The frame of `require` itself is between this function and the code that requires.
            let place =
                failure::position(state).map_or_else(String::new, |place| format!("{place}: "));
            shared
                .refuse_loop(module)
                .map_err(|reason| format!("{place}{reason}"))
        });
        let (source, chunk) = shared.source_of(module);
        shared.push_owned(state, chunk);
        let Some(source) = source else { return 1 };
        load_source(state, &*source);
        ffi::lua_insert(state, -2);
        shared.push_function(state, run, 1);
        ffi::lua_insert(state, -2);
        2
    }
}

/// Like Lua's own searcher of `package.path`, but it loads only text.
unsafe extern "C-unwind" fn search_path(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is `package`; the file's name stays on the stack during its use.
    unsafe {
        ffi::luaL_checklstring(state, 1, ptr::null_mut());
        ffi::lua_settop(state, 1);
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_getfield(state, 2, c"searchpath".as_ptr());
        ffi::lua_pushvalue(state, 1);
        ffi::lua_getfield(state, 2, c"path".as_ptr());
        ffi::lua_callk(state, 2, 2, 0, None);
        if ffi::lua_type(state, 3) != ffi::LUA_TSTRING {
            // The result lists the searched paths.
            return 1;
        }
        let file = ffi::lua_tolstring(state, 3, ptr::null_mut());
        if ffi::luaL_loadfilex(state, file, c"t".as_ptr()) == ffi::LUA_OK {
            ffi::lua_pushvalue(state, 3);
            return 2;
        }
        ffi::lua_pushfstring(
            state,
            c"error loading module '%s' from file '%s':\n\t%s".as_ptr(),
            ffi::lua_tolstring(state, 1, ptr::null_mut()),
            file,
            ffi::lua_tolstring(state, -1, ptr::null_mut()),
        );
        ffi::lua_error(state)
    }
}

/// The loader: runs the module's chunk, and marks the module as loading meanwhile.
unsafe extern "C-unwind" fn run(state: *mut lua_State) -> c_int {
    // SAFETY: the second upvalue is the chunk. Nothing is pending when it fails.
    unsafe {
        let shared = Shared::of(state);
        shared.begin_loading(bytes_at(state, 1).unwrap_or_default());
        ffi::lua_pushvalue(state, ffi::lua_upvalueindex(2));
        ffi::lua_insert(state, 1);
        let status = ffi::lua_pcall(state, ffi::lua_gettop(state) - 1, 1, 0);
        let module = shared.loading.borrow_mut().pop();
        if status != ffi::LUA_OK {
            if status == ffi::LUA_ERRRUN
                && let Some(text) = bytes_at(state, -1)
                && let Some(placed) = shared.placed(module, text)
            {
                shared.push_owned(state, placed);
            }
            ffi::lua_error(state);
        }
        1
    }
}

/// Compiles `source` under the chunk name on top of the stack; leaves the
/// function below it.
unsafe fn load_source(state: *mut lua_State, source: &[u8]) {
    // SAFETY: the name stays on the stack during its use.
    unsafe {
        let chunk = ffi::lua_tolstring(state, -1, ptr::null_mut());
        let source = without_preamble(source);
        let status = ffi::luaL_loadbufferx(
            state,
            source.as_ptr().cast(),
            source.len(),
            chunk,
            c"t".as_ptr(),
        );
        if status == ffi::LUA_ERRSYNTAX
            && bytes_at(state, -1).is_some_and(|text| text.starts_with(b"attempt to load"))
        {
            // The only error of this kind that comes without a place.
            ffi::lua_pushfstring(
                state,
                c"%s: %s".as_ptr(),
                chunk.add(1),
                ffi::lua_tolstring(state, -1, ptr::null_mut()),
            );
        }
        if status != ffi::LUA_OK {
            ffi::lua_error(state);
        }
        ffi::lua_insert(state, -2);
    }
}

/// The source without the byte order mark and the `#!` line, which Lua skips in a file but not in a buffer. The
/// line's end stays, so that line numbers stay right.
fn without_preamble(source: &[u8]) -> &[u8] {
    let source = source.strip_prefix(b"\xef\xbb\xbf").unwrap_or(source);
    if !source.starts_with(b"#") {
        return source;
    }
    let end = source.iter().position(|byte| *byte == b'\n');
    &source[end.unwrap_or(source.len())..]
}

impl Shared {
    /// Refuses a module that is still loading: Lua alone would load it again and again.
    fn refuse_loop(&self, module: &str) -> Result<c_int, String> {
        let loading = self.loading.borrow();
        if loading.iter().any(|name| name == module) {
            return Err(format!(
                "module '{module}' requires itself: {} → {module}",
                loading.join(" → ")
            ));
        }
        Ok(0)
    }

    fn begin_loading(&self, module: &[u8]) {
        self.loading
            .borrow_mut()
            .push(String::from_utf8_lossy(module).into_owned());
    }

    /// Adds the module's file to an error of its chunk that has no place of its own (`error("boom", 0)`).
    fn placed(&self, module: Option<String>, text: &[u8]) -> Option<Vec<u8>> {
        if failure::has_position(&String::from_utf8_lossy(text), &self.folder) {
            return None;
        }
        let path = module?.replace('.', "/");
        let mut placed = format!("{}/{path}.lua: ", self.folder).into_bytes();
        placed.extend_from_slice(text);
        Some(placed)
    }

    /// The bytes of module `name` and its chunk name, or the reason why it was not found.
    fn source_of(&self, module: &str) -> (Option<*const [u8]>, Vec<u8>) {
        let path = format!("{}.lua", module.replace('.', "/"));
        match self.sources.files.get(&path) {
            Some(source) if !module.contains('/') => {
                (Some(&raw const **source), self.chunk_name(&path))
            }
            Some(_) => (
                None,
                format!("no module '{module}' in the bundle: its name is written with dots")
                    .into_bytes(),
            ),
            None if let Some(reason) = self.sources.refusal(&path) => {
                let text = format!("file '{}/{path}' {reason}", self.folder);
                (None, text.into_bytes())
            }
            None => {
                let hint =
                    hints::module(module).map_or_else(String::new, |hint| format!("; {hint}"));
                let text = format!("no file '{}/{path}' in the bundle{hint}", self.folder);
                (None, text.into_bytes())
            }
        }
    }

    /// Syntax errors with their places, of every file, even of one that no other file has loaded yet.
    pub(in crate::lua) unsafe fn syntax_errors(&self, state: *mut lua_State) -> Vec<String> {
        let mut errors = Vec::new();
        for (path, source) in &self.sources.files {
            let mut chunk = self.chunk_name(path);
            chunk.push(0);
            let source = without_preamble(source);
            // SAFETY: the name ends with a zero; compiling raises nothing, and the stack is put back as it was.
            unsafe {
                let status = ffi::luaL_loadbufferx(
                    state,
                    source.as_ptr().cast(),
                    source.len(),
                    chunk.as_ptr().cast(),
                    c"t".as_ptr(),
                );
                if status == ffi::LUA_ERRSYNTAX {
                    let text = failure::text_at(state, failure::MESSAGE_MAX);
                    errors.push(if text.starts_with("attempt to load") {
                        format!("{}/{path}: {text}", self.folder)
                    } else {
                        text
                    });
                }
                ffi::lua_pop(state, 1);
            }
        }
        errors
    }

    /// `@handlers/billing/orders.lua`: the start of positions in error messages.
    pub(in crate::lua) fn chunk_name(&self, path: &str) -> Vec<u8> {
        format!("@{}/{path}", self.folder).into_bytes()
    }
}
