//! Notifications to the service manager, and the condition for a watchdog ping.
//!
//! Outside systemd (no `NOTIFY_SOCKET`) every notification is a no-op, so that no caller has to check. **A watchdog
//! ping is sent only while every registered thread moves**: a ping from a timer of its own would prove nothing. An
//! unreachable broker stops no thread and therefore no ping.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use sd_notify::NotifyState;
use tokio::time::MissedTickBehavior;

use crate::log::log;
use crate::rate_limit::RateLimit;
use crate::threads::progress::Progress;

/// The interval at which the threads are checked. Each turns its loop at least once a second.
const LOOK: Duration = Duration::from_secs(1);
/// The pause between two log lines about a thread that stands still.
const STALLED_WINDOW: Duration = Duration::from_secs(10);

/// The connection to the service manager, if there is one.
#[derive(Debug)]
pub(crate) struct Notifier {
    /// Half of `WatchdogSec=`, if the unit sets it for this process.
    watchdog: Option<Duration>,
    /// The last status sent, so that an equal status is not sent again.
    status: Mutex<String>,
    /// An unreachable manager is logged once, and never ends the daemon.
    has_failed: AtomicBool,
}

impl Notifier {
    /// The manager that the environment names, if any.
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

    /// Config and Lua are loaded; the broker may be unreachable.
    pub(crate) fn ready(&self) {
        self.send(&[NotifyState::Ready]);
    }

    /// Sends one line for the reader of `systemctl status`.
    pub(crate) fn status(&self, text: &str) {
        let text = one_line(text);
        let mut last = self.status.lock().unwrap_or_else(PoisonError::into_inner);
        if *last != text {
            self.send(&[NotifyState::Status(&text)]);
            *last = text;
        }
    }

    /// A reload has begun; `ready` ends it, also when the bundle was rejected.
    pub(crate) fn reloading(&self) {
        // systemd accepts a reload notification only with the time of its begin in the same datagram.
        match NotifyState::monotonic_usec_now() {
            Ok(now) => self.send(&[NotifyState::Reloading, now]),
            Err(error) => {
                log!(warn, systemd, %error, "the service manager was not notified of the reload");
            }
        }
    }

    pub(crate) fn stopping(&self) {
        self.send(&[NotifyState::Stopping]);
    }

    /// From now on, the manager's current timeout (start or stop) lasts this much longer.
    pub(crate) fn extend_timeout(&self, by: Duration) {
        let usec = u32::try_from(by.as_micros()).unwrap_or(u32::MAX);
        self.send(&[NotifyState::ExtendTimeoutUsec(usec)]);
    }

    /// The interval of the pings, if the unit wants any.
    pub(crate) fn watchdog_interval(&self) -> Option<Duration> {
        self.watchdog
    }

    pub(crate) fn watchdog(&self) {
        self.send(&[NotifyState::Watchdog]);
    }

    /// Checks the threads every second, and pings while all of them move. Runs until it is dropped. Without a
    /// watchdog it only logs which thread stands still.
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
                    log!(error, systemd, %thread, "a thread stands still: systemd's watchdog is not notified");
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
