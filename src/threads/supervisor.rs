//! The one place that starts Moontide's threads: it names them, supervises them and joins them.
//!
//! A thread that panics, or that ends before it may, ends the daemon with its name. Each thread has a [`Beat`] for
//! the turns of its loop, so that a hang is visible. A supervisor knows neither the threads nor the daemon.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{Builder, JoinHandle, Thread};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc::{self, UnboundedSender};

use super::progress::{Beat, Progress};

/// A reason to end the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `onError = "stop"`: the sentence names the message.
    Message(String),
    /// The brokers lack something that the configuration needs.
    Config(String),
    /// A client died, or a handler cannot be ended: a drain is of little use.
    Failed(String),
    /// A thread panicked or ended unasked; the other threads can drain.
    Thread(String),
}

/// Bounded by nature: each sender has one ending to report.
pub(crate) type Endings = UnboundedSender<Ending>;

/// The meaning of a thread's hang. The duration is the allowance of one turn of its loop.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Kind {
    /// Without this thread messages stand still: `/live` and systemd's watchdog report its hang.
    Counted(Duration),
    /// Messages are processed without this thread: its hang is an ERROR in the log.
    Observed(Duration),
    /// Observed like the kind above; the thread ends when its job is done.
    Job(Duration),
}

/// Starts threads. A clone supervises the same threads.
#[derive(Clone, Debug)]
pub(crate) struct Supervisor(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    endings: Endings,
    counted: Progress,
    observed: Progress,
    is_stopping: AtomicBool,
}

/// The handle of a thread. Its drop does not affect the thread, which still may not end unasked.
#[derive(Debug)]
pub(crate) struct Handle {
    thread: JoinHandle<()>,
    may_end: Arc<AtomicBool>,
}

impl Supervisor {
    /// A supervisor that reports to `endings`.
    pub(crate) fn new(endings: Endings) -> Self {
        Self(Arc::new(Shared {
            endings,
            counted: Progress::default(),
            observed: Progress::default(),
            is_stopping: AtomicBool::new(false),
        }))
    }

    /// A supervisor outside of a daemon: only the panic hook reports a panic.
    pub(crate) fn without_daemon() -> Self {
        Self::new(mpsc::unbounded_channel().0)
    }

    /// Starts a thread. The kernel shows the first 15 bytes of its name; the log has the whole name.
    pub(crate) fn spawn(
        &self,
        name: &str,
        kind: Kind,
        body: impl FnOnce(Beat) + Send + 'static,
    ) -> anyhow::Result<Handle> {
        let may_end = Arc::new(AtomicBool::new(matches!(kind, Kind::Job(_))));
        let beat = match kind {
            Kind::Counted(turn_max) => self.0.counted.register(name, turn_max),
            Kind::Observed(turn_max) | Kind::Job(turn_max) => {
                self.0.observed.register(name, turn_max)
            }
        };
        let thread = Builder::new().name(name.to_owned()).spawn({
            let (shared, name, may_end) = (self.0.clone(), name.to_owned(), may_end.clone());
            move || {
                let has_panicked = catch_unwind(AssertUnwindSafe(|| body(beat))).is_err();
                shared.ended(&name, has_panicked, may_end.load(Ordering::Acquire));
            }
        });
        let thread = thread.with_context(|| format!("cannot start thread `{name}`"))?;
        Ok(Handle { thread, may_end })
    }

    /// The sender for other reasons to end the daemon.
    pub(crate) fn endings(&self) -> Endings {
        self.0.endings.clone()
    }

    /// The threads without which messages stand still.
    pub(crate) fn counted(&self) -> &Progress {
        &self.0.counted
    }

    /// The other threads.
    pub(crate) fn observed(&self) -> &Progress {
        &self.0.observed
    }

    /// The daemon stops: from now on every thread may end.
    pub(crate) fn stopping(&self) {
        self.0.is_stopping.store(true, Ordering::Release);
    }
}

