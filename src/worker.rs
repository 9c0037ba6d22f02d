//! The worker: an OS thread with one Lua VM that runs the messages of its lanes.
//!
//! Batches and answers arrive in its mailbox; finished numbers and commit requests go to the mailboxes of the
//! consumers. The worker waits only in its mailbox. A handler that waits is a suspended coroutine, a message in
//! back-off is a timer, and the answer to a dead letter arrives in the mailbox. Nothing else in it is asynchronous,
//! so a heap of timers is the whole runtime that it needs.

mod ahead;
mod alone;
mod batches;
mod calls;
mod commit_requests;
mod commits_behind;
mod deferred;
mod emissions;
mod exchange;
mod failures;
mod forwarding;
mod fresh;
mod gates;
mod going_back;
mod head;
mod ids;
mod kept;
mod looking;
mod meter;
mod observers;
mod operator_commands;
mod outcomes;
pub(crate) mod rates;
mod report;
mod run;
mod slot;
mod suspects;
mod taken;
#[cfg(test)]
mod tests;
mod ticks;
mod timers;
mod transactions;
mod unreported;
mod unsent;
mod vms;
mod waits;

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Partition, ToConsumer, ToWorker};
use crate::bundle::Bundle;
use crate::clock::Clock;
use crate::config::Config;
use crate::crash::exclusive::Exclusive;
use crate::crash::journal::Page;
use crate::failpoint::failpoint;
use crate::kafka::Message;
use crate::lua::{App, CallId, Pulse, Vm};
use crate::rules::route::{self, Plan};
use crate::rules::spread::Map;
use crate::rules::turns::Turns;
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::Endings;
use crate::wait::{Answer, WaitId};

use ahead::Hears;
use alone::Alone;
use calls::{Calls, WaitingCalls};
use deferred::{Key, Leaving};
use emissions::Emissions;
use forwarding::Forwarded;
use gates::Gates;
use ids::{LaneId, RecordId};
use meter::Meter;
use observers::Observers;
use rates::Rates;
use slot::Slot;
use suspects::{Gatekeeper, Running};
use ticks::Ticks;
use timers::Timers;
use unreported::Unreported;
use vms::Vms;

/// The most messages of one partition in a row, before the mailbox is read and other partitions get their turn.
const QUANTUM: usize = 256;
/// The longest time of such a row, measured every few messages. Until the row ends, none of its messages is reported,
/// hence committed, and no timer fires.
const QUANTUM_TIME: Duration = Duration::from_millis(50);
/// The time of a turn that answers to waits may take.
const ANSWERS_TIME: Duration = Duration::from_millis(1);
const LOOK_EVERY: usize = 8;
/// How long short turns may follow each other before their finished messages are reported.
const REPORT_EVERY: Duration = Duration::from_millis(1);
/// The longest time between two turns: a turn shows the daemon that the worker lives, and detects long waits.
const TURN: Duration = Duration::from_secs(1);

pub(crate) struct Worker {
    /// The worker's index, and the number of workers.
    index: usize,
    count: usize,
    mailbox: Arc<Mailbox<ToWorker>>,
    endings: Endings,
    beat: Beat,
    app: Arc<App>,
    /// Answers to waits that no turn had time for yet; many may arrive at once.
    answers: VecDeque<(u64, CallId, WaitId, Answer)>,
    engine: Vms,
    /// By epoch.
    slots: Map<u64, Slot>,
    /// Partitions with something to run.
    ready: Turns,
    /// Partitions and lanes that were woken while a turn had them out of their maps.
    woken: Vec<Woken>,
    calls: Calls,
    places: WaitingCalls,
    /// Deferrals without an answer: epoch and number of their messages.
    deferrals: HashMap<Key, (u64, u64)>,
    leaving: Leaving,
    alone: Alone,
    gates: Gates,
    forwarded: Forwarded,
    emissions: Emissions,
    meter: Meter,
    running: Running,
    gatekeeper: Gatekeeper,
    timers: Timers,
    ticks: Ticks,
    observers: Observers,
    unreported: Unreported,
    log: failures::Log,
    /// When messages that wait for long were last looked for.
    looked: Instant,
    /// Nothing starts in the next turn: another worker is to run alone, or there is no VM.
    is_held: bool,
    /// `ToWorker::Stop` has arrived.
    stops: bool,
    clock: Clock,
    /// For the jitter of retries.
    chance: fastrand::Rng,
}

enum Woken {
    /// By epoch.
    Partition(u64),
    Lane(LaneId),
}

