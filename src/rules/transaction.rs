//! One transaction after the other: what enters, when it ends, and what follows each answer.
//!
//! Pure: events and moments come in, actions go out. The caller has the producer, and the positions of partitions.
//! A finished message waits in the queue of its lane and partition until it enters a transaction with all its records.
//! **A lane enters in its order, and a transaction is committed once**: after an answer that leaves it open, a new
//! producer with the same id fences the old one first. Only then the group's offsets tell what has happened.

mod content;
mod exchange;
mod positions;
mod queues;

use std::time::{Duration, Instant};

use content::Content;
pub(crate) use exchange::{Action, Answer, Counts, Found, Settings, Step, Why};
pub(crate) use positions::{Enters, Positions};
use queues::Queues;
pub(crate) use queues::{Item, Lane, Member};

/// The pause before another producer is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// Two fenced producers in this time are the work of another process with the same id.
const FENCED_TWICE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// There is no producer; one is tried at this moment.
    Without {
        at: Option<Instant>,
    },
    Starting {
        until: Instant,
    },
    Ready,
    Open {
        since: Instant,
    },
    Ending {
        since: Instant,
        until: Instant,
    },
    Aborting {
        since: Instant,
        until: Instant,
    },
    /// The group's offsets are read.
    Reading,
    /// … and are to be read again.
    ReadAgain {
        at: Instant,
    },
}

#[derive(Debug)]
pub(crate) struct Machine<T> {
    settings: Settings,
    state: State,
    queues: Queues<T>,
    /// The messages of the transaction under way.
    content: Content<T>,
    /// A transaction was open when its producer had to go, and the group's offsets tell its end.
    is_unknown: bool,
    /// A partition of the content was lost.
    is_poisoned: bool,
    /// A transaction has changed the positions since messages did not fit: they may fit now.
    has_changed: bool,
    /// Producers that were started.
    starts: u64,
    /// The most messages of the next transaction, after a refused record.
    most: usize,
    /// The refused record: the part of its message, and why.
    refused: Option<(usize, String)>,
    fenced_at: Option<Instant>,
    counts: Counts,
}

impl<T: Clone> Machine<T> {
    pub(crate) fn new(settings: Settings) -> Self {
        Self {
            settings,
            state: State::Without { at: None },
            queues: Queues::default(),
            content: Content::default(),
            is_unknown: false,
            is_poisoned: false,
            has_changed: false,
            starts: 0,
            most: settings.messages,
            refused: None,
            fenced_at: None,
            counts: Counts::default(),
        }
    }

    pub(crate) fn counts(&self) -> Counts {
        Counts {
            replaced: self.starts.saturating_sub(1),
            ..self.counts
        }
    }

    /// A message has its outcome in all its listeners.
    pub(crate) fn finished(&mut self, item: Item<T>) {
        self.queues.push(item);
    }

    /// The lane has gone back to its refused message: from now on its messages come anew.
    pub(crate) fn went_back(&mut self, lane: Lane) {
        self.queues.open_lane(lane);
    }

    /// The same of a partition with batches.
    pub(crate) fn partition_went_back(&mut self, epoch: u64) {
        self.queues.open_partition(epoch);
    }

    /// Whether messages of this epoch are still to be committed. Those that do not fit run again elsewhere.
    pub(crate) fn owes(&self, epoch: u64) -> bool {
        self.queues.is_ready(epoch) || self.content.contains(epoch)
    }

