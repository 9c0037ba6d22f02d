//! Rebalances, as a state machine in the loop; and the two other ways in which partitions end: a topic that a reload
//! removed, and the end of the consumer.
//!
//! One way for all: nothing starts any more, running calls finish until a deadline, what still waits is cancelled, the
//! positions are committed unless the assignment is lost, and only then the partitions go.

use std::collections::VecDeque;
use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::asker::{Ask, Assigned};
use crate::bundle::Bundle;
use crate::kafka::{Error, Rebalance, TopicPartition};
use crate::offsets::{Position, Tracker};
use crate::partition::{Partition, ToWorker};
use crate::route;
use crate::start::{Policy, Start, Why};
use crate::supervisor::Ending;

use super::{Consumer, Held, LEAVE, Stage, is_over, list};

/// How long the last commit of a revocation may take.
const LAST_COMMIT: Duration = Duration::from_secs(5);
/// Between two questions where the first had no answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

#[derive(Default)]
pub(super) struct Phase {
    queue: VecDeque<Rebalance>,
    doing: Doing,
    retiring: Option<Retiring>,
    asked: u64,
    has_joined: bool,
    close_begun: bool,
}

#[derive(Default)]
enum Doing {
    #[default]
    Steady,
    /// The starts of these partitions are being asked for.
    Assigning {
        id: u64,
        partitions: Vec<Assigned>,
        ask_at: Option<Instant>,
    },
    Revoking(Revoking),
}

struct Revoking {
    partitions: Vec<TopicPartition>,
    /// Not a revocation but a failure: everything goes.
    everything: bool,
    is_lost: bool,
    cancel_at: Instant,
    is_cancelled: bool,
    commit_until: Option<Instant>,
}

/// Topics that a reload removes, until nothing of them runs.
struct Retiring {
    done: mpsc::Sender<()>,
    cancel_at: Instant,
}

impl Phase {
    pub(super) fn queue(&mut self, rebalance: Rebalance) {
        self.queue.push_back(rebalance);
    }

    pub(super) fn is_busy(&self) -> bool {
        !matches!(self.doing, Doing::Steady) || !self.queue.is_empty()
    }

    /// The partitions under revocation are somebody else's: no commit.
    pub(super) fn is_lost(&self) -> bool {
        matches!(&self.doing, Doing::Revoking(revoking) if revoking.is_lost)
    }

    pub(super) fn commits_everything(&self) -> bool {
        matches!(self.doing, Doing::Revoking(_))
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        let retiring = self.retiring.as_ref().map(|retiring| retiring.cancel_at);
        let doing = match &self.doing {
            Doing::Steady => None,
            Doing::Assigning { ask_at, .. } => *ask_at,
            Doing::Revoking(revoking) => revoking
                .commit_until
                .or((!revoking.is_cancelled).then_some(revoking.cancel_at)),
        };
        [retiring, doing].into_iter().flatten().min()
    }

    /// For the status.
    pub(super) fn name(&self, is_closing: bool) -> &'static str {
        match self.doing {
            _ if is_closing => "draining",
            Doing::Assigning { .. } | Doing::Revoking(_) => "rebalancing",
            Doing::Steady if self.has_joined => "assigned",
            Doing::Steady => "joining",
        }
    }
}

impl Consumer {
    /// Goes as far as it can without waiting.
    pub(super) fn progress(&mut self, now: Instant) {
        self.progress_retiring(now);
        loop {
            let moved = match std::mem::take(&mut self.phase.doing) {
                Doing::Steady => self.next_rebalance(now),
                Doing::Assigning {
                    id,
                    partitions,
                    ask_at,
                } => self.keep_asking(id, partitions, ask_at, now),
                Doing::Revoking(revoking) => self.keep_revoking(revoking, now),
            };
            if !moved {
                return;
            }
        }
    }

    fn next_rebalance(&mut self, now: Instant) -> bool {
        match self.phase.queue.pop_front() {
            None => return false,
            Some(Rebalance::Assign(partitions)) => self.begin_assign(&partitions, now),
            Some(Rebalance::Revoke(partitions)) => self.begin_revoke(partitions, None, now),
            Some(Rebalance::Failed(error)) => self.begin_revoke(Vec::new(), Some(&error), now),
        }
        true
    }

