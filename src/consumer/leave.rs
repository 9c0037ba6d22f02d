//! How partitions end other than by a rebalance: a topic that a reload removes (and may bring back), and the end of the
//! consumer. The way is the same: nothing starts any more, what runs finishes, positions are committed.

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

use super::drain::{Drain, LAST_COMMIT};
use super::held::{Held, Stage, apply_pauses};
use super::pauses::Pauses;
use super::phase::{Leaving, Retiring};
use super::{Consumer, TURN};

/// How long the group may take to let us go.
const LEAVE: Duration = Duration::from_secs(5);
/// What is still on its way when the group is left: nobody waits for it, its message is handled again.
const LAST_LETTERS: Duration = Duration::from_millis(500);

impl Consumer {
    /// A reload removes topics: what runs of them finishes with the routes that it began with.
    pub(super) fn retire(&mut self, bundle: Arc<Bundle>, done: mpsc::Sender<()>, now: Instant) {
        let (name, config) = (&self.settings.name, &bundle.config);
        for held in self.held.values_mut() {
            if held.stage == Stage::Active
                && route::plan(config, name, &held.epoch.partition.topic).is_none()
            {
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
            // The daemon may have given up on it.
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
                    // Lanes of two orderings never mix: what runs finishes, then a new epoch goes on.
                    held.release();
                }
                // Nobody may ask for it any more.
                held.epoch.commit_now |= held.epoch.tracker.is_automatic() && held.position_moved();
                held.epoch
                    .tracker
                    .set_listeners(plan.manual.clone(), plan.automatic.clone());
                // Who asked ahead waits for an answer now.
                let mut waiters = self.commits.waiters.iter();
                held.epoch.unsent.awaited |= waiters.any(|one| one.is_of(&held.epoch.partition));
                held.plan = Arc::new(plan);
                held.comes_back = held.stage != Stage::Active;
            }
        }
        self.phase.retired = None;
        self.topics.reload(&self.bundle.config, &self.settings.name);
        // What patterns match already may need other topics now.
        self.needed.send(ToTopics::Matched {
            consumer: self.name.clone(),
            topics: self.topics.subscribed().to_vec(),
        });
        self.end_in_time(now);
    }

    /// What was released finishes until a deadline, as if its topic had gone.
    fn end_in_time(&mut self, now: Instant) {
        let is_releasing = |held: &Held| held.stage == Stage::Releasing;
        if self.phase.retiring.is_none()
            && !self.phase.is_closing()
            && self.held.values().any(is_releasing)
        {
            // Nobody waits for it.
            let (done, _) = mpsc::channel();
            self.begin_retiring(done, now);
        }
    }

    /// Partitions that their worker has ended by itself go on in a new epoch. It does so where its bundle has other lanes
    /// for the topic than ours, or does not have it. Not while a reload is under way: the worker would end them again.
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

    /// Topics that come back before the group took them away: they go on at their position, in a new epoch.
    pub(super) fn bring_back(&mut self, now: Instant) {
        if self.phase.is_closing() || self.phase.is_busy() || self.phase.emptying.is_some() {
            return;
        }
        self.release_ended(now);
        // The new epoch does not know what the old one was asked for, so one try to commit it comes first.
        let will_commit = self.commits.not_before.is_none();
        let back = |held: &&Held| {
            held.comes_back
                && held.stage == Stage::Drained
                && !(will_commit && held.has_uncommitted_requests())
        };
        let keys: Vec<_> = self.held.values().filter(back).map(Held::key).collect();
        if keys.is_empty() {
            return;
        }
        for key in &keys {
            let Some(old) = self.held.remove(key) else {
                continue;
            };
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
                new.epoch.committed = old.epoch.committed;
                if new.plan.manual.is_empty() {
                    new.epoch.tracker.seed(old.epoch.tracker.beyond());
                }
            }
        }
        let applied = apply_pauses(&self.client, self.held.values_mut());
        if let Some(error) = applied.error {
            self.error(&error, None);
        }
        let new = keys.iter().filter_map(|key| self.held.get(key));
        let these: Vec<_> = new.map(Held::goes_on_at).collect();
        self.seek(&these);
    }

    pub(super) fn begin_close(&mut self, deadline: Instant, now: Instant) {
        let deadline = deadline.max(now);
        self.phase.leaving = Some(Leaving {
            drain: Drain::new(deadline)
                .cancels_again(TURN)
                .ends_after(LAST_COMMIT),
            until: deadline + LAST_COMMIT + LEAVE,
            is_told: false,
        });
        self.phase.ask_late_at = None;
        self.phase.emptying = None;
        if let Some(retiring) = &mut self.phase.retiring {
            // One deadline for all that runs.
            retiring.drain.set_cancel_at(deadline);
        }
        self.held.values_mut().for_each(Held::release);
        failpoint!("drain-begun");
    }

    /// Whether the consumer has drained, committed and left, or run out of time.
    pub(super) fn is_closed(&mut self, now: Instant) -> bool {
        let Some(mut leaving) = self.phase.leaving.take() else {
            return false;
        };
        let mut is_closed = false;
        if leaving.is_told {
            is_closed = self.client.closing() == Closing::Closed || now >= leaving.until;
        } else if self.go_on_draining(&mut leaving.drain, |_| true, now) {
            leaving.is_told = true;
            if let Err(error) = self.client.close() {
                log!(warn, consumer, consumer = &*self.name, %error, "not closed in order");
                is_closed = true;
            }
        }
        self.phase.leaving = Some(leaving);
        is_closed
    }

    /// The end: nothing of ours may be held by a worker now, or the client stays until the process ends.
    pub(super) fn leave(mut self) {
        self.say_given_up(|_| true, Instant::now());
        self.inbox.close();
        self.outbox.close(Instant::now() + LAST_LETTERS);
        log!(info, consumer, consumer = &*self.name, "left the group");
    }
}
