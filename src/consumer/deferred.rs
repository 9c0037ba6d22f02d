//! Deferred messages, as the consumer sees them: their bytes are not in flight, and the position waits for them.

use std::sync::Arc;

use crate::assignment::Partition;
use crate::rules::offsets::Moved;

use super::Consumer;

impl Consumer {
    /// A worker tells this before it tells that the messages are finished.
    pub(super) fn deferred(&mut self, partition: &Arc<Partition>, moved: &[Moved]) {
        let held = self.held.get_mut(&partition.key());
        let Some(held) = held.filter(|held| held.is_in(partition)) else {
            return;
        };
        let before = held.epoch.tracker.unfinished();
        for one in moved {
            held.epoch.tracker.moved(*one);
            self.counts.messages_lost += u64::from(matches!(one, Moved::Lost(_)));
        }
        self.intake.finished(held, before);
    }
}
