//! The time for which a thread was ready to run and got no CPU, as Linux counts it (`/proc/self/task/*/schedstat`).

use std::fs;
use std::time::Duration;

/// The time that the thread has spent on the run queue so far; none where the kernel does not count it.
pub(super) fn waited(thread: libc::pid_t) -> Option<Duration> {
    parsed(&fs::read_to_string(format!("/proc/self/task/{thread}/schedstat")).ok()?)
}

/// The second number: nanoseconds on the run queue. The first are those on a CPU, the third the time slices.
fn parsed(text: &str) -> Option<Duration> {
    let waited = text.split_ascii_whitespace().nth(1)?;
    waited.parse().ok().map(Duration::from_nanos)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_number_is_the_time_on_the_run_queue() {
        assert_eq!(
            parsed("60321945 1154653 12\n"),
            Some(Duration::from_nanos(1_154_653))
        );
        assert_eq!(parsed(""), None);
        assert_eq!(parsed("1 much 3"), None);
    }
}
