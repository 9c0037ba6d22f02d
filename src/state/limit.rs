//! Limits of the process: so many runs in a time, and so many at once, in the order of those that wait.
//!
//! One call at a time has its *turn*: it gets what becomes free, and all others wait behind it. So a call that wants
//! much is not passed over by those that want little. A call that is given up leaves the line.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::Notify;

use super::time::Time;
use crate::config::RateLimit;
use crate::duration;
use crate::rules::pace::Pace;
use crate::wait::Fault;

/// The most calls that wait for one limit.
const WAITING_MAX: usize = 10_000;

/// What identifies a limit: other settings are another limit.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) name: String,
    pub(crate) rate: Option<RateLimit>,
    pub(crate) concurrency: Option<usize>,
    /// The longest wait.
    pub(crate) timeout: Duration,
}

#[derive(Debug)]
pub(crate) struct Limit {
    settings: Settings,
    pace: Option<Pace>,
    time: Time,
    used: Mutex<Used>,
    /// First come, first served.
    turn: tokio::sync::Mutex<()>,
    given_back: Notify,
    waiting: AtomicUsize,
}

/// What is used of a limit.
#[derive(Debug, Default)]
struct Used {
    /// The moment at which the next run is due, in nanoseconds.
    due: u64,
    at_once: usize,
}

/// What a call waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lacks {
    /// The rate allows it at this moment.
    Time(u64),
    /// Another call must end.
    Share,
}

impl Used {
    /// Takes `runs` of the rate, and one of those at once if there is such a bound.
    fn take(
        &mut self,
        pace: Option<Pace>,
        most: Option<usize>,
        runs: u64,
        now: u64,
    ) -> Result<(), Lacks> {
        if most.is_some_and(|most| self.at_once >= most) {
            return Err(Lacks::Share);
        }
        if let Some(pace) = pace {
            self.due = pace.take_many(self.due, now, runs).map_err(Lacks::Time)?;
        }
        self.at_once += usize::from(most.is_some());
        Ok(())
    }
}

/// One of the calls at once. Its drop gives it back.
#[derive(Debug)]
pub(crate) struct Share(Option<Arc<Limit>>);

impl Drop for Share {
    fn drop(&mut self) {
        if let Some(limit) = self.0.take() {
            limit.used().at_once -= 1;
            limit.given_back.notify_one();
        }
    }
}

