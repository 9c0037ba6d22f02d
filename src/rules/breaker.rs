//! The breaker of a listener: it stops the listener while too many runs fail, and tries again after a pause.
//!
//! Pure: the time is given. The breaker opens for one of two reasons. Either the window holds enough runs, spread
//! over more than a tenth of it, and too large a share of them failed. Or more dead letters are due in a minute than
//! allowed. After a pause the breaker is half-open: one probe at a time runs. Enough successful probes in a row close
//! it; a failed one opens it again.
//!
//! **An open breaker sends no dead letter, a half-open one sends one per pause.** So a cause that fails every message
//! does not move a whole topic into its dead-letter topic. And a listener whose lanes all wait for a dead letter
//! still makes progress.

use std::fmt;
use std::time::{Duration, Instant};

use crate::config;

/// The number of sub-windows, which are forgotten one by one: the counts are out of date by at most a tenth of the
/// window.
const SLOTS: u64 = 10;
const MINUTE: Duration = Duration::from_secs(60);
/// The pause if only dead letters are limited; it has no key of its own.
const PAUSE: Duration = Duration::from_secs(30);
const PROBES: u32 = 1;
/// How long a message waits that arrives while a probe runs. The end of the probe wakes it earlier.
const PROBE_LOOK: Duration = Duration::from_secs(1);

/// The breaker of one listener in one worker.
#[derive(Debug)]
pub(crate) struct Breaker {
    policy: Option<config::Breaker>,
    per_minute_max: Option<u32>,
    runs: Window,
    letters: Window,
    phase: Phase,
}

#[derive(Debug)]
enum Phase {
    Closed,
    Open {
        since: Instant,
        until: Instant,
        why: Why,
    },
    HalfOpen {
        since: Instant,
        why: Why,
        is_probing: bool,
        succeeded: u32,
        /// No dead letter is sent before this moment.
        next_letter: Instant,
    },
}

/// The breaker has opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Opened {
    pub(crate) why: Why,
    pub(crate) until: Instant,
    /// A probe failed: the breaker was open before.
    pub(crate) is_again: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Failures {
        failed: u32,
        runs: u32,
        window: Duration,
    },
    DeadLetters {
        per_minute_max: u32,
    },
}

/// Whether a message may run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gate {
    Pass,
    /// It may run as a probe, the only run of the listener: the caller confirms this with `probing`.
    Probe,
    Wait(Instant),
}

/// Whether a dead letter may be sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum DeadLetterPermit {
    Send,
    /// Not now. The caller asks again at `until`, or when the breaker closes.
    Wait {
        until: Instant,
        opened: Option<Opened>,
    },
}

/// For the status.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    Closed,
    Open {
        since: Instant,
        until: Instant,
        why: Why,
    },
    HalfOpen {
        since: Instant,
        why: Why,
        /// Successful probes in a row, of `probes` that close it.
        succeeded: u32,
        probes: u32,
    },
}

impl Breaker {
    /// Without a policy, failures never open the breaker; without a limit, dead letters never do.
    pub(crate) fn new(policy: Option<config::Breaker>, per_minute_max: Option<u32>) -> Self {
        Self {
            runs: Window::new(policy.map_or(MINUTE, |policy| policy.window)),
            letters: Window::new(MINUTE),
            phase: Phase::Closed,
            policy,
            per_minute_max,
        }
    }

    /// After a reload: the new handlers may run at once.
    pub(crate) fn set_policy(
        &mut self,
        policy: Option<config::Breaker>,
        per_minute_max: Option<u32>,
    ) {
        self.policy = policy;
        self.per_minute_max = per_minute_max;
        self.reset();
    }

    /// Closes the breaker and forgets the runs. Dead letters sent in this minute still count.
    pub(crate) fn reset(&mut self) {
        self.phase = Phase::Closed;
        self.runs = Window::new(self.policy.map_or(MINUTE, |policy| policy.window));
    }

