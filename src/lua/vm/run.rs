//! One slice of a call: its coroutine runs until it waits or ends, and is reused or dropped.
//!
//! A coroutine is reused only after a call that was done. After the resume the VM may be out of memory or of stack.
//! So unprotected code here calls only functions of Lua that can neither allocate nor raise.

#![expect(unsafe_code, reason = "the hot path is Lua's C API")]

use std::ffi::c_int;
use std::ptr;
use std::time::Duration;

use mlua::ffi::{self, lua_State};

use super::beat::{self, Pulse, Slice};
use super::failure::{self, Words, describe};
use super::last_words::About;
use super::{FINALIZERS, Vm};
use super::{coroutine, hook};
use crate::lua::{CallId, FailureKind, Verdict, suspend};
use crate::wait::Waits;

/// Memory above the limit, for the description of a failure.
const RESERVE: usize = 4 << 20;

/// A coroutine of the host, anchored in the registry.
#[derive(Clone, Copy)]
pub(in crate::lua) struct Coroutine {
    pub(in crate::lua) state: *mut lua_State,
    reference: c_int,
}

/// The end of a slice, not yet interpreted.
pub(in crate::lua) enum Ended {
    Done,
    Waits(Waits),
    Asked(Verdict),
    Failed(FailureKind, Words),
}

impl Vm {
    pub(in crate::lua) fn run(
        &self,
        pulse: &Pulse,
        id: CallId,
        coroutine: Coroutine,
        limit: Duration,
        listener: Option<usize>,
        about: &About<'_>,
    ) -> Ended {
        self.shared.call.set(id.0);
        self.shared.listener.set(listener);
        self.shared.coroutine.set(coroutine.state);
        self.shared.about.set(ptr::from_ref(about).cast());
        self.shared.asked.set(None);
        self.shared.waits.borrow_mut().clear();
        let slice = pulse.begin(coroutine.state, limit, about);
        let mut results = 0;
        // SAFETY: the state is a coroutine of this VM that is suspended, or new with its function on the stack.
        let status = unsafe { ffi::lua_resume(coroutine.state, self.main, 0, &raw mut results) };
        let is_done = status == ffi::LUA_OK && results == 0 && !self.shared.has_verdict();
        if is_done && !slice.killed() {
            // The common case: no results mean an empty stack.
            drop(slice);
            self.shared.call.set(0);
            self.shared.coroutine.set(ptr::null_mut());
            self.shared.about.set(ptr::null());
            // A coroutine of the handler may hold something yet.
            self.shared.states.release_call(id.0);
            self.free.borrow_mut().push(coroutine);
            return Ended::Done;
        }
        let mut ended = if is_done {
            Ended::Done
        } else {
            self.look(&slice, coroutine, status, results)
        };
        let killed = slice.killed();
        drop(slice);
        self.shared.call.set(0);
        self.shared.coroutine.set(ptr::null_mut());
        self.shared.about.set(ptr::null());
        let verdict = self.shared.verdict.take();
        if killed || verdict.is_some() {
            // SAFETY: the main state is alive; the description of the failure may have left a hook on it.
            unsafe { hook::clear(self.main) };
        }
        if let Some(verdict) = verdict {
            // The verdict counts, whatever the call did afterwards.
            ended = Ended::Asked(verdict);
        }
        match ended {
            Ended::Waits(_) if !killed => {}
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

    /// Interprets a coroutine that did not simply end. The slice is still open, since error values may run Lua code.
    fn look(
        &self,
        slice: &Slice<'_>,
        coroutine: Coroutine,
        status: c_int,
        results: c_int,
    ) -> Ended {
        let state = coroutine.state;
        // SAFETY: reads the stack of a coroutine that is not running.
        unsafe {
            if self.shared.has_verdict() {
                // Runs the `__close` methods that the handler left open; its own status does not count.
                hook::close_ending(state, self.main, status);
                return Ended::Done;
            }
            if slice.killed() {
                let place = slice.position().or_else(|| failure::position(state));
                let place = place.map_or_else(String::new, |place| format!("{place}: "));
                let message = format!("{place}{}", failure::too_long(slice.limit()));
                let words = Words {
                    message,
                    traceback: self.protected(|| failure::traceback(self.main, state)),
                };
                return Ended::Failed(FailureKind::Blocking, words);
            }
            match status {
                ffi::LUA_YIELD if suspend::is_token(state, results) => {
                    ffi::lua_pop(state, 1);
                    Ended::Waits(self.shared.waits.take())
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
                    let is_away = suspend::is_away(state);
                    let words = self.protected(|| describe(self.main, state, false));
                    Ended::Failed(if_away(is_away, FailureKind::Returned), words)
                }
                _ => {
                    let is_away = suspend::is_away(state);
                    let words = self.protected(|| describe(self.main, state, true));
                    // Runs the `__close` methods that the handler left open.
                    coroutine::running(state);
                    ffi::lua_closethread(state, self.main);
                    Ended::Failed(if_away(is_away, FailureKind::Raised), words)
                }
            }
        }
    }

    /// Runs `work` with some memory above the limit.
    pub(in crate::lua) fn protected<T>(&self, work: impl FnOnce() -> T) -> T {
        let limit = self.config.lua.memory;
        self.heap.set_limit(limit.max(self.heap.used()) + RESERVE);
        // The `__tostring` of an error value runs here.
        coroutine::running(self.main);
        let result = work();
        self.heap.set_limit(limit);
        result
    }

    /// A free coroutine, or a new one; none when memory is out.
    pub(in crate::lua) fn coroutine(&self, about: &About<'_>) -> Option<Coroutine> {
        let free = self.free.borrow_mut().pop();
        if free.is_some() {
            return free;
        }
        // Making a coroutine may collect garbage.
        let _slice = beat::begin_uninterruptible(FINALIZERS, about);
        // SAFETY: a light C function allocates nothing, and its body runs protected.
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

    pub(in crate::lua) fn drop_coroutine(&self, coroutine: Coroutine, call: CallId) {
        // Coroutines that waited for this call can be resumed by other calls again.
        self.shared.let_go(call.0);
        self.shared.forget_plain();
        self.shared.states.release_call(call.0);
        self.shared.hosts.borrow_mut().remove(&coroutine.state);
        // SAFETY: sets two existing slots of the registry.
        unsafe { ffi::luaL_unref(self.main, ffi::LUA_REGISTRYINDEX, coroutine.reference) };
    }
}

fn if_away(is_away: bool, otherwise: FailureKind) -> FailureKind {
    if is_away {
        FailureKind::Away
    } else {
        otherwise
    }
}

/// Returns two results: the address of a new coroutine and its reference in the registry.
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
