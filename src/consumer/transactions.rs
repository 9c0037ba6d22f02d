//! With `exactlyOnce`: what messages have emitted, that they are finished, and the positions of their partitions are
//! committed in one transaction.
//!
//! `rules/transaction.rs` decides, `outgoing/transactions.rs` has the producer, and this part carries out: it knows
//! the partitions. **No position of such a consumer is committed in any other way.** A partition goes to another
//! member only after its transaction has ended, or after that transaction cannot be committed any more.

mod ending;
mod positions;
mod reading;

use std::ops::Range;
use std::time::{Duration, Instant};

use crate::assignment::{HandedOver, ToConsumer, ToWorker};
use crate::config::{self, Config, DEFAULT_PRODUCER};
use crate::kafka::Error;
use crate::outgoing::transactions::{self as producers, Id, Left, Parts, Producer};
use crate::rules::commit_metadata;
use crate::rules::transaction::{self, Action, Answer, Item, Lane, Machine, Step};
use crate::telemetry::status::TransactionStatus;
use crate::threads::supervisor::Ending;

use super::Consumer;
use super::held::{Held, Stage};
use super::trouble::Subject;

use ending::Wanted;
use positions::{Trackers, hurries};

/// How long a call of the producer may take, and no longer than a third of `transaction.timeout`.
const CALL: Duration = Duration::from_secs(4);
/// The bytes that wait for a commit, of all partitions and of one, with which a transaction ends at once: half of the
/// budget for messages in flight.
const BYTES: usize = 16 << 20;
const PARTITION_BYTES: usize = 8 << 20;
/// How often a position is committed that has moved without a message, behind markers of transactions.
const MOVED_EVERY: Duration = Duration::from_secs(1);
/// The memory that a message without records takes while it waits.
const BOOKKEEPING: usize = 100;
/// The most bytes of the metadata, which the brokers may lower.
const METADATA: usize = 4096;

/// The records of a message that its worker has handed over.
type Load = Option<Parts>;

pub(super) struct Transactions {
    id: Id,
    settings: transaction::Settings,
    machine: Machine<Load>,
    producer: Option<Producer>,
    /// Producers that were left, until their threads have ended.
    left: Vec<Left>,
    /// The number of the present producer.
    number: u64,
    /// The generation of the last assignment, where each brings everything anew.
    generation: Option<i32>,
    /// What the last `End` was to commit.
    wanted: Vec<Wanted>,
    /// The most bytes of the metadata.
    metadata: usize,
}

impl Transactions {
    pub(super) fn open(
        settings: &config::Consumer,
        config: &Config,
    ) -> anyhow::Result<Option<Self>> {
        let Some(transaction) = settings.transaction else {
            return Ok(None);
        };
        let id = Id::open(
            &config.daemon.state_directory,
            &settings.name,
            &settings.group_id,
        )?;
        let settings = transaction::Settings {
            interval: transaction.interval,
            messages: transaction.messages,
            partition_bytes: PARTITION_BYTES,
            bytes: BYTES,
            timeout: transaction.timeout,
            call: CALL.min(transaction.timeout / 3),
        };
        Ok(Some(Self {
            id,
            settings,
            machine: Machine::new(settings),
            producer: None,
            left: Vec::new(),
            generation: None,
            number: 0,
            wanted: Vec::new(),
            metadata: METADATA,
        }))
    }

    /// These messages have their outcome, and no records, or are committed already.
    pub(super) fn finished(&mut self, held: &Held, numbers: Range<u64>) {
        for number in numbers {
            let Some(lane) = held.epoch.tracker.waiting(number) else {
                continue;
            };
            let epoch = held.epoch.partition.epoch;
            self.machine.finished(Item {
                lane: Lane { epoch, lane },
                number,
                others: Vec::new(),
                is_of_batches: false,
                bytes: BOOKKEEPING,
                load: None,
            });
        }
    }

    pub(super) fn went_back(&mut self, epoch: u64, lane: Option<u64>) {
        match lane {
            Some(lane) => self.machine.went_back(Lane { epoch, lane }),
            None => self.machine.partition_went_back(epoch),
        }
    }

    /// The bytes that wait for a commit.
    pub(super) fn bytes(&self) -> usize {
        self.machine.waiting().1
    }

    pub(super) fn deadline(&self) -> Option<Instant> {
        self.machine.deadline()
    }

    pub(super) fn status(&self) -> TransactionStatus {
        let (waiting, waiting_bytes) = self.machine.waiting();
        let counts = self.machine.counts();
        TransactionStatus {
            id: self.id.text.clone(),
            waiting,
            waiting_bytes,
            committed: counts.committed,
            aborted: counts.aborted,
            unknown: counts.unknown,
            replaced: counts.replaced,
            left: self.left.iter().filter(|left| !left.has_ended()).count(),
            refused: counts.refused,
        }
    }

