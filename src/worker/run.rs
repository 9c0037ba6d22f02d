//! Runs the lanes of one partition, call by call, until nothing can run or other partitions are due a turn.

use std::time::Instant;

use crate::assignment::{self, Admits, ToConsumer};
use crate::config::Config;
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::lua::{Call, Step};
use crate::message::Record as _;
use crate::rules::lanes::{Lane, LaneState, Stage};
use crate::telemetry::metrics::Outcome;
use crate::wait::Requested;

use super::calls::Limits;
use super::commit_requests::Who;
use super::gates::Gate;
use super::head::Head;
use super::slot::Slot;
use super::suspects::Suspicion;
use super::timers::Wake;
use super::waits::warn_of_slow;
use super::{QUANTUM, QUANTUM_TIME, Worker};

/// The turn of one partition.
pub(super) struct Quantum {
    started: Instant,
    pub(super) ran: usize,
    /// Calls that have begun.
    pub(super) calls: usize,
    /// `ran` at the last look at the clock.
    looked: usize,
    pub(super) limits: Limits,
    /// Lanes that may not start a call in this turn; they are queued again when the turn ends. Other lanes still
    /// finish and send records, because a kept lane may wait for one of them.
    kept: Vec<u64>,
    /// A handler has paused the partition: no run begins.
    pub(super) is_held: bool,
}

impl Quantum {
    pub(super) fn keeps_any(&self) -> bool {
        !self.kept.is_empty()
    }
}

/// The next step of a partition's turn.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// There may be more to run.
    Continue,
    /// The lane is blocked, and other lanes may have more to run. The end of its wait wakes the lane or its
    /// partition.
    LaneBlocked,
    /// The partition can start nothing now. The end of its wait wakes the partition.
    PartitionIdle,
    /// Other partitions have their turn first.
    YieldTurn,
}

/// The result of a call.
pub(super) struct Called {
    pub(super) step: Step,
    /// The commit request that the handler does not wait for.
    pub(super) asked: Option<Requested>,
    pub(super) next: Next,
}

impl Worker {
    pub(super) fn run_partition(&mut self, epoch: u64) {
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        slot.queued = false;
        let again = self.run_slot(&mut slot);
        if self.meter.is_open() {
            self.meter.look(self.clock.now());
        }
        self.fetch_again(&mut slot);
        self.unreported.add(&mut slot);
        if slot.begins_below < u64::MAX {
            self.tell_rest(&mut slot);
        }
        if self.slots.len() * self.count > assignment::MANY {
            slot.lanes.give_room_back();
        }
        self.slots.insert(epoch, slot);
        if again {
            self.wake(epoch);
        }
    }

    /// The consumer hears once that what has begun has ended. One open lane may stay: its messages finish in their order.
    fn tell_rest(&mut self, slot: &mut Slot) {
        let has_begun = slot.lanes.open_count() > 1 || slot.has_fresh_that_may_begin();
        if !has_begun && !slot.has_told_rest {
            slot.has_told_rest = true;
            self.report();
            let partition = slot.partition.clone();
            partition.inbox.send(ToConsumer::AtRest(partition.clone()));
        }
    }

    /// Whether there is more to run.
    fn run_slot(&mut self, slot: &mut Slot) -> bool {
        let config = self.engine.bundle().config.clone();
        let mut turn = Quantum {
            started: self.clock.now(),
            ran: 0,
            calls: 0,
            looked: 0,
            limits: Limits::of(&slot.plan, self.index, self.count),
            kept: Vec::new(),
            is_held: false,
        };
        self.meter.begin(turn.started);
        let again = if slot.plan.batch.is_some() && !slot.plan.is_retry {
            self.run_lanes::<true>(slot, &config, &mut turn)
        } else {
            self.run_lanes::<false>(slot, &config, &mut turn)
        };
        if let Some(of) = slot.share() {
            self.ready.ran(&of, turn.calls);
        }
        for key in turn.kept {
            slot.lanes.wake(key);
        }
        again
    }

    /// `BATCHES`: the listener gets batches.
    fn run_lanes<const BATCHES: bool>(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        turn: &mut Quantum,
    ) -> bool {
        while turn.ran < QUANTUM {
            // The message before this one may have paused the partition.
            turn.is_held = match slot.partition.admits() {
                _ if slot.released => return false,
                Admits::Nothing => return false,
                Admits::NoRuns => {
                    if slot.partition.rests() {
                        slot.come_to_rest();
                    }
                    true
                }
                Admits::Begun => {
                    slot.come_to_rest();
                    false
                }
                Admits::Runs => {
                    slot.begins_below = u64::MAX;
                    false
                }
            };
            if self.engine.is_spoiled() {
                // No further call may run in this VM.
                return true;
            }
            let next = if BATCHES {
                self.next_batch(slot, config, turn)
            } else {
                self.next_lane(slot, config, turn)
            };
            match next {
                Next::Continue => {}
                Next::LaneBlocked => continue,
                Next::PartitionIdle => return false,
                Next::YieldTurn => return true,
            }
            turn.ran += 1;
            if turn.ran - turn.looked >= self.meter.every() {
                let now = self.clock.now();
                turn.looked = turn.ran;
                self.meter.look(now);
                if now.duration_since(turn.started) >= QUANTUM_TIME {
                    return true;
                }
            }
        }
        true
    }

