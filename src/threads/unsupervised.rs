//! A thread that lives longer than the supervisor: the log's writer, which has the last lines of every other thread.

use std::io;
use std::thread::{Builder, JoinHandle};

/// A panic is reported by the panic hook; the caller sees the end of the thread by other means.
pub(crate) fn spawn(
    name: &str,
    body: impl FnOnce() + Send + 'static,
) -> io::Result<JoinHandle<()>> {
    Builder::new().name(name.to_owned()).spawn(body)
}
