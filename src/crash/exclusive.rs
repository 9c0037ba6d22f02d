//! The exclusive run: a gate between the workers for a message that may kill the process.
//!
//! One worker asks for the gate. The other workers start no further calls, and report quiet when their calls have
//! ended. Then the asking worker runs its message and gives the gate back. The gate knows nothing of messages. While
//! no worker asks, it costs a worker one load of an atomic. Invariant: a worker that is quiet about an ask starts
//! nothing until that very ask is over. So an answer to an older ask never counts.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::threads::mailbox::Mailbox;

/// The workers share the gate; `T` is the letter of their mailboxes.
pub(crate) struct Exclusive<T> {
    /// The number of the ask; the bits below it have the asking worker plus one, or zero.
    state: AtomicU64,
    /// For each worker, the last ask about which it was quiet.
    quiet: Vec<AtomicU64>,
    mailboxes: Vec<Arc<Mailbox<T>>>,
}

/// The state of the gate, as one worker sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// No worker asks: every worker may start calls.
    Free,
    /// This worker has asked: it starts only the call that it asked for.
    Mine,
    /// Another worker has asked: this one starts nothing, and reports when all its calls have ended.
    Other,
}

const WORKER_BITS: u32 = 16;
const WORKER_MASK: u64 = (1 << WORKER_BITS) - 1;
/// The mark of a worker that has ended: it is quiet about every ask.
const GONE: u64 = u64::MAX;

impl<T> Exclusive<T> {
    pub(crate) fn new(mailboxes: Vec<Arc<Mailbox<T>>>) -> Self {
        Self {
            state: AtomicU64::new(0),
            quiet: mailboxes.iter().map(|_| AtomicU64::new(0)).collect(),
            mailboxes,
        }
    }

    pub(crate) fn turn(&self, worker: usize) -> Turn {
        match owner(self.state.load(Ordering::Acquire)) {
            None => Turn::Free,
            Some(owner) if owner == worker => Turn::Mine,
            Some(_) => Turn::Other,
        }
    }

    /// Asks for the gate, unless another worker does. Returns whether all other workers are quiet; the caller knows
    /// its own state. Each change rings the caller's mailbox, so it asks again.
    pub(crate) fn try_enter(&self, worker: usize) -> bool {
        let state = self.state.load(Ordering::Acquire);
        let asked = match owner(state) {
            Some(owner) if owner == worker => state,
            Some(_) => return false,
            None => {
                let ask = ((state >> WORKER_BITS) + 1) << WORKER_BITS | (worker as u64 + 1);
                let swapped =
                    self.state
                        .compare_exchange(state, ask, Ordering::AcqRel, Ordering::Relaxed);
                if swapped.is_err() {
                    // Another worker asked first; it rings when it leaves.
                    return false;
                }
                self.ring_others(worker);
                ask
            }
        };
        self.quiet.iter().enumerate().all(|(index, quiet)| {
            let about = quiet.load(Ordering::Acquire);
            index == worker || about == asked || about == GONE
        })
    }

    /// Reports that this worker runs nothing, and starts nothing until the present ask is over. Without an ask, does
    /// nothing.
    pub(crate) fn quiet(&self, worker: usize) {
        let state = self.state.load(Ordering::Acquire);
        let Some(owner) = owner(state).filter(|owner| *owner != worker) else {
            return;
        };
        if self.quiet[worker].swap(state, Ordering::AcqRel) != state {
            self.mailboxes[owner].ring();
        }
    }

    /// Gives the gate back, or withdraws the ask; does nothing if another worker has it.
    pub(crate) fn leave(&self, worker: usize) {
        let state = self.state.load(Ordering::Acquire);
        if owner(state) == Some(worker) {
            self.state.store(state & !WORKER_MASK, Ordering::Release);
            self.ring_others(worker);
        }
    }

    /// The worker ends: no ask waits for it any more.
    pub(crate) fn gone(&self, worker: usize) {
        self.leave(worker);
        self.quiet[worker].store(GONE, Ordering::Release);
        self.ring_others(worker);
    }

    fn ring_others(&self, worker: usize) {
        let others = self.mailboxes.iter().enumerate();
        for (_, mailbox) in others.filter(|(index, _)| *index != worker) {
            mailbox.ring();
        }
    }
}

