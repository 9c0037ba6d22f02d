//! Assigned partitions, and where they start.

use std::sync::Arc;

use crate::kafka;
use crate::rules::commit_metadata::Finished;
use crate::rules::start_offset::{Policy, Start};

/// A partition by its topic and number, in any epoch.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct PartitionKey {
    pub(crate) topic: Arc<str>,
    pub(crate) number: i32,
}

impl PartitionKey {
    pub(crate) fn new(topic: &Arc<str>, number: i32) -> Self {
        let topic = topic.clone();
        Self { topic, number }
    }
}

/// A partition that was assigned, with the policy of its topic's listeners.
#[derive(Clone, Debug)]
pub(crate) struct Assigned {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) policy: Policy,
    /// `Plan::listeners_hash`.
    pub(crate) listeners: u32,
    pub(crate) repeats: Repeats,
}

/// Whether messages that are finished beyond the position, but for other listeners, may run again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Repeats {
    NotKnown,
    /// There are such messages: the partition is held.
    Held,
    /// An operator has accepted it.
    Accepted,
}

impl Assigned {
    pub(crate) fn key(&self) -> PartitionKey {
        PartitionKey::new(&self.topic, self.partition)
    }
}

/// The start of a partition, and the messages finished beyond it.
pub(crate) struct Found {
    pub(crate) assigned: Assigned,
    pub(crate) start: Start,
    pub(crate) finished: Option<Finished>,
}

/// The starts of partitions; a partition whose start could not be found is looked up again.
#[derive(Default)]
pub(crate) struct Starts {
    pub(crate) found: Vec<Found>,
    pub(crate) open: Vec<(Assigned, kafka::Error)>,
    /// Topics that were created again since this client knows them. Without a new client nothing of them can start.
    pub(crate) recreated: Vec<Arc<str>>,
}

/// What the brokers say of the subscribed topics.
#[derive(Default)]
pub(crate) struct Described {
    /// Topics that do not exist or may not be read.
    pub(crate) missing: Vec<(Arc<str>, kafka::Error)>,
    pub(crate) existing: Vec<Arc<str>>,
    /// As in `Starts`.
    pub(crate) recreated: Vec<Arc<str>>,
}
