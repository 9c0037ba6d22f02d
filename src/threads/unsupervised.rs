//! A thread that outlives the supervisor: the log's writer, which gets the last lines of every other thread.

use std::io;
use std::thread::{Builder, JoinHandle};

/// The panic hook reports a panic. The caller detects the end of the thread by other means.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(body)
}
