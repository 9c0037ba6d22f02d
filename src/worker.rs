//! The worker: an OS thread with one Lua VM, that runs the messages of its lanes.
//!
//! Batches and answers come in by its mailbox, finished numbers and requests to commit go out to the consumers'. It never
//! waits but in its mailbox: a handler that waits is a coroutine put aside, a message in back-off a timer, a dead letter
//! on its way a letter that will come. There is nothing asynchronous in it but these, so a heap of timers is all the
//! runtime that it needs.

mod alone;
mod calls;
mod commit_requests;
mod failures;
mod forwarding;
mod gates;
mod head;
mod meter;
mod operator_commands;
mod outcomes;
mod report;
mod run;
mod slot;
mod suspects;
mod taken;
mod timers;
mod vms;
mod waits;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Asked, Partition, ToConsumer, ToWorker};
use crate::bundle::Bundle;
use crate::config::Config;
use crate::crash::exclusive::Solo;
use crate::crash::journal::Page;
use crate::kafka::Message;
use crate::log::log;
use crate::lua::{App, CallId, Pulse, Vm};
use crate::message::Record as _;
use crate::rules::route::{self, Plan};
use crate::service::systemd::Beat;
use crate::threads::mailbox::Mailbox;
use crate::threads::supervisor::Endings;
use crate::wait::{Answer, WaitId};

use alone::Alone;
use calls::{Calls, Places};
use forwarding::Letters;
use gates::Gates;
use meter::Meter;
use slot::Slot;
use suspects::{Gatekeeper, Running};
use timers::{Timers, Wake};
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
    woken: Vec<(u64, Option<u64>)>,
    calls: Calls,
    places: Places,
    alone: Alone,
    gates: Gates,
    letters: Letters,
    meter: Meter,
    running: Running,
    gatekeeper: Gatekeeper,
    timers: Timers,
    finished: Vec<(Arc<Partition>, Range<u64>)>,
    asked: Vec<Asked>,
    /// Since when turns have added to these two.
    unreported_since: Option<Instant>,
    log: failures::Log,
    looked: Instant,
}

