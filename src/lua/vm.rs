//! One VM: the coroutines of its calls, and how far each has come.
//!
//! Every call runs in a coroutine of the host, which is used again after a call that was done and never after one that
//! was not. Nothing here touches Lua unprotected but what can neither allocate nor raise.

#![expect(unsafe_code, reason = "the hot path is Lua's C API")]

use std::cell::RefCell;
use std::collections::HashMap;
use std::ffi::c_int;
use std::mem::ManuallyDrop;
use std::ptr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use mlua::ffi::{self, lua_State};

use super::build::Hooks;
use super::failure::{self, Words, describe};
use super::last_words::About;
use super::message::Frame;
use super::shared::Shared;
use super::watchdog::{self, Pulse, Slice};
use super::{
    Answer, Call, CallId, Failure, FailureKind, Step, Verdict, Wait, coroutine, hook, wait,
};
use crate::config::Config;

/// For finalizers that run outside of any call, before the last deadline begins.
const FINALIZERS: Duration = Duration::from_secs(1);
/// For a function of init.lua, its waits included: it holds up the start, a reload, or a worker that gets a fresh VM.
const HOOK_MAX: Duration = Duration::from_secs(10);
/// For the `__close` methods of a call that is given up.
const CLOSING: Duration = Duration::from_secs(1);
/// Above the limit, for the words about a failure.
const RESERVE: usize = 4 << 20;

/// A coroutine of the host, anchored in the registry.
#[derive(Clone, Copy)]
struct Coroutine {
    state: *mut lua_State,
    reference: c_int,
}

/// A call that waits.
struct Waiting {
    coroutine: Coroutine,
    listener: usize,
    topic: Arc<str>,
    partition: i32,
    offset: i64,
}

/// One Lua VM with the handlers of a bundle. Calls in it take turns.
pub(crate) struct Vm {
    /// Goes before all else: finalizers may still call our functions.
    pub(super) lua: ManuallyDrop<mlua::Lua>,
    pub(super) shared: Box<Shared>,
    pub(super) main: *mut lua_State,
    pub(super) config: Arc<Config>,
    /// Registry reference to the closure that starts a call.
    pub(super) entry: c_int,
    pub(super) hooks: Hooks,
    pub(super) last_call: u64,
    free: RefCell<Vec<Coroutine>>,
    waiting: HashMap<CallId, Waiting>,
    /// The `__close` methods of a call that was given up had to be ended.
    closes_no_more: bool,
}

// SAFETY: a VM is built by one thread and then moved as a whole, with every pointer and reference count into it; nothing
// of it stays behind, and only the owner of the value touches it. What is bound to a thread (the beat) is looked up anew
// at each slice.
unsafe impl Send for Vm {}

impl Drop for Vm {
    /// Runs every finalizer, which no hook ends.
    fn drop(&mut self) {
        let about = About {
            listener: "a finalizer, at the end of a vm",
            topic: "",
            partition: -1,
            offset: -1,
        };
        let slice = watchdog::begin_uninterruptible(FINALIZERS, &about);
        // SAFETY: nothing uses it any more.
        unsafe { ManuallyDrop::drop(&mut self.lua) };
        drop(slice);
    }
}

/// What ran, before it is known what that means.
enum Ended {
    Done,
    Waits(Wait),
    Asked(Verdict),
    Failed(FailureKind, Words),
}

impl Vm {
    pub(super) fn assemble(
        lua: mlua::Lua,
        shared: Box<Shared>,
        main: *mut lua_State,
        config: Arc<Config>,
    ) -> Self {
        Self {
            lua: ManuallyDrop::new(lua),
            shared,
            main,
            config,
            entry: ffi::LUA_NOREF,
            hooks: Hooks::default(),
            last_call: 0,
            free: RefCell::default(),
            waiting: HashMap::new(),
            closes_no_more: false,
        }
    }

