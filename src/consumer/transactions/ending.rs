//! The end of a transaction: the positions that it commits, and what follows when it has.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Instant;

use crate::assignment::{Partition, ToWorker};
use crate::clock::now_ms;
use crate::consumer::Consumer;
use crate::consumer::held::{Held, TopicState};
use crate::consumer::lookups::Lookup;
use crate::kafka::TopicPartition;
use crate::log::log;
use crate::outgoing::transactions::End;
use crate::rules::commit_metadata;
use crate::rules::start_offset;
use crate::rules::transaction::{Answer, Item, Why};

use super::Load;

/// What a transaction commits of a partition.
pub(super) struct Wanted {
    pub(super) partition: Arc<Partition>,
    /// The group's offset before, and its metadata as far as it is known.
    pub(super) before: (Option<i64>, Option<String>),
    pub(super) offset: i64,
    pub(super) text: String,
}

impl Held {
    /// What a transaction commits of this partition.
    fn wanted(&self, most: usize) -> Option<(TopicPartition, Wanted)> {
        let wanted = self.epoch.tracker.wanted();
        let (partition, position) = (&self.epoch.partition, wanted.position);
        let is_first = self.epoch.commit_now && self.epoch.is_first_start;
        let text = if is_first && self.epoch.tracker.is_untouched() {
            start_offset::mark(now_ms())
        } else {
            let place = commit_metadata::Agreement {
                offset: position.offset,
                leader_epoch: position.leader_epoch,
                listeners: self.plan.listeners_hash,
            };
            commit_metadata::encode_all(place, &wanted.beyond, most)?
        };
        let mut one = TopicPartition::at(
            &partition.topic,
            partition.number,
            position.offset,
            position.leader_epoch,
        );
        one.metadata.clone_from(&text);
        let wanted = Wanted {
            partition: partition.clone(),
            before: (self.epoch.committed, self.epoch.committed_text.clone()),
            offset: position.offset,
            text,
        };
        Some((one, wanted))
    }
}

impl Consumer {
    pub(super) fn end_transaction(&mut self, epochs: &[u64], now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        transactions.wanted.clear();
        let (mut offsets, mut fits) = (Vec::new(), true);
        let belongs = |held: &&Held| epochs.contains(&held.epoch.partition.epoch) || held.moved();
        for held in self.held.values().filter(belongs) {
            match held.wanted(transactions.metadata) {
                Some((one, wanted)) => {
                    offsets.push(one);
                    transactions.wanted.push(wanted);
                }
                None => fits = false,
            }
        }
        if !fits {
            let answer = Answer::NotCommitted(Why::Metadata);
            let text = "what is finished beyond the position does not fit into its metadata";
            let number = transactions.number;
            return self.answered(number, answer, Some(text.to_owned()), now);
        }
        let end = End {
            offsets,
            client: self.client.clone(),
            generation: transactions.generation,
        };
        self.with_producer(|producer| producer.end(end));
    }

    pub(super) fn committed_all(&mut self, items: Vec<Item<Load>>, now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let mut first = Vec::new();
        for wanted in transactions.wanted.drain(..) {
            let held = self.held.get_mut(&wanted.partition.key());
            let Some(held) = held.filter(|held| held.is_in(&wanted.partition)) else {
                continue;
            };
            if held.topic == TopicState::Recreated {
                held.topic = TopicState::Known;
                first.push(held.key());
            }
            held.epoch.committed = Some(wanted.offset);
            held.epoch.committed_text = Some(wanted.text);
            held.epoch.commit_now = false;
            held.epoch.rewrites_metadata = false;
            held.epoch.finished_since_commit = 0;
            held.last_commit = now;
        }
        let mut settled: HashMap<u64, Vec<(u64, u64)>> = HashMap::new();
        for item in items.into_iter().filter(|item| item.load.is_some()) {
            let messages = settled.entry(item.lane.epoch).or_default();
            messages.extend(item.members().map(|one| (one.lane, one.number)));
        }
        for held in self.held.values_mut() {
            held.epoch.tracker.settle();
            let epoch = held.epoch.partition.epoch;
            if let Some(messages) = settled.remove(&epoch) {
                held.worker.send(ToWorker::Settled { epoch, messages });
            }
        }
        for key in first {
            self.lookups.ask(Lookup::Committed(key));
        }
        self.counts.commits += 1;
        self.intake.look_anew();
    }

    pub(super) fn shorten_metadata(&mut self) {
        if let Some(transactions) = &mut self.transactions {
            transactions.metadata /= 2;
            log!(
                warn,
                consumer,
                consumer = &*self.name,
                bytes = transactions.metadata,
                "the brokers take less metadata with an offset (`offset.metadata.max.bytes`): more messages wait for \
                 those before them"
            );
        }
    }
}
