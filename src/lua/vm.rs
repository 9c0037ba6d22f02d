//! One VM: its calls, and the progress of each.
//!
//! A call starts, waits, continues and is given up here; each slice of it runs in `run`. Invariant: a call that waits
//! is in `waiting`, and nothing else uses its coroutine. Unprotected code here calls only functions of Lua that can
//! neither allocate nor raise.

#![expect(unsafe_code, reason = "the hot path is Lua's C API")]

mod batch;
pub(crate) mod beat;
pub(crate) mod coroutine;
mod deferred;
pub(crate) mod failure;
pub(crate) mod globals;
pub(crate) mod heap;
pub(crate) mod hints;
pub(crate) mod hook;
pub(crate) mod init;
pub(crate) mod introspection;
pub(crate) mod last_words;
pub(crate) mod load;
pub(crate) mod replaced;
pub(crate) mod run;
mod run_queue;
pub(crate) mod ticket;
pub(crate) mod watchdog;

use std::cell::RefCell;
use std::ffi::c_int;
use std::ptr;
use std::sync::Arc;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use super::control::observers::PartitionEvent;
use super::shared::Frame;
use super::shared::Shared;
use super::{Call, CallId, Failure, FailureKind, How, Step, Verdict};
use crate::config::Config;
use crate::rules::spread::Map;
use crate::rules::timers::Timer;
use crate::wait::send::Emitted;
use crate::wait::{Answer, Requested, Value, WaitId};
use beat::Pulse;
use deferred::Returned;
use failure::Words;
use heap::Heap;
use last_words::About;
use run::{Coroutine, Ended};

/// Registry references to init.lua's functions.
#[derive(Default)]
pub(super) struct Hooks {
    pub(super) start: Option<c_int>,
    pub(super) shutdown: Option<c_int>,
}

/// The limit of finalizers that run outside of any call, before the last deadline begins.
pub(super) const FINALIZERS: Duration = Duration::from_secs(1);
/// The limit of the `__close` methods of a call that is given up.
const CLOSING: Duration = Duration::from_secs(1);

/// The limit of one stretch of a tick that computes: the default of a listener's.
const TICK_BLOCKING: Duration = Duration::from_secs(5);

/// A call that waits.
struct Waiting {
    coroutine: Coroutine,
    origin: Origin,
}

/// What a call is for.
enum Origin {
    Message {
        listener: usize,
        topic: Arc<str>,
        partition: i32,
        offset: i64,
        timestamp_ms: i64,
        is_batch: bool,
    },
    /// A tick or an observer; the position of its declaration.
    Declared(Arc<str>),
}

impl Origin {
    fn about<'a>(&'a self, config: &'a Config) -> About<'a> {
        match self {
            Self::Message {
                listener,
                topic,
                partition,
                offset,
                timestamp_ms,
                ..
            } => About {
                listener: &config.listeners[*listener].name,
                topic,
                partition: *partition,
                offset: *offset,
                timestamp_ms: *timestamp_ms,
            },
            Self::Declared(position) => about_declared(position),
        }
    }

    /// The listener whose rules hold for the call.
    fn listener(&self) -> Option<usize> {
        match self {
            Self::Message { listener, .. } => Some(*listener),
            Self::Declared(_) => None,
        }
    }

    fn is_batch(&self) -> bool {
        matches!(self, Self::Message { is_batch: true, .. })
    }

    /// The limit of one stretch of the call.
    fn blocking(&self, config: &Config) -> Duration {
        match self {
            Self::Message { listener, .. } => config.listeners[*listener].limits.blocking,
            Self::Declared(_) => TICK_BLOCKING,
        }
    }
}

/// The handler caught the error of a commit, or gave the commit up.
fn owing() -> Failure {
    let message =
        "`ctx.emit`: records of this call that a commit was to write first are not acknowledged";
    Failure::given_up(message.to_owned())
}

fn about_declared(position: &str) -> About<'_> {
    About {
        listener: position,
        topic: "",
        partition: -1,
        offset: -1,
        timestamp_ms: -1,
    }
}

