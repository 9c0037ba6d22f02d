//! Ends Lua that computes too long: one thread a process, and a [`Pulse`] for each thread that runs Lua.
//!
//! No call pays for a clock. A slice of Lua bumps a counter; the watchdog samples the counter, and one that stands still
//! for longer than its limit gets a signal on its own thread, whose handler sets a hook on the running `lua_State`
//! (`lua_sethook` is the one function that Lua allows there). The hook ends the call, see `hook`. Invariant: whatever
//! the watchdog says is bound to a counter value, so that it never meets a later slice.

#![expect(unsafe_code, reason = "signals, and what their handler may touch")]

use std::cell::Cell;
use std::io;
use std::marker::PhantomData;
use std::ptr;
use std::sync::atomic::{AtomicBool, AtomicPtr, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::Thread;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use mlua::ffi::lua_State;

use super::hook;
use super::last_words::{About, LastWords};
use crate::failpoint::failpoint;
use crate::log::log;
use crate::threads::progress;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

/// How exact limits are: a slice ends at most two ticks late.
const TICK: Duration = Duration::from_millis(5);
/// What one look may add to the time that a slice has run.
const LOOK_MAX: Duration = Duration::from_millis(50);
/// Idle ticks before the watchdog sleeps until it is woken.
const IDLE_TICKS: u32 = 20;
/// A slice longer than this deserves a word in the log.
const SLOW: Duration = Duration::from_millis(100);
/// How long one turn of the watchdog's own loop may take; an idle one takes a second.
const TURN_MAX: Duration = Duration::from_secs(10);
/// How long its thread may take to end.
const END: Duration = Duration::from_secs(1);
/// What code that nothing can interrupt gets beyond its limit, at least, before the process ends.
const LAST_DEADLINE: Duration = Duration::from_secs(5);

thread_local! {
    /// The beat of this thread. Const and without a destructor, hence fit for a signal handler.
    static BEAT: Cell<*const Beat> = const { Cell::new(ptr::null()) };
}

/// What one thread and the watchdog share.
pub(in crate::lua) struct Beat {
    /// Odd while Lua runs.
    sequence: AtomicU64,
    /// The state that executes; set before the sequence turns odd.
    pub(in crate::lua) running: AtomicPtr<lua_State>,
    limit_us: AtomicU64,
    /// The sequence that was told to end.
    killed: AtomicU64,
    /// The sequence that ends because it asked for it. Of this thread alone, as the next one.
    asked: AtomicU64,
    /// The sequence in which the hook raised.
    cut: AtomicU64,
    /// The sequence that was seen to be slow, and since when it has run.
    slow: AtomicU64,
    slow_since_us: AtomicU64,
    about: AtomicPtr<About<'static>>,
    /// What `about` said when the signal came: copied by the thread itself, whose slice keeps it alive.
    last_words: LastWords,
    /// Where the hook first ended something, and in which sequence.
    place: Mutex<Option<(u64, String)>>,
    thread: libc::pthread_t,
    name: String,
    start: Instant,
    registry: Arc<Registry>,
    seen: Mutex<Seen>,
}

#[derive(Clone, Copy)]
struct Seen {
    sequence: u64,
    last: Instant,
    /// The sum of the looks so far, so that a process that was stopped and goes on finds no time gone.
    ran: Duration,
}

struct Registry {
    beats: Mutex<Vec<Arc<Beat>>>,
    /// The watchdog waits to be woken by the next slice.
    asleep: AtomicBool,
    stop: AtomicBool,
    thread: Mutex<Option<Thread>>,
}

/// The thread that watches; it ends with this.
pub(crate) struct Watchdog {
    registry: Arc<Registry>,
    thread: Option<Handle>,
}

/// What one thread that runs Lua shows the watchdog. It stays on its thread.
pub(crate) struct Pulse {
    beat: Arc<Beat>,
    previous: *const Beat,
    slow: Cell<Option<Duration>>,
    here: PhantomData<*const ()>,
}

/// One stretch of Lua on this thread.
pub(in crate::lua) struct Slice<'a> {
    beat: &'a Beat,
    /// Where it is told that it was slow.
    slow: Option<&'a Cell<Option<Duration>>>,
    sequence: u64,
}

