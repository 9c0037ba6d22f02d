//! Which message of a lane may run next, and how far the one at its head has come.
//!
//! Pure: no clock, no Lua, no Kafka. A lane is a partition: its messages run one after the other, each by all of its
//! listeners in the order of declaration; **it moves on when every listener has its outcome**, and a retry runs only
//! those that failed.

use std::collections::VecDeque;
use std::ops::Range;
use std::time::Instant;

pub(crate) struct Lane<M> {
    messages: VecDeque<M>,
    /// Number of the message at the head.
    first: u64,
    /// Of the head; empty before its first run or when its one listener is simply to run.
    progress: Vec<Progress>,
    /// Messages below this number were there at the last look of `take_old`.
    looked: u64,
    /// Messages below this number were handed out by `take_old`.
    old: u64,
}

/// How far one listener has come with the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) listener: String,
    /// Runs so far, the present one included.
    pub(crate) attempt: u32,
    pub(crate) stage: Stage,
    /// Milliseconds since the epoch of the first failure.
    pub(crate) failing_since: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Due,
    Running,
    /// Failed; due again then.
    BackOff(Instant),
    /// Failed with `onError = "stop"`: it stays.
    Halted,
    Final,
}

/// What is to be done with a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Next {
    /// Run this listener (index in the names given).
    Run(usize),
    /// A call is under way.
    Running,
    /// Nothing before then.
    BackOff(Instant),
    Halted,
    /// Every listener has its outcome: call `advance`.
    Finished,
    Empty,
}

impl<M> Lane<M> {
    pub(crate) fn new(first: u64) -> Self {
        Self {
            messages: VecDeque::new(),
            first,
            progress: Vec::new(),
            looked: first,
            old: first,
        }
    }

    pub(crate) fn push(&mut self, messages: impl IntoIterator<Item = M>) {
        self.messages.extend(messages);
    }

    pub(crate) fn head(&self) -> Option<&M> {
        self.messages.front()
    }

    pub(crate) fn first(&self) -> u64 {
        self.first
    }

    /// Whether the head has not been touched yet: with one listener it can then simply run.
    pub(crate) fn is_fresh(&self) -> bool {
        self.progress.is_empty()
    }

    pub(crate) fn next(&self, listeners: usize) -> Next {
        if self.messages.is_empty() {
            return Next::Empty;
        }
        if self.progress.is_empty() {
            return if listeners == 0 {
                Next::Finished
            } else {
                Next::Run(0)
            };
        }
        // In the order of declaration: what is due runs before a back-off further on is waited for.
        let mut wait: Option<Instant> = None;
        let mut halted = false;
        for (index, progress) in self.progress.iter().enumerate() {
            match progress.stage {
                Stage::Running => return Next::Running,
                Stage::Due => return Next::Run(index),
                Stage::BackOff(until) => wait = Some(wait.map_or(until, |other| other.min(until))),
                Stage::Halted => halted = true,
                Stage::Final => {}
            }
        }
        match (wait, halted) {
            (_, true) => Next::Halted,
            (Some(until), false) => Next::BackOff(until),
            (None, false) => Next::Finished,
        }
    }

    /// The head's progress, made at its first use. `names` are the listeners of the topic in the bundle in force.
    pub(crate) fn progress<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> &mut Vec<Progress> {
        if self.progress.is_empty() {
            self.progress.extend(names.map(Progress::new));
        }
        &mut self.progress
    }

    /// Runs of the head by this listener so far.
    pub(crate) fn attempt(&self, index: usize) -> u32 {
        self.progress
            .get(index)
            .map_or(0, |progress| progress.attempt)
    }

    pub(crate) fn begun(&mut self) -> &mut [Progress] {
        &mut self.progress
    }

    /// The head has all its outcomes: the next message is at the head.
    pub(crate) fn advance(&mut self) -> Option<M> {
        self.progress.clear();
        self.first += 1;
        self.messages.pop_front()
    }

    /// Other listeners (a reload): who was there keeps its outcome and attempts, who is new is due. Returns those that
    /// are gone without an outcome.
    pub(crate) fn set_listeners<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        if self.progress.is_empty() {
            return Vec::new();
        }
        let mut old = std::mem::take(&mut self.progress);
        for name in names {
            let found = old.iter().position(|progress| progress.listener == name);
            self.progress
                .push(found.map_or_else(|| Progress::new(name), |index| old.remove(index)));
        }
        // A call that runs keeps the lane until it returns, whoever is still interested.
        self.progress
            .extend(old.extract_if(.., |progress| progress.stage == Stage::Running));
        if self.progress.is_empty() {
            // Nobody is left to run it, which must not look like a message that has not begun.
            self.progress.push(Progress {
                stage: Stage::Final,
                ..Progress::new("")
            });
        }
        old.into_iter()
            .filter(|progress| progress.stage != Stage::Final)
            .map(|progress| progress.listener)
            .collect()
    }

    /// A new bundle ends all back-offs. Whether there was one.
    pub(crate) fn end_back_off(&mut self) -> bool {
        let mut ended = false;
        for progress in &mut self.progress {
            if matches!(progress.stage, Stage::BackOff(_) | Stage::Halted) {
                progress.stage = Stage::Due;
                ended = true;
            }
        }
        ended
    }

    /// Back-offs that are over by now are due.
    pub(crate) fn tick(&mut self, now: Instant) {
        for progress in &mut self.progress {
            if matches!(progress.stage, Stage::BackOff(until) if until <= now) {
                progress.stage = Stage::Due;
            }
        }
    }

    /// The messages that were here at the call before last and since, each handed out once: called once a second, it
    /// finds what has waited for longer than that.
    pub(crate) fn take_old(&mut self) -> impl Iterator<Item = &mut M> {
        let range = self.old.max(self.first)..self.looked.max(self.first);
        self.old = range.end;
        self.looked = self.first + self.messages.len() as u64;
        let Range { start, end } = range;
        let first = self.first;
        self.messages
            .range_mut((start.min(end) - first) as usize..(end - first) as usize)
    }
}

