//! A process, a broker and a network as a model: faults at random, then everything is right, or a deviation is seen.
//!
//! The checker looks at what a reader of committed records sees: every message twice in the log, once in either copy,
//! in the order of its lane. **A checker that no mistake makes fail proves nothing**, so each known mistake of such
//! programs is built into the model, and has to be found.

mod calls;
mod elsewhere;
mod mistakes;
mod parts;

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use super::{Action, Answer, Found, Item, Lane, Step, Why};
use crate::rules::commit_metadata::Finished;

use mistakes::{MISTAKES, Mistake};
use parts::{Brokers, Call, Copied, MESSAGES, Open, PARTITIONS, Place, Process, STRIDE, check};

/// The bytes of the metadata: a few ranges.
const METADATA: usize = 44;
const CALM: usize = 4_000;

struct World {
    dice: fastrand::Rng,
    mistake: Option<Mistake>,
    brokers: Brokers,
    process: Process,
    now: Instant,
    /// Partitions that another member has.
    elsewhere: BTreeSet<u64>,
    /// Messages with a record that its topic never accepts, until their listener has given them up.
    bad: BTreeSet<(u64, u64)>,
    faults: usize,
    refused: usize,
    /// Calls finish several messages at once.
    has_batches: bool,
    divided: usize,
}

impl World {
    fn new(seed: u64, mistake: Option<Mistake>) -> Self {
        let mut dice = fastrand::Rng::with_seed(seed);
        let has_batches = match mistake {
            Some(mistake) => mistake.is_of_calls(),
            None => seed % 2 == 1,
        };
        let now = Instant::now();
        let bad = (0..2).map(|_| (dice.u64(..PARTITIONS), dice.u64(..MESSAGES)));
        let mut bad: BTreeSet<_> = bad.collect();
        if mistake == Some(Mistake::PassesHeld) {
            // Its lanes have other names, so none goes back.
            bad.clear();
        }
        let brokers = Brokers::default();
        let process = begin(&brokers, &BTreeSet::new(), mistake);
        Self {
            dice,
            mistake,
            brokers,
            process,
            now,
            elsewhere: BTreeSet::new(),
            bad,
            faults: 60,
            refused: 0,
            has_batches,
            divided: 0,
        }
    }

    fn is(&self, mistake: Mistake) -> bool {
        self.mistake == Some(mistake)
    }

    fn fault(&mut self, one_of: usize) -> bool {
        let is_fault = self.faults > 0 && self.dice.usize(..one_of) == 0;
        self.faults -= usize::from(is_fault);
        is_fault
    }

    /// Runs until all is committed, or says that it never is.
    fn run(&mut self) -> Result<(), String> {
        let mut calm = 0;
        while !self.is_done() {
            self.now += Duration::from_millis(self.dice.u64(..8));
            if self.faults == 0 {
                calm += 1;
                if calm > CALM {
                    return Err("stands still".to_owned());
                }
            }
            match self.dice.usize(..8) {
                0..=3 => self.finish_one(),
                4..=5 => self.step(),
                6 => self.answer(),
                _ => self.disturb(),
            }
        }
        check(&self.brokers.log)
    }

    fn is_done(&self) -> bool {
        (0..PARTITIONS).all(|partition| {
            let place = self.brokers.group.get(&partition);
            place.is_some_and(|(offset, _)| *offset == MESSAGES as i64)
        })
    }

    /// A lane ends its next message.
    fn finish_one(&mut self) {
        if self.has_batches {
            return self.finish_call();
        }
        let lanes = self.process.lanes.iter();
        let open: Vec<Lane> = lanes
            .filter(|(_, left)| !left.is_empty())
            .map(|(lane, _)| *lane)
            .collect();
        let Some(lane) = self.dice.choice(open) else {
            return;
        };
        let process = &mut self.process;
        let Some(left) = process.lanes.get_mut(&lane) else {
            return;
        };
        let number = left.remove(0);
        process.sent.entry(lane).or_default().push(number);
        self.hand_over(lane, number);
    }

    fn hand_over(&mut self, lane: Lane, number: u64) {
        let partition = number / STRIDE;
        let offset = self.process.offsets[&number];
        let key = match self.mistake {
            Some(Mistake::PassesHeld) => Lane {
                lane: number,
                ..lane
            },
            _ => lane,
        };
        self.process.machine.finished(Item {
            lane: key,
            number,
            others: Vec::new(),
            is_of_batches: false,
            bytes: 10,
            load: vec![(partition, offset, 0), (partition, offset, 1)],
        });
    }

    fn step(&mut self) {
        let process = &mut self.process;
        let actions = process.machine.step(Step {
            now: self.now,
            positions: &mut process.trackers,
            has_moved: false,
            is_hurried: self.dice.usize(..20) == 0,
        });
        self.carry_out(actions);
    }

