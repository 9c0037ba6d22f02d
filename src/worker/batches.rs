//! Batches: one call has many messages of a partition.
//!
//! A batch that is done at once needs no lane. Any other one opens the lanes of its messages, whose heads then stand
//! in the stage `Batched`. **A message that has failed alone leaves the batches**: it runs in its lane, alone, and its
//! listener's policy counts. So do suspects of the journal, probes of the breaker and messages of retry topics.

mod commit_requests;
mod end;
mod gather;
pub(super) mod state;
mod transactions;
mod trials;
mod written;

use std::collections::{BTreeSet, HashMap};

use crate::config::{Batch, Config};
use crate::kafka::Message;
use crate::lua::{BatchCall, Call, How, Step};
use crate::message::Record;
use crate::rules::batch::{Member, Trial};
use crate::rules::lanes::Stage;
use crate::telemetry::metrics::Outcome;
use crate::wait::Requested;

use super::Worker;
use super::calls::Open;
use super::gates::BatchGate;
use super::outcomes::named;
use super::run::{Called, Next, Quantum};
use super::slot::Slot;
use super::timers::Wake;
use super::waits::warn_of_slow;
use gather::Gathered;
use state::OpenBatch;

impl Worker {
    /// The next step in a partition whose listener gets batches.
    pub(super) fn next_batch(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
    ) -> Next {
        if let Some(key) = slot.lanes.next_ready() {
            let Some(lane) = slot.lanes.take(key) else {
                return Next::Continue;
            };
            if !slot.may_gather(&lane) {
                return self.go_on(slot, config, key, lane, turn);
            }
            slot.batches.offered.insert((lane.number, key));
            slot.lanes.put(key, lane);
            return Next::Continue;
        }
        let (Some(limits), &[listener]) = (slot.plan.batch, &slot.plan.listeners[..]) else {
            return Next::PartitionIdle;
        };
        let name = &config.listeners[listener].name;
        if turn.keeps_any() || turn.is_held || !self.may_start(slot, turn.limits, name) {
            return Next::PartitionIdle;
        }
        match self.gates.batch_gate(listener) {
            BatchGate::Wait => Next::PartitionIdle,
            BatchGate::Alone => self.run_single(slot, config, turn),
            BatchGate::Most(most) => self.run_some(slot, config, turn, (listener, &limits, most)),
        }
    }

    /// Runs a batch of at most `most` messages, if there is one.
    fn run_some(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
        (listener, limits, most): (usize, &Batch, usize),
    ) -> Next {
        let (epoch, now) = (slot.partition.epoch, self.clock.now());
        if let Some(trial) = slot.batches.take_due(now) {
            if !self.gates.admit_batch(listener, epoch, trial.run().len()) {
                slot.batches.push(trial, None);
                return Next::PartitionIdle;
            }
            slot.unblock_first(&trial);
            let members = trial.run().to_vec();
            return self.run_members(slot, config, turn, (listener, limits), members, Some(trial));
        }
        match slot.gather(limits, most, now) {
            Gathered::Nothing => Next::PartitionIdle,
            Gathered::Alone => self.open_lane(slot, config, None, turn),
            Gathered::Until(at) => {
                if slot.batches.wakes_at != Some(at) {
                    slot.batches.wakes_at = Some(at);
                    self.timers.set(at, Wake::Partition(epoch));
                }
                Next::PartitionIdle
            }
            Gathered::Front(count) if !self.gates.admit_batch(listener, epoch, count) => {
                Next::PartitionIdle
            }
            Gathered::Front(count) => self.run_front(slot, config, turn, (listener, limits), count),
            Gathered::Members { members, .. }
                if !self.gates.admit_batch(listener, epoch, members.len()) =>
            {
                slot.release(&members, &[]);
                Next::PartitionIdle
            }
            Gathered::Members { members, fresh } => {
                slot.line_up(config, fresh);
                self.run_members(slot, config, turn, (listener, limits), members, None)
            }
        }
    }

    /// While the breaker is not closed, messages run one by one, each in its lane.
    fn run_single(&mut self, slot: &mut Slot, config: &Config, turn: &mut Quantum) -> Next {
        if slot.release_trials() {
            return Next::Continue;
        }
        if let Some((number, key)) = slot.batches.offered.pop_first() {
            return match slot.lanes.take(key) {
                Some(lane) if lane.number == number => self.go_on(slot, config, key, lane, turn),
                Some(lane) => {
                    slot.lanes.put(key, lane);
                    Next::Continue
                }
                None => Next::Continue,
            };
        }
        let Some((number, message)) = slot.lanes.fresh() else {
            return Next::PartitionIdle;
        };
        if number >= slot.begins_below {
            return Next::PartitionIdle;
        }
        let key = slot.lane_of(number, message);
        if slot.lanes.is_open(key) {
            slot.lanes.defer_fresh(key);
            return Next::Continue;
        }
        self.open_lane(slot, config, None, turn)
    }

