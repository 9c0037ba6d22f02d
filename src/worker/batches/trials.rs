//! The search for the message to blame, in a partition: what follows each run of it.

use crate::config::Config;
use crate::lua::Failure;
use crate::rules::batch::{Member, Then, Trial, Verdict};
use crate::rules::retry;
use crate::telemetry::status::Blocked;
use crate::worker::Worker;
use crate::worker::failures::FailedBatch;
use crate::worker::outcomes::named;
use crate::worker::slot::Slot;
use crate::worker::timers::Wake;

use super::state::OpenBatch;

impl Worker {
    /// Every message of the run is done.
    pub(super) fn passed(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        listener: &str,
        trial: Option<Trial>,
    ) {
        if let Some(mut trial) = trial {
            let verdict = trial.passed();
            self.follow_verdict(slot, config, listener, trial, verdict, None);
        }
    }

    pub(super) fn follow_verdict(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        listener: &str,
        trial: Trial,
        verdict: Verdict,
        failure: Option<&Failure>,
    ) {
        let Verdict {
            found,
            released,
            then,
        } = verdict;
        if let (Some(found), Some(failure)) = (found, failure) {
            self.blame(slot, config, listener, found, failure);
        }
        slot.release(&released, &trial.suspects);
        match (then, failure) {
            (Then::Over, _) => {}
            (Then::Run, _) => {
                slot.set_batched(&trial.suspects);
                slot.batches.push(trial, None);
            }
            (Then::Outage(count), failure) => {
                if let Some(number) = self.meter.index_of(listener) {
                    self.gates.failed_many(number, count);
                }
                let failure = failure.cloned().unwrap_or_else(Failure::nothing_resolved);
                self.let_wait(slot, config, listener, trial, &failure);
            }
        }
    }

    /// All messages of the search wait before its next run.
    pub(super) fn let_wait(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        listener: &str,
        trial: Trial,
        failure: &Failure,
    ) {
        slot.set_batched(&trial.suspects);
        let Some(listener) = named(config, listener) else {
            return slot.batches.push(trial, None);
        };
        let delay = retry::wait(&listener.retry, trial.waits(), self.chance.f64());
        let until = self.clock.now() + delay;
        let now = self.clock.wall_ms();
        if let Some(first) = trial.first() {
            let wait = i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            let blocked = Blocked {
                offset: first.offset,
                listener: listener.name.clone(),
                attempt: trial.waits(),
                since: now,
                next_attempt_at: now.saturating_add(wait),
                error: failure.message.clone(),
            };
            slot.block(first.number, blocked);
        }
        self.timers
            .set(until, Wake::Partition(slot.partition.epoch));
        slot.batches.push(trial, Some(until));
    }

    pub(super) fn say_failed(
        &mut self,
        slot: &Slot,
        config: &Config,
        batch: &OpenBatch,
        failure: &Failure,
    ) {
        // An error behind the last message leaves none that has failed.
        let rest = batch.rest();
        let members = if rest.is_empty() {
            &batch.members
        } else {
            rest
        };
        let (Some(listener), [first, ..]) = (named(config, &batch.listener), members) else {
            return;
        };
        let last = members.last().unwrap_or(first);
        self.log.batch_failed(
            &FailedBatch {
                listener,
                partition: &slot.partition,
                first: first.offset,
                last: last.offset,
                messages: batch.rest().len(),
                bundle: self.engine.bundle().number,
                is_first: batch.trial.is_none(),
            },
            failure,
        );
    }
}

impl Slot {
    /// Nothing is suspected any more. Returns whether anything was.
    pub(in crate::worker) fn release_trials(&mut self) -> bool {
        let trials = std::mem::take(&mut self.batches.trials);
        let is_any = !trials.is_empty();
        for one in trials {
            self.unblock_first(&one.trial);
            self.release(&one.trial.release(), &[]);
        }
        is_any
    }

    pub(super) fn release_all(&mut self, trial: Option<Trial>, rest: &[Member]) {
        self.release(rest, &[]);
        if let Some(trial) = trial {
            self.release(&trial.release(), &[]);
        }
    }

    pub(super) fn unblock_first(&mut self, trial: &Trial) {
        if let Some(first) = trial.first() {
            self.unblock(first.number);
        }
    }
}
