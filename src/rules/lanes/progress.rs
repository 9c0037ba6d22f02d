//! One lane whose head has begun: the progress of each listener with it, and the messages that wait behind it.

use std::collections::VecDeque;
use std::time::Instant;

pub(crate) struct Lane<M> {
    /// The number of the head.
    pub(crate) number: u64,
    pub(crate) message: M,
    pub(crate) progress: Vec<Progress>,
    /// The head runs with no other call in its VM: it is suspected to have used up the memory, or to have ended the
    /// process.
    pub(crate) alone: bool,
    /// When a rate limit let the head run, unless it has failed since. Until then it was not the head that held the
    /// lane up.
    pub(crate) admitted: Option<Instant>,
    /// The lane went back to the head, since a record of it was refused or late: it goes on only when what the head
    /// emits is acknowledged.
    pub(crate) is_strict: bool,
    /// The messages behind the head.
    pub(super) waiting: VecDeque<Behind<M>>,
    pub(super) is_ready: bool,
}

/// A message behind the head.
pub(super) struct Behind<M> {
    pub(super) number: u64,
    pub(super) message: M,
    /// Of a message that was the head before.
    progress: Option<Vec<Progress>>,
}

impl<M> Behind<M> {
    pub(super) fn new(number: u64, message: M) -> Self {
        Self {
            number,
            message,
            progress: None,
        }
    }

    /// Nothing of it has begun.
    pub(super) fn is_new(&self) -> bool {
        let is_new = |one: &Progress| one.attempt == 0 && one.stage == Stage::Due;
        self.progress
            .as_ref()
            .is_none_or(|all| all.iter().all(is_new))
    }
}

/// A message that was the head of a lane, or did not need one.
pub(crate) struct Headed<M> {
    pub(crate) number: u64,
    pub(crate) message: M,
    pub(crate) progress: Vec<Progress>,
}

/// The progress of one listener with the head.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Progress {
    pub(crate) listener: String,
    /// Runs so far, the present one included.
    pub(crate) attempt: u32,
    pub(crate) stage: Stage,
    /// Runs that found the outside away: each counts as no attempt.
    pub(crate) away: u32,
    /// The first failure, in milliseconds since the Unix epoch.
    pub(crate) failing_since: Option<i64>,
    /// The bundle of the last failure.
    pub(crate) failed_in: Option<u64>,
    /// The present call or record began while its listener committed automatically, and the listener is manual now:
    /// its end alone finishes it.
    pub(crate) finishes_after_switch_to_manual: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    Due,
    Running,
    /// In a batch, or in the search for a message of one that has failed: the worker's batches decide.
    Batched,
    /// Failed; due again at this moment.
    BackOff(Instant),
    /// Otherwise due, but its listener takes no messages now: a breaker, a pause.
    Held,
    /// On its way to another topic; final when the broker has acknowledged it.
    Sending,
    /// Could not be sent; due to be sent again at this moment.
    Unsent(Instant),
    SendDue,
    /// Done, and its records are to be written again, behind those of an earlier message.
    Unwritten,
    /// It stays until a reload or an operator releases it.
    Halted,
    Final,
}

/// The next need of a lane.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum LaneState {
    /// Run this listener (index in the names given).
    Run(usize),
    /// Send this listener's record again.
    Send(usize),
    /// A call or a record is under way.
    Busy,
    /// Nothing before this moment.
    Wait(Instant),
    /// Nothing until an outside change.
    Stuck,
    /// Every listener has its outcome: call `advance`.
    Finished,
}

impl<M> Headed<M> {
    /// A message that runs anew.
    pub(crate) fn anew<'a>(number: u64, message: M, names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            number,
            message,
            progress: names.map(Progress::new).collect(),
        }
    }

    /// A message that its one listener has done in its first run.
    pub(crate) fn done(number: u64, message: M, listener: &str) -> Self {
        Self {
            number,
            message,
            progress: vec![Progress {
                attempt: 1,
                stage: Stage::Final,
                ..Progress::new(listener)
            }],
        }
    }
}

