//! One partition that the group has assigned to this consumer: its membership, and the state of its present epoch.

use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{Partition, PartitionKey, ToWorker};
use crate::kafka::{Client, Error, TopicPartition};
use crate::rules::offsets::Position;
use crate::rules::route::Plan;
use crate::threads::mailbox::Mailbox;

use super::epoch::{Begin, EpochState};
use super::pauses::Pauses;

/// A partition of the assignment. `epoch` has the state that each new epoch resets; the rest lasts as long as the
/// membership.
pub(super) struct Held {
    pub(super) epoch: EpochState,
    pub(super) plan: Arc<Plan>,
    pub(super) worker: Arc<Mailbox<ToWorker>>,
    pub(super) stage: Stage,
    /// A reload removed the topic and another one added it before the group took the partition away.
    pub(super) comes_back: bool,
    pub(super) trust: Trust,
    /// The end of the partition was told while it was suspect.
    pub(super) has_doubtful_end: bool,
    pub(super) pauses: Pauses,
    /// The messages of its last batch are larger than librdkafka counts: full of them, its queue takes much memory.
    pub(super) is_heavy: bool,
    pub(super) last_commit: Instant,
    /// Messages taken in this assignment.
    pub(super) received: u64,
    pub(super) topic: TopicState,
    pub(super) seeking: Seeking,
    pub(super) observed: Observed,
    /// Of the partitions of a consumer, for its messages in flight.
    pub(super) weight: u32,
}

/// The last event that the observers of handlers were to hear of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Observed {
    Assigned,
    /// The partition goes: revoked, or lost.
    Going,
}

/// The seek of a partition.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Seeking {
    /// The epoch ends for the seek, and for nothing else.
    pub(super) released: bool,
    /// The request whose position is being looked up.
    pub(super) asked: Option<u64>,
    pub(super) not_before: Option<Instant>,
}

/// Whether the topic is the one of the group's offsets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum TopicState {
    Known,
    /// It was created again, and the group has no offset of the new one yet.
    Recreated,
    /// It was deleted, and perhaps created again: the partition commits nothing more.
    Deleted,
}

/// Whether the next message of a partition continues at the expected offset.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Sound,
    /// An error came for the partition. librdkafka counts it as the message at its offset, and after a pause continues
    /// behind it.
    Suspect,
    /// A seek was sent: the rest of the batch in hand was taken before it.
    Void,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Stage {
    Active,
    /// No new call starts; running calls finish.
    Releasing,
    /// No call runs any more.
    Drained,
}

impl Drop for Held {
    /// Runs also when the consumer panics: the messages are delivered again, here or to another member.
    fn drop(&mut self) {
        self.epoch.partition.end();
    }
}

impl Held {
    pub(super) fn new(
        epoch: EpochState,
        plan: Arc<Plan>,
        worker: Arc<Mailbox<ToWorker>>,
        stage: Stage,
        now: Instant,
    ) -> Self {
        Self {
            epoch,
            plan,
            worker,
            stage,
            comes_back: false,
            trust: Trust::Sound,
            has_doubtful_end: false,
            pauses: Pauses::default(),
            is_heavy: false,
            last_commit: now,
            received: 0,
            topic: TopicState::Known,
            seeking: Seeking::default(),
            observed: Observed::Assigned,
            weight: 1,
        }
    }

    /// Ends the present epoch and begins another one at this position. A commit that was due at once stays due only
    /// if the listeners commit automatically: a manual listener has not requested it.
    pub(super) fn begin_epoch(
        &mut self,
        partition: Arc<Partition>,
        position: Position,
        takes_metadata: bool,
        now: Instant,
    ) {
        let begin = Begin {
            position,
            committed: None,
            commit_now: self.epoch.commit_now && self.plan.manual.is_empty(),
            is_first_start: false,
            takes_metadata,
        };
        self.epoch = EpochState::new(partition, &self.plan, &begin, now);
    }

    /// Whether the partition has a share of the budget. A drained partition only waits for the group and has none.
    pub(super) fn takes_part(&self) -> bool {
        self.stage != Stage::Drained
    }

    /// Whether this is the present epoch of the partition.
    pub(super) fn is_in(&self, partition: &Partition) -> bool {
        self.epoch.partition.epoch == partition.epoch
    }

    pub(super) fn key(&self) -> PartitionKey {
        self.epoch.partition.key()
    }

    /// Starts no further call; `Drained` arrives when no call runs either.
    pub(super) fn release(&mut self) {
        if self.stage == Stage::Active {
            self.stage = Stage::Releasing;
            let partition = &self.epoch.partition;
            partition.end();
            self.worker.send(ToWorker::Release(partition.clone()));
        }
    }

    pub(super) fn cancel(&self) {
        let partition = self.epoch.partition.clone();
        self.worker.send(ToWorker::Cancel(partition));
    }

    /// The position of the next expected message.
    pub(super) fn goes_on_at(&self) -> TopicPartition {
        let (partition, tracker) = (&self.epoch.partition, &self.epoch.tracker);
        TopicPartition::at(&partition.topic, partition.number, tracker.expected(), -1)
    }
}

