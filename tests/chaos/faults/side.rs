//! A topic beside the load: made by one fault, with a listener that a reload brings and another takes away.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer as _};

use crate::cluster::{Cluster, committed};
use crate::stage::Stage;
use crate::support::client::{Message, Topic};
use crate::support::kafka::unique;

pub(super) const HANDLED: Duration = Duration::from_secs(90);
const REQUEST: Duration = Duration::from_secs(5);

/// A topic of this fault alone, and a listener for it.
pub(super) fn listen(
    stage: &mut Stage,
    name: &str,
    partitions: i32,
    settings: &[(&str, &str)],
) -> String {
    let name = unique(name);
    stage.cluster.create_topic(&name, partitions, settings);
    listen_to(stage, &name);
    name
}

pub(super) fn listen_to(stage: &mut Stage, name: &str) {
    stage.fleet.side_topic = Some(name.to_owned());
    stage.fleet.write_all();
}

pub(super) fn forget(stage: &mut Stage) {
    stage.fleet.side_topic = None;
    stage.fleet.side_policy.clear();
    stage.fleet.write_all();
}

/// Any broker that runs tells where the others are.
pub(super) fn topic<'a>(cluster: &'a Cluster, name: &str) -> Topic<'a> {
    let node = cluster.nodes.iter().find(|node| node.is_running());
    node.expect("a broker runs").existing_topic(name)
}

pub(super) fn produce(stage: &Stage, name: &str, word: &str, range: Range<u32>) {
    let messages = range.map(|number| Message::value(format!("{word}-{number}")));
    topic(&stage.cluster, name).produce(messages.map(|message| message.partition(0)));
}

/// Until all of them are handled, however often.
pub(super) fn wait_for(stage: &mut Stage, name: &str, word: &str, range: Range<u32>) {
    let expected: Vec<String> = range.map(|number| format!("{word}-{number}")).collect();
    stage.wait(
        &format!("`{word}` of {name} is handled"),
        HANDLED,
        |stage| {
            let values = handled(stage, name);
            expected.iter().all(|value| values.contains(value))
        },
    );
}

fn handled(stage: &Stage, name: &str) -> BTreeSet<String> {
    stage.fleet.side_values(name).into_iter().collect()
}

/// The messages of a topic that are to be handled, by place.
pub(super) struct Ledger {
    name: String,
    partitions: i32,
    reader: BaseConsumer,
    values: BTreeMap<(i32, i64), String>,
}

impl Ledger {
    pub(super) fn new(stage: &Stage, name: &str, partitions: i32) -> Self {
        Self {
            name: name.to_owned(),
            partitions,
            reader: stage.cluster.reader(&stage.fleet.group),
            values: BTreeMap::new(),
        }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    pub(super) fn owe(&mut self, place: (i32, i64), value: &str) {
        self.values.insert(place, value.to_owned());
    }

    /// Nobody waits for these any more.
    pub(super) fn forgive(&mut self, is_forgiven: impl Fn(&str) -> bool) {
        self.values.retain(|_, value| !is_forgiven(value));
    }

    fn committed(&self) -> BTreeMap<i32, i64> {
        committed(&self.reader, &self.name, self.partitions).unwrap_or_default()
    }

    /// Until the group has committed everything that stands in the topic.
    pub(super) fn wait_for_commits(&self, stage: &mut Stage) {
        stage.wait(
            &format!("all of {} is committed", self.name),
            HANDLED,
            |_| {
                let committed = self.committed();
                (0..self.partitions).all(|partition| {
                    let end = self.reader.fetch_watermarks(&self.name, partition, REQUEST);
                    let committed = committed.get(&partition).copied().unwrap_or_default();
                    end.is_ok_and(|(_, end)| committed == end)
                })
            },
        );
    }

    /// Whether all is handled that has to be. Ends the run where an offset is committed beyond one that is not.
    pub(super) fn is_handled(&self, stage: &mut Stage) -> bool {
        self.unhandled(stage).is_empty()
    }

    /// As `is_handled`, with the values.
    pub(super) fn unhandled(&self, stage: &mut Stage) -> Vec<String> {
        // First the commits, then the record: what ends in between is not held against the commit.
        let committed = self.committed();
        let handled = handled(stage, &self.name);
        let missing: Vec<_> = self
            .values
            .iter()
            .filter(|(_, value)| !handled.contains(*value))
            .collect();
        let early: Vec<_> = missing
            .iter()
            .filter(|((partition, offset), _)| {
                committed.get(partition).is_some_and(|one| offset < one)
            })
            .take(10)
            .collect();
        if !early.is_empty() {
            let name = &self.name;
            stage.fail(&format!(
                "{name}: {committed:?} is committed, and not handled are {early:?}"
            ));
        }
        missing
            .into_iter()
            .map(|(_, value)| value.clone())
            .collect()
    }

    pub(super) fn wait(&self, stage: &mut Stage, what: &str) {
        stage.wait(
            &format!("{what} of {} is handled", self.name),
            HANDLED,
            |stage| self.is_handled(stage),
        );
    }
}
