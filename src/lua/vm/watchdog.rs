//! Ends Lua code that computes too long: one thread for the process, and a [`Pulse`] for each thread that runs Lua.
//!
//! No call reads a clock. Each slice of Lua increments a counter, and the watchdog samples it. When the counter
//! stands still for longer than its limit, the watchdog signals the thread of that slice. The signal handler sets a
//! hook on the running `lua_State`; `lua_sethook` is the one function that Lua allows there. The hook ends the call,
//! see `hook`. Invariant: everything that the watchdog writes is bound to a counter value, so that it never applies
//! to a later slice.

#![expect(unsafe_code, reason = "signals, and what their handler may touch")]

use std::io;
use std::ptr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use super::beat::{Beat, Pulse, Registry, Seen};
use super::failure;
use super::hook;
use super::run_queue;
use super::ticket::Ticket;
use crate::failpoint::failpoint;
use crate::log::log;
use crate::threads::progress;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

/// Precision of the limits: a slice ends at most two ticks late.
const TICK: Duration = Duration::from_millis(5);
/// The most time that one sample adds to the running time of a slice.
const LOOK_MAX: Duration = Duration::from_millis(50);
/// Idle ticks before the watchdog sleeps until a slice wakes it.
const IDLE_TICKS: u32 = 20;
/// A slice longer than this is logged.
const SLOW: Duration = Duration::from_millis(100);
/// The allowance of one turn of the watchdog's own loop; an idle turn takes a second.
const TURN_MAX: Duration = Duration::from_secs(10);
/// The time that the watchdog's thread has to end.
const END: Duration = Duration::from_secs(1);
/// The least time beyond its limit that uninterruptible code gets before its load is given up or the process ends.
const LAST_DEADLINE: Duration = Duration::from_secs(5);
/// How long the position of a load that is given up is waited for.
const POSITION: Duration = Duration::from_millis(250);

/// The watchdog's thread, which ends when this is dropped.
pub(crate) struct Watchdog {
    registry: Arc<Registry>,
    thread: Option<Handle>,
}

impl Watchdog {
    /// Starts the thread and installs the signal's handler.
    pub(crate) fn start(supervisor: &Supervisor) -> anyhow::Result<Self> {
        install_handler().context("cannot install the signal handler of Lua's watchdog")?;
        hear_broken_pipes().context("cannot install the handler of SIGPIPE")?;
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
        Pulse::of_current_thread(&self.registry, name, None)
    }

    /// As above, for a thread with nothing but one load: where nothing ends its code, the load is given up.
    pub(crate) fn watch_load(&self, name: &str, ticket: &Ticket) -> Pulse {
        Pulse::of_current_thread(&self.registry, name, Some(ticket.clone()))
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
            // The time-out covers a wake-up that comes before `thread` is set.
            std::thread::park_timeout(Duration::from_secs(1));
        }
        registry.asleep.store(false, Ordering::SeqCst);
    }
}

/// Samples every beat; returns true when one of them runs.
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
            passed: Duration::ZERO,
            waited: None,
        };
        return true;
    }
    let ran = running_time(beat, &mut seen, now);
    let limit = beat.limit();
    if ran >= SLOW && beat.slow.load(Ordering::Relaxed) != sequence {
        let since = now.duration_since(beat.start).saturating_sub(ran);
        beat.slow_since_us
            .store(since.as_micros() as u64, Ordering::Relaxed);
        beat.slow.store(sequence, Ordering::Release);
    }
    if ran >= limit || beat.is_cancelled() {
        // Repeated at each tick: the first signal may have met a state that was just being left.
        beat.killed.store(sequence, Ordering::Release);
        // SAFETY: the thread deregisters before it ends, under the lock that is held here.
        unsafe { libc::pthread_kill(beat.thread, signal()) };
    }
    let last = limit.saturating_add(limit.max(LAST_DEADLINE));
    if ran < last || beat.sequence.load(Ordering::SeqCst) != sequence {
        return true;
    }
    match &beat.ticket {
        Some(ticket) => give_up_load(beat, ticket, sequence, ran, last),
        None => give_up(beat, ran),
    }
}

/// The time of the slice that counts. On a busy machine a thread may wait for a CPU for most of the time: this is not
/// the time of its code, and must not end it. The kernel adds a wait when it ends, so that the sum is right and a
/// difference between two samples is not. The first part of a slice counts in full, so that short slices cost no look
/// at the kernel's counter.
fn running_time(beat: &Beat, seen: &mut Seen, now: Instant) -> Duration {
    seen.passed += now.duration_since(seen.last).min(LOOK_MAX);
    seen.last = now;
    if seen.passed < SLOW {
        return seen.passed;
    }
    let Some(waited) = run_queue::waited(beat.task) else {
        return seen.passed;
    };
    let before = *seen.waited.get_or_insert(waited);
    seen.passed.saturating_sub(waited.saturating_sub(before))
}

/// Gives up a load in code that does not return; its owner goes on without it. Returns whether the load is still to be
/// looked at often. It has run for `ran`, and was to be given up after `last`.
fn give_up_load(
    beat: &Beat,
    ticket: &Ticket,
    sequence: u64,
    ran: Duration,
    last: Duration,
) -> bool {
    if ticket.is_given_up() {
        return false;
    }
    // The handler of the next tick's signal notes the position.
    beat.unended.store(sequence, Ordering::Release);
    if !beat.last_words.has_position(sequence) && ran.saturating_sub(last) < POSITION {
        return true;
    }
    let position = beat.last_words.position(sequence);
    let position = position.unwrap_or_else(|| beat.last_words.read().listener);
    let limit = beat.limit().as_millis();
    ticket.give_up(format!(
        "{position}: code that nothing can interrupt (a C function or a `__gc` method) has run for {} s while the file \
         loads, and limits.blocking is {limit} ms; bound its time, or call it elsewhere",
        ran.as_secs()
    ));
    false
}

/// Ends the process for C code that does not return. Nothing was committed for its messages, and a new process
/// continues.
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
        "a handler is in code that cannot be interrupted, beyond the last deadline: the process aborts"
    );
    // Lets a log writer on another thread write the line.
    std::thread::sleep(Duration::from_millis(200));
    std::process::abort()
}

fn signal() -> libc::c_int {
    libc::SIGRTMIN() + 4
}

fn install_handler() -> io::Result<()> {
    // SAFETY: the action is fully initialised, and its handler does only what a signal handler may do.
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

/// Rust ignores SIGPIPE, and the children of `io.popen` and `os.execute` would inherit that: `yes | head -1` would
/// never end. An empty handler has the same effect in this process, and exec resets it.
fn hear_broken_pipes() -> io::Result<()> {
    // SAFETY: both actions are fully initialised, and the handler does nothing.
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

/// Runs on the thread whose slice must end. It uses atomics, sets the hook, and does nothing else.
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
    if beat.is_unended() {
        note_position(beat, state);
    }
}

/// Notes the position of a slice that no hook has ended within seconds: its thread is inside C code or a finalizer.
fn note_position(beat: &Beat, state: *mut mlua::ffi::lua_State) {
    let sequence = beat.sequence.load(Ordering::Relaxed);
    if beat.last_words.has_position(sequence) {
        return;
    }
    if state.is_null() {
        return beat.last_words.write_position(sequence, b"", 0);
    }
    // SAFETY: as in `on_signal`; this is the thread of that state.
    unsafe {
        failure::interrupted_position(state, |source, line| {
            beat.last_words.write_position(sequence, source, line);
        });
    }
}
