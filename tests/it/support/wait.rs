//! Waiting for a condition, never for a while.

use std::time::{Duration, Instant};

/// Long enough for a join, a rebalance or a restart of a broker on a busy machine.
pub(crate) const DEADLINE: Duration = Duration::from_secs(45);

const INTERVAL: Duration = Duration::from_millis(25);

/// Asks until there is an answer; what it waited for stands in the panic.
#[track_caller]
pub(crate) fn wait_some<T>(
    what: &str,
    deadline: Duration,
    mut ask: impl FnMut() -> Option<T>,
) -> T {
    let started = Instant::now();
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(
            started.elapsed() < deadline,
            "waited {deadline:?} in vain: {what}"
        );
        std::thread::sleep(INTERVAL);
    }
}

#[track_caller]
pub(crate) fn wait_for(what: &str, deadline: Duration, mut condition: impl FnMut() -> bool) {
    wait_some(what, deadline, || condition().then_some(()));
}

/// For what must not happen: there is no event to wait for, so the time must simply pass.
#[track_caller]
pub(crate) fn stays(what: &str, duration: Duration, mut condition: impl FnMut() -> bool) {
    let started = Instant::now();
    while started.elapsed() < duration {
        assert!(condition(), "no longer so: {what}");
        std::thread::sleep(INTERVAL);
    }
}
