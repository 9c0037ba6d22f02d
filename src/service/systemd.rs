//! What the service manager is told, and when the watchdog may believe that all is well.
//!
//! Outside systemd (no `NOTIFY_SOCKET`) every notification is a no-op, so that nobody asks. **A watchdog ping is sent
//! only while every registered thread moves**: one from a timer of its own would prove nothing. A broker that is away
//! stops no thread and therefore no ping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::log::log;
use crate::rate_limit::RateLimit;
use crate::threads::progress::Progress;

/// How often the threads are looked at. Each turns its loop at least once a second.
const LOOK: Duration = Duration::from_secs(1);
/// Between two lines about a thread that stands still.
const STALLED_WINDOW: Duration = Duration::from_secs(10);

/// The service manager, as far as it listens.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// Half of `WatchdogSec=`, if the unit has it and means this process.
    watchdog: Option<Duration>,
    /// The last status sent, so that one that says the same is not sent again.
    status: Mutex<String>,
    /// A manager that cannot be reached is worth one line, never an end.
    has_failed: AtomicBool,
}

impl Notifier {
    /// The manager that the environment names, if it names one.
    pub(crate) fn of_environment() -> Self {
        let watchdog = sd_notify::watchdog_enabled()
            .map(|limit| limit / 2)
            .filter(|half| !half.is_zero());
        Self {
            watchdog,
            status: Mutex::default(),
            has_failed: AtomicBool::new(false),
        }
    }

    fn send(&self, states: &[NotifyState<'_>]) {
        if let Err(error) = sd_notify::notify(states)
            && !self.has_failed.swap(true, Ordering::Relaxed)
        {
            log!(warn, systemd, %error, "the service manager cannot be notified");
        }
    }

    /// Config and Lua are loaded; the broker may be away.
    pub(crate) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// One line that a person can read in `systemctl status`.
    pub(crate) fn status(&self, text: &str) {
        let text = one_line(text);
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            self.send(&[NotifyState::Status(&text)]);
            *last = text;
        }
    }

    /// A reload has begun; `ready` ends it, also when it was rejected.
    pub(crate) fn reloading(&self) {
        // A reload by notification is only complete with the time at which it began, in the same datagram.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => {
                log!(warn, systemd, %error, "the service manager was not told of the reload");
            }
        }
    }

    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// Whatever the manager waits for (start, stop) may take this much longer, from now.
    pub(crate) fn extend_timeout(&self, by: Duration) {
        let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(usec)]);
    }

    /// How often to ping, if at all.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Looks at the threads every second and pings while all of them move. Runs until it is dropped; without a watchdog
    /// it only says which thread stands still.
    pub(crate) async fn watch(&self, progress: &Progress) {
        let interval = self.watchdog_interval();
        let mut look = tokio::time::interval(interval.map_or(LOOK, |interval| interval.min(LOOK)));
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut pinged: Option<Instant> = None;
        let mut limit = RateLimit::new(1, STALLED_WINDOW);
        loop {
            look.tick().await;
            let now = Instant::now();
            if let Some(thread) = progress.stalled(now) {
                if limit.allow(now).is_some() {
                    log!(error, systemd, %thread, "a thread stands still, the watchdog is not fed");
                }
                continue;
            }
            let is_due = interval.is_some_and(|interval| {
                pinged.is_none_or(|at| now.duration_since(at) + LOOK > interval)
            });
            if is_due {
                self.watchdog();
                pinged = Some(now);
            }
        }
    }
}

/// A line break would begin another assignment of the datagram.
fn one_line(text: &str) -> String {
    text.replace(['\n', '\r'], " ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_stays_on_one_line() {
        assert_eq!(one_line("broker away\nREADY=1"), "broker away READY=1");
    }
}
