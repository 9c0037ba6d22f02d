//! State that the C functions of one VM share, and how they raise errors.
//!
//! Lua raises by `longjmp`, which runs no destructor. So a C function of Moontide does its Rust work in a closure,
//! which returns before anything can raise. Values that must outlive the closure are kept here. The raising part of
//! Lua's API is called only with plain data pending.

#![expect(unsafe_code, reason = "C functions for Lua")]

use std::cell::{Cell, RefCell};
use std::collections::{HashMap, HashSet};
use std::ffi::{c_int, c_void};
use std::ptr;
use std::sync::Arc;

use mlua::ffi::{self, lua_State};

use super::attributes::App;
use super::control::observers::PartitionEvent;
use super::deferrals::Deferrals;
use super::function::Function;
use super::open_batch::OpenBatch;
use super::ordinals::Ordinals;
use super::patterns::Patterns;
use super::stack::push_bytes;
use super::states::States;
use super::transactions::Transactions;
use super::used::{Topics, Used};
use super::vm::last_words::About;
use super::{BatchCall, Call, Verdict};
use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::config::{Config, Sources};
use crate::rules::timers::Timer;
use crate::wait::admin::Admin;
use crate::wait::http::Http;
use crate::wait::redis::Redis;
use crate::wait::send::{Emitted, Senders};
use crate::wait::sql::Databases;
use crate::wait::{Answer, Fault, Requested, Value, Wait, WaitId, Waits};

/// The token that a coroutine of the host yields when it waits; Lua code cannot make it.
pub(super) static TOKEN: u8 = 0;

/// What the VM does, which decides where a timer may be declared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    /// Files run at their top level, or `start` of init.lua does.
    Loads,
    /// Calls, ticks and `shutdown`.
    Runs,
}

/// A timer that a file of a VM has declared.
pub(super) struct Declared {
    pub(super) timer: Timer,
    /// `handlers/jobs.lua:12`.
    pub(super) position: Arc<str>,
    /// Registry reference to the function.
    pub(super) function: c_int,
    /// Cancelled before its VM was in force.
    pub(super) is_cancelled: bool,
}

/// A function of `tide.on`.
pub(super) struct Observer {
    pub(super) event: PartitionEvent,
    /// `handlers/sums.lua:12`.
    pub(super) position: Arc<str>,
    /// Registry reference to the function.
    pub(super) function: c_int,
}

/// A coroutine of Lua code that waits for the host.
pub(super) struct Held {
    call: u64,
    /// Coroutines are held from the innermost outwards: the resumed one before the one that resumed it.
    order: u64,
}

/// A call on its way to `api::message::entry`; it is read before the handler starts, never after.
pub(super) struct Frame<'a> {
    pub(super) call: &'a Call<'a>,
    pub(super) id: u64,
}

/// The same of a batch, on its way to `api::batch`.
pub(super) struct BatchFrame<'a> {
    pub(super) batch: &'a BatchCall<'a>,
    pub(super) id: u64,
}

