//! Durations in fixed buckets, counted without a lock.
//!
//! The bounds are powers of two of 50 µs. So a quantile read from them is wrong by less than a factor of two, between
//! a trivial handler and one that takes minutes. **They never change while the process runs**: histograms of several
//! workers are added bucket by bucket.

use std::time::Duration;

const FIRST_US: u64 = 50;
/// 50 µs, 100 µs … to a bit less than two minutes; longer durations are above the last bound.
pub(crate) const BOUNDS: usize = 22;

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Histogram {
    /// Counts by the first bound that is not exceeded; the last count is above all bounds.
    counts: [u64; BOUNDS + 1],
    sum_ns: u128,
}

impl Histogram {
    pub(crate) fn record(&mut self, duration: Duration) {
        self.record_many(duration, 1);
    }

    /// Records `count` durations of this length: for a group that was timed as a whole, the mean.
    pub(crate) fn record_many(&mut self, each: Duration, count: u64) {
        self.counts[bucket(each)] += count;
        self.sum_ns += each.as_nanos() * u128::from(count);
    }

    pub(crate) fn merge(&mut self, other: &Self) {
        for (count, more) in self.counts.iter_mut().zip(other.counts) {
            *count += more;
        }
        self.sum_ns += other.sum_ns;
    }

    pub(crate) fn count(&self) -> u64 {
        self.counts.iter().sum()
    }

    pub(crate) fn sum_seconds(&self) -> f64 {
        self.sum_ns as f64 / 1e9
    }

    /// Each bound in seconds with the count of its own bucket, not cumulative; the last bound is infinite.
    pub(crate) fn buckets(&self) -> impl Iterator<Item = (f64, u64)> {
        self.counts
            .iter()
            .enumerate()
            .map(|(index, count)| (bound_seconds(index), *count))
    }
}

/// The upper bound of a bucket.
pub(crate) fn bound_seconds(index: usize) -> f64 {
    if index >= BOUNDS {
        f64::INFINITY
    } else {
        (FIRST_US << index) as f64 / 1e6
    }
}

fn bucket(duration: Duration) -> usize {
    let us = duration.as_nanos().div_ceil(1000);
    let steps = us.div_ceil(u128::from(FIRST_US)).max(1);
    // The smallest n with steps <= 2^n.
    let index = u128::BITS - (steps - 1).leading_zeros();
    (index as usize).min(BOUNDS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(duration: Duration, expected: usize) {
        assert_eq!(bucket(duration), expected, "{duration:?}");
        let seconds = duration.as_secs_f64();
        assert!(seconds <= bound_seconds(expected));
        assert!(expected == 0 || seconds > bound_seconds(expected - 1));
    }

    #[test]
    fn a_duration_falls_into_the_first_bucket_that_holds_it() {
        check(Duration::ZERO, 0);
        check(Duration::from_nanos(1), 0);
        check(Duration::from_micros(50), 0);
        check(Duration::from_nanos(50_001), 1);
        check(Duration::from_micros(100), 1);
        check(Duration::from_micros(101), 2);
        check(Duration::from_secs(100), 21);
        check(Duration::from_secs(1_000_000), BOUNDS);
    }

    #[test]
    fn the_bounds_double_from_fifty_microseconds_to_minutes() {
        assert!((bound_seconds(0) - 0.000_05).abs() < f64::EPSILON);
        assert!((bound_seconds(BOUNDS - 1) - 104.8576).abs() < 1e-9);
    }

    #[test]
    fn a_group_counts_as_often_as_it_has_members() {
        let mut one = Histogram::default();
        one.record_many(Duration::from_millis(2), 8);
        one.record(Duration::from_millis(4));
        assert_eq!(one.count(), 9);
        assert!((one.sum_seconds() - 0.020).abs() < 1e-9);
    }

    #[test]
    fn histograms_add_up_bucket_by_bucket() {
        let (mut one, mut other) = (Histogram::default(), Histogram::default());
        one.record(Duration::from_micros(10));
        other.record(Duration::from_micros(10));
        other.record(Duration::from_secs(1));
        one.merge(&other);
        assert_eq!(one.count(), 3);
        let filled: Vec<u64> = one
            .buckets()
            .map(|(_, count)| count)
            .filter(|count| *count > 0)
            .collect();
        assert_eq!(filled, [2, 1]);
    }
}
