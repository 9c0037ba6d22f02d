//! The VMs of a worker: the one that new calls go to, and at most one old one that drains.
//!
//! A reload, a call that the watchdog ended and a VM without memory all lead to the same exchange. A new VM with a
//! new generation takes over. The old one lives until its waiting calls have ended or its deadline has passed.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::bundle::Bundle;
use crate::log::log;
use crate::lua::control::observers::PartitionEvent;
use crate::lua::{
    App, BatchCall, Call, CallId, DeferralId, Failure, FailureKind, Given, How, Pulse, Step, Vm,
};
use crate::rules::timers::Timer;
use crate::wait::send::Emitted;
use crate::wait::{Answer, Requested, Value, WaitId};

use super::deferred::Key;

/// The pause between two attempts to replace a VM without memory, at first and at most.
const BUILD_AGAIN: Duration = Duration::from_secs(1);
const BUILD_AGAIN_MAX: Duration = Duration::from_secs(30);
/// How long waiting calls of an old VM may take before they are given up and run again in the new one.
const DRAIN: Duration = Duration::from_secs(30);

pub(super) struct Vms {
    app: Arc<App>,
    pulse: Pulse,
    bundle: Arc<Bundle>,
    vm: Box<Vm>,
    generation: u64,
    old: Option<Old>,
    queued: Option<Queued>,
    spoiled: Option<FailureKind>,
    /// The number of VMs replaced because of a failure in them.
    replaced: u64,
    /// No VM can run a call: when to build one again, and the pause after that.
    down: Option<(Instant, Duration)>,
}

struct Old {
    vm: Box<Vm>,
    generation: u64,
    deadline: Instant,
    /// The worker ends the calls that wait in it now.
    is_overdue: bool,
}

struct Queued {
    bundle: Arc<Bundle>,
    vm: Box<Vm>,
    done: mpsc::Sender<()>,
}

impl Vms {
    pub(super) fn new(app: Arc<App>, pulse: Pulse, bundle: Arc<Bundle>, vm: Vm) -> Self {
        Self {
            app,
            pulse,
            bundle,
            vm: Box::new(vm),
            generation: 0,
            old: None,
            queued: None,
            spoiled: None,
            replaced: 0,
            down: None,
        }
    }

    pub(super) fn bundle(&self) -> &Arc<Bundle> {
        &self.bundle
    }

    pub(super) fn generation(&self) -> u64 {
        self.generation
    }

    pub(super) fn call(&mut self, call: &Call<'_>) -> Step {
        let step = self.vm.call(&self.pulse, call);
        self.judge(self.generation, &step);
        step
    }

    pub(super) fn call_batch(&mut self, batch: &BatchCall<'_>) -> Step {
        let step = self.vm.call_batch(&self.pulse, batch);
        self.judge(self.generation, &step);
        step
    }

    /// Gives up a call that waits, which has failed thereby. `None` if that VM is gone.
    pub(super) fn fail(&mut self, generation: u64, call: CallId, failure: Failure) -> Option<Step> {
        if generation == self.generation {
            return Some(self.vm.fail(call, failure));
        }
        let old = self.old.as_mut().filter(|old| old.generation == generation);
        old.map(|old| old.vm.fail(call, failure))
    }

    /// Starts a tick of the timer at this index of `Vms::come_into_force`.
    pub(super) fn tick(&mut self, timer: usize) -> Step {
        let step = self.vm.tick(&self.pulse, timer);
        self.judge(self.generation, &step);
        step
    }

    /// Starts the observer at this index of `Vms::observers`.
    pub(super) fn observe(&mut self, observer: usize, event: Arc<Value>) -> Step {
        let step = self.vm.observe(&self.pulse, observer, event);
        self.judge(self.generation, &step);
        step
    }

    /// The observers of the VM in force.
    pub(super) fn observers(&self) -> Vec<(PartitionEvent, usize, Arc<str>)> {
        self.vm.observers()
    }