/// Each VM has one, at a fixed address: it is the first upvalue of every C function of Moontide.
pub(super) struct Shared {
    pub(super) app: Arc<App>,
    pub(super) clock: Clock,
    pub(super) sources: Arc<Sources>,
    /// The search paths of `require`, after the bundle.
    pub(super) path: String,
    pub(super) cpath: String,
    /// The last part of the handlers folder's path; chunk names start with it.
    pub(super) folder: String,
    /// Bytes that Lua may hold; data built outside the VM on its behalf has the same limit.
    pub(super) memory: usize,
    pub(super) config: Arc<Config>,
    /// The number of the bundle.
    pub(super) bundle: u64,
    /// The index of the worker that has the VM in force; none before.
    pub(super) worker: Cell<Option<usize>>,
    pub(super) stage: Cell<Stage>,
    /// What `start` of init.lua requested of consumers. It happens once the VM is in force, since its bundle may still
    /// be rejected.
    pub(super) requested: RefCell<Vec<Box<dyn FnOnce() + Send>>>,
    /// In the order of their declaration.
    pub(super) timers: RefCell<Vec<Declared>>,
    /// In the order of their declaration.
    pub(super) observers: RefCell<Vec<Observer>>,
    /// Names of the listeners, by index.
    pub(super) listeners: Vec<String>,
    /// Names of the producers.
    pub(super) producers: Vec<String>,
    /// `None` where no handler runs.
    pub(super) senders: Option<Arc<dyn Senders>>,
    /// The admin client of the configuration; `None` there, too.
    pub(super) admin: Option<Arc<dyn Admin>>,
    /// The HTTP client of the configuration; `None` there, too.
    pub(super) http: Option<Arc<dyn Http>>,
    /// The Redis clients of the configuration; `None` there, too.
    pub(super) redis: Option<Arc<dyn Redis>>,
    /// Stores, caches and limits.
    pub(super) states: States,
    /// The databases of the configuration; `None` there, too.
    pub(super) sql: Option<Arc<dyn Databases>>,
    /// The transactions of databases that calls have open.
    pub(super) transactions: Transactions,
    /// The listener of the running slice, by index; `None` in init.lua and in ticks.
    pub(super) listener: Cell<Option<usize>>,
    /// Handlers, by index of the listener.
    pub(super) handlers: RefCell<Vec<Function>>,
    /// The call that `entry` starts next; null after `entry` has taken it.
    frame: Cell<*const Frame<'static>>,
    batch_frame: Cell<*const BatchFrame<'static>>,
    /// The function that `hook` starts next; `LUA_NOREF` after it has taken it.
    hook: Cell<c_int>,
    /// The argument of that function, if it has one.
    argument: RefCell<Option<Arc<Value>>>,
    /// The module that `build` requires next; `load` takes it.
    pub(super) required: RefCell<Option<String>>,
    /// The id of the running call, or 0.
    pub(super) call: Cell<u64>,
    /// What the running slice is for; null between slices.
    pub(super) about: Cell<*const About<'static>>,
    /// The numbers of what calls do outside, for their identity.
    pub(super) ordinals: Ordinals,
    /// The coroutine of the running call.
    pub(super) coroutine: Cell<*mut lua_State>,
    /// Every state that belongs to the host, the main state included. Lua code may neither resume nor close it.
    pub(super) hosts: RefCell<HashSet<*mut lua_State>>,
    /// Whether a coroutine was resumed from a function that cannot yield, so that its waits cannot be passed on.
    pub(super) cannot_yield_through: Cell<bool>,
    /// The waits that the running slice has begun and given up.
    pub(super) waits: RefCell<Waits>,
    last_wait: Cell<u64>,
    /// The wait whose answer resumed the running slice.
    pub(super) answered: Cell<WaitId>,
    /// The fault of a module's function, between the C function around it and the raise.
    pub(super) fault: RefCell<Option<Fault>>,
    /// Faults whose raise is under way. A finalizer in between may raise another one.
    faults: RefCell<Vec<Arc<Fault>>>,
    /// The commit request of the slice that runs, or that ran last.
    pub(super) asked: Cell<Option<Requested>>,
    /// Whether any call has emitted, deferred, or owes a commit: most handlers do nothing of it.
    pub(super) emits: Cell<bool>,
    /// What calls have emitted that have not ended, by call: few wait after an emit.
    pub(super) emitted: RefCell<Vec<(u64, Arc<Emitted>)>>,
    /// The bytes of all those.
    pub(super) emitted_bytes: Cell<usize>,
    /// Emissions of one record that are over, for the next ones: the memory of each is used again.
    pub(super) used: RefCell<Used>,
    pub(super) targets: RefCell<Topics>,
    pub(super) deferrals: Deferrals,
    /// The millisecond and the counter of the last UUID that sorts by its time.
    pub(super) last_uuid: Cell<(i64, u16)>,
    /// The compiled regular expressions.
    pub(super) patterns: RefCell<Patterns>,
    /// The calls of batches that have not ended.
    pub(super) batches: RefCell<HashMap<u64, OpenBatch>>,
    /// Calls whose awaited commit had records to write first, until it is answered.
    pub(super) owing: RefCell<HashSet<u64>>,
    /// The verdict of the running call; its first one counts.
    pub(super) verdict: RefCell<Option<Verdict>>,
    /// The answer to a wait, between the host's resume and the function that waits for it.
    pub(super) answer: RefCell<Option<Answer>>,
    /// Coroutines of Lua code that wait for the host, each with the call that owns the wait. All other code sees them
    /// as running.
    pub(super) held: RefCell<HashMap<*mut lua_State, Held>>,
    /// The number of coroutines held so far.
    held_count: Cell<u64>,
    /// The message of the error being raised.
    message: RefCell<String>,
    /// Bytes on their way into Lua, valid for one push: a finalizer that runs later may change them.
    scratch: RefCell<Vec<u8>>,
    /// The headers of the message that is being pushed; only `entry` uses them.
    pub(super) headers: RefCell<Vec<u8>>,
    /// The modules whose chunks are running, the innermost last.
    pub(super) loading: RefCell<Vec<String>>,
    /// Plain data on its way into Lua, the innermost last.
    plain: RefCell<Vec<Arc<Value>>>,
    /// Registry references to topic names.
    pub(super) topics: RefCell<HashMap<Arc<str>, c_int>>,
    /// The topic of the previous message and its reference. Topics are compared by address, and this `Arc` keeps the
    /// address valid.
    pub(super) topic: RefCell<Option<(Arc<str>, c_int)>>,
}

