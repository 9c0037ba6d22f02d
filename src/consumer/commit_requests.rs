//! What handlers ask to have committed: who waits for the answer and gets it, and what is said where nobody waits.
//!
//! **What was asked for of a partition that is not ours any more is refused**, whether or not somebody waits.

use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{Asked, Partition};
use crate::log::log;
use crate::rules::offsets::Ask;
use crate::wait::Reply;

use super::Consumer;
use super::held::Held;

/// A handler that waits in `commitOffsets`.
pub(super) struct Waiter {
    partition: Arc<Partition>,
    pub(super) reply: Reply,
    pub(super) deadline: Instant,
    /// Before this bundle is in force here there is no answer.
    listeners_since_bundle: u64,
}

/// What was asked for and is not committed, though nobody waits to hear that: where, which offset, and why.
pub(super) type Unheard = (Arc<Partition>, i64, String);

impl Waiter {
    fn give_up(self) {
        let reason = "not committed: no answer from the group's coordinator in time";
        self.reply.committed(Err(reason.to_owned()));
    }

    pub(super) fn is_of(&self, partition: &Partition) -> bool {
        self.partition.epoch == partition.epoch
    }

    /// Whether what it waits for is heard when a later bundle than this comes.
    pub(super) fn is_ahead_of(&self, bundle: u64) -> bool {
        self.listeners_since_bundle > bundle
    }
}

impl Held {
    /// Handlers have asked for more than the group has.
    pub(super) fn has_uncommitted_requests(&self) -> bool {
        (self.epoch.unsent.unawaited || self.epoch.tracker.is_asked()) && self.position_moved()
    }

    /// `is_ahead`: of a bundle that is still to come.
    fn ask(&mut self, ask: &Ask, is_ahead: bool) {
        let position = if is_ahead {
            self.epoch.tracker.ask_ahead(ask)
        } else {
            self.epoch.tracker.ask(ask)
        };
        if self.epoch.tracker.is_newly_stuck(&ask.listener) {
            let partition = &self.epoch.partition;
            log!(
                warn,
                consumer,
                consumer = &*partition.consumer,
                topic = &*partition.topic,
                partition = partition.number,
                listener = &*ask.listener,
                offset = position,
                "too many messages were finished without ctx.commitOffsets in their lanes: the position stays until the \
                 partition is assigned anew"
            );
        }
    }
}

impl Consumer {
    /// `ctx.commitOffsets(offset)`.
    pub(super) fn ask_commit(
        &mut self,
        partition: &Arc<Partition>,
        ask: &Ask,
        listeners_since_bundle: u64,
        reply: Reply,
        now: Instant,
    ) {
        let deadline = now + self.settings.request_timeout;
        let is_ahead = listeners_since_bundle > self.bundle.number;
        match self.of(partition) {
            None => reply.committed(Err(
                "the partition was revoked; whoever has it now gets the message again".to_owned(),
            )),
            Some(held) if !is_ahead && !held.plan.has(&ask.listener) => {
                // Of an older bundle: what it asks for would count as finished by those that are here. It has no say.
                let target = held.epoch.tracker.target().offset;
                reply.committed(Ok(held.epoch.committed.unwrap_or(target)));
            }
            Some(held) => {
                held.ask(ask, is_ahead);
                // One that is a manual one already has been heard.
                let listeners_since_bundle = if held.epoch.tracker.is_manual(&ask.listener) {
                    0
                } else {
                    listeners_since_bundle
                };
                held.epoch.unsent.awaited = true;
                self.commits.waiters.push(Waiter {
                    partition: partition.clone(),
                    reply,
                    deadline,
                    listeners_since_bundle,
                });
            }
        }
    }

    /// `ctx.commitOffsets(offset, { wait = false })`, in the order in which handlers asked.
    pub(super) fn asked(&mut self, asked: &Asked) {
        let is_ahead = asked.listeners_since_bundle > self.bundle.number;
        // As with a commit that is waited for: whoever has the partition now gets the messages again.
        let Some(held) = self.of(&asked.partition) else {
            return;
        };
        for ask in &asked.asks {
            if is_ahead || held.plan.has(&ask.listener) {
                held.ask(ask, is_ahead);
                held.epoch.unsent.unawaited = true;
            }
        }
    }

    /// Nobody waits longer than the deadline, also while the answer to a commit is out.
    pub(super) fn answer_overdue(&mut self, now: Instant) {
        for sent in self.commits.in_flight.iter_mut().flatten() {
            for waiter in sent.waiters.extract_if(.., |waiter| waiter.deadline <= now) {
                waiter.give_up();
            }
        }
    }

    /// Answers handlers whose position is committed, whose partition is gone, or who have waited for too long.
    pub(super) fn answer_waiters(&mut self, now: Instant) {
        if self.commits.waiters.is_empty() {
            return;
        }
        for waiter in std::mem::take(&mut self.commits.waiters) {
            let is_lost = self.phase.is_lost();
            let is_ahead = waiter.is_ahead_of(self.bundle.number);
            let Some(held) = self.of(&waiter.partition).filter(|_| !is_lost) else {
                waiter
                    .reply
                    .committed(Err("not committed: the partition was revoked".to_owned()));
                continue;
            };
            let target = held.epoch.tracker.target().offset;
            if held.epoch.committed == Some(target) && !is_ahead {
                waiter.reply.committed(Ok(target));
            } else if waiter.deadline <= now {
                waiter.give_up();
            } else {
                self.commits.waiters.push(waiter);
            }
        }
    }

    /// Partitions go, and what was asked of some of them has not been committed.
    pub(super) fn say_given_up(&mut self, goes: impl Fn(&Held) -> bool, now: Instant) {
        let in_flight = self.commits.in_flight.iter().flatten();
        let sent: Vec<u64> = in_flight
            .filter(|sent| sent.unawaited)
            .map(|sent| sent.partition.epoch)
            .collect();
        let is_unheard = |held: &&Held| {
            held.position_moved()
                && (held.epoch.unsent.unawaited || sent.contains(&held.epoch.partition.epoch))
        };
        let unheard: Vec<_> = self
            .held
            .values()
            .filter(|held| goes(held))
            .filter(is_unheard)
            .map(|held| {
                let target = held.epoch.tracker.target().offset;
                let reason = "the partition was revoked".to_owned();
                (held.epoch.partition.clone(), target, reason)
            })
            .collect();
        self.say_unheard(&unheard, now);
    }

    /// The handlers have gone on: the log hears of it in their place.
    pub(super) fn say_unheard(&mut self, unheard: &[Unheard], now: Instant) {
        for (partition, offset, error) in unheard {
            let Some(left_out) = self.commits.limit.allow(now) else {
                continue;
            };
            log!(
                warn,
                consumer,
                consumer = &*partition.consumer,
                topic = &*partition.topic,
                partition = partition.number,
                offset,
                error,
                left_out = (left_out > 0).then_some(left_out),
                "not committed, though ctx.commitOffsets asked for it"
            );
        }
    }
}
