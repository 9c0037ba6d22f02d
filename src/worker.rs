//! The worker: an OS thread with one Lua VM, that runs the messages of its lanes.
//!
//! Batches and answers come in by its mailbox, finished numbers and requests to commit go out to the consumers'. It never
//! waits but in its mailbox: a handler that waits is a coroutine put aside, a message in back-off a timer. There is
//! nothing asynchronous in it but these two, so a heap of timers is all the runtime that it needs.

mod calls;
mod engine;
mod failures;
mod run;
mod timers;

use std::collections::{HashMap, VecDeque};
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::config::Config;
use crate::kafka::Message;
use crate::lanes::Lane;
use crate::lua::{App, Pulse, Vm};
use crate::mailbox::Mailbox;
use crate::partition::{Partition, ToConsumer, ToWorker};
use crate::route::{self, Plan};
use crate::supervisor::Endings;
use crate::systemd::Beat;

use calls::{Calls, Places};
use engine::Engine;
use timers::{Timers, Wake};

/// Messages of one lane in a row, before letters are read and other lanes get their turn.
const QUANTUM: usize = 256;
/// And how long such a row may take, by looks at the clock every few messages: until it ends nothing of it is reported,
/// hence committed, and no timer fires.
const QUANTUM_TIME: Duration = Duration::from_millis(50);
const LOOK_EVERY: usize = 8;
/// How often the loop turns at least: it shows the daemon that it lives, and finds what has waited for long.
const TURN: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    /// Which of how many.
    index: usize,
    count: usize,
    mailbox: Arc<Mailbox<ToWorker>>,
    endings: Endings,
    beat: Beat,
    engine: Engine,
    slots: HashMap<u64, Slot>,
    /// Lanes with something to run.
    ready: VecDeque<u64>,
    calls: Calls,
    places: Places,
    timers: Timers,
    finished: Vec<(Arc<Partition>, Range<u64>)>,
    log: failures::Log,
    looked: Instant,
}

/// A lane and what belongs to it. The messages are declared, hence dropped, before the partition that holds the client.
struct Slot {
    lane: Lane<Message>,
    plan: Arc<Plan>,
    partition: Arc<Partition>,
    /// Messages below this number were reported as finished.
    reported: u64,
    queued: bool,
    released: bool,
    blocked: bool,
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
}

/// How long a turn of the loop may take: the longest call, and what is around it.
pub(crate) fn turn_max(config: &Config) -> Duration {
    let blocking = config.listeners.iter().map(|one| one.limits.blocking).max();
    blocking.unwrap_or_default() + Duration::from_secs(10)
}

/// How many lanes of a topic this worker may run at once: its share of the topic's limit.
pub(crate) fn share(limit: usize, index: usize, count: usize) -> usize {
    limit / count + usize::from(index < limit % count)
}

impl Worker {
    pub(crate) fn new(start: Start) -> Self {
        Self {
            index: start.index,
            count: start.count,
            mailbox: start.mailbox,
            endings: start.endings,
            beat: start.beat,
            engine: Engine::new(start.app, start.pulse, start.bundle, start.vm),
            slots: HashMap::new(),
            ready: VecDeque::new(),
            calls: Calls::default(),
            places: Places::default(),
            timers: Timers::default(),
            finished: Vec::new(),
            log: failures::Log::default(),
            looked: Instant::now(),
        }
    }