pub(super) fn list<'a>(held: impl Iterator<Item = &'a Held>) -> Vec<TopicPartition> {
    held.map(|held| {
        let partition = &held.epoch.partition;
        TopicPartition::new(&partition.topic, partition.number)
    })
    .collect()
}

/// How many partitions `apply_pauses` paused or resumed, and the error of the client if it refused.
#[derive(Default)]
pub(super) struct Applied {
    pub(super) partitions: usize,
    pub(super) error: Option<Error>,
}

/// Pauses and resumes these partitions in the client if their reasons have changed. A partition that is about to be
/// paused may deliver its messages twice afterwards, which its tracker has to know. Afterwards it goes on at the
/// tracker's position: librdkafka's own lies beyond it once the end of the partition was told (see `ends.rs`).
pub(super) fn apply_pauses<'a>(
    client: &Client,
    held: impl Iterator<Item = &'a mut Held>,
) -> Applied {
    let (mut pause, mut resume) = (Vec::new(), Vec::new());
    for held in held {
        match held.pauses.change() {
            None => {}
            Some(true) => {
                held.epoch.tracker.pause();
                pause.push(&*held);
            }
            Some(false) => resume.push(&*held),
        }
    }
    let mut applied = Applied {
        partitions: pause.len() + resume.len(),
        error: None,
    };
    if !pause.is_empty() {
        let at: Vec<_> = pause.iter().map(|held| held.goes_on_at()).collect();
        let paused = client.pause(&list(pause.into_iter()));
        applied.error = paused.and_then(|()| client.seek(&at)).err();
    }
    if !resume.is_empty() {
        let result = client.resume(&list(resume.into_iter()));
        applied.error = applied.error.or(result.err());
    }
    applied
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    /// Active, with the group's offset at 10.
    pub(in super::super) fn held(plan: Plan, now: Instant) -> Held {
        let begin = Begin {
            position: at(10),
            committed: Some(10),
            commit_now: false,
            is_first_start: false,
            takes_metadata: true,
        };
        let partition = Arc::new(Partition::without_brokers(1, "orders"));
        let epoch = EpochState::new(partition, &plan, &begin, now);
        let worker = Arc::new(Mailbox::default());
        Held::new(epoch, Arc::new(plan), worker, Stage::Active, now)
    }

    pub(in super::super) fn plan(manual: &[&str], automatic: &[&str]) -> Plan {
        let names = |names: &[&str]| names.iter().map(|&name| name.into()).collect();
        Plan {
            listeners: vec![0],
            manual: names(manual),
            automatic: names(automatic),
            ..Plan::nobody()
        }
    }

    fn at(offset: i64) -> Position {
        Position {
            offset,
            leader_epoch: -1,
        }
    }

    /// The log goes back to offset 3.
    fn go_back(held: &mut Held, now: Instant) {
        let partition = Arc::new(Partition::without_brokers(2, "orders"));
        held.begin_epoch(partition, at(3), true, now);
    }

    fn take_and_finish(held: &mut Held, offsets: std::ops::Range<i64>) {
        let count = (offsets.end - offsets.start) as u64;
        for offset in offsets {
            held.epoch.tracker.arrive(offset, -1, 1, |_| 0);
        }
        held.epoch.tracker.finish(0..count);
        held.epoch.finished_since_commit += count;
    }

    #[test]
    fn a_new_epoch_counts_towards_the_commit_threshold_from_zero() {
        let now = Instant::now();
        let threshold = Plan {
            commit_threshold: Some(10),
            ..plan(&[], &["a"])
        };
        let mut held = held(threshold, now);
        take_and_finish(&mut held, 10..19);
        assert!(!held.due_now(now, &mut None));
        go_back(&mut held, now);
        take_and_finish(&mut held, 3..4);
        assert!(!held.due_now(now, &mut None), "one message of ten");
    }

    #[test]
    fn a_new_epoch_of_a_manual_listener_commits_nothing_unasked() {
        let now = Instant::now();
        let mut held = held(plan(&["a"], &[]), now);
        // A reload has switched the listener to manual commits.
        held.epoch.commit_now = true;
        go_back(&mut held, now);
        assert!(!held.needs_commit());
    }

    #[test]
    fn a_new_epoch_of_an_automatic_listener_still_owes_the_commit_of_a_chosen_start() {
        let now = Instant::now();
        let mut held = held(plan(&[], &["a"]), now);
        held.epoch.commit_now = true;
        go_back(&mut held, now);
        assert!(held.due_now(now, &mut None));
    }

    #[test]
    fn a_new_epoch_has_told_the_group_nothing_of_what_is_finished_beyond_its_position() {
        let now = Instant::now();
        let by_key = Plan {
            ordering: crate::config::Ordering::Key,
            ..plan(&[], &["a"])
        };
        let mut held = held(by_key, now);
        // The group knows of one message of the old epoch that is finished beyond the position.
        held.epoch.committed_changes = Some(1);
        go_back(&mut held, now);
        for offset in 3..5 {
            held.epoch.tracker.arrive(offset, -1, 1, |number| number);
        }
        held.epoch.committed = Some(3);
        held.epoch.tracker.finish(1..2);
        assert!(held.needs_commit());
    }
}