    /// The VM is in force in this worker. Returns its timers.
    pub(super) fn come_into_force(&self, worker: usize) -> Vec<(usize, Timer, Arc<str>)> {
        self.vm.come_into_force(worker)
    }

    /// `None` if that VM is gone.
    pub(super) fn resume(
        &mut self,
        generation: u64,
        call: CallId,
        wait: WaitId,
        answer: Answer,
    ) -> Option<Step> {
        let vm = match &mut self.old {
            _ if generation == self.generation => &mut self.vm,
            Some(old) if old.generation == generation => &mut old.vm,
            _ => return None,
        };
        let step = vm.resume(&self.pulse, call, wait, answer);
        self.judge(generation, &step);
        Some(step)
    }

    /// The commit request of the last slice in that VM that its handler does not wait for.
    pub(super) fn take_requested(&self, generation: u64) -> Option<Requested> {
        if generation == self.generation {
            return self.vm.take_requested();
        }
        let old = self.old.as_ref()?;
        old.vm
            .take_requested()
            .filter(|_| old.generation == generation)
    }

    /// An emission is over.
    pub(super) fn use_again(&self, emitted: Arc<Emitted>) {
        self.vm.use_again(emitted);
    }

    pub(super) fn cancel(&mut self, generation: u64, call: CallId) {
        if generation == self.generation {
            self.vm.cancel(call);
        } else if let Some(old) = self.old.as_mut().filter(|old| old.generation == generation) {
            old.vm.cancel(call);
        }
    }

    /// The VM is to be replaced before the next call.
    pub(super) fn is_spoiled(&self) -> bool {
        self.spoiled.is_some()
    }

    /// Whether nothing can run, and until when: the VM has no memory, and a fresh one does not load.
    pub(super) fn down_until(&self) -> Option<Instant> {
        self.down.map(|(until, _)| until)
    }

    /// How long the last call held the VM, if that deserves a warning.
    pub(super) fn take_slow(&self) -> Option<Duration> {
        self.pulse.take_slow()
    }

    fn judge(&mut self, generation: u64, step: &Step) {
        let failure = match step {
            Step::Failed(failure) => failure,
            Step::Batch(end) => match &end.how {
                How::Failed(failure) => failure,
                How::Returned | How::Blamed(_) => return,
            },
            _ => return,
        };
        if !matches!(failure.kind, FailureKind::Blocking | FailureKind::Memory) {
            return;
        }
        if generation == self.generation {
            self.spoiled = Some(failure.kind);
        } else if let (FailureKind::Memory, Some(old)) = (failure.kind, &mut self.old) {
            // Other calls that wait there would fail for the same reason, and that would count as their attempts.
            old.is_overdue = true;
        }
    }

    /// Queues a bundle, which takes over as soon as no older VM drains; a newer one replaces it.
    pub(super) fn queue(&mut self, bundle: Arc<Bundle>, vm: Box<Vm>, done: mpsc::Sender<()>) {
        self.queued = Some(Queued { bundle, vm, done });
    }

    /// Whether `mend`, `let_go` or `swap` may have something to do.
    pub(super) fn is_to_change(&self) -> bool {
        self.queued.is_some() || self.spoiled.is_some() || self.old.is_some()
    }

    /// Swaps in the queued bundle. Returns whether there was one.
    pub(super) fn swap(&mut self, now: Instant) -> bool {
        if self.old.is_some() {
            return false;
        }
        let Some(Queued { bundle, vm, done }) = self.queued.take() else {
            return false;
        };
        self.spoiled = None;
        self.down = None;
        self.bundle = bundle;
        self.replace(vm, now);
        // The receiver is gone if the daemon is stopping.
        let _ = done.send(());
        true
    }

    fn replace(&mut self, vm: Box<Vm>, now: Instant) {
        let old = std::mem::replace(&mut self.vm, vm);
        self.old = Some(Old {
            vm: old,
            generation: self.generation,
            deadline: now + DRAIN,
            is_overdue: false,
        });
        self.generation += 1;
    }

