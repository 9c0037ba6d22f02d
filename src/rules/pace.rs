//! The pace of a listener with a rate limit: when its next run may begin.
//!
//! Pure: moments are nanoseconds of the caller's clock. Runs are spread evenly over the time, one each `interval`, as
//! by the generic cell rate algorithm. The state is one number, the moment at which the next run is *due*. A run may
//! begin a little before that, so that a worker that wakes late keeps the rate.

use std::time::Duration;

use crate::config::RateLimit;

/// A run may begin before it is due by this part of the limit's time. So many runs more than the limit allows may
/// begin in a row, after a time without runs.
const SLACK: u32 = 20;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Pace {
    interval: u64,
    slack: u64,
}

/// What may begin now, and when one run more may.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Look {
    pub(crate) free: u64,
    pub(crate) next: u64,
}

impl Pace {
    pub(crate) fn new(limit: RateLimit) -> Self {
        let nanos = |time: Duration| u64::try_from(time.as_nanos()).unwrap_or(u64::MAX);
        Self {
            interval: (nanos(limit.per) / limit.messages.max(1)).max(1),
            slack: nanos(limit.per / SLACK),
        }
    }

    /// A run begins: the moment at which the next one is due. Else the moment at which it may begin.
    pub(crate) fn take(self, due: u64, now: u64) -> Result<u64, u64> {
        let due = due.max(now);
        if due > now.saturating_add(self.slack) {
            return Err(due - self.slack);
        }
        Ok(due.saturating_add(self.interval))
    }

    /// The same for so many runs at once, which begin with the first.
    pub(crate) fn take_many(self, due: u64, now: u64, runs: u64) -> Result<u64, u64> {
        let next = self.take(due, now)?;
        let others = self.interval.saturating_mul(runs.saturating_sub(1));
        Ok(next.saturating_add(others))
    }

    pub(crate) fn look(self, due: u64, now: u64) -> Look {
        let due = due.max(now);
        let latest = now.saturating_add(self.slack);
        let free = match latest.checked_sub(due) {
            Some(early) => early / self.interval + 1,
            None => 0,
        };
        Look {
            free,
            next: due
                .saturating_add(free.saturating_mul(self.interval))
                .saturating_sub(self.slack),
        }
    }

    /// The latest moment at which a run can be due at this pace. Under a slower one it was due later.
    pub(crate) fn latest_due(self, now: u64) -> u64 {
        now.saturating_add(self.slack).saturating_add(self.interval)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MS: u64 = 1_000_000;

    fn pace(messages: u64, per_ms: u64) -> Pace {
        Pace::new(RateLimit {
            messages,
            per: Duration::from_millis(per_ms),
        })
    }

    /// How many runs begin until `end`, where each attempt is late by what `lateness` says.
    fn runs(pace: Pace, end: u64, mut lateness: impl FnMut() -> u64) -> Vec<u64> {
        let (mut due, mut now) = (0, 0);
        let mut began = Vec::new();
        while now < end {
            match pace.take(due, now) {
                Ok(next) => {
                    began.push(now);
                    due = next;
                }
                Err(at) => now = at + lateness(),
            }
        }
        began
    }

    #[test]
    fn runs_are_spread_evenly_over_the_time() {
        let began = runs(pace(100, 1_000), 10_000 * MS, || 0);
        assert_eq!(began.len(), 1_000 + 5);
        let first: Vec<u64> = began.iter().take(8).map(|at| at / MS).collect();
        assert_eq!(first, [0, 0, 0, 0, 0, 0, 10, 20]);
    }

    #[test]
    fn a_worker_that_wakes_late_keeps_the_rate() {
        let mut chance = fastrand::Rng::with_seed(7);
        let began = runs(pace(1_000, 1_000), 10_000 * MS, || chance.u64(0..40 * MS));
        assert!((9_950..=10_051).contains(&began.len()), "{}", began.len());
    }

    #[test]
    fn a_time_without_runs_is_not_caught_up() {
        let pace = pace(100, 1_000);
        let now = 3_600_000 * MS;
        assert_eq!(pace.look(0, now).free, 6);
        assert_eq!(pace.look(0, now).next, now + 10 * MS);
    }

    #[test]
    fn a_slow_pace_has_one_run_at_a_time() {
        let pace = pace(1, 60_000);
        let due = pace.take(0, 0).unwrap();
        assert_eq!(due, 60_000 * MS);
        assert_eq!(pace.take(due, MS), Err(57_000 * MS));
        assert_eq!(
            pace.look(due, MS),
            Look {
                free: 0,
                next: 57_000 * MS
            }
        );
    }

    #[test]
    fn a_faster_pace_does_not_wait_for_what_a_slower_one_owes() {
        let (slow, fast) = (pace(1, 3_600_000), pace(100, 1_000));
        let due = slow.take(0, 0).unwrap().min(fast.latest_due(MS));
        assert_eq!(fast.take(due, MS), Err(11 * MS));
    }

    proptest! {
        /// In no window more than the limit and the twentieth that may come early.
        #[test]
        fn no_window_has_more_than_the_limit(
            messages in 1..500_u64,
            per_ms in 10..5_000_u64,
            seed in any::<u64>(),
        ) {
            let pace = pace(messages, per_ms);
            let mut chance = fastrand::Rng::with_seed(seed);
            let began = runs(pace, 10 * per_ms * MS, || chance.u64(0..per_ms * MS / 10));
            let most = messages + messages / u64::from(SLACK) + 2;
            for (index, first) in began.iter().enumerate() {
                let within = began[index..].iter().take_while(|at| **at < first + per_ms * MS);
                prop_assert!(within.count() as u64 <= most);
            }
        }

        /// `look` and `take` agree.
        #[test]
        fn as_many_runs_begin_as_are_free(messages in 1..500_u64, due in 0..2_000_u64, now in 0..2_000_u64) {
            let pace = pace(messages, 1_000);
            let (mut due, now) = (due * MS, now * MS);
            let look = pace.look(due, now);
            for _ in 0..look.free {
                due = pace.take(due, now).unwrap();
            }
            prop_assert_eq!(pace.take(due, now), Err(look.next));
        }
    }
}