/// One Lua VM with the handlers of a bundle. Calls in it take turns.
pub(crate) struct Vm {
    pub(super) main: *mut lua_State,
    /// Both outlive the state, by `drop`: finalizers may still call functions of Moontide.
    pub(super) shared: Box<Shared>,
    pub(super) heap: Box<Heap>,
    pub(super) config: Arc<Config>,
    /// Registry reference to the closure that starts a call.
    pub(super) entry: c_int,
    /// Registry reference to the closure that starts the call of a batch.
    pub(super) batch_entry: c_int,
    /// Registry reference to the closure that starts a tick, or a function of init.lua.
    pub(super) hook: c_int,
    /// Registry reference to the function that requires a module.
    pub(super) require: c_int,
    pub(super) hooks: Hooks,
    pub(super) last_call: u64,
    pub(super) free: RefCell<Vec<Coroutine>>,
    waiting: Map<CallId, Waiting>,
    /// The `__close` methods of a call that was given up had to be ended, so no further ones run.
    closes_no_more: bool,
}

// SAFETY: one thread builds a VM, which then moves as a whole, with every pointer and reference count into it. No
// part of it stays behind, and only the owner of the value touches it. The beat is bound to a thread, so each slice
// looks it up anew.
unsafe impl Send for Vm {}

impl Drop for Vm {
    /// Runs every finalizer, which no hook ends.
    fn drop(&mut self) {
        let about = About {
            listener: "a finalizer, at the end of a vm",
            topic: "",
            partition: -1,
            offset: -1,
            timestamp_ms: -1,
        };
        let slice = beat::begin_uninterruptible(FINALIZERS, &about);
        // SAFETY: no code uses the state any more.
        unsafe { ffi::lua_close(self.main) };
        drop(slice);
    }
}

impl Vm {
    pub(super) fn assemble(
        main: *mut lua_State,
        shared: Box<Shared>,
        heap: Box<Heap>,
        config: Arc<Config>,
    ) -> Self {
        Self {
            main,
            shared,
            heap,
            config,
            entry: ffi::LUA_NOREF,
            batch_entry: ffi::LUA_NOREF,
            hook: ffi::LUA_NOREF,
            require: ffi::LUA_NOREF,
            hooks: Hooks::default(),
            last_call: 0,
            free: RefCell::default(),
            waiting: Map::default(),
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
            timestamp_ms: call.record.timestamp_ms(),
        };
        let Some(coroutine) = self.coroutine(&about) else {
            return Step::Failed(self.out_of_memory());
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        let frame = Frame { call, id: id.0 };
        // SAFETY: the coroutine is empty and has room, and the push allocates nothing.
        unsafe { ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, self.entry.into()) };
        self.shared.hand_over(&raw const frame);
        let limit = self.config.listeners[call.listener].limits.blocking;
        let listener = Some(call.listener);
        let ended = self.run(pulse, id, coroutine, limit, listener, &about);
        self.shared.hand_over(ptr::null());
        match ended {
            Ended::Done => self.done(id),
            Ended::Waits(waits) => {
                let origin = Origin::Message {
                    listener: call.listener,
                    topic: Arc::clone(call.topic),
                    partition: call.partition,
                    offset: about.offset,
                    timestamp_ms: about.timestamp_ms,
                    is_batch: false,
                };
                self.waiting.insert(id, Waiting { coroutine, origin });
                Step::Waits(id, waits)
            }
            Ended::Asked(verdict) => self.ended_by(id, verdict),
            Ended::Failed(kind, words) => self.failed(id, listener, kind, words),
        }
    }

    /// Starts a tick of the timer at this index of `Vm::come_into_force`, and runs it until it waits or ends.
    pub(crate) fn tick(&mut self, pulse: &Pulse, timer: usize) -> Step {
        let declared = self.shared.timers.borrow();
        let one = declared.get(timer);
        let Some((position, function)) = one.map(|one| (one.position.clone(), one.function)) else {
            return Step::Done;
        };
        drop(declared);
        self.run_declared(pulse, position, function, None)
    }

    /// Starts the observer at this index of `Vm::observers`, as a tick is started.
    pub(crate) fn observe(&mut self, pulse: &Pulse, observer: usize, event: Arc<Value>) -> Step {
        let declared = self.shared.observers.borrow();
        let one = declared.get(observer);
        let Some((position, function)) = one.map(|one| (one.position.clone(), one.function)) else {
            return Step::Done;
        };
        drop(declared);
        self.run_declared(pulse, position, function, Some(event))
    }