    /// The producer ends. A transaction that is open by then is ended by the brokers, or by the next process.
    pub(super) fn close(self, deadline: Instant) {
        let last = self.producer.map(Producer::leave);
        for left in self.left.into_iter().chain(last) {
            left.join(deadline);
        }
    }
}

impl Consumer {
    /// These messages have their outcome in all listeners, and records.
    pub(super) fn handed_over(&mut self, all: Vec<HandedOver>, now: Instant) {
        for one in all {
            let key = one.partition.key();
            let Some(transactions) = &mut self.transactions else {
                return;
            };
            let held = self.held.get_mut(&key);
            let Some(held) = held.filter(|held| held.is_in(&one.partition)) else {
                continue;
            };
            transactions.machine.finished(Item {
                lane: Lane {
                    epoch: one.partition.epoch,
                    lane: one.lane,
                },
                number: one.number,
                others: one.others.clone(),
                is_of_batches: one.is_of_batches,
                bytes: one.bytes,
                load: Some(one.parts),
            });
            let before = held.epoch.tracker.unfinished();
            held.epoch.tracker.finish(one.number..one.number + 1);
            for other in &one.others {
                held.epoch.tracker.finish(other.number..other.number + 1);
            }
            let finished = held.epoch.tracker.finished().offset;
            held.epoch.ages.finished(finished, now);
            self.intake.finished(held, before);
        }
    }

    /// Takes every step of the transactions that is due.
    pub(super) fn transact(&mut self, now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let is_due = |held: &Held| {
            let is_hurried = held.epoch.commit_now
                || held.epoch.rewrites_metadata
                || held.stage != Stage::Active;
            held.moved() && (is_hurried || now >= held.last_commit + MOVED_EVERY)
        };
        let has_moved = !self.phase.is_lost() && self.held.values().any(is_due);
        let machine = &transactions.machine;
        let is_hurried =
            self.phase.is_closing() || self.held.values().any(|held| hurries(machine, held));
        let held = self.held.values_mut();
        let mut positions = Trackers {
            held: held
                .map(|held| (held.epoch.partition.epoch, held))
                .collect(),
            metadata: commit_metadata::room(transactions.metadata),
        };
        let actions = transactions.machine.step(Step {
            now,
            positions: &mut positions,
            has_moved,
            is_hurried,
        });
        self.carry_out(actions, now);
    }

    fn carry_out(&mut self, actions: Vec<Action<Load>>, now: Instant) {
        for action in actions {
            match action {
                Action::Start => self.start_producer(now),
                Action::Begin => self.with_producer(Producer::begin),
                Action::Put(items) => {
                    let parts = items.into_iter().filter_map(|item| item.load).collect();
                    let alone = self.transactions.as_ref();
                    let alone = alone.is_some_and(|one| one.machine.is_alone());
                    self.with_producer(|producer| producer.put(parts, alone));
                }
                Action::End(epochs) => self.end_transaction(&epochs, now),
                Action::Poison => self.with_producer(Producer::poison),
                Action::Abort => self.with_producer(Producer::abort),
                Action::ReadBack => self.ask_back(now),
                Action::Committed(items) => self.committed_all(items, now),
                Action::Requeued => {
                    for held in self.held.values_mut() {
                        held.epoch.tracker.requeue();
                    }
                }
                Action::Refused { item, part, text } => self.tell_refused(&item, part, text),
                Action::Divide(item) => self.tell_to_divide(&item),
                Action::Shorten => self.shorten_metadata(),
                Action::SecondProcess => self.say_second_process(),
            }
        }
    }

    fn with_producer(&self, work: impl FnOnce(&Producer)) {
        if let Some(producer) = self
            .transactions
            .as_ref()
            .and_then(|one| one.producer.as_ref())
        {
            work(producer);
        }
    }

    /// Another producer with the same id comes in the place of the present one.
    fn start_producer(&mut self, now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        transactions.left.retain(|left| !left.has_ended());
        let old = transactions.producer.take().map(Producer::leave);
        transactions.left.extend(old);
        transactions.number += 1;
        let number = transactions.number;
        let mut producers = self.bundle.config.producers.iter();
        let default = producers.find(|one| one.name == DEFAULT_PRODUCER);
        let settings = producers::Settings::new(
            &self.name,
            &self.settings.properties,
            default.map(|one| &one.properties),
            &transactions.id.text,
            transactions.settings.timeout,
            transactions.settings.call,
        );
        let inbox = self.inbox.clone();
        let then = move |answer, text| {
            inbox.send(ToConsumer::Transaction {
                producer: number,
                answer,
                text,
            });
        };
        match Producer::start(settings, Box::new(then), &self.supervisor) {
            Ok(producer) => transactions.producer = Some(producer),
            Err(error) => {
                let is_fenced = false;
                let text = Some(format!("{error:#}"));
                self.answered(number, Answer::NotStarted { is_fenced }, text, now);
            }
        }
    }

