//! The reasons to pause a partition in the client. Pure: `held::apply_pauses` tells the client.
//!
//! A pause discards the messages that librdkafka has prefetched. A partition is paused for as long as it has a
//! reason. Each reason is added and removed by the part of the consumer that knows it.

use std::time::{Duration, Instant};

use crate::telemetry::status::Pause;

/// Reasons to pause, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Reasons(u8);

impl Reasons {
    fn bit(reason: Pause) -> u8 {
        1 << reason as u8
    }

    fn has(self, reason: Pause) -> bool {
        self.0 & Self::bit(reason) != 0
    }

    fn is_empty(self) -> bool {
        self.0 == 0
    }

    fn add(&mut self, reason: Pause) {
        self.0 |= Self::bit(reason);
    }

    fn remove(&mut self, reason: Pause) {
        self.0 &= !Self::bit(reason);
    }
}

/// The state of the partition in the client, as far as this consumer set it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Told {
    /// An assignment resumes a partition.
    #[default]
    Fetch,
    Pause,
    /// An earlier epoch of the same assignment may have left it paused, or a message came during a pause.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Pauses {
    reasons: Reasons,
    told: Told,
    /// The next message is not due before this moment: in a retry topic, or in a topic with a delay.
    not_due_until: Option<Instant>,
    /// Since when the partition has used up its share of the budget without a pause.
    pub(super) full_since: Option<Instant>,
    /// The last pause for the budget: when it began, and how long it took once it is over.
    pub(super) budget_at: Option<Instant>,
    pub(super) budget_took: Duration,
}

impl Pauses {
    /// Of an epoch that goes on within the assignment of the one before.
    pub(super) fn of_same_assignment() -> Self {
        Self {
            told: Told::Unknown,
            ..Self::default()
        }
    }

    /// The client has assigned the partition again, which resumes it. A pause by a handler is told again.
    pub(super) fn assigned_again(&mut self) {
        (self.reasons, self.told) = (self.of_handlers(), Told::Fetch);
        self.not_due_until = None;
    }

    /// The partition has held the others up for too long.
    pub(super) fn add_budget(&mut self, now: Instant) {
        self.reasons.add(Pause::Budget);
        self.full_since = None;
        self.budget_at = Some(now);
    }

    pub(super) fn remove_budget(&mut self, now: Instant) {
        self.reasons.remove(Pause::Budget);
        let since = self.budget_at;
        self.budget_took = since.map_or(Duration::ZERO, |at| now.duration_since(at));
    }

    /// The next message is not due before `until`. This replaces a pause for the budget: its end seeks back, and no
    /// message of the partition is in flight until then.
    pub(super) fn set_not_due(&mut self, until: Instant) {
        self.reasons = self.of_handlers();
        self.reasons.add(Pause::NotDue);
        self.not_due_until = Some(until);
        self.full_since = None;
        // Messages still arrived, so the partition's state in the client is unknown.
        self.told = Told::Unknown;
    }

    /// Another delay is in force: the next message may be due now.
    pub(super) fn look_again_at(&mut self, now: Instant) {
        self.not_due_until = self.not_due_until.map(|until| until.min(now));
    }

    pub(super) fn remove_not_due(&mut self) {
        self.reasons.remove(Pause::NotDue);
        self.not_due_until = None;
    }

    pub(super) fn not_due_until(&self) -> Option<Instant> {
        self.not_due_until
    }

    /// Whether a handler has paused the partition; this holds beside every other reason.
    pub(super) fn set_by_handler(&mut self, is_paused: bool) {
        if is_paused {
            self.reasons.add(Pause::Handler);
        } else {
            self.reasons.remove(Pause::Handler);
        }
    }

    /// The epoch ends, and the next one begins at another position. It has pauses of its own.
    pub(super) fn add_seek(&mut self) {
        self.reasons.add(Pause::Seek);
    }

    /// The reason that only handlers remove.
    fn of_handlers(&self) -> Reasons {
        let mut reasons = Reasons::default();
        if self.has(Pause::Handler) {
            reasons.add(Pause::Handler);
        }
        reasons
    }