    fn begin_assign(&mut self, partitions: &[TopicPartition], now: Instant) {
        self.phase.has_joined = true;
        self.phase.asked += 1;
        let config = &self.bundle.config;
        let partitions = partitions
            .iter()
            .map(|one| {
                let plan = route::plan(config, &self.settings.name, &one.topic);
                Assigned {
                    topic: one.topic.clone(),
                    partition: one.partition,
                    policy: Policy {
                        from_beginning: plan.as_ref().is_some_and(|plan| plan.from_beginning),
                        automatic: plan.as_ref().is_some_and(|plan| plan.manual.is_empty()),
                        is_new_topic: self.topics.is_new(&one.topic),
                    },
                }
            })
            .collect();
        self.phase.doing = Doing::Assigning {
            id: self.phase.asked,
            partitions,
            ask_at: Some(now),
        };
    }

    /// Asks, or asks again; a later rebalance makes the question moot.
    fn keep_asking(
        &mut self,
        id: u64,
        partitions: Vec<Assigned>,
        ask_at: Option<Instant>,
        now: Instant,
    ) -> bool {
        if !self.phase.queue.is_empty() {
            return true;
        }
        let mut ask_at = ask_at;
        if partitions.is_empty() {
            self.assign(Vec::new(), now);
            return true;
        }
        if ask_at.is_some_and(|at| at <= now) {
            ask_at = None;
            self.asker.ask(Ask::Starts {
                id,
                partitions: partitions.clone(),
            });
        }
        self.phase.doing = Doing::Assigning {
            id,
            partitions,
            ask_at,
        };
        false
    }

    /// The answer of the asking thread. While it can't be had, the partitions stay unassigned: a group whose position is
    /// unknown is never taken for one without.
    pub(super) fn starts(
        &mut self,
        id: u64,
        starts: Result<Vec<(Assigned, Start)>, Error>,
        now: Instant,
    ) {
        let Doing::Assigning {
            id: wanted, ask_at, ..
        } = &mut self.phase.doing
        else {
            return;
        };
        if *wanted != id {
            return;
        }
        match starts {
            Ok(starts) => {
                self.phase.doing = Doing::Steady;
                self.assign(starts, now);
            }
            Err(error) => {
                *ask_at = Some(now + ASK_AGAIN);
                self.trouble.note(&self.name, &error, None);
            }
        }
    }

    fn assign(&mut self, starts: Vec<(Assigned, Start)>, now: Instant) {
        let list: Vec<_> = starts
            .iter()
            .map(|(one, start)| {
                TopicPartition::at(&one.topic, one.partition, start.offset, start.leader_epoch)
            })
            .collect();
        self.intake.forget_topics();
        if !self.client.is_cooperative() {
            self.held.clear();
        }
        if let Err(error) = self.client.assign(&list) {
            // The group is told by the next rebalance; until then nothing of it is consumed here.
            self.error(&error, None);
            return;
        }
        for (one, start) in starts {
            self.say_start(&one, start);
            self.hold(&one, start, now);
        }
        self.trouble.over();
        tracing::info!(consumer = &*self.name, partitions = %names(&list), total = self.held.len(), "assigned");
    }

    fn hold(&mut self, one: &Assigned, start: Start, now: Instant) {
        let epoch = self.intake.next_epoch();
        let partition = Arc::new(Partition::new(
            epoch,
            &self.name,
            &one.topic,
            one.partition,
            &self.inbox,
            &self.client,
        ));
        let plan = route::plan(&self.bundle.config, &self.settings.name, &one.topic).map(Arc::new);
        // Of a topic that no listener wants (a reload under way): assigned, so that the group is at peace, and unused.
        let stage = if plan.is_some() {
            Stage::Active
        } else {
            Stage::Drained
        };
        let plan = plan.unwrap_or_else(|| Arc::new(route::Plan::nobody()));
        let position = Position {
            offset: start.offset,
            leader_epoch: start.leader_epoch,
        };
        let held = Held {
            tracker: Tracker::new(position, plan.manual.clone(), plan.automatic),
            worker: self.worker_of(&one.topic, one.partition, plan.concurrency),
            committed: (start.why == Why::Committed).then_some(start.offset),
            last_commit: now,
            finished_since_commit: 0,
            commit_start: start.why != Why::Committed
                && plan.manual.is_empty()
                && stage == Stage::Active,
            is_paused: false,
            full_since: None,
            stage,
            partition,
            plan,
        };
        self.held.insert((one.topic.clone(), one.partition), held);
    }