impl Watchdog {
    /// Starts the thread and installs the signal's handler.
    pub(crate) fn start(supervisor: &Supervisor) -> anyhow::Result<Self> {
        install_handler().context("cannot install the signal handler of Lua's watchdog")?;
        let registry = Arc::new(Registry {
            beats: Mutex::new(Vec::new()),
            asleep: AtomicBool::new(false),
            stop: AtomicBool::new(false),
            thread: Mutex::new(None),
        });
        let watched = Arc::clone(&registry);
        let kind = Kind::Observed(TURN_MAX);
        let thread = supervisor.spawn("lua-watchdog", kind, move |beat| watch(&watched, &beat))?;
        *registry
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(thread.thread().clone());
        Ok(Self {
            registry,
            thread: Some(thread),
        })
    }

    /// Watches the calling thread until the pulse is dropped.
    pub(crate) fn watch_current_thread(&self, name: &str) -> Pulse {
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
            place: Mutex::new(None),
            // SAFETY: asks for the calling thread's own id.
            thread: unsafe { libc::pthread_self() },
            name: name.to_owned(),
            start: Instant::now(),
            registry: Arc::clone(&self.registry),
            seen: Mutex::new(Seen {
                sequence: 0,
                last: Instant::now(),
                ran: Duration::ZERO,
            }),
        });
        self.registry
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
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.may_end();
            self.registry.stop.store(true, Ordering::SeqCst);
            thread.thread().unpark();
            thread.join(Instant::now() + END);
        }
    }
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
    /// How long the last call or resume held the thread, where that was more than 100 ms.
    pub(crate) fn take_slow(&self) -> Option<Duration> {
        self.slow.take()
    }

    /// From here on the thread runs Lua, on `state`, for at most `limit`. `about` lives as long as the slice.
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

/// A slice of the calling thread for what no hook ends (finalizers): the last deadline alone is for it. None where the
/// thread is not watched, or within a slice already.
pub(in crate::lua) fn begin_uninterruptible<'a>(
    limit: Duration,
    about: &'a About<'a>,
) -> Option<Slice<'a>> {
    begin_aside(ptr::null_mut(), limit, about)
}

