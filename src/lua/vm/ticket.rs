//! The ticket of a load: the state that its thread, its owner and the watchdog share.
//!
//! A load ends in one of four ways. Its thread delivers a result. Its owner cancels it: the watchdog ends its Lua
//! code, and its result is dropped. The watchdog gives it up, because nothing can end its code. Its owner leaves it,
//! because the daemon stops. A load that was given up or left may still run; then only its thread knows its result.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

/// One load. A clone belongs to the same load.
#[derive(Clone, Default)]
pub(crate) struct Ticket(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_cancelled: AtomicBool,
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    /// Why the watchdog gave the load up.
    stuck: Option<String>,
    is_left: bool,
    is_delivered: bool,
    has_ended: bool,
}

/// The way in which a load ended for its owner.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::lua) enum End {
    /// The thread has ended.
    Ended,
    Stuck(String),
    Left,
}

impl Ticket {
    /// Ends the load's Lua code soon. A load that has not begun ends as soon as it begins.
    pub(crate) fn cancel(&self) {
        self.0.is_cancelled.store(true, Ordering::Release);
    }

    /// Cancels the load, and ends the owner's wait for it at once.
    pub(crate) fn leave(&self) {
        self.cancel();
        self.lock().is_left = true;
        self.0.changed.notify_all();
    }

    pub(crate) fn is_cancelled(&self) -> bool {
        self.0.is_cancelled.load(Ordering::Acquire)
    }

    /// The watchdog gives the load up.
    pub(in crate::lua) fn give_up(&self, why: String) {
        self.lock().stuck = Some(why);
        self.0.changed.notify_all();
    }

    pub(in crate::lua) fn is_given_up(&self) -> bool {
        self.lock().stuck.is_some()
    }

    /// Whether the owner takes the result, which is ready: from now on it waits for the end of the thread alone.
    pub(in crate::lua) fn deliver(&self) -> bool {
        let mut state = self.lock();
        state.is_delivered = state.stuck.is_none() && !state.is_left && !self.is_cancelled();
        state.is_delivered
    }

    /// The thread ends. Returns whether its owner went on without it.
    pub(in crate::lua) fn end(&self) -> bool {
        let mut state = self.lock();
        state.has_ended = true;
        self.0.changed.notify_all();
        !state.is_delivered && (state.stuck.is_some() || state.is_left)
    }

    pub(in crate::lua) fn has_ended(&self) -> bool {
        self.lock().has_ended
    }

    /// Waits for the end of the load.
    pub(in crate::lua) fn wait(&self) -> End {
        let mut state = self.lock();
        loop {
            if state.has_ended {
                return End::Ended;
            }
            if !state.is_delivered {
                if let Some(why) = &state.stuck {
                    return End::Stuck(why.clone());
                }
                if state.is_left {
                    return End::Left;
                }
            }
            let woken = self.0.changed.wait(state);
            state = woken.unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
