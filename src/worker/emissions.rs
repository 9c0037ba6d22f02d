//! Records that handlers have emitted. **A run that emitted is done when the brokers have acknowledged all its
//! records**, and a message is final when those of every earlier one of its lane are, too.
//!
//! An emission goes *ahead*: librdkafka has its records in their order, and the lane goes on. Where that is not
//! possible, its lane waits for it. If an emission that went ahead is not acknowledged, the lane goes back to its
//! message (`going_back.rs`), and what it emits from then on stands behind.
//!
//! Only a refused record fails a run. Brokers that are away do not: the records are sent again, however long that
//! takes, and the status shows why.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::assignment::{Emission, ToWorker};
use crate::kafka::Message;
use crate::lua::Failure;
use crate::message::Record as _;
use crate::rules::ahead::Ahead;
use crate::rules::lanes::{Headed, Stage};
use crate::telemetry::metrics::Outcome;
use crate::telemetry::status::Blocked;
use crate::wait::send::{Acknowledgements, Emitted, Troubled};
use crate::wait::{Answer, Cancel, Fault, Job, Reply, Value};

use super::Worker;
use super::ahead::Origin;
use super::commit_requests::Who;
use super::head::Head;
use super::ids::{LaneId, RecordId};
use super::kept::{Emitter, Emitting, Settled, Share, Then, Unwritten};
use super::looking::look_at_topics;
use super::outcomes::named;
use super::slot::Slot;
use super::unsent::Unsent;

/// With so many bytes of a listener without an acknowledgement, no call of it begins. Workers share them.
pub(super) const BYTES_MAX: usize = 32 << 20;
/// The number, in place of a message's, under which a partition shows that it waits for room.
const ROOM: u64 = u64::MAX;
/// The pause before a message runs again whose emission ended without an answer.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(1);
/// Kinds that say nothing of a record: a bug, or no thread for the work.
pub(super) const NO_REFUSAL: [&str; 2] = ["internal", "busy"];

/// The emissions of messages whose calls have ended.
pub(super) struct Emissions {
    /// Those that went ahead.
    pub(super) ahead: Ahead<Origin>,
    /// Those that their lanes wait for.
    open: HashMap<RecordId, Written>,
    /// Listeners that have emitted. They are few, and none is forgotten.
    emitters: Vec<Arc<Emitter>>,
    /// The bytes of a listener at which no call of it begins.
    bytes_max: usize,
    /// Partitions that wait for room, by epoch, each with its listener.
    parked: Vec<(u64, Arc<Emitter>)>,
    pub(super) answers: Arc<dyn Acknowledgements>,
    pub(super) unsent: Unsent,
    /// Emissions that are acknowledged, and messages that have become final by that; empty between two letters.
    pub(super) ahead_ended: Vec<(u64, Origin)>,
    pub(super) ended: Vec<(u64, Settled)>,
}

struct Written {
    /// The number of the message.
    number: u64,
    emitted: Arc<Emitted>,
    is_counted: bool,
    tries: u32,
    share: Share,
    /// **Its drop gives the emission up.**
    _cancel: Cancel,
}

impl Emissions {
    pub(super) fn new(bytes_max: usize, answers: Arc<dyn Acknowledgements>) -> Self {
        Self {
            ahead: Ahead::default(),
            open: HashMap::new(),
            emitters: Vec::new(),
            bytes_max,
            parked: Vec::new(),
            answers,
            unsent: Unsent::default(),
            ahead_ended: Vec::new(),
            ended: Vec::new(),
        }
    }

    /// Whether a call of this listener may start; if not, the partition is parked until an emission ends.
    #[inline]
    pub(super) fn may_start(&mut self, epoch: u64, listener: &str) -> bool {
        self.emitters.is_empty() || self.may_emit(epoch, listener)
    }

    fn may_emit(&mut self, epoch: u64, listener: &str) -> bool {
        let mut emitters = self.emitters.iter();
        let emitter = emitters.find(|one| *one.name == *listener);
        let Some(emitter) = emitter.filter(|one| !self.has_room(one)) else {
            return true;
        };
        if !self.parked.iter().any(|(parked, _)| *parked == epoch) {
            self.parked.push((epoch, emitter.clone()));
        }
        false
    }