/// A slice of the calling thread for what belongs to no call that goes on. None as above.
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

    /// Where it was ended.
    pub(in crate::lua) fn place(&self) -> Option<String> {
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
    /// Of the calling thread. Safe to call from a signal handler.
    pub(in crate::lua) fn current<'a>() -> Option<&'a Self> {
        // SAFETY: the pulse that owns the beat clears the pointer on this very thread before the beat goes.
        unsafe { BEAT.get().as_ref() }
    }

    /// Starts a slice, whose sequence it returns.
    fn begin(&self, state: *mut lua_State, limit: Duration, about: &About<'_>) -> u64 {
        self.running.store(state, Ordering::Relaxed);
        self.limit_us
            .store(limit.as_micros() as u64, Ordering::Relaxed);
        self.about
            .store(ptr::from_ref(about).cast_mut().cast(), Ordering::Relaxed);
        let sequence = self.sequence.load(Ordering::Relaxed) + 1;
        // SeqCst on both sides: either the watchdog sees the odd number before it falls asleep, or it is seen asleep.
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

    /// Whether what runs now was told to end.
    pub(in crate::lua) fn killed(&self) -> bool {
        let sequence = self.sequence.load(Ordering::Relaxed);
        !sequence.is_multiple_of(2) && self.killed.load(Ordering::Acquire) == sequence
    }

    pub(in crate::lua) fn set_asked(&self, asked: bool) {
        let sequence = self.sequence.load(Ordering::Relaxed);
        self.asked
            .store(if asked { sequence } else { 0 }, Ordering::Relaxed);
    }

    /// Whether what runs now ends because it asked for it.
    pub(in crate::lua) fn asked(&self) -> bool {
        self.is_busy()
            && self.asked.load(Ordering::Relaxed) == self.sequence.load(Ordering::Relaxed)
    }

    pub(in crate::lua) fn set_cut(&self) {
        self.cut
            .store(self.sequence.load(Ordering::Relaxed), Ordering::Relaxed);
    }

    /// Whether the hook raised in what runs now.
    pub(in crate::lua) fn has_cut(&self) -> bool {
        self.cut.load(Ordering::Relaxed) == self.sequence.load(Ordering::Relaxed)
    }

    /// Keeps where the hook ended what runs; the first place of a slice is the one that tells.
    pub(in crate::lua) fn note_place(&self, place: impl FnOnce() -> String) {
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

    /// Looks at every beat; true when one of them runs.
    fn look(&self) -> bool {
        let beats = self.beats.lock().unwrap_or_else(PoisonError::into_inner);
        let now = Instant::now();
        let mut busy = false;
        for beat in beats.iter() {
            busy |= look_at(beat, now);
        }
        busy
    }
}

fn watch(registry: &Registry, moves: &progress::Beat) {
    let mut idle = 0;
    while !registry.stop.load(Ordering::SeqCst) {
        moves.turn();
        failpoint!("lua-watchdog-turn");
        if registry.look() {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS {
            std::thread::park_timeout(TICK);
            continue;
        }
        registry.asleep.store(true, Ordering::SeqCst);
        if !registry.look() && !registry.stop.load(Ordering::SeqCst) {
            // A time-out for the one wake-up that may come before `thread` is set.
            std::thread::park_timeout(Duration::from_secs(1));
        }
        registry.asleep.store(false, Ordering::SeqCst);
    }
}

fn look_at(beat: &Beat, now: Instant) -> bool {
    let sequence = beat.sequence.load(Ordering::SeqCst);
    if sequence.is_multiple_of(2) {
        return false;
    }
    let mut seen = beat.seen.lock().unwrap_or_else(PoisonError::into_inner);
    if seen.sequence != sequence {
        *seen = Seen {
            sequence,
            last: now,
            ran: Duration::ZERO,
        };
        return true;
    }
    let passed = now.duration_since(seen.last);
    seen.ran += passed.min(LOOK_MAX);
    seen.last = now;
    let ran = seen.ran;
    let limit = beat.limit();
    if ran >= SLOW && beat.slow.load(Ordering::Relaxed) != sequence {
        let since = now.duration_since(beat.start).saturating_sub(ran);
        beat.slow_since_us
            .store(since.as_micros() as u64, Ordering::Relaxed);
        beat.slow.store(sequence, Ordering::Release);
    }
    if ran >= limit {
        // Again at each tick: the first one may have met a state that was just being left.
        beat.killed.store(sequence, Ordering::Release);
        // SAFETY: the thread deregisters under the lock that is held here before it ends.
        unsafe { libc::pthread_kill(beat.thread, signal()) };
    }
    if ran >= limit.saturating_add(limit.max(LAST_DEADLINE))
        && beat.sequence.load(Ordering::SeqCst) == sequence
    {
        give_up(beat, ran);
    }
    true
}

/// C code that does not come back: nothing was committed for what it held, and a new process can go on.
fn give_up(beat: &Beat, ran: Duration) -> ! {
    let words = beat.last_words.read();
    log!(
        error,
        lua,
        thread = beat.name,
        listener = words.listener,
        topic = words.topic,
        partition = words.partition,
        offset = words.offset,
        seconds = ran.as_secs(),
        "a handler is stuck in code that nothing can interrupt; the process ends"
    );
    // Lets a log writer of another thread get the line out.
    std::thread::sleep(Duration::from_millis(200));
    std::process::abort()
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

fn install_handler() -> io::Result<()> {
    // SAFETY: the action is wholly initialised, and its handler does only what is allowed in one.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = on_signal as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(signal(), &raw const action, ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

/// Runs on the thread whose Lua is to end: reads atomics, sets the hook, and nothing else.
extern "C" fn on_signal(_: libc::c_int) {
    let Some(beat) = Beat::current() else { return };
    if !beat.killed() {
        return;
    }
    // SAFETY: while the sequence is odd `about` points into the slice's caller, on this very thread.
    if let Some(about) = unsafe { beat.about.load(Ordering::Relaxed).as_ref() } {
        beat.last_words.write(about);
    }
    let state = beat.running.load(Ordering::Relaxed);
    if !state.is_null() {
        // SAFETY: `running` is alive while the sequence is odd, and Lua allows this call from a signal handler.
        unsafe { hook::set(state) };
    }
}