    /// Starts a function that belongs to no message.
    fn run_declared(
        &mut self,
        pulse: &Pulse,
        position: Arc<str>,
        function: c_int,
        argument: Option<Arc<Value>>,
    ) -> Step {
        let about = about_declared(&position);
        let Some(coroutine) = self.coroutine(&about) else {
            return Step::Failed(self.out_of_memory());
        };
        self.last_call += 1;
        let id = CallId(self.last_call);
        // SAFETY: the coroutine is empty and has room, and the push allocates nothing.
        unsafe { ffi::lua_rawgeti(coroutine.state, ffi::LUA_REGISTRYINDEX, self.hook.into()) };
        self.shared.hand_over_hook(function, argument);
        match self.run(pulse, id, coroutine, TICK_BLOCKING, None, &about) {
            Ended::Done => Step::Done,
            Ended::Waits(waits) => {
                let origin = Origin::Declared(position);
                self.waiting.insert(id, Waiting { coroutine, origin });
                Step::Waits(id, waits)
            }
            Ended::Asked(verdict) => Step::Asked(verdict),
            Ended::Failed(kind, words) => Step::Failed(words.of(kind)),
        }
    }

    /// This worker has the VM in force. Returns the timers that the files have declared and not cancelled, each with
    /// its index and its position.
    pub(crate) fn come_into_force(&self, worker: usize) -> Vec<(usize, Timer, Arc<str>)> {
        self.shared.worker.set(Some(worker));
        for request in self.shared.requested.take() {
            request();
        }
        let observers = self.shared.observers.borrow();
        let events = observers.iter().map(|one| one.event).collect();
        self.shared.app.consumers.observers.follow(worker, events);
        let timers = self.shared.timers.borrow();
        let timers = timers.iter().enumerate();
        timers
            .filter(|(_, one)| !one.is_cancelled)
            .map(|(index, one)| (index, one.timer.clone(), one.position.clone()))
            .collect()
    }

    /// The observers that the files have declared, each with its event, its index and its position.
    pub(crate) fn observers(&self) -> Vec<(PartitionEvent, usize, Arc<str>)> {
        let observers = self.shared.observers.borrow();
        let observers = observers.iter().enumerate();
        observers
            .map(|(index, one)| (one.event, index, one.position.clone()))
            .collect()
    }

    /// Continues a call that waits, with the answer to one of its waits.
    pub(crate) fn resume(
        &mut self,
        pulse: &Pulse,
        id: CallId,
        wait: WaitId,
        answer: Answer,
    ) -> Step {
        let Some(waiting) = self.waiting.remove(&id) else {
            let words = failure::words("the call does not wait any more");
            return Step::Failed(words.of(FailureKind::Raised));
        };
        let about = waiting.origin.about(&self.config);
        self.answer(wait, answer);
        let limit = waiting.origin.blocking(&self.config);
        let listener = waiting.origin.listener();
        match self.run(pulse, id, waiting.coroutine, limit, listener, &about) {
            Ended::Waits(waits) => {
                self.waiting.insert(id, waiting);
                Step::Waits(id, waits)
            }
            ended if waiting.origin.is_batch() => self.end_batch(id, listener, ended),
            Ended::Done => self.done(id),
            Ended::Asked(verdict) => self.ended_by(id, verdict),
            Ended::Failed(kind, words) => self.failed(id, listener, kind, words),
        }
    }

    /// What the call has emitted leaves now, and in no other case.
    #[inline]
    fn done(&self, id: CallId) -> Step {
        if self.shared.emits.get() {
            return self.done_with_records(id);
        }
        Step::Done
    }

    fn done_with_records(&self, id: CallId) -> Step {
        self.shared.ordinals.forget(id.0);
        let emitted = self.shared.take_emitted(id);
        let owes = self.shared.owes(id);
        let deferred = self.returned_deferred(id, owes);
        self.shared.look_for_emitted();
        match deferred {
            _ if owes => Step::Failed(owing()),
            Some(Returned::Deferred(deferral)) => Step::Deferred(deferral, emitted),
            Some(Returned::Failed(failure)) => Step::Failed(failure),
            None => emitted.map_or(Step::Done, Step::Emitted),
        }
    }

