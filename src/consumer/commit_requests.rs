//! Commit requests of handlers: the waiters and their answers, and the log lines for requests without a waiter.
//!
//! **A request for a partition that this consumer no longer owns is refused**, with or without a waiter.

use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{Partition, Requests};
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
    /// The waiter gets no answer before this bundle is in force here.
    listeners_since_bundle: u64,
}

/// A request without a waiter that was not committed: partition, offset and reason.
pub(super) type Unheard = (Arc<Partition>, i64, String);

impl Waiter {
    fn give_up(self) {
        let reason = "not committed: no answer from the group's coordinator in time";
        self.reply.committed(Err(reason.to_owned()));
    }

    pub(super) fn is_of(&self, partition: &Partition) -> bool {
        self.partition.epoch == partition.epoch
    }

    /// Whether the request depends on a bundle later than this one.
    pub(super) fn is_ahead_of(&self, bundle: u64) -> bool {
        self.listeners_since_bundle > bundle
    }
}

impl Held {
    /// Whether handlers have requested more than the group has committed.
    pub(super) fn has_uncommitted_requests(&self) -> bool {
        (self.epoch.unsent.unawaited || self.epoch.tracker.is_requested()) && self.position_moved()
    }

    /// `is_ahead`: the request belongs to a bundle that is not in force here yet.
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
                "too many messages finished without ctx.commitOffsets in their lanes: the position stays until the next \
                 assignment of the partition"
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
                "the partition was revoked; its new owner gets the message again".to_owned(),
            )),
            Some(held) if !is_ahead && !held.plan.has(&ask.listener) => {
                // The request is of an older bundle, and would count as finished for the present listeners. It is
                // ignored.
                let target = held.epoch.tracker.target().offset;
                reply.committed(Ok(held.epoch.committed.unwrap_or(target)));
            }
            Some(held) => {
                held.ask(ask, is_ahead);
                // The request of a listener that is manual already counts at once.
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

    /// `ctx.commitOffsets(offset, { wait = false })`, in the order of the handlers' requests.
    pub(super) fn requested(&mut self, asked: &Requests) {
        let is_ahead = asked.listeners_since_bundle > self.bundle.number;
        // As with an awaited commit: the partition's next owner receives the messages again.
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

    /// Answers waiters at their deadline, also while a commit is in flight.
    pub(super) fn answer_overdue(&mut self, now: Instant) {
        for sent in self.commits.in_flight.iter_mut().flatten() {
            for waiter in sent.waiters.extract_if(.., |waiter| waiter.deadline <= now) {
                waiter.give_up();
            }
        }
    }

    /// Answers handlers whose position is committed, whose partition is gone, or whose deadline has passed.
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

    /// Logs the uncommitted requests of partitions that leave.
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

    /// The handlers have continued, so the log has the error in their place.
    pub(super) fn say_unheard(&mut self, unheard: &[Unheard], now: Instant) {
        for (partition, offset, error) in unheard {
            let kind = format!("{}[{}]: {error}", partition.topic, partition.number);
            let Some(left_out) = self.commits.limits.allow(&kind, now) else {
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
                "the offset that ctx.commitOffsets requested is not committed"
            );
        }
    }
}
