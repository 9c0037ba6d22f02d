//! A transaction whose end is not known: the group's offsets tell it, after the next producer has fenced the last one.

use std::sync::Arc;
use std::time::Instant;

use crate::assignment::Partition;
use crate::consumer::Consumer;
use crate::consumer::lookups::Lookup;
use crate::consumer::trouble::Subject;
use crate::kafka::{Error, TopicPartition};
use crate::log::log;
use crate::rules::transaction::Found;
use crate::threads::supervisor::Ending;

use super::ending::Wanted;

impl Consumer {
    /// Asks what the group's offsets tell of a transaction whose end is not known.
    pub(super) fn ask_back(&mut self, now: Instant) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let held = &self.held;
        transactions.wanted.retain(|wanted| {
            let held = held.get(&wanted.partition.key());
            held.is_some_and(|held| held.is_in(&wanted.partition))
        });
        if transactions.wanted.iter().any(|one| one.before.0.is_some()) {
            // The others tell nothing: their offsets before are not known.
            let is_known = |one: &&Wanted| one.before.0.is_some();
            let asked = transactions.wanted.iter().filter(is_known);
            let asked =
                asked.map(|one| TopicPartition::new(&one.partition.topic, one.partition.number));
            self.lookups.ask(Lookup::ReadBack(asked.collect()));
        } else {
            // No message of an epoch whose start is not committed was in the transaction.
            let actions = transactions.machine.read_back(Found::Nothing, now);
            self.carry_out(actions, now);
        }
    }

    /// The group's offsets.
    pub(in crate::consumer) fn read_back(
        &mut self,
        found: Result<Vec<TopicPartition>, Error>,
        now: Instant,
    ) {
        let Some(transactions) = &mut self.transactions else {
            return;
        };
        let (mut is_wanted, mut is_before, mut foreign) = (false, false, Vec::new());
        let mut error = found.as_ref().err().cloned();
        for one in found.unwrap_or_default() {
            error = error.or(one.error);
            let mut wanted = transactions.wanted.iter();
            let is_of = |wanted: &&Wanted| {
                let partition = &wanted.partition;
                partition.topic == one.topic && partition.number == one.partition
            };
            let Some(wanted) = wanted.find(is_of) else {
                continue;
            };
            let is_text = |text: &String| *text == one.metadata;
            if one.offset == wanted.offset && is_text(&wanted.text) {
                is_wanted = true;
            } else if Some(one.offset.max(-1)) == wanted.before.0.or(Some(-1))
                && wanted.before.1.as_ref().is_none_or(is_text)
            {
                is_before = true;
            } else {
                foreign.push(wanted.partition.clone());
            }
        }
        let found = match (error, is_wanted, is_before) {
            (Some(error), ..) => {
                self.trouble.note(&self.name, &error, Subject::Commits, now);
                Found::Unreachable
            }
            (None, true, false) => Found::Wanted,
            (None, false, true) => Found::Before,
            (None, false, false) => Found::Nothing,
            (None, true, true) => {
                let sentence = format!(
                    "consumer `{}`: the brokers have committed a part of a transaction",
                    self.name
                );
                // The first ending counts.
                let _ = self.endings.send(Ending::Failed(sentence));
                Found::Unreachable
            }
        };
        if found != Found::Unreachable {
            self.give_up_foreign(&foreign, now);
        }
        if let Some(transactions) = &mut self.transactions {
            let actions = transactions.machine.read_back(found, now);
            self.carry_out(actions, now);
        }
        self.transact(now);
    }

    /// Somebody else has committed other offsets: another member has these partitions, or another program wrote them.
    fn give_up_foreign(&mut self, partitions: &[Arc<Partition>], now: Instant) {
        if partitions.is_empty() {
            return;
        }
        let epochs: Vec<u64> = partitions.iter().map(|one| one.epoch).collect();
        let names = partitions
            .iter()
            .map(|one| format!("{}[{}]", one.topic, one.number));
        log!(
            warn,
            consumer,
            consumer = &*self.name,
            partitions = names.collect::<Vec<_>>().join(", "),
            "leaves the group and joins it again: the group has other offsets of its partitions than it committed"
        );
        self.lose(&epochs, now);
        if !self.phase.is_closing() {
            self.begin_leaving(now + self.drain_time(), true, now);
        }
    }
}
