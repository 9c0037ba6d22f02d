//! Running a partition's lanes: call by call, until there is nothing to run, something waits, or they have had their turn.

use std::time::Instant;

use crate::assignment::{self, Asked};
use crate::config::{Config, Ordering};
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::lua::{Call, Step};
use crate::message::Record as _;
use crate::rules::lanes::{Lane, Lanes, Next, Stage};
use crate::telemetry::metrics::Outcome;

use super::calls::Limits;
use super::commit_requests::Who;
use super::gates::Gate;
use super::head::Head;
use super::slot::Slot;
use super::suspects::Suspicion;
use super::timers::Wake;
use super::waits::warn_of_slow;
use super::{QUANTUM, QUANTUM_TIME, Worker};

/// So many messages ahead of its call what describes a message is asked for, and its bytes when that has come.
const DESCRIBED_AHEAD: usize = 4;
const BYTES_AHEAD: usize = 2;

/// The messages were written by librdkafka's thread, on another core: without this each call waits for them.
fn prefetch(lanes: &Lanes<Message>) {
    if let Some(message) = lanes.fresh_behind(DESCRIBED_AHEAD) {
        message.prefetch();
    }
    if let Some(message) = lanes.fresh_behind(BYTES_AHEAD) {
        message.prefetch_bytes();
    }
}

/// One turn of a partition.
struct Turn {
    started: Instant,
    ran: usize,
    /// `ran` at the last look at the clock.
    looked: usize,
    limits: Limits,
    /// Lanes that may not start a call now. What the others have to do besides is done nevertheless: one of them may be
    /// what these wait for.
    kept: Vec<u64>,
}

/// What the try to run a lane's head has come to.
enum Tried {
    /// Its stage has changed.
    Changed,
    /// Whoever changes what keeps it wakes its lane.
    Later,
    /// Whoever changes what keeps it wakes the partition.
    Kept,
    /// It is still in line.
    Not(Went),
}

/// What a step of a turn has come to.
enum Went {
    /// There may be more.
    On,
    /// The lane stays in line, and others may have more.
    Kept,
    /// Nothing can run now; whoever changes that wakes the partition.
    Idle,
    /// The others should have their turn.
    Enough,
}

impl Worker {
    pub(super) fn run_partition(&mut self, epoch: u64) {
        let Some(mut slot) = self.slots.remove(&epoch) else {
            return;
        };
        slot.queued = false;
        let again = self.run_slot(&mut slot);
        if self.meter.is_open() {
            self.meter.look(Instant::now());
        }
        self.note_finished(&mut slot);
        if self.slots.len() * self.count > assignment::MANY {
            slot.lanes.give_room_back();
        }
        self.slots.insert(epoch, slot);
        if again {
            self.wake(epoch);
        }
    }

    /// What has finished since the last time is to be reported, and what was asked for meanwhile.
    pub(super) fn note_finished(&mut self, slot: &mut Slot) {
        let partition = slot.partition.clone();
        for numbers in slot.take_finished() {
            self.finished.push((partition.clone(), numbers));
        }
        let asks = slot.asks.take();
        if !asks.is_empty() {
            self.asked.push(Asked {
                partition,
                since: slot.since,
                asks,
            });
        }
    }

    /// Whether there is more to run.
    fn run_slot(&mut self, slot: &mut Slot) -> bool {
        let config = self.engine.bundle().config.clone();
        let mut turn = Turn {
            started: Instant::now(),
            ran: 0,
            looked: 0,
            limits: Limits::of(&slot.plan, self.index, self.count),
            kept: Vec::new(),
        };
        self.meter.begin(turn.started);
        let again = self.run_lanes(slot, &config, &mut turn);
        for key in turn.kept {
            slot.lanes.wake(key);
        }
        again
    }

