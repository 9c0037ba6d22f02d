//! The last resort of a stop: when the stop takes too long, the process ends, even if a thread still blocks it.
//!
//! A thread that does not end may hold messages. librdkafka's client waits for them without a deadline, and so does
//! the end of the process. Unfinished messages are not committed at that moment: they are delivered again.
#![expect(
    unsafe_code,
    reason = "_exit(2): no destructor may hold the process up"
)]

use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::log::log;
use crate::telemetry::logging::Flush;
use crate::threads::supervisor::{Handle, Kind, Supervisor};

/// How long the thread may take to end.
const END: Duration = Duration::from_secs(1);

/// Armed until it is dropped.
pub(super) struct LastResort {
    disarm: Option<mpsc::Sender<()>>,
    thread: Option<Handle>,
    is_kept: bool,
}

impl LastResort {
    /// At `at` the log is flushed, and the process ends with `code`.
    pub(super) fn arm(at: Instant, code: u8, flush: Flush, supervisor: &Supervisor) -> Self {
        let (disarm, disarmed) = mpsc::channel::<()>();
        let left = at.saturating_duration_since(Instant::now());
        let thread = supervisor.spawn("last-resort", Kind::Job(left), move |_| {
            let left = at.saturating_duration_since(Instant::now());
            if disarmed.recv_timeout(left) == Err(RecvTimeoutError::Timeout) {
                log!(
                    error,
                    daemon,
                    "the stop exceeds its deadline: the process ends now, and uncommitted messages are delivered again"
                );
                flush.now();
                // SAFETY: it only ends the process. Nothing unfinished was committed, so that nothing is lost.
                unsafe { libc::_exit(code.into()) }
            }
        });
        if let Err(error) = &thread {
            log!(warn, daemon, %error, "no thread watches the deadline of the stop");
        }
        Self {
            disarm: Some(disarm),
            thread: thread.ok(),
            is_kept: false,
        }
    }

    /// Stays armed until the process has ended, even when this is dropped.
    pub(super) fn keep(&mut self) {
        self.is_kept = true;
    }
}

impl Drop for LastResort {
    fn drop(&mut self) {
        if self.is_kept {
            std::mem::forget(self.disarm.take());
        } else if let Some(thread) = self.thread.take() {
            drop(self.disarm.take());
            thread.join(Instant::now() + END);
        }
    }
}
