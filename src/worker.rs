//! The worker: an OS thread with one Lua VM, that runs the messages of its lanes.
//!
//! Batches and answers come in by its mailbox, finished numbers and requests to commit go out to the consumers'. It never
//! waits but in its mailbox: a handler that waits is a coroutine put aside, a message in back-off a timer, a dead letter
//! on its way a letter that will come. There is nothing asynchronous in it but these, so a heap of timers is all the
//! runtime that it needs.

mod alone;
mod calls;
mod commit_requests;
mod exchange;
mod failures;
mod forwarding;
mod gates;
mod head;
mod ids;
mod meter;
mod operator_commands;
mod outcomes;
mod report;
mod run;
mod slot;
mod suspects;
mod taken;
#[cfg(test)]
mod tests;
mod timers;
mod unreported;
mod vms;
mod waits;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Partition, ToConsumer, ToWorker};
use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::config::Config;
use crate::crash::exclusive::Solo;
use crate::crash::journal::Page;
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::lua::{App, CallId, Pulse, Vm};
use crate::rules::route::{self, Plan};
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::Endings;
use crate::wait::{Answer, WaitId};

use alone::Alone;
use calls::{Calls, Places};
use forwarding::Forwarded;
use gates::Gates;
use ids::{LaneId, RecordId};
use meter::Meter;
use slot::Slot;
use suspects::{Gatekeeper, Running};
use timers::{Timers, Wake};
use unreported::Unreported;
use vms::Engine;

/// Messages of one partition in a row, before letters are read and other partitions get their turn.
const QUANTUM: usize = 256;
/// And how long such a row may take, by looks at the clock every few messages: until it ends nothing of it is reported,
/// hence committed, and no timer fires.
const QUANTUM_TIME: Duration = Duration::from_millis(50);
const LOOK_EVERY: usize = 8;
/// Short turns may follow each other for so long before what they finished is reported.
const REPORT_EVERY: Duration = Duration::from_millis(1);
/// How often the loop turns at least: it shows the daemon that it lives, and finds what has waited for long.
const TURN: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    /// Which of how many.
    index: usize,
    count: usize,
    mailbox: Arc<Mailbox<ToWorker>>,
    endings: Endings,
    beat: Beat,
    app: Arc<App>,
    /// Answers to waits that no turn had time for yet: many may come at once.
    answers: VecDeque<(u64, CallId, WaitId, Answer)>,
    engine: Engine,
    /// By epoch.
    slots: HashMap<u64, Slot>,
    /// Partitions with something to run.
    ready: VecDeque<u64>,
    /// Partitions and lanes that were woken while they were being looked at.
    woken: Vec<Woken>,
    calls: Calls,
    places: Places,
    alone: Alone,
    gates: Gates,
    forwarded: Forwarded,
    meter: Meter,
    running: Running,
    gatekeeper: Gatekeeper,
    timers: Timers,
    unreported: Unreported,
    log: failures::Log,
    /// When what waits for long was last looked for.
    looked: Instant,
    /// Nothing starts in the next turn: another worker is to be alone, or there is no VM.
    is_held: bool,
    clock: Clock,
    /// For the jitter of retries.
    chance: fastrand::Rng,
}

enum Woken {
    /// By epoch.
    Partition(u64),
    Lane(LaneId),
}

/// What follows a turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Another turn at once.
    Busy,
    /// Another turn when a letter comes, and at this moment at the latest.
    Until(Instant),
    /// `ToWorker::Stop` has come: no further turn.
    Stopped,
}

/// What a worker starts with.
///
/// Its clock is that of `app`, which its VMs have too.
pub(crate) struct Start {
    pub(crate) index: usize,
    pub(crate) count: usize,
    pub(crate) mailbox: Arc<Mailbox<ToWorker>>,
    pub(crate) endings: Endings,
    pub(crate) beat: Beat,
    pub(crate) app: Arc<App>,
    pub(crate) pulse: Pulse,
    pub(crate) bundle: Arc<Bundle>,
    pub(crate) vm: Vm,
    /// Its own one of the journal.
    pub(crate) page: Page,
    pub(crate) solo: Arc<Solo<ToWorker>>,
    pub(crate) chance: fastrand::Rng,
}

