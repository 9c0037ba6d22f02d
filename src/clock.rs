//! The clock that is passed in: the system's, or a virtual one that stands still until it is set.
//!
//! Kafka and the status use the time of day as milliseconds since the epoch. Mailboxes and the watchdog always use
//! the system's clock, since they wait for other threads. So do the functions of init.lua.

#![expect(
    unsafe_code,
    reason = "a coarse clock, which the standard library does not have"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Clones of a virtual clock show the same time.
#[derive(Clone, Debug, Default)]
pub(crate) enum Clock {
    #[default]
    System,
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "tests set the time; the daemon does not")
    )]
    Virtual(Arc<Virtual>),
}

/// A clock that moves only when it is set.
#[derive(Debug)]
pub(crate) struct Virtual {
    began: Instant,
    began_ms: i64,
    elapsed_ns: AtomicU64,
}

impl Clock {
    #[inline]
    pub(crate) fn now(&self) -> Instant {
        match self {
            Self::System => Instant::now(),
            Self::Virtual(clock) => clock.began + clock.elapsed(),
        }
    }

    /// The time since an earlier moment of this clock.
    #[inline]
    pub(crate) fn since(&self, earlier: Instant) -> Duration {
        self.now().saturating_duration_since(earlier)
    }

    /// The time of day.
    #[inline]
    pub(crate) fn wall_ms(&self) -> i64 {
        match self {
            Self::System => now_ms(),
            Self::Virtual(clock) => clock.wall_ms(),
        }
    }

    /// The time of day, for the cost of a read of memory, and coarse by a few milliseconds.
    #[inline]
    pub(crate) fn coarse_wall_ms(&self) -> i64 {
        match self {
            Self::System => coarse_now_ms(),
            Self::Virtual(clock) => clock.wall_ms(),
        }
    }
}

impl Virtual {
    fn elapsed(&self) -> Duration {
        Duration::from_nanos(self.elapsed_ns.load(Ordering::Relaxed))
    }

    fn wall_ms(&self) -> i64 {
        self.began_ms + self.elapsed().as_millis() as i64
    }
}

#[cfg(test)]
impl Virtual {
    /// A clock that shows this time of day.
    pub(crate) fn at_ms(began_ms: i64) -> Arc<Self> {
        Arc::new(Self {
            began: Instant::now(),
            began_ms,
            elapsed_ns: AtomicU64::new(0),
        })
    }

    /// Moves forward to this moment, never back.
    pub(crate) fn advance_to(&self, at: Instant) {
        let elapsed = at.saturating_duration_since(self.began);
        let ns = u64::try_from(elapsed.as_nanos()).unwrap_or(u64::MAX);
        self.elapsed_ns.fetch_max(ns, Ordering::Relaxed);
    }
}

/// The time of day by the system's clock. A clock before the epoch counts as the epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}

fn coarse_now_ms() -> i64 {
    let mut now = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: the structure is a local variable; a system that lacks this clock leaves it as it is.
    unsafe { libc::clock_gettime(libc::CLOCK_REALTIME_COARSE, &raw mut now) };
    now.tv_sec * 1_000 + now.tv_nsec / 1_000_000
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtual_clock_stands_still_until_it_is_told_to_move() {
        let virtual_clock = Virtual::at_ms(1_700_000_000_000);
        let clock = Clock::Virtual(virtual_clock.clone());
        let start = clock.now();
        assert_eq!(clock.since(start), Duration::ZERO);
        virtual_clock.advance_to(start + Duration::from_secs(3600));
        assert_eq!(clock.since(start), Duration::from_secs(3600));
        assert_eq!(clock.wall_ms(), 1_700_003_600_000);
        assert_eq!(clock.coarse_wall_ms(), clock.wall_ms());
        virtual_clock.advance_to(start);
        assert_eq!(clock.since(start), Duration::from_secs(3600), "never back");
    }

    #[test]
    fn the_coarse_time_of_day_lies_near_the_exact_one() {
        let clock = Clock::System;
        assert!((clock.wall_ms() - clock.coarse_wall_ms()).abs() < 1_000);
    }
}