    fn say_start(&self, one: &Assigned, start: Start) {
        let (consumer, topic, partition, offset) =
            (&*self.name, &*one.topic, one.partition, start.offset);
        match start.why {
            Why::Committed => tracing::debug!(
                consumer,
                topic,
                partition,
                offset,
                "starts at the committed offset"
            ),
            Why::Beginning => tracing::info!(
                consumer,
                topic,
                partition,
                offset,
                "starts at the beginning"
            ),
            Why::Added => {
                tracing::info!(
                    consumer,
                    topic,
                    partition,
                    offset,
                    "starts at the beginning: it is new to the group"
                );
            }
            Why::End { left_out } => {
                tracing::info!(
                    consumer,
                    topic,
                    partition,
                    offset,
                    left_out,
                    "starts at the end"
                );
            }
            Why::BelowLogStart { lost } => tracing::error!(
                consumer,
                topic,
                partition,
                offset,
                lost,
                "the committed offset is older than the log: messages were deleted before they were handled"
            ),
            Why::BeyondLogEnd => tracing::error!(
                consumer,
                topic,
                partition,
                offset,
                "the committed offset lies beyond the log: it was truncated or made anew, messages are repeated"
            ),
        }
    }

    fn begin_revoke(
        &mut self,
        partitions: Vec<TopicPartition>,
        failed: Option<&Error>,
        now: Instant,
    ) {
        let is_lost = failed.is_some() || self.client.is_assignment_lost();
        if let Some(error) = failed {
            self.error(error, None);
        }
        let everything = failed.is_some() || !self.client.is_cooperative();
        let cancel_at = if is_lost { now } else { now + self.drain() };
        let revoking = Revoking {
            partitions,
            everything,
            is_lost,
            cancel_at,
            is_cancelled: false,
            commit_until: None,
        };
        for held in self.held.values_mut().filter(|held| revoking.takes(held)) {
            held.release();
        }
        self.phase.doing = Doing::Revoking(revoking);
    }

    fn keep_revoking(&mut self, mut revoking: Revoking, now: Instant) -> bool {
        let going: Vec<&Held> = self
            .held
            .values()
            .filter(|held| revoking.takes(held))
            .collect();
        if going.iter().any(|held| held.stage != Stage::Drained) {
            if now >= revoking.cancel_at && !revoking.is_cancelled {
                revoking.is_cancelled = true;
                for held in &going {
                    held.cancel();
                }
            }
            self.say_overdue(revoking.cancel_at, now);
            self.phase.doing = Doing::Revoking(revoking);
            return false;
        }
        let commit_until = *revoking.commit_until.get_or_insert(now + LAST_COMMIT);
        let clean = self.commits.is_idle() && !going.iter().any(|held| held.is_dirty());
        if !revoking.is_lost && !clean && now < commit_until {
            self.phase.doing = Doing::Revoking(revoking);
            return false;
        }
        self.unassign(&revoking);
        true
    }

    fn unassign(&mut self, revoking: &Revoking) {
        let gone = list(self.held.values().filter(|held| revoking.takes(held)));
        self.held.retain(|_, held| !revoking.takes(held));
        self.intake.forget_topics();
        let result = if revoking.everything {
            self.client.unassign_all()
        } else {
            self.client.unassign(&revoking.partitions)
        };
        if let Err(error) = result {
            self.error(&error, None);
        }
        tracing::info!(
            consumer = &*self.name,
            partitions = %names(&gone),
            total = self.held.len(),
            lost = revoking.is_lost,
            "revoked"
        );
    }

    /// A call that even the watchdog can't end keeps the partition: the process ends before somebody overtakes it.
    fn say_overdue(&self, cancel_at: Instant, now: Instant) {
        if now > cancel_at + self.settings.rebalance_timeout / 4 {
            let sentence = format!(
                "consumer `{}`: a handler can't be ended, and its partition is wanted",
                self.name
            );
            // The first ending counts.
            let _ = self.endings.send(Ending::Failed(sentence));
        }
    }

    /// How long running calls may take to finish: far below what the group allows.
    fn drain(&self) -> Duration {
        let limits = [
            self.settings.session_timeout / 2,
            self.settings.rebalance_timeout / 2,
        ];
        limits
            .into_iter()
            .fold(self.bundle.config.daemon.drain_deadline, Duration::min)
    }

    /// A reload removes topics: what runs of them finishes with the routes that it began with.
    pub(super) fn retire(&mut self, bundle: &Bundle, done: mpsc::Sender<()>, now: Instant) {
        let (name, config) = (&self.settings.name, &bundle.config);
        for held in self.held.values_mut() {
            if held.stage == Stage::Active
                && route::plan(config, name, &held.partition.topic).is_none()
            {
                held.release();
            }
        }
        let cancel_at = now + self.drain();
        self.phase.retiring = Some(Retiring { done, cancel_at });
    }

    fn progress_retiring(&mut self, now: Instant) {
        let Some(retiring) = &mut self.phase.retiring else {
            return;
        };
        let mut releasing = self
            .held
            .values()
            .filter(|held| held.stage == Stage::Releasing)
            .peekable();
        if releasing.peek().is_none() {
            // The daemon may have given up on it.
            let _ = retiring.done.send(());
            self.phase.retiring = None;
        } else if now >= retiring.cancel_at {
            releasing.for_each(Held::cancel);
            retiring.cancel_at = now + self.settings.session_timeout;
        }
    }