    /// Runs until `ToWorker::Stop`.
    pub(crate) fn run(mut self) {
        let mut letters = Vec::new();
        loop {
            self.beat.turn();
            if self.ready.is_empty() {
                let deadline = Instant::now() + TURN;
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
                    return self.engine.stop();
                }
                self.open(letter);
            }
            let now = Instant::now();
            self.fire(now);
            self.look(now);
            if let Some(epoch) = self.ready.pop_front() {
                self.run_lane(epoch);
                self.report();
            }
            self.mend(now);
        }
    }

    fn open(&mut self, letter: ToWorker) {
        match letter {
            ToWorker::Batch {
                partition,
                plan,
                first,
                messages,
            } => self.push(partition, plan, first, messages),
            ToWorker::Release(partition) => self.release(&partition),
            ToWorker::Cancel(partition) => self.cancel(&partition),
            ToWorker::Answer { vm, call, answer } => self.resume(vm, call, answer),
            ToWorker::Swap { bundle, vm, done } => self.engine.queue(bundle, vm, done),
            ToWorker::Stop => {}
        }
    }

    fn push(
        &mut self,
        partition: Arc<Partition>,
        plan: Arc<Plan>,
        first: u64,
        messages: Vec<Message>,
    ) {
        if partition.is_over() {
            return;
        }
        let epoch = partition.epoch;
        if !self.slots.contains_key(&epoch) {
            let config = &self.engine.bundle().config;
            if route::plan(config, &partition.consumer, &partition.topic).is_none() {
                // The bundle in force does not have the topic: the consumer hears of it in a moment.
                return partition.end();
            }
        }
        let slot = self.slots.entry(epoch).or_insert_with(|| {
            // A plan of another bundle may be on its way while this one is swapped.
            let config = &self.engine.bundle().config;
            let plan =
                route::plan(config, &partition.consumer, &partition.topic).map_or(plan, Arc::new);
            Slot {
                lane: Lane::new(first),
                reported: first,
                plan,
                partition,
                queued: false,
                released: false,
                blocked: false,
            }
        });
        slot.lane.push(messages);
        self.wake(epoch);
    }

    /// Puts a lane in line, once.
    fn wake(&mut self, epoch: u64) {
        if let Some(slot) = self.slots.get_mut(&epoch).filter(|slot| !slot.queued) {
            slot.queued = true;
            self.ready.push_back(epoch);
        }
    }

    fn release(&mut self, partition: &Arc<Partition>) {
        let running = self.calls.of(partition.epoch);
        if running == 0 {
            // No lane at all is drained too: nothing of it came here, or everything is done.
            self.drop_lane(partition);
        } else if let Some(slot) = self.slots.get_mut(&partition.epoch) {
            slot.released = true;
        }
    }

    fn cancel(&mut self, partition: &Arc<Partition>) {
        for (vm, call) in self.calls.take_of(partition.epoch) {
            self.engine.cancel(vm, call);
            for parked in self.places.leave(partition) {
                self.wake(parked);
            }
        }
        self.drop_lane(partition);
    }

    /// The lane is over. What was not finished stays uncommitted, and comes again to whoever gets the partition.
    fn drop_lane(&mut self, partition: &Arc<Partition>) {
        if let Some(mut slot) = self.slots.remove(&partition.epoch) {
            self.settle(&mut slot);
        }
        partition.set_blocked(None);
        self.report();
        partition.inbox.send(ToConsumer::Drained(partition.clone()));
    }

    fn fire(&mut self, now: Instant) {
        while let Some(wake) = self.timers.due(now) {
            match wake {
                Wake::Call(vm, call) => self.resume(vm, call, crate::lua::Answer::Slept),
                Wake::Lane(epoch) => {
                    if let Some(slot) = self.slots.get_mut(&epoch) {
                        slot.lane.tick(now);
                    }
                    self.wake(epoch);
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
            slot.lane.take_old().for_each(Message::detach);
        }
    }

    /// Tells the consumers what is finished.
    fn report(&mut self) {
        while let Some((partition, _)) = self.finished.last() {
            let inbox = partition.inbox.clone();
            let own = self
                .finished
                .extract_if(.., |(one, _)| Arc::ptr_eq(&one.inbox, &inbox))
                .collect();
            inbox.send(ToConsumer::Finished(own));
        }
    }

    /// Replaces a spoiled VM, lets an old one go, and swaps in a bundle that waits.
    fn mend(&mut self, now: Instant) {
        // Twice: what spoils the new VM while an old one drains has to wait for that one to go.
        for _ in 0..2 {
            self.engine.let_go();
            self.engine.mend(now);
            if let Some(vm) = self.engine.overdue(now) {
                self.abandon(vm);
            }
        }
        self.engine.let_go();
        if self.engine.swap(now) {
            self.reroute();
        }
    }

    /// A new bundle is in force: every lane gets its listeners, and no back-off is waited for any more.
    fn reroute(&mut self) {
        let bundle: Arc<Bundle> = self.engine.bundle().clone();
        let config = &bundle.config;
        self.beat.allow(turn_max(config));
        let mut awake = Vec::new();
        for (epoch, slot) in &mut self.slots {
            let Some(plan) = route::plan(config, &slot.partition.consumer, &slot.partition.topic)
            else {
                // The consumer retires the topic: until its letter comes nothing of it may start.
                slot.partition.end();
                slot.plan = Arc::new(Plan::nobody());
                continue;
            };
            let names = plan
                .listeners
                .iter()
                .map(|&index| config.listeners[index].name.as_str());
            for listener in slot.lane.set_listeners(names) {
                tracing::warn!(
                    listener,
                    topic = &*slot.partition.topic,
                    partition = slot.partition.number,
                    offset = slot.lane.head().map(crate::message::Record::offset),
                    bundle = bundle.number,
                    "message skipped: its listener is gone"
                );
            }
            slot.plan = Arc::new(plan);
            slot.lane.end_back_off();
            awake.push(*epoch);
        }
        awake.extend(self.places.clear_parked());
        for epoch in awake {
            self.wake(epoch);
        }
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
