//! The head of a lane in its turn, for one of its listeners.

use std::time::Duration;

use crate::config::Config;
use crate::kafka::Message;
use crate::message::Record as _;
use crate::rules::lanes::{Lane, Progress, Stage};
use crate::telemetry::status::Blocked;

use super::commit_requests::Who;
use super::ids::{LaneId, RecordId};
use super::slot::Slot;

/// The lane is out of its slot during this.
pub(super) struct Head<'a> {
    pub(super) slot: &'a mut Slot,
    /// The config in force.
    pub(super) config: &'a Config,
    /// The key of the lane.
    pub(super) key: u64,
    pub(super) lane: &'a mut Lane<Message>,
    /// The index of the listener in the lane's progress.
    pub(super) index: usize,
}

impl Head<'_> {
    pub(super) fn progress(&mut self) -> &mut Progress {
        &mut self.lane.progress[self.index]
    }

    /// Sets the listener's stage: its run has ended, or no listener runs the message any more.
    pub(super) fn come_to(&mut self, stage: Stage) {
        let progress = &mut self.lane.progress[self.index];
        progress.stage = stage;
        if progress.finishes_after_switch_to_manual && stage == Stage::Final {
            self.slot.ask_behind(Who {
                listener: &progress.listener,
                lane: self.key,
                at: self.lane.message.offset(),
            });
        }
    }

    pub(super) fn id(&self) -> LaneId {
        LaneId {
            epoch: self.slot.partition.epoch,
            lane: self.key,
        }
    }

    /// The id of the record with which the listener's message goes to another topic.
    pub(super) fn record_id(&self) -> RecordId {
        RecordId {
            lane: self.id(),
            listener: self.listener().to_owned(),
        }
    }

    pub(super) fn listener(&self) -> &str {
        &self.lane.progress[self.index].listener
    }

    /// The listener's index in the config, where the topic still has it.
    pub(super) fn number(&self) -> Option<usize> {
        self.slot.plan.listeners.get(self.index).copied()
    }

    /// The status shows the reason why a lane waits, and until when.
    pub(super) fn block(&mut self, now: i64, error: &str, delay: Option<Duration>) {
        let progress = &self.lane.progress[self.index];
        let wait = i64::try_from(delay.unwrap_or_default().as_millis()).unwrap_or(i64::MAX);
        let blocked = Blocked {
            offset: self.lane.message.offset(),
            listener: progress.listener.clone(),
            attempt: progress.attempt,
            since: progress.failing_since.unwrap_or(now),
            next_attempt_at: now.saturating_add(wait),
            error: error.to_owned(),
        };
        self.slot.block(self.lane.number, blocked);
    }
}