    /// Another bundle is in force in every worker.
    pub(super) fn reload(&mut self, bundle: Arc<Bundle>, now: Instant) {
        self.bundle = bundle;
        let mut again = Vec::new();
        for (key, held) in &mut self.held {
            let Some(plan) = route::plan(&self.bundle.config, &self.settings.name, &key.0) else {
                continue;
            };
            held.tracker
                .set_listeners(plan.manual.clone(), plan.automatic);
            held.plan = Arc::new(plan);
            if held.stage == Stage::Drained {
                again.push(key.clone());
            }
        }
        if !again.is_empty() && self.closing.is_none() && !self.phase.is_busy() {
            self.restart(&again, now);
        }
        self.topics.reload(&self.bundle.config, &self.settings.name);
    }

    /// Topics that come back before the group took them away: they go on at their position.
    fn restart(&mut self, keys: &[(Arc<str>, i32)], now: Instant) {
        for key in keys {
            let Some(held) = self.held.remove(key) else {
                continue;
            };
            let Position {
                offset,
                leader_epoch,
            } = held.tracker.finished();
            let one = Assigned {
                topic: key.0.clone(),
                partition: key.1,
                policy: Policy {
                    from_beginning: false,
                    automatic: held.plan.manual.is_empty(),
                    is_new_topic: false,
                },
            };
            self.hold(
                &one,
                Start {
                    offset,
                    leader_epoch,
                    why: Why::Committed,
                },
                now,
            );
            if let Some(new) = self.held.get_mut(key) {
                new.committed = held.committed;
            }
        }
        let all: Vec<_> = self.held.values().map(Held::goes_on_at).collect();
        let these: Vec<_> = keys
            .iter()
            .filter_map(|key| self.held.get(key))
            .map(Held::goes_on_at)
            .collect();
        if let Err(error) = self.client.restart(&these, &all) {
            self.error(&error, None);
        }
    }

    pub(super) fn begin_close(&mut self, deadline: Instant, now: Instant) {
        self.closing = Some(deadline.max(now));
        self.held.values_mut().for_each(Held::release);
    }

    /// Whether the consumer has drained, committed and left, or run out of time.
    pub(super) fn is_closed(&mut self, now: Instant, deadline: Instant) -> bool {
        if self.phase.close_begun {
            return is_over(self.client.closing()) || now >= deadline + LAST_COMMIT + LEAVE;
        }
        let drained = self.held.values().all(|held| held.stage == Stage::Drained);
        if !drained && now >= deadline {
            self.held
                .values()
                .filter(|held| held.stage == Stage::Releasing)
                .for_each(Held::cancel);
        }
        let clean = self.commits.is_idle() && !self.held.values().any(Held::is_dirty);
        let waits_for_commit = !clean && now < deadline + LAST_COMMIT && self.trouble.is_none();
        if (drained && !waits_for_commit) || now >= deadline + LAST_COMMIT {
            self.phase.close_begun = true;
            if let Err(error) = self.client.close() {
                tracing::warn!(consumer = &*self.name, %error, "not closed in order");
                return true;
            }
        }
        false
    }

    /// The end: nothing of ours may be held by a worker now, or the client stays until the process ends.
    pub(super) fn leave(self) {
        tracing::info!(consumer = &*self.name, "left the group");
    }
}

impl Revoking {
    fn takes(&self, held: &Held) -> bool {
        let is = |one: &TopicPartition| {
            one.partition == held.partition.number && one.topic == held.partition.topic
        };
        self.everything || self.partitions.iter().any(is)
    }
}

impl Held {
    /// Nothing starts any more; `Drained` comes when nothing runs either.
    fn release(&mut self) {
        if self.stage == Stage::Active {
            self.stage = Stage::Releasing;
            self.partition.end();
            self.worker.send(ToWorker::Release(self.partition.clone()));
        }
    }

    fn cancel(&self) {
        self.worker.send(ToWorker::Cancel(self.partition.clone()));
    }

    fn goes_on_at(&self) -> TopicPartition {
        let (topic, partition) = (&self.partition.topic, self.partition.number);
        TopicPartition::at(topic, partition, self.tracker.expected(), -1)
    }
}

/// `orders-0, orders-1`, for the log.
fn names(partitions: &[TopicPartition]) -> String {
    let mut names: Vec<_> = partitions
        .iter()
        .map(|one| format!("{}-{}", one.topic, one.partition))
        .collect();
    names.sort();
    names.join(", ")
}
