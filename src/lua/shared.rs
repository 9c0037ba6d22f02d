//! What the C functions of one VM share, and how they raise.
//!
//! Lua raises by `longjmp`, which runs no destructor. So a C function of ours does its Rust work in a closure that
//! returns before anything can raise, keeps what must outlive that here, and calls the raising part of Lua's API only
//! with plain data pending.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::{CStr, c_int, c_void};
use std::mem;
use std::ptr;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::attributes::App;
use super::stack::push_bytes;
use super::{Asked, Call, Verdict};
use crate::clock::Clock;
use crate::config::Config;
use crate::config::Sources;
use crate::wait::{Answer, Fault, Value, Wait, WaitId, Waits};

/// What a coroutine of the host yields when it waits; nothing that Lua code can make.
pub(super) static TOKEN: u8 = 0;

/// The Lua function of a listener.
#[derive(Clone, Copy)]
pub(super) struct Function {
    /// In the registry.
    pub(super) reference: c_int,
    /// Whether it can look at a second argument: one that names no ctx needs none to be made.
    pub(super) sees_ctx: bool,
    /// Whether it is a method: it takes the message for `self`.
    pub(super) is_method: bool,
}

impl Function {
    /// Of the one that `reference` is to.
    pub(super) unsafe fn of(state: *mut lua_State, reference: c_int) -> Self {
        // SAFETY: the caller has room for it. Nothing here allocates, and all that is told may be 0 before.
        let (about, is_method) = unsafe {
            let mut about: ffi::lua_Debug = mem::zeroed();
            ffi::lua_rawgeti(state, ffi::LUA_REGISTRYINDEX, reference.into());
            let first = ffi::lua_getlocal(state, ptr::null(), 1);
            let is_method = !first.is_null() && CStr::from_ptr(first) == c"self";
            ffi::lua_getinfo(state, c">u".as_ptr(), &raw mut about);
            (about, is_method)
        };
        Self {
            reference,
            // One in C says that it takes any number.
            sees_ctx: about.nparams > 1 || about.isvararg != 0,
            is_method,
        }
    }
}

/// A coroutine that waits for the host.
pub(super) struct Held {
    call: u64,
    /// The one that is resumed by another is held before it.
    order: u64,
}

/// A call on its way to `api::message::entry`; read before the handler starts, never after.
pub(super) struct Frame<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) id: u64,
}

/// One a VM, at an address that does not change: every C function of ours has it as its first upvalue.
pub(super) struct Shared {
    pub(super) app: Arc<App>,
    pub(super) clock: Clock,
    pub(super) sources: Arc<Sources>,
    /// For `require`, after the bundle.
    pub(super) path: String,
    pub(super) cpath: String,
    /// The last part of the handlers folder's path: what chunk names start with.
    pub(super) folder: String,
    /// Bytes that Lua may hold; what is built outside it on its behalf is held to the same.
    pub(super) memory: usize,
    /// Names, by index.
    pub(super) listeners: Vec<String>,
    /// By listener.
    pub(super) handlers: RefCell<Vec<Function>>,
    /// The call that `entry` is to start, until it has.
    frame: Cell<*const Frame<'static>>,
    /// The module that `build` requires next, until `load` takes it.
    pub(super) required: RefCell<Option<String>>,
    /// The call that runs, or 0.
    pub(super) call: Cell<u64>,
    /// The coroutine of that call.
    pub(super) coroutine: Cell<*mut lua_State>,
    /// Every state that belongs to the host, the main one included: Lua code may neither resume nor close it.
    pub(super) hosts: RefCell<HashSet<*mut lua_State>>,
    /// A coroutine was resumed from a function that cannot yield: its waits cannot be passed on.
    pub(super) cannot_yield_through: Cell<bool>,
    /// The waits that the slice that runs has begun and given up.
    pub(super) waits: RefCell<Waits>,
    last_wait: Cell<u64>,
    /// The wait whose answer the slice that runs was resumed with.
    pub(super) answered: Cell<WaitId>,
    /// What a function of a module came to, between the C function around it and the raise.
    pub(super) fault: RefCell<Option<Fault>>,
    /// What the slice that runs, or ran last, asked to have committed.
    pub(super) asked: Cell<Option<Asked>>,
    /// What the call that runs has asked for; its first word counts.
    pub(super) verdict: RefCell<Option<Verdict>>,
    /// The answer to a wait, between the host's resume and the function that waits for it.
    pub(super) answer: RefCell<Option<Answer>>,
    /// Coroutines of Lua code that wait for the host, and the call whose wait it is: for all other code they run.
    pub(super) held: RefCell<HashMap<*mut lua_State, Held>>,
    /// How many were ever held.
    held_count: Cell<u64>,
    /// The message of the error being raised.
    message: RefCell<String>,
    /// Bytes on their way into Lua. Good for one push: a finalizer that runs later may change them.
    scratch: RefCell<Vec<u8>>,
    /// The headers of the message that is being pushed; `entry` alone uses it.
    pub(super) headers: RefCell<Vec<u8>>,
    /// The modules whose chunks run, the innermost last.
    pub(super) loading: RefCell<Vec<String>>,
    /// Plain data on its way into Lua, the innermost last.
    plain: RefCell<Vec<Arc<Value>>>,
    /// Registry references to the names of topics.
    pub(super) topics: RefCell<HashMap<Arc<str>, c_int>>,
    /// The one of the message before: compared by address, kept alive by this.
    pub(super) topic: RefCell<Option<(Arc<str>, c_int)>>,
}

