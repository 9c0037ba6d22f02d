//! Running a lane: call by call, until it is empty, waits, or has had its turn.

use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config::{Config, Listener, OnError};
use crate::lanes::{Next, Stage};
use crate::lua::{Answer, Call, CallId, Failure, FailureKind, Step, Wait};
use crate::message::Record;
use crate::partition::{Partition, Reply, ToConsumer};
use crate::retry;
use crate::status::Blocked;
use crate::supervisor::Ending;

use super::calls::Open;
use super::timers::Wake;
use super::{LOOK_EVERY, QUANTUM, QUANTUM_TIME, Slot, Worker, share};

/// What a sleep is cut to: a clock ends somewhere.
const SLEEP_MAX: Duration = Duration::from_secs(365 * 24 * 3600);

impl Worker {
    pub(super) fn run_lane(&mut self, epoch: u64) {
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        slot.queued = false;
        let mut again = false;
        let limit = share(slot.plan.concurrency, self.index, self.count).max(1);
        if self.calls.of(epoch) > 0 || self.places.may_run(&slot.partition, limit) {
            again = self.run_slot(&mut slot);
        }
        self.note_finished(&mut slot);
        self.slots.insert(epoch, slot);
        if again {
            self.wake(epoch);
        }
    }

    /// What the lane has finished since the last time is to be reported.
    fn note_finished(&mut self, slot: &mut Slot) {
        let numbers = slot.reported..slot.lane.first();
        if !numbers.is_empty() {
            slot.reported = numbers.end;
            self.finished.push((slot.partition.clone(), numbers));
        }
    }

    /// Whether there is more to run.
    fn run_slot(&mut self, slot: &mut Slot) -> bool {
        let config = self.engine.bundle().config.clone();
        let started = Instant::now();
        for ran in 1..=QUANTUM {
            if slot.released || slot.partition.is_over() {
                return false;
            }
            if self.engine.is_spoiled() {
                // Not one more call in this VM.
                return true;
            }
            match slot.lane.next(slot.plan.listeners.len()) {
                Next::Run(index) => {
                    if self.run_head(slot, &config, index) {
                        return true;
                    }
                }
                Next::Finished => {
                    slot.lane.advance();
                    if slot.blocked {
                        slot.blocked = false;
                        slot.partition.set_blocked(None);
                    }
                }
                Next::BackOff(until) => {
                    self.timers.set(until, Wake::Lane(slot.partition.epoch));
                    return false;
                }
                Next::Running | Next::Halted | Next::Empty => return false,
            }
            if ran.is_multiple_of(LOOK_EVERY) && started.elapsed() >= QUANTUM_TIME {
                return true;
            }
        }
        true
    }

    /// Whether that took so long that others should have their turn.
    fn run_head(&mut self, slot: &mut Slot, config: &Config, index: usize) -> bool {
        let Some(record) = slot.lane.head() else {
            return false;
        };
        let fresh = slot.lane.is_fresh();
        let attempt = if fresh {
            1
        } else {
            slot.lane.attempt(index) + 1
        };
        let call = Call {
            listener: slot.plan.listeners[index],
            topic: &slot.partition.topic,
            partition: slot.partition.number,
            record,
            attempt,
        };
        let step = self.engine.call(&call);
        let was_slow = self.warn_of_slow(slot, &config.listeners[slot.plan.listeners[index]].name);
        if fresh && slot.plan.listeners.len() == 1 && matches!(step, Step::Done) {
            slot.lane.advance();
            return was_slow;
        }
        let names = slot
            .plan
            .listeners
            .iter()
            .map(|&index| config.listeners[index].name.as_str());
        slot.lane.progress(names)[index].attempt = attempt;
        let generation = self.engine.generation();
        self.advance(slot, config, index, generation, step);
        was_slow
    }

    /// What a call has come to.
    fn advance(&mut self, slot: &mut Slot, config: &Config, index: usize, vm: u64, step: Step) {
        let stage = match step {
            Step::Done => Stage::Final,
            Step::Failed(failure) => self.failed(slot, config, index, &failure),
            Step::Asked(verdict) => {
                let failure = Failure {
                    kind: FailureKind::Raised,
                    message: format!("the handler asked for {verdict:?}"),
                    traceback: None,
                };
                self.failed(slot, config, index, &failure)
            }
            Step::Waits(call, wait) => {
                let listener = slot.lane.begun()[index].listener.clone();
                self.wait(slot, vm, call, wait, &listener);
                self.places.enter(&slot.partition);
                self.calls.insert(
                    vm,
                    call,
                    Open {
                        epoch: slot.partition.epoch,
                        listener,
                    },
                );
                Stage::Running
            }
        };
        slot.lane.begun()[index].stage = stage;
    }

    fn wait(&mut self, slot: &mut Slot, vm: u64, call: CallId, wait: Wait, listener: &str) {
        match wait {
            Wait::Sleep(duration) => self.timers.set(
                Instant::now() + duration.min(SLEEP_MAX),
                Wake::Call(vm, call),
            ),
            Wait::Commit(offset) => {
                // What is finished counts for the position, so it has to be there first.
                self.note_finished(slot);
                self.report();
                let partition = &slot.partition;
                let reply = Reply {
                    worker: self.mailbox.clone(),
                    vm,
                    call,
                };
                let listener = listener.into();
                partition.inbox.send(ToConsumer::Commit {
                    partition: partition.clone(),
                    listener,
                    offset,
                    reply,
                });
            }
        }
    }

