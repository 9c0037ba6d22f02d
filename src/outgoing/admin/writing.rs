//! Changes of topics, groups and settings. **Each call blocks.**

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::reading::{of_resource, partitions_of};
use super::shape::{list, number, table, text};
use super::trouble::Trouble;
use crate::kafka::admin_request::{AdminRequests, Changes};
use crate::kafka::{Error, TopicPartition};
use crate::wait::Value;
use crate::wait::admin::{
    Altered, BEGINNING, END, MorePartitions, NewTopic, PartitionOffset, ResourceKind,
};

type Answer = Result<Value, Trouble>;

/// The interval between two looks for the leaders of a new topic.
const LOOK: Duration = Duration::from_millis(100);

/// True if all topics are new; false if some are there already, and the others are new.
pub(super) fn create_topics(
    requests: &AdminRequests<'_>,
    topics: &[NewTopic],
    validate_only: bool,
    wait_for_leaders: bool,
) -> Answer {
    let changes = requests.create_topics(topics, validate_only)?;
    let exists = |(_, result): &(String, Result<(), Error>)| {
        result.as_ref().is_err_and(Error::is_existing_topic)
    };
    let failed = changes.iter().filter(|one| one.1.is_err());
    if !failed.clone().all(exists) {
        return Err(Trouble::Changes("topic", changes));
    }
    let is_new = failed.count() == 0;
    if wait_for_leaders && !validate_only {
        let new = changes.iter().filter(|(_, result)| result.is_ok());
        let new: Vec<String> = new.map(|(name, _)| name.clone()).collect();
        leaders(requests, &new)?;
    }
    Ok(Value::Boolean(is_new))
}

/// Waits until each partition of these topics has a leader.
fn leaders(requests: &AdminRequests<'_>, topics: &[String]) -> Result<(), Trouble> {
    loop {
        let found = requests.topics(topics)?;
        let has_leaders = found.iter().all(|topic| match topic {
            Ok(topic) => {
                let mut partitions = topic.partitions.iter();
                !topic.partitions.is_empty() && partitions.all(|one| one.leader >= 0)
            }
            // A broker that has not heard of the topic yet.
            Err(_) => false,
        });
        if has_leaders || !(requests.is_wanted)() {
            return Ok(());
        }
        if Instant::now() + LOOK >= requests.deadline {
            return Err(Trouble::WithoutLeader(topics.to_vec()));
        }
        std::thread::sleep(LOOK);
    }
}

pub(super) fn create_partitions(
    requests: &AdminRequests<'_>,
    topics: &[MorePartitions],
    validate_only: bool,
) -> Answer {
    let changes = requests.create_partitions(topics, validate_only)?;
    Trouble::check("topic", changes).map(|()| Value::Nil)
}

pub(super) fn delete_topics(requests: &AdminRequests<'_>, topics: &[String]) -> Answer {
    let changes = requests.delete_topics(topics)?;
    Trouble::check("topic", changes).map(|()| Value::Nil)
}

pub(super) fn delete_records(
    requests: &AdminRequests<'_>,
    topic: &str,
    partitions: &[PartitionOffset],
) -> Answer {
    let before = native_offsets(topic, partitions);
    let done = requests
        .delete_before(&before)
        .map_err(Trouble::of_topic(topic))?;
    Trouble::check("partition", by_partition(done)).map(|()| Value::Nil)
}

fn native_offsets(topic: &str, partitions: &[PartitionOffset]) -> Vec<TopicPartition> {
    let topic: Arc<str> = topic.into();
    let offsets = partitions.iter();
    offsets
        .map(|place| TopicPartition::at(&topic, place.partition, place.offset, -1))
        .collect()
}

fn by_partition(done: Vec<TopicPartition>) -> Changes {
    let done = done.into_iter();
    done.map(|one| {
        let name = format!("{}[{}]", one.topic, one.partition);
        (name, one.error.map_or(Ok(()), Err))
    })
    .collect()
}

pub(super) fn set_offsets(
    requests: &AdminRequests<'_>,
    group: &str,
    topic: &str,
    partitions: &[PartitionOffset],
) -> Answer {
    let mut offsets = native_offsets(topic, partitions);
    for words in [BEGINNING, END] {
        let meant = partitions.iter().filter(|place| place.offset == words);
        let meant: Vec<i32> = meant.map(|one| one.partition).collect();
        let found = requests.offsets_at(topic, &meant, words);
        for (partition, offset) in found.map_err(Trouble::of_topic(topic))? {
            let mut these = offsets.iter_mut();
            if let Some(one) = these.find(|one| one.partition == partition) {
                one.offset = offset;
            }
        }
    }
    let done = requests
        .commit_for(group, &offsets)
        .map_err(Trouble::of_group(group))?;
    Trouble::check("partition", by_partition(done)).map(|()| Value::Nil)
}

pub(super) fn reset_offsets(
    requests: &AdminRequests<'_>,
    group: &str,
    topic: &str,
    to_beginning: bool,
) -> Answer {
    let offset = if to_beginning { BEGINNING } else { END };
    let partitions = partitions_of(requests, topic)?.into_iter();
    let offsets = partitions.map(|partition| PartitionOffset { partition, offset });
    set_offsets(requests, group, topic, &offsets.collect::<Vec<_>>())
}

pub(super) fn alter_configs(
    requests: &AdminRequests<'_>,
    resources: &[Altered],
    validate_only: bool,
) -> Answer {
    let (brokers, others): (Vec<_>, Vec<_>) = resources
        .iter()
        .partition(|altered| altered.resource.kind == ResourceKind::Broker);
    let mut done = Vec::new();
    if !others.is_empty() {
        done.extend(requests.alter_configs(&others, validate_only)?);
    }
    // Each broker changes its own settings.
    for broker in brokers {
        let changed = requests.alter_configs(&[broker], validate_only);
        done.extend(changed.map_err(|error| of_resource(&broker.resource, error))?);
    }
    let names = done.iter().map(|(resource, result)| {
        let name = format!("{} {}", resource.kind.word(), resource.name);
        (name, result.clone())
    });
    Trouble::check("settings of", names.collect())?;
    let resources = done.iter().map(|(resource, _)| {
        table([
            ("errorCode", number(0)),
            ("resourceName", text(&resource.name)),
            ("resourceType", text(resource.kind.word())),
        ])
    });
    Ok(table([("resources", list(resources))]))
}

pub(super) fn delete_groups(requests: &AdminRequests<'_>, groups: &[String]) -> Answer {
    let changes = requests.delete_groups(groups)?;
    Trouble::check("group", changes)?;
    let groups = groups
        .iter()
        .map(|group| table([("groupId", text(group)), ("errorCode", number(0))]));
    Ok(list(groups))
}
