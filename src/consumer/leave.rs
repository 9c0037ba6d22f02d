//! The end of partitions without a rebalance: a topic that a reload removes (and may bring back), and the end of the
//! consumer. The steps are the same: no new call starts, running calls finish, positions are committed.

use std::sync::{Arc, mpsc};
use std::time::{Duration, Instant};

use crate::assignment::ToTopics;
use crate::bundle::Bundle;
use crate::failpoint::failpoint;
use crate::kafka::Closing;
use crate::log::log;
use crate::rules::offsets::Position;
use crate::rules::route;
use crate::rules::start_offset::{Start, Why};
use crate::telemetry::status::Pause;
use crate::threads::supervisor::Ending;

use super::connections::Connections;
use super::drain::{Drain, LAST_COMMIT};
use super::held::{Held, Observed, Stage, TopicState, apply_pauses};
use super::pauses::Pauses;
use super::phase::{Leaving, Phase, Retiring};
use super::topic_watch::TopicWatch;
use super::trouble::Subject;
use super::{Consumer, TURN, bell, connect};

/// How long leaving the group may take.
const LEAVE: Duration = Duration::from_secs(5);
/// How long messages from workers are still read after the consumer left the group. No handler waits for them, and
/// their Kafka messages are handled again.
const LAST_LETTERS: Duration = Duration::from_millis(500);

impl Consumer {
    /// A reload removes topics: their running calls finish with the routes that they began with.
    pub(super) fn retire(&mut self, bundle: Arc<Bundle>, done: mpsc::Sender<()>, now: Instant) {
        let (name, config) = (self.settings.name.clone(), &bundle.config);
        let is_retired =
            |held: &Held| route::plan(config, &name, &held.epoch.partition.topic).is_none();
        let ends_at = now + self.drain_time();
        self.observe_revoked(is_retired, now, ends_at);
        for held in self.held.values_mut() {
            if held.stage == Stage::Active && is_retired(held) {
                held.release();
            }
        }
        self.phase.retired = Some(bundle);
        self.begin_retiring(done, now);
    }

    fn begin_retiring(&mut self, done: mpsc::Sender<()>, now: Instant) {
        let drain = Drain::new(now + self.drain_time())
            .without_commit()
            .cancels_again(self.settings.session_timeout);
        self.phase.retiring = Some(Retiring { done, drain });
    }

    pub(super) fn progress_retiring(&mut self, now: Instant) {
        let Some(mut retiring) = self.phase.retiring.take() else {
            return;
        };
        if self.go_on_draining(&mut retiring.drain, |held| held.stage != Stage::Active, now) {
            // The daemon may have stopped waiting.
            let _ = retiring.done.send(());
        } else {
            self.phase.retiring = Some(retiring);
        }
    }

    /// Another bundle is in force in every worker.
    pub(super) fn reload(&mut self, bundle: Arc<Bundle>, now: Instant) {
        self.bundle = bundle;
        for (key, held) in &mut self.held {
            if let Some(plan) = route::plan(&self.bundle.config, &self.settings.name, &key.topic) {
                if plan.orders_otherwise(&held.plan) {
                    // Lanes of two orderings never mix: running calls finish, then a new epoch continues.
                    held.release();
                }
                // After the reload no handler may request this commit any more.
                held.epoch.commit_now |= held.epoch.tracker.is_automatic() && held.position_moved();
                held.epoch
                    .tracker
                    .set_listeners(plan.manual.clone(), plan.automatic.clone());
                // Waiters whose request came before the bundle wait for an answer now.
                let mut waiters = self.commits.waiters.iter();
                held.epoch.unsent.awaited |= waiters.any(|one| one.is_of(&held.epoch.partition));
                // After a restart the metadata counts only for the same listeners.
                held.epoch.rewrites_metadata |= plan.listeners_hash != held.plan.listeners_hash;
                if plan.delay != held.plan.delay {
                    held.pauses.look_again_at(now);
                }
                held.plan = Arc::new(plan);
                held.comes_back = held.stage != Stage::Active;
            }
        }
        self.end_rest();
        self.weigh();
        self.phase.retired = None;
        self.topics.reload(&self.bundle.config, &self.settings.name);
        // Topics that patterns match already may need other topics now.
        self.needed.send(ToTopics::Matched {
            consumer: self.name.clone(),
            topics: self.topics.subscribed().to_vec(),
        });
        self.end_in_time(now);
    }