    /// The answer to a waiting call. One that is gone (its VM or its lane) is passed over.
    pub(super) fn resume(&mut self, vm: u64, call: CallId, answer: Answer) {
        if self.engine.is_spoiled() {
            self.mend(Instant::now());
        }
        let Some(open) = self.calls.remove(vm, call) else {
            return;
        };
        let step = self.engine.resume(vm, call, answer);
        let Some(mut slot) = self.slots.remove(&open.epoch) else {
            return;
        };
        for parked in self.places.leave(&slot.partition) {
            self.wake(parked);
        }
        self.warn_of_slow(&slot, &open.listener);
        let config = self.engine.bundle().config.clone();
        let found = slot
            .lane
            .begun()
            .iter()
            .position(|progress| progress.listener == open.listener);
        if let Some(index) = found {
            let is_wanted = slot.wants(&config, &open.listener);
            match step {
                Some(step) if is_wanted => self.advance(&mut slot, &config, index, vm, step),
                // It ended in a bundle that had this listener; the present one has not.
                Some(Step::Waits(call, wait)) => {
                    self.wait(&mut slot, vm, call, wait, &open.listener);
                    self.places.enter(&slot.partition);
                    self.calls.insert(vm, call, open);
                }
                None if is_wanted => slot.lane.begun()[index].stage = Stage::Due,
                _ => slot.lane.begun()[index].stage = Stage::Final,
            }
        }
        self.put_back(slot);
    }

    /// Gives up the calls that wait in this VM: they run again, and it is no attempt.
    pub(super) fn abandon(&mut self, vm: u64) {
        for (call, open) in self.calls.take_vm(vm) {
            self.engine.cancel(vm, call);
            let Some(mut slot) = self.slots.remove(&open.epoch) else {
                continue;
            };
            for parked in self.places.leave(&slot.partition) {
                self.wake(parked);
            }
            let config = self.engine.bundle().config.clone();
            let is_wanted = slot.wants(&config, &open.listener);
            for progress in slot.lane.begun() {
                if progress.listener == open.listener {
                    progress.attempt = progress.attempt.saturating_sub(1);
                    // A listener that is gone has nothing to run again.
                    progress.stage = if is_wanted { Stage::Due } else { Stage::Final };
                }
            }
            self.put_back(slot);
        }
    }

    /// A call that has ended counts, although its lane has had no turn since.
    pub(super) fn settle(&mut self, slot: &mut Slot) {
        if slot.lane.next(slot.plan.listeners.len()) == Next::Finished {
            slot.lane.advance();
        }
        self.note_finished(slot);
    }

    /// After a call of a released lane ended, the lane is drained; any other goes on.
    fn put_back(&mut self, mut slot: Slot) {
        let epoch = slot.partition.epoch;
        let partition = slot.partition.clone();
        if self.calls.of(epoch) == 0 && (slot.released || partition.is_over()) {
            self.settle(&mut slot);
            let released = slot.released;
            self.slots.insert(epoch, slot);
            if released {
                self.drop_lane(&partition);
            }
            return;
        }
        slot.queued = false;
        self.slots.insert(epoch, slot);
        self.wake(epoch);
    }

    /// Decides what follows a failed run, and says it.
    fn failed(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        index: usize,
        failure: &Failure,
    ) -> Stage {
        let name = slot.lane.begun()[index].listener.clone();
        let Some(listener) = config
            .listeners
            .iter()
            .find(|listener| listener.name == name)
        else {
            return Stage::Final;
        };
        let now_ms = now_ms();
        let progress = &mut slot.lane.begun()[index];
        let since = *progress.failing_since.get_or_insert(now_ms);
        let attempt = progress.attempt;
        let delay = retry::delay(&listener.retry, attempt, fastrand::f64());
        let offset = slot.lane.head().map_or(-1, Record::offset);
        let place = Place {
            listener,
            partition: &slot.partition,
            offset,
            attempt,
            bundle: self.engine.bundle().number,
        };
        let mut blocked = Blocked {
            offset,
            listener: name,
            attempt,
            since,
            next_attempt_at: now_ms,
            error: failure.message.clone(),
        };
        let stage = if let Some(delay) = delay {
            self.log.failed(&place, failure, Some(delay));
            blocked.next_attempt_at += i64::try_from(delay.as_millis()).unwrap_or(i64::MAX);
            Stage::BackOff(Instant::now() + delay)
        } else if listener.on_error == OnError::Stop {
            self.log.failed(&place, failure, None);
            let sentence = format!(
                "listener `{}` stops at {}-{}@{offset} after {attempt} attempts: {}",
                listener.name, slot.partition.topic, slot.partition.number, failure.message
            );
            // The daemon may be stopping for another reason already.
            let _ = self.endings.send(Ending::Message(sentence));
            Stage::Halted
        } else {
            self.log.skipped(&place, failure);
            return Stage::Final;
        };
        slot.blocked = true;
        slot.partition.set_blocked(Some(blocked));
        stage
    }

    fn warn_of_slow(&self, slot: &Slot, listener: &str) -> bool {
        let held = self.engine.take_slow();
        if let Some(held) = held {
            tracing::warn!(
                listener,
                topic = &*slot.partition.topic,
                partition = slot.partition.number,
                offset = slot.lane.head().map(Record::offset),
                held_ms = held.as_millis() as u64,
                "handler held the vm: other handlers waited"
            );
        }
        held.is_some()
    }
}

impl Slot {
    /// Whether this listener is one of the topic's in the bundle in force.
    fn wants(&self, config: &Config, listener: &str) -> bool {
        let mut listeners = self.plan.listeners.iter();
        listeners.any(|&index| config.listeners[index].name == listener)
    }
}

/// Where a handler failed.
pub(super) struct Place<'a> {
    pub(super) listener: &'a Listener,
    pub(super) partition: &'a Partition,
    pub(super) offset: i64,
    pub(super) attempt: u32,
    pub(super) bundle: u64,
}