impl Shared {
    fn ended(&self, name: &str, has_panicked: bool, may_end: bool) {
        let how = if has_panicked {
            "panicked"
        } else if may_end || self.is_stopping.load(Ordering::Acquire) {
            return;
        } else {
            "ended unasked"
        };
        let sentence = format!("thread `{name}` {how}");
        // The daemon may already end for another reason, or there is none.
        let _ = self.endings.send(Ending::Thread(sentence));
    }
}

impl Handle {
    /// Must be called before the thread is told to end.
    pub(crate) fn may_end(&self) {
        self.may_end.store(true, Ordering::Release);
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.thread.is_finished()
    }

    /// The thread, for `unpark` and for a comparison with the calling thread.
    pub(crate) fn thread(&self) -> &Thread {
        self.thread.thread()
    }

    /// Waits until the thread has ended. After the deadline the thread is left to the end of the process.
    pub(crate) fn join(self, deadline: Instant) -> bool {
        self.may_end();
        while !self.thread.is_finished() {
            if Instant::now() >= deadline {
                return false;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // The thread's panic was caught and reported.
        let _ = self.thread.join();
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TURN_MAX: Duration = Duration::from_secs(5);

    fn soon() -> Instant {
        Instant::now() + Duration::from_secs(20)
    }

    /// What the daemon hears when a thread with this body has ended.
    #[track_caller]
    fn check(kind: Kind, asked: bool, body: fn(), expected: Option<&str>) {
        let (endings, mut receiver) = mpsc::unbounded_channel();
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let supervisor = Supervisor::new(endings);
        let thread = supervisor.spawn("a-thread", kind, move |_| {
            // Until the test has said whether it may end.
            let _ = wait.recv();
            body();
        });
        let thread = thread.unwrap();
        if asked {
            thread.may_end();
        }
        drop(go);
        while !thread.has_ended() {
            std::thread::yield_now();
        }
        let expected = expected.map(|sentence| Ending::Thread(sentence.to_owned()));
        assert_eq!(receiver.try_recv().ok(), expected);
        assert!(thread.join(soon()));
    }

    #[test]
    fn a_thread_that_panics_ends_the_daemon() {
        let kinds = [
            Kind::Counted(TURN_MAX),
            Kind::Observed(TURN_MAX),
            Kind::Job(TURN_MAX),
        ];
        let sentence = Some("thread `a-thread` panicked");
        for kind in kinds {
            check(kind, false, || panic!("on purpose"), sentence);
            check(kind, true, || panic!("on purpose"), sentence);
        }
    }

    #[test]
    fn a_thread_that_ends_unasked_ends_the_daemon() {
        let sentence = Some("thread `a-thread` ended unasked");
        check(Kind::Counted(TURN_MAX), false, || {}, sentence);
        check(Kind::Observed(TURN_MAX), false, || {}, sentence);
    }

    #[test]
    fn a_thread_that_may_end_is_no_news() {
        check(Kind::Counted(TURN_MAX), true, || {}, None);
        check(Kind::Job(TURN_MAX), false, || {}, None);
    }

    #[test]
    fn a_thread_that_does_not_end_is_left_alone_at_the_deadline() {
        let (go, wait) = std::sync::mpsc::channel::<()>();
        let body = move |_| {
            let _ = wait.recv();
        };
        let thread = Supervisor::without_daemon().spawn("a-thread", Kind::Job(TURN_MAX), body);
        assert!(!thread.unwrap().join(Instant::now()));
        drop(go);
    }

    #[test]
    fn the_kernel_knows_a_thread_by_the_first_15_bytes_of_its_name() {
        let (sender, receiver) = std::sync::mpsc::channel();
        let name = "consumer-of-a-long-name";
        let thread = Supervisor::without_daemon().spawn(name, Kind::Job(TURN_MAX), move |_| {
            let full = std::thread::current().name().map(str::to_owned);
            let kernels = std::fs::read_to_string("/proc/thread-self/comm");
            sender.send((full, kernels.unwrap())).unwrap();
        });
        let (full, kernels) = receiver.recv().unwrap();
        assert_eq!(full.as_deref(), Some(name));
        assert_eq!(kernels.trim_end(), "consumer-of-a-l");
        assert!(thread.unwrap().join(soon()));
    }
}
