//! Takes messages from librdkafka within the budget, tracks them, and hands them to the workers by partition.
//!
//! One batch has messages of several partitions, one `Run` after the other. While a run is filled, its partition is
//! out of `Consumer::held`; `hand_over` puts it back.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use crate::assignment::{Partition, PartitionKey, Shared, ToWorker};
use crate::kafka::{Message, Taken, TopicPartition};
use crate::log::log;
use crate::message::Record;
use crate::rate_limit::RateLimit;
use crate::rules::lanes;
use crate::rules::offsets::{Arrival, Position};
use crate::telemetry::status::Pause;

use super::Consumer;
use super::budget::{Ahead, BATCH_MAX, InFlight, Room, Share};
use super::fairness::Wanted;
use super::held::{Held, Stage, Trust};
use super::transactions::Transactions;
use super::trouble::{Subject, line_limit};

pub(super) struct Intake {
    /// Address of librdkafka's topic → its name. Every assignment clears this map, because librdkafka reuses
    /// addresses.
    names: HashMap<usize, Arc<str>>,
    epochs: Arc<AtomicU64>,
    /// A partition is `Trust::Void`: its messages in the rest of the batch are dropped.
    has_void: bool,
    /// The room found by the last look at all partitions, less the messages taken since.
    room: Option<Room>,
    /// A new epoch began within a batch, so the room still counts the messages of the old epoch.
    is_outdated: bool,
    pub(super) wanted: Wanted,
    /// The bounds of librdkafka's queue.
    ahead: Ahead,
    /// Limits the log lines about due times that lie too far ahead.
    pub(super) early_limit: RateLimit,
}

/// Whether the partition keeps the consumer from taking messages of other partitions.
fn holds_up(held: &Held, share: &Share) -> bool {
    held.takes_part() && !held.pauses.is_any() && share.is_used_up(&held.epoch.tracker, held.weight)
}

/// Consecutive messages of one partition within a batch.
#[derive(Default)]
struct Run {
    /// librdkafka's address of the topic, and the partition.
    place: (usize, i32),
    /// `None` for a partition that is no longer assigned.
    held: Option<Held>,
    /// Messages and bytes that the partition had in flight before the run.
    before: (usize, usize),
    first: u64,
    messages: Vec<Message>,
    /// The bytes of the messages that librdkafka counts.
    counted: usize,
    /// The start of the log, looked up at the first missing offset of the run.
    log_start: Option<i64>,
}

impl Run {
    fn send(&mut self, taken: Instant) {
        let messages = std::mem::take(&mut self.messages);
        if let Some(held) = self.held.as_ref().filter(|_| !messages.is_empty()) {
            let (partition, plan) = (held.epoch.partition.clone(), held.plan.clone());
            held.worker.send(ToWorker::Batch {
                partition,
                plan,
                first: self.first,
                taken,
                messages,
            });
        }
    }
}

impl Intake {
    pub(super) fn new(epochs: Arc<AtomicU64>, ahead: Ahead) -> Self {
        Self {
            names: HashMap::new(),
            epochs,
            has_void: false,
            room: None,
            is_outdated: false,
            wanted: Wanted::default(),
            ahead,
            early_limit: line_limit(),
        }
    }

    pub(super) fn forget_topics(&mut self) {
        self.names.clear();
    }

    /// Discards the room: partitions were assigned, removed, paused or resumed, or the last look is too old.
    pub(super) fn look_anew(&mut self) {
        self.room = None;
    }

    /// Whether the room is unknown.
    pub(super) fn is_to_look(&self) -> bool {
        self.room.is_none()
    }

    /// Messages of this partition have finished; it had `before` messages in flight.
    pub(super) fn finished(&mut self, held: &Held, before: usize) {
        if let Some(room) = self.room.as_mut().filter(|_| held.takes_part()) {
            room.went(before, held.epoch.tracker.unfinished());
            if !holds_up(held, &room.share) {
                room.let_go(held.epoch.partition.epoch);
            }
        }
    }
}

impl Held {
    fn arrive(&mut self, message: &Message) -> Arrival {
        let (plan, partition) = (&self.plan, &self.epoch.partition);
        let lane = |number| {
            let (ordering, null_keys) = (plan.ordering, plan.null_keys);
            lanes::lane_of(ordering, null_keys, partition.seed, message, number)
        };
        let (offset, leader_epoch) = (message.offset(), message.leader_epoch());
        self.epoch
            .tracker
            .arrive(offset, leader_epoch, message.bytes(), lane)
    }
}

