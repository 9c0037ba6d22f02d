//! The functions of `tide.kafka.admin` that change something, and their options.

use super::super::request::topic;
use super::values::{
    Arguments, boolean, group, groups, partition_offsets, resources, settings, tables, topics,
};
use super::{ask, optional, options, request};
use crate::lua::api::module::{Body, Entry};
use crate::lua::api::tide::options::{Fields, integer, kind, list, whole};
use crate::wait::Value;
use crate::wait::admin::{
    Altered, BEGINNING, END, MorePartitions, NewTopic, Question, Request, Resource,
};

pub(super) const CREATE_TOPICS: Entry = Entry {
    name: "createTopics",
    path: "tide.kafka.admin.createTopics",
    types: &[
        "Creates topics. Returns false if some of them are there already.",
        "@param options { topics: { topic: string, numPartitions?: integer, replicationFactor?: integer, replicaAssignment?: table[], configEntries?: { name: string, value: string }[] }[], validateOnly?: boolean, waitForLeaders?: boolean, timeout?: number|string }",
        "@return boolean",
    ],
    body: Body::Outside(|caller, arguments| ask("createTopics", create_topics, caller, arguments)),
};

pub(super) const CREATE_PARTITIONS: Entry = Entry {
    name: "createPartitions",
    path: "tide.kafka.admin.createPartitions",
    types: &[
        "Adds partitions to topics; `count` is the number afterwards.",
        "@param options { topicPartitions: { topic: string, count: integer, assignments?: integer[][] }[], validateOnly?: boolean, timeout?: number|string }",
    ],
    body: Body::Outside(|caller, arguments| {
        ask("createPartitions", create_partitions, caller, arguments)
    }),
};

pub(super) const DELETE_TOPICS: Entry = Entry {
    name: "deleteTopics",
    path: "tide.kafka.admin.deleteTopics",
    types: &[
        "Deletes topics with all their messages.",
        "@param options { topics: string[], timeout?: number|string }",
    ],
    body: Body::Outside(|caller, arguments| ask("deleteTopics", delete_topics, caller, arguments)),
};

pub(super) const DELETE_TOPIC_RECORDS: Entry = Entry {
    name: "deleteTopicRecords",
    path: "tide.kafka.admin.deleteTopicRecords",
    types: &[
        "Deletes the messages of partitions before an offset; -1 deletes all.",
        "@param options { topic: string, partitions: { partition: integer, offset: integer|string }[], timeout?: number|string }",
    ],
    body: Body::Outside(|caller, arguments| {
        ask(
            "deleteTopicRecords",
            delete_topic_records,
            caller,
            arguments,
        )
    }),
};

pub(super) const SET_OFFSETS: Entry = Entry {
    name: "setOffsets",
    path: "tide.kafka.admin.setOffsets",
    types: &[
        "Commits offsets for a group without members.",
        "@param options { groupId: string, topic: string, partitions: { partition: integer, offset: integer|string }[], timeout?: number|string }",
    ],
    body: Body::Outside(|caller, arguments| ask("setOffsets", set_offsets, caller, arguments)),
};

pub(super) const RESET_OFFSETS: Entry = Entry {
    name: "resetOffsets",
    path: "tide.kafka.admin.resetOffsets",
    types: &[
        "Commits the end of each partition of a topic for a group without members; with `earliest` the beginning.",
        "@param options { groupId: string, topic: string, earliest?: boolean, timeout?: number|string }",
    ],
    body: Body::Outside(|caller, arguments| ask("resetOffsets", reset_offsets, caller, arguments)),
};

pub(super) const ALTER_CONFIGS: Entry = Entry {
    name: "alterConfigs",
    path: "tide.kafka.admin.alterConfigs",
    types: &[
        "Changes the named settings of topics, brokers and groups; `tide.null` sets one back to its default.",
        "@param options { resources: { type: string, name: string, configEntries: { name: string, value: string|lightuserdata }[] }[], validateOnly?: boolean, timeout?: number|string }",
        "@return { resources: { resourceName: string, resourceType: string, errorCode: integer }[] }",
    ],
    body: Body::Outside(|caller, arguments| ask("alterConfigs", alter_configs, caller, arguments)),
};