    /// Released partitions finish until a deadline, as if their topic had been removed.
    pub(super) fn end_in_time(&mut self, now: Instant) {
        let is_releasing = |held: &Held| held.stage == Stage::Releasing;
        if self.phase.retiring.is_none()
            && !self.phase.is_closing()
            && self.held.values().any(is_releasing)
        {
            // The receiver is not used.
            let (done, _) = mpsc::channel();
            self.begin_retiring(done, now);
        }
    }

    /// Partitions that their worker ended by itself continue in a new epoch. A worker does so if its bundle has other
    /// lanes for the topic than this consumer, or lacks the topic. Not during a reload: the worker would end them
    /// again.
    fn release_ended(&mut self, now: Instant) {
        if self.phase.retired.is_some() {
            return;
        }
        let is_ended =
            |held: &&mut Held| held.stage == Stage::Active && held.epoch.partition.is_over();
        let mut any = false;
        for held in self.held.values_mut().filter(is_ended) {
            held.release();
            held.comes_back = true;
            any = true;
        }
        if any {
            self.end_in_time(now);
        }
    }

    /// Topics that a reload adds again before the group took them away: they continue at their position, in a new
    /// epoch.
    pub(super) fn bring_back(&mut self, now: Instant) {
        if self.phase.is_closing() || self.phase.is_busy() || self.phase.emptying.is_some() {
            return;
        }
        self.release_ended(now);
        // The new epoch does not know the requests of the old one, so one attempt to commit them comes first.
        let will_commit = self.commits.not_before.is_none();
        let sought = self.control.seeks();
        let is_sought = |held: &Held| {
            let (topic, number) = (&*held.epoch.partition.topic, held.epoch.partition.number);
            let mut keys = sought.iter().map(|one| (&*one.key.0, one.key.1));
            keys.any(|key| key == (topic, number))
        };
        let back = |held: &&Held| {
            held.comes_back
                && !is_sought(held)
                && held.stage == Stage::Drained
                && !self.is_in_transaction(held)
                && !(will_commit && held.has_uncommitted_requests())
        };
        let keys: Vec<_> = self.held.values().filter(back).map(Held::key).collect();
        if keys.is_empty() {
            return;
        }
        let mut told = Vec::new();
        for key in &keys {
            let Some(old) = self.held.remove(key) else {
                continue;
            };
            if old.observed == Observed::Going {
                told.push(key.clone());
            }
            let Position {
                offset,
                leader_epoch,
            } = old.epoch.tracker.goes_on();
            let start = Start {
                offset,
                leader_epoch,
                why: Why::Committed,
            };
            self.hold(key, start, now);
            if let Some(new) = self.held.get_mut(key) {
                new.pauses = Pauses::of_same_assignment();
                new.pauses.set_by_handler(old.pauses.has(Pause::Handler));
                new.epoch.committed = old.epoch.committed;
                new.topic = old.topic;
                if new.plan.manual.is_empty() {
                    let beyond = old.epoch.tracker.goes_on_beyond();
                    new.epoch.tracker.seed(beyond);
                }
            }
        }
        let applied = apply_pauses(&self.client, self.held.values_mut());
        if let Some(error) = applied.error {
            self.error(&error, Subject::Group);
        }
        let new = keys.iter().filter_map(|key| self.held.get(key));
        let these: Vec<_> = new.map(Held::goes_on_at).collect();
        self.seek(&these);
        self.weigh();
        self.observe_assigned(&told, now);
    }

    pub(super) fn begin_close(&mut self, deadline: Instant, now: Instant) {
        self.begin_leaving(deadline.max(now), false, now);
    }

