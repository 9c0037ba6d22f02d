//! Rebalances, as a state machine in the loop; the callback only records them.
//!
//! The steps of a revocation: 1. no new call starts; 2. running calls finish until a deadline; 3. calls that still
//! wait are cancelled; 4. the positions are committed, unless the assignment is lost; 5. the partitions are
//! unassigned.

use std::time::{Duration, Instant};

use crate::assignment::{Assigned, Repeats};
use crate::consumer::lookups::Lookup;
use crate::failpoint::failpoint;
use crate::kafka::{Error, Rebalance, TopicPartition};
use crate::log::log;
use crate::rules::route;
use crate::rules::start_offset::Policy;
use crate::threads::supervisor::Ending;

use super::Consumer;
use super::drain::{Drain, State, Step};
use super::held::{Held, Stage, list};
use super::phase::{Doing, Goes, Revoking};
use super::superseded;
use super::trouble::Subject;

impl Consumer {
    /// Takes every step that is possible without waiting.
    pub(super) fn progress(&mut self, now: Instant) {
        self.drain_without_worker();
        self.look_at_observers(now);
        self.progress_retiring(now);
        self.bring_back(now);
        self.progress_seeks(now);
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

    /// If a worker has ended, no call of its partitions runs: the messages that it reported as finished can be
    /// committed.
    fn drain_without_worker(&mut self) {
        for held in self.held.values_mut() {
            if held.stage == Stage::Releasing && held.worker.is_closed() {
                held.stage = Stage::Drained;
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
        self.phase.joins_again = false;
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
                    repeats: Repeats::NotKnown,
                }
            })
            .collect();
        self.phase.doing = Doing::Assigning {
            id: self.phase.asked,
            partitions,
            ask_at: Some(now),
        };
    }