pub(super) const DELETE_GROUPS: Entry = Entry {
    name: "deleteGroups",
    path: "tide.kafka.admin.deleteGroups",
    types: &[
        "Deletes groups without members, and their offsets.",
        "@param groupIds string[]",
        "@param options? { timeout?: number|string }",
        "@return { groupId: string, errorCode: integer }[]",
    ],
    body: Body::Outside(|caller, arguments| ask("deleteGroups", delete_groups, caller, arguments)),
};

fn create_topics(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["topics", "validateOnly", "waitForLeaders"])?;
    let names = [
        "topic",
        "numPartitions",
        "replicationFactor",
        "replicaAssignment",
        "configEntries",
    ];
    let topics = tables(&mut fields, "topics", &names)?;
    let topics = topics.into_iter().map(new_topic);
    let topics: Vec<NewTopic> = topics.collect::<Result<_, _>>()?;
    once(&fields, topics.iter().map(|topic| &topic.name))?;
    let validate_only = boolean(&mut fields, "validateOnly", false)?;
    let wait_for_leaders = boolean(&mut fields, "waitForLeaders", true)?;
    request(
        &mut fields,
        Question::CreateTopics {
            topics,
            validate_only,
            wait_for_leaders,
        },
    )
}

fn new_topic(mut fields: Fields) -> Result<NewTopic, String> {
    let fields = &mut fields;
    let name = topic(fields)?;
    let partitions = integer(fields, "numPartitions", -1, 100_000)?.unwrap_or(-1);
    let replication = integer(fields, "replicationFactor", -1, i16::MAX.into())?.unwrap_or(-1);
    if partitions == 0 || replication == 0 {
        return fields.error("`numPartitions` and `replicationFactor` are at least 1, or -1 for the brokers' default");
    }
    let replicas = if fields.has("replicaAssignment") {
        if partitions != -1 || replication != -1 {
            return fields.error(
                "`replicaAssignment` stands beside `numPartitions` or `replicationFactor`; it gives both, so leave them \
                 out",
            );
        }
        assignment(fields)?
    } else {
        Vec::new()
    };
    let settings = if fields.has("configEntries") {
        settings(fields, false)?
    } else {
        Vec::new()
    };
    let settings = settings.into_iter();
    Ok(NewTopic {
        name,
        partitions: partitions as i32,
        replication: replication as i32,
        replicas,
        settings: settings
            .filter_map(|(name, value)| Some((name, value?)))
            .collect(),
    })
}

/// The brokers of each partition, from partition 0 on.
fn assignment(fields: &mut Fields) -> Result<Vec<Vec<i32>>, String> {
    let mut by_partition = Vec::new();
    for mut entry in tables(fields, "replicaAssignment", &["partition", "replicas"])? {
        let Some(partition) = integer(&mut entry, "partition", 0, i32::MAX.into())? else {
            return entry.error("`partition` is missing");
        };
        let brokers = brokers(entry.take("replicas"));
        match brokers {
            Ok(brokers) => by_partition.push((partition, brokers)),
            Err(found) => return entry.error(format!("`replicas` is {found}")),
        }
    }
    by_partition.sort_by_key(|(partition, _)| *partition);
    let is_whole = (0..)
        .zip(&by_partition)
        .all(|(at, (partition, _))| at == *partition);
    if !is_whole {
        return fields.error("`replicaAssignment` has a partition twice, or none for a lower one");
    }
    Ok(by_partition
        .into_iter()
        .map(|(_, brokers)| brokers)
        .collect())
}