    fn run_lanes(&mut self, slot: &mut Slot, config: &Config, turn: &mut Turn) -> bool {
        while turn.ran < QUANTUM {
            if slot.released || slot.partition.is_over() {
                return false;
            }
            if self.engine.is_spoiled() {
                // Not one more call in this VM.
                return true;
            }
            let went = match slot.lanes.next_ready() {
                Some(key) => match slot.lanes.take(key) {
                    Some(lane) => self.go_on(slot, config, key, lane, turn),
                    None => Went::On,
                },
                // What has not begun may start as little.
                None if !turn.kept.is_empty() => Went::Idle,
                None => self.run_fresh(slot, config, turn),
            };
            match went {
                Went::On => {}
                Went::Kept => continue,
                Went::Idle => return false,
                Went::Enough => return true,
            }
            turn.ran += 1;
            if turn.ran - turn.looked >= self.meter.every() {
                let now = Instant::now();
                turn.looked = turn.ran;
                self.meter.look(now);
                if now.duration_since(turn.started) >= QUANTUM_TIME {
                    return true;
                }
            }
        }
        true
    }

    /// The next message that has not begun.
    fn run_fresh(&mut self, slot: &mut Slot, config: &Config, turn: &mut Turn) -> Went {
        if slot.lanes.has_open() {
            if slot.plan.ordering == Ordering::Partition {
                return Went::Idle;
            }
            let Some((number, message)) = slot.lanes.fresh() else {
                return Went::Idle;
            };
            let key = slot.lane_of(number, message);
            if slot.lanes.is_open(key) {
                slot.lanes.defer_fresh(key);
                return Went::On;
            }
        }
        if !self.may_start(slot, turn.limits) {
            return Went::Idle;
        }
        prefetch(&slot.lanes);
        let Some((number, message)) = slot.lanes.fresh() else {
            return Went::Idle;
        };
        if let [listener] = slot.plan.listeners[..]
            && self.gates.all_pass()
            && !slot.plan.is_retry
        {
            let offset = message.offset();
            if slot.place.suspect(offset).is_some() {
                return self.open_lane(slot, config, None, turn);
            }
            let call = Call {
                listener,
                topic: &slot.partition.topic,
                partition: slot.partition.number,
                record: message,
                attempt: 1,
            };
            self.running.begin(&slot.place, offset, false);
            failpoint!("before-handler");
            let step = self.engine.call(&call);
            failpoint!("after-handler");
            if let Some(asked) = self.engine.take_asked(self.engine.generation()) {
                let who = Who {
                    listener: &config.listeners[listener].name,
                    lane: slot.lane_of(number, message),
                    at: offset,
                };
                slot.ask(who, asked);
            }
            let went = self.look_after(slot, offset, config, listener);
            let taken = slot.taken.at(number);
            if matches!(step, Step::Done) {
                self.running.end_now();
                self.gates.done(listener);
                self.meter.done(listener, taken);
                slot.place.finished(offset);
                slot.lanes.take_fresh();
                slot.finish(number);
                return went;
            }
            self.meter.first(listener, taken);
            return self.open_lane(slot, config, Some(step), turn);
        }
        if let [listener] = slot.plan.listeners[..]
            && let Gate::Wait = self.look_at_gate(listener)
        {
            return Went::Idle;
        }
        self.open_lane(slot, config, None, turn)
    }

