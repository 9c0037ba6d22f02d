//! Taking messages within the budget, and handing them to the workers by partition.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::assignment::{Partition, Shared, ToWorker};
use crate::config::Ordering as LaneOrdering;
use crate::kafka::{Message, TopicPartition};
use crate::log::log;
use crate::message::Record;
use crate::rules::lanes;
use crate::rules::offsets::{Arrival, Position, Tracker};

use super::budget::{BATCH_MAX, InFlight, Room, Share};
use super::commit_requests::Unsent;
use super::lost_offsets::Jumps;
use super::standstill::Ages;
use super::{Consumer, Held, Stage, Trust, list};

/// How long a partition may hold up others that want to go on, with a full share, before it is paused. Long enough to run
/// what one fetch brings of it, some thousand messages: a pause throws that away, and it is fetched again.
const PATIENCE: Duration = Duration::from_millis(100);
/// One that was paused and took `SLOW` to run half of its share will hold them up again: nothing is gained by waiting. Nor
/// is it where another one of its topic is paused for that long now: they share their handlers.
const SHORT_PATIENCE: Duration = Duration::from_millis(20);
const SLOW: Duration = Duration::from_millis(250);
/// With others of which it is not known whether they want to: with librdkafka's queue full, nothing is fetched that would
/// tell.
const LONG_PATIENCE: Duration = Duration::from_millis(500);
/// How long it is taken as known.
const WANTED_FOR: Duration = Duration::from_millis(20);

pub(super) struct Intake {
    /// Address of librdkafka's topic → its name. Cleared with every assignment, as addresses come back.
    names: HashMap<usize, Arc<str>>,
    epochs: Arc<AtomicU64>,
    /// A partition's rest of the batch in hand counts for nothing.
    has_void: bool,
    /// What is left of the room that was found at the last look.
    room: Option<Room>,
    /// A partition has begun anew amid a batch: the room counts with what was in flight before.
    is_outdated: bool,
    /// Until when the answer holds whether somebody waits for a partition with a full share.
    wanted: Option<(Instant, bool)>,
}

/// How long a partition with a full share is waited for.
fn patience(is_slow: bool, is_wanted: bool) -> Duration {
    match (is_wanted, is_slow) {
        (false, _) => LONG_PATIENCE,
        (true, false) => PATIENCE,
        (true, true) => SHORT_PATIENCE,
    }
}

/// What is drained waits for the group, and takes no part in the budget.
fn takes_part(held: &Held) -> bool {
    held.stage != Stage::Drained
}

/// Whether it holds the others up.
fn holds_up(held: &Held, share: &Share) -> bool {
    takes_part(held) && !held.is_quiet() && share.is_used_up(&held.tracker)
}

/// Messages of one partition, taken one after the other.
#[derive(Default)]
struct Run {
    place: (usize, i32),
    held: Option<Held>,
    /// What it had in flight before.
    before: (usize, usize),
    first: u64,
    messages: Vec<Message>,
    /// Where its log starts, once something was missing.
    log_start: Option<i64>,
}

