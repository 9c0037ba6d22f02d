//! The counts of a worker's listeners, and the times of their calls.
//!
//! A look at the clock costs as much as a trivial call, so calls are timed in groups: each call between two looks
//! counts with the mean. **A group is one call as soon as calls are slow.** A call that holds the VM for long, or
//! waits, is timed by itself; so the times that matter are exact. The counts are plain numbers of one thread, without
//! an allocation per call.

use std::time::{Duration, Instant};

use crate::lua::FailureKind;
use crate::telemetry::metrics::{ListenerCounts, Outcome};

use super::LOOK_EVERY;

/// Calls of this length are worth a look at the clock each.
const WORTH_A_LOOK: Duration = Duration::from_micros(20);

pub(super) struct Meter {
    /// By the listener's index in the config.
    listeners: Vec<One>,
    /// The listeners with a run in the present group.
    touched: Vec<usize>,
    /// The ended runs of the present group.
    runs: u32,
    began: Instant,
    /// The number of runs until the next look.
    every: usize,
    /// How long the run that is about to end has held the VM, if that was long.
    slow: Option<Duration>,
}

struct One {
    name: String,
    counts: ListenerCounts,
    is_touched: bool,
    /// In the present group: ended runs, and first runs of messages that were taken at `taken`.
    runs: u64,
    first: u64,
    taken: Option<Instant>,
}

impl Meter {
    pub(super) fn new<'a>(names: impl Iterator<Item = &'a str>, now: Instant) -> Self {
        let mut meter = Self {
            listeners: Vec::new(),
            touched: Vec::new(),
            runs: 0,
            began: now,
            every: 1,
            slow: None,
        };
        meter.set_listeners(names);
        meter
    }

    /// Sets the listeners of a bundle, in the order of its config. A listener in both bundles keeps its counts. Not
    /// within a group.
    pub(super) fn set_listeners<'a>(&mut self, names: impl Iterator<Item = &'a str>) {
        let mut old = std::mem::take(&mut self.listeners);
        self.touched.clear();
        for name in names {
            let known = old.iter().position(|one| one.name == name);
            let one = known.map_or_else(|| One::new(name), |at| old.swap_remove(at));
            self.listeners.push(one);
        }
    }

    /// A group begins.
    pub(super) fn begin(&mut self, now: Instant) {
        self.began = now;
    }

    /// The number of runs until the next look.
    pub(super) fn every(&self) -> usize {
        self.every
    }

    /// Whether the last calls were slow enough to be timed one by one.
    pub(super) fn is_slow(&self) -> bool {
        self.every == 1
    }

    /// Whether runs wait for a look.
    pub(super) fn is_open(&self) -> bool {
        !self.touched.is_empty()
    }

    /// A message has its first run, or is about to have it.
    pub(super) fn first(&mut self, listener: usize, taken: Option<Instant>) {
        let began = self.began;
        if let Some(one) = self.touch(listener) {
            one.begin(taken, began);
        }
    }

    /// A message is done at its first run: counts its begin, its run and its outcome.
    pub(super) fn done(&mut self, listener: usize, taken: Option<Instant>) {
        if self.slow.is_some() {
            self.first(listener, taken);
            self.ran(listener);
            self.outcome(listener, Outcome::Done);
            return;
        }
        let began = self.began;
        if let Some(one) = self.touch(listener) {
            one.begin(taken, began);
            one.runs += 1;
            one.counts.outcomes.add(Outcome::Done);
            self.runs += 1;
        }
    }

    /// A run without a wait has ended.
    pub(super) fn ran(&mut self, listener: usize) {
        if let Some(held) = self.slow.take() {
            // Timed by itself, and left out of the group's time.
            self.waited(listener, held);
            self.began += held;
            return;
        }
        if let Some(one) = self.touch(listener) {
            one.runs += 1;
            self.runs += 1;
        }
    }

    /// The run that is about to end has held the VM for this long.
    pub(super) fn held(&mut self, held: Duration) {
        self.slow = Some(held);
    }

    /// A run begins to wait. Returns when it began, as far as that is known.
    pub(super) fn suspended(&mut self, now: Instant) -> Instant {
        self.slow = None;
        let mean = now.saturating_duration_since(self.began) / (self.runs + 1);
        self.close(mean, now);
        now.checked_sub(mean).unwrap_or(now)
    }

    /// A run with a wait has ended.
    pub(super) fn waited(&mut self, listener: usize, took: Duration) {
        if let Some(one) = self.listeners.get_mut(listener) {
            one.counts.run.record(took);
        }
    }

    /// A look at the clock: the group ends, and another begins.
    pub(super) fn look(&mut self, now: Instant) {
        let mean = now.saturating_duration_since(self.began) / self.runs.max(1);
        self.close(mean, now);
    }

    fn close(&mut self, mean: Duration, now: Instant) {
        for index in self.touched.drain(..) {
            let one = &mut self.listeners[index];
            one.counts.run.record_many(mean, one.runs);
            one.flush_first(self.began);
            (one.runs, one.is_touched) = (0, false);
        }
        self.every = if mean < WORTH_A_LOOK { LOOK_EVERY } else { 1 };
        self.runs = 0;
        self.began = now;
    }

    pub(super) fn failed(&mut self, listener: usize, kind: FailureKind) {
        if let Some(one) = self.listeners.get_mut(listener) {
            one.counts.failures += 1;
            let kills = &mut one.counts.limit_kills;
            match kind {
                FailureKind::Blocking => kills.blocking += 1,
                FailureKind::Timeout => kills.timeout += 1,
                FailureKind::Memory => kills.memory += 1,
                _ => {}
            }
        }
    }

    pub(super) fn retried(&mut self, listener: usize) {
        if let Some(one) = self.listeners.get_mut(listener) {
            one.counts.retries += 1;
        }
    }

    /// A message has its outcome in this listener.
    pub(super) fn outcome(&mut self, listener: usize, outcome: Outcome) {
        if let Some(one) = self.listeners.get_mut(listener) {
            one.counts.outcomes.add(outcome);
        }
    }

    pub(super) fn index_of(&self, name: &str) -> Option<usize> {
        self.listeners.iter().position(|one| one.name == name)
    }

    pub(super) fn counts(&self) -> impl Iterator<Item = (&str, &ListenerCounts)> {
        let listeners = self.listeners.iter();
        listeners.map(|one| (one.name.as_str(), &one.counts))
    }

    fn touch(&mut self, listener: usize) -> Option<&mut One> {
        let one = self.listeners.get_mut(listener)?;
        if !one.is_touched {
            one.is_touched = true;
            self.touched.push(listener);
        }
        Some(one)
    }
}

