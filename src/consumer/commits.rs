//! Commits positions: the choice of partitions that are due, one commit in flight, and the handling of its answer.
//!
//! After a failed commit the position still needs a commit, which is tried again while this consumer owns the epoch.
//! **After the end of the assignment nothing is committed.**

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::Partition;
use crate::clock::now_ms;
use crate::config::Ordering;
use crate::consumer::lookups::Lookup;
use crate::failpoint::failpoint;
use crate::kafka::{Class, Client, Committed, Error, TopicPartition};
use crate::log::log;
use crate::rate_limit::RateLimits;
use crate::rules::commit_metadata;
use crate::rules::start_offset;

use super::Consumer;
use super::commit_requests::{Unheard, Waiter};
use super::epoch::Unsent;
use super::held::{Held, Observed, TopicState};
use super::trouble::{Subject, line_limits};

/// The longest time between commits without a configured interval or threshold.
const INTERVAL: Duration = Duration::from_secs(1);
/// The time in which commits are gathered into one. This applies to partitions without further work, and to requests
/// of handlers that do not wait.
const GATHER: Duration = Duration::from_millis(10);
/// The pause after a failed commit.
const PAUSE: Duration = Duration::from_millis(500);

pub(super) struct Commits {
    pub(super) in_flight: Option<Vec<Sent>>,
    pub(super) not_before: Option<Instant>,
    pub(super) waiters: Vec<Waiter>,
    /// The brokers refused some metadata as too large.
    refused_metadata: bool,
    /// Limits the log lines about requests that no handler waits for.
    pub(super) limits: RateLimits,
}

impl Default for Commits {
    fn default() -> Self {
        Self {
            in_flight: None,
            not_before: None,
            waiters: Vec::new(),
            refused_metadata: false,
            limits: line_limits(),
        }
    }
}

pub(super) struct Sent {
    pub(super) partition: Arc<Partition>,
    pub(super) offset: i64,
    /// `Tracker::changes`, if the metadata lists the messages finished beyond the offset.
    changes: Option<u64>,
    /// Messages that had finished when the commit was sent; they do not count towards the next threshold.
    finished: u64,
    /// The waiters that requested a commit before this one was sent; its answer is theirs.
    pub(super) waiters: Vec<Waiter>,
    /// Handlers requested it and did not wait.
    pub(super) unawaited: bool,
}

impl Commits {
    fn in_flight_deadline(&self) -> Option<Instant> {
        let sent = self.in_flight.iter().flatten();
        sent.flat_map(|sent| &sent.waiters)
            .map(|waiter| waiter.deadline)
            .min()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.in_flight.is_none()
    }

    /// A commit in flight is not answered any more.
    pub(super) fn forget_client(&mut self) {
        let sent = self.in_flight.take().unwrap_or_default();
        self.waiters
            .extend(sent.into_iter().flat_map(|sent| sent.waiters));
        self.not_before = None;
    }

    pub(super) fn takes_metadata(&self) -> bool {
        !self.refused_metadata
    }
}

impl Held {
    /// Whether the last commit comes after the observers of the revocation. A handler that waits for its commit does
    /// not wait for them: they begin when calls have ended.
    fn waits_for_observers(&self) -> bool {
        self.observed == Observed::Going && !self.epoch.unsent.awaited
    }

    /// Whether there is something to commit.
    pub(super) fn needs_commit(&self) -> bool {
        self.position_moved() || self.metadata_changed()
    }

    /// Whether the target differs from the group's committed offset.
    pub(super) fn position_moved(&self) -> bool {
        if self.plan.listeners.is_empty() || self.topic == TopicState::Deleted {
            // No listener takes the topic, so this consumer commits nothing for it. Neither may an offset of a deleted
            // topic be committed in the one that has its name.
            return false;
        }
        let is_requested = self.epoch.tracker.is_requested() || self.epoch.unsent.awaited;
        let wanted = self.epoch.tracker.is_automatic() || is_requested || self.epoch.commit_now;
        wanted && self.epoch.committed != Some(self.epoch.tracker.target().offset)
    }

    /// Whether messages beyond the position have finished that the group's metadata does not list.
    fn metadata_changed(&self) -> bool {
        self.epoch.committed_changes != Some(self.epoch.tracker.changes()) && self.tells_finished()
    }

    /// Whether a commit lists the messages finished beyond its offset.
    fn tells_finished(&self) -> bool {
        self.epoch.committed_changes.is_some()
            && self.topic != TopicState::Deleted
            && (self.plan.ordering != Ordering::Partition || self.epoch.tracker.defers())
            && self.epoch.tracker.is_automatic()
            && self.epoch.tracker.target() == self.epoch.tracker.finished()
    }

