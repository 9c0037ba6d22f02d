//! Batches in a consumer with exactly once. **The messages that one call has finished, and their records, enter one
//! transaction together.** Their lanes go on meanwhile.
//!
//! After a refused record the partition goes back to all that no transaction has committed: a call may have messages of
//! many lanes, and behind it in each of them stand other calls, with messages of further lanes. The messages of the
//! refused call then run alone, so that the next refusal blames one of them. What they emitted is dropped.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::assignment::{HandedOver, Partition, ToConsumer};
use crate::config::Config;
use crate::log::log;
use crate::lua::Failure;
use crate::message::Record as _;
use crate::outgoing::transactions::Part;
use crate::rules::batch::Member;
use crate::rules::lanes::{Headed, Lane};
use crate::rules::transaction;
use crate::wait::send::Emitted;
use crate::worker::Worker;
use crate::worker::kept::Settled;
use crate::worker::slot::Slot;
use crate::worker::transactions::BOOKKEEPING;

use super::state::Handed;

impl Worker {
    /// A call has finished these messages: they go to the consumer, with its records.
    pub(super) fn hand_over_members(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        listener: &str,
        (members, emitted): (Vec<Member>, Option<Arc<Emitted>>),
    ) {
        let Some(first) = members.first().copied() else {
            return;
        };
        let (mut bytes, mut share, mut parts) = (0, None, Vec::new());
        if let Some(emitted) = emitted {
            bytes += emitted.bytes;
            share = Some(self.emissions.share(listener, emitted.bytes));
            parts.push(Part {
                listener: listener.into(),
                emitted,
            });
        }
        slot.each_finished(config, &members, |slot, lane, number, message| {
            slot.place.finished(message.offset());
            bytes += BOOKKEEPING + message.bytes();
            let settled = Settled::Member {
                message,
                call: first.number,
            };
            slot.unacknowledged.push(lane, number, 1, settled);
        });
        let others = members.iter().skip(1).map(|one| transaction::Member {
            lane: one.lane,
            number: one.number,
        });
        self.unreported.hand_over(HandedOver {
            partition: slot.partition.clone(),
            lane: first.lane,
            number: first.number,
            others: others.collect(),
            is_of_batches: true,
            bytes,
            parts: parts.into(),
        });
        let handed = Handed {
            members,
            _share: share,
        };
        slot.batches.handed.insert(first.number, handed);
    }

    /// A record of this message is refused, or of the call that has finished it with others. Returns whether it was a
    /// call: then its messages have what they get, and otherwise the message has failed still.
    pub(in crate::worker) fn partition_goes_back(
        &mut self,
        slot: &mut Slot,
        (lane, number): (u64, u64),
        reason: &str,
    ) -> bool {
        let call = match slot.unacknowledged.get(lane, number) {
            Some(Settled::Member { call, .. }) => Some(*call),
            _ => None,
        };
        let config = self.engine.bundle().config.clone();
        let listener = slot.plan.listeners.first();
        let listener = listener.map_or("", |one| config.listeners[*one].name.as_str());
        let taken = slot.unacknowledged.take_all();
        let lanes: BTreeSet<u64> = taken.iter().map(|(lane, _)| *lane).collect();
        self.give_up_batches_of(slot, &lanes);
        let mut handed = std::mem::take(&mut slot.batches.handed);
        let members = call.and_then(|call| handed.remove(&call));
        let members = members.map(|one| one.members).unwrap_or_default();
        if members.len() > 1 {
            log!(
                warn,
                worker,
                listener,
                topic = &*slot.partition.topic,
                partition = slot.partition.number,
                offset = members[0].offset,
                last = members[members.len() - 1].offset,
                error = reason,
                "the messages of a call cannot be committed together: they run again, each alone"
            );
            let numbers = members.iter().map(|one| one.number);
            slot.batches.singles.extend(numbers);
        }
        for (key, messages) in taken {
            let open = slot.lanes.take(key).map(|mut open| {
                self.preempt(slot, key, &mut open, listener);
                open
            });
            let mut headed = Vec::with_capacity(messages.len());
            for (number, settled) in messages {
                headed.extend(match settled {
                    Settled::Member { message, .. } => {
                        Some(Headed::anew(number, message, slot.names(&config)))
                    }
                    settled => self.unwrite(slot, number, settled, listener),
                });
            }
            if let Some(mut lane) = Lane::back_to(headed, open) {
                // What waits for a transaction keeps its place there: no lane has to wait for it.
                lane.is_strict = false;
                slot.lanes.put(key, lane);
                slot.lanes.wake(key);
            }
        }
        let lowest = slot.lanes.lowest();
        slot.batches.singles = slot.batches.singles.split_off(&lowest);
        if let [blamed] = members[..] {
            let failure = Failure::given_up(reason.to_owned());
            self.blame(slot, &config, listener, blamed, &failure);
        }
        call.is_some()
    }

    /// Runs and searches with messages of these lanes begin anew.
    fn give_up_batches_of(&mut self, slot: &mut Slot, lanes: &BTreeSet<u64>) {
        let is_of = |members: &[Member]| members.iter().any(|one| lanes.contains(&one.lane));
        let open = slot.batches.open.iter();
        let open = open.filter(|(_, batch)| is_of(batch.rest()));
        let ids: Vec<u64> = open.map(|(id, _)| *id).collect();
        for id in ids {
            let is_written = slot
                .batches
                .open
                .get(&id)
                .is_some_and(|one| one.writing.is_some());
            if let Some((vm, call)) = self.calls.of_batch(slot.partition.epoch, id) {
                self.calls.remove(vm, call);
                self.engine.cancel(vm, call);
                self.leave(&slot.partition);
                slot.under_way -= 1;
            } else if is_written {
                slot.under_way -= 1;
            }
            self.give_up_batch(slot, id);
        }
        let waiting = &mut slot.batches.trials;
        let given_up = waiting.extract_if(.., |one| is_of(&one.trial.suspects));
        for one in given_up.collect::<Vec<_>>() {
            slot.unblock_first(&one.trial);
            slot.release_all(Some(one.trial), &[]);
        }
    }

    /// The consumer cannot commit the messages of a call together.
    pub(in crate::worker) fn divide(
        &mut self,
        partition: &Arc<Partition>,
        (lane, number): (u64, u64),
    ) {
        self.report();
        partition.inbox.send(ToConsumer::WentBack {
            partition: partition.clone(),
            lane: None,
        });
        if let Some(mut slot) = self.slots.remove(&partition.epoch) {
            let reason = "what is finished beyond the position does not fit into its metadata";
            self.partition_goes_back(&mut slot, (lane, number), reason);
            self.put_back(slot);
        }
        self.let_start();
    }
}

impl Slot {
    /// Whether these messages of a call are to be committed together.
    pub(super) fn waits_for_transaction(&self, members: &[Member], has_records: bool) -> bool {
        let waits = |one: &Member| self.unacknowledged.has(one.lane);
        self.partition.is_exactly_once && (has_records || members.iter().any(waits))
    }

    /// A call has finished this message with others. Its transaction is committed.
    pub(in crate::worker) fn settled_member(&mut self, call: u64) {
        self.batches.handed.remove(&call);
    }
}
