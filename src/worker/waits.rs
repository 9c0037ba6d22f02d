//! Calls that wait: suspended, answered, timed out, given up.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Partition, ToConsumer, ToWorker};
use crate::config::Config;
use crate::kafka::Message;
use crate::log::log;
use crate::lua::{CallId, Failure, Step};
use crate::message::Record;
use crate::message::trace::TraceId;
use crate::rules::lanes::{Lane, LaneState, Stage};
use crate::rules::offsets::Ask;
use crate::wait::send::Emitted;
use crate::wait::{Answer, Cancel, Reply, Wait, WaitId, Waits};

use super::calls::Open;
use super::head::Head;
use super::outcomes::named;
use super::slot::Slot;
use super::timers::Wake;
use super::{ANSWERS_TIME, Worker};

/// The longest sleep, because the clock's range is finite.
const SLEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Worker {
    /// Suspends a call until an answer arrives.
    pub(super) fn suspend(
        &mut self,
        slot: &mut Slot,
        vm: u64,
        call: CallId,
        waits: Waits,
        mut open: Open,
        is_first: bool,
    ) {
        if is_first {
            self.timers.set(open.deadline, Wake::Timeout(vm, call));
        }
        let Waits { begun, given_up } = waits;
        if !given_up.is_empty() {
            // Dropping the other waits cancels their work.
            open.waits.retain(|(one, _)| !given_up.contains(one));
        }
        for (id, wait) in begun {
            let cancel = self.serve(Some((&mut *slot, &open)), (vm, call, id), wait);
            open.waits.push((id, cancel));
        }
        self.places.enter(&slot.partition);
        slot.under_way += 1;
        self.calls.insert(vm, call, open);
    }

    /// **The one function that serves waits**: the worker serves timers and commits itself, the outside runtime
    /// serves the rest.
    ///
    /// `of` is the message of the call; a tick has none.
    pub(super) fn serve(
        &mut self,
        of: Option<(&mut Slot, &Open)>,
        (vm, call, id): (u64, CallId, WaitId),
        wait: Wait,
    ) -> Option<Cancel> {
        match wait {
            Wait::Sleep(duration) => {
                let at = self.clock.now() + duration.min(SLEEP_MAX);
                self.timers.set(at, Wake::Call(vm, call, id));
                None
            }
            Wait::Commit(offset) => self.begin_commit(of, (vm, call, id), offset, None),
            Wait::EmitAndCommit(emitted, offset) => {
                self.begin_commit(of, (vm, call, id), offset, Some(emitted))
            }
            Wait::Settle {
                done,
                behind,
                emitted,
            } => {
                let place = (done, behind);
                match of {
                    Some((slot, open)) => {
                        self.begin_settling(slot, open, (vm, call, id), place, emitted)
                    }
                    // A tick has no batch.
                    None => self.begin_commit(None, (vm, call, id), behind, None),
                }
            }
            Wait::Outside(job) => {
                let reply = self.reply(vm, call, id);
                Some(self.app.outside.begin(job, reply))
            }
        }
    }

    fn begin_commit(
        &mut self,
        of: Option<(&mut Slot, &Open)>,
        (vm, call, id): (u64, CallId, WaitId),
        offset: i64,
        emitted: Option<Arc<Emitted>>,
    ) -> Option<Cancel> {
        if let Some((slot, open)) = of {
            return self.commit_behind(slot, open, (vm, call, id), offset, emitted);
        }
        let reply = self.reply(vm, call, id);
        reply.committed(Err("there is no message to commit".to_owned()));
        None
    }

    /// The reply that brings an answer back to this worker.
    pub(super) fn reply(&self, vm: u64, call: CallId, wait: WaitId) -> Reply {
        let mailbox = self.mailbox.clone();
        Reply::new(move |answer| {
            mailbox.send(ToWorker::Answer {
                vm,
                call,
                wait,
                answer,
            });
        })
    }

    pub(super) fn commit(&mut self, slot: &mut Slot, offset: i64, open: &Open, reply: Reply) {
        if slot.plan.is_retry {
            // In its own topic, the position has passed the message since it was put into the retry topic.
            return reply.committed(Ok(offset));
        }
        if let Some(id) = open.batch {
            slot.ask_other_lanes(id, offset, open.lane);
        }
        slot.asks.covered(open.who(), offset);
        // The position depends on finished messages, so they are reported first.
        self.unreported.add(slot);
        self.report();
        slot.partition.inbox.send(ToConsumer::Commit {
            listeners_since_bundle: slot.listeners_since_bundle,
            partition: slot.partition.clone(),
            ask: Ask {
                listener: open.listener.as_str().into(),
                lane: open.lane,
                at: open.offset,
                offset,
            },
            reply,
        });
    }

    /// Takes the answers that arrived. Many may have come at once; new messages wait for a part of them only.
    pub(super) fn take_answers(&mut self, now: Instant) {
        while self.clock.since(now) < ANSWERS_TIME
            && let Some((vm, call, wait, answer)) = self.answers.pop_front()
        {
            self.resume(vm, call, wait, answer);
        }
    }

    /// A call no longer waits: partitions parked for it continue.
    pub(super) fn leave(&mut self, partition: &Partition) {
        for parked in self.places.leave(partition) {
            self.wake(parked);
        }
        if self.runs_nothing() {
            self.wake_alone();
        }
    }

    /// The answer to a wait. It is ignored if its call is gone (with its VM or its lane), or the wait was given up.
    pub(super) fn resume(&mut self, vm: u64, call: CallId, wait: WaitId, answer: Answer) {
        self.report();
        if self.engine.is_spoiled() {
            self.mend(self.clock.now());
        }
        if self.ticks.is_open(vm, call) {
            return self.resume_tick(vm, call, wait, answer);
        }
        if !self.calls.waits(vm, call, wait) {
            return;
        }
        let Some(mut open) = self.calls.remove(vm, call) else {
            return;
        };
        open.waits.retain(|(one, _)| *one != wait);
        // A commit may answer many calls at once: each may take as long as a turn may.
        self.beat.turn();
        let step = self.engine.resume(vm, call, wait, answer);
        self.end_wait(vm, open, step);
    }

    /// The call has waited beyond its listener's `limits.timeout`.
    pub(super) fn time_out(&mut self, vm: u64, call: CallId) {
        if self.ticks.is_open(vm, call) {
            return self.time_tick_out(vm, call);
        }
        let Some(open) = self.calls.remove(vm, call) else {
            return;
        };
        let config = self.engine.bundle().config.clone();
        let limit = named(&config, &open.listener).map(|listener| listener.limits.timeout);
        let failure = Failure::timeout(limit.unwrap_or_default());
        let step = self.engine.fail(vm, call, failure);
        self.end_wait(vm, open, step);
    }

    /// The result of a call that waited; `None` if its VM is gone.
    fn end_wait(&mut self, vm: u64, open: Open, step: Option<Step>) {
        if matches!(&step, Some(step) if !matches!(step, Step::Waits(..)))
            && let Some(listener) = self.meter.index_of(&open.listener)
        {
            self.meter.waited(listener, self.clock.since(open.began));
        }
        if !matches!(step, Some(Step::Waits(..))) {
            self.running.end(open.lane_id());
        }
        let Some(mut slot) = self.slots.remove(&open.epoch) else {
            return;
        };
        let asked = self.engine.take_requested(vm);
        slot.under_way -= 1;
        self.leave(&slot.partition);
        let config = self.engine.bundle().config.clone();
        if let Some(id) = open.batch {
            self.go_on_with_batch(&mut slot, &config, (vm, id), open, step, asked);
            return self.put_back(slot);
        }
        if let Some(asked) = asked {
            slot.ask(open.who(), asked);
        }
        if let Some(mut lane) = slot.lanes.take(open.lane) {
            if let Some(held) = self.engine.take_slow() {
                let message = &lane.message;
                warn_of_slow(&slot, message.offset(), message, &open.listener, held);
            }
            let key = open.lane;
            self.step_on(&mut slot, &config, &mut lane, vm, open, step);
            slot.lanes.put(key, lane);
            slot.lanes.wake(key);
        }
        self.put_back(slot);
    }

    fn step_on(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        lane: &mut Lane<Message>,
        vm: u64,
        open: Open,
        step: Option<Step>,
    ) {
        let Some(index) = lane.index_of(&open.listener) else {
            return;
        };
        let is_wanted = slot.wants(&open.listener);
        match step {
            Some(Step::Waits(call, waits)) => {
                self.suspend(slot, vm, call, waits, open, false);
            }
            // What a removed listener has emitted leaves, too: the message does not run again.
            Some(step) if is_wanted || matches!(step, Step::Emitted(_) | Step::Deferred(..)) => {
                let mut head = Head {
                    slot,
                    config,
                    key: open.lane,
                    lane,
                    index,
                };
                self.advance(&mut head, vm, step);
            }
            None if is_wanted => {
                lane.progress[index].stage = Stage::Due;
                self.gates.forget_probe(open.lane_id());
            }
            // The call ended in a bundle that had this listener; the present one does not have it.
            _ => lane.progress[index].stage = Stage::Final,
        }
    }

    /// Gives up the calls that wait in this VM: they run again, and it counts as no attempt.
    pub(super) fn abandon(&mut self, vm: u64) {
        self.abandon_ticks(vm);
        for (call, open) in self.calls.take_vm(vm) {
            self.beat.turn();
            self.engine.cancel(vm, call);
            self.running.end(open.lane_id());
            let Some(mut slot) = self.slots.remove(&open.epoch) else {
                continue;
            };
            slot.under_way -= 1;
            self.leave(&slot.partition);
            if let Some(id) = open.batch {
                self.give_up_batch(&mut slot, id);
                self.put_back(slot);
                continue;
            }
            let is_wanted = slot.wants(&open.listener);
            if let Some(lane) = slot.lanes.get_mut(open.lane)
                && let Some(index) = lane.index_of(&open.listener)
            {
                let progress = &mut lane.progress[index];
                progress.take_attempt_back();
                // A removed listener has nothing to run again.
                progress.stage = if is_wanted { Stage::Due } else { Stage::Final };
                slot.lanes.wake(open.lane);
            }
            self.end_alone(open.lane_id());
            self.gates.forget_probe(open.lane_id());
            self.put_back(slot);
        }
    }

    /// Ends every call of a partition: the drain's deadline has passed.
    pub(super) fn cancel_calls(&mut self, partition: &Partition) {
        for (vm, call) in self.calls.take_of(partition.epoch) {
            self.beat.turn();
            self.engine.cancel(vm, call);
            self.leave(partition);
        }
    }

    /// Counts messages that have ended, although their lanes have had no turn since.
    pub(super) fn settle(&mut self, slot: &mut Slot) {
        let open = slot.lanes.open();
        let ended = open.filter(|(key, lane)| {
            lane.state() == LaneState::Finished && slot.is_final_without(*key, lane.number)
        });
        let ended: Vec<_> = ended
            .map(|(_, lane)| (lane.number, lane.message.offset()))
            .collect();
        for (number, offset) in ended {
            slot.finish(number);
            slot.place.finished(offset);
        }
        self.unreported.add(slot);
    }

    /// After the end of a call, a released partition may be drained; any other continues.
    pub(super) fn put_back(&mut self, mut slot: Slot) {
        let epoch = slot.partition.epoch;
        let partition = slot.partition.clone();
        if slot.under_way == 0 && (slot.released || partition.is_over()) {
            self.settle(&mut slot);
            let released = slot.released;
            self.slots.insert(epoch, slot);
            if released {
                self.drop_slot(&partition);
            }
            return;
        }
        self.slots.insert(epoch, slot);
        self.wake(epoch);
    }
}

/// Other calls of the VM waited for this call.
pub(super) fn warn_of_slow(
    slot: &Slot,
    offset: i64,
    message: &dyn Record,
    listener: &str,
    held: Duration,
) {
    let trace = TraceId::of_message(message);
    log!(
        warn,
        worker,
        listener,
        topic = &*slot.partition.topic,
        partition = slot.partition.number,
        offset,
        trace_id = trace.as_ref().map(TraceId::as_str),
        held_ms = held.as_millis() as u64,
        "handler held the vm: other handlers waited"
    );
}