    /// After a killed call or one without memory: builds a fresh VM of the same bundle. The calls that wait in the
    /// old one continue there, unless its memory is used up: then they are given up and run again.
    pub(super) fn mend(&mut self, now: Instant) {
        let Some(kind) = self.spoiled else { return };
        if self.down.is_some_and(|(until, _)| now < until) {
            return;
        }
        if let Some(old) = &mut self.old {
            // At most one VM drains: the calls that wait there have to end first.
            old.is_overdue = true;
            return;
        }
        self.spoiled = None;
        let built = Vm::build(&self.bundle, &self.app, &self.pulse).and_then(|mut vm| {
            vm.start(&self.pulse)?;
            Ok(vm)
        });
        match built {
            Ok(vm) => {
                self.down = None;
                self.replace(Box::new(vm), now);
                self.replaced += 1;
                if let (FailureKind::Memory, Some(old)) = (kind, &mut self.old) {
                    old.is_overdue = true;
                }
                let reason = format!("{kind:?}").to_lowercase();
                log!(
                    warn,
                    worker,
                    bundle = self.bundle.number,
                    reason,
                    "vm replaced"
                );
            }
            Err(error) if kind == FailureKind::Memory => {
                self.spoiled = Some(kind);
                let pause = self.down.map_or(BUILD_AGAIN, |(_, pause)| pause);
                self.down = Some((now + pause, (pause * 2).min(BUILD_AGAIN_MAX)));
                log!(error, worker,
                    bundle = self.bundle.number,
                    %error,
                    retry_in_ms = pause.as_millis() as u64,
                    "vm without memory, and a fresh one does not load: nothing runs in this worker"
                );
            }
            // A killed call may have left half-changed state behind, but the VM has run so far.
            Err(error) => {
                log!(error, worker, bundle = self.bundle.number, %error, "vm not replaced: a fresh one does not load");
            }
        }
    }

    pub(super) fn replaced(&self) -> u64 {
        self.replaced
    }

    /// Bytes of all VMs.
    pub(super) fn memory(&self) -> usize {
        let old = self.old.as_ref().map_or(0, |old| old.vm.memory_used());
        self.vm.memory_used() + old
    }

    /// The old VM whose waiting calls are due to be given up.
    pub(super) fn overdue(&self, now: Instant) -> Option<u64> {
        let old = self.old.as_ref()?;
        (old.is_overdue || old.deadline <= now).then_some(old.generation)
    }

    /// Drops the old VM when no call waits in it. Returns what its `shutdown` has finished.
    pub(super) fn let_go(&mut self) -> Option<(u64, Vec<(Key, Given)>)> {
        let mut old = self.old.take_if(|old| old.vm.waiting() == 0)?;
        shut_down(&mut old.vm, &self.pulse);
        Some((old.generation, of(old.generation, old.vm.take_given())))
    }

    /// The answers to deferrals since the last call of this function.
    pub(super) fn take_given(&self) -> Vec<(Key, Given)> {
        let mut given = of(self.generation, self.vm.take_given());
        if let Some(old) = &self.old {
            given.extend(of(old.generation, old.vm.take_given()));
        }
        given
    }

    /// The deferral has no say any more.
    pub(super) fn forget_deferral(&self, (generation, id): Key) {
        if generation == self.generation {
            self.vm.forget_deferral(id);
        } else if let Some(old) = self.old.as_ref().filter(|old| old.generation == generation) {
            old.vm.forget_deferral(id);
        }
    }

    /// The end of the worker: no call runs any more.
    pub(super) fn stop(mut self) {
        if let Some(mut old) = self.old.take() {
            shut_down(&mut old.vm, &self.pulse);
        }
        shut_down(&mut self.vm, &self.pulse);
    }
}

fn of(generation: u64, given: Vec<(DeferralId, Given)>) -> Vec<(Key, Given)> {
    let given = given.into_iter();
    given.map(|(id, given)| ((generation, id), given)).collect()
}

fn shut_down(vm: &mut Vm, pulse: &Pulse) {
    if let Err(error) = vm.shutdown(pulse) {
        log!(error, worker, %error, "`shutdown` of init.lua failed");
    }
}