    #[inline]
    fn next_lane(&mut self, slot: &mut Slot, config: &Config, turn: &mut Quantum) -> Next {
        match slot.lanes.next_ready() {
            Some(key) => match slot.lanes.take(key) {
                Some(lane) => self.go_on(slot, config, key, lane, turn),
                None => Next::Continue,
            },
            // As for the kept lanes, no call of a new lane may start.
            None if !turn.kept.is_empty() => Next::PartitionIdle,
            None if slot.begins_below < u64::MAX && !slot.has_fresh_that_may_begin() => {
                Next::PartitionIdle
            }
            None => self.run_fresh(slot, config, turn),
        }
    }

    /// Opens a lane for the next message that has not begun: it needs more than one call. `step` is the result of its
    /// first call.
    pub(super) fn open_lane(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        step: Option<Step>,
        turn: &mut Quantum,
    ) -> Next {
        let Some((number, message)) = slot.lanes.take_fresh() else {
            return Next::PartitionIdle;
        };
        let key = slot.lane_of(number, &message);
        let mut lane = slot.new_lane(config, number, message);
        if let Some(stray) = slot.stray(&lane) {
            slot.note(number, Outcome::Skipped);
            self.log
                .stray(&slot.partition, lane.message.offset(), &stray);
        }
        if let Some(step) = step {
            lane.progress[0].attempt = 1;
            lane.admitted = self.gates.admitted(slot.plan.listeners[0]);
            self.count_run(slot.plan.listeners[0], &step);
            let vm = self.engine.generation();
            let mut head = Head {
                slot,
                config,
                key,
                lane: &mut lane,
                index: 0,
            };
            self.advance(&mut head, vm, step);
        }
        self.go_on(slot, config, key, lane, turn)
    }

    /// Runs the head of a lane as far as possible, and puts the lane back unless it is over.
    pub(super) fn go_on(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        mut lane: Lane<Message>,
        turn: &mut Quantum,
    ) -> Next {
        loop {
            let index = match lane.state() {
                LaneState::Run(index) | LaneState::Send(index) => index,
                LaneState::Wait(until) => {
                    let id = slot.lane_id(key);
                    self.timers.set(until, Wake::Lane(id));
                    slot.lanes.put(key, lane);
                    return Next::Continue;
                }
                LaneState::Busy | LaneState::Stuck => {
                    slot.lanes.put(key, lane);
                    return Next::Continue;
                }
                LaneState::Finished if self.run_deferred_on(slot, config, key, &mut lane) => {
                    continue;
                }
                LaneState::Finished => {
                    self.close_lane(slot, config, key, lane);
                    return Next::Continue;
                }
            };
            let mut head = Head {
                slot,
                config,
                key,
                lane: &mut lane,
                index,
            };
            match head.progress().stage {
                Stage::SendDue => {
                    self.send(&mut head);
                    continue;
                }
                Stage::Unwritten => {
                    self.write_unwritten(&mut head);
                    continue;
                }
                _ => {}
            }
            let next = self.try_run(&mut head, turn);
            if next == Next::Continue {
                continue;
            }
            slot.lanes.put(key, lane);
            if next == Next::YieldTurn {
                slot.lanes.wake(key);
            }
            return next;
        }
    }

    /// The head has all its outcomes: the next message of the lane gets its turn.
    fn close_lane(&mut self, slot: &mut Slot, config: &Config, key: u64, lane: Lane<Message>) {
        slot.place.finished(lane.message.offset());
        if lane.alone {
            // The message that was to run alone may have no listener any more.
            self.end_alone(slot.lane_id(key));
        }
        let emitting = if slot.emitting.is_empty() {
            None
        } else {
            slot.emitting.remove(&lane.number)
        };
        let next = if emitting.is_none() && !slot.unacknowledged.has(key) {
            slot.finish(lane.number);
            lane.advance(slot.names(config))
        } else {
            let (headed, next) = lane.part(slot.names(config));
            self.end_message(slot, key, headed, emitting.unwrap_or_default());
            next
        };
        if let Some(next) = next {
            slot.lanes.put(key, next);
            slot.lanes.wake(key);
        }
    }

