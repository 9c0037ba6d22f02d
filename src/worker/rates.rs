//! Rate limits: one pace of the process for each listener that has a limit, and in each worker the queue of what the
//! limit holds.
//!
//! Workers share a number for each such listener and no lock: a run moves it by compare and exchange. **The queue is
//! served in its order**, so that a partition with many messages does not keep the others from their runs. It has
//! lanes, and partitions whose next message has no lane yet. The limit calls as many of them as may run; the one that
//! is called and loses its run to another worker is the first again.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::config::{Config, RateLimit};
use crate::rules::pace::Pace;

use super::ids::LaneId;

/// The paces of all workers.
pub(crate) struct Rates {
    /// The start of the clock of all paces.
    began: Instant,
    /// The moment at which the next run is due, by listener.
    due: Mutex<HashMap<String, Arc<AtomicU64>>>,
}

impl Rates {
    pub(crate) fn new(began: Instant) -> Self {
        Self {
            began,
            due: Mutex::default(),
        }
    }

    /// Forgets the listeners that neither this config nor another worker has.
    pub(super) fn prune(&self, config: &Config) {
        let is_limited = |name: &str| {
            let mut listeners = config.listeners.iter();
            listeners.any(|one| one.name == name && one.rate_limit.is_some())
        };
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        due.retain(|name, one| is_limited(name) || Arc::strong_count(one) > 1);
    }

    pub(super) fn of(&self, listener: &str, limit: RateLimit, now: Instant) -> Rate {
        let mut due = self.due.lock().unwrap_or_else(PoisonError::into_inner);
        let due = due.entry(listener.to_owned()).or_default().clone();
        let rate = Rate {
            pace: Pace::new(limit),
            most: usize::try_from(limit.messages).unwrap_or(usize::MAX),
            began: self.began,
            due,
            waiting: VecDeque::new(),
            called: HashSet::new(),
            known: HashSet::new(),
            next: None,
            admitted: None,
        };
        let latest = rate.pace.latest_due(rate.nanos(now));
        rate.due.fetch_min(latest, Ordering::Relaxed);
        rate
    }
}

/// What a rate limit holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Waiter {
    Lane(LaneId),
    /// The next message of the partition, by epoch.
    Partition(u64),
}

/// Whether a run may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Admission {
    Run,
    /// It waits in the queue. `is_new`: it did not before.
    Held {
        is_new: bool,
    },
}

/// The rate limit of one listener in one worker.
pub(super) struct Rate {
    pace: Pace,
    /// `messages` of the limit.
    most: usize,
    began: Instant,
    due: Arc<AtomicU64>,
    waiting: VecDeque<Waiter>,
    /// No longer in `waiting`: their turn has come.
    called: HashSet<Waiter>,
    /// All of `waiting` and `called`.
    known: HashSet<Waiter>,
    /// When the next one of `waiting` is called.
    next: Option<Instant>,
    /// When the last run of this worker was admitted.
    admitted: Option<Instant>,
}

impl Rate {
    /// The most messages of a batch.
    pub(super) fn most(&self) -> usize {
        self.most
    }

    /// The run, of so many messages, that `waiter` is about to begin. The messages of a batch begin at once, and the
    /// next run waits for all of them.
    pub(super) fn admit(&mut self, waiter: Waiter, messages: u64, now: Instant) -> Admission {
        let is_called = self.called.remove(&waiter);
        if !is_called && !self.waiting.is_empty() {
            let is_new = self.known.insert(waiter);
            if is_new {
                self.waiting.push_back(waiter);
            }
            return Admission::Held { is_new };
        }
        match self.take(messages, now) {
            Ok(()) => {
                self.known.remove(&waiter);
                self.admitted = Some(now);
                Admission::Run
            }
            Err(at) => {
                let is_new = self.known.insert(waiter);
                self.waiting.push_front(waiter);
                self.next = Some(self.next.map_or(at, |next| next.min(at)));
                Admission::Held { is_new }
            }
        }
    }

    fn take(&self, messages: u64, now: Instant) -> Result<(), Instant> {
        let at = self.nanos(now);
        let mut due = self.due.load(Ordering::Relaxed);
        loop {
            let next = self
                .pace
                .take_many(due, at, messages)
                .map_err(|at| self.moment(at))?;
            match self
                .due
                .compare_exchange_weak(due, next, Ordering::Relaxed, Ordering::Relaxed)
            {
                Ok(_) => return Ok(()),
                Err(other) => due = other,
            }
        }
    }

    /// Calls as many as may run now.
    pub(super) fn tick(&mut self, now: Instant, called: &mut Vec<Waiter>) {
        if self.next.is_none_or(|next| next > now) {
            return;
        }
        let look = self
            .pace
            .look(self.due.load(Ordering::Relaxed), self.nanos(now));
        let free = usize::try_from(look.free).unwrap_or(usize::MAX);
        let count = free.min(self.waiting.len());
        for waiter in self.waiting.drain(..count) {
            self.called.insert(waiter);
            called.push(waiter);
        }
        self.next = (!self.waiting.is_empty()).then(|| self.moment(look.next));
    }

    /// When the queue is to be looked at.
    pub(super) fn next(&self) -> Option<Instant> {
        self.next
    }

    /// Whether something waits for a run.
    pub(super) fn holds_any(&self) -> bool {
        !self.known.is_empty()
    }

    pub(super) fn admitted(&self) -> Option<Instant> {
        self.admitted
    }