    pub(crate) fn is_closed(&self) -> bool {
        matches!(self.phase, Phase::Closed)
    }

    /// This many runs succeeded. Returns whether the breaker has closed because of them.
    pub(crate) fn done(&mut self, runs: u32, now: Instant) -> bool {
        match &mut self.phase {
            Phase::Closed => {
                if self.policy.is_some() {
                    self.runs.add(runs, 0, now);
                }
                false
            }
            // The run began before the breaker opened.
            Phase::Open { .. } => false,
            Phase::HalfOpen {
                is_probing,
                succeeded,
                ..
            } => {
                *succeeded += u32::from(*is_probing && runs > 0);
                *is_probing = false;
                let closes = *succeeded >= self.policy.map_or(PROBES, |policy| policy.probes);
                if closes {
                    self.reset();
                }
                closes
            }
        }
    }

    /// A run failed.
    pub(crate) fn failed(&mut self, now: Instant) -> Option<Opened> {
        match self.phase {
            Phase::Closed => {
                let policy = self.policy?;
                self.runs.add(1, 1, now);
                let (runs, failed) = (self.runs.runs, self.runs.failed);
                let is_much = f64::from(failed) >= policy.ratio * f64::from(runs);
                let window = policy.window;
                let why = Why::Failures {
                    failed,
                    runs,
                    window,
                };
                // A burst is no trend: after a restart, the only messages left may be those that failed before.
                let lasts = self.runs.is_spread();
                (is_much && lasts && runs >= policy.runs_min).then(|| self.open(why, now, now))
            }
            Phase::Open { .. } => None,
            Phase::HalfOpen { why, .. } => Some(self.open(why, now, now)),
        }
    }

    /// A probe ended without an outcome: its partition was revoked, or the call was cancelled.
    pub(crate) fn cancelled(&mut self) {
        if let Phase::HalfOpen { is_probing, .. } = &mut self.phase {
            *is_probing = false;
        }
    }

    /// A probe begins.
    pub(crate) fn probing(&mut self) {
        if let Phase::HalfOpen { is_probing, .. } = &mut self.phase {
            *is_probing = true;
        }
    }

    pub(crate) fn gate(&mut self, now: Instant) -> Gate {
        self.half_open(now);
        match self.phase {
            Phase::Closed => Gate::Pass,
            Phase::Open { until, .. } => Gate::Wait(until),
            Phase::HalfOpen {
                is_probing: true, ..
            } => Gate::Wait(now + PROBE_LOOK),
            Phase::HalfOpen { .. } => Gate::Probe,
        }
    }

    /// A dead letter is about to be sent. It counts if the answer is `Send`.
    pub(crate) fn dead_letter(&mut self, now: Instant) -> DeadLetterPermit {
        self.half_open(now);
        let until = match self.phase {
            Phase::Closed => now,
            Phase::Open { until, .. } => until,
            Phase::HalfOpen { next_letter, .. } => next_letter,
        };
        if now < until {
            return DeadLetterPermit::Wait {
                until,
                opened: None,
            };
        }
        self.letters.turn(now);
        if let Some(per_minute_max) = self.per_minute_max
            && self.letters.runs >= per_minute_max
        {
            let room = self.letters.room_at(per_minute_max, now);
            let opened = self.open(Why::DeadLetters { per_minute_max }, now, room);
            return DeadLetterPermit::Wait {
                until: opened.until,
                opened: Some(opened),
            };
        }
        self.letters.add(1, 0, now);
        let pause = self.pause();
        if let Phase::HalfOpen { next_letter, .. } = &mut self.phase {
            *next_letter = now + pause;
        }
        DeadLetterPermit::Send
    }

    pub(crate) fn state(&self) -> State {
        match self.phase {
            Phase::Closed => State::Closed,
            Phase::Open { since, until, why } => State::Open { since, until, why },
            Phase::HalfOpen {
                since,
                why,
                succeeded,
                ..
            } => State::HalfOpen {
                since,
                why,
                succeeded,
                probes: self.policy.map_or(PROBES, |policy| policy.probes),
            },
        }
    }