impl<M> Lane<M> {
    /// `names` are the listeners of the topic in the bundle in force.
    pub(crate) fn new<'a>(number: u64, message: M, names: impl Iterator<Item = &'a str>) -> Self {
        Self {
            number,
            message,
            progress: names.map(Progress::new).collect(),
            alone: false,
            admitted: None,
            is_strict: false,
            waiting: VecDeque::new(),
            is_ready: false,
        }
    }

    pub(crate) fn state(&self) -> LaneState {
        // A lane has one call at a time, even if other listeners become due while it waits; a record can be sent
        // beside it.
        let is_running = |one: &Progress| one.stage == Stage::Running;
        let mut busy = self.progress.iter().any(is_running);
        let may_run = !busy;
        // In the order of declaration: a due listener runs even if a later one is in back-off.
        let mut wait: Option<Instant> = None;
        let mut stuck = false;
        for (index, progress) in self.progress.iter().enumerate() {
            match progress.stage {
                Stage::Due if may_run => return LaneState::Run(index),
                Stage::SendDue | Stage::Unwritten => return LaneState::Send(index),
                Stage::BackOff(until) | Stage::Unsent(until) => {
                    wait = Some(wait.map_or(until, |other| other.min(until)));
                }
                Stage::Sending | Stage::Batched => busy = true,
                Stage::Held | Stage::Halted => stuck = true,
                Stage::Due | Stage::Running | Stage::Final => {}
            }
        }
        match (wait, busy, stuck) {
            (Some(until), ..) => LaneState::Wait(until),
            (None, true, _) => LaneState::Busy,
            (None, false, true) => LaneState::Stuck,
            (None, false, false) => LaneState::Finished,
        }
    }

    /// Back-offs that have ended are due.
    pub(crate) fn tick(&mut self, now: Instant) {
        for progress in &mut self.progress {
            match progress.stage {
                Stage::BackOff(until) if until <= now => progress.stage = Stage::Due,
                Stage::Unsent(until) if until <= now => progress.stage = Stage::SendDue,
                _ => {}
            }
        }
    }

    /// The progress of a message in the lane that is its head, or was.
    pub(crate) fn progress_of(&mut self, number: u64) -> Option<&mut Vec<Progress>> {
        if self.number == number {
            return Some(&mut self.progress);
        }
        let mut waiting = self.waiting.iter_mut();
        waiting.find(|one| one.number == number)?.progress.as_mut()
    }

    pub(crate) fn index_of(&self, listener: &str) -> Option<usize> {
        let mut progress = self.progress.iter();
        progress.position(|progress| progress.listener == listener)
    }

    /// The head has all its outcomes. Returns the lane with its next message as a new head; `None` if there is no
    /// message.
    pub(crate) fn advance<'a>(self, names: impl Iterator<Item = &'a str>) -> Option<Self> {
        let Self {
            waiting, progress, ..
        } = self;
        Self::next(waiting, progress, names)
    }

    /// As `advance`, and returns the old head, too.
    pub(crate) fn part<'a>(
        self,
        names: impl Iterator<Item = &'a str>,
    ) -> (Headed<M>, Option<Self>) {
        let Self {
            number,
            message,
            progress,
            waiting,
            ..
        } = self;
        let headed = Headed {
            number,
            message,
            progress,
        };
        (headed, Self::next(waiting, Vec::new(), names))
    }

    /// `room` is a vector whose content is not needed.
    pub(super) fn next<'a>(
        mut waiting: VecDeque<Behind<M>>,
        mut room: Vec<Progress>,
        names: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let next = waiting.pop_front()?;
        room.clear();
        let mut known = next.progress.unwrap_or_default();
        room.extend(names.map(|name| {
            let found = known.iter().position(|progress| progress.listener == name);
            found.map_or_else(|| Progress::new(name), |index| known.swap_remove(index))
        }));
        // Records of a removed listener are written all the same.
        room.extend(known.extract_if(.., |one| one.stage == Stage::Unwritten));
        Some(Self {
            number: next.number,
            message: next.message,
            progress: room,
            alone: false,
            admitted: None,
            is_strict: false,
            waiting,
            is_ready: false,
        })
    }

    /// The lane goes back to the first of these messages, which have been its heads. The others follow it, then the
    /// present head and what is behind that.
    pub(crate) fn back_to(
        messages: impl IntoIterator<Item = Headed<M>>,
        open: Option<Self>,
    ) -> Option<Self> {
        let mut messages = messages.into_iter();
        let first = messages.next()?;
        let behind = |one: Headed<M>| Behind {
            number: one.number,
            message: one.message,
            progress: Some(one.progress),
        };
        let mut waiting: VecDeque<_> = messages.map(behind).collect();
        if let Some(open) = open {
            waiting.push_back(Behind {
                number: open.number,
                message: open.message,
                progress: Some(open.progress),
            });
            waiting.extend(open.waiting);
        }
        Some(Self {
            number: first.number,
            message: first.message,
            progress: first.progress,
            alone: false,
            admitted: None,
            is_strict: true,
            waiting,
            is_ready: false,
        })
    }

    pub(super) fn set_listeners<'a>(
        &mut self,
        names: impl Iterator<Item = &'a str>,
    ) -> Vec<String> {
        let mut old = std::mem::take(&mut self.progress);
        for name in names {
            let found = old.iter().position(|progress| progress.listener == name);
            self.progress
                .push(found.map_or_else(|| Progress::new(name), |index| old.remove(index)));
        }
        // A call or a record under way keeps the lane until it ends, even if its listener is removed.
        self.progress.extend(old.extract_if(.., |progress| {
            matches!(
                progress.stage,
                Stage::Running | Stage::Batched | Stage::Sending | Stage::Unwritten
            )
        }));
        old.into_iter()
            .filter(|progress| progress.stage != Stage::Final)
            .map(|progress| progress.listener)
            .collect()
    }

    /// Returns how many back-offs it ended. A halted message may run again too.
    pub(super) fn end_back_offs(&mut self, listener: Option<&str>) -> usize {
        let mut ended = 0;
        for progress in &mut self.progress {
            if listener.is_some_and(|listener| progress.listener != listener) {
                continue;
            }
            match progress.stage {
                Stage::BackOff(_) | Stage::Halted => {
                    progress.stage = Stage::Due;
                    ended += 1;
                }
                Stage::Unsent(_) => {
                    progress.stage = Stage::SendDue;
                    ended += 1;
                }
                _ => {}
            }
        }
        ended
    }

    pub(crate) fn release_held(&mut self) -> bool {
        let mut released = false;
        for progress in &mut self.progress {
            if progress.stage == Stage::Held {
                progress.stage = Stage::Due;
                released = true;
            }
        }
        released
    }

    pub(super) fn each_below(&mut self, number: u64, each: &mut impl FnMut(&mut M)) {
        if self.number < number {
            each(&mut self.message);
        }
        for behind in self
            .waiting
            .iter_mut()
            .take_while(|one| one.number < number)
        {
            each(&mut behind.message);
        }
    }
}

impl Progress {
    /// The run that began last counts as no attempt.
    pub(crate) fn take_attempt_back(&mut self) {
        self.attempt = self.attempt.saturating_sub(1);
    }

    /// The records of this listener are to be written again. A reload may have removed the listener since.
    pub(crate) fn unwrite(all: &mut Vec<Self>, listener: &str) {
        let found = all.iter().position(|one| one.listener == listener);
        let index = found.unwrap_or_else(|| {
            all.push(Self::new(listener));
            all.len() - 1
        });
        all[index].stage = Stage::Unwritten;
    }

    pub(super) fn new(listener: &str) -> Self {
        Self {
            listener: listener.to_owned(),
            attempt: 0,
            stage: Stage::Due,
            away: 0,
            failing_since: None,
            failed_in: None,
            finishes_after_switch_to_manual: false,
        }
    }
}