/// The last part of the path of the handlers' folder.
fn folder_name(config: &Config) -> String {
    let name = config.lua.handlers.file_name();
    name.map_or_else(
        || "handlers".into(),
        |name| name.to_string_lossy().into_owned(),
    )
}

fn names<'n>(names: impl Iterator<Item = &'n String>) -> Vec<String> {
    names.cloned().collect()
}

impl Shared {
    pub(super) fn new(app: Arc<App>, bundle: &Bundle) -> Self {
        let config = &bundle.config;
        Self {
            clock: app.clock().clone(),
            senders: app.senders(config),
            admin: app.admin(config),
            http: app.http(config),
            redis: app.redis(config),
            states: States::new(&app.state, config),
            sql: app.sql(config),
            transactions: Transactions::default(),
            app,
            sources: Arc::clone(&bundle.sources),
            path: config.lua.path.clone(),
            cpath: config.lua.cpath.clone(),
            folder: folder_name(config),
            memory: config.lua.memory,
            config: Arc::clone(config),
            bundle: bundle.number,
            worker: Cell::new(None),
            stage: Cell::new(Stage::Loads),
            requested: RefCell::default(),
            timers: RefCell::default(),
            observers: RefCell::default(),
            listeners: names(config.listeners.iter().map(|one| &one.name)),
            producers: names(config.producers.iter().map(|one| &one.name)),
            listener: Cell::new(None),
            handlers: RefCell::default(),
            frame: Cell::new(ptr::null()),
            batch_frame: Cell::new(ptr::null()),
            hook: Cell::new(ffi::LUA_NOREF),
            argument: RefCell::default(),
            required: RefCell::default(),
            call: Cell::new(0),
            about: Cell::new(ptr::null()),
            ordinals: Ordinals::default(),
            coroutine: Cell::new(ptr::null_mut()),
            hosts: RefCell::default(),
            cannot_yield_through: Cell::new(false),
            waits: RefCell::default(),
            last_wait: Cell::new(0),
            answered: Cell::new(WaitId(0)),
            fault: RefCell::default(),
            faults: RefCell::default(),
            asked: Cell::new(None),
            emits: Cell::new(false),
            emitted: RefCell::default(),
            emitted_bytes: Cell::new(0),
            used: RefCell::default(),
            targets: RefCell::default(),
            deferrals: Deferrals::default(),
            last_uuid: Cell::default(),
            patterns: RefCell::default(),
            batches: RefCell::default(),
            owing: RefCell::default(),
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

    /// Registers a wait of the running coroutine, which is about to suspend.
    pub(super) fn begin(&self, wait: Wait) {
        let id = WaitId(self.last_wait.get() + 1);
        self.last_wait.set(id.0);
        self.waits.borrow_mut().begun.push((id, wait));
    }

    /// The id of the last wait; later waits have a higher id.
    pub(super) fn last_wait(&self) -> WaitId {
        WaitId(self.last_wait.get())
    }

    /// Whether the call that runs is that of a single message.
    pub(super) fn runs_message(&self) -> bool {
        let call = self.call.get();
        call != 0 && self.listener.get().is_some() && !self.batches.borrow().contains_key(&call)
    }

    pub(super) fn listener_name(&self, index: usize) -> &str {
        self.listeners.get(index).map_or("", String::as_str)
    }

    /// Gives up a wait: its answer is no longer needed.
    pub(super) fn give_up(&self, wait: WaitId) {
        let mut waits = self.waits.borrow_mut();
        match waits.begun.iter().position(|(id, _)| *id == wait) {
            Some(index) => drop(waits.begun.remove(index)),
            None => waits.given_up.push(wait),
        }
    }

    /// From now on `state` waits for the host, on behalf of the running call.
    pub(super) fn hold(&self, state: *mut lua_State) {
        let (call, order) = (self.call.get(), self.held_count.get());
        self.held_count.set(order + 1);
        self.held.borrow_mut().insert(state, Held { call, order });
    }

    /// Ends all waits on behalf of `call`; returns their coroutines, the innermost first.
    pub(super) fn let_go(&self, call: u64) -> Vec<*mut lua_State> {
        let mut held = self.held.borrow_mut();
        let mut of_call: Vec<_> = held
            .extract_if(|_, held| held.call == call)
            .map(|(state, held)| (held.order, state))
            .collect();
        of_call.sort_unstable();
        of_call.into_iter().map(|(_, state)| state).collect()
    }

    /// Hands a call to `entry`. The frame lives until it is handed back, or until null is handed over in its place.
    pub(super) fn hand_over(&self, frame: *const Frame<'_>) {
        self.frame.set(frame.cast());
    }

    /// Takes the call that was handed over; a second take gets null.
    pub(super) fn take_frame(&self) -> *const Frame<'static> {
        self.frame.replace(ptr::null())
    }

    /// Hands a batch to its start, as `hand_over` does.
    pub(super) fn hand_over_batch(&self, frame: *const BatchFrame<'_>) {
        self.batch_frame.set(frame.cast());
    }

    /// Takes the batch that was handed over; a second take gets null.
    pub(super) fn take_batch_frame(&self) -> *const BatchFrame<'static> {
        self.batch_frame.replace(ptr::null())
    }

