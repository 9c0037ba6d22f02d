//! Questions that change nothing. **Each call blocks.**

use std::collections::BTreeMap;
use std::sync::Arc;

use super::shape::{by_name, list, number, table, text};
use super::trouble::Trouble;
use crate::kafka::admin_request::{
    AdminRequests, Group, Member, PartitionMetadata, Setting, TopicMetadata,
};
use crate::kafka::{Error, TopicPartition};
use crate::wait::Value;
use crate::wait::admin::{BEGINNING, END, Resource, ResourceKind, ResourceQuery};

type Answer = Result<Value, Trouble>;

pub(super) fn topics(requests: &AdminRequests<'_>) -> Answer {
    let mut topics = requests.all_topics()?;
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(list(topics.iter().map(|topic| text(&topic.name))))
}

pub(super) fn metadata(requests: &AdminRequests<'_>, topics: Option<&[String]>) -> Answer {
    let mut topics = match topics {
        None => requests.all_topics()?,
        Some(names) => described(requests, names)?,
    };
    topics.sort_by(|one, other| one.name.cmp(&other.name));
    let topics = topics.iter().map(|topic| {
        let partitions = topic.partitions.iter().map(partition);
        table([
            ("name", text(&topic.name)),
            ("partitions", list(partitions)),
        ])
    });
    Ok(table([("topics", list(topics))]))
}

fn partition(partition: &PartitionMetadata) -> Value {
    let ids = |ids: &[i32]| list(ids.iter().map(|id| number(*id)));
    table([
        ("partitionErrorCode", number(partition.error)),
        ("partitionId", number(partition.id)),
        ("leader", number(partition.leader)),
        ("replicas", ids(&partition.replicas)),
        ("isr", ids(&partition.in_sync)),
    ])
}

/// The first topic with an error is the result.
fn described(
    requests: &AdminRequests<'_>,
    names: &[String],
) -> Result<Vec<TopicMetadata>, Trouble> {
    let topics = requests.topics(names)?.into_iter();
    topics
        .map(|topic| topic.map_err(|(name, error)| Trouble::of_topic(&name)(error)))
        .collect()
}

/// The partitions of a topic.
pub(super) fn partitions_of(
    requests: &AdminRequests<'_>,
    topic: &str,
) -> Result<Vec<i32>, Trouble> {
    let topics = described(requests, &[topic.to_owned()])?;
    let partitions = topics.iter().flat_map(|topic| &topic.partitions);
    Ok(partitions.map(|partition| partition.id).collect())
}

pub(super) fn offsets(requests: &AdminRequests<'_>, topic: &str) -> Answer {
    let partitions = partitions_of(requests, topic)?;
    let of = |place| {
        let offsets = requests.offsets_at(topic, &partitions, place);
        offsets.map_err(Trouble::of_topic(topic))
    };
    let (low, high) = (of(BEGINNING)?, of(END)?);
    let both = low.into_iter().zip(high);
    Ok(list(both.map(|((partition, low), (_, high))| {
        table([
            ("partition", number(partition)),
            ("offset", number(high)),
            ("high", number(high)),
            ("low", number(low)),
        ])
    })))
}

pub(super) fn offsets_at(requests: &AdminRequests<'_>, topic: &str, ms: Option<i64>) -> Answer {
    let partitions = partitions_of(requests, topic)?;
    let of = |partitions: &[i32], place| {
        let offsets = requests.offsets_at(topic, partitions, place);
        offsets.map_err(Trouble::of_topic(topic))
    };
    let mut found: BTreeMap<i32, i64> = of(&partitions, ms.unwrap_or(END))?.into_iter().collect();
    // A partition without such a message is at its end.
    let without = found.iter().filter(|(_, offset)| **offset < 0);
    let without: Vec<i32> = without.map(|(partition, _)| *partition).collect();
    found.extend(of(&without, END)?);
    Ok(list(found.into_iter().map(|(partition, offset)| {
        table([("partition", number(partition)), ("offset", number(offset))])
    })))
}

pub(super) fn committed(
    requests: &AdminRequests<'_>,
    group: &str,
    topics: Option<&[String]>,
) -> Answer {
    let asked = match topics {
        None => None,
        Some(topics) => Some(partitions_of_all(requests, topics)?),
    };
    let found = requests.committed_of(group, asked.as_deref());
    let mut by_topic: BTreeMap<Arc<str>, BTreeMap<i32, Value>> = BTreeMap::new();
    for one in found.map_err(Trouble::of_group(group))? {
        if let Some(error) = one.error {
            let place = format!("group `{group}`, `{}[{}]`: ", one.topic, one.partition);
            return Err(Trouble::at(place, error));
        }
        let metadata = if one.metadata.is_empty() {
            Value::Nil
        } else {
            text(&one.metadata)
        };
        let fields = table([
            ("partition", number(one.partition)),
            ("offset", number(one.offset.max(-1))),
            ("metadata", metadata),
        ]);
        let partitions = by_topic.entry(one.topic).or_default();
        partitions.insert(one.partition, fields);
    }
    Ok(list(by_topic.into_iter().map(|(topic, partitions)| {
        table([
            ("topic", text(&topic)),
            ("partitions", list(partitions.into_values())),
        ])
    })))
}

fn partitions_of_all(
    requests: &AdminRequests<'_>,
    topics: &[String],
) -> Result<Vec<TopicPartition>, Trouble> {
    let topics = described(requests, topics)?;
    let all = topics.iter().flat_map(|topic| {
        let name: Arc<str> = topic.name.as_str().into();
        let partitions = topic.partitions.iter();
        partitions.map(move |partition| TopicPartition::new(&name, partition.id))
    });
    Ok(all.collect())
}

