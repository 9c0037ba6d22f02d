//! Detects that config or handlers may have changed.
//!
//! A signal only means "may": its receiver reads all files and compares. The watch depends neither on the config nor
//! on Lua. Invariants: it never fails the start; where file events are refused, it polls. No change after a signal is
//! missed, since watches are armed before the signal. A save is signalled within [`Pace::limit`], even when further
//! saves follow. A slow comparison of the contents covers file systems without events.

mod paths;

use crate::failpoint::failpoint;
use crate::log::log;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Handle, Kind, Supervisor};
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use notify::{ErrorKind, RecursiveMode, Watcher};
use tokio::sync::mpsc;

use paths::{Compare, Paths};

/// The most rounds of a search for directories that appear while others are being armed; after that the next signal
/// finds them.
const ARM_ROUNDS_MAX: usize = 4;

/// The longest pause between two turns of the thread, so that its hang is detected.
const TURN: Duration = Duration::from_secs(5);
/// The longest turn: the disk may be slow.
const TURN_MAX: Duration = Duration::from_secs(30);
/// How long the thread may take to end.
const END: Duration = Duration::from_secs(1);

/// A running watch; dropping it ends it.
pub(crate) struct Watch {
    shared: Arc<Shared>,
    changes: mpsc::Receiver<()>,
    thread: Option<Handle>,
}

/// The times of signals and checks.
#[derive(Clone, Copy, Debug)]
struct Pace {
    /// A signal waits for this long a time without events: an editor may still be writing.
    quiet: Duration,
    /// The longest delay after the first event.
    limit: Duration,
    /// The interval of checks when events are refused.
    poll: Duration,
    /// The interval at which contents are always compared; also the longest time for which a lost watch stays lost.
    slow: Duration,
}

const PACE: Pace = Pace {
    quiet: Duration::from_millis(100),
    limit: Duration::from_millis(500),
    poll: Duration::from_millis(600),
    slow: Duration::from_secs(30),
};

/// Creates the source of events; tests use another one.
type Connect = fn(Arc<Shared>) -> notify::Result<Box<dyn Watcher + Send>>;

impl Watch {
    /// Watches until it is dropped. The first signal comes as soon as all watches are armed: a change between the
    /// caller's reading and that moment is not lost.
    pub(crate) fn start(
        config: PathBuf,
        handlers: PathBuf,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        Self::start_with(config, handlers, PACE, supervisor, |shared| {
            let watcher = notify::recommended_watcher(move |event| shared.note(event))?;
            Ok(Box::new(watcher))
        })
    }

    fn start_with(
        config: PathBuf,
        handlers: PathBuf,
        pace: Pace,
        supervisor: &Supervisor,
        connect: Connect,
    ) -> anyhow::Result<Self> {
        let shared = Arc::new(Shared::default());
        let (sender, changes) = mpsc::channel(1);
        let eye = Eye {
            shared: Arc::clone(&shared),
            changes: sender,
            config,
            handlers,
            pace,
            connect,
            watcher: None,
            armed: BTreeSet::new(),
            refused: false,
            warned: false,
            seen: (0, 0),
        };
        let kind = Kind::Observed(TURN_MAX);
        let thread = supervisor.spawn("watch", kind, move |beat| eye.run(&beat))?;
        Ok(Self {
            shared,
            changes,
            thread: Some(thread),
        })
    }

    /// Waits until a file may have changed; several changes may be one signal. `None` means that the watch has ended,
    /// which it never does unasked. Dropping the future loses nothing.
    pub(crate) async fn changed(&mut self) -> Option<()> {
        self.changes.recv().await
    }

    /// Watches another folder of handlers from now on; a signal follows when the watch is armed. The same folder has
    /// no effect.
    pub(crate) fn rearm(&self, handlers: PathBuf) {
        self.shared.lock().handlers = Some(handlers);
        self.shared.wake.notify_one();
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.may_end();
            self.shared.lock().stop = true;
            self.shared.wake.notify_one();
            thread.join(Instant::now() + END);
        }
    }
}

/// The input of the watch's thread: events, and the requests of its owner. It is state instead of a queue, so it has
/// a bound.
#[derive(Default)]
struct Shared {
    state: Mutex<State>,
    wake: Condvar,
}

#[derive(Default)]
struct State {
    places: Arc<Paths>,
    unrest: Option<Unrest>,
    handlers: Option<PathBuf>,
    stop: bool,
}

/// Events without a signal so far.
#[derive(Clone, Copy, Debug)]
struct Unrest {
    first: Instant,
    last: Instant,
}

#[derive(Debug)]
enum Wake {
    Settled,
    Look,
    /// The thread only shows that it moves.
    Turn,
    Handlers(PathBuf),
    Stop,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic elsewhere leaves this state consistent.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Called by the source of events, on its thread.
    fn note(&self, event: notify::Result<notify::Event>) {
        let mut state = self.lock();
        // An error is a loss of events: any file may have changed.
        if event.map_or(true, |event| state.places.concern(&event)) {
            state.stir();
            drop(state);
            self.wake.notify_one();
        }
    }