    /// The producer of this number has answered.
    pub(super) fn answered(
        &mut self,
        number: u64,
        answer: Answer,
        text: Option<String>,
        now: Instant,
    ) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        if transactions.number != number {
            return;
        }
        let is_good = matches!(answer, Answer::Committed { .. } | Answer::Started);
        let actions = transactions.machine.answered(answer, now);
        if let Some(text) = text {
            let error = Error::closed(format!("transaction: {text}"));
            self.counts.commit_errors += 1;
            self.trouble.note(&self.name, &error, Subject::Commits, now);
        } else if is_good {
            self.trouble.over(&Subject::Commits);
        }
        self.carry_out(actions, now);
        self.transact(now);
    }

    /// An assignment has come. Where it brings everything anew, nothing of an older one may be committed.
    pub(super) fn note_generation(&mut self) {
        if let Some(transactions) = &mut self.transactions {
            let membership = self.client.membership();
            let generation = membership.map(|membership| membership.generation());
            transactions.generation = generation.filter(|_| !self.client.is_cooperative());
        }
    }

    /// A topic never accepts a record of this message, which was alone in its transaction.
    fn tell_refused(&self, item: &Item<Load>, part: usize, reason: String) {
        let epoch = item.lane.epoch;
        let mut held = self.held.values();
        let held = held.find(|held| held.epoch.partition.epoch == epoch);
        let parts = item.load.as_ref();
        let part = parts.and_then(|parts| parts.get(part).or(parts.first()));
        if let (Some(held), Some(part)) = (held, part) {
            held.worker.send(ToWorker::RefusedRecord {
                partition: held.epoch.partition.clone(),
                lane: item.lane.lane,
                number: item.number,
                listener: part.listener.to_string(),
                reason,
            });
        }
    }

    /// The messages of a call cannot be committed together.
    fn tell_to_divide(&self, item: &Item<Load>) {
        let epoch = item.lane.epoch;
        let mut held = self.held.values();
        if let Some(held) = held.find(|held| held.epoch.partition.epoch == epoch) {
            held.worker.send(ToWorker::Divide {
                partition: held.epoch.partition.clone(),
                lane: item.lane.lane,
                number: item.number,
            });
        }
    }

    fn say_second_process(&self) {
        let id = self.transactions.as_ref().map_or("", |one| &one.id.text);
        let sentence = format!(
            "consumer `{}`: another process uses its transactional id `{id}`; give each process its own \
             `daemon.stateDirectory`",
            self.name
        );
        // The first ending counts.
        let _ = self.endings.send(Ending::Failed(sentence));
    }

    /// Whether a partition that leaves has something to commit.
    pub(super) fn owes(&self, held: &Held) -> bool {
        match &self.transactions {
            None => held.needs_commit(),
            Some(transactions) => {
                transactions.machine.owes(held.epoch.partition.epoch) || held.moved()
            }
        }
    }

    /// Whether messages of the partition are in transactions that have not ended.
    pub(super) fn is_in_transaction(&self, held: &Held) -> bool {
        self.transactions.is_some() && self.owes(held)
    }

    /// Whether everything that is finished in the partition is committed.
    pub(super) fn is_all_committed(&self, held: &Held) -> bool {
        let Some(transactions) = &self.transactions else {
            return true;
        };
        let wanted = held.epoch.tracker.wanted();
        let is_in = wanted.position.offset == held.epoch.tracker.finished().offset;
        is_in
            && wanted.beyond.ranges.is_empty()
            && !transactions.machine.owes(held.epoch.partition.epoch)
    }

    /// Nothing of these epochs may be committed any more.
    pub(super) fn lose(&mut self, epochs: &[u64], now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let mut actions = Vec::new();
        for epoch in epochs {
            transactions.machine.lost(*epoch, &mut actions, now);
        }
        self.carry_out(actions, now);
    }

    pub(super) fn lose_where(&mut self, is_lost: impl Fn(&Held) -> bool, now: Instant) {
        let lost = self.held.values().filter(|held| is_lost(held));
        let epochs: Vec<u64> = lost.map(|held| held.epoch.partition.epoch).collect();
        self.lose(&epochs, now);
    }
}
