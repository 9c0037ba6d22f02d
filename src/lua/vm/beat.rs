//! The beat of a thread that runs Lua: the state that this thread and the watchdog share.
//!
//! A slice of Lua increments a counter, so that no call reads a clock. Everything that the watchdog writes is bound
//! to a value of the counter, so that it never applies to a later slice.

#![expect(unsafe_code, reason = "a pointer that a signal handler reads")]

use std::cell::Cell;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use mlua::ffi::lua_State;

use super::last_words::{About, LastWords};
use super::ticket::Ticket;

thread_local! {
    /// The beat of this thread. It is const and has no destructor, so a signal handler may read it.
    static BEAT: Cell<*const Beat> = const { Cell::new(ptr::null()) };
}

/// The state that one thread and the watchdog share.
pub(in crate::lua) struct Beat {
    /// Odd while Lua runs.
    pub(super) sequence: AtomicU64,
    /// The running state; set before the sequence turns odd.
    pub(in crate::lua) running: AtomicPtr<lua_State>,
    pub(super) limit_us: AtomicU64,
    /// The sequence that was told to end.
    pub(super) killed: AtomicU64,
    /// The sequence that ends by its own verdict. Only this thread uses it, and the next field.
    asked: AtomicU64,
    /// The sequence in which the hook raised.
    cut: AtomicU64,
    /// The sequence that was found slow, and the time since which it has run.
    pub(super) slow: AtomicU64,
    pub(super) slow_since_us: AtomicU64,
    pub(super) about: AtomicPtr<About<'static>>,
    /// A copy of `about` at the time of the signal. The thread itself copies it, and its slice keeps it alive.
    pub(super) last_words: LastWords,
    /// The sequence whose position the signal handler should note.
    pub(super) unended: AtomicU64,
    /// The thread's load, if that is all it does: the watchdog gives the load up instead of ending the process.
    pub(super) ticket: Option<Ticket>,
    /// The place where the hook first ended a slice, and its sequence.
    place: Mutex<Option<(u64, String)>>,
    pub(super) thread: libc::pthread_t,
    /// The kernel's id of the thread.
    pub(super) task: libc::pid_t,
    pub(super) name: String,
    pub(super) start: Instant,
    registry: Arc<Registry>,
    pub(super) seen: Mutex<Seen>,
}

#[derive(Clone, Copy)]
pub(super) struct Seen {
    pub(super) sequence: u64,
    pub(super) last: Instant,
    /// The sum of the samples so far: a process that was stopped and continues loses no time.
    pub(super) passed: Duration,
    /// The time on the run queue when the slice became slow.
    pub(super) waited: Option<Duration>,
}

pub(super) struct Registry {
    pub(super) beats: Mutex<Vec<Arc<Beat>>>,
    /// The watchdog sleeps until the next slice wakes it.
    pub(super) asleep: AtomicBool,
    pub(super) stop: AtomicBool,
    pub(super) thread: Mutex<Option<Thread>>,
}

/// The side of one thread that runs Lua, which the watchdog observes. It stays on its thread.
pub(crate) struct Pulse {
    beat: Arc<Beat>,
    previous: *const Beat,
    slow: Cell<Option<Duration>>,
    here: PhantomData<*const ()>,
}

/// One slice of Lua on this thread.
pub(in crate::lua) struct Slice<'a> {
    beat: &'a Beat,
    /// Gets the time of the slice, if it was slow.
    slow: Option<&'a Cell<Option<Duration>>>,
    sequence: u64,
}

impl Drop for Pulse {
    fn drop(&mut self) {
        BEAT.set(self.previous);
        // The watchdog signals under this lock, so it never signals a thread that has ended.
        let mut beats = self
            .beat
            .registry
            .beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        beats.retain(|beat| !Arc::ptr_eq(beat, &self.beat));
    }
}

impl Pulse {
    /// Shows the calling thread to the watchdog until the pulse is dropped.
    pub(super) fn of_current_thread(
        registry: &Arc<Registry>,
        name: &str,
        ticket: Option<Ticket>,
    ) -> Self {
        let beat = Arc::new(Beat {
            sequence: AtomicU64::new(0),
            running: AtomicPtr::new(ptr::null_mut()),
            limit_us: AtomicU64::new(0),
            killed: AtomicU64::new(0),
            asked: AtomicU64::new(0),
            cut: AtomicU64::new(0),
            slow: AtomicU64::new(0),
            slow_since_us: AtomicU64::new(0),
            about: AtomicPtr::new(ptr::null_mut()),
            last_words: LastWords::default(),
            unended: AtomicU64::new(0),
            ticket,
            place: Mutex::new(None),
            // SAFETY: asks for the calling thread's own id.
            thread: unsafe { libc::pthread_self() },
            // SAFETY: as above.
            task: unsafe { libc::gettid() },
            name: name.to_owned(),
            start: Instant::now(),
            registry: Arc::clone(registry),
            seen: Mutex::new(Seen {
                sequence: 0,
                last: Instant::now(),
                passed: Duration::ZERO,
                waited: None,
            }),
        });
        registry
            .beats
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .push(Arc::clone(&beat));
        let previous = BEAT.replace(Arc::as_ptr(&beat));
        Pulse {
            beat,
            previous,
            slow: Cell::new(None),
            here: PhantomData,
        }
    }

    /// Whether the owner of the thread's load has cancelled it.
    pub(crate) fn is_cancelled(&self) -> bool {
        self.beat.is_cancelled()
    }

    /// How long the last call or resume held the thread, if that was more than 100 ms.
    pub(crate) fn take_slow(&self) -> Option<Duration> {
        self.slow.take()
    }