/// How long a turn of the loop may take: the longest call, and what is around it.
pub(crate) fn turn_max(config: &Config) -> Duration {
    let blocking = config.listeners.iter().map(|one| one.limits.blocking).max();
    blocking.unwrap_or_default() + Duration::from_secs(10)
}

/// What of a limit is one worker's.
pub(crate) fn share(limit: usize, index: usize, count: usize) -> usize {
    limit / count + usize::from(index < limit % count)
}

fn names(config: &Config) -> impl Iterator<Item = &str> {
    config.listeners.iter().map(|one| one.name.as_str())
}

impl Worker {
    pub(crate) fn new(start: Start) -> Self {
        let clock = start.app.clock().clone();
        let now = clock.now();
        let mut gates = Gates::new(clock.clone());
        gates.set_listeners(&start.bundle.config, start.index, start.count);
        let meter = Meter::new(names(&start.bundle.config), now);
        Self {
            index: start.index,
            count: start.count,
            mailbox: start.mailbox,
            endings: start.endings,
            beat: start.beat,
            app: start.app.clone(),
            answers: VecDeque::new(),
            engine: Engine::new(start.app, start.pulse, start.bundle, start.vm),
            slots: HashMap::new(),
            ready: VecDeque::new(),
            woken: Vec::new(),
            calls: Calls::default(),
            places: Places::default(),
            alone: Alone::default(),
            gates,
            forwarded: Forwarded::new(),
            meter,
            running: Running::new(start.page),
            gatekeeper: Gatekeeper::new(start.solo, start.index),
            timers: Timers::default(),
            unreported: Unreported::default(),
            log: failures::Log::new(clock.clone()),
            looked: now,
            is_held: false,
            clock,
            chance: start.chance,
        }
    }

    /// Runs until `ToWorker::Stop`.
    pub(crate) fn run(mut self) {
        // Also where this panics: a letter holds messages, which keep their client.
        let _closes = self.mailbox.close_on_drop();
        let mut letters = Vec::new();
        loop {
            match self.turn(&mut letters) {
                Turn::Busy => self.mailbox.take(&mut letters),
                Turn::Until(deadline) => self.mailbox.wait(&mut letters, deadline),
                Turn::Stopped => return self.engine.stop(),
            }
        }
    }

    /// One turn of the loop: opens the letters, and does everything that is due without waiting for anything. At most one
    /// partition has its turn in it.
    pub(crate) fn turn(&mut self, letters: &mut Vec<ToWorker>) -> Turn {
        failpoint!("worker-turn");
        for letter in letters.drain(..) {
            if matches!(letter, ToWorker::Stop) {
                failpoint!("worker-stop");
                self.gatekeeper.gone();
                self.log.tell_rest();
                return Turn::Stopped;
            }
            self.open(letter);
        }
        let mut now = self.clock.now();
        if !self.answers.is_empty() {
            self.take_answers(now);
            // Timers have a share of their own: there may be more answers than any turn has time for.
            now = self.clock.now();
        }
        self.fire(now);
        self.look(now);
        if self.calls.is_empty() && self.gatekeeper.may_go_on() {
            self.wake_alone();
        }
        if !self.is_held
            && let Some(epoch) = self.ready.pop_front()
        {
            self.run_partition(epoch);
            self.report_in_time(epoch, now);
        }
        self.mend(now);
        self.release_held();
        self.wake_woken();
        self.end_turn()
    }

