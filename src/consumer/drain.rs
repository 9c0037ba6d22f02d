//! The drain of partitions that leave: running calls finish until a deadline, the rest is cancelled, positions are
//! committed.
//!
//! Pure: the moment and the state of the partitions come in, the next step goes out. A rebalance, a new subscription,
//! a reload that removes topics and the end of the consumer all use this drain.

use std::time::{Duration, Instant};

/// How long the last commit may take, counted from the end of the last call.
pub(super) const LAST_COMMIT: Duration = Duration::from_secs(5);

#[derive(Debug)]
pub(super) struct Drain {
    /// The moment at which running calls are cancelled; `None` after the last cancel.
    cancel_at: Option<Instant>,
    cancel_again_after: Option<Duration>,
    overdue_at: Option<Instant>,
    /// The drain ends at this moment, even if calls still run.
    ends_at: Option<Instant>,
    commits: bool,
    commit_until: Option<Instant>,
}

/// The state of the partitions in the drain.
#[derive(Clone, Copy, Debug)]
pub(super) struct State {
    /// None of their calls runs.
    pub(super) is_drained: bool,
    /// Their positions are committed, and no commit is in flight.
    pub(super) is_committed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    /// Cancel the calls that still run, and call for the next step.
    Cancel,
    /// A cancelled call still runs although another member is to get its partition.
    Overdue,
    Done,
}

impl Drain {
    /// Cancels once, and commits at the end.
    pub(super) fn new(cancel_at: Instant) -> Self {
        Self {
            cancel_at: Some(cancel_at),
            cancel_again_after: None,
            overdue_at: None,
            ends_at: None,
            commits: true,
            commit_until: None,
        }
    }

    /// Done as soon as no call runs.
    pub(super) fn without_commit(self) -> Self {
        Self {
            commits: false,
            ..self
        }
    }

    /// Cancels repeatedly, with this time in between.
    pub(super) fn cancels_again(self, after: Duration) -> Self {
        Self {
            cancel_again_after: Some(after),
            ..self
        }
    }

    /// Overdue this long after the cancel.
    pub(super) fn overdue_after(self, after: Duration) -> Self {
        Self {
            overdue_at: self.cancel_at.map(|at| at + after),
            ..self
        }
    }

    /// Done this long after the cancel, even if calls still run.
    pub(super) fn ends_after(self, after: Duration) -> Self {
        Self {
            ends_at: self.cancel_at.map(|at| at + after),
            ..self
        }
    }

    pub(super) fn set_cancel_at(&mut self, at: Instant) {
        self.cancel_at = Some(at);
    }

    pub(super) fn step(&mut self, state: State, now: Instant) -> Step {
        let is_reached = |at: Option<Instant>| at.is_some_and(|at| now >= at);
        if !state.is_drained && is_reached(self.cancel_at) {
            self.cancel_at = self.cancel_again_after.map(|after| now + after);
            return Step::Cancel;
        }
        if is_reached(self.ends_at) {
            return Step::Done;
        }
        if !state.is_drained {
            let is_overdue = self.overdue_at.is_some_and(|at| now > at);
            return if is_overdue {
                Step::Overdue
            } else {
                Step::Wait
            };
        }
        if !self.commits || state.is_committed {
            return Step::Done;
        }
        let until = *self.commit_until.get_or_insert(now + LAST_COMMIT);
        if now >= until { Step::Done } else { Step::Wait }
    }

    /// When the next step is due without an event.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.commit_until.or(self.cancel_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RUNS: State = State {
        is_drained: false,
        is_committed: false,
    };
    const UNCOMMITTED: State = State {
        is_drained: true,
        is_committed: false,
    };
    const COMMITTED: State = State {
        is_drained: true,
        is_committed: true,
    };

    /// The drain by these moments, in seconds since `start`, and the step that is expected of each.
    #[track_caller]
    fn check(
        drain: impl FnOnce(Drain) -> Drain,
        cancel_at: u64,
        steps: &[(u64, State, Step)],
    ) -> Drain {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut drain = drain(Drain::new(at(cancel_at)));
        for (index, &(seconds, state, expected)) in steps.iter().enumerate() {
            let step = drain.step(state, at(seconds));
            assert_eq!(step, expected, "step {index}, at {seconds} s");
        }
        drain
    }

    #[test]
    fn calls_finish_and_positions_are_committed() {
        check(
            |drain| drain,
            30,
            &[
                (0, RUNS, Step::Wait),
                (29, RUNS, Step::Wait),
                (29, UNCOMMITTED, Step::Wait),
                (30, COMMITTED, Step::Done),
            ],
        );
    }

    #[test]
    fn a_call_that_still_runs_at_the_deadline_is_cancelled_once() {
        let drain = check(
            |drain| drain,
            30,
            &[(30, RUNS, Step::Cancel), (30, RUNS, Step::Wait)],
        );
        assert_eq!(drain.deadline(), None);
    }

    #[test]
    fn nothing_is_cancelled_where_nothing_runs() {
        check(|drain| drain, 30, &[(31, COMMITTED, Step::Done)]);
    }

    #[test]
    fn the_last_commit_has_its_time_from_the_end_of_the_last_call() {
        check(
            |drain| drain,
            30,
            &[
                (20, UNCOMMITTED, Step::Wait),
                (24, UNCOMMITTED, Step::Wait),
                (25, UNCOMMITTED, Step::Done),
            ],
        );
    }

    #[test]
    fn a_lost_assignment_is_not_committed() {
        check(
            Drain::without_commit,
            0,
            &[(0, RUNS, Step::Cancel), (1, UNCOMMITTED, Step::Done)],
        );
    }

    #[test]
    fn a_call_that_a_cancel_does_not_end_is_overdue() {
        check(
            |drain| drain.overdue_after(Duration::from_secs(10)),
            30,
            &[
                (30, RUNS, Step::Cancel),
                (40, RUNS, Step::Wait),
                (41, RUNS, Step::Overdue),
                (42, RUNS, Step::Overdue),
            ],
        );
    }

    #[test]
    fn a_reload_cancels_again_and_again() {
        let again = Duration::from_secs(45);
        check(
            |drain| drain.without_commit().cancels_again(again),
            30,
            &[
                (31, RUNS, Step::Cancel),
                (31, RUNS, Step::Wait),
                (75, RUNS, Step::Wait),
                (76, RUNS, Step::Cancel),
            ],
        );
    }

    #[test]
    fn a_stop_cancels_first_and_then_ends_whatever_runs() {
        check(
            |drain| drain.ends_after(LAST_COMMIT),
            30,
            &[
                (36, RUNS, Step::Cancel),
                (36, RUNS, Step::Done),
                (36, UNCOMMITTED, Step::Done),
            ],
        );
    }

    #[test]
    fn the_deadline_is_that_of_the_cancel_and_then_that_of_the_commit() {
        let start = Instant::now();
        let cancel_at = start + Duration::from_secs(30);
        let mut drain = Drain::new(cancel_at);
        assert_eq!(drain.deadline(), Some(cancel_at));
        drain.step(UNCOMMITTED, start);
        assert_eq!(drain.deadline(), Some(start + LAST_COMMIT));
    }
}