/// The next step after a turn of the loop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Another turn follows at once.
    Busy,
    /// Another turn follows when a message arrives, and at this moment at the latest.
    Until(Instant),
    /// `ToWorker::Stop` has arrived: no further turn.
    Stopped,
}

/// The inputs of a new worker.
///
/// Its clock is that of `app`, which its VMs share.
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
    /// The worker's own page of the journal.
    pub(crate) page: Page,
    pub(crate) solo: Arc<Exclusive<ToWorker>>,
    pub(crate) rates: Arc<Rates>,
    pub(crate) chance: fastrand::Rng,
}

/// How long a turn of the loop may take: the longest call, and the work around it.
pub(crate) fn turn_max(config: &Config) -> Duration {
    let blocking = config.listeners.iter().map(|one| one.limits.blocking).max();
    blocking.unwrap_or_default() + Duration::from_secs(10)
}

/// One worker's share of a limit.
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
        let mut gates = Gates::new(clock.clone(), start.rates);
        gates.set_listeners(&start.bundle.config, start.index, start.count);
        let meter = Meter::new(names(&start.bundle.config), now);
        let emission_bytes = share(emissions::BYTES_MAX, start.index, start.count);
        let answers = Arc::new(Hears(start.mailbox.clone()));
        let mut worker = Self {
            index: start.index,
            count: start.count,
            mailbox: start.mailbox,
            endings: start.endings,
            beat: start.beat,
            app: start.app.clone(),
            answers: VecDeque::new(),
            engine: Vms::new(start.app, start.pulse, start.bundle, start.vm),
            slots: Map::default(),
            ready: Turns::default(),
            woken: Vec::new(),
            calls: Calls::default(),
            places: WaitingCalls::default(),
            deferrals: HashMap::new(),
            leaving: Leaving::default(),
            alone: Alone::default(),
            gates,
            forwarded: Forwarded::new(),
            emissions: Emissions::new(emission_bytes, answers),
            meter,
            running: Running::new(start.page),
            gatekeeper: Gatekeeper::new(start.solo, start.index),
            timers: Timers::default(),
            ticks: Ticks::new(start.index),
            observers: Observers::default(),
            unreported: Unreported::default(),
            log: failures::Log::new(clock.clone()),
            looked: now,
            is_held: false,
            stops: false,
            clock,
            chance: start.chance,
        };
        worker.follow_timers();
        worker
    }

    /// Runs until `ToWorker::Stop`.
    pub(crate) fn run(mut self) {
        // Closes also on a panic: a queued batch holds messages, which keep their client.
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

    /// One turn of the loop: reads the mailbox and does all work that is due, without waiting. At most one partition
    /// has its turn in it.
    pub(crate) fn turn(&mut self, letters: &mut Vec<ToWorker>) -> Turn {
        failpoint!("worker-turn");
        for letter in letters.drain(..) {
            self.open(letter);
        }
        let mut now = self.clock.now();
        if !self.answers.is_empty() {
            self.take_answers(now);
            // Timers have their own share of the time: there may be more answers than any turn has time for.
            now = self.clock.now();
        }
        self.fire(now);
        self.look(now);
        self.run_ticks(now);
        self.run_observers(now);
        self.end_ticks(now);
        if self.stops && self.ticks.is_idle() {
            failpoint!("worker-stop");
            self.emissions.unsent.flush();
            self.gatekeeper.gone();
            self.log.tell_rest();
            return Turn::Stopped;
        }
        if self.runs_nothing() && self.gatekeeper.may_go_on() {
            self.wake_alone();
        }
        if !self.is_held
            && let Some(epoch) = self.ready.pop(now)
        {
            self.run_partition(epoch);
            self.report_in_time(epoch, now);
        }
        self.take_given();
        self.mend(now);
        self.forget_left();
        self.release_held();
        self.wake_woken();
        self.end_turn()
    }

    /// Whether the next turn has work at once. If not, everything is reported before the worker waits.
    fn end_turn(&mut self) -> Turn {
        self.beat.turn();
        self.emissions.unsent.flush();
        let down_until = self.engine.down_until();
        self.is_held = self.gatekeeper.is_held(self.runs_nothing()) || down_until.is_some();
        if (!self.ready.is_empty() && !self.is_held) || !self.answers.is_empty() {
            return Turn::Busy;
        }
        self.report();
        let now = self.clock.now();
        let look_at = now + TURN;
        let tick = self.next_tick();
        let event = self.next_event(now);
        let others = [
            down_until,
            self.timers.next(),
            self.gates.next_try(),
            tick,
            event,
        ];
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
            ToWorker::Emission {
                epoch,
                lane,
                number,
                listener,
                news,
            } => {
                let lane = LaneId { epoch, lane };
                self.emission(&RecordId { lane, listener }, number, news);
            }
            ToWorker::BatchEmission { epoch, batch, news } => {
                self.batch_emission(epoch, batch, news);
            }
            ToWorker::Acknowledged { runs, failed } => self.acknowledged(&runs, failed),
            ToWorker::WrittenBeforeCommit {
                vm,
                call,
                wait,
                offset,
                asked,
                result,
            } => self.written_before_commit((vm, call, wait), (offset, asked), result),
            ToWorker::FetchedAgain { epoch, news } => self.fetched_again(epoch, news),
            letter @ (ToWorker::Settled { .. }
            | ToWorker::RefusedRecord { .. }
            | ToWorker::Divide { .. }) => self.of_transaction(letter),
            ToWorker::Swap { bundle, vm, done } => self.engine.queue(bundle, vm, done),
            // The receiver is gone if the send fails.
            ToWorker::Status(reply) => drop(reply.send(self.snapshot())),
            ToWorker::Order(order) => self.obey(order),
            ToWorker::Wake(partition) if self.slots.contains_key(&partition.epoch) => {
                self.wake(partition.epoch);
            }
            // None of its messages has come here.
            ToWorker::Wake(_) => {}
            ToWorker::Observe(event) => self.observe(event),
            ToWorker::EndTicks(deadline) => self.ticks.end_until(deadline),
            ToWorker::Stop => self.begin_stop(),
        }
    }

    fn begin_stop(&mut self) {
        self.stops = true;
        self.ticks.end_until(self.clock.now());
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
            // A plan of another bundle may arrive while this one is swapped in.
            let config = &self.engine.bundle().config;
            let own = route::plan(config, &partition.consumer, &partition.topic);
            let is_alike = |own: &Plan| !own.orders_otherwise(plan) && own.commits_alike(plan);
            let Some(own) = own.filter(is_alike) else {
                // The bundle in force lacks the topic, or has other lanes or listeners than the consumer's positions.
                // A new epoch follows when all threads have the same bundle.
                return partition.end();
            };
            let place = self.running.in_partition(&partition);
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

    /// Queues a partition for a turn, once.
    fn wake(&mut self, epoch: u64) {
        match self.slots.get_mut(&epoch) {
            Some(slot) if slot.queued => {}
            Some(slot) => {
                slot.queued = true;
                let shared = slot.share().map(|of| (of, self.clock.now()));
                self.ready.push(epoch, shared.as_ref());
            }
            // A turn has the partition out of the map, or it is gone.
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

    /// Partitions and lanes that were woken while a turn had them out of their maps get their turn.
    fn wake_woken(&mut self) {
        for woken in std::mem::take(&mut self.woken) {
            match woken {
                Woken::Lane(id) if self.slots.contains_key(&id.epoch) => self.wake_lane(id),
                Woken::Partition(epoch) if self.slots.contains_key(&epoch) => self.wake(epoch),
                // The lane or partition is gone.
                Woken::Lane(_) | Woken::Partition(_) => {}
            }
        }
    }

    fn release(&mut self, partition: &Arc<Partition>) {
        match self.slots.get_mut(&partition.epoch) {
            Some(slot) if slot.under_way > 0 => slot.released = true,
            // A partition without a slot is drained too: none of its messages came here.
            _ => self.drop_slot(partition),
        }
    }

    fn cancel(&mut self, partition: &Arc<Partition>) {
        self.cancel_calls(partition);
        self.take_back(partition.epoch);
        self.drop_slot(partition);
    }

    /// The partition's epoch is over. Its unfinished messages stay uncommitted, and are delivered again to the next
    /// owner.
    fn drop_slot(&mut self, partition: &Arc<Partition>) {
        let epoch = partition.epoch;
        if let Some(mut slot) = self.slots.remove(&epoch) {
            self.settle(&mut slot);
            self.leave_deferred(&mut slot);
        }
        self.forwarded.retain(|id, _| id.lane.epoch != epoch);
        self.emissions.forget_partition(epoch);
        self.let_start();
        self.running.end_all(epoch);
        self.forget_alone(epoch);
        self.gates.forget_partition(epoch);
        partition.set_blocked(None);
        self.report();
        partition.inbox.send(ToConsumer::Drained(partition.clone()));
    }
}