fn owner(state: u64) -> Option<usize> {
    (state & WORKER_MASK)
        .checked_sub(1)
        .map(|owner| owner as usize)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, AtomicUsize};
    use std::time::{Duration, Instant};

    use super::*;

    fn solo(workers: usize) -> Exclusive<()> {
        Exclusive::new((0..workers).map(|_| Arc::new(Mailbox::default())).collect())
    }

    #[test]
    fn a_single_worker_is_alone_at_once() {
        let solo = solo(1);
        assert_eq!(solo.turn(0), Turn::Free);
        assert!(solo.try_enter(0));
        assert_eq!(solo.turn(0), Turn::Mine);
        solo.leave(0);
        assert_eq!(solo.turn(0), Turn::Free);
    }

    #[test]
    fn one_enters_when_all_others_are_quiet_about_this_ask() {
        let solo = solo(3);
        // Nobody has asked: nothing to be quiet about.
        solo.quiet(1);
        assert!(!solo.try_enter(0));
        assert_eq!((solo.turn(1), solo.turn(2)), (Turn::Other, Turn::Other));
        solo.quiet(1);
        assert!(!solo.try_enter(0));
        solo.quiet(2);
        assert!(solo.try_enter(0));
        // The next one asks anew, and old answers do not count.
        assert!(!solo.try_enter(1));
        solo.leave(1);
        assert_eq!(solo.turn(0), Turn::Mine);
        solo.leave(0);
        assert!(!solo.try_enter(1));
        assert_eq!(solo.turn(0), Turn::Other);
        solo.quiet(2);
        assert!(!solo.try_enter(1));
        solo.quiet(0);
        assert!(solo.try_enter(1));
    }

    #[test]
    fn nobody_waits_for_a_worker_that_has_ended() {
        let solo = solo(2);
        assert!(!solo.try_enter(0));
        solo.gone(1);
        assert!(solo.try_enter(0));
        // And one that ends while it has the gate gives it back.
        solo.gone(0);
        assert_eq!(solo.turn(1), Turn::Free);
    }

    #[test]
    fn whoever_waits_is_rung() {
        let solo = solo(2);
        let is_rung = |worker: usize| {
            let is_rung = !solo.mailboxes[worker].is_empty();
            solo.mailboxes[worker].wait(&mut Vec::new(), Instant::now());
            is_rung
        };
        assert!(!solo.try_enter(0));
        assert!(is_rung(1) && !is_rung(0));
        solo.quiet(1);
        assert!(is_rung(0));
        solo.quiet(1);
        assert!(!is_rung(0));
        solo.leave(0);
        assert!(is_rung(1));
    }

    /// A worker as the real ones are: it looks, runs, sleeps; now and then it wants to be alone.
    fn work(
        solo: &Exclusive<()>,
        worker: usize,
        running: &AtomicUsize,
        over: &AtomicBool,
    ) -> usize {
        let mut alone = 0;
        let mut wants = false;
        while !over.load(Ordering::Relaxed) || wants {
            match solo.turn(worker) {
                Turn::Other => {
                    solo.quiet(worker);
                    let soon = Instant::now() + Duration::from_secs(10);
                    solo.mailboxes[worker].wait(&mut Vec::new(), soon);
                }
                Turn::Free if !wants && fastrand::u8(..) > 8 => {
                    running.fetch_add(1, Ordering::SeqCst);
                    std::hint::spin_loop();
                    running.fetch_sub(1, Ordering::SeqCst);
                }
                Turn::Free | Turn::Mine => {
                    wants = true;
                    if solo.try_enter(worker) {
                        assert_eq!(running.fetch_add(1, Ordering::SeqCst), 0);
                        std::thread::yield_now();
                        assert_eq!(running.fetch_sub(1, Ordering::SeqCst), 1);
                        solo.leave(worker);
                        wants = false;
                        alone += 1;
                        if alone == 200 {
                            over.store(true, Ordering::Relaxed);
                        }
                    } else {
                        let soon = Instant::now() + Duration::from_secs(10);
                        solo.mailboxes[worker].wait(&mut Vec::new(), soon);
                    }
                }
            }
        }
        solo.gone(worker);
        alone
    }

    #[test]
    fn threads_that_want_to_be_alone_are_alone_and_all_come_to_their_turn() {
        let solo = solo(4);
        let (running, over) = (AtomicUsize::new(0), AtomicBool::new(false));
        std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|worker| {
                    let (solo, running, over) = (&solo, &running, &over);
                    scope.spawn(move || work(solo, worker, running, over))
                })
                .collect();
            let alone: usize = threads.into_iter().map(|one| one.join().unwrap()).sum();
            assert!(alone >= 200);
        });
    }
}
