//! What becomes of deferrals: done, failed, timed out, or their VM has ended.

use std::sync::Arc;

use crate::config::Config;
use crate::duration::short;
use crate::kafka::Message;
use crate::lua::{Deferral, Failure, FailureKind, Given};
use crate::message::Record as _;
use crate::rules::lanes::{Lane, Stage};
use crate::telemetry::metrics::Outcome;
use crate::wait::send::Emitted;
use crate::worker::Worker;
use crate::worker::commit_requests::Who;
use crate::worker::head::Head;
use crate::worker::outcomes::named;
use crate::worker::slot::Slot;
use crate::worker::timers::Wake;

use super::{Answer, InLane, Key, Open};

/// The number, in place of a message's, under which a partition shows that it waits for deferred messages.
const FULL: u64 = u64::MAX - 1;

/// How a deferral ends.
enum End {
    Given(Given),
    TimedOut,
    VmEnded,
}

fn timed_out(open: &Open) -> Failure {
    let limit = short(open.limit);
    Failure::given_up(format!(
        "{}: neither `done` nor `fail` came within {limit} after the handler had returned; raise `timeout` of `ctx.defer`, \
         or finish the message earlier",
        open.position
    ))
}

impl Worker {
    /// The handler has returned, and the deferral finishes the message later.
    pub(in crate::worker) fn defer(
        &mut self,
        head: &mut Head<'_>,
        vm: u64,
        deferral: Deferral,
        emitted: Option<Arc<Emitted>>,
    ) -> Stage {
        let key = (vm, deferral.id);
        let emits = emitted.is_some();
        match (head.number(), named(head.config, head.listener())) {
            (Some(number), Some(listener)) => {
                let limit = deferral.timeout.unwrap_or(listener.limits.timeout);
                if !emits {
                    self.gates.returned(number, head.id());
                }
                let now = self.clock.now();
                let message = (head.slot.partition.epoch, head.lane.number);
                self.deferrals.insert(key, message);
                self.timers.set(now + limit, Wake::Deferral(key));
                let place = InLane {
                    offset: head.lane.message.offset(),
                    lane: head.key,
                };
                let progress = &head.lane.progress[head.index];
                let open = Open {
                    key,
                    listener: progress.listener.clone(),
                    position: deferral.position,
                    since: self.clock.wall_ms(),
                    limit,
                    attempt: progress.attempt,
                    failing_since: progress.failing_since,
                    failed_in: progress.failed_in,
                    emits,
                    is_automatic: listener.run.auto_commit,
                    answer: None,
                };
                let deferred = head.slot.deferred.get_or_insert_default();
                deferred.add(head.lane.number, place, open);
            }
            // Its listener is removed: nothing is left to finish.
            _ => self.engine.forget_deferral(key),
        }
        match emitted {
            Some(emitted) => self.emit(head, emitted),
            None => Stage::Final,
        }
    }

    /// The run of a listener with the head has not ended well, or begins again: what it deferred has no say.
    pub(in crate::worker) fn drop_deferral(&mut self, head: &mut Head<'_>) {
        let (number, listener) = (head.lane.number, &head.lane.progress[head.index].listener);
        let deferred = head.slot.deferred.as_mut();
        if let Some(open) = deferred.and_then(|all| all.take_of(number, listener)) {
            self.deferrals.remove(&open.key);
            self.engine.forget_deferral(open.key);
        }
    }

    /// The answers of code since the last call of this function.
    pub(in crate::worker) fn take_given(&mut self) {
        let mut slot = None;
        for (key, given) in self.engine.take_given() {
            self.end_deferral(&mut slot, key, End::Given(given));
        }
        if let Some(slot) = slot {
            self.put_back(slot);
        }
    }

    pub(in crate::worker) fn time_deferral_out(&mut self, key: Key) {
        if !self.deferrals.contains_key(&key) {
            return;
        }
        self.engine.forget_deferral(key);
        let mut slot = None;
        self.end_deferral(&mut slot, key, End::TimedOut);
        if let Some(slot) = slot {
            self.put_back(slot);
        }
    }

    /// The VM of this generation has ended, with the last answers of its code.
    pub(in crate::worker) fn vm_ended(&mut self, vm: u64, given: Vec<(Key, Given)>) {
        let mut slot = None;
        for (key, given) in given {
            self.end_deferral(&mut slot, key, End::Given(given));
        }
        let rest = self.deferrals.keys().filter(|key| key.0 == vm);
        let mut rest: Vec<_> = rest.copied().collect();
        rest.sort_unstable();
        for key in rest {
            self.end_deferral(&mut slot, key, End::VmEnded);
        }
        if let Some(slot) = slot {
            self.put_back(slot);
        }
    }

