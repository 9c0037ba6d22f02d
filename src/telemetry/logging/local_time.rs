//! The time of day in the reader's time zone: `12:45:10`.
#![expect(unsafe_code, reason = "localtime_r(3) knows the reader's time zone")]

use std::fmt;

use tracing_subscriber::fmt::format::Writer;
use tracing_subscriber::fmt::time::FormatTime;

pub(super) struct LocalTime;

impl FormatTime for LocalTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> fmt::Result {
        let mut parts = std::mem::MaybeUninit::<libc::tm>::zeroed();
        // SAFETY: time(2) takes a null pointer; localtime_r fills the room that it is given, or leaves the zeros, which
        // are a valid tm.
        let parts = unsafe {
            let now = libc::time(std::ptr::null_mut());
            libc::localtime_r(&raw const now, parts.as_mut_ptr());
            parts.assume_init()
        };
        write!(
            writer,
            "{:02}:{:02}:{:02}",
            parts.tm_hour, parts.tm_min, parts.tm_sec
        )
    }
}
