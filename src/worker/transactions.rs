//! In a consumer with exactly once, what a message has emitted does not leave by the worker. It goes to the consumer
//! together with the message, when that has its outcome in all listeners, and enters a transaction there.
//!
//! The worker keeps the message until the transaction is committed: a topic may refuse one of its records. Then the
//! lane goes back to it (`going_back.rs`), the listener has failed, and what is behind it is handed over again.

use std::sync::Arc;

use smallvec::smallvec;

use crate::assignment::{HandedOver, Partition, ToConsumer, ToWorker};
use crate::kafka::Message;
use crate::lua::Failure;
use crate::message::Outgoing;
use crate::outgoing::outbox::Refused;
use crate::outgoing::transactions::Part;
use crate::rules::lanes::{Headed, Stage};
use crate::telemetry::metrics::Outcome;
use crate::wait::Reply;
use crate::wait::send::{Emitted, Request};

use super::Worker;
use super::ahead::Origin;
use super::emissions::result;
use super::head::Head;
use super::ids::{LaneId, RecordId};
use super::kept::{Emitting, IN_TRANSACTION, Kept, Settled, Share};
use super::looking::look_at_topics;
use super::slot::Slot;

/// The memory that a message takes beside its bytes.
pub(super) const BOOKKEEPING: usize = 200;

impl Worker {
    /// The records stay with their message. They come back if their topics are not known yet, or do not take them.
    pub(super) fn keep_for_transaction(
        &mut self,
        lane: LaneId,
        listener: &str,
        emitted: Arc<Emitted>,
    ) -> Result<Kept, Arc<Emitted>> {
        if !emitted.senders.fit(&emitted.requests) {
            return Err(emitted);
        }
        self.count_done(listener, lane);
        Ok(Kept {
            ahead: IN_TRANSACTION,
            share: self.emissions.share(listener, emitted.bytes),
            emitted,
        })
    }

    /// The topics of an emission that its lane has waited for are known.
    pub(super) fn keep_looked_at(head: &mut Head<'_>, emitted: Arc<Emitted>, share: Share) {
        if !head.slot.partition.is_exactly_once {
            return;
        }
        let kept = Kept {
            ahead: IN_TRANSACTION,
            share,
            emitted,
        };
        let (key, number) = (head.key, head.lane.number);
        head.slot.emitting(key, number).kept.push(kept);
    }

    /// The message has its outcome in all listeners: it goes to the consumer with its records.
    pub(super) fn hand_over(
        &mut self,
        slot: &mut Slot,
        lane: u64,
        headed: Headed<Message>,
        emitting: Emitting,
    ) {
        let number = headed.number;
        let part = |kept: &Kept| Part {
            listener: kept.share.of.name.clone(),
            emitted: kept.emitted.clone(),
        };
        let records: usize = emitting.kept.iter().map(|one| one.emitted.bytes).sum();
        self.unreported.hand_over(HandedOver {
            partition: slot.partition.clone(),
            lane,
            number,
            others: Vec::new(),
            is_of_batches: slot.plan.batch.is_some(),
            bytes: BOOKKEEPING + headed.message.bytes() + records,
            parts: emitting.kept.iter().map(part).collect(),
        });
        // One answer for all of it.
        let open = 1;
        let settled = Settled::full(headed, emitting);
        slot.unacknowledged.push(lane, number, open, settled);
    }

    /// News of the consumer's transactions.
    pub(super) fn of_transaction(&mut self, letter: ToWorker) {
        match letter {
            ToWorker::Settled { epoch, messages } => self.settled(epoch, &messages),
            ToWorker::RefusedRecord {
                partition,
                lane,
                number,
                listener,
                reason,
            } => self.refused_record(&partition, (lane, number), listener, reason),
            ToWorker::Divide {
                partition,
                lane,
                number,
            } => self.divide(&partition, (lane, number)),
            _ => {}
        }
    }