    fn wait(&self, pace: Pace, look_at: Instant) -> Wake {
        let turn_at = Instant::now() + TURN;
        let mut state = self.lock();
        loop {
            if state.stop {
                return Wake::Stop;
            }
            if let Some(handlers) = state.handlers.take() {
                return Wake::Handlers(handlers);
            }
            let now = Instant::now();
            let settled_at = state.unrest.map(|unrest| unrest.settled_at(pace));
            if settled_at.is_some_and(|at| at <= now) {
                state.unrest = None;
                return Wake::Settled;
            }
            if look_at <= now {
                return Wake::Look;
            }
            if turn_at <= now {
                return Wake::Turn;
            }
            let until = settled_at
                .map_or(look_at, |at| at.min(look_at))
                .min(turn_at);
            let woken = self.wake.wait_timeout(state, until - now);
            state = woken.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl State {
    fn stir(&mut self) {
        let now = Instant::now();
        self.unrest
            .get_or_insert(Unrest {
                first: now,
                last: now,
            })
            .last = now;
    }
}

impl Unrest {
    fn settled_at(self, pace: Pace) -> Instant {
        (self.last + pace.quiet).min(self.first + pace.limit)
    }
}

/// The state of the watch's thread.
struct Eye {
    shared: Arc<Shared>,
    changes: mpsc::Sender<()>,
    config: PathBuf,
    handlers: PathBuf,
    pace: Pace,
    connect: Connect,
    watcher: Option<Box<dyn Watcher + Send>>,
    armed: BTreeSet<PathBuf>,
    /// Events are refused, at least for an essential directory.
    refused: bool,
    warned: bool,
    /// Fingerprints at the last check, by stat and by contents.
    seen: (u64, u64),
}

impl Eye {
    fn run(mut self, beat: &Beat) {
        self.arm();
        self.signal();
        let mut slow_at = Instant::now() + self.pace.slow;
        loop {
            beat.turn();
            failpoint!("watch-turn");
            let poll_at = Instant::now() + self.pace.poll;
            let look_at = if self.refused {
                slow_at.min(poll_at)
            } else {
                slow_at
            };
            match self.shared.wait(self.pace, look_at) {
                Wake::Stop => return,
                Wake::Turn => {}
                Wake::Settled => {
                    // Before the signal: a change that its receiver misses while it reads is an event.
                    self.arm();
                    self.signal();
                }
                Wake::Handlers(handlers) if handlers == self.handlers => {}
                Wake::Handlers(handlers) => {
                    self.handlers = handlers;
                    self.arm();
                    self.signal();
                }
                Wake::Look if Instant::now() >= slow_at => {
                    slow_at = Instant::now() + self.pace.slow;
                    // This also finds files that were deleted and created again without an event.
                    let places = self.arm();
                    if places.fingerprint(Compare::Contents) != self.seen.1 {
                        self.shared.lock().stir();
                    }
                }
                Wake::Look => {
                    let stat = Paths::of(&self.config, &self.handlers).fingerprint(Compare::Stat);
                    if stat != std::mem::replace(&mut self.seen.0, stat) {
                        self.shared.lock().stir();
                    }
                }
            }
        }
    }

    fn signal(&mut self) {
        let places = Arc::clone(&self.shared.lock().places);
        self.seen = (
            places.fingerprint(Compare::Stat),
            places.fingerprint(Compare::Contents),
        );
        // A full channel holds an unread signal, which covers this change as well.
        let _ = self.changes.try_send(());
    }

    /// Arms all needed watches, also those that exist: a directory that was deleted and created again has lost its
    /// watch, though its path is the same.
    fn arm(&mut self) -> Arc<Paths> {
        let mut places = Arc::new(Paths::of(&self.config, &self.handlers));
        for round in 1..=ARM_ROUNDS_MAX {
            self.shared.lock().places = Arc::clone(&places);
            let refusal = self.arm_all(&places);
            self.report(refusal);
            // A directory that appeared meanwhile inside an unwatched one has raised no event.
            let again = Arc::new(Paths::of(&self.config, &self.handlers));
            if again == places {
                break;
            }
            places = again;
            if round == ARM_ROUNDS_MAX {
                self.shared.lock().stir();
            }
        }
        places
    }

    fn arm_all(&mut self, places: &Paths) -> Option<notify::Error> {
        let watcher = match &mut self.watcher {
            Some(watcher) => watcher,
            none => match (self.connect)(Arc::clone(&self.shared)) {
                Ok(watcher) => none.insert(watcher),
                Err(error) => return Some(error),
            },
        };
        let mut refusal = None;
        // Parents come first: if a folder vanishes at this moment, the watch on its parent reports its return.
        for (path, essential) in places.targets() {
            match watcher.watch(path, RecursiveMode::NonRecursive) {
                Ok(()) => _ = self.armed.insert(path.clone()),
                Err(error) if is_missing(&error) || !essential => {}
                Err(error) => refusal = Some(error),
            }
        }
        let targets: BTreeSet<&PathBuf> = places.targets().map(|(path, _)| path).collect();
        for path in self.armed.iter().filter(|path| !targets.contains(path)) {
            // The directory may be gone, and its watch with it.
            let _ = watcher.unwatch(path);
        }
        self.armed.retain(|path| targets.contains(path));
        refusal
    }

    fn report(&mut self, refusal: Option<notify::Error>) {
        self.refused = refusal.is_some();
        if let Some(error) = refusal.filter(|_| !self.warned) {
            self.warned = true;
            let every_ms = self.pace.poll.as_millis();
            log!(warn, watch, %error, every_ms, "the kernel refuses file events: config and handlers are polled for changes");
        }
    }
}

fn is_missing(error: &notify::Error) -> bool {
    match &error.kind {
        ErrorKind::PathNotFound => true,
        ErrorKind::Io(error) => error.kind() == std::io::ErrorKind::NotFound,
        _ => false,
    }
}

#[cfg(test)]
mod tests;
