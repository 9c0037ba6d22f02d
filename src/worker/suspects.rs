//! The worker's page of the journal, and suspects: messages that were running when a process died.
//!
//! A suspect runs alone in the process: first alone in its worker (`alone`), then under the exclusive turn that all
//! workers share. A suspect that was alone when the process died is proven. It does not run; it is dead-lettered, or
//! it blocks its lane.

use std::collections::HashMap;
use std::sync::Arc;

use crate::assignment::{Partition, ToWorker};
use crate::crash::exclusive::{Exclusive, Turn};
use crate::crash::journal::{self, InPartition, Page};
use crate::log::log;
use crate::lua::{Failure, FailureKind};
use crate::message::Record as _;
use crate::message::trace::TraceId;
use crate::rules::lanes::Stage;
use crate::rules::spread::Map;
use crate::telemetry::shell;

use super::Worker;
use super::gates::Gate;
use super::head::Head;
use super::ids::LaneId;
use super::outcomes::named;
use super::slot::Slot;

/// The journal's entries of the calls that run and of the calls that wait.
pub(super) struct Running {
    page: Page,
    /// The entry of the call that Lua runs now.
    now: Option<journal::Slot>,
    /// The entries of calls that wait.
    waiting: Map<LaneId, journal::Slot>,
    /// Those of batches, by epoch and batch: for the first message and for the last one.
    batches: HashMap<(u64, u64), [journal::Slot; 2]>,
}

impl Running {
    /// Logs the loss of the journal.
    pub(super) fn look(&self) {
        self.page.look();
    }

    pub(super) fn new(page: Page) -> Self {
        Self {
            page,
            now: None,
            waiting: Map::default(),
            batches: HashMap::new(),
        }
    }

    pub(super) fn in_partition(&self, partition: &Partition) -> InPartition {
        self.page
            .partition_of(&partition.group, &partition.topic, partition.number)
    }

    /// A first call begins.
    pub(super) fn begin(&mut self, place: &InPartition, offset: i64, alone: bool) {
        self.now = Some(self.page.begin(place, offset, alone));
    }

    /// The call ended without a wait.
    pub(super) fn end_now(&mut self) {
        if let Some(slot) = self.now.take() {
            self.page.end(slot);
        }
    }

    /// The call waits, as a call of this lane.
    pub(super) fn park(&mut self, id: LaneId) {
        if let Some(slot) = self.now.take() {
            self.waiting.insert(id, slot);
        }
    }

    /// The lane's call, whether it waited or not, has ended.
    pub(super) fn end(&mut self, id: LaneId) {
        self.end_now();
        if let Some(slot) = self.waiting.remove(&id) {
            self.page.end(slot);
        }
    }

    /// The call of a batch begins, from the first of these offsets to the last. After a crash every message up to there
    /// runs alone.
    pub(super) fn begin_batch(
        &mut self,
        batch: (u64, u64),
        place: &InPartition,
        (first, last): (i64, i64),
    ) {
        let slots = [first, last].map(|offset| self.page.begin(place, offset, false));
        self.batches.insert(batch, slots);
    }

    pub(super) fn end_batch(&mut self, batch: (u64, u64)) {
        for slot in self.batches.remove(&batch).into_iter().flatten() {
            self.page.end(slot);
        }
    }

    /// All calls of a partition have ended.
    pub(super) fn end_all(&mut self, epoch: u64) {
        for (_, slots) in self.batches.extract_if(|one, _| one.0 == epoch) {
            for slot in slots {
                self.page.end(slot);
            }
        }
        for (_, slot) in self.waiting.extract_if(|one, _| one.epoch == epoch) {
            self.page.end(slot);
        }
    }
}

/// One worker's side of the exclusive turn, in which a single message runs alone in the process.
pub(super) struct Gatekeeper {
    solo: Arc<Exclusive<ToWorker>>,
    index: usize,
    /// A lane already runs alone in this worker, and waits for the other workers to become idle.
    waits: bool,
}

impl Gatekeeper {
    pub(super) fn new(solo: Arc<Exclusive<ToWorker>>, index: usize) -> Self {
        Self {
            solo,
            index,
            waits: false,
        }
    }

    /// Whether another worker has the exclusive turn: then nothing starts here. If no call runs here either, this
    /// reports the worker as idle.
    pub(super) fn is_held(&self, runs_nothing: bool) -> bool {
        let is_held = self.solo.turn(self.index) == Turn::Other;
        if is_held && runs_nothing {
            self.solo.quiet(self.index);
        }
        is_held
    }

