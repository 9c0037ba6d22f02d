//! A reload that changes the listeners, the order or the transactions of a consumer with exactly once: its partitions
//! come to rest first.
//!
//! What is finished beyond the position is finished for the listeners of now. Others would never run it, and an order
//! by other lanes would find later messages done before earlier ones. So nothing new begins until nothing is finished
//! beyond the position and everything finished is committed. If that does not happen in time, the reload is refused.

use std::collections::BTreeSet;
use std::sync::{Arc, mpsc};
use std::time::Instant;

use crate::assignment::{PartitionKey, ToWorker};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::log::log;
use crate::rules::route;
use crate::telemetry::shell;

use super::Consumer;
use super::held::{Held, Stage};

/// Partitions that come to rest.
pub(super) struct Resting {
    keys: Vec<PartitionKey>,
    /// Those in which what has begun has ended, by epoch.
    ended: BTreeSet<u64>,
    /// Until the answer is given.
    done: Option<mpsc::Sender<Result<(), String>>>,
    until: Instant,
}

impl Resting {
    pub(super) fn note(&mut self, epoch: u64) {
        self.ended.insert(epoch);
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.done.as_ref().map(|_| self.until)
    }
}

impl Consumer {
    pub(super) fn come_to_rest(
        &mut self,
        bundle: &Arc<Bundle>,
        done: mpsc::Sender<Result<(), String>>,
        now: Instant,
    ) {
        let changed = self
            .held
            .values()
            .filter(|held| self.changes(&bundle.config, held));
        let keys: Vec<PartitionKey> = changed.map(Held::key).collect();
        if !keys.is_empty() {
            log!(
                info,
                consumer,
                consumer = &*self.name,
                partitions = keys.len(),
                "comes to rest before a reload"
            );
        }
        for key in &keys {
            if let Some(held) = self.held.get(key) {
                let partition = held.epoch.partition.clone();
                partition.set_rests(true);
                held.worker.send(ToWorker::Wake(partition));
            }
        }
        self.phase.resting = Some(Resting {
            keys,
            ended: BTreeSet::new(),
            done: Some(done),
            until: now + self.drain_time(),
        });
        self.progress_rest(now);
    }

    /// Whether what is finished beyond the position would mean something else under this configuration.
    fn changes(&self, config: &Config, held: &Held) -> bool {
        let name = &self.settings.name;
        let mut consumers = config.consumers.iter();
        let coming = consumers.find(|one| one.name == *name);
        // A consumer or a topic that goes away takes nothing over.
        let Some(coming) = coming.filter(|_| held.stage == Stage::Active) else {
            return false;
        };
        let is_exactly_once = self.transactions.is_some();
        if is_exactly_once != coming.transaction.is_some() {
            return true;
        }
        let plan = route::plan(config, name, &held.epoch.partition.topic);
        plan.is_some_and(|plan| {
            is_exactly_once
                && (plan.listeners_hash != held.plan.listeners_hash
                    || plan.orders_otherwise(&held.plan))
        })
    }

    pub(super) fn progress_rest(&mut self, now: Instant) {
        let Some(resting) = self.phase.resting.as_ref().filter(|one| one.done.is_some()) else {
            return;
        };
        let held = resting.keys.iter().filter_map(|key| self.held.get(key));
        let active = held.filter(|held| held.stage == Stage::Active);
        let has_ended = |held: &Held| resting.ended.contains(&held.epoch.partition.epoch);
        let moves = active
            .filter(|held| !self.has_come_to_rest(held, has_ended(held)))
            .min_by_key(|held| held.key());
        let answer = match moves {
            None => Ok(()),
            Some(held) if now >= resting.until => Err(self.keeps_from_rest(held)),
            Some(_) => return,
        };
        // The daemon may have stopped waiting. Whatever it does, it says when the partitions go on.
        if let Some(done) = self.phase.resting.as_mut().and_then(|one| one.done.take()) {
            let _ = done.send(answer);
        }
    }

    /// `has_ended`: nothing that has begun runs any more, but in one lane at most.
    fn has_come_to_rest(&self, held: &Held, has_ended: bool) -> bool {
        let tracker = &held.epoch.tracker;
        let has_ended = has_ended || tracker.unfinished() == 0;
        has_ended && tracker.beyond().ranges.is_empty() && self.is_all_committed(held)
    }

    /// The blocking message.
    fn keeps_from_rest(&self, held: &Held) -> String {
        let partition = &held.epoch.partition;
        let (topic, number) = (&*partition.topic, partition.number);
        let place = format!("{topic}[{number}]");
        let what = format!(
            "consumer `{}` has `exactlyOnce`, and the reload changes the listeners of topic `{topic}`, their names, its order, \
             or `exactlyOnce`: before that, all messages before one that is finished have to be finished",
            self.name
        );
        if held.epoch.tracker.unfinished() == 0 {
            return format!(
                "{what}; the transaction of {place} is not committed; reload again when it is"
            );
        }
        let position = held.epoch.tracker.finished().offset;
        match partition.blocked() {
            Some(blocked) => format!(
                "{what}; message {place}@{} is not, in listener `{}`: {}; repair its cause, or give it up by `{}`, and \
                 reload again",
                blocked.offset,
                blocked.listener,
                blocked.error,
                shell::skip(topic, number, blocked.offset, &blocked.listener)
            ),
            None => format!(
                "{what}; message {place}@{position} still runs or waits; reload again when it has ended"
            ),
        }
    }

    /// The reload has come, or does not come.
    pub(super) fn end_rest(&mut self) {
        if self.phase.resting.take().is_none() {
            return;
        }
        for held in self.held.values() {
            held.epoch.partition.set_rests(false);
            held.worker
                .send(ToWorker::Wake(held.epoch.partition.clone()));
        }
    }

    pub(super) fn give_up_rest(&mut self, why: &str) {
        let resting = self.phase.resting.take();
        if let Some(done) = resting.and_then(|one| one.done) {
            let sentence = format!("consumer `{}`: {why}; reload again", self.name);
            let _ = done.send(Err(sentence));
        }
    }
}
