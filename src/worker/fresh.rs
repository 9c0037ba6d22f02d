//! Messages that have not begun. Most are done by one call, and never have a lane.

use std::sync::Arc;

use crate::config::{Config, Ordering};
use crate::kafka::Message;
use crate::lua::{Call, Step};
use crate::message::Record as _;
use crate::rules::lanes::{Headed, Lanes};
use crate::wait::send::Emitted;

use super::Worker;
use super::commit_requests::Who;
use super::gates::Begin;
use super::kept::{Emitting, Settled, Then};
use super::run::{Called, Next, Quantum};
use super::slot::Slot;

/// How many messages ahead of its call a message's description is prefetched; its bytes follow later.
const DESCRIBED_AHEAD: usize = 4;
const BYTES_AHEAD: usize = 2;

/// librdkafka's thread wrote the messages on another core: without a prefetch each call waits for the memory.
fn prefetch(lanes: &Lanes<Message>) {
    if let Some(message) = lanes.fresh_behind(DESCRIBED_AHEAD) {
        message.prefetch();
    }
    if let Some(message) = lanes.fresh_behind(BYTES_AHEAD) {
        message.prefetch_bytes();
    }
}

/// A message that runs without a lane.
struct Fresh<'a> {
    listener: &'a str,
    /// The lane that it would have.
    lane: u64,
    number: u64,
    offset: i64,
}

impl Fresh<'_> {
    fn who(&self) -> Who<'_> {
        Who {
            listener: self.listener,
            lane: self.lane,
            at: self.offset,
        }
    }
}

impl Worker {
    /// The next message that has not begun.
    pub(super) fn run_fresh(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
    ) -> Next {
        if slot.lanes.has_open() {
            if slot.plan.ordering == Ordering::Partition && slot.lanes.is_open(0) {
                return Next::PartitionIdle;
            }
            let Some((number, message)) = slot.lanes.fresh() else {
                return Next::PartitionIdle;
            };
            let key = slot.lane_of(number, message);
            if slot.lanes.is_open(key) {
                slot.lanes.defer_fresh(key);
                return Next::Continue;
            }
        }
        let first = slot.plan.listeners.first();
        let first = first.map_or("", |index| config.listeners[*index].name.as_str());
        if turn.is_held || !self.may_start(slot, turn.limits, first) {
            return Next::PartitionIdle;
        }
        prefetch(&slot.lanes);
        let Some((number, message)) = slot.lanes.fresh() else {
            return Next::PartitionIdle;
        };
        let offset = message.offset();
        let begin = match slot.plan.listeners[..] {
            [listener] => {
                let is_plain = !slot.plan.is_retry && slot.place.suspect(offset).is_none();
                self.gates.begin(listener, slot.partition.epoch, is_plain)
            }
            _ => Begin::InLane,
        };
        if begin == Begin::Wait {
            return Next::PartitionIdle;
        }
        if let [listener] = slot.plan.listeners[..]
            && begin == Begin::Run
        {
            let call = Call {
                listener,
                topic: &slot.partition.topic,
                partition: slot.partition.number,
                record: message,
                attempt: 1,
                is_retry: false,
            };
            turn.calls += 1;
            let called = self.call(slot, offset, config, &call, false);
            if matches!(called.step, Step::Done)
                && called.asked.is_none()
                && slot.unacknowledged.is_empty()
            {
                // The common case asks for no lane, which may be the hash of a key.
                self.running.end_now();
                self.gates.done(listener);
                self.meter.done(listener, slot.taken.at(number));
                slot.place.finished(offset);
                slot.lanes.take_fresh();
                slot.finish(number);
                return called.next;
            }
            let fresh = Fresh {
                listener: &config.listeners[listener].name,
                lane: slot.lane_of(number, message),
                number,
                offset,
            };
            return match self.ran_fresh(slot, listener, &fresh, called) {
                Ok(next) => next,
                Err(step) => self.open_lane(slot, config, Some(step), turn),
            };
        }
        self.open_lane(slot, config, None, turn)
    }

    /// The first call of a message without a lane has returned. An error is its result, where it needs a lane.
    fn ran_fresh(
        &mut self,
        slot: &mut Slot,
        listener: usize,
        fresh: &Fresh<'_>,
        called: Called,
    ) -> Result<Next, Step> {
        let Called { step, asked, next } = called;
        if let Some(asked) = asked {
            slot.ask(fresh.who(), asked);
        }
        let taken = slot.taken.at(fresh.number);
        if matches!(step, Step::Done) {
            self.running.end_now();
            self.gates.done(listener);
            self.meter.done(listener, taken);
            self.end_fresh(slot, fresh);
            return Ok(next);
        }
        self.meter.first(listener, taken);
        if let Step::Emitted(emitted) = step {
            self.emit_fresh(slot, fresh, emitted)
                .map_err(Step::Emitted)?;
            self.meter.ran(listener);
            return Ok(next);
        }
        Err(step)
    }

    /// A message without a lane is done, and what it has emitted goes ahead. It comes back where that is not possible.
    fn emit_fresh(
        &mut self,
        slot: &mut Slot,
        fresh: &Fresh<'_>,
        emitted: Arc<Emitted>,
    ) -> Result<(), Arc<Emitted>> {
        let asked = emitted.asked;
        let of = (fresh.lane, fresh.number, fresh.listener);
        let kept = self.emit_ahead(slot, of, emitted)?;
        self.running.end_now();
        slot.place.finished(fresh.offset);
        let Some((number, message)) = slot.lanes.take_fresh() else {
            return Ok(());
        };
        if slot.partition.is_exactly_once {
            let headed = Headed::done(number, message, fresh.listener);
            let emitting = Emitting {
                lane: fresh.lane,
                kept: vec![kept],
                then: Vec::new(),
            };
            self.end_message(slot, fresh.lane, headed, emitting);
            return Ok(());
        }
        let mut settled = Settled::Plain {
            number,
            lane: fresh.lane,
            message,
            kept,
        };
        if let Some(asked) = asked {
            settled.follow_with(Then::Ask {
                listener: fresh.listener.to_owned(),
                at: fresh.offset,
                asked,
            });
        }
        slot.unacknowledged.push(fresh.lane, number, 1, settled);
        Ok(())
    }

    /// A message without a lane is done.
    fn end_fresh(&mut self, slot: &mut Slot, fresh: &Fresh<'_>) {
        slot.place.finished(fresh.offset);
        let taken = slot.lanes.take_fresh();
        if !slot.unacknowledged.has(fresh.lane) {
            slot.finish(fresh.number);
        } else if let Some((number, message)) = taken {
            let headed = Headed::done(number, message, fresh.listener);
            self.end_message(slot, fresh.lane, headed, Emitting::default());
        }
    }
}