    fn carry_out(&mut self, actions: Vec<Action<Vec<Copied>>>) {
        for action in actions {
            match action {
                Action::Start => {
                    self.process.producer = None;
                    self.process.call = Some(Call::Start);
                }
                Action::Begin => self.process.open = Open::default(),
                Action::Put(items) => {
                    let records = items.into_iter().flat_map(|item| item.load);
                    self.process.open.records.extend(records);
                    self.open_at_brokers();
                }
                Action::End(_) => {
                    self.note_wanted();
                    self.process.call = Some(Call::End);
                }
                Action::Poison => {
                    if self.process.call == Some(Call::End) {
                        self.give(Answer::NotCommitted(Why::Transient));
                    }
                }
                Action::Abort => self.process.call = Some(Call::Abort),
                Action::ReadBack => self.process.call = Some(Call::ReadBack),
                Action::Committed(items) => self.settle(&items),
                Action::Requeued => {
                    for tracker in self.process.trackers.by_partition.values_mut() {
                        tracker.requeue();
                    }
                }
                Action::Refused { item, .. } => {
                    self.refused += 1;
                    if self.has_batches {
                        self.partition_goes_back(&item, true);
                    } else {
                        self.go_back(&item);
                    }
                }
                Action::Divide(item) => {
                    self.divided += 1;
                    self.partition_goes_back(&item, false);
                }
                Action::Shorten => unreachable!("the metadata fits"),
                Action::SecondProcess => unreachable!("there is one process"),
            }
        }
    }

    /// The records are on their way as soon as they are put.
    fn open_at_brokers(&mut self) {
        let process = &self.process;
        if process.producer == Some(self.brokers.epoch) {
            let open = self.brokers.open.get_or_insert_default();
            open.records.clone_from(&process.open.records);
        }
    }

    fn note_wanted(&mut self) {
        let process = &mut self.process;
        process.wanted.clear();
        for (partition, tracker) in &process.trackers.by_partition {
            let wanted = tracker.wanted();
            let mut place = (wanted.position.offset, wanted.beyond);
            if self.mistake == Some(Mistake::CutsMetadata) {
                place.1.ranges.truncate(1);
            }
            let before = self.brokers.group.get(partition).cloned();
            let before = before.unwrap_or((0, Finished::default()));
            if place != before {
                process.wanted.insert(*partition, (place, before));
            }
        }
    }

    /// The lane goes back to the refused message, which its listener gives up: what it emitted is replaced.
    fn go_back(&mut self, item: &Item<Vec<Copied>>) {
        let partition = item.number / STRIDE;
        self.bad
            .remove(&(partition, self.process.offsets[&item.number]));
        let lane = item.lane;
        let sent = self.process.sent.remove(&lane).unwrap_or_default();
        // Letters that were under way by then.
        let from = sent.iter().position(|one| *one == item.number);
        let again: Vec<u64> = sent[from.unwrap_or(0)..].to_vec();
        if self.mistake == Some(Mistake::KeepsStale) {
            self.process.machine.went_back(lane);
        }
        for number in again.iter().skip(1) {
            self.hand_over(lane, *number);
        }
        self.process.machine.went_back(lane);
        let left = self.process.lanes.entry(lane).or_default();
        left.splice(..0, again);
    }

    fn settle(&mut self, items: &[Item<Vec<Copied>>]) {
        for tracker in self.process.trackers.by_partition.values_mut() {
            tracker.settle();
        }
        for one in items.iter().flat_map(Item::members) {
            for sent in self.process.sent.values_mut() {
                sent.retain(|number| *number != one.number);
            }
        }
    }

    fn give(&mut self, answer: Answer) {
        self.process.call = None;
        let actions = self.process.machine.answered(answer, self.now);
        self.carry_out(actions);
    }

    /// The producer's call comes back, or its request goes astray.
    fn answer(&mut self) {
        let is_fenced = false;
        match self.process.call {
            None => {}
            Some(Call::Start) => {
                if self.fault(6) {
                    return self.give(Answer::NotStarted { is_fenced });
                }
                self.process.producer = Some(self.brokers.start());
                self.give(Answer::Started);
            }
            Some(Call::Abort) => {
                let is_ours = self.process.producer == Some(self.brokers.epoch);
                if !is_ours || self.fault(6) {
                    return self.give(Answer::NotAborted { is_fenced });
                }
                self.brokers.open = None;
                self.give(Answer::Aborted { is_clean: true });
            }
            Some(Call::End) => self.end(),
            Some(Call::ReadBack) => self.read_back(),
        }
    }

    fn is_owner(&self) -> bool {
        let mut wanted = self.process.wanted.keys();
        wanted.all(|partition| !self.elsewhere.contains(partition))
    }