/// Counts one call that waits.
struct Waits<'l>(&'l AtomicUsize);

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Limit {
    pub(super) fn new(settings: Settings, time: Time) -> Self {
        Self {
            pace: settings.rate.map(Pace::new),
            settings,
            time,
            used: Mutex::default(),
            turn: tokio::sync::Mutex::default(),
            given_back: Notify::new(),
            waiting: AtomicUsize::new(0),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// What is wanted, if nobody waits and it is free.
    pub(crate) fn try_take(self: &Arc<Self>, runs: u64) -> Option<Share> {
        let _turn = self.turn.try_lock().ok()?;
        self.take(runs).ok()
    }

    /// The same, after those that came before.
    pub(crate) async fn wait(self: Arc<Self>, runs: u64) -> Result<Share, Fault> {
        let (name, timeout) = (&self.settings.name, self.settings.timeout);
        let count = self.waiting.fetch_add(1, Ordering::Relaxed);
        let _waits = Waits(&self.waiting);
        if count >= WAITING_MAX {
            let message = format!("limit `{name}`: {WAITING_MAX} calls wait for it already");
            return Err(Fault::new("busy", message));
        }
        let share = tokio::time::timeout(timeout, self.in_turn(runs)).await;
        share.map_err(|_| {
                let waited = duration::short(timeout);
                let message = format!(
                    "limit `{name}`: nothing became free within {waited}; `timeout` of the limit is the longest wait"
                );
                Fault::new("busy", message)
        })
    }

    async fn in_turn(self: &Arc<Self>, runs: u64) -> Share {
        let _turn = self.turn.lock().await;
        loop {
            match self.take(runs) {
                Ok(share) => return share,
                Err(Lacks::Time(at)) => {
                    let wait = at.saturating_sub(self.time.ns());
                    tokio::time::sleep(Duration::from_nanos(wait.max(1))).await;
                }
                Err(Lacks::Share) => self.given_back.notified().await,
            }
        }
    }

    fn take(self: &Arc<Self>, runs: u64) -> Result<Share, Lacks> {
        let most = self.settings.concurrency;
        let taken = self.used().take(self.pace, most, runs, self.time.ns());
        taken.map(|()| Share(most.map(|_| Arc::clone(self))))
    }

    fn used(&self) -> MutexGuard<'_, Used> {
        self.used.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The rate of a text such as `100/1s`; the number of the unit may be left out, as `100/s`.
pub(crate) fn rate(text: &str) -> Option<RateLimit> {
    let (messages, per) = text.split_once('/')?;
    let messages = messages.trim().parse().ok()?;
    let per = per.trim();
    let per = duration::parse(per).or_else(|| duration::parse(&format!("1{per}")))?;
    let is_possible = messages > 0 && !per.is_zero() && per <= Duration::from_secs(366 * 86_400);
    is_possible.then_some(RateLimit { messages, per })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::clock::Clock;

    const MS: u64 = 1_000_000;

    #[test]
    fn a_rate_is_a_number_and_a_time() {
        for (text, expected) in [
            ("100/1s", Some((100, 1_000))),
            ("5/m", Some((5, 60_000))),
            ("3 / 10s", Some((3, 10_000))),
            ("0/1s", None),
            ("1/0s", None),
            ("10", None),
            ("10/", None),
            ("/1s", None),
            ("-1/1s", None),
            ("10/1s/2", None),
            ("1/1000d", None),
        ] {
            let found = rate(text).map(|rate| (rate.messages, rate.per.as_millis() as u64));
            assert_eq!(found, expected, "{text}");
        }
    }

    #[test]
    fn a_run_takes_of_both_or_of_none() {
        let pace = rate("10/1s").map(Pace::new);
        let mut used = Used::default();
        assert_eq!(used.take(pace, Some(2), 1, 0), Ok(()));
        // Half of an interval may come early.
        assert_eq!(used.take(pace, Some(2), 1, 50 * MS), Ok(()));
        assert_eq!(used.take(pace, Some(2), 1, 500 * MS), Err(Lacks::Share));
        used.at_once -= 1;
        assert_eq!(
            used.take(pace, Some(2), 1, 60 * MS),
            Err(Lacks::Time(150 * MS))
        );
        assert_eq!(used.at_once, 1);
        assert_eq!(used.take(pace, Some(2), 5, 500 * MS), Ok(()));
        assert_eq!(used.due, 1_000 * MS);
    }

    fn limit(rate_of: Option<&str>, concurrency: Option<usize>) -> Arc<Limit> {
        let settings = Settings {
            name: "api".to_owned(),
            rate: rate_of.map(|text| rate(text).unwrap()),
            concurrency,
            timeout: Duration::from_millis(200),
        };
        Arc::new(Limit::new(settings, Time::new(Clock::default())))
    }

    fn runtime() -> tokio::runtime::Runtime {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .unwrap()
    }

    #[test]
    fn those_that_wait_are_served_in_their_order_and_a_given_up_one_is_passed_over() {
        runtime().block_on(async {
            let limit = limit(None, Some(1));
            let first = limit.try_take(1).unwrap();
            assert!(limit.try_take(1).is_none());
            let served = Arc::new(Mutex::new(Vec::new()));
            let tasks: Vec<_> = (0..5)
                .map(|number| {
                    let (limit, served) = (Arc::clone(&limit), Arc::clone(&served));
                    tokio::spawn(async move {
                        let share = limit.wait(1).await;
                        served.lock().unwrap().push(number);
                        drop(share);
                    })
                })
                .collect();
            while limit.waiting.load(Ordering::Relaxed) < 5 {
                tokio::task::yield_now().await;
            }
            // The head of the line, which has its turn, and one behind it.
            tasks[0].abort();
            tasks[2].abort();
            drop(first);
            for task in tasks {
                let _ = task.await;
            }
            assert_eq!(*served.lock().unwrap(), [1, 3, 4]);
            assert_eq!(limit.used().at_once, 0);
            assert!(limit.try_take(1).is_some());
            assert_eq!(limit.waiting.load(Ordering::Relaxed), 0);
        });
    }

    #[test]
    fn a_wait_has_a_deadline() {
        runtime().block_on(async {
            let limit = limit(None, Some(1));
            let _held = limit.try_take(1).unwrap();
            let fault = Arc::clone(&limit).wait(1).await.unwrap_err();
            assert_eq!(fault.kind, "busy");
            assert!(fault.message.contains("within 200ms"), "{fault:?}");
        });
    }

    #[test]
    fn a_rate_lets_the_next_through_in_its_time() {
        runtime().block_on(async {
            let limit = limit(Some("1000/1s"), None);
            let began = std::time::Instant::now();
            for _ in 0..150 {
                Arc::clone(&limit).wait(1).await.unwrap();
            }
            // Fifty of them may come early.
            assert!(began.elapsed() >= Duration::from_millis(90));
        });
    }
}
