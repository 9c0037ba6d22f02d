//! Loads run on a thread of their own, which is left behind where C code does not return.
//!
//! Code of files may block in C while it loads: `os.execute`, a read of `io.popen`, a `__gc` method that loops. No
//! hook ends that, and no thread can be ended from outside. So the watchdog gives such a load up, and its owner goes
//! on. While the thread lives, no other load begins: each one could leave a further thread behind.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::vm::beat::Pulse;
use super::vm::ticket::{End, Ticket};
use super::vm::watchdog::Watchdog;
use crate::clock::now_ms;
use crate::threads::supervisor::{Kind, Supervisor};

/// How long a thread may take to end after its last step.
const END: Duration = Duration::from_secs(1);
/// Lua's watchdog judges a load, and its thread has no loop to observe.
const UNOBSERVED: Duration = Duration::MAX;

/// Runs one load at a time.
pub(crate) struct Loader {
    watchdog: Arc<Watchdog>,
    supervisor: Supervisor,
    /// Runs on the thread of a load that was given up, when it ends at last.
    at_late_end: Arc<dyn Fn() + Send + Sync>,
    stuck: Option<(Ticket, StuckLoad)>,
}

/// A load that was given up and still runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct StuckLoad {
    /// The place of its code first.
    pub(crate) why: String,
    /// Milliseconds since the epoch.
    pub(crate) since: i64,
}

/// The reason why a load gave no result.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unloaded {
    /// A sentence with the place first.
    Failed(String),
    /// As above; code of the load still runs.
    Stuck(String),
    /// The owner of its ticket has cancelled or left it.
    Cancelled,
}

impl Loader {
    pub(crate) fn new(
        watchdog: Arc<Watchdog>,
        supervisor: Supervisor,
        at_late_end: impl Fn() + Send + Sync + 'static,
    ) -> Self {
        Self {
            watchdog,
            supervisor,
            at_late_end: Arc::new(at_late_end),
            stuck: None,
        }
    }

    /// The load that was given up, as long as it runs.
    pub(crate) fn stuck(&mut self) -> Option<&StuckLoad> {
        self.stuck.take_if(|(ticket, _)| ticket.has_ended());
        self.stuck.as_ref().map(|(_, stuck)| stuck)
    }

    /// The error of every load that is not begun because an earlier one still runs.
    pub(crate) fn refusal(&mut self) -> Option<String> {
        let stuck = self.stuck()?;
        Some(format!(
            "{}\nuntil that code ends no reload is possible; end it, or restart the daemon",
            stuck.why
        ))
    }

    /// Runs `work` on a thread of its own, and waits for it as long as the watchdog and the ticket allow.
    pub(crate) fn run<T: Send + 'static>(
        &mut self,
        ticket: &Ticket,
        work: impl FnOnce(&Pulse) -> Result<T, String> + Send + 'static,
    ) -> Result<T, Unloaded> {
        if let Some(refusal) = self.refusal() {
            return Err(Unloaded::Stuck(refusal));
        }
        let slot = Arc::new(Mutex::new(None));
        let job = Job {
            ticket: ticket.clone(),
            at_late_end: self.at_late_end.clone(),
        };
        let (watchdog, result) = (self.watchdog.clone(), slot.clone());
        let body = move |_| {
            let job = job;
            let pulse = watchdog.watch_load("loader", &job.ticket);
            let made = work(&pulse);
            // A result that nobody takes is dropped here, under the eye of the watchdog: it may have finalizers.
            if job.ticket.deliver() {
                *result.lock().unwrap_or_else(PoisonError::into_inner) = Some(made);
            }
        };
        let thread = self
            .supervisor
            .spawn("loader", Kind::Job(UNOBSERVED), body)
            .map_err(|error| Unloaded::Failed(format!("{error:#}")))?;
        match ticket.wait() {
            End::Ended => {
                thread.join(Instant::now() + END);
                let made = slot.lock().unwrap_or_else(PoisonError::into_inner).take();
                match made {
                    Some(made) => made.map_err(Unloaded::Failed),
                    None if ticket.is_cancelled() => Err(Unloaded::Cancelled),
                    None => Err(Unloaded::Failed("the thread of the load panicked".into())),
                }
            }
            End::Stuck(why) => {
                let stuck = StuckLoad {
                    why: why.clone(),
                    since: now_ms(),
                };
                self.stuck = Some((ticket.clone(), stuck));
                Err(Unloaded::Stuck(why))
            }
            End::Left => Err(Unloaded::Cancelled),
        }
    }

    /// Drops VMs where a finalizer of theirs that does not end holds nothing up.
    pub(crate) fn discard<T: Send + 'static>(&mut self, vms: T) {
        // The caller has a result of its own; a finalizer that does not end shows as a stuck load.
        let _ = self.run(&Ticket::default(), move |_| {
            drop(vms);
            Ok(())
        });
    }
}

/// The end of a thread, also by a panic.
struct Job {
    ticket: Ticket,
    at_late_end: Arc<dyn Fn() + Send + Sync>,
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.ticket.end() {
            (self.at_late_end)();
        }
    }
}