    fn metadata(&self) -> (String, Option<u64>) {
        if self.epoch.commit_now
            && self.epoch.is_first_start
            && self.epoch.tracker.is_untouched()
            && self.epoch.committed_changes.is_some()
        {
            return (start_offset::mark(now_ms()), None);
        }
        if !self.tells_finished() {
            return (String::new(), None);
        }
        let target = self.epoch.tracker.target();
        let place = commit_metadata::Agreement {
            offset: target.offset,
            leader_epoch: target.leader_epoch,
            listeners: self.plan.listeners_hash,
        };
        let text = commit_metadata::encode(place, &self.epoch.tracker.beyond());
        (text, Some(self.epoch.tracker.changes()))
    }

    /// Every message received from the partition is finished, and its log is not known to have more. With a backlog,
    /// a partition runs out of messages after every fetch and continues in a moment.
    fn has_nothing_to_do(&self) -> bool {
        let has_more = self.epoch.tracker.expected() < self.epoch.log_end && !self.pauses.is_any();
        self.epoch.tracker.unfinished() == 0 && !has_more
    }

    /// Looks up the end of the log where a commit depends on it. The lookup costs librdkafka a lock and a search.
    fn look_for_end(&mut self, client: &Client, now: Instant) {
        if self.plan.commit_interval.is_none()
            && self.has_nothing_to_do()
            && self.position_moved()
            && now >= self.last_commit + GATHER
        {
            let known =
                client.known_watermarks(&self.epoch.partition.topic, self.epoch.partition.number);
            self.epoch.log_end = known.map_or(-1, |(_, end)| end);
        }
    }

    pub(super) fn due_now(&self, now: Instant, at: &mut Option<Instant>) -> bool {
        let position_moved = self.position_moved();
        if !position_moved && !self.metadata_changed() {
            return false;
        }
        // A handler waits for the commit. A resolved start is committed at once too, so that a restart skips no later
        // message.
        if position_moved && (self.epoch.unsent.awaited || self.epoch.commit_now) {
            return true;
        }
        if self
            .plan
            .commit_threshold
            .is_some_and(|threshold| self.epoch.finished_since_commit >= threshold)
        {
            return true;
        }
        let is_requested = !self.epoch.tracker.is_automatic()
            || self.epoch.tracker.is_requested()
            || self.epoch.unsent.unawaited;
        let is_idle = self.plan.commit_interval.is_none() && self.has_nothing_to_do();
        let gathers = position_moved && (is_requested || is_idle);
        let wait = match (
            gathers,
            self.plan.commit_interval,
            self.plan.commit_threshold,
        ) {
            (true, ..) => GATHER,
            (false, Some(interval), _) => interval,
            (false, None, None) => INTERVAL,
            // The rest of the log may not arrive for long: it can belong to an open transaction.
            (false, None, Some(_)) if self.epoch.tracker.unfinished() == 0 => INTERVAL,
            (false, None, Some(_)) => return false,
        };
        let due = self.last_commit + wait;
        if due > now {
            *at = Some(at.map_or(due, |other| other.min(due)));
        }
        due <= now
    }
}

impl Consumer {
    /// Sends one commit for all partitions that are due, unless one is in flight.
    pub(super) fn commit(&mut self, now: Instant) {
        if self.transactions.is_some() {
            return self.transact(now);
        }
        self.answer_overdue(now);
        self.answer_waiters(now);
        if !self.commits.is_idle()
            || self.phase.is_lost()
            || self.commits.not_before.is_some_and(|at| now < at)
        {
            return;
        }
        let everything = self.phase.commits_everything() || self.phase.is_closing();
        for held in self.held.values_mut() {
            held.look_for_end(&self.client, now);
        }
        let bundle = self.bundle.number;
        let mut waiters = std::mem::take(&mut self.commits.waiters);
        let are_observed = !self.observations.are_over(now);
        let due = self.held.values_mut().filter(|held| {
            !(are_observed && held.waits_for_observers())
                && (held.due_now(now, &mut None) || (everything && held.needs_commit()))
        });
        let (mut sent, mut list) = (Vec::new(), Vec::new());
        for held in due {
            let (partition, target) = (held.epoch.partition.clone(), held.epoch.tracker.target());
            let mut one = TopicPartition::at(
                &partition.topic,
                partition.number,
                target.offset,
                target.leader_epoch,
            );
            let (metadata, changes) = held.metadata();
            one.metadata = metadata;
            list.push(one);
            sent.push(Sent {
                waiters: waiters
                    .extract_if(.., |one| one.is_of(&partition) && !one.is_ahead_of(bundle))
                    .collect(),
                partition,
                offset: target.offset,
                changes,
                finished: held.epoch.finished_since_commit,
                unawaited: std::mem::take(&mut held.epoch.unsent.unawaited),
            });
            held.epoch.unsent.awaited = false;
        }
        self.commits.waiters = waiters;
        if list.is_empty() {
            return;
        }
        self.commits.in_flight = Some(sent);
        failpoint!("before-commit");
        if let Err(error) = self.client.commit(&list) {
            self.committed(
                &Committed {
                    result: Err(error),
                    partitions: Vec::new(),
                },
                now,
            );
        }
        failpoint!("commit-in-flight");
    }

