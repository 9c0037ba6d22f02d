//! `tide.kafka.admin`: questions to the admin API of the brokers. The names are kafkajs'.

mod changes;
mod values;

use std::time::Duration;

use crate::duration::short;
use crate::lua::api::module::{Body, Caller, Entry, Module};
use crate::wait::admin::{Question, Request};
use crate::wait::{Fault, Job, Value};

use super::request;
use crate::lua::api::tide::options::{Fields, shown, timeout, whole};
use values::{Arguments, boolean, group, optional_names, resources, topic_of};

pub(in crate::lua::api::tide) const MODULE: Module = Module {
    path: "tide.kafka.admin",
    about: "Topics, groups and settings of the cluster.",
    entries: &[
        Entry {
            name: "listTopics",
            path: "tide.kafka.admin.listTopics",
            types: &[
                "Returns the names of all topics.",
                "@param options? { timeout?: number|string }",
                "@return string[]",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("listTopics", list_topics, caller, arguments)
            }),
        },
        Entry {
            name: "fetchTopicMetadata",
            path: "tide.kafka.admin.fetchTopicMetadata",
            types: &[
                "Returns the partitions of topics; without `topics` of all of them.",
                "@param options? { topics?: string[], timeout?: number|string }",
                "@return { topics: { name: string, partitions: table[] }[] }",
            ],
            body: Body::Outside(|caller, arguments| {
                ask(
                    "fetchTopicMetadata",
                    fetch_topic_metadata,
                    caller,
                    arguments,
                )
            }),
        },
        Entry {
            name: "fetchTopicOffsets",
            path: "tide.kafka.admin.fetchTopicOffsets",
            types: &[
                "Returns the first and the next offset of each partition of a topic.",
                "@param topic string",
                "@param options? { timeout?: number|string }",
                "@return { partition: integer, offset: integer, high: integer, low: integer }[]",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("fetchTopicOffsets", fetch_topic_offsets, caller, arguments)
            }),
        },
        Entry {
            name: "fetchTopicOffsetsByTimestamp",
            path: "tide.kafka.admin.fetchTopicOffsetsByTimestamp",
            types: &[
                "Returns for each partition of a topic the offset of the first message of this time or a later one.",
                "@param topic string",
                "@param timestamp? integer milliseconds since the epoch",
                "@param options? { timeout?: number|string }",
                "@return { partition: integer, offset: integer }[]",
            ],
            body: Body::Outside(|caller, arguments| {
                ask(
                    "fetchTopicOffsetsByTimestamp",
                    fetch_topic_offsets_by_timestamp,
                    caller,
                    arguments,
                )
            }),
        },
        Entry {
            name: "fetchOffsets",
            path: "tide.kafka.admin.fetchOffsets",
            types: &[
                "Returns the committed offsets of a group.",
                "@param options { groupId: string, topics?: string[], timeout?: number|string }",
                "@return { topic: string, partitions: { partition: integer, offset: integer, metadata?: string }[] }[]",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("fetchOffsets", fetch_offsets, caller, arguments)
            }),
        },
        Entry {
            name: "describeCluster",
            path: "tide.kafka.admin.describeCluster",
            types: &[
                "Returns the brokers, the controller and the id of the cluster.",
                "@param options? { timeout?: number|string }",
                "@return { brokers: { nodeId: integer, host: string, port: integer }[], controller: integer, clusterId?: string }",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("describeCluster", describe_cluster, caller, arguments)
            }),
        },
        Entry {
            name: "listGroups",
            path: "tide.kafka.admin.listGroups",
            types: &[
                "Returns all consumer groups.",
                "@param options? { timeout?: number|string }",
                "@return { groups: { groupId: string, protocolType: string }[] }",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("listGroups", list_groups, caller, arguments)
            }),
        },
        Entry {
            name: "describeGroups",
            path: "tide.kafka.admin.describeGroups",
            types: &[
                "Returns state and members of consumer groups.",
                "@param groupIds string[]",
                "@param options? { timeout?: number|string }",
                "@return { groups: { groupId: string, state: string, protocol: string, protocolType: string, members: table[] }[] }",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("describeGroups", describe_groups, caller, arguments)
            }),
        },
        Entry {
            name: "describeConfigs",
            path: "tide.kafka.admin.describeConfigs",
            types: &[
                "Returns the settings of topics, brokers and groups.",
                "@param options { resources: { type: string, name: string, configNames?: string[] }[], includeSynonyms?: boolean, timeout?: number|string }",
                "@return { resources: { resourceName: string, resourceType: string, configEntries: table[] }[] }",
            ],
            body: Body::Outside(|caller, arguments| {
                ask("describeConfigs", describe_configs, caller, arguments)
            }),
        },
        changes::CREATE_TOPICS,
        changes::CREATE_PARTITIONS,
        changes::DELETE_TOPICS,
        changes::DELETE_TOPIC_RECORDS,
        changes::SET_OFFSETS,
        changes::RESET_OFFSETS,
        changes::ALTER_CONFIGS,
        changes::DELETE_GROUPS,
    ],
};

