//! Builds a VM from a bundle: libraries, init.lua, and the function of every listener.
//!
//! Code of files runs on the main state, which cannot wait, under the same limits as a call.

#![expect(unsafe_code, reason = "sets a VM up through the C API")]

mod returned;

use std::collections::BTreeSet;
use std::ffi::c_int;
use std::fmt;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use super::App;
use super::api::{app, batch, consumer, defer, logger, message, tide, trace};
use super::guards;
use super::shared::{Shared, Stage};
use super::vm::Vm;
use super::vm::beat::Pulse;
use super::vm::failure;
use super::vm::heap::Heap;
use super::vm::last_words::About;
use super::vm::{coroutine, globals, hook, load};
use crate::bundle::Bundle;
use crate::config::Listener;

/// Between two collections the heap may grow by this many per cent: handlers make short-lived garbage.
const GC_PAUSE: c_int = 400;
/// References of a VM with some handlers and coroutines.
const REFERENCES: usize = 64;
/// The limit of init.lua, which no listener's `limits.blocking` covers.
const BLOCKING: Duration = Duration::from_secs(5);

/// The reason why a VM was not built or init.lua failed: one sentence a line, with the place first.
#[derive(Debug)]
pub(crate) struct Error {
    message: String,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Error {}

impl Vm {
    /// Builds a new VM. Runs init.lua's chunk, but not its functions, and every file that a listener's handler names.
    pub(crate) fn build(bundle: &Bundle, app: &Arc<App>, pulse: &Pulse) -> Result<Self, Error> {
        let config = Arc::clone(&bundle.config);
        let shared = Box::new(Shared::new(Arc::clone(app), bundle));
        let heap = Box::new(Heap::new());
        // SAFETY: the heap stays at its address, and outlives the state.
        let main =
            unsafe { ffi::lua_newstate(Heap::allocate, ptr::from_ref(&*heap).cast_mut().cast()) };
        if main.is_null() {
            let message = "lua: the system has no memory for a vm".to_owned();
            return Err(Error { message });
        }
        shared.hosts.borrow_mut().insert(main);
        let mut vm = Self::assemble(main, shared, heap, config);
        vm.install()?;
        vm.heap.set_limit(vm.config.lua.memory);
        vm.load_init(pulse)?;
        vm.load_handlers(pulse)?;
        vm.collect_garbage(pulse)?;
        vm.shared.stage.set(Stage::Runs);
        Ok(vm)
    }

    /// Runs init.lua's function, or its `start`.
    pub(crate) fn start(&mut self, pulse: &Pulse) -> Result<(), Error> {
        self.shared.stage.set(Stage::Loads);
        let started = self.hook_of_init(pulse, self.hooks.start);
        self.shared.stage.set(Stage::Runs);
        started
    }

    /// Runs init.lua's `shutdown`.
    pub(crate) fn shutdown(&mut self, pulse: &Pulse) -> Result<(), Error> {
        self.hook_of_init(pulse, self.hooks.shutdown)
    }

    fn hook_of_init(&mut self, pulse: &Pulse, function: Option<c_int>) -> Result<(), Error> {
        let Some(function) = function else {
            return Ok(());
        };
        self.run_hook(pulse, function, BLOCKING).map_err(|failure| {
            let (folder, message) = (&self.shared.folder, failure.message);
            // A returned value, or a table that was raised, has no place of its own.
            let message = if message.starts_with(&**folder) {
                message
            } else {
                format!("{folder}/init.lua: {message}")
            };
            Error { message }
        })
    }

    fn install(&mut self) -> Result<(), Error> {
        // SAFETY: `setup` runs protected and gets a pointer that outlives the call.
        unsafe {
            let top = ffi::lua_gettop(self.main);
            ffi::lua_pushcclosure(self.main, setup, 0);
            ffi::lua_pushlightuserdata(self.main, ptr::from_ref(&*self.shared).cast_mut().cast());
            let status = ffi::lua_pcall(self.main, 1, 4, 0);
            if status == ffi::LUA_OK {
                self.entry = ffi::lua_tointegerx(self.main, -4, ptr::null_mut()) as c_int;
                self.batch_entry = ffi::lua_tointegerx(self.main, -3, ptr::null_mut()) as c_int;
                self.hook = ffi::lua_tointegerx(self.main, -2, ptr::null_mut()) as c_int;
                self.require = ffi::lua_tointegerx(self.main, -1, ptr::null_mut()) as c_int;
            }
            let text = failure::text_at(self.main, 1000);
            ffi::lua_settop(self.main, top);
            if status == ffi::LUA_OK {
                Ok(())
            } else {
                Err(Error {
                    message: format!("lua: {text}"),
                })
            }
        }
    }

