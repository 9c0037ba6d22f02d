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
use crate::telemetry::shell;

use super::Worker;
use super::gates::Gate;
use super::head::Head;
use super::outcomes::named;
use super::slot::Slot;

/// The journal's lines of the calls that run and of those that wait.
pub(super) struct Running {
    page: Page,
    /// Of the call that has Lua now.
    now: Option<journal::Slot>,
    /// Of calls that wait, by epoch and lane.
    waiting: HashMap<(u64, u64), journal::Slot>,
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
    pub(super) fn park(&mut self, epoch: u64, lane: u64) {
        if let Some(slot) = self.now.take() {
            self.waiting.insert((epoch, lane), slot);
        }
    }

    /// The lane's call, whether it waited or not, has ended.
    pub(super) fn end(&mut self, epoch: u64, lane: u64) {
        self.end_now();
        if let Some(slot) = self.waiting.remove(&(epoch, lane)) {
            self.page.end(slot);
        }
    }

    /// All of a partition's.
    pub(super) fn end_all(&mut self, epoch: u64) {
        for (_, slot) in self.waiting.extract_if(|(one, _), _| *one == epoch) {
            self.page.end(slot);
        }
    }
}

/// The gate that all workers share, and what this one wants of it.
pub(super) struct Gatekeeper {
    solo: Arc<Solo<ToWorker>>,
    index: usize,
    /// The lane that runs alone in this worker waits until it is alone in the process.
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

    /// Whether another worker is to be alone: then nothing starts here. Says so when nothing runs.
    pub(super) fn is_held(&self, runs_nothing: bool) -> bool {
        let is_held = self.solo.turn(self.index) == Turn::Other;
        if is_held && runs_nothing {
            self.solo.quiet(self.index);
        }
        is_held
    }

    /// Whether nothing of the other workers runs; if not, `may_go_on` tells when.
    fn enter(&mut self) -> bool {
        let is_alone = self.solo.try_enter(self.index);
        self.waits = !is_alone;
        is_alone
    }

    /// Whether what waited for the others may go on now.
    pub(super) fn may_go_on(&mut self) -> bool {
        self.waits && self.enter()
    }

    /// Whether the call that begins is to have the process for itself.
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
            self.end_alone(head.slot.partition.epoch, head.key);
            self.proven(head, suspect.crashes);
            return Suspicion::Other;
        }
        if let Some(number) = head.number()
            && let Gate::Wait = self.look_at_gate(number)
        {
            // The others need not stop for what would not run.
            self.end_alone(head.slot.partition.epoch, head.key);
            head.progress().stage = Stage::Held;
            return Suspicion::Other;
        }
        if !head.lane.alone {
            head.lane.alone = true;
            let error = format!(
                "was running in {} crashes: it runs when nothing else does, and all wait for it",
                suspect.crashes
            );
            head.block(&error, None);
        }
        if self.may_be_alone(head.slot.partition.epoch, head.key) && self.gatekeeper.enter() {
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
            head.block(&error, None);
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