    fn has_room(&self, emitter: &Emitter) -> bool {
        emitter.bytes.load(Ordering::Relaxed) < self.bytes_max
    }

    pub(super) fn share(&mut self, listener: &str, bytes: usize) -> Share {
        let found = self.emitters.iter().position(|one| *one.name == *listener);
        let at = found.unwrap_or_else(|| {
            self.emitters.push(Arc::new(Emitter {
                name: listener.into(),
                bytes: AtomicUsize::new(0),
            }));
            self.emitters.len() - 1
        });
        Share::new(bytes, self.emitters[at].clone())
    }

    /// No news of the emission that this lane waits for counts any more. `None`: it waits for none.
    pub(super) fn give_up(&mut self, id: &RecordId) -> Option<Unwritten> {
        let open = self.open.remove(id)?;
        Some(Unwritten {
            emitted: open.emitted,
            is_counted: open.is_counted,
            share: open.share,
        })
    }

    /// The answer to an emission that went ahead does not count any more. Returns whether it was open.
    pub(super) fn recall(&mut self, ahead: u64) -> bool {
        self.ahead.recall(ahead)
    }

    /// What lanes of this partition wait for.
    pub(super) fn written(&self, epoch: u64) -> impl Iterator<Item = &Emitted> {
        let own = self
            .open
            .iter()
            .filter(move |(id, _)| id.lane.epoch == epoch);
        own.map(|(_, written)| &*written.emitted)
    }

    /// The partition is gone.
    pub(super) fn forget_partition(&mut self, epoch: u64) {
        self.open.retain(|id, _| id.lane.epoch != epoch);
        self.ahead.forget(|one| one.lane.epoch == epoch);
    }
}

/// Work of the outside that ends with the emission, or when it is given up.
pub(super) fn job(emitted: &Emitted, troubled: Troubled, share: Option<Share>) -> Job {
    let emission = emitted.senders.emit(emitted.requests.clone(), troubled);
    Job::new("ctx.emit", async move {
        let _held = share;
        emission.await.map(|()| Value::Nil)
    })
}

pub(super) fn result(answer: Answer) -> Result<(), Fault> {
    if let Answer::Outside(result) = answer {
        return result.map(drop);
    }
    let message = "a bug of Moontide ended the emission; the log has a line of the target `panic`";
    Err(Fault::new("internal", message))
}

impl Worker {
    /// The run of a lane's head is done once these records are acknowledged.
    pub(super) fn emit(&mut self, head: &mut Head<'_>, emitted: Arc<Emitted>) -> Stage {
        let asked = emitted.asked;
        // What waits for a transaction keeps its place in the lane anyway.
        let is_strict = head.lane.is_strict && !head.slot.partition.is_exactly_once;
        let stage = if is_strict {
            self.write(head, emitted, false)
        } else {
            let number = head.lane.number;
            let listener = head.lane.progress[head.index].listener.clone();
            match self.emit_ahead(head.slot, (head.key, number, &listener), emitted) {
                Ok(kept) => {
                    head.slot.emitting(head.key, number).kept.push(kept);
                    Stage::Final
                }
                Err(emitted) => self.write(head, emitted, false),
            }
        };
        if let Some(asked) = asked {
            let listener = head.lane.progress[head.index].listener.clone();
            let at = head.lane.message.offset();
            let then = &mut head.slot.emitting(head.key, head.lane.number).then;
            then.push(Then::Ask {
                listener,
                at,
                asked,
            });
        }
        stage
    }

    /// The lane waits until these records are acknowledged, or one is refused.
    fn write(&mut self, head: &mut Head<'_>, emitted: Arc<Emitted>, is_counted: bool) -> Stage {
        let share = self.emissions.share(head.listener(), emitted.bytes);
        let unwritten = Unwritten {
            emitted,
            is_counted,
            share,
        };
        self.write_again(head, unwritten)
    }