impl Consumer {
    /// Takes one or more batches, as far as there is room. Returns whether there may be more messages.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let known = self.intake.room.take();
        let is_known = known.filter(|room| !room.is_used_up());
        let mut room = is_known.unwrap_or_else(|| self.room());
        let (mut taken, mut took_all) = (0, false);
        while taken < BATCH_MAX {
            let most = room.batch();
            if most == 0 {
                break;
            }
            let took = self.take_batch(most, &mut room, now);
            room.took(took);
            taken += took;
            took_all = took == most;
            if !took_all {
                break;
            }
        }
        let is_outdated = std::mem::take(&mut self.intake.is_outdated);
        self.intake.room = (!is_outdated).then_some(room);
        took_all
    }

    fn take_batch(&mut self, most: usize, room: &mut Room, now: Instant) -> usize {
        if std::mem::take(&mut self.intake.has_void) {
            for held in self.held.values_mut() {
                if held.trust == Trust::Void {
                    held.trust = Trust::Sound;
                }
            }
        }
        let client = self.client.clone();
        let mut run = Run::default();
        let took = client.take(most, |topic, partition, taken, name| {
            if run.held.is_none() || run.place != (topic, partition) {
                self.hand_over(&mut run, room, now);
                let topic_name = self.intake.names.entry(topic).or_insert_with(name).clone();
                run.place = (topic, partition);
                run.held = self.held.remove(&PartitionKey {
                    topic: topic_name,
                    number: partition,
                });
                let before = run.held.as_ref().map(|held| held.epoch.in_flight());
                run.before = before.unwrap_or_default();
            }
            match taken {
                Taken::Message(message) => self.arrive(&mut run, message),
                Taken::End(end) => {
                    if let Some(held) = &mut run.held {
                        held.reached_end(&self.client, end);
                    }
                }
                Taken::Error(error) => {
                    if let Some(held) = &mut run.held {
                        held.trust = Trust::Suspect;
                    }
                    let name = self.intake.names.entry(topic).or_insert_with(name).clone();
                    self.error(&error, Subject::partition(&name, partition));
                }
            }
        });
        self.hand_over(&mut run, room, now);
        took
    }

    fn arrive(&mut self, run: &mut Run, message: Message) {
        // The partition is being revoked or is no longer assigned: its next owner receives the message again.
        let Some(held) = run.held.as_mut().filter(|held| held.stage == Stage::Active) else {
            return;
        };
        match held.trust {
            _ if held.pauses.has(Pause::NotDue) => return,
            Trust::Sound => {}
            Trust::Void => return,
            Trust::Suspect if message.offset() <= held.epoch.tracker.expected() => {
                held.trust = Trust::Sound;
            }
            // librdkafka skipped the message in between, or that message does not exist. The seek shows which.
            Trust::Suspect => {
                held.trust = Trust::Void;
                self.intake.has_void = true;
                held.epoch.tracker.pause();
                let at = held.goes_on_at();
                return self.seek(&[at]);
            }
        }
        let (offset, leader_epoch) = (message.offset(), message.leader_epoch());
        let expected = held.epoch.tracker.expected();
        if offset >= expected && self.is_early(held, &message) {
            return;
        }
        if offset > expected {
            run.log_start = run.log_start.or_else(|| held.log_start(&self.client));
            held.epoch.lost.jumped(&(expected..offset), run.log_start);
        }
        let number = match held.arrive(&message) {
            Arrival::New(number) => number,
            // A finished message gets no number, so the numbers within a batch stay consecutive.
            Arrival::Repeated | Arrival::Finished => return,
            Arrival::WentBack => {
                run.send(Instant::now());
                let Some(held) = run.held.as_mut() else {
                    return;
                };
                self.begin_epoch(held, offset, leader_epoch);
                if self.is_early(held, &message) {
                    return;
                }
                match held.arrive(&message) {
                    Arrival::New(number) => number,
                    _ => return,
                }
            }
        };
        if let Some(held) = &mut run.held {
            held.received += 1;
            held.epoch.tracker.stamp(message.timestamp_ms());
        }
        if run.messages.is_empty() {
            run.first = number;
        }
        run.counted += message.counted_bytes();
        run.messages.push(message);
    }

    /// The client went back: the log was truncated or replaced. Running calls continue, but their outcomes no longer
    /// count.
    fn begin_epoch(&mut self, held: &mut Held, offset: i64, leader_epoch: i32) {
        let old = held.epoch.partition.clone();
        log!(
            error,
            consumer,
            consumer = &*self.name,
            topic = &*old.topic,
            partition = old.number,
            offset,
            position = held.epoch.tracker.finished().offset,
            "the log of the partition was truncated or created again: messages from this offset on are handled again"
        );
        old.end();
        self.intake.is_outdated = true;
        held.worker.send(ToWorker::Cancel(old.clone()));
        let partition = self.new_epoch(&old.topic, old.number);
        let position = Position {
            offset,
            leader_epoch,
        };
        self.lose(&[old.epoch], Instant::now());
        let takes_metadata = self.commits.takes_metadata();
        held.begin_epoch(partition, position, takes_metadata, Instant::now());
    }

    pub(super) fn new_epoch(&self, topic: &Arc<str>, number: i32) -> Arc<Partition> {
        let shared = Shared {
            consumer: self.name.clone(),
            group: self.group.clone(),
            outbox: self.outbox.clone(),
            refetch: self.refetch.clone(),
            inbox: self.inbox.clone(),
            client: self.client.clone(),
            seed: fastrand::u64(..),
            is_exactly_once: self.transactions.is_some(),
        };
        let epoch = self.intake.epochs.fetch_add(1, Ordering::Relaxed);
        let partition = Arc::new(Partition::new(epoch, topic, number, shared));
        if self.phase.resting.is_some() {
            partition.set_rests(true);
        }
        let weak = Arc::downgrade(&partition);
        self.control.begin(topic, number, weak);
        partition
    }

    /// Ends a run: its messages go to the worker, and the partition returns to `Consumer::held`.
    fn hand_over(&mut self, run: &mut Run, room: &mut Room, now: Instant) {
        let took = !run.messages.is_empty();
        run.send(now);
        run.log_start = None;
        if let Some(mut held) = run.held.take() {
            let ((before, bytes_before), (messages, bytes)) = (run.before, held.epoch.in_flight());
            let counted = std::mem::take(&mut run.counted);
            if took {
                // A new epoch within the batch has fewer messages than before: the next batch tells.
                let (new, bytes) = (
                    messages.saturating_sub(before),
                    bytes.saturating_sub(bytes_before),
                );
                held.is_heavy = self.intake.ahead.is_heavy(new, bytes, counted);
            }
            room.came(before, messages, bytes.saturating_sub(bytes_before));
            if holds_up(&held, &room.share) {
                room.hold_up(held.epoch.partition.epoch);
            }
            if took {
                // An error behind these messages has made the partition suspect.
                if held.trust == Trust::Sound {
                    self.trouble.received(|| held.key());
                }
                held.epoch.ages.took(held.epoch.tracker.expected(), now);
            }
            // Messages that an earlier epoch finished move the position too.
            held.epoch
                .ages
                .finished(held.epoch.tracker.finished().offset, now);
            held.look_for_lost(&self.client, &mut self.counts, now);
            self.held.insert(held.key(), held);
        }
    }

    fn room(&self) -> Room {
        let in_flight = self.in_flight();
        let share = Share::new(&in_flight);
        // What waits for a commit takes memory, too.
        let mut bytes = self.transactions.as_ref().map_or(0, Transactions::bytes);
        let mut used_up = Vec::new();
        for held in self.held.values().filter(|held| held.takes_part()) {
            let own = held.epoch.tracker.bytes();
            // The bytes of a paused partition beyond its share came in one batch. They are not taken from the other
            // partitions.
            bytes += if held.pauses.is_any() {
                own.min(share.bytes)
            } else {
                own
            };
            if holds_up(held, &share) {
                used_up.push(held.epoch.partition.epoch);
            }
        }
        Room::new(share, &in_flight, bytes, used_up)
    }

    pub(super) fn in_flight(&self) -> InFlight {
        let mut in_flight = InFlight::default();
        for held in self.held.values().filter(|held| held.takes_part()) {
            let (messages, bytes) = held.epoch.in_flight();
            in_flight.add(messages, bytes, held.weight);
        }
        in_flight
    }

    pub(super) fn seek(&mut self, partitions: &[TopicPartition]) {
        if let Err(error) = self.client.seek(partitions) {
            self.error(&error, Subject::Group);
        }
    }
}