    /// Requests the exclusive turn. Returns whether all other workers are idle; if not, `may_go_on` asks again.
    fn enter(&mut self) -> bool {
        let is_alone = self.solo.try_enter(self.index);
        self.waits = !is_alone;
        is_alone
    }

    /// Whether a lane that waited for the other workers may run now.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.waits && self.enter()
    }

    /// Whether this worker has the exclusive turn: the call that begins is alone in the process.
    pub(super) fn is_alone(&self) -> bool {
        self.solo.turn(self.index) == Turn::Mine
    }

    pub(super) fn leave(&mut self) {
        self.waits = false;
        self.solo.leave(self.index);
    }

    /// The worker ends.
    pub(super) fn gone(&self) {
        self.solo.gone(self.index);
    }
}

impl Drop for Gatekeeper {
    /// Runs also when the worker panics, so that the others do not wait for it.
    fn drop(&mut self) {
        self.gone();
    }
}

/// The journal's verdict on a message that is due to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// Not suspect, or it may run: alone, if its lane says so.
    Run,
    /// The lane waits until no other call runs in the process.
    Wait,
    /// The message does not run now: its stage has changed.
    Other,
}

impl Worker {
    /// The check before a call of a lane whose partition has had crashes.
    pub(super) fn suspect(&mut self, head: &mut Head<'_>) -> Suspicion {
        let Some(suspect) = head.slot.place.suspect(head.lane.message.offset()) else {
            return Suspicion::Run;
        };
        if suspect.crashed_alone {
            self.end_alone(head.id());
            self.proven(head, suspect.crashes);
            return Suspicion::Other;
        }
        if let Some(number) = head.number()
            && let Gate::Wait = self.gates.look_at(number)
        {
            // The other workers need not stop for a message that would not run.
            self.end_alone(head.id());
            head.progress().stage = Stage::Held;
            return Suspicion::Other;
        }
        if !head.lane.alone {
            head.lane.alone = true;
            let error = format!(
                "was running in {} crashes: it runs alone, and all other messages wait for it",
                suspect.crashes
            );
            head.block(self.clock.wall_ms(), &error, None);
        }
        if self.may_be_alone(head.id()) && self.gatekeeper.enter() {
            Suspicion::Run
        } else {
            Suspicion::Wait
        }
    }

    fn proven(&mut self, head: &mut Head<'_>, crashes: u32) {
        let Some(listener) = named(head.config, head.listener()) else {
            head.progress().stage = Stage::Final;
            return;
        };
        let has_topic = listener.dead_letter.is_some();
        let trace = TraceId::of_message(&head.lane.message);
        log!(
            error,
            worker,
            listener = listener.name,
            topic = &*head.slot.partition.topic,
            partition = head.slot.partition.number,
            offset = head.lane.message.offset(),
            trace_id = trace.as_ref().map(TraceId::as_str),
            crashes,
            follows = if has_topic {
                "dead letter"
            } else {
                "blocks its lane"
            },
            skip = (!has_topic).then(|| {
                let partition = &head.slot.partition;
                let offset = head.lane.message.offset();
                shell::skip(&partition.topic, partition.number, offset, &listener.name)
            }),
            "message killed the process while it ran alone"
        );
        let failure = Failure {
            kind: FailureKind::Raised,
            message: format!(
                "the process died {crashes} times while this message was running, and once while it ran alone"
            ),
            traceback: None,
        };
        let progress = &mut head.lane.progress[head.index];
        progress.attempt = progress.attempt.max(crashes);
        head.progress().stage = if has_topic {
            self.dead_letter(head, listener, &failure)
        } else {
            let error = format!(
                "{}; `moontide retry {}` runs it once more",
                failure.message, listener.name
            );
            head.block(self.clock.wall_ms(), &error, None);
            Stage::Halted
        };
    }
}

impl Slot {
    /// Lets halted messages of a listener run again, alone, although the process died of them.
    pub(super) fn pardon(&self, listener: Option<&str>) {
        if !self.place.has_crashed() {
            return;
        }
        for (_, lane) in self.lanes.open() {
            let is_halted = lane.progress.iter().any(|one| {
                one.stage == Stage::Halted && listener.is_none_or(|name| one.listener == name)
            });
            let offset = lane.message.offset();
            if is_halted && self.place.suspect(offset).is_some() {
                self.place.pardon(offset);
            }
        }
    }
}