    fn pause(&self) -> Duration {
        self.policy.map_or(PAUSE, |policy| policy.pause)
    }

    fn open(&mut self, why: Why, now: Instant, not_before: Instant) -> Opened {
        let until = (now + self.pause()).max(not_before);
        let (since, is_again) = match self.phase {
            Phase::Closed => (now, false),
            Phase::Open { since, .. } | Phase::HalfOpen { since, .. } => (since, true),
        };
        self.phase = Phase::Open { since, until, why };
        Opened {
            why,
            until,
            is_again,
        }
    }

    /// Makes an open breaker half-open if its pause is over.
    fn half_open(&mut self, now: Instant) {
        if let Phase::Open { since, until, why } = self.phase
            && now >= until
        {
            self.phase = Phase::HalfOpen {
                since,
                why,
                is_probing: false,
                succeeded: 0,
                next_letter: now,
            };
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failures {
                failed,
                runs,
                window,
            } => write!(f, "{failed} of {runs} runs failed within {window:?}"),
            Self::DeadLetters { per_minute_max } => {
                write!(f, "more than {per_minute_max} dead letters a minute")
            }
        }
    }
}

/// Counts of the last `SLOTS` sub-windows, the present one included.
#[derive(Debug)]
struct Window {
    width: Duration,
    /// When sub-window 0 began.
    begin: Option<Instant>,
    /// The present sub-window.
    slot: u64,
    slots: [(u32, u32); SLOTS as usize],
    runs: u32,
    failed: u32,
}

impl Window {
    fn new(length: Duration) -> Self {
        Self {
            width: (length / SLOTS as u32).max(Duration::from_nanos(1)),
            begin: None,
            slot: 0,
            slots: [(0, 0); SLOTS as usize],
            runs: 0,
            failed: 0,
        }
    }

    /// Forgets old sub-windows. A moment before the present sub-window counts as in it.
    fn turn(&mut self, now: Instant) {
        let begin = *self.begin.get_or_insert(now);
        let passed = now.saturating_duration_since(begin).as_nanos() / self.width.as_nanos();
        let slot = (passed as u64).max(self.slot);
        for gone in self.slot + 1..=slot.min(self.slot + SLOTS) {
            let (runs, failed) = std::mem::take(&mut self.slots[(gone % SLOTS) as usize]);
            self.runs -= runs;
            self.failed -= failed;
        }
        self.slot = slot;
    }

    fn add(&mut self, runs: u32, failed: u32, now: Instant) {
        self.turn(now);
        // Runs that would overflow the sum are not counted, so that later subtractions stay correct.
        let runs = runs.min(u32::MAX - self.runs);
        let failed = failed.min(runs);
        let slot = &mut self.slots[(self.slot % SLOTS) as usize];
        slot.0 += runs;
        slot.1 += failed;
        self.runs += runs;
        self.failed += failed;
    }

    /// Whether earlier sub-windows have runs too. Call it after `turn`.
    fn is_spread(&self) -> bool {
        self.slots[(self.slot % SLOTS) as usize].0 < self.runs
    }

    /// When fewer than `most` runs will be left, if no more arrive. Call it after `turn`.
    fn room_at(&self, most: u32, now: Instant) -> Instant {
        let Some(begin) = self.begin else {
            return now;
        };
        let mut left = self.runs;
        for age in (0..SLOTS).rev() {
            let Some(slot) = self.slot.checked_sub(age) else {
                continue;
            };
            left -= self.slots[(slot % SLOTS) as usize].0;
            if left < most {
                let slots = u32::try_from(slot + SLOTS).unwrap_or(u32::MAX);
                return begin + self.width.saturating_mul(slots);
            }
        }
        now + self.width * SLOTS as u32
    }
}

#[cfg(test)]
mod tests;
