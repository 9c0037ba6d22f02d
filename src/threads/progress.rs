//! The progress of threads: each thread increments a counter with every turn of its loop.
//!
//! The decision is pure: it takes the counters and the clock, and returns the name of the stalled thread. A thread
//! may legitimately stay in one turn for its allowance, as a worker does in one Lua call.

use std::fmt;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The longest time between two looks that counts. Without it, a process that was itself stopped (SIGSTOP, a
/// suspended machine) would find all of its threads stalled.
const LOOK_MAX: Duration = Duration::from_secs(5);

/// All threads whose progress matters.
#[derive(Debug, Default)]
pub(crate) struct Progress(Mutex<Looks>);

#[derive(Debug, Default)]
struct Looks {
    last: Option<Instant>,
    threads: Vec<Thread>,
}

#[derive(Debug)]
struct Thread {
    beat: Arc<Shared>,
    seen: u64,
    still_for: Duration,
    is_told: bool,
}

#[derive(Debug)]
struct Shared {
    name: String,
    turns: AtomicU64,
    allowance_ms: AtomicU64,
    has_ended: AtomicBool,
}

/// A thread that has not moved for longer than its allowance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Stalled {
    pub(crate) thread: String,
    pub(crate) still_for: Duration,
    pub(crate) allowance: Duration,
}

impl fmt::Display for Stalled {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, for {} s where {} s are allowed",
            self.thread,
            self.still_for.as_secs(),
            self.allowance.as_secs()
        )
    }
}

/// The thread's own side. Its drop takes the thread off the list: a thread that has ended is not stalled.
#[derive(Debug)]
pub(crate) struct Beat(Arc<Shared>);

impl Beat {
    /// Counts one turn of the thread's loop.
    pub(crate) fn turn(&self) {
        self.0.turns.fetch_add(1, Ordering::Relaxed);
    }

    /// Sets the allowance of one turn from now on.
    pub(crate) fn allow(&self, allowance: Duration) {
        self.0
            .allowance_ms
            .store(millis(allowance), Ordering::Relaxed);
    }
}

impl Drop for Beat {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Relaxed);
    }
}

impl Progress {
    pub(crate) fn register(&self, name: &str, allowance: Duration) -> Beat {
        let beat = Arc::new(Shared {
            name: name.to_owned(),
            turns: AtomicU64::new(0),
            allowance_ms: AtomicU64::new(millis(allowance)),
            has_ended: AtomicBool::new(false),
        });
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.threads.push(Thread {
            beat: Arc::clone(&beat),
            seen: 0,
            still_for: Duration::ZERO,
            is_told: false,
        });
        Beat(beat)
    }

    /// The first stalled thread. Call it every second or so, from any thread.
    pub(crate) fn stalled(&self, now: Instant) -> Option<Stalled> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.look(now);
        looks.threads.iter().find_map(Thread::stalled)
    }

    /// Every stalled thread that was not stalled at the last call.
    pub(crate) fn newly_stalled(&self, now: Instant) -> Vec<Stalled> {
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        looks.look(now);
        let mut new = Vec::new();
        for thread in &mut looks.threads {
            let stalled = thread.stalled();
            let was_told = std::mem::replace(&mut thread.is_told, stalled.is_some());
            new.extend(stalled.filter(|_| !was_told));
        }
        new
    }
}

impl Looks {
    fn look(&mut self, now: Instant) {
        let last = self.last.replace(now).unwrap_or(now);
        let passed = now.saturating_duration_since(last).min(LOOK_MAX);
        self.threads
            .retain(|thread| !thread.beat.has_ended.load(Ordering::Relaxed));
        for thread in &mut self.threads {
            let turns = thread.beat.turns.load(Ordering::Relaxed);
            if turns == thread.seen {
                thread.still_for += passed;
            } else {
                thread.seen = turns;
                thread.still_for = Duration::ZERO;
            }
        }
    }
}

impl Thread {
    fn stalled(&self) -> Option<Stalled> {
        let allowance = Duration::from_millis(self.beat.allowance_ms.load(Ordering::Relaxed));
        (self.still_for > allowance).then(|| Stalled {
            thread: self.beat.name.clone(),
            still_for: self.still_for,
            allowance,
        })
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(count: u64) -> Duration {
        Duration::from_secs(count)
    }

    #[test]
    fn a_thread_that_moves_never_stands_still() {
        let progress = Progress::default();
        let beat = progress.register("worker 0", seconds(2));
        let start = Instant::now();
        for second in 0..60 {
            assert_eq!(progress.stalled(start + seconds(second)), None);
            beat.turn();
        }
    }

    #[test]
    fn a_thread_is_named_when_it_stands_still_for_longer_than_it_may() {
        let progress = Progress::default();
        let moving = progress.register("consumer default", seconds(2));
        let _standing = progress.register("worker 0", seconds(2));
        let start = Instant::now();
        for second in 0..3 {
            moving.turn();
            assert_eq!(progress.stalled(start + seconds(second)), None);
        }
        moving.turn();
        let named = "worker 0, for 3 s where 2 s are allowed";
        let stalled = progress.stalled(start + seconds(3));
        assert_eq!(stalled.unwrap().to_string(), named);
    }

    #[test]
    fn a_thread_that_moves_again_is_believed_again() {
        let progress = Progress::default();
        let beat = progress.register("worker 0", seconds(1));
        let start = Instant::now();
        assert_eq!(progress.stalled(start), None);
        assert!(progress.stalled(start + seconds(3)).is_some());
        beat.turn();
        assert_eq!(progress.stalled(start + seconds(4)), None);
    }

    #[test]
    fn a_thread_is_new_once_each_time_it_stands_still() {
        let progress = Progress::default();
        let beat = progress.register("watch", seconds(1));
        let _other = progress.register("signals", seconds(5));
        let start = Instant::now();
        let names = |second| {
            let stalled = progress.newly_stalled(start + seconds(second));
            stalled
                .into_iter()
                .map(|one| one.thread)
                .collect::<Vec<_>>()
        };
        assert!(names(0).is_empty());
        assert_eq!(names(3), ["watch"]);
        assert!(names(4).is_empty());
        assert_eq!(names(7), ["signals"]);
        beat.turn();
        assert!(names(8).is_empty());
        assert_eq!(names(10), ["watch"]);
    }

    #[test]
    fn a_longer_allowance_counts_from_the_next_look() {
        let progress = Progress::default();
        let beat = progress.register("worker 0", seconds(1));
        let start = Instant::now();
        assert_eq!(progress.stalled(start), None);
        beat.allow(seconds(10));
        assert_eq!(progress.stalled(start + seconds(3)), None);
    }

    #[test]
    fn a_thread_that_ended_does_not_stand_still() {
        let progress = Progress::default();
        let beat = progress.register("worker 0", seconds(1));
        let start = Instant::now();
        assert_eq!(progress.stalled(start), None);
        drop(beat);
        assert_eq!(progress.stalled(start + seconds(60)), None);
    }

    #[test]
    fn a_process_that_was_stopped_itself_does_not_blame_its_threads() {
        let progress = Progress::default();
        let _beat = progress.register("worker 0", seconds(6));
        let start = Instant::now();
        assert_eq!(progress.stalled(start), None);
        assert_eq!(progress.stalled(start + seconds(3_600)), None);
    }
}