    /// These messages are committed.
    fn settled(&mut self, epoch: u64, messages: &[(u64, u64)]) {
        if let Some(mut slot) = self.slots.remove(&epoch) {
            for (lane, number) in messages {
                let mut ended = Vec::new();
                let is_final = |number, settled| ended.push((number, settled));
                slot.unacknowledged
                    .acknowledged(*lane, *number, |_| (), |_| (), is_final);
                for (number, settled) in ended {
                    if let Settled::Member { call, .. } = settled {
                        slot.settled_member(call);
                    }
                    slot.finish(number);
                }
            }
            self.unreported.add(&mut slot);
            self.slots.insert(epoch, slot);
        }
        self.let_start();
    }

    /// A topic never accepts a record of this message: its listener has failed.
    fn refused_record(
        &mut self,
        partition: &Arc<Partition>,
        (lane, number): (u64, u64),
        listener: String,
        reason: String,
    ) {
        // Whatever the lane handed over before comes first.
        self.report();
        let slot = self.slots.remove(&partition.epoch);
        let has_batches = slot.as_ref().is_some_and(|one| one.plan.batch.is_some());
        partition.inbox.send(ToConsumer::WentBack {
            partition: partition.clone(),
            lane: (!has_batches).then_some(lane),
        });
        let Some(mut slot) = slot else {
            return;
        };
        let id = LaneId {
            epoch: partition.epoch,
            lane,
        };
        if has_batches {
            if self.partition_goes_back(&mut slot, (lane, number), &reason) {
                self.put_back(slot);
                return self.let_start();
            }
        } else {
            let origin = Origin { lane: id, number };
            let emission = IN_TRANSACTION.unwrap_or_default();
            self.go_back(&mut slot, emission, origin, &listener);
        }
        slot.unwritten.remove(&(number, listener.clone()));
        self.slots.insert(partition.epoch, slot);
        let record = RecordId { lane: id, listener };
        self.with_head(&record, |worker, head| {
            if head.lane.number != number {
                return;
            }
            let stage = worker.failed(head, &Failure::given_up(reason), None);
            head.come_to(stage);
        });
        self.let_start();
    }

    /// A dead letter, or a record for a retry topic, is in the transaction of its message. It fits its topic by then.
    pub(super) fn forward_in_transaction(
        &mut self,
        head: &mut Head<'_>,
        record: Outgoing,
        outcome: Outcome,
    ) -> Stage {
        let bytes = record.size();
        let Some(senders) = self.app.senders(&self.engine.bundle().config) else {
            return Stage::SendDue;
        };
        let request = Request {
            function: "the record",
            records: smallvec![record],
            ..Request::default()
        };
        let emitted = Arc::new(Emitted {
            senders,
            requests: smallvec![request],
            bytes,
            kept: 0,
            last_bytes: bytes,
            asked: None,
        });
        let id = head.record_id();
        if emitted.senders.fit(&emitted.requests) {
            self.forwarded.remove(&id);
            let share = self.emissions.share(head.listener(), bytes);
            Self::keep_looked_at(head, emitted, share);
            return self.ended(head, outcome);
        }
        let (mailbox, number) = (self.mailbox.clone(), head.lane.number);
        let (epoch, lane, listener) = (id.lane.epoch, id.lane.lane, id.listener);
        let reply = Reply::new(move |answer| {
            mailbox.send(ToWorker::Delivered {
                epoch,
                lane,
                number,
                listener,
                result: result(answer).map_err(|fault| match fault.kind {
                    "tooLarge" => Refused::TooLarge(fault.message),
                    _ => Refused::Other(fault.message),
                }),
            });
        });
        let job = look_at_topics(&emitted, Box::new(|_| ()));
        let looking = self.app.outside.begin(job, reply);
        if let Some(forwarding) = self.forwarded.get_mut(&head.record_id()) {
            forwarding.looking = Some(looking);
        }
        head.slot.under_way += 1;
        Stage::Sending
    }
}
