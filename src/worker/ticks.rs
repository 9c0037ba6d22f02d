//! Ticks: runs of the functions that files gave to `tide.every` and `tide.after`. Observers run as ticks do.
//!
//! The schedule of the process decides which worker takes a tick (`rules/timers.rs`). A tick is a call without a
//! message: it may wait, has limits, and its failure is logged and counted. It is not repeated.

use std::collections::HashMap;
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::lua::{App, CallId, Failure, Step};
use crate::rules::timers::{By, Due, Timer, Timers};
use crate::telemetry::metrics::{TickCounts, TimerSnapshot};
use crate::wait::{Answer, Cancel, WaitId, Waits};

use super::observers::Observing;
use super::timers::Wake;
use super::{QUANTUM_TIME, Worker};

/// The limit of a whole tick, its waits included: the default of a listener's.
const TIMEOUT: Duration = Duration::from_secs(300);

/// The timers of the VM in force, and the ticks that wait.
pub(super) struct Ticks {
    by: By,
    /// The VM whose timers these are.
    generation: u64,
    timers: Vec<Arc<Declared>>,
    /// When the first tick is due that this worker may take.
    next: Option<Instant>,
    open: HashMap<(u64, CallId), OpenTick>,
    /// By the position of the timer.
    counts: HashMap<Arc<str>, TickCounts>,
    /// The daemon stops: no tick begins, and running ones end until this moment.
    ends_at: Option<Instant>,
}

struct Declared {
    /// In `Vm::timers`.
    index: usize,
    timer: Timer,
    /// `handlers/jobs.lua:12`.
    position: Arc<str>,
}

/// A tick or an observer that waits.
struct OpenTick {
    cause: Cause,
    /// Its open waits, as those of a call.
    waits: Vec<(WaitId, Option<Cancel>)>,
}

/// Why a function without a message runs.
enum Cause {
    Timer(By, Arc<Declared>),
    Event(Observing),
}

impl Cause {
    /// Its time is over.
    fn too_long(&self) -> Failure {
        match self {
            Self::Timer(..) => Failure::timeout(TIMEOUT),
            Self::Event(observing) => observing.too_long(),
        }
    }
}

fn schedule(app: &App) -> MutexGuard<'_, Timers> {
    app.timers.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Ticks {
    /// `generation` is that of no VM yet.
    pub(super) fn new(worker: usize) -> Self {
        Self {
            by: By { worker, bundle: 0 },
            generation: u64::MAX,
            timers: Vec::new(),
            next: None,
            open: HashMap::new(),
            counts: HashMap::new(),
            ends_at: None,
        }
    }

    pub(super) fn is_idle(&self) -> bool {
        self.open.is_empty()
    }

    pub(super) fn open(&self) -> usize {
        self.open.len()
    }

    pub(super) fn is_open(&self, vm: u64, call: CallId) -> bool {
        self.open.contains_key(&(vm, call))
    }

    /// Whether this tick still has that open wait.
    pub(super) fn waits(&self, vm: u64, call: CallId, wait: WaitId) -> bool {
        let open = self.open.get(&(vm, call));
        open.is_some_and(|open| open.waits.iter().any(|(one, _)| *one == wait))
    }

    /// The timers of the VM in force: the schedule goes on with those that it knows.
    fn follow(&mut self, app: &App, by: By, declared: Vec<(usize, Timer, Arc<str>)>, now: Instant) {
        self.by = by;
        self.timers = declared
            .into_iter()
            .map(|(index, timer, position)| Declared {
                index,
                timer,
                position,
            })
            .map(Arc::new)
            .collect();
        let timers: Vec<_> = self.timers.iter().map(|one| one.timer.clone()).collect();
        schedule(app).follow(by, &timers, now);
        let is_known =
            |position: &Arc<str>| self.timers.iter().any(|one| one.position == *position);
        self.counts.retain(|position, _| is_known(position));
        for one in &self.timers {
            self.counts.entry(one.position.clone()).or_default();
        }
        self.look(app);
    }

    /// Looks up when the next tick is due: other workers take ticks too.
    fn look(&mut self, app: &App) {
        if self.timers.is_empty() {
            self.next = None;
            return;
        }
        let mut schedule = schedule(app);
        let timers = self.timers.iter();
        self.next = timers
            .filter_map(|one| schedule.next(self.by, &one.timer))
            .min();
    }

    /// Takes a tick that is due, if there is one, and notes the missed ones.
    fn take(
        &self,
        app: &App,
        now: Instant,
        missed: &mut Vec<(Arc<str>, u64)>,
    ) -> Option<Arc<Declared>> {
        let mut schedule = schedule(app);
        for one in &self.timers {
            let (runs, count) = match schedule.take(self.by, &one.timer, now) {
                Due::Run { missed } => (true, missed),
                Due::Missed(count) => (false, count),
                Due::Not => continue,
            };
            if count > 0 {
                missed.push((one.position.clone(), count));
            }
            if runs {
                return Some(one.clone());
            }
        }
        None
    }

    fn count(&mut self, position: &Arc<str>) -> &mut TickCounts {
        self.counts.entry(position.clone()).or_default()
    }

    pub(super) fn snapshot(&self) -> Vec<TimerSnapshot> {
        let counts = self.counts.iter();
        counts
            .map(|(position, counts)| TimerSnapshot {
                timer: position.clone(),
                counts: *counts,
            })
            .collect()
    }

    /// The daemon stops, and running ticks end until this moment. The first moment counts.
    pub(super) fn end_until(&mut self, deadline: Instant) {
        self.ends_at.get_or_insert(deadline);
    }
}