    /// Runs the first `count` messages that have not begun. If all are done at once, none of them has a lane.
    fn run_front(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
        (listener, limits): (usize, &Batch),
        count: usize,
    ) -> Next {
        let called = {
            let records = slot.lanes.fresh_all().take(count);
            let records: Vec<&dyn Record> = records.map(|(_, one)| one as &dyn Record).collect();
            self.call_batch(slot, config, (listener, limits), &records)
        };
        turn.ran += count;
        turn.calls += count;
        let Called { step, asked, next } = called;
        let is_done = match &step {
            Step::Batch(end) => {
                matches!(end.how, How::Returned) && end.done == count && end.emitted.is_none()
            }
            _ => false,
        };
        // Behind what waits for a transaction each has its place in its lane.
        let is_done = is_done && slot.unacknowledged.is_empty();
        let id = slot.batches.last;
        if is_done && asked.is_none() {
            self.running.end_batch((slot.partition.epoch, id));
            self.gates.done_many(listener, count as u32);
            for _ in 0..count {
                let Some((number, message)) = slot.lanes.take_fresh() else {
                    break;
                };
                self.meter.first(listener, slot.taken.at(number));
                self.meter.outcome(listener, Outcome::Done);
                slot.place.finished(message.offset());
                slot.finish(number);
            }
            self.meter.ran(listener);
            return next;
        }
        let members = slot.line_up(config, count);
        for member in &members {
            self.meter.first(listener, slot.taken.at(member.number));
        }
        self.began(slot, config, (listener, members, None), step, asked);
        next
    }

    /// Runs messages of open lanes.
    fn run_members(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
        (listener, limits): (usize, &Batch),
        members: Vec<Member>,
        trial: Option<Trial>,
    ) -> Next {
        let called = {
            let records = slot.records(&members);
            if records.len() != members.len() {
                // A message is gone from its lane: what is left runs anew.
                slot.release_all(trial, &members);
                return Next::Continue;
            }
            self.call_batch(slot, config, (listener, limits), &records)
        };
        turn.ran += members.len();
        turn.calls += members.len();
        for member in &members {
            if trial.is_some() {
                self.meter.retried(listener);
            } else {
                self.meter.first(listener, slot.taken.at(member.number));
            }
        }
        let Called { step, asked, next } = called;
        self.began(slot, config, (listener, members, trial), step, asked);
        next
    }

    fn call_batch(
        &mut self,
        slot: &Slot,
        config: &Config,
        (listener, limits): (usize, &Batch),
        records: &[&dyn Record],
    ) -> Called {
        let call = Call {
            listener,
            topic: &slot.partition.topic,
            partition: slot.partition.number,
            record: records[0],
            attempt: 1,
            is_retry: false,
        };
        let last = records[records.len() - 1].offset();
        let place = (slot.partition.epoch, slot.batches.last + 1);
        let offsets = (call.record.offset(), last);
        self.running.begin_batch(place, &slot.place, offsets);
        let batch = BatchCall {
            call,
            records,
            high_watermark: slot.partition.high_watermark().max(last + 1),
            auto_resolve: limits.auto_resolve,
        };
        let step = self.engine.call_batch(&batch);
        let asked = self.engine.take_requested(self.engine.generation());
        let next = self.look_after(slot, offsets.0, config, &batch.call);
        Called { step, asked, next }
    }