    /// Whether the next turn has something to do at once. If not, everything is reported before the worker waits.
    fn end_turn(&mut self) -> Turn {
        self.beat.turn();
        let down_until = self.engine.down_until();
        self.is_held = self.gatekeeper.is_held(self.calls.is_empty()) || down_until.is_some();
        if (!self.ready.is_empty() && !self.is_held) || !self.answers.is_empty() {
            return Turn::Busy;
        }
        self.report();
        let look_at = self.clock.now() + TURN;
        let others = [down_until, self.timers.next(), self.gates.next_try()];
        Turn::Until(others.into_iter().flatten().fold(look_at, Instant::min))
    }

    fn open(&mut self, letter: ToWorker) {
        match letter {
            ToWorker::Batch {
                partition,
                plan,
                first,
                taken,
                messages,
            } => self.push(partition, &plan, first, taken, messages),
            ToWorker::Release(partition) => self.release(&partition),
            ToWorker::Cancel(partition) => self.cancel(&partition),
            ToWorker::Answer {
                vm,
                call,
                wait,
                answer,
            } => self.answers.push_back((vm, call, wait, answer)),
            ToWorker::Delivered {
                epoch,
                lane,
                number,
                listener,
                result,
            } => {
                let lane = LaneId { epoch, lane };
                self.delivered(&RecordId { lane, listener }, number, result);
            }
            ToWorker::Swap { bundle, vm, done } => self.engine.queue(bundle, vm, done),
            // Nobody waits for it any more where the send fails.
            ToWorker::Status(reply) => drop(reply.send(self.snapshot())),
            ToWorker::Order(order) => self.obey(order),
            ToWorker::Stop => {}
        }
    }

    fn push(
        &mut self,
        partition: Arc<Partition>,
        plan: &Plan,
        first: u64,
        taken: Instant,
        messages: Vec<Message>,
    ) {
        if partition.is_over() {
            return;
        }
        let epoch = partition.epoch;
        if !self.slots.contains_key(&epoch) {
            // A plan of another bundle may be on its way while this one is swapped.
            let config = &self.engine.bundle().config;
            let own = route::plan(config, &partition.consumer, &partition.topic);
            let is_alike = |own: &Plan| !own.orders_otherwise(plan) && own.commits_alike(plan);
            let Some(own) = own.filter(is_alike) else {
                // The bundle in force does not have the topic, or not the lanes and listeners that the consumer's positions
                // are of: a new epoch follows when all have the same bundle.
                return partition.end();
            };
            let place = self.running.place(&partition);
            let slot = Slot::new(Arc::new(own), partition, place);
            self.slots.insert(epoch, slot);
        }
        let Some(slot) = self.slots.get_mut(&epoch) else {
            return;
        };
        self.log.refused_headers(&slot.partition, &messages);
        let below = first + messages.len() as u64;
        slot.taken.push(below, taken, slot.lanes.lowest());
        slot.lanes.push(first, messages);
        self.wake(epoch);
    }

    /// Puts a partition in line, once.
    fn wake(&mut self, epoch: u64) {
        match self.slots.get_mut(&epoch) {
            Some(slot) if slot.queued => {}
            Some(slot) => {
                slot.queued = true;
                self.ready.push_back(epoch);
            }
            // It is being looked at, or gone.
            None => self.woken.push(Woken::Partition(epoch)),
        }
    }

    fn wake_lane(&mut self, id: LaneId) {
        match self.slots.get_mut(&id.epoch) {
            Some(slot) => {
                slot.lanes.wake(id.lane);
                self.wake(id.epoch);
            }
            None => self.woken.push(Woken::Lane(id)),
        }
    }

    /// What was woken while it was being looked at gets its turn.
    fn wake_woken(&mut self) {
        for woken in std::mem::take(&mut self.woken) {
            match woken {
                Woken::Lane(id) if self.slots.contains_key(&id.epoch) => self.wake_lane(id),
                Woken::Partition(epoch) if self.slots.contains_key(&epoch) => self.wake(epoch),
                // It is gone.
                Woken::Lane(_) | Woken::Partition(_) => {}
            }
        }
    }

