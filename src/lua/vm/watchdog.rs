//! Ends Lua that computes too long: one thread a process, and a [`Pulse`] for each thread that runs Lua.
//!
//! No call pays for a clock. A slice of Lua bumps a counter; the watchdog samples the counter, and one that stands still
//! for longer than its limit gets a signal on its own thread, whose handler sets a hook on the running `lua_State`
//! (`lua_sethook` is the one function that Lua allows there). The hook ends the call, see `hook`. Invariant: whatever
//! the watchdog says is bound to a counter value, so that it never meets a later slice.

#![expect(unsafe_code, reason = "signals, and what their handler may touch")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::beat::{Beat, Pulse, Registry, Seen};
use super::hook;
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

/// The thread that watches; it ends with this.
pub(crate) struct Watchdog {
    registry: Arc<Registry>,
    thread: Option<Handle>,
}

impl Watchdog {
    /// Starts the thread and installs the signal's handler.
    pub(crate) fn start(supervisor: &Supervisor) -> anyhow::Result<Self> {
        install_handler().context("cannot install the signal handler of Lua's watchdog")?;
        hear_broken_pipes().context("cannot handle SIGPIPE")?;
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
        Pulse::of_current_thread(&self.registry, name)
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

fn watch(registry: &Registry, moves: &progress::Beat) {
    let mut idle = 0;
    while !registry.stop.load(Ordering::SeqCst) {
        moves.turn();
        failpoint!("lua-watchdog-turn");
        if look(registry) {
            idle = 0;
        } else {
            idle += 1;
        }
        if idle < IDLE_TICKS {
            std::thread::park_timeout(TICK);
            continue;
        }
        registry.asleep.store(true, Ordering::SeqCst);
        if !look(registry) && !registry.stop.load(Ordering::SeqCst) {
            // A time-out for the one wake-up that may come before `thread` is set.
            std::thread::park_timeout(Duration::from_secs(1));
        }
        registry.asleep.store(false, Ordering::SeqCst);
    }
}

/// Looks at every beat; true when one of them runs.
fn look(registry: &Registry) -> bool {
    let beats = registry
        .beats
        .lock()
        .unwrap_or_else(PoisonError::into_inner);
    let now = Instant::now();
    let mut busy = false;
    for beat in beats.iter() {
        busy |= look_at(beat, now);
    }
    busy
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

/// Rust ignores SIGPIPE, and the children of `io.popen` and `os.execute` would inherit that: `yes | head -1` would never
/// end. A handler that does nothing has the same effect here, and exec resets it.
fn hear_broken_pipes() -> io::Result<()> {
    // SAFETY: both actions are wholly initialised, and the handler does nothing.
    let result = unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        if libc::sigaction(libc::SIGPIPE, ptr::null(), &raw mut action) == 0
            && action.sa_sigaction != libc::SIG_IGN
        {
            return Ok(());
        }
        action = std::mem::zeroed();
        action.sa_sigaction = on_broken_pipe as extern "C" fn(libc::c_int) as libc::sighandler_t;
        action.sa_flags = libc::SA_RESTART;
        libc::sigemptyset(&raw mut action.sa_mask);
        libc::sigaction(libc::SIGPIPE, &raw const action, ptr::null_mut())
    };
    if result == 0 {
        Ok(())
    } else {
        Err(io::Error::last_os_error())
    }
}

extern "C" fn on_broken_pipe(_: libc::c_int) {}

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
