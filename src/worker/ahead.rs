//! Emissions that went ahead: their records leave in their order, with numbers, and the answers come as runs of numbers.

use std::sync::Arc;

use crate::assignment::ToWorker;
use crate::log::log;
use crate::threads::mailbox::Mailbox;
use crate::wait::Fault;
use crate::wait::send::{Acknowledgements, Emitted, Run, Senders};

use super::Worker;
use super::ids::LaneId;
use super::kept::{Kept, Settled};
use super::slot::Slot;

/// The message that an emission belongs to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Origin {
    pub(super) lane: LaneId,
    pub(super) number: u64,
}

/// Hears of the records of one worker.
pub(super) struct Hears(pub(super) Arc<Mailbox<ToWorker>>);

impl Acknowledgements for Hears {
    fn answered(&self, runs: Vec<Run>, failed: Vec<(u64, Fault)>) {
        self.0.send(ToWorker::Acknowledged { runs, failed });
    }
}

impl Worker {
    /// Sends the records, and the lane goes on. They come back where that is not possible now.
    pub(super) fn emit_ahead(
        &mut self,
        slot: &mut Slot,
        (lane, number, listener): (u64, u64, &str),
        emitted: Arc<Emitted>,
    ) -> Result<Kept, Arc<Emitted>> {
        if slot.partition.is_exactly_once {
            return self.keep_for_transaction(slot.lane_id(lane), listener, emitted);
        }
        let emissions = &mut self.emissions;
        let first = emissions.ahead.next();
        emissions.unsent.leave_by(&emitted.senders);
        if !emitted
            .senders
            .emit_now(&emitted, first, &emissions.answers)
        {
            return Err(emitted);
        }
        let requests = emitted.requests.iter();
        let records = requests.map(|one| one.records.len()).sum::<usize>();
        let lane = slot.lane_id(lane);
        let origin = Origin { lane, number };
        emissions.ahead.push(records as u64, origin);
        slot.under_way += 1;
        Ok(Kept {
            ahead: Some(first),
            share: emissions.share(listener, emitted.bytes),
            emitted,
        })
    }

    /// The partition goes, and has records without an acknowledgement. Those in no request yet would be written behind
    /// those of its next owner, so the producers take back all that they have in their queues. What lanes of other
    /// partitions have there is written again, in their order.
    pub(super) fn take_back(&self, epoch: u64) {
        // What waits for a transaction has not been sent.
        let slot = self.slots.get(&epoch);
        let Some(slot) = slot.filter(|slot| !slot.partition.is_exactly_once) else {
            return;
        };
        let settled = slot.unacknowledged.all().flat_map(Settled::open);
        let heads = slot.emitting.values().flat_map(|one| &one.kept);
        let ahead = settled.chain(heads.filter(|one| one.ahead.is_some()));
        let waited = self.emissions.written(epoch);
        let mut all: Vec<Arc<dyn Senders>> = Vec::new();
        for emitted in ahead.map(|one| &*one.emitted).chain(waited) {
            if !all.iter().any(|one| Arc::ptr_eq(one, &emitted.senders)) {
                all.push(emitted.senders.clone());
            }
        }
        for senders in all {
            senders.flush();
            senders.take_back();
        }
    }

    /// The answers to records that went ahead.
    pub(super) fn acknowledged(&mut self, runs: &[Run], failed: Vec<(u64, Fault)>) {
        let mut ended = std::mem::take(&mut self.emissions.ahead_ended);
        for run in runs {
            let ahead = &mut self.emissions.ahead;
            ahead.acknowledged(*run, |id, origin| ended.push((id, origin)));
        }
        let mut slot = None;
        for (id, origin) in ended.drain(..) {
            if let Some(slot) = self.change_to(&mut slot, origin.lane.epoch) {
                slot.under_way -= 1;
                self.end_ahead(slot, id, origin);
            }
        }
        self.emissions.ahead_ended = ended;
        for (number, fault) in failed {
            // Unless the lane has gone back since, or the partition is gone.
            let Some((id, origin)) = self.emissions.ahead.failed(number) else {
                continue;
            };
            if let Some(slot) = self.change_to(&mut slot, origin.lane.epoch) {
                slot.under_way -= 1;
                self.fail_ahead(slot, id, origin, &fault);
            }
        }
        if let Some(slot) = slot {
            self.put_back(slot);
        }
        self.let_start();
    }

    /// The slot of this epoch, in place of another one.
    pub(super) fn change_to<'s>(
        &mut self,
        slot: &'s mut Option<Slot>,
        epoch: u64,
    ) -> Option<&'s mut Slot> {
        if slot.as_ref().is_none_or(|one| one.partition.epoch != epoch) {
            if let Some(other) = slot.take() {
                self.put_back(other);
            }
            *slot = self.slots.remove(&epoch);
        }
        slot.as_mut()
    }

    /// An emission that went ahead is acknowledged: its message may be final now, and those behind it.
    fn end_ahead(&mut self, slot: &mut Slot, id: u64, origin: Origin) {
        let Origin { lane, number } = origin;
        let mut ended = std::mem::take(&mut self.emissions.ended);
        let note = |settled: &mut Settled| {
            if let Some(emitter) = settled.acknowledged(id) {
                self.count_done(&emitter.name, lane);
            }
        };
        let is_final = |number, settled| ended.push((number, settled));
        let unacknowledged = &mut slot.unacknowledged;
        if !unacknowledged.acknowledged(lane.lane, number, note, Settled::prefetch, is_final)
            && let Some(emitting) = slot.emitting.get_mut(&number)
            && let Some(emitter) = emitting.acknowledged(id)
        {
            self.count_done(&emitter.name, lane);
        }
        for (number, settled) in ended.drain(..) {
            slot.finish(number);
            match settled {
                Settled::Plain { kept, .. } => self.engine.use_again(kept.emitted),
                Settled::Full(full) => {
                    for then in full.emitting.then {
                        self.follow(slot, lane.lane, then);
                    }
                }
                // In no transaction nothing has several messages.
                Settled::Member { .. } | Settled::None => {}
            }
        }
        self.emissions.ended = ended;
    }

    fn fail_ahead(&mut self, slot: &mut Slot, id: u64, origin: Origin, fault: &Fault) {
        let Origin { lane, number } = origin;
        let settled = slot.unacknowledged.get(lane.lane, number);
        let emitter = match settled {
            Some(settled) => settled.emitter(id),
            None => slot.emitting.get(&number).and_then(|one| one.emitter(id)),
        };
        let Some(emitter) = emitter.cloned() else {
            return;
        };
        log!(
            debug,
            worker,
            listener = &*emitter.name,
            topic = &*slot.partition.topic,
            partition = slot.partition.number,
            error = fault.message,
            "a lane goes back: its records are not acknowledged"
        );
        self.go_back(slot, id, origin, &emitter.name);
    }
}