    pub(super) fn forget(&mut self, is_meant: impl Fn(Waiter) -> bool) {
        if self.known.extract_if(|one| is_meant(*one)).count() > 0 {
            self.called.retain(|one| !is_meant(*one));
            self.waiting.retain(|one| !is_meant(*one));
        }
    }

    fn nanos(&self, at: Instant) -> u64 {
        let since = at.saturating_duration_since(self.began);
        u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
    }

    fn moment(&self, nanos: u64) -> Instant {
        self.began + Duration::from_nanos(nanos)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(rates: &Rates, ms: u64) -> Instant {
        rates.began + Duration::from_millis(ms)
    }

    fn limit(messages: u64) -> RateLimit {
        RateLimit {
            messages,
            per: Duration::from_secs(1),
        }
    }

    const RUN: Admission = Admission::Run;
    const NEW: Admission = Admission::Held { is_new: true };
    const OLD: Admission = Admission::Held { is_new: false };

    /// The partitions, by epoch, that are called at this moment.
    fn called(rate: &mut Rate, now: Instant) -> Vec<u64> {
        let mut called = Vec::new();
        rate.tick(now, &mut called);
        let epoch = |one: Waiter| match one {
            Waiter::Partition(epoch) => epoch,
            Waiter::Lane(id) => id.epoch,
        };
        called.into_iter().map(epoch).collect()
    }

    #[test]
    fn the_queue_is_served_in_its_order() {
        let rates = Rates::new(Instant::now());
        let mut rate = rates.of("a", limit(10), at(&rates, 0));
        let [a, b, c] = [1, 2, 3].map(Waiter::Partition);
        let now = at(&rates, 0);
        assert_eq!(rate.admit(a, 1, now), RUN);
        assert_eq!([a, b, c].map(|one| rate.admit(one, 1, now)), [NEW; 3]);
        assert_eq!(rate.admit(b, 1, now), OLD);
        assert_eq!(rate.next(), Some(at(&rates, 50)));
        assert!(called(&mut rate, at(&rates, 49)).is_empty());
        assert_eq!(called(&mut rate, at(&rates, 50)), [1]);
        assert_eq!(rate.admit(b, 1, at(&rates, 50)), OLD, "a is called");
        assert_eq!(rate.admit(a, 1, at(&rates, 50)), RUN);
        assert_eq!(rate.admit(a, 1, at(&rates, 50)), NEW, "behind b and c");
        let order: Vec<_> = [150, 250, 350]
            .into_iter()
            .flat_map(|ms| {
                let now = at(&rates, ms);
                let called = called(&mut rate, now);
                for epoch in &called {
                    assert_eq!(rate.admit(Waiter::Partition(*epoch), 1, now), RUN);
                }
                called
            })
            .collect();
        assert_eq!(order, [2, 3, 1]);
        assert!(!rate.holds_any() && rate.next().is_none());
    }

    #[test]
    fn workers_share_the_pace_and_the_loser_stays_the_first() {
        let rates = Rates::new(Instant::now());
        let mut one = rates.of("a", limit(10), at(&rates, 0));
        let mut two = rates.of("a", limit(10), at(&rates, 0));
        let [a, b] = [1, 2].map(Waiter::Partition);
        assert_eq!(one.admit(a, 1, at(&rates, 0)), RUN);
        assert_eq!(two.admit(a, 1, at(&rates, 0)), NEW);
        assert_eq!(two.admit(b, 1, at(&rates, 0)), NEW);
        assert_eq!(called(&mut two, at(&rates, 50)), [1]);
        assert_eq!(one.admit(b, 1, at(&rates, 50)), RUN, "faster");
        assert_eq!(two.admit(a, 1, at(&rates, 50)), OLD);
        assert_eq!(called(&mut two, at(&rates, 150)), [1], "before b");
    }

    #[test]
    fn another_limit_counts_from_now_on() {
        let rates = Rates::new(Instant::now());
        let mut slow = rates.of("a", limit(1), at(&rates, 0));
        assert_eq!(slow.admit(Waiter::Partition(1), 1, at(&rates, 0)), RUN);
        let mut fast = rates.of("a", limit(100), at(&rates, 1));
        assert_eq!(fast.admit(Waiter::Partition(1), 1, at(&rates, 1)), NEW);
        assert_eq!(called(&mut fast, at(&rates, 11)), [1]);
        assert_eq!(fast.admit(Waiter::Partition(1), 1, at(&rates, 11)), RUN);
    }

    #[test]
    fn what_is_gone_costs_no_run() {
        let rates = Rates::new(Instant::now());
        let mut rate = rates.of("a", limit(10), at(&rates, 0));
        let [a, b] = [1, 2].map(Waiter::Partition);
        let lane = Waiter::Lane(LaneId { epoch: 1, lane: 7 });
        assert_eq!(rate.admit(a, 1, at(&rates, 0)), RUN);
        assert_eq!(
            [a, lane, b].map(|one| rate.admit(one, 1, at(&rates, 0))),
            [NEW; 3]
        );
        assert_eq!(called(&mut rate, at(&rates, 50)), [1]);
        rate.forget(|one| one == a);
        rate.forget(|one| one == lane);
        // Nobody used the run.
        assert_eq!(called(&mut rate, at(&rates, 150)), [2]);
        assert_eq!(rate.admit(b, 1, at(&rates, 150)), RUN);
        assert!(!rate.holds_any());
    }
}
