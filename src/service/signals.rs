//! Signals, as one token with one deadline.
//!
//! The first SIGTERM, SIGINT or SIGQUIT starts a drain, the second ends the process at once. SIGHUP opens the log
//! file again and starts a reload. SIGUSR1 and SIGUSR2 have no effect except a line in the log. SIGXFSZ, sent for a
//! log file at its size limit, has no effect either: the write has failed, and its line is counted. A thread of their
//! own receives the signals, so that the second signal works while all other threads are busy. SIGPIPE has no effect:
//! Rust ignores it, and Lua's watchdog replaces that by an empty handler.
#![expect(
    unsafe_code,
    reason = "_exit(2) for the second signal: no destructor may hold the process up"
)]

use crate::failpoint::failpoint;
use crate::log::log;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Handle, Kind, Supervisor};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::{mpsc, oneshot, watch};

/// The longest pause between two turns of the thread, so that its hang is detected.
const TURN: Duration = Duration::from_secs(5);
/// The longest turn.
const TURN_MAX: Duration = Duration::from_secs(15);
/// How long the thread may take to end.
const END: Duration = Duration::from_secs(1);

/// Whether a stop was requested, and the deadline of the drain. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Shutdown(watch::Receiver<Option<Instant>>);

impl Shutdown {
    /// The deadline of the drain, once a stop was requested.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        *self.0.borrow()
    }

    /// Ends when a stop is requested, or when the last trigger is gone.
    pub(crate) async fn requested(&self) {
        let mut receiver = self.0.clone();
        // An error means that the trigger is gone: the process is ending anyway.
        drop(receiver.wait_for(Option::is_some).await);
    }
}

/// Requests the stop. Every holder may do so: a signal, a fatal error, a test.
#[derive(Clone, Debug)]
pub(crate) struct Trigger {
    sender: watch::Sender<Option<Instant>>,
}

impl Trigger {
    /// Returns whether this was the first request; later requests do not move the deadline.
    pub(crate) fn request(&self, drain: Duration) -> bool {
        self.sender.send_if_modified(|deadline| {
            let is_first = deadline.is_none();
            if is_first {
                *deadline = Some(Instant::now() + drain);
            }
            is_first
        })
    }
}

pub(crate) fn channel() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(None);
    (Trigger { sender }, Shutdown(receiver))
}

/// A signal that arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Arrived {
    /// SIGTERM, SIGINT, SIGQUIT.
    Stop(&'static str),
    /// SIGHUP.
    Hangup,
    /// SIGUSR1, SIGUSR2: signals without a meaning here. Their default action would end the process without a drain.
    Other(&'static str),
    /// SIGXFSZ.
    FileTooLarge,
}

impl Arrived {
    fn name(self) -> &'static str {
        match self {
            Self::Stop(name) | Self::Other(name) => name,
            Self::Hangup => "SIGHUP",
            Self::FileTooLarge => "SIGXFSZ",
        }
    }
}

/// The reaction to a signal.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Drain,
    End,
    Reload,
    /// Reopens the log file, and nothing else.
    Reopen,
    /// Logs the list of signals.
    Explain,
    Nothing,
}

fn action(is_stopping: bool, arrived: Arrived) -> Action {
    match (arrived, is_stopping) {
        (Arrived::Stop(_), false) => Action::Drain,
        (Arrived::Stop(_), true) => Action::End,
        (Arrived::Hangup, false) => Action::Reload,
        (Arrived::Hangup, true) => Action::Reopen,
        (Arrived::Other(_), _) => Action::Explain,
        (Arrived::FileTooLarge, _) => Action::Nothing,
    }
}

/// The effects of the signals.
pub(crate) struct Reactions {
    pub(crate) trigger: Trigger,
    /// The limit of the drain, read when the signal arrives.
    pub(crate) drain: Box<dyn Fn() -> Duration + Send>,
    /// Opens the log file again, which may have been renamed. Does not wait.
    pub(crate) reopen: Box<dyn Fn() + Send>,
    /// One item for each SIGHUP. A full queue drops it: the reload that waits will read the newest files.
    pub(crate) reloads: mpsc::Sender<()>,
    /// Runs before the process ends at the second signal: it writes the lines that the log still holds.
    pub(crate) flush: Box<dyn Fn() + Send>,
}

/// The thread that receives signals; dropping it ends and joins the thread.
#[derive(Debug)]
pub(crate) struct Signals {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<Handle>,
}

