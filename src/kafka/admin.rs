//! Queries the topics of the brokers, and creates topics. **Blocks** up to its deadline.
//!
//! No query creates a topic, whatever the brokers allow. This module must not know the purpose of the topics.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use rdkafka::ClientContext;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};

use super::producer::connection;
use crate::kafka::property::Value;

/// The brokers' own default, which brokers know since Kafka 2.4.
const DEFAULT: i32 = -1;
/// The replacement for older brokers, if there are as many brokers.
const REPLICATION: usize = 3;

pub(crate) struct Admin {
    client: AdminClient<Quiet>,
    deadline: Duration,
}

/// The settings of a new topic, beside the brokers' own defaults.
#[derive(Clone, Copy)]
pub(crate) struct NewSettings<'a> {
    pub(crate) needed: &'a [(&'a str, &'a str)],
    /// Left out if the brokers do not know them.
    pub(crate) wanted: &'a [(&'a str, &'a str)],
}

/// The topics of a cluster.
pub(crate) struct Topics {
    /// Topics, each with the number of its partitions.
    existing: BTreeMap<String, usize>,
    brokers: usize,
}

/// The result of creating a topic.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Created {
    Now,
    /// Another client created it first.
    Before,
    /// The broker refused, and would refuse again.
    Refused(String),
}

impl Admin {
    /// Connects on first use; properties that do not concern the connection are left out.
    pub(crate) fn new(properties: &BTreeMap<String, Value>, deadline: Duration) -> Result<Self> {
        let mut config = ClientConfig::new();
        for (name, value) in connection(properties) {
            config.set(name, value);
        }
        config.set("allow.auto.create.topics", "false");
        let client = AdminClient::from_config_and_context(&config, Quiet)?;
        Ok(Self { client, deadline })
    }

    pub(crate) fn topics(&self) -> Result<Topics> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(None, self.deadline)
            .map_err(plain)?;
        let topics = metadata.topics().iter();
        Ok(Topics {
            existing: topics
                .map(|topic| (topic.name().to_owned(), topic.partitions().len()))
                .collect(),
            brokers: metadata.brokers().len(),
        })
    }

    /// Whether a topic that is not among [`Topics`] does not exist. It may also be hidden from this client, which is
    /// an error.
    pub(crate) fn is_missing(&self, topic: &str) -> Result<bool> {
        let metadata = self
            .client
            .inner()
            .fetch_metadata(Some(topic), self.deadline)
            .map_err(plain)?;
        let found = metadata.topics().first().context("no answer")?;
        match found.error().map(Code::from) {
            None => Ok(false),
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => Ok(true),
            Some(code) => bail!("{code}"),
        }
    }

    /// Creates a topic, with the brokers' own defaults for everything else. An error may end by itself.
    pub(crate) fn create(
        &self,
        topics: &Topics,
        topic: &str,
        partitions: Option<usize>,
        settings: NewSettings<'_>,
    ) -> Result<Created> {
        let partitions = partitions.map_or(DEFAULT, |count| count as i32);
        let replication = topics.brokers.clamp(1, REPLICATION) as i32;
        let (needed, all) = (settings.needed, [settings.needed, settings.wanted].concat());
        let mut first = None;
        for (partitions, replication, settings) in [
            (partitions, DEFAULT, all.as_slice()),
            (partitions, DEFAULT, needed),
            // Brokers before 2.4 need every setting.
            (partitions.max(1), replication, needed),
        ] {
            match self.create_with(topic, partitions, replication, settings)? {
                Created::Refused(why) => drop(first.get_or_insert(why)),
                created => return Ok(created),
            }
        }
        Ok(Created::Refused(first.unwrap_or_default()))
    }

    fn create_with(
        &self,
        topic: &str,
        partitions: i32,
        replication: i32,
        settings: &[(&str, &str)],
    ) -> Result<Created> {
        let mut new = NewTopic::new(topic, partitions, TopicReplication::Fixed(replication));
        for (name, value) in settings {
            new = new.set(name, value);
        }
        let options = AdminOptions::new()
            .request_timeout(Some(self.deadline))
            .operation_timeout(Some(self.deadline));
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .context("no runtime")?;
        let results = match runtime.block_on(self.client.create_topics([&new], &options)) {
            Ok(results) => results,
            Err(KafkaError::AdminOpCreation(text)) => return Ok(Created::Refused(text)),
            Err(error) => return Err(plain(error)),
        };
        Ok(match results.into_iter().next() {
            Some(Ok(_)) => Created::Now,
            Some(Err((_, Code::TopicAlreadyExists))) => Created::Before,
            Some(Err((
                _,
                code @ (Code::RequestTimedOut
                | Code::NotController
                | Code::OperationTimedOut
                | Code::BrokerTransportFailure),
            ))) => bail!("{code}"),
            Some(Err((_, code))) => Created::Refused(code.to_string()),
            None => bail!("no answer"),
        })
    }
}

impl Topics {
    /// The number of partitions of a topic; `None` for a missing topic.
    pub(crate) fn partitions(&self, topic: &str) -> Option<usize> {
        self.existing.get(topic).copied()
    }
}

/// The description of the code, without the name of the call.
fn plain(error: KafkaError) -> anyhow::Error {
    match error.rdkafka_error_code() {
        Some(code) => anyhow!("{code}"),
        None => error.into(),
    }
}

/// Logs nothing: the caller reports the error.
struct Quiet;

impl ClientContext for Quiet {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, text: &str) {
        super::log::line(level as i32, facility, "admin", text);
    }

    fn error(&self, _: KafkaError, _: &str) {}
}