    pub(super) fn commit_deadline(&self, now: Instant) -> Option<Instant> {
        if self.transactions.is_some() {
            return None;
        }
        if !self.commits.is_idle() || self.phase.is_lost() {
            return self.commits.in_flight_deadline();
        }
        let mut at = self
            .commits
            .waiters
            .iter()
            .map(|waiter| waiter.deadline)
            .min();
        let are_observed = !self.observations.are_over(now);
        for held in self.held.values() {
            if are_observed && held.waits_for_observers() {
                continue;
            }
            if held.due_now(now, &mut at) {
                // Due already; only the pause after a failed commit delays it.
                at = Some(self.commits.not_before.unwrap_or(now));
            }
        }
        at
    }

    /// Reads the answers that have arrived. Returns whether there was any.
    pub(super) fn settle_replies(&mut self, now: Instant) -> bool {
        let replies = self.client.replies();
        for reply in &replies {
            self.committed(reply, now);
        }
        !replies.is_empty()
    }

    fn committed(&mut self, reply: &Committed, now: Instant) {
        failpoint!("after-commit");
        let (mut failed, mut refused, mut unheard) = (None, false, Vec::new());
        let mut first = Vec::new();
        for sent in self.commits.in_flight.take().unwrap_or_default() {
            let own = reply.partitions.iter().find(|one| {
                one.topic == sent.partition.topic && one.partition == sent.partition.number
            });
            let result = match own.and_then(|one| one.error.clone()) {
                Some(error) => Err(error),
                None => reply.result.clone(),
            };
            if let (Err(error), true) = (&result, sent.unawaited) {
                unheard.push((sent.partition.clone(), sent.offset, error.to_string()));
            }
            let Some(held) = self.of(&sent.partition) else {
                // The waiters are answered below with the loss of the partition.
                self.commits.waiters.extend(sent.waiters);
                continue;
            };
            match result {
                Ok(()) => {
                    if held.topic == TopicState::Recreated {
                        held.topic = TopicState::Known;
                        first.push(held.key());
                    }
                    held.epoch.committed = Some(sent.offset);
                    held.epoch.committed_changes = sent.changes.or(held.epoch.committed_changes);
                    held.epoch.finished_since_commit = held
                        .epoch
                        .finished_since_commit
                        .saturating_sub(sent.finished);
                    held.last_commit = now;
                    held.epoch.commit_now &=
                        !held.epoch.tracker.is_automatic() && held.position_moved();
                    if !held.position_moved() {
                        // The commit covers the requests made since, too.
                        held.epoch.unsent = Unsent::default();
                    }
                    for waiter in sent.waiters {
                        waiter.reply.committed(Ok(sent.offset));
                    }
                }
                Err(error) => {
                    held.epoch.unsent.unawaited |= sent.unawaited;
                    held.epoch.unsent.awaited |= !sent.waiters.is_empty();
                    if error.class() == Class::Metadata && self.commits.takes_metadata() {
                        refused = true;
                    } else {
                        failed = Some(error);
                    }
                    self.commits.waiters.extend(sent.waiters);
                }
            }
        }
        for key in first {
            self.lookups.ask(Lookup::Committed(key));
        }
        self.commits.not_before = None;
        if refused {
            self.do_without_metadata();
        }
        match failed {
            None => {
                self.counts.commits += 1;
                for place in [Subject::Group, Subject::Commits] {
                    self.trouble.over(&place);
                }
            }
            Some(error) => self.commit_failed(&error, &unheard, now),
        }
        self.answer_waiters(now);
    }

    /// Leaves out the metadata from now on where it does not fit: the offsets must not wait for it.
    fn do_without_metadata(&mut self) {
        self.commits.refused_metadata = true;
        for held in self.held.values_mut() {
            held.epoch.committed_changes = None;
        }
        log!(
            warn,
            consumer,
            consumer = &*self.name,
            "the brokers refuse a commit's metadata (`offset.metadata.max.bytes`): messages that finished beyond the \
             position run again after a restart"
        );
    }

    fn commit_failed(&mut self, error: &Error, unheard: &[Unheard], now: Instant) {
        self.counts.commit_errors += 1;
        self.watch_after(error);
        self.commits.not_before = Some(now + PAUSE);
        if unheard.is_empty() {
            self.trouble.note(&self.name, error, Subject::Commits, now);
        } else {
            self.trouble.keep(error, Subject::Commits, now);
            self.say_unheard(unheard, now);
        }
        if error.class() == Class::NotOwner || error.class() == Class::Fatal {
            for waiter in std::mem::take(&mut self.commits.waiters) {
                waiter
                    .reply
                    .committed(Err(format!("not committed: {error}")));
            }
        }
    }
}