    /// `cached` is a slot that is out of the map; the caller puts it back.
    fn end_deferral(&mut self, cached: &mut Option<Slot>, key: Key, end: End) {
        let Some((epoch, number)) = self.deferrals.remove(&key) else {
            return;
        };
        let Some(slot) = self.change_to(cached, epoch) else {
            let is_done = matches!(end, End::Given(Given::Done));
            if is_done && let Some(partition) = self.leaving.done(epoch, number, key) {
                self.unreported.finish(partition, number);
            }
            return;
        };
        let Some(deferred) = &mut slot.deferred else {
            return;
        };
        let Some(open) = deferred.open(number, key) else {
            return;
        };
        let is_wanted = slot.plan.has(&open.listener);
        let answer = match end {
            // Nothing is left to run.
            _ if !is_wanted => None,
            End::Given(given) => Failure::of_deferral(given, &open.position).map(Answer::Failed),
            End::TimedOut => Some(Answer::Failed(timed_out(open))),
            End::VmEnded => Some(Answer::Again),
        };
        if let Some(answer) = answer {
            deferred.answered(number, key, answer);
            return;
        }
        let Some(place) = deferred.in_lane(number) else {
            return;
        };
        let Some((open, is_finished)) = deferred.done(number, key) else {
            return;
        };
        if is_wanted {
            self.deferral_done(slot, place, &open);
        }
        if is_finished {
            slot.finish(number);
        }
    }

    fn deferral_done(&mut self, slot: &mut Slot, place: InLane, open: &Open) {
        if !open.emits {
            self.count_done(&open.listener, slot.lane_id(place.lane));
        }
        let is_manual = |name: &str| slot.plan.manual.iter().any(|one| **one == *name);
        if open.is_automatic && is_manual(&open.listener) {
            // A reload has switched it to manual commits, and its handler does not request this one.
            slot.ask_behind(Who {
                listener: &open.listener,
                lane: place.lane,
                at: place.offset,
            });
        }
    }

    /// The head of a lane has no stage left to come to. Its deferrals that have failed, or whose VM has ended, give it
    /// one. Returns whether there was any.
    pub(in crate::worker) fn run_deferred_on(
        &mut self,
        slot: &mut Slot,
        config: &Config,
        key: u64,
        lane: &mut Lane<Message>,
    ) -> bool {
        let Some(deferred) = &mut slot.deferred else {
            return false;
        };
        let answered = deferred.take_answered(lane.number);
        let is_any = !answered.is_empty();
        for open in answered {
            let Some(index) = lane.index_of(&open.listener) else {
                continue;
            };
            let mut head = Head {
                slot,
                config,
                key,
                lane,
                index,
            };
            let stage = match open.answer {
                Some(Answer::Failed(failure)) => self.failed(&mut head, &failure, None),
                Some(Answer::Buried(reason)) => self.bury_deferred(&mut head, reason),
                Some(Answer::Again) | None => {
                    let progress = head.progress();
                    progress.take_attempt_back();
                    Stage::Due
                }
            };
            head.come_to(stage);
        }
        is_any
    }

    fn bury_deferred(&mut self, head: &mut Head<'_>, reason: String) -> Stage {
        let failure = Failure {
            kind: FailureKind::Asked,
            message: reason,
            traceback: None,
        };
        match named(head.config, head.listener()) {
            Some(listener) if listener.dead_letter.is_some() => {
                self.dead_letter(head, listener, &failure)
            }
            _ => self.ended(head, Outcome::Skipped),
        }
    }

    /// Whether the partition has room for one more deferred message. If not, the status says so.
    #[inline]
    pub(in crate::worker) fn may_defer(&self, slot: &mut Slot) -> bool {
        slot.deferred.is_none() || self.has_room_to_defer(slot)
    }

    fn has_room_to_defer(&self, slot: &mut Slot) -> bool {
        let most = slot.plan.deferred_max;
        let Some(deferred) = slot.deferred.as_ref().filter(|one| one.len() >= most) else {
            slot.unblock(FULL);
            return true;
        };
        if slot.is_blocked(FULL) {
            return false;
        }
        let Some((_, offset, open)) = deferred.first() else {
            return true;
        };
        let error = format!(
            "{most} messages are deferred (maxDeferred): no call begins until one is finished; the first is deferred at {}",
            open.position
        );
        let blocked = open.blocks(offset, self.clock.wall_ms(), error);
        slot.block(FULL, blocked);
        false
    }
}