    /// The next message that has not begun gets a lane: it runs for longer than one call. `step` is what its first call
    /// has come to.
    fn open_lane(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        step: Option<Step>,
        turn: &mut Turn,
    ) -> Went {
        let Some((number, message)) = slot.lanes.take_fresh() else {
            return Went::Idle;
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

    /// Runs the head of a lane as far as it goes, and puts the lane back unless it is over.
    fn go_on(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        mut lane: Lane<Message>,
        turn: &mut Turn,
    ) -> Went {
        loop {
            let index = match lane.next() {
                Next::Run(index) | Next::Send(index) => index,
                Next::Wait(until) => {
                    self.timers
                        .set(until, Wake::Lane(slot.partition.epoch, key));
                    slot.lanes.put(key, lane);
                    return Went::On;
                }
                Next::Busy | Next::Stuck => {
                    slot.lanes.put(key, lane);
                    return Went::On;
                }
                Next::Finished => {
                    self.close_lane(slot, config, key, lane);
                    return Went::On;
                }
            };
            let mut head = Head {
                slot,
                config,
                key,
                lane: &mut lane,
                index,
            };
            if head.progress().stage == Stage::SendDue {
                self.send(&mut head);
                continue;
            }
            let tried = self.try_run(&mut head, turn);
            match tried {
                Tried::Changed => {}
                Tried::Later => {
                    slot.lanes.put(key, lane);
                    return Went::On;
                }
                Tried::Kept => {
                    slot.lanes.put(key, lane);
                    turn.kept.push(key);
                    return Went::Kept;
                }
                Tried::Not(went) => {
                    slot.lanes.put(key, lane);
                    slot.lanes.wake(key);
                    return went;
                }
            }
        }
    }

    /// The head has all its outcomes: what is next in line gets its turn.
    fn close_lane(&mut self, slot: &mut Slot, config: &Config, key: u64, lane: Lane<Message>) {
        slot.finish(lane.number);
        slot.place.finished(lane.message.offset());
        if lane.alone {
            // What was to run may be nobody's any more.
            self.end_alone(slot.partition.epoch, key);
        }
        if let Some(next) = lane.advance(slot.names(config)) {
            slot.lanes.put(key, next);
            slot.lanes.wake(key);
        }
    }

    /// Runs the head for its listener, if it may run now.
    fn try_run(&mut self, head: &mut Head<'_>, turn: &mut Turn) -> Tried {
        let (epoch, key) = (head.slot.partition.epoch, head.key);
        let Some(listener) = head.number() else {
            // Its listener is gone: nothing is left to run.
            head.progress().stage = Stage::Final;
            return Tried::Changed;
        };
        if self.engine.is_spoiled() {
            // Not one more call in this VM.
            return Tried::Not(Went::On);
        }
        match self.suspect(head) {
            Suspicion::Run => {}
            Suspicion::Other => return Tried::Changed,
            Suspicion::Wait => return Tried::Later,
        }
        if head.lane.alone && !self.may_be_alone(epoch, key) {
            return Tried::Later;
        }
        let may_start =
            head.lane.alone || turn.kept.is_empty() && self.may_start(head.slot, turn.limits);
        if !may_start {
            return Tried::Kept;
        }
        let failed = head.progress().failing_since.is_some();
        if let Gate::Wait = self.gate(listener, epoch, key, failed) {
            self.end_alone(epoch, key);
            head.progress().stage = Stage::Held;
            return Tried::Changed;
        }
        turn.ran += 1;
        match self.run_head(head, listener) {
            Went::Enough => Tried::Not(Went::Enough),
            Went::On | Went::Kept | Went::Idle => Tried::Changed,
        }
    }

    /// Calls one listener for the head of a lane.
    fn run_head(&mut self, head: &mut Head<'_>, listener: usize) -> Went {
        let progress = head.progress();
        progress.attempt += 1;
        progress.outlives_automatic = false;
        let taken = head.slot.taken.at(head.lane.number);
        let (slot, message) = (&*head.slot, &head.lane.message);
        let attempt = head.lane.progress[head.index].attempt;
        if attempt == 1 {
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
        };
        if let Some((topic, origin, record)) = &original {
            (call.topic, call.partition, call.record) = (topic, origin.partition, record);
        }
        let alone = head.lane.alone && self.gatekeeper.is_alone();
        self.running.begin(&slot.place, offset, alone);
        failpoint!("before-lane");
        let step = self.engine.call(&call);
        failpoint!("after-lane");
        let vm = self.engine.generation();
        let went = self.look_after(slot, offset, head.config, listener);
        if let Some(asked) = self.engine.take_asked(vm) {
            let who = Who {
                listener: &head.config.listeners[listener].name,
                lane: head.key,
                at: offset,
            };
            head.slot.ask(who, asked);
        }
        self.count_run(listener, &step);
        self.advance(head, vm, step);
        went
    }

    /// A call that waits is timed when it ends.
    fn count_run(&mut self, listener: usize, step: &Step) {
        if !matches!(step, Step::Waits(..)) {
            self.meter.ran(listener);
        }
    }

    /// Whether a call of this partition may start now; if not, whoever changes that wakes the partition.
    fn may_start(&mut self, slot: &Slot, limits: Limits) -> bool {
        !self.is_kept_by_one(slot.partition.epoch) && self.places.may_start(&slot.partition, limits)
    }

    /// Warns of a call that held the VM for long: the others should have their turn then.
    fn look_after(&mut self, slot: &Slot, offset: i64, config: &Config, listener: usize) -> Went {
        let Some(held) = self.engine.take_slow() else {
            return Went::On;
        };
        self.meter.held(held);
        warn_of_slow(slot, offset, &config.listeners[listener].name, held);
        Went::Enough
    }
}
