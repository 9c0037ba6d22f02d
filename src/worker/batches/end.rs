//! The end of a batch: what is done, and what becomes of the rest.

use std::collections::HashMap;

use crate::config::Config;
use crate::kafka::Message;
use crate::lua::{BatchEnd, Failure, How};
use crate::message::Record as _;
use crate::rules::batch::{Member, Trial};
use crate::rules::lanes::Stage;
use crate::telemetry::metrics::Outcome;
use crate::worker::Worker;
use crate::worker::head::Head;
use crate::worker::slot::Slot;

impl Worker {
    /// The call of a batch has ended.
    pub(super) fn end_batch(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        id: u64,
        mut end: BatchEnd,
    ) {
        self.running.end_batch((slot.partition.epoch, id));
        let emitted = end.emitted.take();
        if let Some(mut emitted) = emitted {
            let asked = emitted.asked.take();
            if !emitted.requests.is_empty() {
                return self.write_batch(slot, config, id, (end, emitted, asked));
            }
            if let Some(asked) = asked {
                slot.ask_of_batch(id, asked);
            }
        }
        self.conclude(slot, config, id, end);
    }

    /// What the first `done` messages have emitted is written.
    pub(super) fn conclude(&mut self, slot: &mut Slot, config: &Config, id: u64, end: BatchEnd) {
        let BatchEnd { done, how, .. } = end;
        let open = slot.batches.open.get(&id);
        if open.is_some_and(|batch| !slot.wants(&batch.listener)) {
            return self.give_up_batch(slot, id);
        }
        self.finish_first(slot, config, id, done);
        let Some(batch) = slot.batches.open.remove(&id) else {
            return;
        };
        let rest = batch.rest().to_vec();
        let failure = match how {
            How::Returned if rest.is_empty() => {
                return self.passed(slot, config, &batch.listener, batch.trial);
            }
            How::Returned if done == 0 => Failure::nothing_resolved(),
            // What is not resolved comes again, as in kafkajs.
            How::Returned => return slot.release_all(batch.trial, &rest),
            How::Failed(failure) => failure,
            How::Blamed(verdict) => {
                let failure = Failure::of_verdict(&verdict);
                if let Some(blamed) = rest.first() {
                    self.blame(slot, config, &batch.listener, *blamed, &failure);
                }
                return slot.release_all(batch.trial, rest.get(1..).unwrap_or_default());
            }
        };
        if let Some(number) = self.meter.index_of(&batch.listener) {
            self.meter.failed(number, failure.kind);
        }
        self.say_failed(slot, config, &batch, &failure);
        if rest.is_empty() {
            return self.passed(slot, config, &batch.listener, batch.trial);
        }
        match batch.trial {
            Some(mut trial) => {
                let verdict = trial.failed(done);
                self.follow_verdict(
                    slot,
                    config,
                    &batch.listener,
                    trial,
                    verdict,
                    Some(&failure),
                );
            }
            None if batch.members.len() == 1 => {
                self.blame(slot, config, &batch.listener, rest[0], &failure);
            }
            None => {
                slot.set_batched(&rest);
                let trial = Trial::new(rest);
                self.let_wait(slot, config, &batch.listener, trial, &failure);
            }
        }
    }

    /// The first `done` messages of a batch have their outcome.
    pub(super) fn finish_first(&mut self, slot: &mut Slot, config: &Config, id: u64, done: usize) {
        let Some(batch) = slot.batches.open.get_mut(&id) else {
            return;
        };
        let finished = batch
            .members
            .get(batch.done..done)
            .unwrap_or_default()
            .to_vec();
        batch.done = batch.done.max(done);
        let rest = batch.rest().to_vec();
        if let Some(number) = self.meter.index_of(&batch.listener) {
            self.gates.done_many(number, finished.len() as u32);
            for _ in &finished {
                self.meter.outcome(number, Outcome::Done);
            }
        }
        let (listener, fits) = (batch.listener.clone(), batch.fits.take());
        if slot.waits_for_transaction(&finished, fits.is_some()) {
            self.hand_over_members(slot, config, &listener, (finished, fits));
        } else {
            slot.finish_members(config, &finished);
        }
        // The next message of a lane may be in the batch as well.
        slot.set_batched(&rest);
    }

    /// The message has failed by itself: its listener's policy counts.
    pub(super) fn blame(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        listener: &str,
        member: Member,
        failure: &Failure,
    ) {
        let Some(mut lane) = slot.lanes.take(member.lane) else {
            return;
        };
        if let Some(index) = lane
            .index_of(listener)
            .filter(|_| lane.number == member.number)
        {
            let mut head = Head {
                slot,
                config,
                key: member.lane,
                lane: &mut lane,
                index,
            };
            head.progress().attempt += 1;
            let stage = self.failed(&mut head, failure, None);
            head.come_to(stage);
        }
        slot.lanes.put(member.lane, lane);
        slot.lanes.wake(member.lane);
    }

    /// The batch ends without a result: its messages run again, without the loss of an attempt.
    pub(in crate::worker) fn give_up_batch(&mut self, slot: &mut Slot, id: u64) {
        self.running.end_batch((slot.partition.epoch, id));
        let Some(batch) = slot.batches.open.remove(&id) else {
            return;
        };
        if slot.wants(&batch.listener) {
            let rest = batch.rest().to_vec();
            slot.release_all(batch.trial, &rest);
        } else {
            slot.leave_listener(batch.rest(), &batch.listener);
        }
    }

    /// After a reload: records that could not be written may be possible now, so their batches run again.
    pub(in crate::worker) fn run_batches_anew(&mut self) {
        let epochs: Vec<u64> = self.slots.keys().copied().collect();
        for epoch in epochs {
            let Some(mut slot) = self.slots.remove(&epoch) else {
                continue;
            };
            slot.release_trials();
            for id in slot.batches.stuck() {
                slot.under_way -= 1;
                self.give_up_batch(&mut slot, id);
            }
            self.slots.insert(epoch, slot);
        }
    }
}

impl Slot {
    fn finish_members(&mut self, config: &Config, members: &[Member]) {
        self.each_finished(config, members, |slot, _, number, message| {
            slot.place.finished(message.offset());
            slot.finish(number);
        });
    }

    /// These messages, each the next one of its lane in its turn, have their outcome. Calls `each` with the lane, the
    /// number and the message.
    pub(super) fn each_finished(
        &mut self,
        config: &Config,
        members: &[Member],
        mut each: impl FnMut(&mut Self, u64, u64, Message),
    ) {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for member in members {
            *counts.entry(member.lane).or_default() += 1;
        }
        for (key, count) in counts {
            let Some(lane) = self.lanes.take(key) else {
                continue;
            };
            let names = self.names(config);
            let ended = |number, message| each(self, key, number, message);
            let next = lane.finish_first(count, ended, names);
            if let Some(next) = next {
                self.lanes.put(key, next);
                self.lanes.wake(key);
            }
        }
    }

    /// The topic does not have the listener any more: the messages are done for it.
    fn leave_listener(&mut self, members: &[Member], listener: &str) {
        for member in members {
            if let Some(lane) = self.lanes.get_mut(member.lane) {
                if let Some(index) = lane.index_of(listener) {
                    lane.progress[index].stage = Stage::Final;
                }
                self.lanes.wake(member.lane);
            }
        }
    }
}