    fn end(&mut self) {
        let is_fenced = false;
        let Some(epoch) = self
            .process
            .producer
            .filter(|one| *one == self.brokers.epoch)
        else {
            return self.give(Answer::Unknown { is_fenced });
        };
        let records = &self.process.open.records;
        let is_bad = |(partition, offset, _): &Copied| self.bad.contains(&(*partition, *offset));
        if records.iter().any(is_bad) {
            let why = Why::Refused {
                part: 0,
                text: String::new(),
            };
            return self.give(Answer::NotCommitted(why));
        }
        if !self.is_owner() && !self.is(Mistake::IgnoresMembership) {
            return self.give(Answer::NotCommitted(Why::Transient));
        }
        if self.fault(8) {
            return self.give(Answer::NotCommitted(Why::Transient));
        }
        let places = self.process.wanted.iter();
        let places: BTreeMap<u64, Place> = places
            .map(|(partition, (place, _))| (*partition, place.clone()))
            .collect();
        let open = self.brokers.open.get_or_insert_default();
        open.places.clone_from(&places);
        if self.is(Mistake::CommitsOffsetsAlone) {
            self.brokers.group.extend(places);
            if self.fault(4) {
                return self.crash();
            }
        }
        if !self.fault(3) {
            self.brokers.commit(epoch);
            return self.give(Answer::Committed { is_clean: true });
        }
        match self.dice.usize(..4) {
            // The answer is lost.
            0 => {
                self.brokers.commit(epoch);
                self.unknown();
            }
            // The request arrives later, or never.
            1 => {
                self.brokers.late.push(epoch);
                if self.is(Mistake::CommitsAgain) {
                    self.brokers.commit(epoch);
                    return self.give(Answer::Committed { is_clean: true });
                }
                self.unknown();
            }
            // The connection ended, and librdkafka has sent the request once more.
            2 => {
                self.brokers.late.push(epoch);
                self.brokers.commit(epoch);
                let is_clean = self.is(Mistake::IgnoresUnanswered);
                self.give(Answer::Committed { is_clean });
            }
            // The call never comes back.
            _ => self.process.call = None,
        }
    }

    fn unknown(&mut self) {
        let is_fenced = false;
        match self.mistake {
            Some(Mistake::AbortsUnknown) => self.give(Answer::NotCommitted(Why::Transient)),
            Some(Mistake::TrustsSilence) => self.give(Answer::Committed { is_clean: false }),
            Some(Mistake::ReadsBeforeStart) => {
                self.process.read_early = Some(self.brokers.group.clone());
                self.give(Answer::Unknown { is_fenced });
            }
            _ => self.give(Answer::Unknown { is_fenced }),
        }
    }

    fn read_back(&mut self) {
        self.process.call = None;
        let early = self.process.read_early.take();
        let group = early.unwrap_or_else(|| self.brokers.group.clone());
        let ours = self.process.wanted.iter();
        let ours = ours.filter(|(one, _)| self.process.trackers.by_partition.contains_key(one));
        let mut found = Found::Nothing;
        for (partition, (place, _)) in ours {
            found = if group.get(partition) == Some(place) {
                Found::Wanted
            } else {
                Found::Before
            };
        }
        if self.fault(6) {
            found = Found::Unreachable;
        }
        let actions = self.process.machine.read_back(found, self.now);
        self.carry_out(actions);
    }

    fn disturb(&mut self) {
        if !self.brokers.late.is_empty() && self.dice.bool() {
            let index = self.dice.usize(..self.brokers.late.len());
            let epoch = self.brokers.late.swap_remove(index);
            self.brokers.commit(epoch);
        }
        if self.fault(150) {
            self.crash();
        } else if self.fault(100) {
            self.lose(self.dice.clone().u64(..PARTITIONS));
        }
        // The other member gives back what it had.
        if !self.elsewhere.is_empty() && self.dice.usize(..30) == 0 {
            self.elsewhere.clear();
            self.crash();
        }
    }

    /// The process dies, and another one comes, with the same transactional id.
    fn crash(&mut self) {
        // Before it reads the group's offsets, no transaction is pending.
        self.brokers.start();
        self.process = begin(&self.brokers, &self.elsewhere, self.mistake);
    }
}

/// A process begins, and makes the mistake.
fn begin(brokers: &Brokers, elsewhere: &BTreeSet<u64>, mistake: Option<Mistake>) -> Process {
    let metadata = match mistake {
        Some(Mistake::CutsMetadata) => 1_000,
        _ => METADATA,
    };
    let mut process = parts::process(brokers, elsewhere, metadata);
    let queues = &mut process.machine.queues;
    queues.requeues_behind = mistake == Some(Mistake::RequeuesBehind);
    queues.overtakes = mistake == Some(Mistake::Overtakes);
    process.trackers.tears = mistake == Some(Mistake::TearsCalls);
    process
}

#[test]
fn nothing_is_missing_twice_torn_or_out_of_order_whatever_happens() {
    let (mut refused, mut divided) = (0, 0);
    for seed in 0..4_000 {
        let mut world = World::new(seed, None);
        if let Err(error) = world.run() {
            panic!("seed {seed}: {error}");
        }
        refused += world.refused;
        divided += world.divided;
    }
    assert!(divided > 10, "and calls without room: {divided}");
    assert!(refused > 1_000, "refused records are part of it: {refused}");
}

#[test]
fn every_known_mistake_is_found() {
    for (mistake, expected) in MISTAKES {
        let mut found = (0..3_000).filter_map(|seed| World::new(seed, Some(mistake)).run().err());
        let found = found.next().unwrap_or_default();
        assert!(found.contains(expected), "{mistake:?}: `{found}`");
    }
}
