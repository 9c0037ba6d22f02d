//! How often a line may appear: so many in a window, the rest is counted.
//!
//! Pure: the clock is the caller's. What was left out is never forgotten; the next line that may appear carries the
//! count.

use std::time::{Duration, Instant};

/// Lines of one kind. The first `burst` of a window appear, the others are left out.
#[derive(Debug)]
pub(crate) struct RateLimit {
    burst: u32,
    window: Duration,
    began: Option<Instant>,
    shown: u32,
    left_out: u64,
}

impl RateLimit {
    pub(crate) fn new(burst: u32, window: Duration) -> Self {
        Self {
            burst,
            window,
            began: None,
            shown: 0,
            left_out: 0,
        }
    }

    /// `Some(n)`: the line may appear, and `n` were left out since the last one. `None`: it is left out itself.
    pub(crate) fn allow(&mut self, now: Instant) -> Option<u64> {
        let over = self
            .began
            .is_none_or(|began| now.saturating_duration_since(began) >= self.window);
        if over {
            self.began = Some(now);
            self.shown = 0;
        }
        if self.shown >= self.burst {
            self.left_out += 1;
            return None;
        }
        self.shown += 1;
        Some(std::mem::take(&mut self.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Each step: milliseconds since the start, and what is expected of a line at that time.
    #[track_caller]
    fn check(burst: u32, steps: &[(u64, Option<u64>)]) {
        let start = Instant::now();
        let mut limit = RateLimit::new(burst, Duration::from_secs(10));
        for (step, &(at_ms, expected)) in steps.iter().enumerate() {
            let found = limit.allow(start + Duration::from_millis(at_ms));
            assert_eq!(found, expected, "step {step}, at {at_ms} ms");
        }
    }

    #[test]
    fn a_burst_appears_and_the_rest_of_the_window_is_left_out() {
        check(2, &[(0, Some(0)), (1, Some(0)), (2, None), (9_999, None)]);
    }

    #[test]
    fn the_first_line_of_the_next_window_tells_how_many_were_left_out() {
        check(
            1,
            &[
                (0, Some(0)),
                (1, None),
                (2, None),
                (10_000, Some(2)),
                (10_001, None),
                (20_000, Some(1)),
            ],
        );
    }

    #[test]
    fn a_window_begins_with_its_first_line() {
        check(
            1,
            &[
                (0, Some(0)),
                (15_000, Some(0)),
                (20_000, None),
                (25_000, Some(1)),
            ],
        );
    }

    #[test]
    fn a_clock_that_stands_still_opens_no_window() {
        check(1, &[(5, Some(0)), (5, None), (5, None)]);
    }
}