impl Worker {
    /// Whether nothing runs or waits in this worker.
    pub(super) fn runs_nothing(&self) -> bool {
        self.calls.is_empty() && self.ticks.is_idle()
    }

    /// Whether a tick may begin. None begins beside a message that runs alone: the message would not be alone any
    /// more, and ticks that overlap would put it off for ever.
    pub(super) fn may_tick(&self) -> bool {
        !self.is_held && !self.alone.has_one()
    }

    /// When the loop has work for a timer.
    pub(super) fn next_tick(&self) -> Option<Instant> {
        match self.ticks.ends_at {
            Some(ends_at) => (!self.ticks.is_idle()).then_some(ends_at),
            None => self.ticks.next.filter(|_| self.may_tick()),
        }
    }

    /// A VM came into force: its timers follow those of the VM before.
    pub(super) fn follow_timers(&mut self) {
        let generation = self.engine.generation();
        if self.ticks.generation == generation {
            return;
        }
        self.ticks.generation = generation;
        let by = By {
            worker: self.index,
            bundle: self.engine.bundle().number,
        };
        let declared = self.engine.come_into_force(self.index);
        self.ticks.follow(&self.app, by, declared, self.clock.now());
    }

    /// Runs the ticks that are due, for as long as a turn may take.
    pub(super) fn run_ticks(&mut self, now: Instant) {
        let is_due = self.ticks.next.is_some_and(|next| next <= now);
        if !is_due || self.ticks.ends_at.is_some() || !self.may_tick() || self.engine.is_spoiled() {
            return;
        }
        self.report();
        let mut missed = Vec::new();
        // What ran before in this turn has a time of its own, which it may use up in every turn.
        let began = self.clock.now();
        while self.clock.since(began) < QUANTUM_TIME
            && !self.engine.is_spoiled()
            && let Some(declared) = self.ticks.take(&self.app, now, &mut missed)
        {
            self.beat.turn();
            let step = self.engine.tick(declared.index);
            let ends_at = self.clock.now() + TIMEOUT;
            self.begin_tick(Cause::Timer(self.ticks.by, declared), step, ends_at);
        }
        for (position, count) in missed {
            self.ticks.count(&position).missed += count;
            self.log.tick_missed(&position, count);
        }
        self.ticks.look(&self.app);
    }

    /// Starts an observer in the VM in force.
    pub(super) fn run_observer(&mut self, index: usize, observing: Observing) {
        self.beat.turn();
        let event = observing.event();
        let step = self.engine.observe(index, event.argument.clone());
        let ends_at = event.ends_at;
        self.begin_tick(Cause::Event(observing), step, ends_at);
    }

    /// The result of the first slice.
    fn begin_tick(&mut self, cause: Cause, step: Step, ends_at: Instant) {
        let vm = self.engine.generation();
        if let Step::Waits(call, _) = &step {
            self.timers.set(ends_at, Wake::Timeout(vm, *call));
        }
        let waits = Vec::new();
        self.go_on_ticking(vm, OpenTick { cause, waits }, step);
    }

