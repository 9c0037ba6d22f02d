//! What threads tell the daemon that supervises them.

use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use tokio::sync::mpsc::UnboundedSender;

/// Each ends the daemon.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    /// `onError = "stop"`: the sentence names the message.
    Message(String),
    /// What the configuration needs of the brokers is not there.
    Config(String),
    /// A thread ended unasked, or its client died.
    Failed(String),
}

/// Bounded by nature: each sender has one ending to report.
pub(crate) type Endings = UnboundedSender<Ending>;

/// A thread that panics ends the daemon.
pub(crate) fn spawn(
    endings: &Endings,
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> anyhow::Result<JoinHandle<()>> {
    let (endings, thread) = (endings.clone(), name.to_owned());
    std::thread::Builder::new()
        .name(name.to_owned())
        .spawn(move || {
            if std::panic::catch_unwind(std::panic::AssertUnwindSafe(body)).is_err() {
                // The daemon may be on its way out for another reason.
                let _ = endings.send(Ending::Failed(format!("thread `{thread}` panicked")));
            }
        })
        .with_context(|| format!("cannot start thread `{name}`"))
}

/// Joins a thread that has until then; one that has not ended is left to the end of the process.
pub(crate) fn join(thread: JoinHandle<()>, deadline: Instant) -> bool {
    while !thread.is_finished() {
        if Instant::now() >= deadline {
            return false;
        }
        std::thread::sleep(Duration::from_millis(5));
    }
    // Its panic was caught and reported.
    let _ = thread.join();
    true
}