    /// Runs the head for its listener, if it may run now. `Continue` where its stage has changed.
    fn try_run(&mut self, head: &mut Head<'_>, turn: &mut Quantum) -> Next {
        let (id, key) = (head.id(), head.key);
        let Some(listener) = head.number() else {
            // Its listener is removed: nothing is left to run.
            head.progress().stage = Stage::Final;
            return Next::Continue;
        };
        if self.engine.is_spoiled() {
            // No further call may run in this VM.
            return Next::YieldTurn;
        }
        if turn.is_held {
            // Nothing waits for a lane that is to run alone, as long as it may not run.
            self.end_alone(id);
            turn.kept.push(key);
            return Next::LaneBlocked;
        }
        match self.suspect(head) {
            Suspicion::Run => {}
            Suspicion::Other => return Next::Continue,
            Suspicion::Wait => return Next::LaneBlocked,
        }
        if head.lane.alone && !self.may_be_alone(id) {
            return Next::LaneBlocked;
        }
        let name = &head.config.listeners[listener].name;
        let may_start =
            head.lane.alone || turn.kept.is_empty() && self.may_start(head.slot, turn.limits, name);
        if !may_start {
            turn.kept.push(key);
            return Next::LaneBlocked;
        }
        let failed = head.progress().failing_since.is_some()
            || head.slot.partition.is_left(head.lane.message.offset());
        if let Gate::Wait = self.gates.gate(listener, id, failed) {
            self.end_alone(id);
            head.progress().stage = Stage::Held;
            return Next::Continue;
        }
        if head.progress().failed_in.is_none()
            && let Some(at) = self.gates.admitted(listener)
        {
            head.lane.admitted = Some(at);
        }
        turn.ran += 1;
        turn.calls += 1;
        self.run_head(head, listener)
    }

    /// Calls one listener for the head of a lane.
    fn run_head(&mut self, head: &mut Head<'_>, listener: usize) -> Next {
        self.drop_deferral(head);
        let progress = head.progress();
        progress.attempt = progress.attempt.saturating_add(1);
        progress.finishes_after_switch_to_manual = false;
        let taken = head.slot.taken.at(head.lane.number);
        let (slot, message) = (&*head.slot, &head.lane.message);
        let progress = &head.lane.progress[head.index];
        let attempt = progress.attempt;
        if attempt == 1 && progress.away == 0 {
            self.meter.first(listener, taken);
        } else {
            self.meter.retried(listener);
        }
        let offset = message.offset();
        let original = slot.original(message);
        let mut call = Call {
            listener,
            topic: &slot.partition.topic,
            partition: slot.partition.number,
            record: message,
            attempt,
            is_retry: slot.plan.is_retry,
        };
        if let Some((topic, origin, record)) = &original {
            (call.topic, call.partition, call.record) = (topic, origin.partition, record);
        }
        let alone = head.lane.alone && self.gatekeeper.is_alone();
        failpoint!("before-lane");
        let called = match head.config.listeners[listener].batch {
            Some(limits) => self.call_alone(slot, offset, head.config, (call, &limits), alone),
            None => self.call(slot, offset, head.config, &call, alone),
        };
        failpoint!("after-lane");
        let Called { step, asked, next } = called;
        let vm = self.engine.generation();
        if let Some(asked) = asked {
            let who = Who {
                listener: &head.config.listeners[listener].name,
                lane: head.key,
                at: offset,
            };
            head.slot.ask(who, asked);
        }
        self.count_run(listener, &step);
        self.advance(head, vm, step);
        next
    }

    /// Calls a handler. `alone` is `None` for a message without a lane, else whether the call is alone in the
    /// process.
    #[inline]
    pub(super) fn call(
        &mut self,
        slot: &Slot,
        offset: i64,
        config: &Config,
        call: &Call<'_>,
        alone: bool,
    ) -> Called {
        self.running.begin(&slot.place, offset, alone);
        failpoint!("before-handler");
        let step = self.engine.call(call);
        failpoint!("after-handler");
        let asked = self.engine.take_requested(self.engine.generation());
        let next = self.look_after(slot, offset, config, call);
        Called { step, asked, next }
    }

    /// A call that waits is timed when it ends.
    fn count_run(&mut self, listener: usize, step: &Step) {
        if !matches!(step, Step::Waits(..)) {
            self.meter.ran(listener);
        }
    }

    /// Whether a call of this partition may start now. If not, the end of the obstacle wakes the partition.
    pub(super) fn may_start(&mut self, slot: &mut Slot, limits: Limits, listener: &str) -> bool {
        let epoch = slot.partition.epoch;
        if self.is_kept_by_one(epoch) || !self.may_defer(slot) {
            return false;
        }
        if !self.emissions.may_start(epoch, listener) {
            self.show_wait_for_room(slot, listener);
            return false;
        }
        self.places.may_start(&slot.partition, limits)
    }

    /// Warns of a call that held the VM for long: other partitions then have their turn.
    pub(super) fn look_after(
        &mut self,
        slot: &Slot,
        offset: i64,
        config: &Config,
        call: &Call<'_>,
    ) -> Next {
        let Some(held) = self.engine.take_slow() else {
            return Next::Continue;
        };
        self.meter.held(held);
        let listener = &config.listeners[call.listener].name;
        warn_of_slow(slot, offset, call.record, listener, held);
        Next::YieldTurn
    }
}
