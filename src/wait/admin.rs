//! The question of a handler to the admin API of the brokers, and its answer. Knows neither Lua nor Kafka.
//!
//! The API of handlers makes a [`Request`], and an [`Admin`] that it was given carries it out. The names are kafkajs'.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::time::Duration;

use super::{Fault, Value};

/// The functions that change nothing: handlers may call them unless the configuration says otherwise.
pub(crate) const READING: [&str; 9] = [
    "listTopics",
    "fetchTopicMetadata",
    "fetchTopicOffsets",
    "fetchTopicOffsetsByTimestamp",
    "fetchOffsets",
    "describeCluster",
    "listGroups",
    "describeGroups",
    "describeConfigs",
];

/// The functions that change topics, groups or settings.
pub(crate) const WRITING: [&str; 8] = [
    "createTopics",
    "createPartitions",
    "deleteTopics",
    "deleteTopicRecords",
    "setOffsets",
    "resetOffsets",
    "alterConfigs",
    "deleteGroups",
];

/// One call of a function.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) question: Question,
    /// `None`: `requestTimeout` of the connection.
    pub(crate) timeout: Option<Duration>,
}

#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Question {
    ListTopics,
    FetchTopicMetadata {
        /// `None`: all topics.
        topics: Option<Vec<String>>,
    },
    FetchTopicOffsets {
        topic: String,
    },
    FetchTopicOffsetsByTimestamp {
        topic: String,
        /// Milliseconds since the epoch; `None`: the end of each partition.
        ms: Option<i64>,
    },
    FetchOffsets {
        group: String,
        /// `None`: every topic in which the group has committed.
        topics: Option<Vec<String>>,
    },
    DescribeCluster,
    ListGroups,
    DescribeGroups {
        groups: Vec<String>,
    },
    DescribeConfigs {
        resources: Vec<ResourceQuery>,
        with_synonyms: bool,
    },
    CreateTopics {
        topics: Vec<NewTopic>,
        validate_only: bool,
        wait_for_leaders: bool,
    },
    CreatePartitions {
        topics: Vec<MorePartitions>,
        validate_only: bool,
    },
    DeleteTopics {
        topics: Vec<String>,
    },
    DeleteTopicRecords {
        topic: String,
        partitions: Vec<PartitionOffset>,
    },
    SetOffsets {
        group: String,
        topic: String,
        partitions: Vec<PartitionOffset>,
    },
    ResetOffsets {
        group: String,
        topic: String,
        to_beginning: bool,
    },
    AlterConfigs {
        resources: Vec<Altered>,
        validate_only: bool,
    },
    DeleteGroups {
        groups: Vec<String>,
    },
}

/// Something that has settings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resource {
    pub(crate) kind: ResourceKind,
    /// The name of a topic or group, or the id of a broker.
    pub(crate) name: String,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ResourceKind {
    Topic,
    Broker,
    Group,
}

impl ResourceKind {
    pub(crate) const WORDS: [&str; 3] = ["topic", "broker", "group"];
    const ALL: [Self; 3] = [Self::Topic, Self::Broker, Self::Group];

    pub(crate) fn of(word: &str) -> Option<Self> {
        let index = Self::WORDS.iter().position(|one| *one == word)?;
        Some(Self::ALL[index])
    }

    pub(crate) fn word(self) -> &'static str {
        Self::WORDS[self as usize]
    }
}

/// A resource whose settings are asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ResourceQuery {
    pub(crate) resource: Resource,
    /// `None`: all its settings.
    pub(crate) names: Option<Vec<String>>,
}

/// A resource whose settings change; the settings that are not named stay.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Altered {
    pub(crate) resource: Resource,
    /// `None`: back to the default.
    pub(crate) settings: Vec<(String, Option<String>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewTopic {
    pub(crate) name: String,
    /// -1 stands for the default of the brokers, like below.
    pub(crate) partitions: i32,
    pub(crate) replication: i32,
    /// The brokers of each partition, from partition 0; empty: the brokers choose.
    pub(crate) replicas: Vec<Vec<i32>>,
    pub(crate) settings: Vec<(String, String)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MorePartitions {
    pub(crate) topic: String,
    /// The number of partitions afterwards.
    pub(crate) count: usize,
    /// The brokers of each new partition; empty: the brokers choose.
    pub(crate) replicas: Vec<Vec<i32>>,
}

/// An offset in a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PartitionOffset {
    pub(crate) partition: i32,
    /// [`END`] or [`BEGINNING`] stand for these.
    pub(crate) offset: i64,
}

pub(crate) const END: i64 = -1;
pub(crate) const BEGINNING: i64 = -2;

impl Question {
    /// The name of its function.
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::ListTopics => "listTopics",
            Self::FetchTopicMetadata { .. } => "fetchTopicMetadata",
            Self::FetchTopicOffsets { .. } => "fetchTopicOffsets",
            Self::FetchTopicOffsetsByTimestamp { .. } => "fetchTopicOffsetsByTimestamp",
            Self::FetchOffsets { .. } => "fetchOffsets",
            Self::DescribeCluster => "describeCluster",
            Self::ListGroups => "listGroups",
            Self::DescribeGroups { .. } => "describeGroups",
            Self::DescribeConfigs { .. } => "describeConfigs",
            Self::CreateTopics { .. } => "createTopics",
            Self::CreatePartitions { .. } => "createPartitions",
            Self::DeleteTopics { .. } => "deleteTopics",
            Self::DeleteTopicRecords { .. } => "deleteTopicRecords",
            Self::SetOffsets { .. } => "setOffsets",
            Self::ResetOffsets { .. } => "resetOffsets",
            Self::AlterConfigs { .. } => "alterConfigs",
            Self::DeleteGroups { .. } => "deleteGroups",
        }
    }
}

/// Ends with the answer. A drop gives it up; what the brokers have been told to do, they do.
pub(crate) type Asking = Pin<Box<dyn Future<Output = Result<Value, Fault>> + Send>>;

/// The admin client of one configuration.
pub(crate) trait Admin: fmt::Debug + Send + Sync {
    /// Checks whether the configuration allows it, and starts nothing: the answer does, on the runtime of the outside.
    fn ask(&self, request: Request) -> Result<Asking, Fault>;
}
