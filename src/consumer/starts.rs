//! Starts of partitions: looked up first, then begun. **A group whose position is unknown is never taken for a group
//! without a position.** A partition whose lookup fails (it has no leader) does not keep the others waiting.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::{Assigned, Found, PartitionKey, Repeats, Starts};
use crate::config::Config;
use crate::consumer::lookups::Lookup;
use crate::failpoint::failpoint;
use crate::kafka::{Error, TopicPartition};
use crate::log::log;
use crate::rules::commit_metadata::Finished;
use crate::rules::offsets::Position;
use crate::rules::route;
use crate::rules::start_offset::{Start, Why};

use super::Consumer;
use super::epoch::{Begin, EpochState};
use super::held::{Held, Stage, TopicState};
use super::membership::names;
use super::phase::Doing;
use super::trouble::Subject;

/// The pause before the lookup is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Consumer {
    /// The answer of the lookup thread. Without it the partitions stay unassigned: a group whose position is unknown
    /// is never taken for a group without a position.
    pub(super) fn starts(&mut self, id: u64, starts: Result<Starts, Error>, now: Instant) {
        if self.phase.asked_late == Some(id) {
            return self.late_starts(starts, now);
        }
        let is_closing = self.phase.is_closing();
        let Doing::Assigning {
            id: wanted, ask_at, ..
        } = &mut self.phase.doing
        else {
            return;
        };
        if *wanted != id || is_closing {
            // A closing consumer begins nothing, and answers the assignment with an empty one.
            return;
        }
        if self.phase.resting.is_some() {
            // What begins now would begin with the listeners of before.
            *ask_at = Some(now + ASK_AGAIN);
            return;
        }
        match starts {
            Ok(starts) if !starts.recreated.is_empty() => self.begin_again(&starts.recreated, now),
            Ok(starts) => {
                self.phase.doing = Doing::Steady;
                if !self.client.is_cooperative() {
                    self.phase.late.clear();
                }
                self.assign(starts.found, now);
                self.wait_for(starts.open, now);
            }
            Err(error) => {
                *ask_at = Some(now + ASK_AGAIN);
                self.trouble.note(&self.name, &error, Subject::Lookups, now);
            }
        }
    }

    fn wait_for(&mut self, open: Vec<(Assigned, Error)>, now: Instant) {
        for (mut one, error) in open {
            let place = Subject::Partition(one.key());
            if error.is_inconsistent() {
                one.repeats = Repeats::Held;
                if self.trouble.of_partition(one.key()).is_none() {
                    let (topic, partition) = (&*one.topic, one.partition);
                    log!(error, consumer, consumer = &*self.name, topic, partition, %error, "the partition is held");
                }
                self.trouble.keep(&error, place, now);
            } else {
                self.trouble.note(&self.name, &error, place, now);
            }
            self.phase.late.push(one);
        }
        self.phase.ask_late_at = (!self.phase.late.is_empty()).then_some(now + ASK_AGAIN);
    }

    /// An operator accepts that messages of a held partition run again. `None`: the partition is not here.
    pub(super) fn accept_repeats(
        &mut self,
        topic: &str,
        partition: i32,
        now: Instant,
    ) -> Option<Result<String, String>> {
        let place = format!("{topic}[{partition}]");
        let mut late = self.phase.late.iter_mut();
        let late = late.find(|one| *one.topic == *topic && one.partition == partition);
        if let Some(one) = late.filter(|one| one.repeats != Repeats::NotKnown) {
            one.repeats = Repeats::Accepted;
            self.phase.ask_late_at = Some(now);
            return Some(Ok(format!(
                "partition {place} goes on: the messages that are finished beyond its position run again"
            )));
        }
        let is_here = |key: &PartitionKey| *key.topic == *topic && key.number == partition;
        let is_here =
            self.held.keys().any(is_here) || self.phase.late.iter().any(|one| is_here(&one.key()));
        is_here.then(|| {
            Err(format!(
                "partition {place} is not held: no message beyond its position is finished for listeners of other names"
            ))
        })
    }

    /// Repeats the lookup for the partitions that could not start with the others.
    pub(super) fn ask_late(&mut self, now: Instant) {
        let is_due = self.phase.ask_late_at.is_some_and(|at| at <= now);
        if is_due && !self.phase.is_busy() && !self.phase.is_closing() {
            self.phase.ask_late_at = None;
            self.phase.asked += 1;
            let id = self.phase.asked;
            self.phase.asked_late = Some(id);
            let partitions = self.phase.late.clone();
            self.lookups.ask(Lookup::Starts { id, partitions });
        }
    }

    fn late_starts(&mut self, starts: Result<Starts, Error>, now: Instant) {
        self.phase.asked_late = None;
        let mut starts = match starts {
            Ok(starts) if !starts.recreated.is_empty() && !self.phase.is_closing() => {
                return self.begin_again(&starts.recreated, now);
            }
            Ok(starts)
                if !self.phase.is_busy()
                    && !self.phase.is_closing()
                    && self.phase.resting.is_none() =>
            {
                starts
            }
            _ if self.phase.is_closing() => return,
            _ => {
                self.phase.ask_late_at = Some(now + ASK_AGAIN);
                return;
            }
        };
        // A rebalance meanwhile may have revoked some of them.
        let late = std::mem::take(&mut self.phase.late);
        let accepted = late.iter().filter(|one| one.repeats == Repeats::Accepted);
        let accepted: Vec<_> = accepted.map(Assigned::key).collect();
        let is_ours = |one: &Assigned| {
            let same =
                |other: &Assigned| (&other.topic, other.partition) == (&one.topic, one.partition);
            late.iter().any(same)
        };
        starts.found.retain(|one| is_ours(&one.assigned));
        starts.open.retain(|(one, _)| is_ours(one));
        // An operator may have accepted it while the lookup ran.
        let of_accepted = starts
            .open
            .extract_if(.., |(one, _)| accepted.contains(&one.key()));
        for (one, _) in of_accepted {
            let repeats = Repeats::Accepted;
            self.phase.late.push(Assigned { repeats, ..one });
        }
        if !starts.found.is_empty() {
            self.assign(starts.found, now);
        }
        self.wait_for(starts.open, now);
    }

    /// Begins these partitions. Under an eager protocol, which assigns the whole set, running partitions keep their
    /// position.
    pub(super) fn assign(&mut self, starts: Vec<Found>, now: Instant) {
        let begun: Vec<_> = starts
            .iter()
            .map(|found| {
                let (one, start) = (&found.assigned, found.start);
                TopicPartition::at(&one.topic, one.partition, start.offset, start.leader_epoch)
            })
            .collect();
        let mut list = begun.clone();
        if !self.client.is_cooperative() {
            list.extend(self.held.values().map(Held::goes_on_at));
            for held in self.held.values_mut() {
                held.pauses.assigned_again();
            }
        }
        self.intake.forget_topics();
        if let Err(error) = self.client.assign(&list) {
            // The next rebalance tells the group; until then this consumer takes nothing of the partition.
            self.error(&error, Subject::Group);
            return;
        }
        let keys: Vec<_> = starts.iter().map(|found| found.assigned.key()).collect();
        for found in starts {
            let (one, start) = (found.assigned, found.start);
            self.say_start(&one, start);
            self.topics.has(&one.topic);
            self.trouble.over(&Subject::Partition(one.key()));
            self.hold(&one.key(), start, now);
            if one.repeats == Repeats::Accepted
                && let Some(held) = self.held.get_mut(&one.key())
            {
                // So that the next owner does not hold it again.
                held.epoch.rewrites_metadata = true;
            }
            if let Some(finished) = found.finished {
                self.seed(&one, finished);
            }
        }
        for place in [Subject::Group, Subject::Commits, Subject::Lookups] {
            self.trouble.over(&place);
        }
        log!(info, consumer, consumer = &*self.name, partitions = %names(&begun), total = self.held.len(), "assigned");
        self.weigh();
        self.observe_assigned(&keys, now);
        failpoint!("assigned");
    }

    /// Seeds the tracker with the messages that the group's metadata lists as finished beyond the position.
    fn seed(&mut self, one: &Assigned, finished: Finished) {
        if let Some(held) = self.held.get_mut(&one.key()) {
            log!(
                info,
                consumer,
                consumer = &*self.name,
                topic = &*one.topic,
                partition = one.partition,
                offset = held.epoch.tracker.finished().offset,
                ranges = finished.ranges.len(),
                "messages beyond the committed offset are finished already"
            );
            if let Some(last) = finished.ranges.last() {
                held.epoch.partition.set_left_below(last.end);
            }
            held.epoch.tracker.seed(finished);
            let changes = held.epoch.tracker.changes();
            held.epoch.committed_changes = held.epoch.committed_changes.and(Some(changes));
        }
    }

    pub(super) fn hold(&mut self, key: &PartitionKey, start: Start, now: Instant) {
        let partition = self.new_epoch(&key.topic, key.number);
        let plan = route::plan(self.coming(), &self.settings.name, &key.topic).map(Arc::new);
        // No listener takes the topic (during a reload): the partition is assigned to satisfy the group, and unused.
        let stage = if plan.is_some() {
            Stage::Active
        } else {
            Stage::Drained
        };
        let plan = plan.unwrap_or_else(|| Arc::new(route::Plan::nobody()));
        let is_committed = start.why == Why::Committed;
        let begin = Begin {
            position: Position {
                offset: start.offset,
                leader_epoch: start.leader_epoch,
            },
            committed: is_committed.then_some(start.offset),
            commit_now: !is_committed && plan.manual.is_empty() && stage == Stage::Active,
            is_first_start: start.why.is_of_new_group(),
            takes_metadata: self.commits.takes_metadata(),
        };
        let epoch = EpochState::new(partition, &plan, &begin, now);
        let worker = self.worker_of(&key.topic, key.number, plan.concurrency());
        let mut held = Held::new(epoch, plan, worker, stage, now);
        if matches!(start.why, Why::Recreated { .. }) {
            held.topic = TopicState::Recreated;
        }
        self.held.insert(key.clone(), held);
    }

    /// During a reload a topic counts only if both bundles have it; the later bundle is the stricter one.
    fn coming(&self) -> &Config {
        let coming = self.phase.retired.as_ref().unwrap_or(&self.bundle);
        &coming.config
    }

    fn say_start(&mut self, one: &Assigned, start: Start) {
        let (consumer, topic, partition, offset) =
            (&*self.name, &*one.topic, one.partition, start.offset);
        match start.why {
            Why::Committed => log!(
                debug,
                consumer,
                consumer,
                topic,
                partition,
                offset,
                "starts at the committed offset"
            ),
            Why::Beginning => log!(
                info,
                consumer,
                consumer,
                topic,
                partition,
                offset,
                "starts at the beginning"
            ),
            Why::Added => {
                log!(
                    info,
                    consumer,
                    consumer,
                    topic,
                    partition,
                    offset,
                    "starts at the beginning: the partition is newer than the group"
                );
            }
            Why::End { left_out } => {
                log!(
                    info,
                    consumer,
                    consumer,
                    topic,
                    partition,
                    offset,
                    left_out,
                    "starts at the end"
                );
            }
            why => self.say_error_of_start(one, offset, why),
        }
    }

    /// Messages were lost, or come again.
    fn say_error_of_start(&mut self, one: &Assigned, offset: i64, why: Why) {
        let (consumer, topic, partition) = (&*self.name, &*one.topic, one.partition);
        match why {
            Why::Recreated { committed } => {
                self.counts.partitions_recreated += 1;
                log!(
                    error,
                    consumer,
                    consumer,
                    topic,
                    partition,
                    offset,
                    committed,
                    "starts at the beginning, because its topic was deleted and created again; the offset of the group \
                     may belong to the old topic"
                );
            }
            Why::BelowLogStart { lost } => {
                self.counts.messages_lost += lost.unsigned_abs();
                log!(
                    error,
                    consumer,
                    consumer,
                    topic,
                    partition,
                    offset,
                    lost,
                    "the committed offset is older than the log: messages were deleted before they were handled"
                );
            }
            Why::BeyondLogEnd => log!(
                error,
                consumer,
                consumer,
                topic,
                partition,
                offset,
                "the committed offset lies beyond the log: the log was truncated or created again, and messages are \
                 repeated"
            ),
            Why::Committed | Why::Beginning | Why::Added | Why::End { .. } | Why::Sought => {}
        }
    }
}