    /// The call has ended in another way than done.
    fn emits_nothing(&self, id: CallId) {
        if self.shared.emits.get() {
            self.shared.ordinals.forget(id.0);
            self.shared.take_emitted(id);
            self.shared.owes(id);
            self.shared.deferrals.drop_of(id);
            self.shared.look_for_emitted();
        }
    }

    fn ended_by(&self, id: CallId, verdict: Verdict) -> Step {
        self.emits_nothing(id);
        Step::Asked(verdict)
    }

    fn failed(&self, id: CallId, listener: Option<usize>, kind: FailureKind, words: Words) -> Step {
        self.emits_nothing(id);
        Step::Failed(self.described(listener, kind, words))
    }

    fn described(&self, listener: Option<usize>, kind: FailureKind, mut words: Words) -> Failure {
        let is_method = |listener: usize| self.shared.handlers.borrow()[listener].is_method;
        if kind == FailureKind::Raised && listener.is_some_and(is_method) {
            words.message = format!("{}; {}", words.message, hints::OF_A_METHOD);
        }
        words.of(kind)
    }

    /// Gives up a call that waits: runs its open `__close` methods, and drops its coroutine where it is suspended.
    pub(crate) fn cancel(&mut self, id: CallId) {
        if let Some(waiting) = self.waiting.remove(&id) {
            self.close(&waiting, id);
            self.drop_coroutine(waiting.coroutine, id);
            if waiting.origin.is_batch() {
                self.shared.close_batch(id);
            }
            self.emits_nothing(id);
        }
    }

    /// The same of a call that has failed thereby.
    pub(crate) fn fail(&mut self, id: CallId, failure: Failure) -> Step {
        let waiting = self.waiting.get(&id);
        if !waiting.is_some_and(|waiting| waiting.origin.is_batch()) {
            self.cancel(id);
            return Step::Failed(failure);
        }
        if let Some(waiting) = self.waiting.remove(&id) {
            self.close(&waiting, id);
            self.drop_coroutine(waiting.coroutine, id);
        }
        self.end_batch_as(id, How::Failed(failure))
    }

    /// Runs the `__close` methods of a call that waits, the innermost coroutine's first.
    fn close(&mut self, waiting: &Waiting, id: CallId) {
        let own = waiting.coroutine.state;
        let states = self.shared.let_go(id.0).into_iter().chain([own]);
        if self.closes_no_more {
            return;
        }
        let limit = waiting.origin.blocking(&self.config).min(CLOSING);
        let about = waiting.origin.about(&self.config);
        let Some(slice) = beat::begin_aside(own, limit, &about) else {
            return;
        };
        self.shared.coroutine.set(own);
        self.shared.listener.set(waiting.origin.listener());
        for state in states {
            coroutine::running(state);
            // SAFETY: each state is suspended and alive: the call's own is anchored, and the others are on the stack
            // of the state that resumed each.
            unsafe { ffi::lua_closethread(state, self.main) };
        }
        self.shared.coroutine.set(ptr::null_mut());
        // One slow call is enough, since a VM may have many calls to give up.
        self.closes_no_more = slice.killed();
    }

    /// The commit request of the last slice. It stands, however the slice ended.
    pub(crate) fn take_requested(&self) -> Option<Requested> {
        self.shared.asked.take()
    }

    /// An emission is over.
    pub(crate) fn use_again(&self, emitted: Arc<Emitted>) {
        self.shared.use_again(emitted);
    }

    /// Calls that wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Bytes that Lua holds.
    pub(crate) fn memory_used(&self) -> usize {
        self.heap.used()
    }

    pub(super) fn out_of_memory(&self) -> Failure {
        failure::out_of_memory(self.config.lua.memory).of(FailureKind::Memory)
    }

    /// Leaves the answer for the function that waits for it.
    pub(super) fn answer(&self, wait: WaitId, answer: Answer) {
        self.shared.answered.set(wait);
        self.shared.answer.replace(Some(answer));
    }
}
