//! A lane goes back to a message: an emission that went ahead is not acknowledged.
//!
//! The race that this ends: 1. the records of message 7 go ahead, then those of 8 and 9, and the handler of 10 runs;
//! 2. those of 7 are refused with others of their request, or time out; 3. written again, they would stand behind
//! those of 8 and 9. So the lane goes back to 7 and waits there until its records are acknowledged, or until 7 has
//! another outcome. Then the records of 8 and 9 are written again, without another run of their handlers. The call of
//! 10 is given up, and it runs again without the loss of an attempt. **The last copies stand in the lane's order.**

use crate::kafka::Message;
use crate::rules::lanes::{Headed, Lane, Progress, Stage};

use super::Worker;
use super::ahead::Origin;
use super::head::Head;
use super::ids::RecordId;
use super::kept::{Emitting, Full, Kept, Settled};
use super::slot::Slot;

impl Worker {
    /// The emission of this number is not acknowledged.
    pub(super) fn go_back(&mut self, slot: &mut Slot, id: u64, origin: Origin, listener: &str) {
        let (key, number) = (origin.lane.lane, origin.number);
        let taken = slot.unacknowledged.take_from(key, number);
        let open = slot.lanes.take(key);
        let lane = if taken.is_empty() {
            // The message is in the lane still, since another listener runs it, or the lane has gone back before.
            open.map(|mut lane| {
                unwrite_in(slot, &mut lane, number, |one| one.ahead == Some(id));
                lane
            })
        } else {
            let open = open.map(|mut lane| {
                self.preempt(slot, key, &mut lane, listener);
                lane
            });
            let mut headed = Vec::with_capacity(taken.len());
            for (number, settled) in taken {
                headed.extend(self.unwrite(slot, number, settled, listener));
            }
            Lane::back_to(headed, open)
        };
        if let Some(lane) = lane {
            slot.lanes.put(key, lane);
            slot.lanes.wake(key);
        }
    }

    /// What the listener has emitted for this message is to be written again. Other listeners do not go back: their
    /// emissions stay ahead.
    pub(super) fn unwrite(
        &mut self,
        slot: &mut Slot,
        number: u64,
        settled: Settled,
        listener: &str,
    ) -> Option<Headed<Message>> {
        let Full {
            mut headed,
            emitting: Emitting { lane, kept, then },
        } = settled.into_full()?;
        let mut ahead = Vec::new();
        for one in kept {
            if one.listener() != listener {
                ahead.push(one);
                continue;
            }
            self.recall(slot, &one);
            Progress::unwrite(&mut headed.progress, listener);
            let key = (number, listener.to_owned());
            slot.unwritten.insert(key, one.into());
        }
        if !then.is_empty() || !ahead.is_empty() {
            let emitting = slot.emitting(lane, number);
            (emitting.kept, emitting.then) = (ahead, then);
        }
        Some(headed)
    }

    /// The answer to the emission does not count any more.
    fn recall(&mut self, slot: &mut Slot, kept: &Kept) {
        if kept.ahead.is_some_and(|ahead| self.emissions.recall(ahead)) {
            slot.under_way -= 1;
        }
    }

    /// The head of the lane has its turn again later: a call of it is given up, and its records are written again.
    pub(super) fn preempt(
        &mut self,
        slot: &mut Slot,
        key: u64,
        lane: &mut Lane<Message>,
        listener: &str,
    ) {
        let id = slot.lane_id(key);
        if let Some((vm, call)) = self.calls.of_lane(id.epoch, key) {
            self.calls.remove(vm, call);
            self.engine.cancel(vm, call);
            slot.under_way -= 1;
            self.running.end(id);
            self.leave(&slot.partition);
        }
        for progress in &mut lane.progress {
            match progress.stage {
                Stage::Running => {
                    progress.take_attempt_back();
                    progress.stage = Stage::Due;
                }
                Stage::Sending => {
                    let record = RecordId {
                        lane: id,
                        listener: progress.listener.clone(),
                    };
                    progress.stage = match self.emissions.give_up(&record) {
                        Some(unwritten) => {
                            slot.under_way -= 1;
                            let key = (lane.number, record.listener);
                            slot.unwritten.insert(key, unwritten);
                            Stage::Unwritten
                        }
                        // A record for another topic: its answer finds another head, and it is sent again.
                        None => Stage::SendDue,
                    };
                }
                _ => {}
            }
        }
        let number = lane.number;
        for one in unwrite_in(slot, lane, number, |one| one.listener() == listener) {
            if self.emissions.recall(one) {
                slot.under_way -= 1;
            }
        }
        self.end_alone(id);
        self.gates.forget_probe(id);
    }

    /// The lane has come to a message whose records are to be written again.
    pub(super) fn write_unwritten(&mut self, head: &mut Head<'_>) {
        let key = (head.lane.number, head.listener().to_owned());
        head.progress().stage = match head.slot.unwritten.remove(&key) {
            Some(unwritten) => self.write_again(head, unwritten),
            None => Stage::Due,
        };
    }
}

/// These emissions of a message in the lane are to be written again. Returns the numbers of those without an answer.
fn unwrite_in(
    slot: &mut Slot,
    lane: &mut Lane<Message>,
    number: u64,
    is_meant: impl Fn(&Kept) -> bool,
) -> Vec<u64> {
    let Some(emitting) = slot.emitting.get_mut(&number) else {
        return Vec::new();
    };
    let kept: Vec<_> = emitting.kept.extract_if(.., |one| is_meant(one)).collect();
    let mut open = Vec::new();
    for one in kept {
        open.extend(one.ahead);
        if let Some(progress) = lane.progress_of(number) {
            Progress::unwrite(progress, one.listener());
            let key = (number, one.listener().to_owned());
            slot.unwritten.insert(key, one.into());
        }
    }
    open
}