impl Signals {
    /// Returns when the signal handlers are installed: no later signal takes its default action.
    pub(crate) fn listen(reactions: Reactions, supervisor: &Supervisor) -> anyhow::Result<Self> {
        let context = "cannot listen to signals";
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_io()
            .enable_time()
            .build()
            .context(context)?;
        let entered = runtime.enter();
        let mut ears = Ears::open().context(context)?;
        drop(entered);
        let (stop, stopped) = oneshot::channel();
        let thread = supervisor.spawn("signals", Kind::Observed(TURN_MAX), move |beat| {
            runtime.block_on(async {
                tokio::select! {
                    () = hear(&mut ears, &reactions, &beat) => {}
                    _ = stopped => {}
                }
            });
        })?;
        Ok(Self {
            stop: Some(stop),
            thread: Some(thread),
        })
    }
}

impl Drop for Signals {
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.may_end();
            drop(self.stop.take());
            thread.join(Instant::now() + END);
        }
    }
}

struct Ears {
    terminate: Signal,
    interrupt: Signal,
    quit: Signal,
    hangup: Signal,
    user1: Signal,
    user2: Signal,
    file_too_large: Signal,
}

impl Ears {
    fn open() -> std::io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            quit: signal(SignalKind::quit())?,
            hangup: signal(SignalKind::hangup())?,
            user1: signal(SignalKind::user_defined1())?,
            user2: signal(SignalKind::user_defined2())?,
            file_too_large: signal(SignalKind::from_raw(libc::SIGXFSZ))?,
        })
    }

    async fn next(&mut self) -> Arrived {
        tokio::select! {
            _ = self.terminate.recv() => Arrived::Stop("SIGTERM"),
            _ = self.interrupt.recv() => Arrived::Stop("SIGINT"),
            _ = self.quit.recv() => Arrived::Stop("SIGQUIT"),
            _ = self.hangup.recv() => Arrived::Hangup,
            _ = self.user1.recv() => Arrived::Other("SIGUSR1"),
            _ = self.user2.recv() => Arrived::Other("SIGUSR2"),
            _ = self.file_too_large.recv() => Arrived::FileTooLarge,
        }
    }
}

async fn hear(ears: &mut Ears, reactions: &Reactions, beat: &Beat) {
    let mut is_stopping = false;
    loop {
        beat.turn();
        failpoint!("signals-turn");
        let Ok(arrived) = tokio::time::timeout(TURN, ears.next()).await else {
            continue;
        };
        match action(is_stopping, arrived) {
            Action::Drain => {
                is_stopping = true;
                let drain = (reactions.drain)();
                log!(
                    info,
                    signals,
                    signal = arrived.name(),
                    ?drain,
                    "stopping: running calls may finish"
                );
                reactions.trigger.request(drain);
            }
            Action::End => {
                log!(
                    warn,
                    signals,
                    "second signal: the process ends now, and uncommitted messages are delivered again"
                );
                (reactions.flush)();
                // SAFETY: it only ends the process. Nothing unfinished was committed, so that nothing is lost.
                unsafe { libc::_exit(1) }
            }
            Action::Reload => {
                // Comes first, so that the lines of the reload are in the new file.
                (reactions.reopen)();
                // A full queue holds a reload that will read the newest files.
                let _ = reactions.reloads.try_send(());
            }
            Action::Reopen => (reactions.reopen)(),
            Action::Explain => log!(
                warn,
                signals,
                signal = arrived.name(),
                "signal ignored: SIGHUP reloads, SIGTERM stops"
            ),
            Action::Nothing => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_signal_drains_and_the_second_ends() {
        assert_eq!(action(false, Arrived::Stop("SIGTERM")), Action::Drain);
        assert_eq!(action(true, Arrived::Stop("SIGINT")), Action::End);
        assert_eq!(action(false, Arrived::Stop("SIGQUIT")), Action::Drain);
    }

    #[test]
    fn a_signal_without_a_meaning_ends_nothing() {
        for is_stopping in [false, true] {
            let action = |arrived| action(is_stopping, arrived);
            assert_eq!(action(Arrived::Other("SIGUSR1")), Action::Explain);
            assert_eq!(action(Arrived::FileTooLarge), Action::Nothing);
        }
    }

    #[test]
    fn a_hangup_reloads_and_while_stopping_only_opens_the_log_file_again() {
        assert_eq!(action(false, Arrived::Hangup), Action::Reload);
        assert_eq!(action(true, Arrived::Hangup), Action::Reopen);
    }

    #[test]
    fn a_later_request_does_not_move_the_deadline() {
        let (trigger, shutdown) = channel();
        assert_eq!(shutdown.deadline(), None);
        assert!(trigger.request(Duration::from_secs(20)));
        let deadline = shutdown.deadline();
        assert!(!trigger.request(Duration::from_secs(60)));
        assert_eq!(shutdown.deadline(), deadline);
    }

    #[tokio::test]
    async fn whoever_waits_for_the_request_hears_it_also_when_it_came_before() {
        let (trigger, shutdown) = channel();
        trigger.request(Duration::from_secs(1));
        shutdown.requested().await;
        shutdown.clone().requested().await;
    }
}