    /// Messages and bytes that wait for a commit.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let (messages, bytes) = self.queues.waiting();
        let content = &self.content;
        (messages + content.messages(), bytes + content.bytes())
    }

    /// The partition is not ours any more: nothing of it may be committed.
    pub(crate) fn lost(&mut self, epoch: u64, actions: &mut Vec<Action<T>>, now: Instant) {
        self.queues.forget(epoch);
        if !self.content.contains(epoch) {
            return;
        }
        match self.state {
            State::Open { since } => {
                self.abort(since, actions, now);
            }
            State::Ending { .. } if !self.is_poisoned => {
                self.is_poisoned = true;
                actions.push(Action::Poison);
            }
            _ => {}
        }
        self.content.forget(epoch);
    }

    /// When the next step is due without an event.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        match self.state {
            State::Without { at } => at,
            State::Open { since } => Some(since + self.settings.interval),
            State::Starting { until }
            | State::Ending { until, .. }
            | State::Aborting { until, .. } => Some(until),
            State::ReadAgain { at } => Some(at),
            State::Ready | State::Reading => None,
        }
    }

    /// Takes every step that is due.
    pub(crate) fn step(&mut self, mut step: Step<'_>) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        let now = step.now;
        match self.state {
            State::Without { at } if at.is_none_or(|at| now >= at) => {
                self.start(&mut actions, now);
            }
            State::Starting { until } if now >= until => {
                self.start(&mut actions, now);
            }
            State::Ending { until, .. } if now >= until => {
                self.unknown();
                self.start(&mut actions, now);
            }
            State::Aborting { until, .. } if now >= until => {
                self.requeue(&mut actions);
                self.start(&mut actions, now);
            }
            State::ReadAgain { at } if now >= at => {
                self.state = State::Reading;
                actions.push(Action::ReadBack);
            }
            State::Ready => self.begin(&mut step, &mut actions),
            _ => {}
        }
        if let State::Open { since } = self.state {
            self.fill(&mut step, &mut actions);
            let is_full = !self.takes_more() || self.is_heavy();
            if is_full || step.is_hurried || now >= since + self.settings.interval {
                actions.push(Action::End(self.content.epochs()));
                let until = now + self.settings.timeout + 2 * self.settings.call;
                self.state = State::Ending { since, until };
            }
        }
        actions
    }

    /// Half of the budget waits.
    fn is_heavy(&self) -> bool {
        let (_, bytes) = self.waiting();
        bytes >= self.settings.bytes || self.queues.heaviest() >= self.settings.partition_bytes
    }

    fn begin(&mut self, step: &mut Step<'_>, actions: &mut Vec<Action<T>>) {
        let has_held = self.has_changed && self.queues.has_held();
        if !self.queues.has_ready() && !has_held && !step.has_moved {
            return;
        }
        self.has_changed = false;
        actions.push(Action::Begin);
        step.positions.begin();
        self.queues.release_held();
        self.state = State::Open { since: step.now };
    }

    fn fill(&mut self, step: &mut Step<'_>, actions: &mut Vec<Action<T>>) {
        let mut put = Vec::new();
        while self.takes_more()
            && let Some(next) = self.queues.next(step.positions)
        {
            match next {
                Ok(item) => {
                    put.push(item.clone());
                    self.content.push(item);
                }
                Err(lane) => self.divide(lane, actions),
            }
        }
        if !put.is_empty() {
            actions.push(Action::Put(put));
        }
    }

    fn takes_more(&self) -> bool {
        self.content.len() < self.most && self.content.messages() < self.settings.messages
    }

    /// The messages of a call do not fit, and the position waits for one of them. They run again, one by one, unless
    /// the transaction has others of the partition: then there may be room behind it.
    fn divide(&mut self, lane: Lane, actions: &mut Vec<Action<T>>) {
        if self.content.contains(lane.epoch) {
            return;
        }
        if let Some(item) = self.queues.first(lane).cloned() {
            self.queues.close_partition(lane.epoch);
            actions.push(Action::Divide(item));
        }
    }

    fn start(&mut self, actions: &mut Vec<Action<T>>, now: Instant) {
        self.starts += 1;
        actions.push(Action::Start);
        // Its own time-out is that of the transaction, and as much again while an older transaction is aborted.
        let until = now + 2 * self.settings.timeout + self.settings.call;
        self.state = State::Starting { until };
    }

    fn unknown(&mut self) {
        self.counts.unknown += 1;
        self.is_unknown = true;
    }

    fn abort(&mut self, since: Instant, actions: &mut Vec<Action<T>>, now: Instant) {
        actions.push(Action::Abort);
        let until = now + self.settings.timeout + self.settings.call;
        self.state = State::Aborting { since, until };
    }

    fn requeue(&mut self, actions: &mut Vec<Action<T>>) {
        self.counts.aborted += 1;
        self.is_poisoned = false;
        actions.push(Action::Requeued);
        let mut content = self.content.take();
        if let Some((part, text)) = self.refused.take() {
            if self.most <= 1 && content.len() == 1 {
                self.counts.refused += 1;
                let item = content.remove(0);
                if item.is_of_batches {
                    self.queues.close_partition(item.lane.epoch);
                } else {
                    self.queues.close_lane(item.lane);
                }
                actions.push(Action::Refused { item, part, text });
            } else {
                self.most = (content.len() / 2).max(1);
            }
        }
        self.queues.put_back(content);
        // Some may stand in front of one that did not fit.
        self.queues.release_held();
    }

    fn committed(&mut self, actions: &mut Vec<Action<T>>) {
        self.counts.committed += 1;
        self.is_poisoned = false;
        self.has_changed = true;
        self.most = (self.most * 2).min(self.settings.messages);
        actions.push(Action::Committed(self.content.take()));
    }

    /// The producer has answered.
    pub(crate) fn answered(&mut self, answer: Answer, now: Instant) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        match (self.state, answer) {
            (State::Starting { .. }, Answer::Started) => {
                self.state = State::Ready;
                if self.is_unknown {
                    self.state = State::Reading;
                    actions.push(Action::ReadBack);
                }
            }
            (State::Starting { .. }, Answer::NotStarted { is_fenced }) => {
                self.fenced(is_fenced, now, now, &mut actions);
                let at = Some(now + AGAIN);
                self.state = State::Without { at };
            }
            (State::Ending { .. }, Answer::Committed { is_clean }) => {
                self.committed(&mut actions);
                self.go_on(is_clean, &mut actions, now);
            }
            (State::Ending { since, .. }, Answer::NotCommitted(why)) => {
                match why {
                    Why::Refused { part, text } => self.refused = Some((part, text)),
                    Why::Metadata => actions.push(Action::Shorten),
                    Why::Transient => {}
                }
                self.abort(since, &mut actions, now);
            }
            (State::Ending { since, .. }, Answer::Unknown { is_fenced }) => {
                self.fenced(is_fenced, since, now, &mut actions);
                self.unknown();
                self.start(&mut actions, now);
            }
            (State::Aborting { .. }, Answer::Aborted { is_clean }) => {
                self.requeue(&mut actions);
                self.go_on(is_clean, &mut actions, now);
            }
            (State::Aborting { since, .. }, Answer::NotAborted { is_fenced }) => {
                self.fenced(is_fenced, since, now, &mut actions);
                self.requeue(&mut actions);
                self.start(&mut actions, now);
            }
            // Of a producer that was left.
            _ => {}
        }
        actions
    }

    /// A producer with a request that had no answer never begins another transaction: the request may still arrive.
    fn go_on(&mut self, is_clean: bool, actions: &mut Vec<Action<T>>, now: Instant) {
        if is_clean {
            self.state = State::Ready;
        } else {
            self.start(actions, now);
        }
    }

    /// The brokers fence a producer whose transaction is older than its time-out, too.
    fn fenced(
        &mut self,
        is_fenced: bool,
        since: Instant,
        now: Instant,
        actions: &mut Vec<Action<T>>,
    ) {
        if !is_fenced || now - since >= self.settings.timeout / 2 {
            return;
        }
        let before = self.fenced_at.replace(now);
        if before.is_some_and(|before| now - before < FENCED_TWICE) {
            actions.push(Action::SecondProcess);
        }
    }

    /// The group's offsets of the partitions that are still ours.
    pub(crate) fn read_back(&mut self, found: Found, now: Instant) -> Vec<Action<T>> {
        let mut actions = Vec::new();
        if self.state != State::Reading {
            return actions;
        }
        self.state = State::Ready;
        self.is_unknown = false;
        match found {
            Found::Wanted => self.committed(&mut actions),
            Found::Before => self.requeue(&mut actions),
            Found::Nothing => {
                self.content.take();
                self.requeue(&mut actions);
            }
            Found::Unreachable => {
                self.is_unknown = true;
                self.state = State::ReadAgain { at: now + AGAIN };
            }
        }
        actions
    }

    /// The record's message will fail alone, so that no other is taken for it.
    pub(crate) fn is_alone(&self) -> bool {
        self.most <= 1
    }
}

#[cfg(test)]
mod model;
#[cfg(test)]
mod tests;