/// The ids of brokers; an error describes the value.
fn brokers(value: Value) -> Result<Vec<i32>, String> {
    let what = "a list of ids of brokers";
    let values = list(value).map_err(|found| format!("{found}, not {what}"))?;
    if values.is_empty() {
        return Err(format!("empty, not {what}"));
    }
    let id = |value: &Value| {
        let id = whole(value).and_then(|id| i32::try_from(id).ok());
        id.filter(|id| *id >= 0)
            .ok_or_else(|| format!("a list with {}, not {what}", kind(value)))
    };
    values.iter().map(id).collect()
}

/// Raises for a topic that is named twice.
fn once<'n>(fields: &Fields, names: impl Iterator<Item = &'n String>) -> Result<(), String> {
    let mut names: Vec<_> = names.collect();
    names.sort_unstable();
    match names.windows(2).find(|pair| pair[0] == pair[1]) {
        Some(pair) => fields.error(format!("topic `{}` is there twice", pair[0])),
        None => Ok(()),
    }
}

fn create_partitions(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["topicPartitions", "validateOnly"])?;
    let names = ["topic", "count", "assignments"];
    let mut topics = Vec::new();
    for mut entry in tables(&mut fields, "topicPartitions", &names)? {
        let topic = topic(&mut entry)?;
        let Some(count) = integer(&mut entry, "count", 1, 100_000)? else {
            return entry.error("`count` is missing: the number of partitions afterwards");
        };
        let replicas = match entry.take("assignments") {
            Value::Nil => Ok(Vec::new()),
            value => list(value)
                .map_err(|found| format!("{found}, not a list of lists of ids of brokers"))
                .and_then(|all| all.into_iter().map(brokers).collect()),
        };
        match replicas {
            Ok(replicas) => topics.push(MorePartitions {
                topic,
                count: count as usize,
                replicas,
            }),
            Err(found) => return entry.error(format!("`assignments` is {found}")),
        }
    }
    once(&fields, topics.iter().map(|more| &more.topic))?;
    let validate_only = boolean(&mut fields, "validateOnly", false)?;
    request(
        &mut fields,
        Question::CreatePartitions {
            topics,
            validate_only,
        },
    )
}

fn delete_topics(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["topics"])?;
    let topics = topics(&mut fields)?;
    request(&mut fields, Question::DeleteTopics { topics })
}

fn delete_topic_records(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["topic", "partitions"])?;
    let topic = topic(&mut fields)?;
    let partitions = partition_offsets(&mut fields, END)?;
    request(
        &mut fields,
        Question::DeleteTopicRecords { topic, partitions },
    )
}

fn set_offsets(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["groupId", "topic", "partitions"])?;
    let (group, topic) = (group(&mut fields)?, topic(&mut fields)?);
    let partitions = partition_offsets(&mut fields, BEGINNING)?;
    request(
        &mut fields,
        Question::SetOffsets {
            group,
            topic,
            partitions,
        },
    )
}

fn reset_offsets(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["groupId", "topic", "earliest"])?;
    let (group, topic) = (group(&mut fields)?, topic(&mut fields)?);
    let to_beginning = boolean(&mut fields, "earliest", false)?;
    request(
        &mut fields,
        Question::ResetOffsets {
            group,
            topic,
            to_beginning,
        },
    )
}

fn alter_configs(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["resources", "validateOnly"])?;
    let resources = resources(&mut fields, &["configEntries"], altered)?;
    let validate_only = boolean(&mut fields, "validateOnly", false)?;
    request(
        &mut fields,
        Question::AlterConfigs {
            resources,
            validate_only,
        },
    )
}

fn altered(fields: &mut Fields, resource: Resource) -> Result<Altered, String> {
    let settings = settings(fields, true)?;
    Ok(Altered { resource, settings })
}

fn delete_groups(arguments: Arguments) -> Result<Request, String> {
    let [given, further] = arguments.take()?;
    let groups = groups(given)?;
    let mut fields = optional(further, &[])?;
    request(&mut fields, Question::DeleteGroups { groups })
}