    /// The result of a slice.
    fn go_on_ticking(&mut self, vm: u64, mut open: OpenTick, step: Step) {
        if let Some(held) = self.engine.take_slow() {
            match &open.cause {
                Cause::Timer(_, declared) => self.log.slow_tick(&declared.position, held),
                Cause::Event(observing) => observing.say_slow(held),
            }
        }
        let failure = match step {
            Step::Waits(call, Waits { begun, given_up }) => {
                if !given_up.is_empty() {
                    open.waits.retain(|(one, _)| !given_up.contains(one));
                }
                for (id, wait) in begun {
                    let cancel = self.serve(None, (vm, call, id), wait);
                    open.waits.push((id, cancel));
                }
                self.ticks.open.insert((vm, call), open);
                return;
            }
            // Only a message's call can emit or defer.
            Step::Done | Step::Emitted(_) | Step::Deferred(..) | Step::Batch(_) => None,
            Step::Failed(failure) => Some(failure),
            Step::Asked(verdict) => Some(Failure::of_verdict(&verdict)),
        };
        self.end_tick(open, failure.as_ref());
    }

    fn end_tick(&mut self, open: OpenTick, failure: Option<&Failure>) {
        if matches!(open.cause, Cause::Event(_)) {
            // The last commit of partitions that go has what an observer has finished.
            self.take_given();
            self.report();
        }
        match open.cause {
            Cause::Timer(by, declared) => {
                schedule(&self.app).ended(by, &declared.timer);
                let counts = self.ticks.count(&declared.position);
                match failure {
                    None => counts.done += 1,
                    Some(failure) => {
                        counts.failed += 1;
                        self.log.tick_failed(&declared.position, failure);
                    }
                }
            }
            Cause::Event(observing) => observing.end(failure),
        }
        if self.runs_nothing() {
            self.wake_alone();
        }
    }

    /// The answer to a wait of a tick.
    pub(super) fn resume_tick(&mut self, vm: u64, call: CallId, wait: WaitId, answer: Answer) {
        if !self.ticks.waits(vm, call, wait) {
            return;
        }
        let Some(mut open) = self.ticks.open.remove(&(vm, call)) else {
            return;
        };
        open.waits.retain(|(one, _)| *one != wait);
        self.beat.turn();
        match self.engine.resume(vm, call, wait, answer) {
            Some(step) => self.go_on_ticking(vm, open, step),
            None => self.end_tick(open, Some(&given_up("its vm is gone"))),
        }
    }

    /// Gives a tick up that waits, for this reason.
    fn give_tick_up(&mut self, vm: u64, call: CallId, failure: &Failure) {
        if let Some(open) = self.ticks.open.remove(&(vm, call)) {
            self.beat.turn();
            self.engine.cancel(vm, call);
            self.end_tick(open, Some(failure));
        }
    }

    pub(super) fn time_tick_out(&mut self, vm: u64, call: CallId) {
        let failure = self
            .ticks
            .open
            .get(&(vm, call))
            .map(|open| open.cause.too_long());
        if let Some(failure) = failure {
            self.give_tick_up(vm, call, &failure);
        }
    }

    /// Gives up the ticks that wait in this VM.
    pub(super) fn abandon_ticks(&mut self, vm: u64) {
        let open = self.ticks.open.keys().filter(|(one, _)| *one == vm);
        let calls: Vec<_> = open.map(|(_, call)| *call).collect();
        for call in calls {
            self.give_tick_up(vm, call, &given_up("its vm was replaced and has to end"));
        }
    }

    /// At the deadline of a stop, the ticks and observers that still wait are given up.
    pub(super) fn end_ticks(&mut self, now: Instant) {
        if self.ticks.is_idle() || self.ticks.ends_at.is_none_or(|ends_at| now < ends_at) {
            return;
        }
        let open: Vec<_> = self.ticks.open.keys().copied().collect();
        for (vm, call) in open {
            self.give_tick_up(vm, call, &given_up("the daemon stops"));
        }
    }
}

fn given_up(why: &str) -> Failure {
    Failure::given_up(format!("the function was given up while it waited: {why}"))
}