    /// Starts a call and runs it until it waits or ends.
    pub(crate) fn call(&mut self, pulse: &Pulse, call: &Call<'_>) -> Step {
        let about = About {
            listener: &self.config.listeners[call.listener].name,
            topic: call.topic,
            partition: call.partition,
            offset: call.record.offset(),
        };
        let Some(coroutine) = self.coroutine(&about) else {
            return Step::Failed(self.out_of_memory());
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        let frame = Frame { call, id: id.0 };
        // SAFETY: the coroutine is empty and has room; neither push allocates. The frame lives through the resume.
        unsafe {
            ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, self.entry.into());
            ffi::lua_pushlightuserdata(coroutine.state, ptr::from_ref(&frame).cast_mut().cast());
        }
        match self.run(
            pulse,
            id,
            coroutine,
            1,
            self.blocking(call.listener),
            &about,
        ) {
            Ended::Done => Step::Done,
            Ended::Waits(wait) => {
                let waiting = Waiting {
                    coroutine,
                    listener: call.listener,
                    topic: Arc::clone(call.topic),
                    partition: call.partition,
                    offset: about.offset,
                };
                self.waiting.insert(id, waiting);
                Step::Waits(id, wait)
            }
            Ended::Asked(verdict) => Step::Asked(verdict),
            Ended::Failed(kind, words) => Step::Failed(words.of(kind)),
        }
    }

    /// Goes on with a call that waits.
    pub(crate) fn resume(&mut self, pulse: &Pulse, id: CallId, answer: Answer) -> Step {
        let Some(waiting) = self.waiting.remove(&id) else {
            let words = failure::words("the call does not wait any more");
            return Step::Failed(words.of(FailureKind::Raised));
        };
        let about = About {
            listener: &self.config.listeners[waiting.listener].name,
            topic: &waiting.topic,
            partition: waiting.partition,
            offset: waiting.offset,
        };
        self.answer(answer);
        match self.run(
            pulse,
            id,
            waiting.coroutine,
            0,
            self.blocking(waiting.listener),
            &about,
        ) {
            Ended::Done => Step::Done,
            Ended::Waits(wait) => {
                self.waiting.insert(id, waiting);
                Step::Waits(id, wait)
            }
            Ended::Asked(verdict) => Step::Asked(verdict),
            Ended::Failed(kind, words) => Step::Failed(words.of(kind)),
        }
    }

