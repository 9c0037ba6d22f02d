//! The ids of topics as a consumer knows them, in a file of the state directory: a topic may be deleted and created
//! again while the daemon is stopped.
//!
//! Written whole, synced and renamed, before a partition of a new topic begins. Without a file that can be written
//! the ids last as long as the process. Offsets of another group or cluster are not those of this one, and so are
//! the ids.

use std::fs::{self, OpenOptions};
use std::io::{self, Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::clock::now_ms;
use crate::files::own_folder;
use crate::kafka::Existing;
use crate::log::log;
use crate::rules::topic_ids::{Noted, TopicIds};

/// More topics than this are kept only while they are subscribed to.
const TOPICS_MAX: usize = 10_000;
/// A file beyond this size is not one of Moontide.
const FILE_BYTES_MAX: u64 = 64 << 20;

pub(super) struct KnownTopics {
    consumer: Arc<str>,
    path: PathBuf,
    /// How long it takes until every member of the group knows a new id.
    spread: Duration,
    ids: TopicIds,
    group: String,
    /// `None` until the brokers have told it.
    cluster: Option<String>,
    /// The cluster of the ids that the file had.
    written_for: Option<String>,
    is_without_ids: bool,
    is_unwritten: bool,
}

/// The content of the file.
#[derive(Default, Serialize, Deserialize)]
struct Written {
    group: String,
    cluster: String,
    topics: TopicIds,
}

impl KnownTopics {
    /// Reads the file, if there is one.
    pub(super) fn open(
        directory: &std::path::Path,
        consumer: &Arc<str>,
        group: &str,
        spread: Duration,
    ) -> Self {
        let path = directory.join(format!("topics-{consumer}.json"));
        let written = read(&path).unwrap_or_else(|error| {
            log!(
                warn,
                consumer,
                consumer = &**consumer,
                file = %path.display(),
                %error,
                "the ids of topics are not known: a topic that was created again is not recognised"
            );
            None
        });
        let written = written.filter(|written| written.group == group);
        let (ids, written_for) = written
            .map(|written| (written.topics, written.cluster))
            .unzip();
        Self {
            consumer: consumer.clone(),
            path,
            spread,
            ids: ids.unwrap_or_default(),
            group: group.to_owned(),
            cluster: None,
            written_for,
            is_without_ids: false,
            is_unwritten: false,
        }
    }

    /// Whether the cluster is still to be told, by `is_of`.
    pub(super) fn needs_cluster(&self) -> bool {
        self.cluster.is_none()
    }

    /// The consumer talks to this cluster.
    pub(super) fn is_of(&mut self, cluster: String) {
        if self
            .written_for
            .take()
            .is_some_and(|written| written != cluster)
        {
            self.ids = TopicIds::default();
        }
        self.cluster = Some(cluster);
    }

    /// Compares the ids that the brokers tell with the known ones. A new id is an ERROR.
    pub(super) fn note<'a>(&mut self, topics: impl Iterator<Item = (&'a str, &'a Existing)>) {
        let until_ms = now_ms().saturating_add(self.spread.as_millis() as i64);
        let mut is_changed = false;
        for (topic, existing) in topics {
            let Some(id) = &existing.id else {
                self.say_without_ids();
                continue;
            };
            let noted = self.ids.note(topic, id, existing.partitions, until_ms);
            is_changed |= noted != Noted::Same;
            if let Noted::Recreated { old } = noted {
                log!(
                    error,
                    consumer,
                    consumer = &*self.consumer,
                    topic,
                    old_id = old,
                    new_id = id.as_str(),
                    partitions = existing.partitions,
                    "the topic was deleted and created again: every partition starts at its beginning, and messages of \
                     the old topic that were not handled are lost"
                );
            }
        }
        if is_changed {
            self.write();
        }
    }

    /// Whether it was said that there are no ids.
    pub(super) fn is_without_ids(&self) -> bool {
        self.is_without_ids
    }

    /// The brokers describe no topic to this client, or have no ids.
    pub(super) fn say_without_ids(&mut self) {
        if !std::mem::replace(&mut self.is_without_ids, true) {
            log!(
                warn,
                consumer,
                consumer = &*self.consumer,
                "the brokers have no ids of topics: a topic that is deleted and created again is not recognised"
            );
        }
    }

    pub(super) fn is_open(&self, topic: &str, partition: i32) -> bool {
        self.ids.is_open(topic, partition, now_ms())
    }

    /// These open partitions begin now.
    pub(super) fn begin<'a>(&mut self, partitions: impl Iterator<Item = (&'a str, i32)>) {
        let mut is_changed = false;
        for (topic, partition) in partitions {
            is_changed |= self.ids.begin(topic, partition);
        }
        if is_changed {
            self.write();
        }
    }

    /// The group has an offset of the new topic.
    pub(super) fn committed(&mut self, topic: &str, partition: i32) {
        if self.ids.committed(topic, partition) {
            self.write();
        }
    }

    pub(super) fn bound(&mut self, subscribed: &[Arc<str>]) {
        let keep = |topic: &str| subscribed.iter().any(|one| **one == *topic);
        self.ids.bound(TOPICS_MAX.max(2 * subscribed.len()), keep);
    }

    fn write(&mut self) {
        let written = Written {
            group: self.group.clone(),
            cluster: self.cluster.clone().unwrap_or_default(),
            topics: self.ids.clone(),
        };
        let result = serde_json::to_vec(&written)
            .map_err(io::Error::from)
            .and_then(|bytes| write(&self.path, &bytes));
        let Err(error) = result else {
            self.is_unwritten = false;
            return;
        };
        if !std::mem::replace(&mut self.is_unwritten, true) {
            log!(
                warn,
                consumer,
                consumer = &*self.consumer,
                file = %self.path.display(),
                %error,
                "the ids of topics cannot be written: a topic that is created again while the daemon is stopped is not \
                 recognised"
            );
        }
    }
}

fn read(path: &std::path::Path) -> io::Result<Option<Written>> {
    let mut file = match own_folder::open(path, OpenOptions::new().read(true)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        opened => opened?,
    };
    if file.metadata()?.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("the file is too large"));
    }
    let mut bytes = Vec::new();
    file.read_to_end(&mut bytes)?;
    serde_json::from_slice(&bytes)
        .map(Some)
        .map_err(io::Error::from)
}

fn write(path: &std::path::Path, bytes: &[u8]) -> io::Result<()> {
    if let Some(directory) = path.parent() {
        own_folder::make(directory)?;
    }
    let new = path.with_extension("new");
    let written = own_folder::create(&new).and_then(|mut file| {
        file.write_all(bytes)?;
        file.sync_all()?;
        fs::rename(&new, path)
    });
    if written.is_err() {
        // A file that was not written completely has no use.
        let _ = fs::remove_file(&new);
    }
    written
}