    /// These topics were deleted and created again. Nothing of the old ones counts any more, and only a new client
    /// fetches from the new ones. So the consumer drains, leaves the group, and joins it again with a new client.
    pub(super) fn begin_again(&mut self, topics: &[Arc<str>], now: Instant) {
        if self.phase.is_closing() {
            return;
        }
        let mut positions = Vec::new();
        for held in self.held.values_mut() {
            let partition = &held.epoch.partition;
            if topics.contains(&partition.topic) {
                let position = held.epoch.tracker.finished().offset;
                let (topic, number) = (&partition.topic, partition.number);
                positions.push(format!("{topic}[{number}]: {position}"));
                held.topic = TopicState::Deleted;
                held.release();
                held.cancel();
            }
        }
        positions.sort();
        log!(
            warn,
            consumer,
            consumer = &*self.name,
            topics = topics.join(", "),
            positions = positions.join(", "),
            "leaves the group and joins it again, because topics were created again; the positions are those of the \
             old topics"
        );
        self.begin_leaving(now + self.drain_time(), true, now);
    }

    pub(super) fn begin_leaving(&mut self, deadline: Instant, again: bool, now: Instant) {
        self.give_up_rest("the consumer leaves its group");
        let is_told = self.phase.leaving.as_ref().is_some_and(|one| one.is_told);
        self.phase.leaving = Some(Leaving {
            drain: Drain::new(deadline)
                .cancels_again(TURN)
                .ends_after(LAST_COMMIT),
            until: deadline + LAST_COMMIT + LEAVE,
            is_told,
            again,
        });
        self.phase.ask_late_at = None;
        self.phase.emptying = None;
        if let Some(retiring) = &mut self.phase.retiring {
            // One deadline for all running calls.
            retiring.drain.set_cancel_at(deadline);
        }
        self.observe_revoked(|_| true, now, deadline);
        self.held.values_mut().for_each(Held::release);
        failpoint!("drain-begun");
    }

    /// After the consumer has drained, committed and left the group, or its time is over.
    pub(super) fn has_left(&mut self, now: Instant) -> Option<Leaving> {
        let mut leaving = self.phase.leaving.take()?;
        let mut is_closed = false;
        if leaving.is_told {
            is_closed = self.client.closing() == Closing::Closed || now >= leaving.until;
        } else if self.go_on_draining(&mut leaving.drain, |_| true, now) {
            leaving.is_told = true;
            if let Err(error) = self.client.close() {
                log!(warn, consumer, consumer = &*self.name, %error, "the client did not close cleanly");
                is_closed = true;
            }
        }
        if is_closed {
            return Some(leaving);
        }
        self.phase.leaving = Some(leaving);
        None
    }

    /// Puts a new client in the place of the one that has left the group. Whatever comes from the old one counts no
    /// more.
    pub(super) fn join_again(&mut self, now: Instant) -> anyhow::Result<()> {
        self.say_given_up(|_| true, now);
        self.held.values().for_each(Held::cancel);
        self.lose_where(|_| true, now);
        self.held.clear();
        let seeks = self.control.disconnect();
        self.say_unsought_at_end(&seeks);
        self.control.connect(bell(&self.inbox));
        let (client, lookups) =
            connect(&self.settings, &self.inbox, &self.known, &self.supervisor)?;
        self.client = client;
        self.connections = Connections::new(now);
        // The old thread is the last one that has the old client.
        self.lookups = lookups;
        self.phase = Phase {
            retired: self.phase.retired.take(),
            retiring: self.phase.retiring.take(),
            asked: self.phase.asked,
            joins_again: true,
            ..Phase::default()
        };
        self.intake.forget_topics();
        self.intake.look_anew();
        self.commits.forget_client();
        self.answer_waiters(now);
        self.topics.subscribe_again();
        self.watch = TopicWatch::new(now);
        Ok(())
    }

    /// The group was left, and no other client can be made.
    pub(super) fn give_up(self, error: &anyhow::Error) {
        let sentence = format!("consumer `{}`: {error:#}", self.name);
        // The first ending counts.
        let _ = self.endings.send(Ending::Failed(sentence));
        self.leave();
    }

    /// The end: no worker may hold a partition of this consumer now, or the client stays until the process ends.
    pub(super) fn leave(mut self) {
        self.say_given_up(|_| true, Instant::now());
        let seeks = self.control.disconnect();
        self.say_unsought_at_end(&seeks);
        self.inbox.close();
        if let Some(transactions) = self.transactions {
            transactions.close(Instant::now() + LAST_LETTERS);
        }
        self.outbox.close(Instant::now() + LAST_LETTERS);
        self.refetch.close(Instant::now() + LAST_LETTERS);
        log!(info, consumer, consumer = &*self.name, "left the group");
    }
}