    /// Calls the handler with a batch of one message, which has a lane.
    pub(super) fn call_alone(
        &mut self,
        slot: &Slot,
        offset: i64,
        config: &Config,
        (call, limits): (Call<'_>, &Batch),
        alone: bool,
    ) -> Called {
        self.running.begin(&slot.place, offset, alone);
        let behind = call.record.offset() + 1;
        let high_watermark = if call.is_retry {
            behind
        } else {
            slot.partition.high_watermark().max(behind)
        };
        let batch = BatchCall {
            records: &[call.record],
            high_watermark,
            auto_resolve: limits.auto_resolve,
            call,
        };
        let step = self.engine.call_batch(&batch);
        let asked = self.engine.take_requested(self.engine.generation());
        let next = self.look_after(slot, offset, config, &batch.call);
        Called { step, asked, next }
    }

    /// The first slice of a batch has ended, and its messages have lanes.
    fn began(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        (listener, members, trial): (usize, Vec<Member>, Option<Trial>),
        step: Step,
        asked: Option<Requested>,
    ) {
        slot.set_batched(&members);
        slot.batches.last += 1;
        let id = slot.batches.last;
        let batch = OpenBatch {
            listener: config.listeners[listener].name.clone(),
            members,
            done: 0,
            trial,
            settling: None,
            writing: None,
            fits: None,
        };
        slot.batches.open.insert(id, batch);
        if let Some(asked) = asked {
            slot.ask_of_batch(id, asked);
        }
        if !matches!(step, Step::Waits(..)) {
            self.meter.ran(listener);
        }
        let vm = self.engine.generation();
        self.advance_batch(slot, config, id, vm, step);
    }

    /// The call of a batch has waited; `None` if its VM is gone.
    pub(super) fn go_on_with_batch(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        (vm, id): (u64, u64),
        open: Open,
        step: Option<Step>,
        asked: Option<Requested>,
    ) {
        if let Some(asked) = asked {
            slot.ask_of_batch(id, asked);
        }
        if let Some(held) = self.engine.take_slow()
            && let Some(lane) = slot.lanes.get(open.lane)
        {
            let message = &lane.message;
            warn_of_slow(slot, message.offset(), message, &open.listener, held);
        }
        match step {
            Some(Step::Waits(call, waits)) => {
                self.suspend(slot, vm, call, waits, open, false);
            }
            Some(step) => self.advance_batch(slot, config, id, vm, step),
            None => self.give_up_batch(slot, id),
        }
    }

    /// Handles the result of a slice.
    pub(super) fn advance_batch(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        id: u64,
        vm: u64,
        step: Step,
    ) {
        match step {
            Step::Waits(call, waits) => {
                let Some(open) = slot.batches.open.get(&id) else {
                    return;
                };
                let Some((lane, offset)) = open.first_lane() else {
                    return;
                };
                let limit = named(config, &open.listener).map(|one| one.limits.timeout);
                let now = self.clock.now();
                let open = Open {
                    epoch: slot.partition.epoch,
                    lane,
                    offset,
                    listener: open.listener.clone(),
                    began: self.meter.suspended(now),
                    deadline: now + limit.unwrap_or_default(),
                    waits: Vec::new(),
                    batch: Some(id),
                };
                self.suspend(slot, vm, call, waits, open, true);
            }
            Step::Batch(end) => self.end_batch(slot, config, id, *end),
            Step::Done
            | Step::Emitted(_)
            | Step::Deferred(..)
            | Step::Failed(_)
            | Step::Asked(_) => self.give_up_batch(slot, id),
        }
    }
}

impl Slot {
    /// The messages of open lanes, in the order of their numbers.
    fn records(&self, members: &[Member]) -> Vec<&dyn Record> {
        let mut counts: HashMap<u64, usize> = HashMap::new();
        for member in members {
            *counts.entry(member.lane).or_default() += 1;
        }
        let mut found: Vec<(u64, &Message)> = Vec::with_capacity(members.len());
        for (lane, count) in counts {
            if let Some(lane) = self.lanes.get(lane) {
                found.extend(lane.messages().take(count));
            }
        }
        found.sort_unstable_by_key(|(number, _)| *number);
        let is_same = found
            .iter()
            .map(|one| one.0)
            .eq(members.iter().map(|one| one.number));
        let records = found.into_iter().filter(|_| is_same);
        records.map(|(_, message)| message as &dyn Record).collect()
    }

    /// The next messages that have not begun get their places in lanes.
    fn line_up(&mut self, config: &Config, count: usize) -> Vec<Member> {
        let mut members = Vec::with_capacity(count);
        for _ in 0..count {
            let Some((number, message)) = self.lanes.take_fresh() else {
                break;
            };
            let lane = self.lane_of(number, &message);
            members.push(Member {
                number,
                lane,
                offset: message.offset(),
            });
            if self.lanes.is_open(lane) {
                self.lanes.queue_behind(lane, number, message);
            } else {
                let open = self.new_lane(config, number, message);
                self.lanes.put(lane, open);
            }
        }
        members
    }

    /// These messages are in a batch, or in a search: their lanes wait for it.
    fn set_batched(&mut self, members: &[Member]) {
        for member in members {
            if let Some(lane) = self.lanes.get_mut(member.lane)
                && lane.number == member.number
                && let Some(progress) = lane.progress.first_mut()
            {
                progress.stage = Stage::Batched;
            }
        }
    }

    /// These messages run in other batches. The lanes of `suspects` wait still.
    fn release(&mut self, members: &[Member], suspects: &[Member]) {
        let waiting: BTreeSet<u64> = suspects.iter().map(|one| one.lane).collect();
        for member in members.iter().filter(|one| !waiting.contains(&one.lane)) {
            if let Some(lane) = self.lanes.get_mut(member.lane) {
                for progress in &mut lane.progress {
                    if progress.stage == Stage::Batched {
                        progress.stage = Stage::Due;
                    }
                }
                self.lanes.wake(member.lane);
            }
        }
    }
}
