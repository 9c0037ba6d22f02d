//! One transaction after the other: what enters, when it ends, and what follows each answer.
//!
//! Pure: events and moments come in, actions go out. The caller has the producer, and the positions of partitions.
//! A finished message waits in the queue of its lane and partition until it enters a transaction with all its records.
//! **A lane enters in its order, and a transaction is committed once**: after an answer that leaves it open, a new
//! producer with the same id fences the old one first. Only then the group's offsets tell what has happened.

mod queues;

use std::time::{Duration, Instant};

use queues::Queues;
pub(crate) use queues::{Item, Lane};

/// The pause before another producer is tried.
const AGAIN: Duration = Duration::from_secs(1);
/// Two fenced producers in this time are the work of another process with the same id.
const FENCED_TWICE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a transaction is open.
    pub(crate) interval: Duration,
    /// The most messages of a transaction.
    pub(crate) messages: usize,
    /// The bytes of a partition, and of all, with which a transaction ends at once.
    pub(crate) partition_bytes: usize,
    pub(crate) bytes: usize,
    /// How long the brokers keep an open transaction.
    pub(crate) timeout: Duration,
    /// How long a call of the producer may take.
    pub(crate) call: Duration,
}

/// What the caller has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<T> {
    /// The present producer ends, or is left in its call, and a new one with the same id starts.
    Start,
    /// A transaction begins: the positions are counted from here.
    Begin,
    /// Their records belong to the transaction.
    Put(Vec<Item<T>>),
    /// The transaction ends with the positions of these epochs, and of every other that has moved.
    End(Vec<u64>),
    /// A partition of the transaction under way is lost: it must not commit.
    Poison,
    Abort,
    /// The group's offsets of the partitions of the last `End` are to be read.
    ReadBack,
    /// These messages are committed.
    Committed(Vec<Item<T>>),
    /// The transaction is not committed, and its messages wait again.
    Requeued,
    /// The topic of a record never accepts it. The message has left its queue, and so have those behind it.
    Refused {
        item: Item<T>,
        part: usize,
        text: String,
    },
    /// The metadata has to be shorter.
    Shorten,
    /// Another process has the transactional id.
    SecondProcess,
}

/// The answer of the producer to its last call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Started,
    NotStarted {
        is_fenced: bool,
    },
    /// `is_clean`: every request of the producer has had its answer.
    Committed {
        is_clean: bool,
    },
    /// Nothing of the transaction is committed, and nothing of it will be: no end was requested.
    NotCommitted(Why),
    Unknown {
        is_fenced: bool,
    },
    Aborted {
        is_clean: bool,
    },
    NotAborted {
        is_fenced: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It may go better the next time.
    Transient,
    /// The brokers take less metadata.
    Metadata,
    /// The topic of some record never accepts it. The number is that of the part of its message, if that was alone.
    Refused { part: usize, text: String },
}

/// What the group's offsets say of a transaction without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Wanted,
    Before,
    /// Its partitions have gone, all of them.
    Nothing,
    /// The brokers have not told them.
    Unreachable,
}

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

/// For the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
    pub(crate) unknown: u64,
    pub(crate) replaced: u64,
    pub(crate) refused: u64,
}

/// The positions of the partitions.
pub(crate) trait Positions {
    /// A transaction begins.
    fn begin(&mut self);

    /// Whether this message enters it: the metadata of its partition fits afterwards.
    fn enters(&mut self, epoch: u64, number: u64) -> bool;
}

/// The caller's part in a step.
pub(crate) struct Step<'a> {
    pub(crate) now: Instant,
    pub(crate) positions: &'a mut dyn Positions,
    /// A position has moved without a message of a transaction.
    pub(crate) has_moved: bool,
    /// A partition leaves, or the consumer: the transaction ends at once.
    pub(crate) is_hurried: bool,
}

#[derive(Debug)]
pub(crate) struct Machine<T> {
    settings: Settings,
    state: State,
    queues: Queues<T>,
    /// The messages of the transaction under way.
    content: Vec<Item<T>>,
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
            content: Vec::new(),
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

    fn contains(&self, epoch: u64) -> bool {
        self.content.iter().any(|item| item.lane.epoch == epoch)
    }

    /// Whether messages of this epoch are still to be committed. Those that do not fit run again elsewhere.
    pub(crate) fn owes(&self, epoch: u64) -> bool {
        self.queues.is_ready(epoch) || self.contains(epoch)
    }

    /// Messages and bytes that wait for a commit.
    pub(crate) fn waiting(&self) -> (usize, usize) {
        let bytes: usize = self.content.iter().map(|item| item.bytes).sum();
        let (messages, queued) = self.queues.waiting();
        (messages + self.content.len(), queued + bytes)
    }

    /// The partition is not ours any more: nothing of it may be committed.
    pub(crate) fn lost(&mut self, epoch: u64, actions: &mut Vec<Action<T>>, now: Instant) {
        self.queues.forget(epoch);
        if !self.contains(epoch) {
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
        self.content.retain(|item| item.lane.epoch != epoch);
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
            let is_full = self.content.len() >= self.most || self.is_heavy();
            if is_full || step.is_hurried || now >= since + self.settings.interval {
                let mut epochs: Vec<u64> = self.content.iter().map(|one| one.lane.epoch).collect();
                epochs.sort_unstable();
                epochs.dedup();
                actions.push(Action::End(epochs));
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
        while self.content.len() < self.most
            && let Some(item) = self.queues.next(step.positions)
        {
            put.push(item.clone());
            self.content.push(item);
        }
        if !put.is_empty() {
            actions.push(Action::Put(put));
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
        if let Some((part, text)) = self.refused.take() {
            if self.most <= 1 && self.content.len() == 1 {
                self.counts.refused += 1;
                let item = self.content.remove(0);
                self.queues.close_lane(item.lane);
                actions.push(Action::Refused { item, part, text });
            } else {
                self.most = (self.content.len() / 2).max(1);
            }
        }
        let content = std::mem::take(&mut self.content);
        self.queues.put_back(content);
    }

    fn committed(&mut self, actions: &mut Vec<Action<T>>) {
        self.counts.committed += 1;
        self.is_poisoned = false;
        self.has_changed = true;
        self.most = (self.most * 2).min(self.settings.messages);
        actions.push(Action::Committed(std::mem::take(&mut self.content)));
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
                self.content.clear();
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