/// What a worker starts with.
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
        let mut gates = Gates::default();
        gates.set_listeners(&start.bundle.config, start.index, start.count);
        let meter = Meter::new(names(&start.bundle.config));
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
            letters: Letters::new(),
            meter,
            running: Running::new(start.page),
            gatekeeper: Gatekeeper::new(start.solo, start.index),
            timers: Timers::default(),
            finished: Vec::new(),
            asked: Vec::new(),
            unreported_since: None,
            log: failures::Log::default(),
            looked: Instant::now(),
        }
    }

    /// Runs until `ToWorker::Stop`.
    pub(crate) fn run(mut self) {
        let mut letters = Vec::new();
        loop {
            self.beat.turn();
            let is_held = self.gatekeeper.is_held(self.calls.is_empty())
                || self.engine.down_until().is_some();
            if (self.ready.is_empty() || is_held) && self.answers.is_empty() {
                self.report();
                let deadline = Instant::now() + TURN;
                let deadline = self
                    .engine
                    .down_until()
                    .map_or(deadline, |at| at.min(deadline));
                self.mailbox.wait(
                    &mut letters,
                    self.timers
                        .next()
                        .map_or(deadline, |next| next.min(deadline)),
                );
            } else {
                self.mailbox.take(&mut letters);
            }
            for letter in letters.drain(..) {
                if matches!(letter, ToWorker::Stop) {
                    self.gatekeeper.gone();
                    self.log.tell_rest();
                    return self.engine.stop();
                }
                self.open(letter);
            }
            let now = Instant::now();
            self.take_answers(now);
            self.fire(now);
            self.look(now);
            if self.calls.is_empty() && self.gatekeeper.may_go_on() {
                self.wake_alone();
            }
            if !is_held && let Some(epoch) = self.ready.pop_front() {
                self.run_partition(epoch);
                self.report_in_time(epoch, now);
            }
            self.mend(now);
            self.release_held();
            self.wake_woken();
        }
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
            } => self.delivered(epoch, lane, number, &listener, result),
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
            None => self.woken.push((epoch, None)),
        }
    }

    fn wake_lane(&mut self, epoch: u64, lane: u64) {
        match self.slots.get_mut(&epoch) {
            Some(slot) => {
                slot.lanes.wake(lane);
                self.wake(epoch);
            }
            None => self.woken.push((epoch, Some(lane))),
        }
    }

    /// What was woken while it was being looked at gets its turn.
    fn wake_woken(&mut self) {
        for (epoch, lane) in std::mem::take(&mut self.woken) {
            match lane {
                _ if !self.slots.contains_key(&epoch) => {}
                Some(lane) => self.wake_lane(epoch, lane),
                None => self.wake(epoch),
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
        self.letters.retain(|(one, ..), _| *one != epoch);
        self.running.end_all(epoch);
        self.forget_alone(epoch);
        self.forget_probe(epoch, None);
        partition.set_blocked(None);
        self.report();
        partition.inbox.send(ToConsumer::Drained(partition.clone()));
    }

    /// The answers that came, for as long as a turn may take.
    fn take_answers(&mut self, now: Instant) {
        while now.elapsed() < QUANTUM_TIME
            && let Some((vm, call, wait, answer)) = self.answers.pop_front()
        {
            self.resume(vm, call, wait, answer);
        }
    }

    /// What is due, for so long as a turn may take: many calls may have slept until the same moment.
    fn fire(&mut self, now: Instant) {
        while now.elapsed() < QUANTUM_TIME
            && let Some(wake) = self.timers.due(now)
        {
            match wake {
                Wake::Call(vm, call, wait) => self.resume(vm, call, wait, Answer::Slept),
                Wake::Timeout(vm, call) => self.time_out(vm, call),
                Wake::Lane(epoch, lane) => {
                    if let Some(slot) = self.slots.get_mut(&epoch)
                        && let Some(one) = slot.lanes.get_mut(lane)
                    {
                        one.tick(now);
                        self.wake_lane(epoch, lane);
                    }
                }
                Wake::Gates => self.gates.look_again(),
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
                Wake::Lane(epoch, _) => slots.contains_key(&epoch),
                Wake::Gates => true,
            });
    }

    /// Reports after a turn of this partition that began then. Not yet where it was short and the next one will be: a report
    /// wakes the consumer, which takes what the turn has made room for and sleeps again. **Before anything but another turn
    /// the worker reports**: before it sleeps, goes on with a call that waited, or changes its VM.
    fn report_in_time(&mut self, epoch: u64, began: Instant) {
        let listeners = |epoch: &u64| Some(&self.slots.get(epoch)?.plan.listeners);
        let next = self.ready.front().and_then(listeners);
        let is_next_alike = next.is_some() && next == listeners(&epoch);
        let since = *self.unreported_since.get_or_insert(began);
        if !is_next_alike || self.meter.is_slow() || since.elapsed() >= REPORT_EVERY {
            self.report();
        }
    }

    /// Tells the consumers what is finished, and what handlers asked for on the way.
    fn report(&mut self) {
        self.unreported_since = None;
        let any = |worker: &Self| {
            let finished = worker.finished.last().map(|one| one.0.inbox.clone());
            finished.or_else(|| worker.asked.last().map(|one| one.partition.inbox.clone()))
        };
        while let Some(inbox) = any(self) {
            let is_own = |one: &Partition| Arc::ptr_eq(&one.inbox, &inbox);
            let finished = self.finished.extract_if(.., |(one, _)| is_own(one));
            let asked = self.asked.extract_if(.., |one| is_own(&one.partition));
            inbox.send(ToConsumer::Finished {
                finished: finished.collect(),
                asked: asked.collect(),
            });
        }
    }

    /// Replaces a spoiled VM, lets an old one go, and swaps in a bundle that waits.
    fn mend(&mut self, now: Instant) {
        if self.engine.is_to_change() {
            // To build a VM may take long; and a consumer hears of a bundle as soon as it is in force here: what has
            // finished before is none of a listener's that becomes a manual one with it.
            self.report();
        }
        // Twice: what spoils the new VM while an old one drains has to wait for that one to go.
        for _ in 0..2 {
            self.engine.let_go();
            self.engine.mend(now);
            if self.engine.down_until().is_some() {
                self.abandon(self.engine.generation());
            }
            if let Some(vm) = self.engine.overdue(now) {
                self.abandon(vm);
            }
        }
        self.engine.let_go();
        if self.engine.swap(now) {
            self.reroute();
        }
    }

    /// A new bundle is in force: every partition gets its listeners, and no back-off is waited for any more.
    fn reroute(&mut self) {
        let bundle: Arc<Bundle> = self.engine.bundle().clone();
        let config = &bundle.config;
        self.beat.allow(turn_max(config));
        self.gates.set_listeners(config, self.index, self.count);
        self.meter.set_listeners(names(config));
        for slot in self.slots.values_mut() {
            let Some(plan) = route::plan(config, &slot.partition.consumer, &slot.partition.topic)
            else {
                // The consumer retires the topic: until its letter comes nothing of it may start.
                slot.partition.end();
                slot.plan = Arc::new(Plan::nobody());
                continue;
            };
            if plan.orders_otherwise(&slot.plan) {
                // Lanes of two orderings never mix: the consumer's letter comes, and then a new epoch.
                slot.partition.end();
            }
            if !plan.commits_alike(&slot.plan) {
                slot.since = bundle.number;
            }
            let before = std::mem::replace(&mut slot.plan, Arc::new(plan));
            let partition = slot.partition.clone();
            slot.set_listeners(config, |listener, message| {
                log!(
                    warn,
                    worker,
                    listener,
                    topic = &*partition.topic,
                    partition = partition.number,
                    offset = message.offset(),
                    bundle = bundle.number,
                    "message skipped: its listener is gone"
                );
            });
            slot.ask_as_automatic(&before);
            slot.lanes.end_back_offs(None);
            slot.lanes.wake_all();
        }
        let slots = &mut self.slots;
        self.letters.retain(|(epoch, lane, listener), _| {
            let lane = slots
                .get_mut(epoch)
                .and_then(|slot| slot.lanes.get_mut(*lane));
            lane.is_some_and(|lane| lane.index_of(listener).is_some())
        });
        self.places.clear_parked();
        let awake: Vec<u64> = self.slots.keys().copied().collect();
        for epoch in awake {
            self.wake(epoch);
        }
    }
}

#[cfg(feature = "micro")]
impl Worker {
    /// What turns of the loop do with a letter, and with all that it makes ready; reported once.
    pub(crate) fn take(&mut self, letter: ToWorker) {
        self.open(letter);
        while let Some(epoch) = self.ready.pop_front() {
            self.run_partition(epoch);
        }
        self.report();
    }
}

#[cfg(test)]
mod tests {
    use super::share;

    #[test]
    fn the_shares_of_all_workers_are_the_limit() {
        for (limit, count) in [(1, 1), (1, 4), (7, 3), (1000, 2)] {
            assert_eq!(
                (0..count)
                    .map(|index| share(limit, index, count))
                    .sum::<usize>(),
                limit
            );
        }
    }
}
