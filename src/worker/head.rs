//! The head of a lane while it is looked at, for one of its listeners.

use crate::config::Config;
use crate::kafka::Message;
use crate::lanes::{Lane, Progress};

use super::slot::Slot;

/// The lane is out of its slot meanwhile.
pub(super) struct Head<'a> {
    pub(super) slot: &'a mut Slot,
    /// In force.
    pub(super) config: &'a Config,
    /// Of the lane.
    pub(super) key: u64,
    pub(super) lane: &'a mut Lane<Message>,
    /// Of the listener, in the lane's progress.
    pub(super) index: usize,
}

impl Head<'_> {
    pub(super) fn progress(&mut self) -> &mut Progress {
        &mut self.lane.progress[self.index]
    }

    pub(super) fn listener(&self) -> &str {
        &self.lane.progress[self.index].listener
    }

    /// The listener's index in the config, where the topic still has it.
    pub(super) fn number(&self) -> Option<usize> {
        self.slot.plan.listeners.get(self.index).copied()
    }
}