/// The most time of a call: that of `requestTimeout`.
const TIMEOUT_MAX: Duration = Duration::from_secs(300);

/// Reads the arguments of a function. An error is the part of a sentence behind the name of the function.
type Read = fn(Arguments) -> Result<Request, String>;

fn ask(
    name: &'static str,
    read: Read,
    caller: &Caller<'_>,
    arguments: Vec<Value>,
) -> Result<Job, Fault> {
    let request = read(Arguments::of(arguments)).map_err(|reason| {
        let message = format!("`tide.kafka.admin.{name}`{reason}");
        Fault::new("invalid", message)
    })?;
    let Some(admin) = caller.admin else {
        let message = format!(
            "`tide.kafka.admin.{name}`: no admin client runs here; a handler or a timer of the daemon calls it"
        );
        return Err(Fault::new("closed", message));
    };
    let asking = admin.ask(request)?;
    caller.about.replace(Some(format!("admin.{name}")));
    // After its drop, too, the brokers do what they have been told to do.
    Ok(Job::new("kafka.admin", asking))
}

/// The fields of a table of options, `timeout` among them.
fn options(value: Value, names: &[&str]) -> Result<Fields, String> {
    let names = [names, &["timeout"]].concat();
    Fields::of(value, String::new(), "a table of options", &names)
}

/// As `options`, for a table that may be left out.
fn optional(value: Value, names: &[&str]) -> Result<Fields, String> {
    let value = match value {
        Value::Nil => Value::Table(Vec::new()),
        value => value,
    };
    options(value, names)
}

fn request(fields: &mut Fields, question: Question) -> Result<Request, String> {
    let timeout = timeout(fields)?;
    if let Some(long) = timeout.filter(|timeout| *timeout > TIMEOUT_MAX) {
        return fields.error(format!(
            "`timeout` is {}, more than {}",
            short(long),
            short(TIMEOUT_MAX)
        ));
    }
    Ok(Request { question, timeout })
}

fn list_topics(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    request(&mut optional(given, &[])?, Question::ListTopics)
}

fn fetch_topic_metadata(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = optional(given, &["topics"])?;
    let topics = optional_names(&mut fields, "topics", topic_of)?;
    request(&mut fields, Question::FetchTopicMetadata { topics })
}

fn fetch_topic_offsets(arguments: Arguments) -> Result<Request, String> {
    let [topic, given] = arguments.take()?;
    let topic = topic_of(topic).map_err(|found| format!(": `topic` is {found}"))?;
    let mut fields = optional(given, &[])?;
    request(&mut fields, Question::FetchTopicOffsets { topic })
}

fn fetch_topic_offsets_by_timestamp(arguments: Arguments) -> Result<Request, String> {
    let [topic, timestamp, given] = arguments.take()?;
    let topic = topic_of(topic).map_err(|found| format!(": `topic` is {found}"))?;
    let ms = match (&timestamp, whole(&timestamp)) {
        (Value::Nil, _) => None,
        (_, Some(ms)) if ms >= 0 => Some(ms),
        _ => {
            return Err(format!(
                ": `timestamp` is {}, not milliseconds since the epoch as an integer from 0",
                shown(&timestamp)
            ));
        }
    };
    let mut fields = optional(given, &[])?;
    request(
        &mut fields,
        Question::FetchTopicOffsetsByTimestamp { topic, ms },
    )
}

fn fetch_offsets(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["groupId", "topics"])?;
    let group = group(&mut fields)?;
    let topics = optional_names(&mut fields, "topics", topic_of)?;
    request(&mut fields, Question::FetchOffsets { group, topics })
}

fn describe_cluster(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    request(&mut optional(given, &[])?, Question::DescribeCluster)
}

fn list_groups(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    request(&mut optional(given, &[])?, Question::ListGroups)
}

fn describe_groups(arguments: Arguments) -> Result<Request, String> {
    let [groups, given] = arguments.take()?;
    let groups = values::groups(groups)?;
    let mut fields = optional(given, &[])?;
    request(&mut fields, Question::DescribeGroups { groups })
}

fn describe_configs(arguments: Arguments) -> Result<Request, String> {
    let [given] = arguments.take()?;
    let mut fields = options(given, &["resources", "includeSynonyms"])?;
    let resources = resources(&mut fields, &["configNames"], values::resource_query)?;
    let with_synonyms = boolean(&mut fields, "includeSynonyms", false)?;
    request(
        &mut fields,
        Question::DescribeConfigs {
            resources,
            with_synonyms,
        },
    )
}