impl Run {
    fn send(&mut self, taken: Instant) {
        let messages = std::mem::take(&mut self.messages);
        if let Some(held) = self.held.as_ref().filter(|_| !messages.is_empty()) {
            let (partition, plan) = (held.partition.clone(), held.plan.clone());
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
    pub(super) fn new(epochs: Arc<AtomicU64>) -> Self {
        Self {
            names: HashMap::new(),
            epochs,
            has_void: false,
            room: None,
            is_outdated: false,
            wanted: None,
        }
    }

    pub(super) fn forget_topics(&mut self) {
        self.names.clear();
    }

    /// Partitions have come, gone, been paused or resumed, or it has been a while.
    pub(super) fn look_anew(&mut self) {
        self.room = None;
    }

    /// Nothing is known of what may be taken.
    pub(super) fn is_to_look(&self) -> bool {
        self.room.is_none()
    }

    /// Messages of this partition have finished; it had so many in flight.
    pub(super) fn finished(&mut self, held: &Held, before: usize) {
        if let Some(room) = self.room.as_mut().filter(|_| takes_part(held)) {
            room.went(before, held.tracker.unfinished());
            if !holds_up(held, &room.share) {
                room.let_go(held.partition.epoch);
            }
        }
    }
}

impl Held {
    /// Messages and bytes.
    fn in_flight(&self) -> (usize, usize) {
        (self.tracker.unfinished(), self.tracker.bytes())
    }

    fn arrive(&mut self, message: &Message) -> Arrival {
        let (plan, partition) = (&self.plan, &self.partition);
        let lane = |number| {
            let (ordering, null_keys) = (plan.ordering, plan.null_keys);
            lanes::lane_of(ordering, null_keys, partition.seed, message, number)
        };
        let (offset, leader_epoch) = (message.offset(), message.leader_epoch());
        self.tracker
            .arrive(offset, leader_epoch, message.bytes(), lane)
    }
}

impl Consumer {
    /// Takes what there is room for, a batch or a few. Whether there may be more.
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
                run.held = self.held.remove(&(topic_name, partition));
                run.before = run.held.as_ref().map_or((0, 0), Held::in_flight);
            }
            match taken {
                Ok(message) => self.arrive(&mut run, message),
                Err(error) => {
                    if let Some(held) = &mut run.held {
                        held.trust = Trust::Suspect;
                    }
                    let name = self.intake.names.entry(topic).or_insert_with(name).clone();
                    self.error(&error, Some((&name, partition)));
                }
            }
        });
        self.hand_over(&mut run, room, now);
        if took > 0 {
            self.trouble.over();
        }
        took
    }

    fn arrive(&mut self, run: &mut Run, message: Message) {
        // A partition that is going, or gone: whoever gets it next gets the message again.
        let Some(held) = run.held.as_mut().filter(|held| held.stage == Stage::Active) else {
            return;
        };
        match held.trust {
            _ if held.asleep_until.is_some() => return,
            Trust::Sound => {}
            Trust::Void => return,
            Trust::Suspect if message.offset() <= held.tracker.expected() => {
                held.trust = Trust::Sound;
            }
            // Either the message in between was passed over or it does not exist: the seek tells.
            Trust::Suspect => {
                held.trust = Trust::Void;
                self.intake.has_void = true;
                held.tracker.pause();
                let at = held.goes_on_at();
                return self.seek(&[at]);
            }
        }
        let (offset, leader_epoch) = (message.offset(), message.leader_epoch());
        let expected = held.tracker.expected();
        if offset >= expected && self.is_early(held, &message) {
            return;
        }
        if offset > expected {
            run.log_start = run.log_start.or_else(|| held.log_start(&self.client));
            held.jumps.jumped(&(expected..offset), run.log_start);
        }
        let number = match held.arrive(&message) {
            Arrival::New(number) => number,
            // A finished one has no number, so that those of a batch are consecutive all the same.
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
            held.tracker.stamp(message.timestamp_ms());
        }
        if run.messages.is_empty() {
            run.first = number;
        }
        run.messages.push(message);
    }

    /// The client went back: the log was truncated, or is another one. What runs is let go; its outcome counts no more.
    fn begin_epoch(&mut self, held: &mut Held, offset: i64, leader_epoch: i32) {
        let old = held.partition.clone();
        log!(
            error,
            consumer,
            consumer = &*self.name,
            topic = &*old.topic,
            partition = old.number,
            offset,
            position = held.tracker.finished().offset,
            "the partition went back: its log was truncated or made anew; messages from here on are handled again"
        );
        old.end();
        self.intake.is_outdated = true;
        held.worker.send(ToWorker::Cancel(old.clone()));
        held.partition = self.new_epoch(&old.topic, old.number);
        let start = Position {
            offset,
            leader_epoch,
        };
        held.tracker = Tracker::new(
            start,
            held.plan.manual.clone(),
            held.plan.automatic.clone(),
            held.plan.ordering != LaneOrdering::Partition,
        );
        held.ages = Ages::new(offset, Instant::now());
        held.jumps = Jumps::default();
        held.log_end = -1;
        held.committed = None;
        held.unsent = Unsent::default();
    }

    pub(super) fn new_epoch(&self, topic: &Arc<str>, number: i32) -> Arc<Partition> {
        let shared = Shared {
            consumer: self.name.clone(),
            group: self.group.clone(),
            outbox: self.outbox.clone(),
            inbox: self.inbox.clone(),
            client: self.client.clone(),
        };
        let epoch = self.intake.epochs.fetch_add(1, Ordering::Relaxed);
        Arc::new(Partition::new(epoch, topic, number, shared))
    }

    /// Ends a run: its messages go to the worker, the partition back where it belongs.
    fn hand_over(&mut self, run: &mut Run, room: &mut Room, now: Instant) {
        let took = !run.messages.is_empty();
        run.send(now);
        run.log_start = None;
        if let Some(mut held) = run.held.take() {
            let ((before, bytes_before), (messages, bytes)) = (run.before, held.in_flight());
            room.came(before, messages, bytes.saturating_sub(bytes_before));
            if holds_up(&held, &room.share) {
                room.hold_up(held.partition.epoch);
            }
            if took {
                held.ages.took(held.tracker.expected(), now);
            }
            // What was finished before it came moves the position too.
            held.ages.finished(held.tracker.finished().offset, now);
            held.look_for_lost(&self.client, &mut self.counts, now);
            let key = (held.partition.topic.clone(), held.partition.number);
            self.held.insert(key, held);
        }
    }

    fn room(&self) -> Room {
        let in_flight = self.in_flight();
        let share = Share::new(&in_flight);
        let (mut bytes, mut used_up) = (0, Vec::new());
        for held in self.held.values().filter(|held| takes_part(held)) {
            let own = held.tracker.bytes();
            // What a quiet one has beyond its share came in one batch, and is not taken from the others.
            bytes += if held.is_quiet() {
                own.min(share.bytes)
            } else {
                own
            };
            if holds_up(held, &share) {
                used_up.push(held.partition.epoch);
            }
        }
        Room::new(share, &in_flight, bytes, used_up)
    }

    fn in_flight(&self) -> InFlight {
        let mut in_flight = InFlight::default();
        for held in self.held.values().filter(|held| takes_part(held)) {
            let (messages, bytes) = held.in_flight();
            in_flight.add(messages, bytes);
        }
        in_flight
    }

    pub(super) fn seek(&mut self, partitions: &[TopicPartition]) {
        if let Err(error) = self.client.seek(partitions) {
            self.error(&error, None);
        }
    }

    /// Pauses partitions that hold the others up, and resumes them with half of their share. Never during a rebalance:
    /// librdkafka pauses everything itself then, and has lost resumes given in between. Whether there was any.
    pub(super) fn keep_fair(&mut self, now: Instant) -> bool {
        if self.phase.is_busy() {
            return false;
        }
        let share = Share::new(&self.in_flight());
        let is_wanted = self.is_wanted(&share, now);
        let slow = if is_wanted {
            self.slow_topics(now)
        } else {
            HashSet::new()
        };
        let (mut pause, mut resume) = (Vec::new(), Vec::new());
        for (key, held) in &mut self.held {
            let is_slow = held.was_paused_for >= SLOW || slow.contains(&key.0);
            if held.asleep_until.is_some() {
                continue;
            }
            let is_full = held.is_paused || share.is_used_up(&held.tracker);
            if !takes_part(held) || !is_full {
                held.full_since = None;
            } else if held.is_paused {
                if share.is_half_free(&held.tracker) {
                    held.is_paused = false;
                    held.was_paused_for = held
                        .paused_at
                        .map_or(Duration::ZERO, |at| now.duration_since(at));
                    resume.push(key.clone());
                }
            } else if share.partitions > 1
                && now.duration_since(*held.full_since.get_or_insert(now))
                    >= patience(is_slow, is_wanted)
            {
                held.full_since = None;
                held.is_paused = true;
                held.paused_at = Some(now);
                held.tracker.pause();
                pause.push(key.clone());
            }
        }
        let of = |keys: &[(Arc<str>, i32)]| list(keys.iter().filter_map(|key| self.held.get(key)));
        for (partitions, result) in [
            (
                pause.len(),
                (!pause.is_empty()).then(|| self.client.pause(&of(&pause))),
            ),
            (
                resume.len(),
                (!resume.is_empty()).then(|| self.client.resume(&of(&resume))),
            ),
        ] {
            if let Some(Err(error)) = result {
                log!(warn, consumer, consumer = &*self.name, partitions, %error, "pause or resume failed");
            }
        }
        !pause.is_empty() || !resume.is_empty()
    }

    /// Topics with a partition that is paused and has not run half of its share in `SLOW`.
    fn slow_topics(&self, now: Instant) -> HashSet<Arc<str>> {
        let is_slow = |held: &&Held| {
            let since = held.paused_at.filter(|_| held.is_paused);
            since.is_some_and(|at| now.duration_since(at) >= SLOW)
        };
        let slow = self.held.values().filter(is_slow);
        slow.map(|held| held.partition.topic.clone()).collect()
    }

    /// Whether somebody waits for a partition with a full share. It is asked only where the answer may matter.
    fn is_wanted(&mut self, share: &Share, now: Instant) -> bool {
        let mut full = self.held.values().filter_map(|held| held.full_since);
        if !full.any(|since| now.duration_since(since) >= SHORT_PATIENCE) {
            return false;
        }
        match self.intake.wanted {
            Some((until, is_wanted)) if now < until => is_wanted,
            _ => {
                // To ask librdkafka about each partition costs it a lock and a search.
                let is_wanted = self.held.values().any(|held| self.wants(held, share));
                self.intake.wanted = Some((now + WANTED_FOR, is_wanted));
                is_wanted
            }
        }
    }

    /// Whether a partition may soon have nothing to run although there is more of it, as far as the last fetch told.
    fn wants(&self, held: &Held, share: &Share) -> bool {
        if !takes_part(held) || held.is_quiet() || !share.is_low(&held.tracker) {
            return false;
        }
        let (topic, number) = (&held.partition.topic, held.partition.number);
        match self.client.known_watermarks(topic, number) {
            Some((_, end)) if end >= 0 => end > held.tracker.expected(),
            _ => true,
        }
    }

    pub(super) fn fairness_deadline(&self, now: Instant) -> Option<Instant> {
        if self.phase.is_busy() || self.in_flight().partitions < 2 {
            return None;
        }
        let since = self
            .held
            .values()
            .filter_map(|held| held.full_since)
            .min()?;
        let first = since + SHORT_PATIENCE;
        Some(if first > now { first } else { now + WANTED_FOR })
    }
}