    /// Starts a slice: from now on the thread runs Lua on `state`, for at most `limit`. `about` lives as long as the
    /// slice.
    pub(in crate::lua) fn begin<'a>(
        &'a self,
        state: *mut lua_State,
        limit: Duration,
        about: &'a About<'a>,
    ) -> Slice<'a> {
        debug_assert!(!self.beat.is_busy(), "slices do not nest");
        Slice {
            beat: &self.beat,
            slow: Some(&self.slow),
            sequence: self.beat.begin(state, limit, about),
        }
    }
}

/// A slice of the calling thread for code that no hook ends (finalizers): only the last deadline limits it. None if
/// the thread is not watched, or is already within a slice.
pub(in crate::lua) fn begin_uninterruptible<'a>(
    limit: Duration,
    about: &'a About<'a>,
) -> Option<Slice<'a>> {
    begin_aside(ptr::null_mut(), limit, about)
}

/// A slice of the calling thread for code of no call that continues. None as above.
pub(in crate::lua) fn begin_aside<'a>(
    state: *mut lua_State,
    limit: Duration,
    about: &'a About<'a>,
) -> Option<Slice<'a>> {
    let beat = Beat::current().filter(|beat| !beat.is_busy())?;
    Some(Slice {
        beat,
        slow: None,
        sequence: beat.begin(state, limit, about),
    })
}

impl Slice<'_> {
    /// Whether the watchdog told this slice to end.
    pub(in crate::lua) fn killed(&self) -> bool {
        self.beat.killed.load(Ordering::Acquire) == self.sequence
    }

    /// The position at which the slice was ended.
    pub(in crate::lua) fn position(&self) -> Option<String> {
        let kept = self
            .beat
            .place
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        kept.as_ref()
            .filter(|(of, _)| *of == self.sequence)
            .map(|(_, place)| place.clone())
    }

    pub(in crate::lua) fn limit(&self) -> Duration {
        self.beat.limit()
    }
}

impl Drop for Slice<'_> {
    fn drop(&mut self) {
        let beat = self.beat;
        beat.sequence.store(self.sequence + 1, Ordering::Release);
        beat.running.store(ptr::null_mut(), Ordering::Relaxed);
        beat.about.store(ptr::null_mut(), Ordering::Relaxed);
        let Some(slow) = self.slow else { return };
        if beat.slow.load(Ordering::Acquire) == self.sequence {
            let since = Duration::from_micros(beat.slow_since_us.load(Ordering::Relaxed));
            slow.set(Some(beat.start.elapsed().saturating_sub(since)));
        } else {
            slow.set(None);
        }
    }
}

impl Beat {
    /// The beat of the calling thread. A signal handler may call this.
    pub(in crate::lua) fn current<'a>() -> Option<&'a Self> {
        // SAFETY: the pulse that owns the beat clears the pointer on this very thread before the beat is dropped.
        unsafe { BEAT.get().as_ref() }
    }

    /// Starts a slice and returns its sequence.
    fn begin(&self, state: *mut lua_State, limit: Duration, about: &About<'_>) -> u64 {
        self.running.store(state, Ordering::Relaxed);
        self.limit_us
            .store(limit.as_micros() as u64, Ordering::Relaxed);
        self.about
            .store(ptr::from_ref(about).cast_mut().cast(), Ordering::Relaxed);
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        // `SeqCst` on both sides: either the watchdog sees the odd number before it sleeps, or the thread sees it
        // asleep.
        self.sequence.store(sequence, Ordering::SeqCst);
        if self.registry.asleep.load(Ordering::SeqCst) {
            self.registry.wake();
        }
        sequence
    }

    /// Whether a slice is open.
    fn is_busy(&self) -> bool {
        !self.sequence.load(Ordering::Relaxed).is_multiple_of(2)
    }

    /// Whether the watchdog told the running slice to end.
    pub(in crate::lua) fn killed(&self) -> bool {
        let sequence = self.sequence.load(Ordering::Relaxed);
        !sequence.is_multiple_of(2) && self.killed.load(Ordering::Acquire) == sequence
    }

    /// Whether the watchdog waits for the position of the running slice, which nothing has ended.
    pub(super) fn is_unended(&self) -> bool {
        self.unended.load(Ordering::Acquire) == self.sequence.load(Ordering::Relaxed)
    }

    pub(super) fn is_cancelled(&self) -> bool {
        self.ticket.as_ref().is_some_and(Ticket::is_cancelled)
    }

    pub(in crate::lua) fn set_ends_by_verdict(&self, asked: bool) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.asked
            .store(if asked { sequence } else { 0 }, Ordering::Relaxed);
    }

    /// Whether the running slice ends by its own verdict.
    pub(in crate::lua) fn ends_by_verdict(&self) -> bool {
        self.is_busy()
            && self.asked.load(Ordering::Relaxed) == self.sequence.load(Ordering::Relaxed)
    }

    pub(in crate::lua) fn set_cut(&self) {
        self.cut
            .store(self.sequence.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether the hook raised in the running slice.
    pub(in crate::lua) fn has_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed) == self.sequence.load(Ordering::Relaxed)
    }

    /// Keeps the position at which the hook ends the slice; the first position of a slice counts.
    pub(in crate::lua) fn note_position(&self, place: impl FnOnce() -> String) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        let mut kept = self.place.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.as_ref().is_none_or(|(of, _)| *of != sequence) {
            *kept = Some((sequence, place()));
        }
    }

    pub(in crate::lua) fn limit(&self) -> Duration {
        Duration::from_micros(self.limit_us.load(Ordering::Relaxed))
    }
}

impl Registry {
    fn wake(&self) {
        if self.asleep.swap(false, Ordering::SeqCst)
            && let Some(thread) = &*self.thread.lock().unwrap_or_else(PoisonError::into_inner)
        {
            thread.unpark();
        }
    }
}