impl Shared {
    pub(super) fn new(app: Arc<App>, sources: Arc<Sources>, config: &Config) -> Self {
        let folder = config.lua.handlers.file_name();
        Self {
            clock: app.clock().clone(),
            app,
            sources,
            path: config.lua.path.clone(),
            cpath: config.lua.cpath.clone(),
            folder: folder.map_or_else(
                || "handlers".into(),
                |name| name.to_string_lossy().into_owned(),
            ),
            memory: config.lua.memory,
            listeners: config
                .listeners
                .iter()
                .map(|listener| listener.name.clone())
                .collect(),
            handlers: RefCell::default(),
            frame: Cell::new(ptr::null()),
            required: RefCell::default(),
            call: Cell::new(0),
            coroutine: Cell::new(ptr::null_mut()),
            hosts: RefCell::default(),
            cannot_yield_through: Cell::new(false),
            waits: RefCell::default(),
            last_wait: Cell::new(0),
            answered: Cell::new(WaitId(0)),
            fault: RefCell::default(),
            asked: Cell::new(None),
            verdict: RefCell::default(),
            answer: RefCell::default(),
            held: RefCell::default(),
            held_count: Cell::new(0),
            message: RefCell::default(),
            scratch: RefCell::default(),
            headers: RefCell::default(),
            loading: RefCell::default(),
            plain: RefCell::default(),
            topics: RefCell::default(),
            topic: RefCell::default(),
        }
    }

    /// The coroutine that runs is about to wait for this.
    pub(super) fn begin(&self, wait: Wait) {
        let id = WaitId(self.last_wait.get() + 1);
        self.last_wait.set(id.0);
        self.waits.borrow_mut().begun.push((id, wait));
    }

    /// The number of waits so far: later ones have a higher id.
    pub(super) fn last_wait(&self) -> WaitId {
        WaitId(self.last_wait.get())
    }

    pub(super) fn listener_name(&self, index: usize) -> &str {
        self.listeners.get(index).map_or("", String::as_str)
    }

    /// Nobody waits for this any more.
    pub(super) fn give_up(&self, wait: WaitId) {
        let mut waits = self.waits.borrow_mut();
        match waits.begun.iter().position(|(id, _)| *id == wait) {
            Some(index) => drop(waits.begun.remove(index)),
            None => waits.given_up.push(wait),
        }
    }

    /// From here on `state` waits for the host, on behalf of the call that runs.
    pub(super) fn hold(&self, state: *mut lua_State) {
        let (call, order) = (self.call.get(), self.held_count.get());
        self.held_count.set(order + 1);
        self.held.borrow_mut().insert(state, Held { call, order });
    }

