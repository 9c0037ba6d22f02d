//! The timers of handlers: which worker runs the next tick of each, and when.
//!
//! A timer is a function that a bundle declares once in each of its VMs. One of the process ticks once a period, in
//! whichever worker takes the tick first. One of a worker ticks once a period in that worker. A schedule outlives
//! VMs and bundles: a timer that the next bundle declares again goes on with its period.
//!
//! A tick that is due while the one before still runs is missed, and so is every further period that has passed.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

/// The identity of a timer: the same in every VM of a bundle, and in the next bundle unless one of these changes.
///
/// The line is no part of it: an edit above a timer must not begin its period anew.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Timer {
    /// The file that declares it.
    pub(crate) file: String,
    pub(crate) kind: Kind,
    /// Its period, or the wait before its only tick.
    pub(crate) duration: Duration,
    pub(crate) each: Each,
    /// Its number among the timers of the VM that are otherwise equal.
    pub(crate) ordinal: usize,
}

impl Timer {
    /// Whether the two are equal but for their number.
    pub(crate) fn is_like(&self, other: &Self) -> bool {
        let rest = |one: &Self| (one.kind, one.duration, one.each);
        rest(self) == rest(other) && self.file == other.file
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Kind {
    /// `tide.every`: a tick in each period.
    Every,
    /// `tide.after`: one tick.
    After,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Each {
    Process,
    Worker,
}

/// The answer to a worker that may run a tick now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Due {
    /// The worker runs the tick, and says when it has ended. So many ticks before it are missed.
    Run { missed: u64 },
    /// The last tick still runs: so many are missed.
    Missed(u64),
    /// Nothing is due for this worker.
    Not,
}

/// The pause before another look at a tick that waits for the one before.
const AGAIN: Duration = Duration::from_millis(100);

/// The timers of the process and those of each worker.
#[derive(Debug, Default)]
pub(crate) struct Timers {
    process: Schedule,
    /// By index.
    workers: BTreeMap<usize, Schedule>,
}

/// A worker, and the bundle of the VM that it runs ticks in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct By {
    pub(crate) worker: usize,
    pub(crate) bundle: u64,
}

impl Timers {
    /// A worker has the VM of this bundle in force, which has declared these timers.
    ///
    /// The first worker that follows takes the timers of the process over for its bundle. From then on workers with
    /// an older bundle run none of their ticks: two bundles never have the same tick.
    pub(crate) fn follow(&mut self, by: By, timers: &[Timer], now: Instant) {
        let of = |each| timers.iter().filter(move |timer| timer.each == each);
        self.process.follow(by.bundle, of(Each::Process), now);
        let own = self.workers.entry(by.worker).or_default();
        own.follow(by.bundle, of(Each::Worker), now);
    }

    /// Takes the tick of a timer, if it is due.
    pub(crate) fn take(&mut self, by: By, timer: &Timer, now: Instant) -> Due {
        self.of(by, timer)
            .map_or(Due::Not, |schedule| schedule.take(by.bundle, timer, now))
    }

    /// When the next tick is due that this worker may take.
    pub(crate) fn next(&mut self, by: By, timer: &Timer) -> Option<Instant> {
        self.of(by, timer)?.next(by.bundle, timer)
    }

    /// The tick that this worker took has ended, in whatever way.
    pub(crate) fn ended(&mut self, by: By, timer: &Timer) {
        if let Some(schedule) = self.of(by, timer) {
            schedule.ended(timer);
        }
    }

    /// No further tick begins, as long as this bundle is in force.
    pub(crate) fn cancel(&mut self, by: By, timer: &Timer) {
        if let Some(schedule) = self.of(by, timer) {
            schedule.cancel(by.bundle, timer);
        }
    }

    fn of(&mut self, by: By, timer: &Timer) -> Option<&mut Schedule> {
        match timer.each {
            Each::Process => Some(&mut self.process),
            Each::Worker => self.workers.get_mut(&by.worker),
        }
    }
}

#[derive(Debug, Default)]
struct Schedule {
    /// The bundle whose ticks run.
    bundle: u64,
    timers: HashMap<Timer, State>,
}

#[derive(Debug)]
struct State {
    /// The last bundle that declared it.
    bundle: u64,
    /// `None` after the only tick, or a cancel.
    next: Option<Instant>,
    is_cancelled: bool,
    runs: bool,
}

impl Schedule {
    fn follow<'t>(&mut self, bundle: u64, timers: impl Iterator<Item = &'t Timer>, now: Instant) {
        if bundle < self.bundle {
            return;
        }
        if bundle > self.bundle {
            // What the bundle before did not declare either is forgotten: declared again, it begins anew.
            let before = self.bundle;
            self.timers.retain(|_, state| state.bundle == before);
            self.bundle = bundle;
        }
        for timer in timers {
            let state = self.timers.entry(timer.clone()).or_insert_with(|| State {
                bundle,
                next: Some(now + timer.duration),
                is_cancelled: false,
                runs: false,
            });
            if state.bundle < bundle {
                state.bundle = bundle;
                if std::mem::take(&mut state.is_cancelled) {
                    state.next = Some(now + timer.duration);
                }
            }
        }
    }

