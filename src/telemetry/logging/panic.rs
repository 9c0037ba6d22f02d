//! A panic, as a line of the log: it reaches the file and journald, and stays one object in JSON.

use crate::log::log;
use std::backtrace::{Backtrace, BacktraceStatus};
use std::panic::{PanicHookInfo, set_hook};
use std::thread;

/// From now on a panic is logged in its own thread; the thread that joins it decides about the consequences.
pub(super) fn log_panics() {
    set_hook(Box::new(log));
}

fn log(panic: &PanicHookInfo<'_>) {
    let thread = thread::current();
    let thread = thread.name().unwrap_or("unnamed");
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let place = panic.location().map(ToString::to_string);
    // Captured only when `RUST_BACKTRACE` asks for it.
    let backtrace = Backtrace::capture();
    let backtrace =
        (backtrace.status() == BacktraceStatus::Captured).then(|| backtrace.to_string());
    log!(
        error,
        panic,
        thread,
        place,
        error = text.unwrap_or("no message"),
        backtrace,
        "panicked"
    );
}