    /// The registry reference of the function that `hook` starts, and its argument.
    pub(super) fn hand_over_hook(&self, function: c_int, argument: Option<Arc<Value>>) {
        self.hook.set(function);
        self.argument.replace(argument);
    }

    /// Takes that reference; a second take gets `LUA_NOREF`.
    pub(super) fn take_hook(&self) -> c_int {
        self.hook.replace(ffi::LUA_NOREF)
    }

    /// Takes the argument, and keeps it alive during its push.
    pub(super) fn keep_argument(&self) -> Option<*const Value> {
        let argument = self.argument.take();
        self.keep_plain(argument)
    }

    /// Takes the name of the required module; it is empty for a call that the host did not make.
    pub(super) fn take_required(&self) -> Vec<u8> {
        self.required.take().unwrap_or_default().into_bytes()
    }

    /// The `Shared` of the running C function, from its first upvalue.
    pub(super) unsafe fn of<'a>(state: *mut lua_State) -> &'a Self {
        // SAFETY: `push_function` put the pointer there, and `Shared` outlives the VM. Lua code cannot reach upvalues
        // of C functions, see `vm::introspection`.
        unsafe { &*ffi::lua_touserdata(state, ffi::lua_upvalueindex(1)).cast::<Self>() }
    }

    /// Pushes `function` with `self` as its first upvalue, before the `further` upvalues on the stack.
    pub(super) unsafe fn push_function(
        &self,
        state: *mut lua_State,
        function: ffi::lua_CFunction,
        further: c_int,
    ) {
        // SAFETY: the caller provides room for one value, as everywhere in Lua's API.
        unsafe {
            ffi::lua_pushlightuserdata(state, ptr::from_ref(self).cast_mut().cast::<c_void>());
            ffi::lua_insert(state, -1 - further);
            ffi::lua_pushcclosure(state, function, 1 + further);
        }
    }