    fn load_init(&mut self, pulse: &Pulse) -> Result<(), Error> {
        if !self.shared.sources.contains("init.lua") {
            return Ok(());
        }
        let place = format!("{}/init.lua", self.shared.folder);
        self.require(pulse, "init", BLOCKING)
            .map_err(|refused| refused.error)?;
        // SAFETY: the module's value lies on top of the main state.
        let hooks = self.protected(|| unsafe { returned::hooks_of(self.main, &place) });
        self.hooks = hooks.map_err(|message| Error { message })?;
        Ok(())
    }

    /// Continues after a handler that does not load, so that all such handlers are reported at once.
    fn load_handlers(&mut self, pulse: &Pulse) -> Result<(), Error> {
        let config = Arc::clone(&self.config);
        let mut errors: Vec<String> = Vec::new();
        let mut refused_files = BTreeSet::new();
        for listener in &config.listeners {
            let file = &listener.handler.path;
            if refused_files.contains(file) {
                continue;
            }
            if pulse.is_cancelled() {
                errors.push("the load is cancelled".to_owned());
                break;
            }
            // SAFETY: reads the height of the stack.
            let top = unsafe { ffi::lua_gettop(self.main) };
            if let Err(refused) = self.load_handler(pulse, listener) {
                // SAFETY: restores that height; an error may have left values above it.
                unsafe { ffi::lua_settop(self.main, top) };
                errors.push(refused.error.message);
                if refused.is_last {
                    break;
                }
                if refused.is_whole_file {
                    refused_files.insert(file);
                }
            }
        }
        // SAFETY: runs with memory above the limit.
        let syntax = self.protected(|| unsafe { self.shared.syntax_errors(self.main) });
        for error in syntax {
            if !errors.contains(&error) {
                errors.push(error);
            }
        }
        if errors.is_empty() {
            return Ok(());
        }
        Err(Error {
            message: errors.join("\n"),
        })
    }

    /// Collects the garbage of the load. A `__gc` method of it that does not end is the load's fault, and no call's.
    fn collect_garbage(&self, pulse: &Pulse) -> Result<(), Error> {
        let file = format!("{}/*.lua", self.shared.folder);
        let about = About {
            listener: &file,
            topic: "",
            partition: -1,
            offset: -1,
            timestamp_ms: -1,
        };
        let slice = pulse.begin(self.main, BLOCKING, &about);
        // SAFETY: a collection raises nothing: errors of finalizers become warnings.
        unsafe { ffi::lua_gc(self.main, ffi::LUA_GCCOLLECT) };
        if !slice.killed() {
            return Ok(());
        }
        // SAFETY: the main state is alive.
        unsafe { hook::clear(self.main) };
        let message = format!("{file}: a `__gc` method {}", failure::too_long(BLOCKING));
        Err(Error { message })
    }

    fn load_handler(&mut self, pulse: &Pulse, listener: &Listener) -> Result<(), Refused> {
        let handler = &listener.handler;
        let file = format!("{}.lua", handler.path);
        let place = format!("{}/{file}", self.shared.folder);
        if !self.shared.sources.contains(&file) {
            let message = format!(
                "listener `{}`: handler `{}` needs the file {place}, which does not exist",
                listener.name, handler.text
            );
            return Err(Error { message }.into());
        }
        self.require(
            pulse,
            &handler.path.replace('/', "."),
            listener.limits.blocking,
        )?;
        // SAFETY: the module's value lies on top of the main state.
        let function = self.protected(|| unsafe {
            returned::handler_of(self.main, handler.function.as_deref(), &place)
        });
        let function = function.map_err(|message| Error {
            message: format!("{message} (listener `{}`)", listener.name),
        })?;
        self.shared.handlers.borrow_mut().push(function);
        Ok(())
    }

