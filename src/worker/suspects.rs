//! What this worker runs, in the journal; and the messages that were running when processes died.
//!
//! A suspect runs alone in the process: first in its worker (`alone`), then by the gate that all workers share. One that
//! the process died of while it was alone is proven: it is not run, but dead-lettered, or blocks its lane.

use std::collections::HashMap;
use std::sync::Arc;

use crate::assignment::{Partition, ToWorker};
use crate::crash::exclusive::{Solo, Turn};
use crate::crash::journal::{self, Page, Place};
use crate::log::log;
use crate::lua::{Failure, FailureKind};
use crate::message::Record as _;
use crate::rules::lanes::Stage;

use super::Worker;
use super::gates::Gate;
use super::head::Head;
use super::ids::LaneId;
use super::outcomes::named;
use super::slot::Slot;

/// The journal's lines of the calls that run and of those that wait.
pub(super) struct Running {
    page: Page,
    /// Of the call that has Lua now.
    now: Option<journal::Slot>,
    /// Of calls that wait.
    waiting: HashMap<LaneId, journal::Slot>,
}

impl Running {
    pub(super) fn new(page: Page) -> Self {
        Self {
            page,
            now: None,
            waiting: HashMap::new(),
        }
    }

    pub(super) fn place(&self, partition: &Partition) -> Place {
        self.page
            .place(&partition.group, &partition.topic, partition.number)
    }

    /// A first call begins.
    pub(super) fn begin(&mut self, place: &Place, offset: i64, alone: bool) {
        self.now = Some(self.page.begin(place, offset, alone));
    }

    /// It ended without a wait.
    pub(super) fn end_now(&mut self) {
        if let Some(slot) = self.now.take() {
            self.page.end(slot);
        }
    }

    /// It waits, as a call of this lane.
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

    /// All of a partition's.
    pub(super) fn end_all(&mut self, epoch: u64) {
        for (_, slot) in self.waiting.extract_if(|one, _| one.epoch == epoch) {
            self.page.end(slot);
        }
    }
}

/// One worker's side of the gate that lets a single message run alone in the process.
pub(super) struct Gatekeeper {
    solo: Arc<Solo<ToWorker>>,
    index: usize,
    /// A lane already runs alone in this worker, and waits for the other workers to become quiet.
    waits: bool,
}

impl Gatekeeper {
    pub(super) fn new(solo: Arc<Solo<ToWorker>>, index: usize) -> Self {
        Self {
            solo,
            index,
            waits: false,
        }
    }

    /// Whether the gate is another worker's: then nothing starts here. If no call runs here either, the gate is told that
    /// this worker is quiet.
    pub(super) fn is_held(&self, runs_nothing: bool) -> bool {
        let is_held = self.solo.turn(self.index) == Turn::Other;
        if is_held && runs_nothing {
            self.solo.quiet(self.index);
        }
        is_held
    }

    /// Asks for the gate. Whether all other workers are quiet; if not, `may_go_on` asks again.
    fn enter(&mut self) -> bool {
        let is_alone = self.solo.try_enter(self.index);
        self.waits = !is_alone;
        is_alone
    }

    /// Whether a lane that waited for the other workers may run now.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.waits && self.enter()
    }

    /// Whether the gate is this worker's: the call that begins is alone in the process.
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
    /// Also where the worker panics: the others do not wait for it.
    fn drop(&mut self) {
        self.gone();
    }
}

/// What the journal says of a message that is to run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Suspicion {
    /// None, or it may run: alone, as its lane says now.
    Run,
    /// The lane waits until nothing else runs in the process.
    Wait,
    /// It is not run now: its stage has changed.
    Other,
}

impl Worker {
    /// Before a call of a lane whose partition has had crashes.
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
            // The others need not stop for what would not run.
            self.end_alone(head.id());
            head.progress().stage = Stage::Held;
            return Suspicion::Other;
        }
        if !head.lane.alone {
            head.lane.alone = true;
            let error = format!(
                "was running in {} crashes: it runs when nothing else does, and all wait for it",
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
        log!(
            error,
            worker,
            listener = listener.name,
            topic = &*head.slot.partition.topic,
            partition = head.slot.partition.number,
            offset = head.lane.message.offset(),
            crashes,
            follows = if has_topic {
                "dead letter"
            } else {
                "blocks its lane"
            },
            "message killed the process while it ran alone"
        );
        let failure = Failure {
            kind: FailureKind::Raised,
            message: format!(
                "the process died {crashes} times while this message was running, and once nothing else was"
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
    /// Halted messages of a listener may run again, alone, although the process died of them.
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