    fn next(&self, bundle: u64, timer: &Timer) -> Option<Instant> {
        let state = self.timers.get(timer)?;
        (bundle == self.bundle && state.bundle == bundle)
            .then_some(state.next)
            .flatten()
    }

    fn take(&mut self, bundle: u64, timer: &Timer, now: Instant) -> Due {
        let Some(next) = self.next(bundle, timer).filter(|next| *next <= now) else {
            return Due::Not;
        };
        let Some(state) = self.timers.get_mut(timer) else {
            return Due::Not;
        };
        let passed = match timer.kind {
            // Cancelled in its tick and declared again: its new tick waits for the end of the old one.
            Kind::After if state.runs => {
                state.next = Some(now + AGAIN);
                return Due::Not;
            }
            Kind::After => {
                state.next = None;
                0
            }
            Kind::Every => {
                let period = timer.duration.as_nanos().max(1);
                let late = now.duration_since(next);
                let passed = late.as_nanos() / period;
                // The remainder is shorter than a period, whatever the number of periods.
                let into = Duration::from_nanos((late.as_nanos() % period) as u64);
                state.next = Some(now + timer.duration.saturating_sub(into));
                passed as u64
            }
        };
        if state.runs {
            return Due::Missed(passed + 1);
        }
        state.runs = true;
        Due::Run { missed: passed }
    }

    fn ended(&mut self, timer: &Timer) {
        if let Some(state) = self.timers.get_mut(timer) {
            state.runs = false;
        }
    }

    fn cancel(&mut self, bundle: u64, timer: &Timer) {
        if let Some(state) = self.timers.get_mut(timer)
            && state.bundle == bundle
        {
            state.next = None;
            state.is_cancelled = true;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn timer(kind: Kind, each: Each) -> Timer {
        Timer {
            file: "handlers/a.lua".to_owned(),
            kind,
            duration: 10 * SECOND,
            each,
            ordinal: 0,
        }
    }

    fn by(worker: usize, bundle: u64) -> By {
        By { worker, bundle }
    }

    /// Timers, and the workers that follow bundle 1.
    fn followed(timer: &Timer, workers: usize) -> (Timers, Instant) {
        let (mut timers, now) = (Timers::default(), Instant::now());
        for worker in 0..workers {
            timers.follow(by(worker, 1), std::slice::from_ref(timer), now);
        }
        (timers, now)
    }

    /// The workers of this bundle that run a tick at this moment; each tick ends at once.
    fn runs(timers: &mut Timers, timer: &Timer, bundle: u64, now: Instant) -> Vec<usize> {
        let mut ran = Vec::new();
        for worker in 0..4 {
            if let Due::Run { .. } = timers.take(by(worker, bundle), timer, now) {
                ran.push(worker);
                timers.ended(by(worker, bundle), timer);
            }
        }
        ran
    }

    /// It is cancelled in its tick, and the next bundle declares it again while the tick runs.
    #[test]
    fn the_only_tick_of_a_timer_waits_for_the_end_of_its_old_one() {
        let after = timer(Kind::After, Each::Process);
        let (mut timers, start) = followed(&after, 1);
        let due = start + 10 * SECOND;
        assert_eq!(timers.take(by(0, 1), &after, due), Due::Run { missed: 0 });
        timers.cancel(by(0, 1), &after);
        timers.follow(by(0, 2), std::slice::from_ref(&after), due);
        let again = due + 10 * SECOND;
        assert_eq!(timers.take(by(0, 2), &after, again), Due::Not);
        timers.ended(by(0, 1), &after);
        assert_eq!(runs(&mut timers, &after, 2, again + AGAIN), [0]);
        assert_eq!(timers.next(by(0, 2), &after), None);
    }

    #[test]
    fn a_timer_of_the_process_ticks_once_a_period_whatever_the_workers() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 4);
        for second in 0..=100 {
            let ran = runs(&mut timers, &every, 1, start + second * SECOND);
            let expected = usize::from(second > 0 && second % 10 == 0);
            assert_eq!(ran.len(), expected, "at {second} s");
        }
    }