pub(super) fn cluster(requests: &AdminRequests<'_>) -> Answer {
    let cluster = requests.cluster()?;
    let brokers = cluster.brokers.iter().map(|(id, host, port)| {
        table([
            ("nodeId", number(*id)),
            ("host", text(host)),
            ("port", number(*port)),
        ])
    });
    let id = cluster.id.as_deref().map_or(Value::Nil, text);
    Ok(table([
        ("brokers", list(brokers)),
        ("controller", number(cluster.controller)),
        ("clusterId", id),
    ]))
}

fn protocol_type(is_simple: bool) -> Value {
    text(if is_simple { "" } else { "consumer" })
}

pub(super) fn groups(requests: &AdminRequests<'_>) -> Answer {
    let groups = requests.groups()?.into_iter().map(|(id, is_simple)| {
        table([
            ("groupId", text(&id)),
            ("protocolType", protocol_type(is_simple)),
        ])
    });
    Ok(table([("groups", list(groups))]))
}

pub(super) fn describe_groups(requests: &AdminRequests<'_>, groups: &[String]) -> Answer {
    let found = requests.describe_groups(groups)?.into_iter();
    let found = found.map(|group| match group {
        Ok(group) => Ok(described_group(&group)),
        // Older brokers describe such a group as one without members.
        Err((id, error)) if error.is_missing_group() => Ok(described_group(&Group {
            id,
            is_simple: true,
            state: "Dead".to_owned(),
            assignor: String::new(),
            members: Vec::new(),
        })),
        Err((id, error)) => Err(Trouble::of_group(&id)(error)),
    });
    let found = found.collect::<Result<Vec<_>, _>>()?;
    Ok(table([("groups", list(found))]))
}

fn described_group(group: &Group) -> Value {
    table([
        ("errorCode", number(0)),
        ("groupId", text(&group.id)),
        ("members", list(group.members.iter().map(member))),
        ("protocol", text(&group.assignor)),
        ("protocolType", protocol_type(group.is_simple)),
        ("state", text(&group.state)),
    ])
}

fn member(member: &Member) -> Value {
    let mut by_topic: BTreeMap<String, Vec<Value>> = BTreeMap::new();
    for one in &member.assignment {
        let partitions = by_topic.entry(one.topic.to_string()).or_default();
        partitions.push(number(one.partition));
    }
    let assignment = by_topic.into_iter();
    let assignment = assignment.map(|(topic, partitions)| (topic, list(partitions)));
    table([
        ("clientHost", text(&member.host)),
        ("clientId", text(&member.client_id)),
        ("memberId", text(&member.id)),
        (
            "groupInstanceId",
            member.instance.as_deref().map_or(Value::Nil, text),
        ),
        ("memberAssignment", by_name(assignment)),
    ])
}

pub(super) fn configs(
    requests: &AdminRequests<'_>,
    resources: &[ResourceQuery],
    with_synonyms: bool,
) -> Answer {
    let mut found = Vec::new();
    let (brokers, others): (Vec<_>, Vec<_>) = resources
        .iter()
        .map(|asked| &asked.resource)
        .partition(|resource| resource.kind == ResourceKind::Broker);
    if !others.is_empty() {
        found.extend(requests.describe_configs(&others)?);
    }
    // Each broker tells its own settings.
    for broker in brokers {
        let told = requests.describe_configs(&[broker]);
        found.extend(told.map_err(|error| of_resource(broker, error))?);
    }
    let of = |asked: &ResourceQuery| {
        let mut told = found.iter();
        let told = told.find(|(resource, _)| *resource == asked.resource);
        match told {
            Some((resource, Ok(settings))) => Ok(settings_of(
                resource,
                settings,
                asked.names.as_deref(),
                with_synonyms,
            )),
            Some((resource, Err(error))) => Err(of_resource(resource, error.clone())),
            None => Err(of_resource(
                &asked.resource,
                Error::fatal("the answer has not this resource"),
            )),
        }
    };
    let all = resources.iter().map(of).collect::<Result<Vec<_>, _>>()?;
    Ok(table([("resources", list(all))]))
}

pub(super) fn of_resource(resource: &Resource, error: Error) -> Trouble {
    let place = format!("{} `{}`: ", resource.kind.word(), resource.name);
    Trouble::at(place, error)
}

fn settings_of(
    resource: &Resource,
    settings: &[Setting],
    names: Option<&[String]>,
    with_synonyms: bool,
) -> Value {
    let is_asked = |one: &&Setting| names.is_none_or(|names| names.contains(&one.name));
    let entries = settings.iter().filter(is_asked);
    let entries = entries.map(|one| setting(one, with_synonyms));
    table([
        ("errorCode", number(0)),
        ("resourceName", text(&resource.name)),
        ("resourceType", text(resource.kind.word())),
        ("configEntries", list(entries)),
    ])
}

fn setting(one: &Setting, with_synonyms: bool) -> Value {
    let value = |one: &Setting| one.value.as_deref().map_or(Value::Nil, text);
    let synonyms = || {
        list(one.synonyms.iter().map(|synonym| {
            table([
                ("configName", text(&synonym.name)),
                ("configValue", value(synonym)),
                ("configSource", number(synonym.source)),
            ])
        }))
    };
    table([
        ("configName", text(&one.name)),
        ("configValue", value(one)),
        ("configSource", number(one.source)),
        ("isDefault", Value::Boolean(one.is_default)),
        ("isSensitive", Value::Boolean(one.is_sensitive)),
        ("readOnly", Value::Boolean(one.is_read_only)),
        (
            "configSynonyms",
            if with_synonyms {
                synonyms()
            } else {
                Value::Nil
            },
        ),
    ])
}
