//! How often a line may appear: so many in a window, the rest is counted.
//!
//! Pure: the clock is the caller's. The count is never forgotten: the caller asks for it about once a second and tells
//! it at the end of the window, unless the first line of the next window came before and carries it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

/// Lines of one kind. The first `burst` of a window appear, the others are left out.
#[derive(Clone, Debug)]
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
        if self.is_over(now) {
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

    /// The lines left out that were not told, though the window may go on.
    pub(crate) fn rest(&mut self) -> Option<u64> {
        let left_out = std::mem::take(&mut self.left_out);
        (left_out > 0).then_some(left_out)
    }

    fn is_over(&self, now: Instant) -> bool {
        self.began
            .is_none_or(|began| now.saturating_duration_since(began) >= self.window)
    }
}

/// A limit for each kind of line.
#[derive(Clone, Debug)]
pub(crate) struct RateLimits {
    each: RateLimit,
    kinds_max: usize,
    kinds: HashMap<String, RateLimit>,
}

impl RateLimits {
    /// Beyond `kinds_max` kinds in a window, all further ones share the limit of the kind without a name.
    pub(crate) fn new(burst: u32, window: Duration, kinds_max: usize) -> Self {
        Self {
            each: RateLimit::new(burst, window),
            kinds_max,
            kinds: HashMap::new(),
        }
    }

    /// As [`RateLimit::allow`].
    pub(crate) fn allow(&mut self, kind: &str, now: Instant) -> Option<u64> {
        let is_known = self.kinds.contains_key(kind) || self.kinds.len() < self.kinds_max;
        let kind = if is_known { kind } else { "" };
        if let Some(limit) = self.kinds.get_mut(kind) {
            return limit.allow(now);
        }
        let limit = self.kinds.entry(kind.to_owned());
        limit.or_insert_with(|| self.each.clone()).allow(now)
    }

    /// The lines left out in windows that have ended, once, by kind. These kinds are forgotten.
    pub(crate) fn ended(&mut self, now: Instant) -> Vec<(String, u64)> {
        let over = self.kinds.extract_if(|_, limit| limit.is_over(now));
        over.filter_map(|(kind, mut limit)| Some((kind, limit.rest()?)))
            .collect()
    }

    /// As [`RateLimit::rest`], for each kind.
    pub(crate) fn rest(&mut self) -> Vec<(String, u64)> {
        let kinds = self.kinds.drain();
        kinds
            .filter_map(|(kind, mut limit)| Some((kind, limit.rest()?)))
            .collect()
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

    #[test]
    fn the_count_is_there_at_the_end_of_the_window_without_a_further_line() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut limits = RateLimits::new(10, Duration::from_secs(10), 100);
        for _ in 0..100 {
            limits.allow("a", start);
        }
        assert_eq!(limits.ended(at(9)), []);
        assert_eq!(limits.ended(at(10)), [("a".to_owned(), 90)]);
        assert_eq!(limits.ended(at(11)), [], "once");
        assert_eq!(limits.allow("a", at(35)), Some(0));
    }

    #[test]
    fn the_end_of_the_log_does_not_wait_for_the_end_of_the_window() {
        let start = Instant::now();
        let mut limit = RateLimit::new(1, Duration::from_secs(10));
        limit.allow(start);
        assert_eq!(limit.rest(), None);
        limit.allow(start);
        assert_eq!(limit.rest(), Some(1));
        assert_eq!(limit.rest(), None);
    }

    #[test]
    fn each_kind_has_a_limit_of_its_own_and_is_forgotten_after_its_window() {
        let start = Instant::now();
        let mut limits = RateLimits::new(1, Duration::from_secs(10), 100);
        for _ in 0..3 {
            limits.allow("a", start);
        }
        assert_eq!(limits.allow("b", start), Some(0));
        let later = start + Duration::from_secs(10);
        assert_eq!(limits.ended(start), []);
        assert_eq!(limits.ended(later), [("a".to_owned(), 2)]);
        assert_eq!(limits.kinds.len(), 0);
    }

    #[test]
    fn endless_kinds_take_no_endless_memory() {
        let now = Instant::now();
        let mut limits = RateLimits::new(1, Duration::from_secs(10), 10);
        for number in 0..100 {
            limits.allow(&number.to_string(), now);
        }
        assert!(limits.kinds.len() <= 11);
        assert_eq!(limits.rest(), [(String::new(), 89)]);
    }
}