    /// Runs `work`. If it fails, raises its message with the position of Lua's caller. Inside `work` nothing may
    /// raise while a value with a destructor is pending.
    pub(super) unsafe fn attempt(
        &self,
        state: *mut lua_State,
        work: impl FnOnce() -> Result<c_int, String>,
    ) -> c_int {
        match work() {
            Ok(results) => return results,
            Err(message) => self.message.replace(message),
        };
        // SAFETY: this frame has no pending Rust value any more.
        unsafe { self.raise_kept(state) }
    }

    /// Raises `message` with the position of Lua's caller.
    pub(super) unsafe fn raise(&self, state: *mut lua_State, message: String) -> ! {
        self.message.replace(message);
        // SAFETY: the message has moved into `self`; nothing is pending.
        unsafe { self.raise_kept(state) }
    }

    /// Pushes bytes that Rust owns. They leave the caller's frame before Lua may raise.
    pub(super) unsafe fn push_owned(&self, state: *mut lua_State, bytes: Vec<u8>) {
        self.scratch.replace(bytes);
        // SAFETY: Lua copies the bytes before its collector may run.
        unsafe {
            push_bytes(state, &*self.scratch.as_ptr());
        }
    }

    /// Keeps a value alive during its push.
    pub(super) fn keep_plain(&self, value: Option<Arc<Value>>) -> Option<*const Value> {
        let value = value?;
        let address = Arc::as_ptr(&value);
        self.plain.borrow_mut().push(value);
        Some(address)
    }

    /// The value that was kept last.
    pub(super) fn kept_plain(&self) -> Option<*const Value> {
        self.plain.borrow().last().map(Arc::as_ptr)
    }

    pub(super) fn release_plain(&self) {
        self.plain.borrow_mut().pop();
    }

    /// Takes the fault that a function left, and keeps it alive during its raise.
    pub(super) fn keep_fault(&self) -> Option<*const Fault> {
        let fault = Arc::new(self.fault.take()?);
        let address = Arc::as_ptr(&fault);
        self.faults.borrow_mut().push(fault);
        Some(address)
    }

    pub(super) fn release_fault(&self) {
        self.faults.borrow_mut().pop();
    }

    /// Drops values and faults whose push ended in an error; only these lists still keep them.
    pub(super) fn forget_plain(&self) {
        self.plain.borrow_mut().clear();
        self.faults.borrow_mut().clear();
    }

    unsafe fn raise_kept(&self, state: *mut lua_State) -> ! {
        // SAFETY: Lua copies the message before its collector may run a finalizer, which could raise another message.
        // `lua_error` leaves only plain frames behind.
        unsafe {
            push_bytes(state, (*self.message.as_ptr()).as_bytes());
            ffi::luaL_where(state, 1);
            ffi::lua_insert(state, -2);
            ffi::lua_concat(state, 2);
            ffi::lua_error(state)
        }
    }
}