    pub(super) fn write_again(&mut self, head: &mut Head<'_>, unwritten: Unwritten) -> Stage {
        let (id, number) = (head.record_id(), head.lane.number);
        let (mailbox, listener, lane) = (self.mailbox.clone(), id.listener.clone(), id.lane);
        let tell = Arc::new(move |news| {
            mailbox.send(ToWorker::Emission {
                epoch: lane.epoch,
                lane: lane.lane,
                number,
                listener: listener.clone(),
                news,
            });
        });
        let trouble = tell.clone();
        let troubled: Troubled = Box::new(move |fault| trouble(Emission::Troubled(fault)));
        let job = if head.slot.partition.is_exactly_once {
            look_at_topics(&unwritten.emitted, troubled)
        } else {
            job(&unwritten.emitted, troubled, None)
        };
        let reply = Reply::new(move |answer| tell(Emission::Over(result(answer))));
        let open = Written {
            number,
            emitted: unwritten.emitted,
            is_counted: unwritten.is_counted,
            tries: 0,
            share: unwritten.share,
            _cancel: self.app.outside.begin(job, reply),
        };
        head.slot.under_way += 1;
        self.emissions.open.insert(id, open);
        Stage::Sending
    }

    /// News of an emission that its lane waits for.
    pub(super) fn emission(&mut self, id: &RecordId, number: u64, news: Emission) {
        let open = self.emissions.open.get_mut(id);
        // Another message has the lane now, or none.
        let Some(open) = open.filter(|open| open.number == number) else {
            return;
        };
        match news {
            Emission::Troubled(fault) => {
                open.tries += 1;
                let tries = open.tries;
                self.with_head(id, |worker, head| worker.troubled(head, &fault, tries));
            }
            Emission::Over(result) => {
                let is_counted = open.is_counted;
                let open = self.emissions.open.remove(id);
                if let Some(slot) = self.slots.get_mut(&id.lane.epoch) {
                    slot.under_way -= 1;
                }
                self.with_head(id, |worker, head| {
                    let is_written = result.is_ok();
                    let stage = worker.written(head, is_counted, result);
                    if let Some(open) = open.filter(|_| is_written) {
                        Self::keep_looked_at(head, open.emitted, open.share);
                    }
                    head.come_to(stage);
                });
                self.let_start();
            }
        }
    }

