//! Seeks of handlers: a partition's epoch ends, and a new one begins at another position.
//!
//! 1. The request marks the partition, whose worker begins no run of it from then on.
//! 2. This thread hears of it and ends the epoch. Running calls finish, until the drain's deadline at most.
//! 3. The brokers are asked where the position lies: it has to be within the log.
//! 4. The new epoch begins there, without the metadata of the old one. An automatic listener commits the position.
//!
//! A later request replaces an earlier one at any of these steps. A rebalance that takes the partition ends the seek.

use std::time::{Duration, Instant};

use crate::assignment::PartitionKey;
use crate::consumer::lookups::Lookup;
use crate::kafka::Error;
use crate::log::log;
use crate::lua::control::Sought;
use crate::rules::seek::Found;
use crate::rules::start_offset::{Start, Why};
use crate::telemetry::status::Pause;

use super::Consumer;
use super::held::{Held, Seeking, Stage, apply_pauses};
use super::pauses::Pauses;
use super::trouble::Subject;

/// The pause before a lookup is repeated.
const ASK_AGAIN: Duration = Duration::from_secs(1);

impl Consumer {
    /// Takes every step of a seek that is possible now.
    pub(super) fn progress_seeks(&mut self, now: Instant) {
        if !self.is_settled() {
            return;
        }
        // The new epoch does not know the requests of the old one, so one attempt to commit them comes first.
        let will_commit = self.commits.not_before.is_none();
        let mut any_released = false;
        for sought in self.control.seeks() {
            let key = PartitionKey::new(&sought.key.0.as_str().into(), sought.key.1);
            if self
                .held
                .get(&key)
                .is_some_and(|held| held.stage == Stage::Drained && self.is_in_transaction(held))
            {
                continue;
            }
            let Some(held) = self.held.get_mut(&key) else {
                continue;
            };
            match held.stage {
                Stage::Active => {
                    held.release();
                    held.seeking = Seeking {
                        released: true,
                        ..Seeking::default()
                    };
                    // Whatever is fetched until the new epoch begins is thrown away.
                    held.pauses.add_seek();
                    any_released = true;
                }
                // The race: a changed subscription empties an eager consumer, a call that still runs requests a seek,
                // and the group's revocation has not come yet. The partition may be another member's at any moment.
                Stage::Drained if !held.seeking.released && !held.comes_back => {}
                Stage::Drained if will_commit && held.has_uncommitted_requests() => {}
                Stage::Releasing => {}
                Stage::Drained => {
                    let is_asked = held.seeking.asked == Some(sought.id);
                    let is_early = held.seeking.not_before.is_some_and(|at| now < at);
                    if !is_asked && !is_early {
                        held.seeking.asked = Some(sought.id);
                        let (id, target) = (sought.id, sought.target);
                        self.lookups.ask(Lookup::Seek { id, key, target });
                    }
                }
            }
        }
        if any_released {
            let applied = apply_pauses(&self.client, self.held.values_mut());
            if let Some(error) = applied.error {
                self.error(&error, Subject::Group);
            }
            self.end_in_time(now);
        }
    }

    /// No partition may be on its way to another member.
    fn is_settled(&self) -> bool {
        !self.phase.is_closing()
            && !self.phase.is_busy()
            && self.phase.emptying.is_none()
            && self.phase.retired.is_none()
    }

    /// The answer of the lookup thread.
    pub(super) fn sought(
        &mut self,
        id: u64,
        key: &PartitionKey,
        found: Result<Found, Error>,
        now: Instant,
    ) {
        let is_settled = self.is_settled();
        let Some(held) = self.held.get_mut(key) else {
            return;
        };
        if held.seeking.asked != Some(id) {
            return;
        }
        held.seeking.asked = None;
        let found = match found {
            Ok(found) => found,
            Err(error) => {
                held.seeking.not_before = Some(now + ASK_AGAIN);
                let place = Subject::Partition(key.clone());
                return self.trouble.note(&self.name, &error, place, now);
            }
        };
        let is_ours = held.seeking.released || held.comes_back;
        if held.stage != Stage::Drained || !is_settled || !is_ours {
            // Another lookup follows.
            return;
        }
        if let Some(sought) = self.control.take_seek(&key.topic, key.number, id) {
            self.begin_at(key, found, &sought, now);
        }
    }

    fn begin_at(&mut self, key: &PartitionKey, found: Found, sought: &Sought, now: Instant) {
        let Some(old) = self.held.remove(key) else {
            return;
        };
        let start = Start {
            offset: found.offset,
            leader_epoch: -1,
            why: Why::Sought,
        };
        self.hold(key, start, now);
        self.weigh();
        if let Some(new) = self.held.get_mut(key) {
            new.pauses = Pauses::of_same_assignment();
            new.pauses.set_by_handler(old.pauses.has(Pause::Handler));
            new.topic = old.topic;
            if !new.plan.manual.is_empty() {
                new.epoch.committed = old.epoch.committed;
            }
        }
        self.say_sought(&old, found, sought);
        self.trouble.over(&Subject::Partition(key.clone()));
        let applied = apply_pauses(&self.client, self.held.get_mut(key).into_iter());
        if let Some(error) = applied.error {
            self.error(&error, Subject::Group);
        }
        let at: Vec<_> = self
            .held
            .get(key)
            .map(Held::goes_on_at)
            .into_iter()
            .collect();
        self.seek(&at);
        self.intake.look_anew();
    }

    /// Messages that are passed over are counted: they have no outcome. Some may be finished beyond the position, and
    /// some offsets have no message, so that the count is an upper bound.
    fn say_sought(&mut self, old: &Held, found: Found, sought: &Sought) {
        let position = old.epoch.tracker.finished().offset;
        let passed_over = (found.offset - position).max(0);
        self.counts.passed_over += passed_over.unsigned_abs();
        let (topic, partition) = (&*sought.key.0, sought.key.1);
        let (offset, by) = (found.offset, &*sought.by.who);
        if let Some(requested) = found.outside {
            log!(
                warn,
                consumer,
                consumer = &*self.name,
                topic,
                partition,
                offset,
                requested,
                by,
                "seek beyond the log: the partition goes on at its nearest offset"
            );
        }
        log!(
            info,
            consumer,
            consumer = &*self.name,
            topic,
            partition,
            offset,
            position,
            passed_over,
            by,
            "seek: the partition goes on at another position"
        );
    }

    /// The seek of a partition that the group takes away.
    pub(super) fn say_unsought(&self, topic: &str, number: i32) {
        if let Some(sought) = self.control.end(topic, number) {
            self.say_seek_given_up(&sought, "the group took the partition away");
        }
    }

    /// The consumer leaves the group, with these seeks.
    pub(super) fn say_unsought_at_end(&self, seeks: &[Sought]) {
        for sought in seeks {
            self.say_seek_given_up(sought, "the consumer left the group");
        }
    }

    fn say_seek_given_up(&self, sought: &Sought, why: &str) {
        log!(
            warn,
            consumer,
            consumer = &*self.name,
            topic = &*sought.key.0,
            partition = sought.key.1,
            by = &*sought.by.who,
            why,
            "seek given up"
        );
    }
}