    #[test]
    fn a_timer_of_each_worker_ticks_in_each() {
        let every = timer(Kind::Every, Each::Worker);
        let (mut timers, start) = followed(&every, 4);
        assert!(runs(&mut timers, &every, 1, start + 9 * SECOND).is_empty());
        let ran = runs(&mut timers, &every, 1, start + 10 * SECOND);
        assert_eq!(ran, [0, 1, 2, 3]);
        assert!(runs(&mut timers, &every, 1, start + 11 * SECOND).is_empty());
    }

    #[test]
    fn a_timer_that_ticks_once_ticks_once_over_reloads() {
        let after = timer(Kind::After, Each::Process);
        let (mut timers, start) = followed(&after, 4);
        timers.follow(by(0, 2), std::slice::from_ref(&after), start + 9 * SECOND);
        assert_eq!(runs(&mut timers, &after, 2, start + 10 * SECOND), [0]);
        timers.follow(by(0, 3), std::slice::from_ref(&after), start + 11 * SECOND);
        assert!(runs(&mut timers, &after, 3, start + 99 * SECOND).is_empty());
    }

    /// 1. worker 0 has the next bundle; 2. the tick is due; 3. the other workers still have the bundle before.
    #[test]
    fn a_reload_neither_doubles_nor_loses_a_tick() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 4);
        let at = |second| start + second * SECOND;
        let again = std::slice::from_ref(&every);
        timers.follow(by(0, 2), again, at(9));
        assert!(runs(&mut timers, &every, 1, at(10)).is_empty());
        assert_eq!(
            timers.take(by(0, 2), &every, at(10)),
            Due::Run { missed: 0 }
        );
        timers.ended(by(0, 2), &every);
        timers.follow(by(1, 2), again, at(11));
        assert!(runs(&mut timers, &every, 2, at(19)).is_empty());
        assert_eq!(runs(&mut timers, &every, 2, at(20)), [0]);
        // A worker that comes late with an old bundle changes nothing.
        timers.follow(by(2, 1), again, at(21));
        assert!(runs(&mut timers, &every, 1, at(30)).is_empty());
        assert_eq!(runs(&mut timers, &every, 2, at(30)), [0]);
    }

    #[test]
    fn a_tick_that_is_due_while_the_last_one_runs_is_missed() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 2);
        let at = |second| start + second * SECOND;
        let (one, other) = (by(0, 1), by(1, 1));
        assert_eq!(timers.take(one, &every, at(10)), Due::Run { missed: 0 });
        assert_eq!(timers.take(other, &every, at(10)), Due::Not);
        assert_eq!(timers.take(other, &every, at(20)), Due::Missed(1));
        assert_eq!(timers.take(one, &every, at(20)), Due::Not);
        assert_eq!(timers.take(one, &every, at(45)), Due::Missed(2));
        // It runs over a reload too.
        timers.follow(by(0, 2), std::slice::from_ref(&every), at(46));
        assert_eq!(timers.take(by(0, 2), &every, at(50)), Due::Missed(1));
        timers.ended(one, &every);
        assert_eq!(
            timers.take(by(0, 2), &every, at(60)),
            Due::Run { missed: 0 }
        );
    }

    #[test]
    fn a_worker_that_comes_late_runs_one_tick_and_misses_the_others() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 1);
        let due = timers.take(by(0, 1), &every, start + 35 * SECOND);
        assert_eq!(due, Due::Run { missed: 2 });
        let next = timers.next(by(0, 1), &every);
        assert_eq!(next, Some(start + 40 * SECOND), "in step with its period");
    }

    #[test]
    fn a_cancelled_timer_stands_still_until_the_next_bundle_declares_it() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 2);
        timers.cancel(by(0, 1), &every);
        // A VM that is replaced declares it again.
        timers.follow(by(1, 1), std::slice::from_ref(&every), start);
        assert!(runs(&mut timers, &every, 1, start + 99 * SECOND).is_empty());
        timers.follow(by(0, 2), std::slice::from_ref(&every), start + 99 * SECOND);
        assert_eq!(runs(&mut timers, &every, 2, start + 109 * SECOND), [0]);
        // The object of the old bundle is not that of the new one.
        timers.cancel(by(0, 1), &every);
        assert_eq!(runs(&mut timers, &every, 2, start + 119 * SECOND), [0]);
    }

    #[test]
    fn a_timer_that_a_bundle_leaves_out_is_forgotten() {
        let every = timer(Kind::Every, Each::Process);
        let (mut timers, start) = followed(&every, 1);
        timers.follow(by(0, 2), &[], start + 5 * SECOND);
        assert_eq!(timers.take(by(0, 2), &every, start + 10 * SECOND), Due::Not);
        timers.follow(by(0, 3), &[], start + 11 * SECOND);
        timers.follow(by(0, 4), std::slice::from_ref(&every), start + 12 * SECOND);
        assert_eq!(timers.next(by(0, 4), &every), Some(start + 22 * SECOND));
    }
}