impl Progress {
    fn new(listener: &str) -> Self {
        Self {
            listener: listener.to_owned(),
            attempt: 0,
            stage: Stage::Due,
            failing_since: None,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const TWO: [&str; 2] = ["a", "b"];

    fn lane(messages: u64) -> Lane<u64> {
        let mut lane = Lane::new(0);
        lane.push(0..messages);
        lane
    }

    fn set(lane: &mut Lane<u64>, index: usize, stage: Stage) {
        lane.progress(TWO.into_iter())[index].stage = stage;
    }

    #[track_caller]
    fn check(stages: [Stage; 2], expected: Next) {
        let mut lane = lane(1);
        for (index, stage) in stages.into_iter().enumerate() {
            set(&mut lane, index, stage);
        }
        assert_eq!(lane.next(2), expected);
    }

    #[test]
    fn listeners_run_in_the_order_of_declaration() {
        check([Stage::Due, Stage::Due], Next::Run(0));
        check([Stage::Running, Stage::Due], Next::Running);
        check([Stage::Final, Stage::Due], Next::Run(1));
        check([Stage::Final, Stage::Final], Next::Finished);
    }

    #[test]
    fn a_failing_first_listener_does_not_keep_the_second_from_running() {
        let until = Instant::now() + Duration::from_secs(1);
        check([Stage::BackOff(until), Stage::Due], Next::Run(1));
        check([Stage::BackOff(until), Stage::Final], Next::BackOff(until));
        check(
            [
                Stage::BackOff(until),
                Stage::BackOff(until + Duration::from_secs(1)),
            ],
            Next::BackOff(until),
        );
        check([Stage::Halted, Stage::Final], Next::Halted);
    }

    #[test]
    fn a_retry_runs_only_the_listener_that_failed() {
        let now = Instant::now();
        let mut lane = lane(1);
        set(&mut lane, 0, Stage::BackOff(now));
        set(&mut lane, 1, Stage::Final);
        lane.tick(now);
        assert_eq!(lane.next(2), Next::Run(0));
    }

    #[test]
    fn the_next_message_waits_for_the_head() {
        let mut lane = lane(2);
        set(&mut lane, 0, Stage::Running);
        assert_eq!((lane.next(2), lane.first()), (Next::Running, 0));
        assert_eq!(lane.advance(), Some(0));
        assert_eq!(
            (lane.next(2), lane.first(), lane.is_fresh()),
            (Next::Run(0), 1, true)
        );
        lane.advance();
        assert_eq!(lane.next(2), Next::Empty);
    }

    #[test]
    fn a_reload_keeps_outcomes_and_ends_back_offs() {
        let mut lane = lane(1);
        set(&mut lane, 0, Stage::Final);
        set(
            &mut lane,
            1,
            Stage::BackOff(Instant::now() + Duration::from_secs(9)),
        );
        assert_eq!(lane.set_listeners(["c", "a"].into_iter()), ["b"]);
        assert_eq!(lane.next(2), Next::Run(0));
        assert!(!lane.end_back_off());
        assert_eq!(lane.set_listeners(std::iter::empty()), ["c"]);
        assert_eq!(lane.next(0), Next::Finished);
    }

    #[test]
    fn a_running_call_keeps_the_lane_though_its_listener_is_gone() {
        let mut lane = lane(1);
        set(&mut lane, 0, Stage::Running);
        set(&mut lane, 1, Stage::Final);
        assert!(lane.set_listeners(["b"].into_iter()).is_empty());
        assert_eq!(lane.next(1), Next::Running);
    }

    #[test]
    fn what_waits_longer_than_a_second_is_handed_out_once() {
        let mut lane = lane(3);
        assert_eq!(lane.take_old().count(), 0);
        lane.push(3..4);
        lane.advance();
        assert_eq!(
            lane.take_old().map(|message| *message).collect::<Vec<_>>(),
            [1, 2]
        );
        assert_eq!(
            lane.take_old().map(|message| *message).collect::<Vec<_>>(),
            [3]
        );
        for _ in 0..3 {
            lane.advance();
        }
        assert_eq!(lane.take_old().count(), 0);
    }
}