    /// Leaves the value of `require(module)` on the main state.
    fn require(&self, pulse: &Pulse, module: &str, limit: Duration) -> Result<(), Refused> {
        let file = format!("{}/{}.lua", self.shared.folder, module.replace('.', "/"));
        let about = About {
            listener: &file,
            topic: "",
            partition: -1,
            offset: -1,
            timestamp_ms: -1,
        };
        let slice = pulse.begin(self.main, limit, &about);
        self.shared.required.replace(Some(module.to_owned()));
        // SAFETY: `require_module` runs protected, and the push allocates nothing.
        unsafe {
            let top = ffi::lua_gettop(self.main);
            ffi::lua_rawgeti(self.main, ffi::LUA_REGISTRYINDEX, self.require.into());
            let status = ffi::lua_pcall(self.main, 0, 1, 0);
            if status == ffi::LUA_OK && !slice.killed() {
                return Ok(());
            }
            let message = match status {
                ffi::LUA_ERRMEM => {
                    let words = failure::out_of_memory(self.config.lua.memory);
                    format!("{file}: {}", words.message)
                }
                // C code was told to end, and ended by itself.
                ffi::LUA_OK => format!("{file}: {}", failure::too_long(limit)),
                _ => {
                    let words = self.protected(|| failure::describe_top(self.main));
                    placed(words.message, &file, &self.shared.folder)
                }
            };
            ffi::lua_settop(self.main, top);
            hook::clear(self.main);
            Err(Refused {
                error: Error { message },
                is_whole_file: true,
                // After a memory error or a kill, the errors of further handlers would prove nothing.
                is_last: status == ffi::LUA_ERRMEM || slice.killed(),
            })
        }
    }
}

/// Adds the file to an error whose text has no place of its own, such as that of a table.
fn placed(message: String, file: &str, folder: &str) -> String {
    if failure::has_position(&message, folder) {
        message
    } else {
        format!("{file}: {message}")
    }
}

/// Why a handler does not load, and which other listeners that affects.
struct Refused {
    error: Error,
    /// The file fails for every listener that names it.
    is_whole_file: bool,
    /// No other handler can be tried.
    is_last: bool,
}

impl From<Error> for Refused {
    fn from(error: Error) -> Self {
        Self {
            error,
            is_whole_file: false,
            is_last: false,
        }
    }
}

/// Sets up everything that a VM has before the bundle's own code. The one argument is `Shared`; the four results
/// are the references of `entry`, of that of batches, of `hook` and of `require_module`.
unsafe extern "C-unwind" fn setup(state: *mut lua_State) -> c_int {
    // SAFETY: runs protected; the pointer outlives the VM.
    unsafe {
        let shared = &*ffi::lua_touserdata(state, 1).cast::<Shared>();
        ffi::lua_settop(state, 0);
        // All libraries are opened, even those that can break a VM: handlers are the user's own code.
        ffi::luaL_openlibs(state);
        ffi::lua_gc(state, ffi::LUA_GCINC, GC_PAUSE, 0, 0);
        line_up_references(state);
        coroutine::install(state, shared);
        guards::install(state, shared);
        globals::install(state, shared);
        load::install(state, shared);
        logger::install(state, shared);
        trace::install(state);
        app::install(state, shared);
        consumer::install(state, shared);
        batch::install(state, shared);
        defer::install(state, shared);
        tide::install(state, shared);
        message::push_entry(state, shared);
        let entry = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        batch::push_entry(state, shared);
        let batch_entry = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        message::push_hook(state, shared);
        let hook = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        shared.push_function(state, require_module, 0);
        let require = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        ffi::lua_pushinteger(state, entry.into());
        ffi::lua_pushinteger(state, batch_entry.into());
        ffi::lua_pushinteger(state, hook.into());
        ffi::lua_pushinteger(state, require.into());
        4
    }
}

/// Gives the registry an array part for references, since each call looks up two of them. References that are added
/// one by one would land in its hash part.
unsafe fn line_up_references(state: *mut lua_State) {
    // SAFETY: runs protected; a free reference stays a place in the array.
    unsafe {
        let references = [(); REFERENCES].map(|()| {
            ffi::lua_pushboolean(state, 1);
            ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX)
        });
        for reference in references.into_iter().rev() {
            ffi::luaL_unref(state, ffi::LUA_REGISTRYINDEX, reference);
        }
    }
}

unsafe extern "C-unwind" fn require_module(state: *mut lua_State) -> c_int {
    // SAFETY: the name is `shared`'s when it is pushed.
    unsafe {
        let shared = Shared::of(state);
        ffi::lua_settop(state, 0);
        ffi::lua_getglobal(state, c"require".as_ptr());
        shared.push_owned(state, shared.take_required());
        ffi::lua_callk(state, 1, 1, 0, None);
        1
    }
}