impl One {
    fn new(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            counts: ListenerCounts::default(),
            is_touched: false,
            runs: 0,
            first: 0,
            taken: None,
        }
    }

    /// The first run of a message that was taken at `taken`.
    fn begin(&mut self, taken: Option<Instant>, began: Instant) {
        if self.taken != taken {
            self.flush_first(began);
            self.taken = taken;
        }
        self.first += 1;
    }

    /// For the waiting time, first runs of a group count as begun when the group did.
    fn flush_first(&mut self, began: Instant) {
        if let (Some(taken), true) = (self.taken, self.first > 0) {
            let waited = began.saturating_duration_since(taken);
            self.counts.wait.record_many(waited, self.first);
        }
        self.first = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn meter() -> (Meter, Instant) {
        let start = Instant::now();
        let mut meter = Meter::new(["a", "b"].into_iter(), start);
        meter.begin(start);
        (meter, start)
    }

    /// Runs, and their seconds.
    fn run(meter: &Meter, listener: usize) -> (u64, f64) {
        let run = &meter.listeners[listener].counts.run;
        (run.count(), run.sum_seconds())
    }

    #[track_caller]
    fn check((count, seconds): (u64, f64), expected: (u64, f64)) {
        assert_eq!(count, expected.0);
        assert!((seconds - expected.1).abs() < 1e-9, "{seconds}");
    }

    #[test]
    fn the_runs_of_a_group_count_with_their_mean() {
        let (mut meter, start) = meter();
        for listener in [0, 0, 1, 0] {
            meter.ran(listener);
        }
        meter.look(start + 8 * MS);
        check(run(&meter, 0), (3, 0.006));
        check(run(&meter, 1), (1, 0.002));
        assert!(!meter.is_open());
    }

    #[test]
    fn slow_runs_are_timed_one_by_one_and_fast_ones_in_groups() {
        let (mut meter, start) = meter();
        meter.ran(0);
        meter.look(start + MS);
        assert_eq!(meter.every(), 1);
        meter.ran(0);
        meter.look(start + MS + Duration::from_micros(1));
        assert_eq!(meter.every(), LOOK_EVERY);
    }

    #[test]
    fn a_run_that_waits_is_timed_from_its_own_start() {
        let (mut meter, start) = meter();
        meter.ran(0);
        let began = meter.suspended(start + 4 * MS);
        assert_eq!(began, start + 2 * MS);
        meter.waited(1, 50 * MS);
        meter.look(start + 4 * MS);
        check(run(&meter, 0), (1, 0.002));
        check(run(&meter, 1), (1, 0.050));
    }

    #[test]
    fn messages_wait_from_the_moment_at_which_their_batch_was_taken() {
        let (mut meter, start) = meter();
        meter.begin(start + 9 * MS);
        for taken in [start, start, start + 4 * MS] {
            meter.first(0, Some(taken));
            meter.ran(0);
        }
        meter.look(start + 12 * MS);
        let wait = &meter.listeners[0].counts.wait;
        check((wait.count(), wait.sum_seconds()), (3, 0.023));
    }

    #[test]
    fn what_is_done_at_its_first_run_counts_as_what_runs_and_ends_by_steps() {
        for held in [None, Some(2 * MS)] {
            let counts = [true, false].map(|at_once| {
                let (mut meter, start) = meter();
                for taken in [Some(start), Some(start + MS), None] {
                    if !at_once {
                        meter.first(0, taken);
                    }
                    held.inspect(|held| meter.held(*held));
                    if at_once {
                        meter.done(0, taken);
                    } else {
                        meter.ran(0);
                        meter.outcome(0, Outcome::Done);
                    }
                }
                meter.look(start + 12 * MS);
                let counts = &meter.listeners[0].counts;
                format!("{:?} {:?} {:?}", counts.run, counts.wait, counts.outcomes)
            });
            assert_eq!(counts[0], counts[1]);
        }
    }

    #[test]
    fn a_listener_that_stays_keeps_its_counts_and_one_that_comes_begins_at_nothing() {
        let (mut meter, start) = meter();
        meter.ran(1);
        meter.failed(1, FailureKind::Timeout);
        meter.look(start + MS);
        meter.set_listeners(["b", "c"].into_iter());
        check(run(&meter, 0), (1, 0.001));
        check(run(&meter, 1), (0, 0.0));
        let counts: Vec<_> = meter.counts().collect();
        assert_eq!(counts[0].0, "b");
        assert_eq!(
            (counts[0].1.failures, counts[0].1.limit_kills.timeout),
            (1, 1)
        );
    }
}