    /// Whatever waits on behalf of `call` does so no more: the coroutines, the innermost first.
    pub(super) fn let_go(&self, call: u64) -> Vec<*mut lua_State> {
        let mut held = self.held.borrow_mut();
        let mut of_call: Vec<_> = held
            .extract_if(|_, held| held.call == call)
            .map(|(state, held)| (held.order, state))
            .collect();
        of_call.sort_unstable();
        of_call.into_iter().map(|(_, state)| state).collect()
    }

    /// Hands a call to `entry`. It lives until it is handed back, or until null is handed over in its place.
    pub(super) fn hand_over(&self, frame: *const Frame<'_>) {
        self.frame.set(frame.cast());
    }

    /// The call that was handed over, once.
    pub(super) fn take_frame(&self) -> *const Frame<'static> {
        self.frame.replace(ptr::null())
    }

    /// The name of the module that is required; none for a call that the host did not make.
    pub(super) fn take_required(&self) -> Vec<u8> {
        self.required.take().unwrap_or_default().into_bytes()
    }

    /// Of the C function that runs: its first upvalue.
    pub(super) unsafe fn of<'a>(state: *mut lua_State) -> &'a Self {
        // SAFETY: `push_function` put it there, and it outlives the VM. No Lua code gets at upvalues of C functions, see
        // `vm::introspection`.
        unsafe { &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Self>() }
    }

    /// Pushes `function` with this as its first upvalue, before the `further` ones on the stack.
    pub(super) unsafe fn push_function(
        &self,
        state: *mut lua_State,
        function: ffi::lua_CFunction,
        further: c_int,
    ) {
        // SAFETY: room for one value is the caller's duty, as everywhere in Lua's API.
        unsafe {
            ffi::lua_pushlightuserdata(state, ptr::from_ref(self).cast_mut().cast::<c_void>());
            ffi::lua_insert(state, -1 - further);
            ffi::lua_pushcclosure(state, function, 1 + further);
        }
    }

    /// Runs `work` and, when it fails, raises its message with the position of Lua's caller. In `work` nothing may
    /// raise while something with a destructor is pending.
    pub(super) unsafe fn attempt(
        &self,
        state: *mut lua_State,
        work: impl FnOnce() -> Result<c_int, String>,
    ) -> c_int {
        match work() {
            Ok(results) => return results,
            Err(message) => self.message.replace(message),
        };
        // SAFETY: nothing of Rust's is pending in this frame any more.
        unsafe { self.raise_kept(state) }
    }

    /// Raises `message` with the position of Lua's caller.
    pub(super) unsafe fn raise(&self, state: *mut lua_State, message: String) -> ! {
        self.message.replace(message);
        // SAFETY: the message was moved away; nothing is pending.
        unsafe { self.raise_kept(state) }
    }

    /// Pushes bytes that Rust owns; they are gone from the caller's frame before Lua may raise.
    pub(super) unsafe fn push_owned(&self, state: *mut lua_State, bytes: Vec<u8>) {
        self.scratch.replace(bytes);
        // SAFETY: Lua copies the bytes before its collector may run.
        unsafe {
            push_bytes(state, &*self.scratch.as_ptr());
        }
    }

    /// Keeps a value alive while it is pushed.
    pub(super) fn keep_plain(&self, value: Option<Arc<Value>>) -> Option<*const Value> {
        let value = value?;
        let address = Arc::as_ptr(&value);
        self.plain.borrow_mut().push(value);
        Some(address)
    }

    pub(super) fn release_plain(&self) {
        self.plain.borrow_mut().pop();
    }

    /// Values whose push ended in an error are kept by nobody else.
    pub(super) fn forget_plain(&self) {
        self.plain.borrow_mut().clear();
    }

    unsafe fn raise_kept(&self, state: *mut lua_State) -> ! {
        // SAFETY: Lua copies the message before its collector may run a finalizer, which could raise another; `lua_error`
        // leaves only plain frames behind.
        unsafe {
            push_bytes(state, (*self.message.as_ptr()).as_bytes());
            ffi::luaL_where(state, 1);
            ffi::lua_insert(state, -2);
            ffi::lua_concat(state, 2);
            ffi::lua_error(state)
        }
    }
}