    /// Looks up the starts, or repeats the lookup; a later rebalance changes the partitions to look up.
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
        if partitions.is_empty() || self.phase.is_closing() {
            // A closing consumer begins nothing new; the empty assignment is the answer to the group.
            self.assign(Vec::new(), now);
            return true;
        }
        if ask_at.is_some_and(|at| at <= now) {
            ask_at = None;
            self.lookups.ask(Lookup::Starts {
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
        // A deleted topic is one of the reasons.
        self.watch.hurry(now);
        if let Some(error) = failed {
            self.error(error, Subject::Group);
        }
        self.expect_repeats();
        if is_lost {
            self.counts.lost += 1;
        } else {
            self.counts.revoked += 1;
        }
        let goes = if failed.is_some() || !self.client.is_cooperative() {
            Goes::Everything
        } else {
            Goes::These(partitions)
        };
        let ends_at = now + self.drain_time();
        let drain = if is_lost {
            Drain::new(now).without_commit()
        } else {
            Drain::new(ends_at)
        };
        self.revoke(
            Revoking {
                goes,
                is_lost,
                is_replaced: false,
                drain: drain.overdue_after(self.overdue_time()),
            },
            now,
            ends_at,
        );
        failpoint!("revoke-begun");
    }

    /// An eager group revokes before it assigns, except in one case: 1. an assignment arrives, and the consumer looks
    /// up its starts; 2. meanwhile the group rebalances, and librdkafka rejoins without revoking the assignment that
    /// has not begun; 3. the consumer begins it; 4. the next assignment arrives. The present partitions then belong
    /// to an ended generation, and other members may own them: nothing of them is committed.
    fn begin_replace(&mut self, now: Instant) {
        self.revoke(
            Revoking {
                goes: Goes::Everything,
                is_lost: true,
                is_replaced: true,
                drain: Drain::new(now)
                    .without_commit()
                    .overdue_after(self.overdue_time()),
            },
            now,
            now,
        );
    }

    /// Observers may run until `ends_at`.
    fn revoke(&mut self, revoking: Revoking, now: Instant, ends_at: Instant) {
        let goes = |one: &Assigned| revoking.goes.has(&one.topic, one.partition);
        self.phase.late.retain(|one| !goes(one));
        if !revoking.is_lost {
            self.observe_revoked(|held| revoking.goes.takes(held), now, ends_at);
        }
        for held in self
            .held
            .values_mut()
            .filter(|held| revoking.goes.takes(held))
        {
            held.release();
        }
        if revoking.is_lost {
            self.lose_where(|held| revoking.goes.takes(held), now);
            self.observe_lost(|held| revoking.goes.takes(held), now);
        }
        self.phase.doing = Doing::Revoking(revoking);
    }

    /// librdkafka pauses every partition during a rebalance.
    fn expect_repeats(&mut self) {
        for held in self.held.values_mut() {
            held.epoch.tracker.pause();
        }
    }

    fn keep_revoking(&mut self, mut revoking: Revoking, now: Instant) -> bool {
        let Revoking { goes, drain, .. } = &mut revoking;
        if !self.go_on_draining(drain, |held| goes.takes(held), now) {
            self.phase.doing = Doing::Revoking(revoking);
            return false;
        }
        self.say_given_up(|held| revoking.goes.takes(held), now);
        self.unassign(&revoking);
        true
    }

    fn unassign(&mut self, revoking: &Revoking) {
        failpoint!("before-unassign");
        let gone = list(self.held.values().filter(|held| revoking.goes.takes(held)));
        for one in &gone {
            self.say_unsought(&one.topic, one.partition);
        }
        self.lose_where(|held| revoking.goes.takes(held), Instant::now());
        self.held.retain(|_, held| !revoking.goes.takes(held));
        self.weigh();
        // After the loss of everything, the consumer joins the group anew; after a partial revocation it stays a
        // member.
        self.phase.has_joined &= !(revoking.is_lost || matches!(revoking.goes, Goes::Everything));
        self.intake.forget_topics();
        let result = match revoking.goes {
            _ if revoking.is_replaced => Ok(()),
            Goes::Everything => self.client.unassign_all(),
            Goes::These(_) => self.client.unassign(&gone),
        };
        if let Err(error) = result {
            self.error(&error, Subject::Group);
        }
        log!(info, consumer,
            consumer = &*self.name,
            partitions = %names(&gone),
            total = self.held.len(),
            lost = revoking.is_lost,
            "revoked"
        );
    }

    /// Takes every step of a drain that is due now. Returns whether the partitions that leave are drained and
    /// committed.
    pub(super) fn go_on_draining(
        &self,
        drain: &mut Drain,
        goes: impl Fn(&Held) -> bool,
        now: Instant,
    ) -> bool {
        let going = || self.held.values().filter(|held| goes(held));
        let is_drained =
            going().all(|held| held.stage == Stage::Drained) && self.observations.are_over(now);
        let state = State {
            is_drained,
            is_committed: is_drained
                && self.commits.is_idle()
                && !going().any(|held| self.owes(held)),
        };
        loop {
            match drain.step(state, now) {
                Step::Cancel => {
                    let run = going().filter(|held| held.stage == Stage::Releasing);
                    run.for_each(Held::cancel);
                }
                Step::Overdue => {
                    self.say_overdue();
                    return false;
                }
                Step::Wait => return false,
                Step::Done => return true,
            }
        }
    }

    /// A call that even the watchdog cannot end keeps the partition. The process ends before another member runs its
    /// messages.
    fn say_overdue(&self) {
        let sentence = format!(
            "consumer `{}`: a handler cannot be ended, and its partition must be released",
            self.name
        );
        // The first ending counts.
        let _ = self.endings.send(Ending::Failed(sentence));
    }

    /// How long after its cancel a call may keep a revoked partition.
    fn overdue_time(&self) -> Duration {
        self.settings.rebalance_timeout / 4
    }

    /// How long running calls may take to finish: far below the group's limit.
    pub(super) fn drain_time(&self) -> Duration {
        let limits = [
            self.settings.session_timeout / 2,
            self.settings.rebalance_timeout / 2,
        ];
        limits
            .into_iter()
            .fold(self.bundle.config.daemon.drain_deadline, Duration::min)
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