    /// Gives up a call that waits: what it left open is closed, and its coroutine dropped where it stands.
    pub(crate) fn cancel(&mut self, id: CallId) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.close(&waiting, id);
            self.drop_coroutine(waiting.coroutine, id);
        }
    }

    /// Runs the `__close` methods of a call that waits, the innermost coroutine's first.
    fn close(&mut self, waiting: &Waiting, id: CallId) {
        let own = waiting.coroutine.state;
        let states = self.shared.let_go(id.0).into_iter().chain([own]);
        if self.closes_no_more {
            return;
        }
        let limit = self.blocking(waiting.listener).min(CLOSING);
        let about = About {
            listener: &self.config.listeners[waiting.listener].name,
            topic: &waiting.topic,
            partition: waiting.partition,
            offset: waiting.offset,
        };
        let Some(slice) = watchdog::begin_aside(own, limit, &about) else {
            return;
        };
        self.shared.coroutine.set(own);
        for state in states {
            coroutine::running(state);
            // SAFETY: each is suspended, and alive: the call's own is anchored, and what resumed the others has them on
            // its stack.
            unsafe { ffi::lua_closethread(state, self.main) };
        }
        self.shared.coroutine.set(ptr::null_mut());
        // One call that takes its time is enough for a VM that may have many to give up.
        self.closes_no_more = slice.killed();
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that Lua holds.
    pub(crate) fn memory_used(&self) -> usize {
        self.lua.used_memory()
    }

    fn out_of_memory(&self) -> Failure {
        failure::out_of_memory(self.config.lua.memory).of(FailureKind::Memory)
    }

    fn blocking(&self, listener: usize) -> Duration {
        self.config.listeners[listener].limits.blocking
    }

    /// Runs the function on the stack of a new coroutine to its end; waits are done by blocking this thread.
    pub(super) fn run_hook(
        &mut self,
        pulse: &Pulse,
        function: c_int,
        limit: Duration,
    ) -> Result<(), Failure> {
        let about = About {
            listener: "init.lua",
            topic: "",
            partition: -1,
            offset: -1,
        };
        let Some(coroutine) = self.coroutine(&about) else {
            return Err(self.out_of_memory());
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        // SAFETY: the coroutine is empty and has room; the push allocates nothing.
        unsafe { ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, function.into()) };
        let started = Instant::now();
        loop {
            match self.run(pulse, id, coroutine, 0, limit, &about) {
                Ended::Done => return Ok(()),
                Ended::Waits(Wait::Sleep(duration)) => {
                    if started.elapsed().saturating_add(duration) > HOOK_MAX {
                        // SAFETY: reads the stack of a coroutine that is suspended.
                        let place = unsafe { failure::position(coroutine.state) };
                        self.drop_coroutine(coroutine, id);
                        let words = failure::too_long_a_wait(place, HOOK_MAX);
                        return Err(words.of(FailureKind::Raised));
                    }
                    std::thread::sleep(duration);
                }
                Ended::Waits(Wait::Commit(_)) => {
                    let refused =
                        Answer::Committed(Err("there is no message to commit".to_owned()));
                    self.answer(refused);
                }
                Ended::Asked(verdict) => return Err(Failure::of_verdict(&verdict)),
                Ended::Failed(kind, words) => return Err(words.of(kind)),
            }
        }
    }

    /// Leaves what the waiting function takes.
    fn answer(&self, answer: Answer) {
        let committed = match answer {
            Answer::Slept => None,
            Answer::Committed(result) => Some(result),
        };
        self.shared.answer.replace(committed);
    }

    fn run(
        &self,
        pulse: &Pulse,
        id: CallId,
        coroutine: Coroutine,
        arguments: c_int,
        limit: Duration,
        about: &About<'_>,
    ) -> Ended {
        self.shared.call.set(id.0);
        self.shared.coroutine.set(coroutine.state);
        let slice = pulse.begin(coroutine.state, limit, about);
        let mut results = 0;
        // SAFETY: the state is a coroutine of this VM that is new or suspended, with its arguments on top.
        let status =
            unsafe { ffi::lua_resume(coroutine.state, self.main, arguments, &raw mut results) };
        let mut ended = if status == ffi::LUA_OK && results == 0 && !self.shared.has_verdict() {
            Ended::Done
        } else {
            self.look(&slice, coroutine, status, results)
        };
        let killed = slice.killed();
        drop(slice);
        self.shared.call.set(0);
        self.shared.coroutine.set(ptr::null_mut());
        let verdict = self.shared.verdict.take();
        if killed || verdict.is_some() {
            // SAFETY: the main state is alive; a hook may be left on it from describing the failure.
            unsafe { hook::clear(self.main) };
        }
        if let Some(verdict) = verdict {
            // Whatever the call came to afterwards.
            ended = Ended::Asked(verdict);
        }
        match ended {
            Ended::Waits(_) if !killed => {}
            Ended::Done if !killed => {
                // SAFETY: the coroutine has ended well; nothing of it is running.
                unsafe { ffi::lua_settop(coroutine.state, 0) };
                self.free.borrow_mut().push(coroutine);
            }
            _ => self.drop_coroutine(coroutine, id),
        }
        if killed {
            match &mut ended {
                Ended::Waits(_) => {
                    ended = Ended::Failed(
                        FailureKind::Blocking,
                        failure::words(&failure::too_long(limit)),
                    );
                }
                Ended::Failed(kind, _) => *kind = FailureKind::Blocking,
                Ended::Done | Ended::Asked(_) => {}
            }
        }
        ended
    }

    /// What a coroutine that did not simply end has come to. Still within the slice: error values may run Lua code.
    fn look(
        &self,
        slice: &Slice<'_>,
        coroutine: Coroutine,
        status: c_int,
        results: c_int,
    ) -> Ended {
        let state = coroutine.state;
        // SAFETY: reads the stack of a coroutine that does not run.
        unsafe {
            if self.shared.has_verdict() {
                // What the handler left open is closed; how it ended says nothing.
                hook::close_asked(state, self.main, status);
                return Ended::Done;
            }
            if slice.killed() {
                let place = slice.place().or_else(|| failure::position(state));
                let place = place.map_or_else(String::new, |place| format!("{place}: "));
                let message = format!("{place}{}", failure::too_long(slice.limit()));
                let words = Words {
                    message,
                    traceback: self.protected(|| failure::traceback(self.main, state)),
                };
                return Ended::Failed(FailureKind::Blocking, words);
            }
            match status {
                ffi::LUA_YIELD if wait::is_token(state, results) => {
                    ffi::lua_pop(state, 1);
                    match self.shared.wait.take() {
                        Some(wait) => Ended::Waits(wait),
                        None => Ended::Failed(
                            FailureKind::Raised,
                            failure::words("the handler waits for nothing"),
                        ),
                    }
                }
                ffi::LUA_YIELD => {
                    let message = "a C function yielded in the handler's own coroutine, which only `tide` may do";
                    Ended::Failed(FailureKind::Raised, failure::words(message))
                }
                ffi::LUA_ERRMEM => Ended::Failed(
                    FailureKind::Memory,
                    failure::out_of_memory(self.config.lua.memory),
                ),
                _ if failure::is_memory_error(state) => Ended::Failed(
                    FailureKind::Memory,
                    failure::out_of_memory(self.config.lua.memory),
                ),
                ffi::LUA_OK => {
                    let words = self.protected(|| describe(self.main, state, false));
                    Ended::Failed(FailureKind::Returned, words)
                }
                _ => {
                    let words = self.protected(|| describe(self.main, state, true));
                    // Runs the `__close` methods of what the handler left open.
                    coroutine::running(state);
                    ffi::lua_closethread(state, self.main);
                    Ended::Failed(FailureKind::Raised, words)
                }
            }
        }
    }

    /// Runs `work` with some memory above the limit.
    pub(super) fn protected<T>(&self, work: impl FnOnce() -> T) -> T {
        let limit = self.config.lua.memory;
        // Fails only for a state of foreign making.
        let _ = self
            .lua
            .set_memory_limit(limit.max(self.lua.used_memory()) + RESERVE);
        // An error value's `__tostring` runs here.
        coroutine::running(self.main);
        let result = work();
        let _ = self.lua.set_memory_limit(limit);
        result
    }

    /// A coroutine to run something in; none when memory is out.
    fn coroutine(&self, about: &About<'_>) -> Option<Coroutine> {
        let free = self.free.borrow_mut().pop();
        if free.is_some() {
            return free;
        }
        // To make one may collect garbage.
        let _slice = watchdog::begin_uninterruptible(FINALIZERS, about);
        // SAFETY: a light C function allocates nothing, and what it does runs protected.
        let coroutine = unsafe {
            let top = ffi::lua_gettop(self.main);
            ffi::lua_pushcclosure(self.main, new_coroutine, 0);
            let status = ffi::lua_pcall(self.main, 0, 2, 0);
            let made = (status == ffi::LUA_OK).then(|| Coroutine {
                state: ffi::lua_touserdata(self.main, -2).cast(),
                reference: ffi::lua_tointegerx(self.main, -1, ptr::null_mut()) as c_int,
            });
            ffi::lua_settop(self.main, top);
            made?
        };
        self.shared.hosts.borrow_mut().insert(coroutine.state);
        Some(coroutine)
    }

    fn drop_coroutine(&self, coroutine: Coroutine, call: CallId) {
        // What waited for this call can be resumed by another one again.
        self.shared.let_go(call.0);
        self.shared.hosts.borrow_mut().remove(&coroutine.state);
        // SAFETY: sets two existing slots of the registry.
        unsafe { ffi::luaL_unref(self.main, ffi::LUA_REGISTRYINDEX, coroutine.reference) };
    }
}

/// Two results: the address of a new coroutine and its reference in the registry.
unsafe extern "C-unwind" fn new_coroutine(state: *mut lua_State) -> c_int {
    // SAFETY: runs protected.
    unsafe {
        let coroutine = ffi::lua_newthread(state);
        let reference = ffi::luaL_ref(state, ffi::LUA_REGISTRYINDEX);
        ffi::lua_pushlightuserdata(state, coroutine.cast());
        ffi::lua_pushinteger(state, reference.into());
        2
    }
}
