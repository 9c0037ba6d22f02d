//! Rebalances, as a state machine in the loop: the callback only recorded them.
//!
//! Revocation: nothing starts any more, running calls finish until a deadline, what still waits is cancelled, the
//! positions are committed unless the assignment is lost, and only then the partitions go.

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::Assigned;
use crate::assignment::ToWorker;
use crate::consumer::lookups::Ask;
use crate::failpoint::failpoint;
use crate::kafka::{Error, Rebalance, TopicPartition};
use crate::log::log;
use crate::rules::route;
use crate::rules::start_offset::Policy;
use crate::threads::supervisor::Ending;

use super::phase::{Doing, LAST_COMMIT, Revoking};
use super::superseded;
use super::{Consumer, Held, Stage, list};

impl Consumer {
    /// Goes as far as it can without waiting.
    pub(super) fn progress(&mut self, now: Instant) {
        self.progress_retiring(now);
        self.bring_back(now);
        self.ask_late(now);
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
            Some(Rebalance::Assign(partitions)) => {
                if self.held.is_empty() || self.client.is_cooperative() {
                    self.begin_assign(&partitions, now);
                } else {
                    self.phase.queue.push_front(Rebalance::Assign(partitions));
                    self.begin_replace(now);
                }
            }
            Some(Rebalance::Revoke(partitions)) => self.begin_revoke(partitions, None, now),
            Some(Rebalance::Failed(error)) => self.begin_revoke(Vec::new(), Some(&error), now),
        }
        true
    }

    fn begin_assign(&mut self, partitions: &[TopicPartition], now: Instant) {
        self.phase.has_joined = true;
        self.counts.assigned += 1;
        self.expect_repeats();
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
                    listeners: plan.map_or(0, |plan| plan.listeners_hash),
                }
            })
            .collect();
        self.phase.doing = Doing::Assigning {
            id: self.phase.asked,
            partitions,
            ask_at: Some(now),
        };
    }

    /// Asks, or asks again; a later rebalance makes the question another one.
    fn keep_asking(
        &mut self,
        id: u64,
        partitions: Vec<Assigned>,
        ask_at: Option<Instant>,
        now: Instant,
    ) -> bool {
        if !self.phase.queue.is_empty() {
            if self.client.is_cooperative() {
                superseded::carry_over(&partitions, &mut self.phase.queue);
            }
            return true;
        }
        let mut ask_at = ask_at;
        if partitions.is_empty() || self.closing.is_some() {
            // Nothing new is begun while we leave, and the group has its answer.
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
        self.expect_repeats();
        if is_lost {
            self.counts.lost += 1;
        } else {
            self.counts.revoked += 1;
        }
        let everything = failed.is_some() || !self.client.is_cooperative();
        let cancel_at = if is_lost { now } else { now + self.drain() };
        self.revoke(Revoking {
            partitions,
            everything,
            is_lost,
            is_replaced: false,
            cancel_at,
            is_cancelled: false,
            commit_until: None,
        });
        failpoint!("revoke-begun");
    }

    /// An eager group revokes before it assigns, except in one case: 1. an assignment comes, and we ask for its starts;
    /// 2. meanwhile the group rebalances, and librdkafka rejoins without revoking what was not begun yet; 3. we begin
    /// it; 4. the next assignment comes. What we hold then was assigned by a generation that is over, and others may
    /// have it: nothing of it is committed.
    fn begin_replace(&mut self, now: Instant) {
        self.revoke(Revoking {
            partitions: Vec::new(),
            everything: true,
            is_lost: true,
            is_replaced: true,
            cancel_at: now,
            is_cancelled: false,
            commit_until: None,
        });
    }

    fn revoke(&mut self, revoking: Revoking) {
        let goes = |one: &Assigned| revoking.names(&one.topic, one.partition);
        self.phase.late.retain(|one| !goes(one));
        for held in self.held.values_mut().filter(|held| revoking.takes(held)) {
            held.release();
        }
        self.phase.doing = Doing::Revoking(revoking);
    }

    /// librdkafka pauses every partition during a rebalance.
    fn expect_repeats(&mut self) {
        for held in self.held.values_mut() {
            held.tracker.pause();
        }
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
        self.say_given_up(|held| revoking.takes(held), now);
        self.unassign(&revoking);
        true
    }

    fn unassign(&mut self, revoking: &Revoking) {
        failpoint!("before-unassign");
        let gone = list(self.held.values().filter(|held| revoking.takes(held)));
        self.held.retain(|_, held| !revoking.takes(held));
        // Given up as a whole, the group is joined anew; a share of it that goes leaves a member.
        self.phase.has_joined &= !(revoking.is_lost || revoking.everything);
        self.intake.forget_topics();
        let result = if revoking.is_replaced {
            Ok(())
        } else if revoking.everything {
            self.client.unassign_all()
        } else {
            self.client.unassign(&gone)
        };
        if let Err(error) = result {
            self.error(&error, None);
        }
        log!(info, consumer,
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
    pub(super) fn drain(&self) -> Duration {
        let limits = [
            self.settings.session_timeout / 2,
            self.settings.rebalance_timeout / 2,
        ];
        limits
            .into_iter()
            .fold(self.bundle.config.daemon.drain_deadline, Duration::min)
    }
}

impl Revoking {
    fn takes(&self, held: &Held) -> bool {
        self.names(&held.partition.topic, held.partition.number)
    }

    fn names(&self, topic: &str, number: i32) -> bool {
        let is = |one: &TopicPartition| one.partition == number && *one.topic == *topic;
        self.everything || self.partitions.iter().any(is)
    }
}

impl Held {
    /// Nothing starts any more; `Drained` comes when nothing runs either.
    pub(super) fn release(&mut self) {
        if self.stage == Stage::Active {
            self.stage = Stage::Releasing;
            self.partition.end();
            self.worker.send(ToWorker::Release(self.partition.clone()));
        }
    }

    pub(super) fn key(&self) -> (Arc<str>, i32) {
        (self.partition.topic.clone(), self.partition.number)
    }

    pub(super) fn cancel(&self) {
        self.worker.send(ToWorker::Cancel(self.partition.clone()));
    }

    /// Nothing comes from it now.
    pub(super) fn is_quiet(&self) -> bool {
        self.is_paused || self.asleep_until.is_some()
    }

    /// Where the next message is expected.
    pub(super) fn goes_on_at(&self) -> TopicPartition {
        let (topic, partition) = (&self.partition.topic, self.partition.number);
        TopicPartition::at(topic, partition, self.tracker.expected(), -1)
    }
}

/// `orders[0], orders[1]`, for the log.
pub(super) fn names(partitions: &[TopicPartition]) -> String {
    let mut names: Vec<_> = partitions
        .iter()
        .map(|one| format!("{}[{}]", one.topic, one.partition))
        .collect();
    names.sort();
    names.join(", ")
}