    pub(super) fn has(&self, reason: Pause) -> bool {
        self.reasons.has(reason)
    }

    /// Nothing is fetched from the partition now.
    pub(super) fn is_any(&self) -> bool {
        !self.reasons.is_empty()
    }

    /// For the status: the reason that lasts longer.
    pub(super) fn shown(&self) -> Option<Pause> {
        let reasons = [Pause::Handler, Pause::Seek, Pause::NotDue, Pause::Budget];
        reasons.into_iter().find(|reason| self.has(*reason))
    }

    /// Whether the client has to pause (`true`) or resume (`false`) the partition; from then on it counts as told.
    pub(super) fn change(&mut self) -> Option<bool> {
        let (is_any, told) = (self.is_any(), self.told);
        let wanted = if is_any { Told::Pause } else { Told::Fetch };
        self.told = wanted;
        (told != wanted).then_some(is_any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn another_delay_ends_the_wait_for_the_present_one_and_begins_none() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.look_again_at(now);
        assert_eq!(pauses.not_due_until(), None);
        pauses.set_not_due(at(now, 500));
        pauses.look_again_at(at(now, 10));
        assert_eq!(pauses.not_due_until(), Some(at(now, 10)));
        assert_eq!(pauses.shown(), Some(Pause::NotDue));
    }

    fn at(start: Instant, ms: u64) -> Instant {
        start + Duration::from_millis(ms)
    }

    #[test]
    fn the_client_is_told_once_of_a_pause_and_once_of_its_end() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        assert_eq!(pauses.change(), None);
        pauses.add_budget(now);
        assert_eq!(pauses.change(), Some(true));
        assert_eq!(pauses.change(), None);
        pauses.remove_budget(at(now, 300));
        assert_eq!(pauses.change(), Some(false));
        assert_eq!(pauses.budget_took, Duration::from_millis(300));
        assert_eq!(pauses.change(), None);
    }

    #[test]
    fn a_message_that_is_not_due_replaces_a_pause_for_the_budget() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.add_budget(now);
        assert_eq!(pauses.change(), Some(true));
        pauses.set_not_due(at(now, 500));
        assert_eq!(pauses.change(), Some(true), "a message came in spite of it");
        assert_eq!(pauses.shown(), Some(Pause::NotDue));
        assert!(!pauses.has(Pause::Budget));
        pauses.remove_not_due();
        assert_eq!(pauses.change(), Some(false));
        assert_eq!(pauses.not_due_until(), None);
    }

    #[test]
    fn an_assignment_ends_every_pause_without_a_word_to_the_client() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.set_not_due(at(now, 500));
        assert_eq!(pauses.change(), Some(true));
        pauses.assigned_again();
        assert_eq!((pauses.change(), pauses.is_any()), (None, false));
    }

    #[test]
    fn a_pause_by_a_handler_outlives_every_other_reason_and_an_assignment() {
        let (mut pauses, now) = (Pauses::default(), Instant::now());
        pauses.set_by_handler(true);
        assert_eq!(pauses.change(), Some(true));
        pauses.set_by_handler(true);
        assert_eq!(pauses.change(), None);
        pauses.add_budget(now);
        pauses.set_not_due(at(now, 500));
        assert_eq!(pauses.shown(), Some(Pause::Handler));
        pauses.remove_not_due();
        assert_eq!(pauses.change(), Some(true), "messages came in between");
        pauses.assigned_again();
        assert_eq!(pauses.change(), Some(true), "the assignment resumed it");
        pauses.set_by_handler(false);
        assert_eq!(pauses.change(), Some(false));
    }

    #[test]
    fn a_new_epoch_of_the_same_assignment_resumes_what_the_last_one_may_have_paused() {
        let mut pauses = Pauses::of_same_assignment();
        assert_eq!(pauses.change(), Some(false));
        assert_eq!(pauses.change(), None);
    }
}
