//! What a batch has emitted. **Its messages are done when the brokers have acknowledged the records that belong to
//! them**, and their lanes wait for it. In a consumer with exactly once they only wait for a look at the topics.

use std::sync::Arc;

use crate::assignment::{Emission, ToWorker};
use crate::config::Config;
use crate::log::log;
use crate::lua::{BatchEnd, CallId, Failure, How};
use crate::telemetry::status::Blocked;
use crate::wait::send::{Emitted, Troubled};
use crate::wait::{Answer, Cancel, Fault, Reply, Requested, WaitId};
use crate::worker::Worker;
use crate::worker::calls::Open;
use crate::worker::emissions::{NO_REFUSAL, job, result};
use crate::worker::looking::look_at_topics;
use crate::worker::slot::Slot;

use super::state::Writing;

impl Worker {
    pub(super) fn write_batch(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        id: u64,
        (end, emitted, asked): (BatchEnd, Emitted, Option<Requested>),
    ) {
        let is_exactly_once = slot.partition.is_exactly_once;
        if is_exactly_once && emitted.senders.fit(&emitted.requests) {
            if let Some(batch) = slot.batches.open.get_mut(&id) {
                batch.fits = Some(Arc::new(emitted));
            }
            return self.conclude(slot, config, id, end);
        }
        let (mailbox, epoch) = (self.mailbox.clone(), slot.partition.epoch);
        let tell = Arc::new(move |news| {
            mailbox.send(ToWorker::BatchEmission {
                epoch,
                batch: id,
                news,
            });
        });
        let trouble = tell.clone();
        let troubled: Troubled = Box::new(move |fault| trouble(Emission::Troubled(fault)));
        let Some(batch) = slot.batches.open.get_mut(&id) else {
            return;
        };
        let (job, emitted) = if is_exactly_once {
            (look_at_topics(&emitted, troubled), Some(Arc::new(emitted)))
        } else {
            let share = self.emissions.share(&batch.listener, emitted.bytes);
            (job(&emitted, troubled, Some(share)), None)
        };
        let reply = Reply::new(move |answer| tell(Emission::Over(result(answer))));
        let cancel = self.app.outside.begin(job, reply);
        slot.under_way += 1;
        batch.writing = Some(Writing {
            end,
            asked,
            emitted,
            tries: 0,
            _cancel: cancel,
        });
    }

    /// News of the records of a batch.
    pub(in crate::worker) fn batch_emission(&mut self, epoch: u64, id: u64, news: Emission) {
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        let config = self.engine.bundle().config.clone();
        match news {
            Emission::Troubled(fault) => self.batch_troubled(&mut slot, id, &fault),
            Emission::Over(result) => {
                let batch = slot.batches.open.get_mut(&id);
                if let Some(writing) = batch.and_then(|batch| batch.writing.take()) {
                    slot.under_way -= 1;
                    self.batch_written(&mut slot, &config, id, writing, result);
                }
            }
        }
        self.put_back(slot);
        self.let_start();
    }

    fn batch_written(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        id: u64,
        writing: Writing,
        result: Result<(), Fault>,
    ) {
        if let Some(first) = slot
            .batches
            .open
            .get(&id)
            .and_then(|one| one.rest().first())
        {
            let number = first.number;
            slot.unblock(number);
        }
        let Writing {
            end,
            asked,
            emitted,
            ..
        } = writing;
        match result {
            Ok(()) => {
                if let Some(batch) = slot.batches.open.get_mut(&id) {
                    batch.fits = emitted;
                }
                if let Some(asked) = asked {
                    slot.ask_of_batch(id, asked);
                }
                self.conclude(slot, config, id, end);
            }
            // It says nothing of a record.
            Err(fault) if NO_REFUSAL.contains(&fault.kind) => self.give_up_batch(slot, id),
            Err(fault) => {
                let done = slot.batches.open.get(&id).map_or(0, |batch| batch.done);
                let end = BatchEnd {
                    done,
                    how: How::Failed(Failure::given_up(fault.message)),
                    emitted: None,
                };
                self.conclude(slot, config, id, end);
            }
        }
    }

    fn batch_troubled(&mut self, slot: &mut Slot, id: u64, fault: &Fault) {
        let Some(batch) = slot.batches.open.get_mut(&id) else {
            return;
        };
        let Some(writing) = batch.writing.as_mut() else {
            return;
        };
        writing.tries += 1;
        let tries = writing.tries;
        let (listener, first) = (batch.listener.clone(), batch.rest().first().copied());
        let Some(first) = first else { return };
        let cure = match fault.kind {
            "notFound" => "; create the topic, or repair its name and reload",
            _ => "",
        };
        let error = format!("its records are not acknowledged: {}{cure}", fault.message);
        let now = self.clock.wall_ms();
        if tries.is_power_of_two() {
            log!(
                error,
                worker,
                listener,
                topic = &*slot.partition.topic,
                partition = slot.partition.number,
                offset = first.offset,
                error = fault.message,
                tries,
                "emitted records are not acknowledged: the batch waits"
            );
        }
        let blocked = Blocked {
            offset: first.offset,
            listener,
            attempt: 1,
            since: now,
            next_attempt_at: now,
            error,
        };
        slot.block(first.number, blocked);
    }

    /// `ctx.commitOffsetsIfNecessary`: the first `done` messages are done, once what belongs to them is written.
    pub(in crate::worker) fn begin_settling(
        &mut self,
        slot: &mut Slot,
        open: &Open,
        of: (u64, CallId, WaitId),
        (done, behind): (usize, i64),
        emitted: Option<Arc<Emitted>>,
    ) -> Option<Cancel> {
        let batch = open.batch.and_then(|id| slot.batches.open.get_mut(&id));
        if let Some(batch) = batch {
            batch.settling = Some(done);
        }
        if let Some(emitted) = emitted {
            return Some(self.write_before_commit(&emitted, &open.listener, of, behind));
        }
        self.settle_batch(slot, open, of, behind);
        None
    }

    /// What belongs to the messages is written. Returns whether the call had asked for that.
    pub(in crate::worker) fn settle_batch(
        &mut self,
        slot: &mut Slot,
        open: &Open,
        (vm, call, wait): (u64, CallId, WaitId),
        behind: i64,
    ) {
        let config = self.engine.bundle().config.clone();
        let is_wanted = slot.wants(&open.listener);
        if let Some(id) = open.batch
            && let Some(batch) = slot.batches.open.get_mut(&id)
            && let Some(done) = batch.settling.take()
            && is_wanted
        {
            self.finish_first(slot, &config, id, done);
        }
        let is_manual = slot.plan.manual.iter().any(|one| **one == *open.listener);
        if is_manual {
            let reply = self.reply(vm, call, wait);
            self.commit(slot, behind, open, reply);
        } else {
            let answer = Answer::Committed(Ok(behind));
            self.answers.push_back((vm, call, wait, answer));
        }
    }
}

impl Slot {
    /// Whether the call waits for the end of `begin_settling`.
    pub(in crate::worker) fn is_settling(&self, open: &Open) -> bool {
        let batch = open.batch.and_then(|id| self.batches.open.get(&id));
        batch.is_some_and(|batch| batch.settling.is_some())
    }
}