    /// The head of the lane whose records these are.
    pub(super) fn with_head(&mut self, id: &RecordId, work: impl FnOnce(&mut Self, &mut Head<'_>)) {
        let Some(mut slot) = self.slots.remove(&id.lane.epoch) else {
            return;
        };
        let key = id.lane.lane;
        if let Some(mut lane) = slot.lanes.take(key) {
            if let Some(index) = lane.index_of(&id.listener) {
                let config = self.engine.bundle().config.clone();
                work(
                    self,
                    &mut Head {
                        slot: &mut slot,
                        config: &config,
                        key,
                        lane: &mut lane,
                        index,
                    },
                );
            }
            slot.lanes.put(key, lane);
            slot.lanes.wake(key);
        }
        self.put_back(slot);
    }

    fn troubled(&mut self, head: &mut Head<'_>, fault: &Fault, tries: u32) {
        let cure = match fault.kind {
            "notFound" => "; create the topic, or repair its name and reload",
            _ => "",
        };
        let reason = format!("{}{cure}", fault.message);
        let error = format!("its records are not acknowledged: {reason}");
        head.block(self.clock.wall_ms(), &error, None);
        if let Some(listener) = named(head.config, head.listener()) {
            let place = self.coordinates(head, listener);
            self.log.not_acknowledged(&place, &reason, tries);
        }
    }

    fn written(
        &mut self,
        head: &mut Head<'_>,
        is_counted: bool,
        result: Result<(), Fault>,
    ) -> Stage {
        if let Err(fault) = result {
            if NO_REFUSAL.contains(&fault.kind) {
                return self.run_again(head, &fault);
            }
            // What was to follow the records does not.
            let (at, listener) = (head.lane.message.offset(), head.listener().to_owned());
            let is_own = |then: &mut Then| matches!(then, Then::Ask { at: one, listener: own, .. } if *one == at && *own == listener);
            let emitting = head.slot.emitting(head.key, head.lane.number);
            drop(emitting.then.extract_if(.., is_own));
            return self.failed(head, &Failure::given_up(fault.message), None);
        }
        head.slot.unblock(head.lane.number);
        if !is_counted {
            self.count_done(head.listener(), head.id());
        }
        Stage::Final
    }

    /// The emission has ended without an answer of a broker: the message runs again, without the loss of an attempt.
    fn run_again(&mut self, head: &mut Head<'_>, fault: &Fault) -> Stage {
        self.troubled(head, fault, 1);
        let progress = head.progress();
        progress.take_attempt_back();
        Stage::BackOff(self.clock.now() + AGAIN)
    }

    /// A new bundle may have repaired what keeps records from being written: their messages run again.
    pub(super) fn emit_anew(&mut self) {
        // What a removed listener has emitted leaves, too: its message does not run again.
        let is_stuck = |id: &RecordId, written: &Written| {
            let slot = self.slots.get(&id.lane.epoch);
            written.tries > 0 && slot.is_some_and(|slot| slot.wants(&id.listener))
        };
        let stuck = self.emissions.open.iter();
        let stuck = stuck.filter(|(id, written)| is_stuck(id, written));
        let stuck: Vec<_> = stuck.map(|(id, _)| id.clone()).collect();
        for id in stuck {
            self.emissions.give_up(&id);
            if let Some(slot) = self.slots.get_mut(&id.lane.epoch) {
                slot.under_way -= 1;
            }
            self.with_head(&id, |worker, head| {
                head.slot.unblock(head.lane.number);
                worker.gates.forget_probe(head.id());
                let progress = head.progress();
                progress.take_attempt_back();
                progress.stage = Stage::Due;
            });
        }
    }

    /// A run that emitted counts as done at its acknowledgement.
    pub(super) fn count_done(&mut self, listener: &str, id: LaneId) {
        if let Some(number) = self.meter.index_of(listener) {
            self.gates.done_in(number, id);
            self.meter.outcome(number, Outcome::Done);
        }
    }

    /// A message has ended. It is final, unless it or an earlier one of its lane has emissions that went ahead.
    pub(super) fn end_message(
        &mut self,
        slot: &mut Slot,
        lane: u64,
        headed: Headed<Message>,
        emitting: Emitting,
    ) {
        let number = headed.number;
        if slot.partition.is_exactly_once {
            return self.hand_over(slot, lane, headed, emitting);
        }
        if emitting.is_acknowledged() && !slot.unacknowledged.has(lane) {
            slot.finish(number);
            for then in emitting.then {
                self.follow(slot, lane, then);
            }
            return;
        }
        let open = emitting.open();
        let settled = Settled::full(headed, emitting);
        slot.unacknowledged.push(lane, number, open, settled);
    }

    /// What follows a message that is final.
    pub(super) fn follow(&mut self, slot: &mut Slot, lane: u64, then: Then) {
        match then {
            Then::Ask {
                listener,
                at,
                asked,
            } => slot.ask_now(
                Who {
                    listener: &listener,
                    lane,
                    at,
                },
                asked,
            ),
            Then::Commit {
                of,
                offset,
                emitted,
            } => self.go_on_to_commit(slot, of, offset, emitted),
        }
    }

    /// There may be room for calls again.
    pub(super) fn let_start(&mut self) {
        if self.emissions.parked.is_empty() {
            return;
        }
        let parked = std::mem::take(&mut self.emissions.parked);
        for (epoch, emitter) in parked {
            // A bundle without the listener has nothing to wait for.
            let is_gone = self.meter.index_of(&emitter.name).is_none();
            if !is_gone && !self.emissions.has_room(&emitter) {
                self.emissions.parked.push((epoch, emitter));
                continue;
            }
            if let Some(slot) = self.slots.get_mut(&epoch) {
                slot.unblock(ROOM);
            }
            self.wake(epoch);
        }
    }

    /// The status says why no call of this listener begins in the partition.
    pub(super) fn show_wait_for_room(&self, slot: &mut Slot, listener: &str) {
        if slot.is_blocked(ROOM) {
            return;
        }
        let now = self.clock.wall_ms();
        let fresh = slot.lanes.fresh().map(|(_, message)| message.offset());
        let open = || slot.lanes.open().map(|(_, lane)| lane.message.offset());
        // Without a message nothing waits.
        let Some(offset) = fresh.or_else(|| open().next()) else {
            return;
        };
        let error = format!(
            "the records that the listener has emitted are not acknowledged, {} bytes of them in this worker: no further \
             call begins",
            self.emissions.bytes_max
        );
        let blocked = Blocked {
            offset,
            listener: listener.to_owned(),
            attempt: 0,
            since: now,
            next_attempt_at: now,
            error,
        };
        slot.block(ROOM, blocked);
    }
}
