//! The mailbox of one thread: it takes letters from any thread, and has a bell that carries no data.
//!
//! The owner takes all letters at once, then sleeps until a letter, a ring or its deadline. A sender pays for a
//! wake-up only while the owner sleeps. The number of letters is bounded elsewhere: by the budget, or because a
//! sender asks one question at a time.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    bell: Condvar,
    /// Whether the mailbox has letters or a ring, readable without the lock: a busy owner checks often.
    full: AtomicBool,
}

struct State<T> {
    letters: Vec<T>,
    rung: bool,
    sleeping: bool,
    closed: bool,
}

impl<T> Default for Mailbox<T> {
    fn default() -> Self {
        let state = State {
            letters: Vec::new(),
            rung: false,
            sleeping: false,
            closed: false,
        };
        Self {
            state: Mutex::new(state),
            bell: Condvar::new(),
            full: AtomicBool::new(false),
        }
    }
}

impl<T> Mailbox<T> {
    pub(crate) fn send(&self, letter: T) {
        let mut state = self.lock();
        if !state.closed {
            state.letters.push(letter);
            self.wake(state);
        }
    }

    /// Closes the mailbox: unread letters are dropped, and so are all later ones.
    pub(crate) fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        let unread = std::mem::take(&mut state.letters);
        drop(state);
        drop(unread);
    }

    /// Closes the mailbox when the returned value is dropped, also by a panic: no letter outlives its reader.
    pub(crate) fn close_on_drop(self: &Arc<Self>) -> CloseOnDrop<T> {
        CloseOnDrop(self.clone())
    }

    /// Whether the thread that reads the mailbox has ended.
    pub(crate) fn is_closed(&self) -> bool {
        self.lock().closed
    }

    /// Ends the owner's sleep, or its next one.
    pub(crate) fn ring(&self) {
        let mut state = self.lock();
        state.rung = true;
        self.wake(state);
    }

    pub(crate) fn is_empty(&self) -> bool {
        !self.full.load(Ordering::Acquire)
    }

    /// Appends the letters that have arrived, without waiting.
    pub(crate) fn take(&self, into: &mut Vec<T>) {
        if !self.is_empty() {
            self.empty(&mut self.lock(), into);
        }
    }

    /// Waits for a letter, a ring or the deadline, and appends the letters that have arrived.
    pub(crate) fn wait(&self, into: &mut Vec<T>, deadline: Instant) {
        let mut state = self.lock();
        while state.letters.is_empty() && !state.rung {
            let now = Instant::now();
            if now >= deadline {
                break;
            }
            state.sleeping = true;
            state = self
                .bell
                .wait_timeout(state, deadline - now)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
            state.sleeping = false;
        }
        self.empty(&mut state, into);
    }

    fn empty(&self, state: &mut MutexGuard<'_, State<T>>, into: &mut Vec<T>) {
        into.append(&mut state.letters);
        state.rung = false;
        self.full.store(false, Ordering::Release);
    }

    fn wake(&self, state: MutexGuard<'_, State<T>>) {
        self.full.store(true, Ordering::Release);
        let sleeping = state.sleeping;
        drop(state);
        if sleeping {
            self.bell.notify_one();
        }
    }

    fn lock(&self) -> MutexGuard<'_, State<T>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Held by the thread that reads a mailbox.
#[must_use]
pub(crate) struct CloseOnDrop<T>(Arc<Mailbox<T>>);

impl<T> Drop for CloseOnDrop<T> {
    fn drop(&mut self) {
        self.0.close();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mailbox_whose_reader_panics_keeps_no_letter() {
        let mailbox = Arc::new(Mailbox::default());
        let (unread, late) = (Arc::new(()), Arc::new(()));
        mailbox.send(unread.clone());
        let reads = mailbox.close_on_drop();
        assert!(!mailbox.is_closed());
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            let _reads = reads;
            panic!("on purpose");
        }));
        assert!(panicked.is_err() && mailbox.is_closed());
        mailbox.send(late.clone());
        assert_eq!(
            (Arc::strong_count(&unread), Arc::strong_count(&late)),
            (1, 1)
        );
    }
}