    fn release(&mut self, partition: &Arc<Partition>) {
        match self.slots.get_mut(&partition.epoch) {
            Some(slot) if slot.under_way > 0 => slot.released = true,
            // No slot at all is drained too: nothing of it came here.
            _ => self.drop_slot(partition),
        }
    }

    fn cancel(&mut self, partition: &Arc<Partition>) {
        self.cancel_calls(partition);
        self.drop_slot(partition);
    }

    /// The partition is over. What was not finished stays uncommitted, and comes again to whoever gets it.
    fn drop_slot(&mut self, partition: &Arc<Partition>) {
        let epoch = partition.epoch;
        if let Some(mut slot) = self.slots.remove(&epoch) {
            self.settle(&mut slot);
        }
        self.forwarded.retain(|id, _| id.lane.epoch != epoch);
        self.running.end_all(epoch);
        self.forget_alone(epoch);
        self.gates.forget_probes(|id| id.epoch == epoch);
        partition.set_blocked(None);
        self.report();
        partition.inbox.send(ToConsumer::Drained(partition.clone()));
    }

    /// The answers that came, for as long as a turn may take.
    fn take_answers(&mut self, now: Instant) {
        while self.clock.since(now) < QUANTUM_TIME
            && let Some((vm, call, wait, answer)) = self.answers.pop_front()
        {
            self.resume(vm, call, wait, answer);
        }
    }

    /// What is due, for so long as a turn may take: many calls may have slept until the same moment.
    fn fire(&mut self, now: Instant) {
        self.gates.tick(now);
        while self.clock.since(now) < QUANTUM_TIME
            && let Some(wake) = self.timers.due(now)
        {
            match wake {
                Wake::Call(vm, call, wait) => self.resume(vm, call, wait, Answer::Slept),
                Wake::Timeout(vm, call) => self.time_out(vm, call),
                Wake::Lane(id) => {
                    if let Some(slot) = self.slots.get_mut(&id.epoch)
                        && let Some(one) = slot.lanes.get_mut(id.lane)
                    {
                        one.tick(now);
                        self.wake_lane(id);
                    }
                }
            }
        }
    }

    /// Once a second: what has waited for longer than that is copied, so that it pins no fetch buffer.
    fn look(&mut self, now: Instant) {
        if now.duration_since(self.looked) < TURN {
            return;
        }
        self.looked = now;
        for slot in self.slots.values_mut() {
            slot.lanes.each_old(Message::detach);
        }
        self.gates.flush(now);
        self.log.tell_ended(now);
        let (calls, slots) = (&self.calls, &self.slots);
        self.timers
            .prune(calls.len() + slots.len(), |wake| match wake {
                Wake::Timeout(vm, call) => calls.get(vm, call).is_some(),
                Wake::Call(vm, call, wait) => calls.waits(vm, call, wait),
                Wake::Lane(id) => slots.contains_key(&id.epoch),
            });
    }

    /// Reports after a turn of this partition that began then. Not yet where it was short and the next one will be: a report
    /// wakes the consumer, which takes what the turn has made room for and sleeps again. **Before anything but another turn
    /// the worker reports**: before it sleeps, goes on with a call that waited, or changes its VM.
    fn report_in_time(&mut self, epoch: u64, began: Instant) {
        let listeners = |epoch: &u64| Some(&self.slots.get(epoch)?.plan.listeners);
        let next = self.ready.front().and_then(listeners);
        let is_next_alike = next.is_some() && next == listeners(&epoch);
        let since = self.unreported.since(began);
        if !is_next_alike || self.meter.is_slow() || self.clock.since(since) >= REPORT_EVERY {
            self.report();
        }
    }

    /// Tells the consumers of finished messages and of requests to commit.
    fn report(&mut self) {
        self.unreported.report();
    }
}

#[cfg(feature = "micro")]
impl Worker {
    /// Takes turns until nothing is left to do.
    pub(crate) fn take(&mut self, letter: ToWorker) {
        let mut letters = vec![letter];
        while self.turn(&mut letters) == Turn::Busy {}
    }
}
