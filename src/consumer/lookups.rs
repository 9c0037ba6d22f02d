//! A thread for lookups at the brokers: committed offsets, watermarks, topics and their ids. The consumer's thread
//! waits for none of them.
//!
//! Lookups run one after the other, and each of their calls has a deadline. A failure is an answer too, after which
//! the consumer repeats the lookup.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::oneshot;

use crate::assignment::{Answered, Assigned, Described, Found, PartitionKey, Repeats};
use crate::assignment::{Starts, ToConsumer};
use crate::clock::now_ms;
use crate::failpoint::failpoint;
use crate::kafka::{Class, Client, Description, Error, Existing, TopicPartition};
use crate::rules::commit_metadata::{self, Finished};
use crate::rules::seek::{self, Target};
use crate::rules::start_offset::{self, Known, Start, Why};
use crate::telemetry::shell;
use crate::threads::mailbox::Mailbox;
use crate::threads::progress::Beat;
use crate::threads::supervisor::{Handle, Kind, Supervisor};
use crate::wait::{Fault, Value};

use super::known_topics::KnownTopics;

/// How often the thread turns at least, so that a hang is detected.
const TURN: Duration = Duration::from_secs(1);
/// The most topics that one request describes.
const DESCRIBED_MAX: usize = 100;
/// How long one turn may take beyond the deadline of a call.
const TURN_GRACE: Duration = Duration::from_secs(10);

pub(crate) enum Lookup {
    /// The starts of these partitions.
    Starts {
        id: u64,
        partitions: Vec<Assigned>,
    },
    /// The existing topics.
    Topics,
    /// What the brokers say of the subscribed topics.
    Describe {
        id: u64,
        topics: Vec<Arc<str>>,
    },
    /// The end of a partition, for a handler that asks for the lag behind this position.
    Lag {
        key: PartitionKey,
        position: i64,
        reply: oneshot::Sender<Result<Value, Fault>>,
    },
    /// The offset of a handler's seek.
    Seek {
        id: u64,
        key: PartitionKey,
        target: Target,
    },
    /// The group has an offset of a topic that was created again.
    Committed(PartitionKey),
    /// What a transaction whose end is not known has committed of these partitions.
    ReadBack(Vec<TopicPartition>),
    Stop,
}

/// The thread of one consumer; dropping this ends it.
pub(crate) struct Lookups {
    mailbox: Arc<Mailbox<Lookup>>,
    thread: Option<Handle>,
    timeout: Duration,
}

impl Lookups {
    /// `timeout` bounds each call to the brokers. The thread lives as long as the client.
    pub(super) fn start(
        consumer: &str,
        client: Arc<Client>,
        asker: Option<Client>,
        known: Arc<Mutex<KnownTopics>>,
        inbox: Arc<Mailbox<ToConsumer>>,
        timeout: Duration,
        supervisor: &Supervisor,
    ) -> anyhow::Result<Self> {
        let mailbox = Arc::new(Mailbox::default());
        let name = format!("lookups-{consumer}");
        let thread = supervisor.spawn(&name, Kind::Counted(timeout + TURN_GRACE), {
            let mailbox = mailbox.clone();
            move |beat| {
                let mut brokers = Brokers {
                    client,
                    asker,
                    timeout,
                    beat,
                    known,
                    describing: None,
                    seen: BTreeMap::new(),
                };
                serve(&mut brokers, &mailbox, &inbox);
            }
        })?;
        Ok(Self {
            mailbox,
            thread: Some(thread),
            timeout,
        })
    }

    pub(crate) fn ask(&self, lookup: Lookup) {
        self.mailbox.send(lookup);
    }
}

impl Drop for Lookups {
    /// Waits for the call under way. A lookup of several calls ends by itself.
    fn drop(&mut self) {
        if let Some(thread) = self.thread.take() {
            thread.may_end();
            self.mailbox.send(Lookup::Stop);
            thread.join(Instant::now() + self.timeout);
        }
    }
}

/// The brokers, reached by blocking calls.
struct Brokers {
    client: Arc<Client>,
    /// A client of the same group that never joins it, for the group's offsets. The consumer's own gets no answer any
    /// more while it leaves the group.
    asker: Option<Client>,
    timeout: Duration,
    /// Each call is a turn, because a lookup may have many calls.
    beat: Beat,
    known: Arc<Mutex<KnownTopics>>,
    /// The broker that describes topics, until it does not answer.
    describing: Option<i32>,
    /// The first id of each topic that this client was told.
    seen: BTreeMap<Arc<str>, String>,
}

impl Brokers {
    fn committed(&self, asked: &[TopicPartition]) -> Result<Vec<TopicPartition>, Error> {
        self.beat.turn();
        let client = self.asker.as_ref().unwrap_or(&self.client);
        client.committed(asked, self.timeout)
    }

    fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), Error> {
        self.beat.turn();
        self.client.watermarks(topic, partition, self.timeout)
    }

    fn topics(&self) -> Result<Vec<(String, usize)>, Error> {
        self.beat.turn();
        self.client.topics(self.timeout)
    }

    fn known(&self) -> MutexGuard<'_, KnownTopics> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Says so once, unless the other side knows no topics at all, as a controller of `KRaft` does: that says nothing
    /// of brokers.
    fn without_ids(&mut self) -> Result<(), Error> {
        if !self.known().is_without_ids() {
            let topics = self.client.topics(self.timeout);
            topics.inspect_err(|_| self.describing = None)?;
            self.known().say_without_ids();
        }
        Ok(())
    }

    /// Describes the topics, and compares their ids with the known ones.
    fn describe(&mut self, topics: &[Arc<str>]) -> Result<Described, Error> {
        let mut descriptions = Vec::with_capacity(topics.len());
        for some in topics.chunks(DESCRIBED_MAX) {
            self.beat.turn();
            match self.describe_some(some) {
                Ok(some) => descriptions.extend(some),
                Err(error) if error.is_unsupported() || error.class() == Class::Lasting => {
                    self.without_ids()?;
                    return Ok(Described::default());
                }
                Err(error) => {
                    self.describing = None;
                    return Err(error);
                }
            }
        }
        self.beat.turn();
        if self.known().needs_cluster() {
            let cluster = self.client.cluster_id(self.timeout);
            self.known().is_of(cluster.unwrap_or_default());
        }
        let existing = descriptions.iter().filter_map(|one| {
            let existing = one.result.as_ref().ok()?;
            Some((&*one.topic, existing))
        });
        self.known().note(existing);
        let mut described = Described::default();
        for one in descriptions {
            match one.result {
                Err(error) => described.missing.push((one.topic, error)),
                Ok(existing) if self.is_recreated(&one.topic, &existing) => {
                    described.recreated.push(one.topic);
                }
                Ok(_) => described.existing.push(one.topic),
            }
        }
        Ok(described)
    }

    fn describe_some(&mut self, topics: &[Arc<str>]) -> Result<Vec<Description>, Error> {
        let broker = match self.describing {
            Some(broker) => broker,
            None => self.client.broker_id(self.timeout)?,
        };
        self.describing = Some(broker);
        self.beat.turn();
        self.client.describe(topics, broker, self.timeout)
    }

    /// Whether this client knows an older topic of that name. librdkafka keeps the leader epochs of its partitions
    /// and ignores lower ones, which those of a new topic may be: it would never fetch from them.
    fn is_recreated(&mut self, topic: &Arc<str>, existing: &Existing) -> bool {
        let Some(id) = &existing.id else {
            return false;
        };
        let seen = self.seen.entry(topic.clone()).or_insert_with(|| id.clone());
        seen != id
    }
}

fn serve(brokers: &mut Brokers, mailbox: &Mailbox<Lookup>, inbox: &Mailbox<ToConsumer>) {
    let mut letters = Vec::new();
    loop {
        brokers.beat.turn();
        failpoint!("lookups-turn");
        mailbox.wait(&mut letters, Instant::now() + TURN);
        // `Stop` goes before the lookups that are still queued, but what was committed is noted.
        if letters.iter().any(|letter| matches!(letter, Lookup::Stop)) {
            letters.retain(|letter| matches!(letter, Lookup::Committed(_) | Lookup::Stop));
        }
        for lookup in letters.drain(..) {
            inbox.send(ToConsumer::Answered(match lookup {
                Lookup::Starts { id, partitions } => Answered::Starts {
                    id,
                    starts: starts(brokers, partitions),
                },
                Lookup::Topics => Answered::Topics(brokers.topics()),
                Lookup::ReadBack(asked) => Answered::ReadBack(brokers.committed(&asked)),
                Lookup::Seek { id, key, target } => Answered::Sought {
                    id,
                    found: find(brokers, &key, target),
                    key,
                },
                Lookup::Describe { id, topics } => Answered::Described {
                    id,
                    described: describe(brokers, &topics),
                },
                Lookup::Committed(key) => {
                    brokers.known().committed(&key.topic, key.number);
                    continue;
                }
                Lookup::Lag {
                    key,
                    position,
                    reply,
                } => {
                    // The handler may have been given up.
                    let _ = reply.send(lag(brokers, &key, position));
                    continue;
                }
                Lookup::Stop => return,
            }));
        }
    }
}

fn lag(brokers: &Brokers, key: &PartitionKey, position: i64) -> Result<Value, Fault> {
    let (topic, number) = (&key.topic, key.number);
    let end = brokers.watermarks(topic, number).map_err(|error| {
        let message = format!("the brokers do not tell the end of {topic}[{number}]: {error}");
        Fault::new("unreachable", message)
    });
    end.map(|(_, end)| Value::Integer((end - position).max(0)))
}

fn find(brokers: &Brokers, key: &PartitionKey, target: Target) -> Result<seek::Found, Error> {
    let watermarks = brokers.watermarks(&key.topic, key.number)?;
    let at = match target {
        Target::Timestamp(ms) => {
            brokers.beat.turn();
            let timeout = brokers.timeout;
            brokers
                .client
                .offset_at(&key.topic, key.number, ms, timeout)?
        }
        _ => None,
    };
    Ok(seek::resolve(target, watermarks, at))
}

fn describe(brokers: &mut Brokers, topics: &[Arc<str>]) -> Result<Described, Error> {
    let mut described = brokers.describe(topics)?;
    brokers.known().bound(topics);
    // A topic between two leaders exists all the same.
    let is_lasting = |(_, error): &(Arc<str>, Error)| error.class() == Class::Lasting;
    described.missing.retain(is_lasting);
    Ok(described)
}

fn starts(brokers: &mut Brokers, mut assigned: Vec<Assigned>) -> Result<Starts, Error> {
    // First: if a topic is created again after this, a later description shows it.
    let topics: BTreeSet<_> = assigned.iter().map(|one| one.topic.clone()).collect();
    let described = brokers.describe(&topics.into_iter().collect::<Vec<_>>())?;
    let mut starts = Starts {
        recreated: described.recreated,
        ..Starts::default()
    };
    if !starts.recreated.is_empty() {
        return Ok(starts);
    }
    for (topic, error) in described.missing {
        let missing = assigned.extract_if(.., |one| one.topic == topic);
        starts.open.extend(missing.map(|one| (one, error.clone())));
    }
    look_up(brokers, assigned, &mut starts)?;
    let is_recreated = |found: &&Found| matches!(found.start.why, Why::Recreated { .. });
    let recreated = starts.found.iter().filter(is_recreated);
    let recreated = recreated.map(|found| (&*found.assigned.topic, found.assigned.partition));
    brokers.known().begin(recreated);
    Ok(starts)
}

fn look_up(brokers: &Brokers, assigned: Vec<Assigned>, starts: &mut Starts) -> Result<(), Error> {
    let asked: Vec<_> = assigned
        .iter()
        .map(|one| TopicPartition::new(&one.topic, one.partition))
        .collect();
    let mut known = committed(brokers, &asked)?;
    let added = topics_with_positions(brokers, &assigned, &mut known)?;
    for one in assigned {
        let is_added = added.contains(&one.topic);
        match start(brokers, &one, &known, is_added) {
            Ok((start, finished)) => starts.found.push(Found {
                assigned: one,
                start,
                finished,
            }),
            // A partition without a leader does not keep the others waiting.
            Err(error) => starts.open.push((one, error)),
        }
    }
    Ok(())
}

fn start(
    brokers: &Brokers,
    one: &Assigned,
    known: &Positions,
    is_added: bool,
) -> Result<(Start, Option<Finished>), Error> {
    let position = match known.get(&one.key()) {
        Some(Ok(position)) => position.as_ref(),
        Some(Err(error)) => return Err(error.clone()),
        None => None,
    };
    let committed = position.map(|position| (position.offset, position.leader_epoch));
    let is_recreated = brokers.known().is_open(&one.topic, one.partition);
    let watermarks = match (brokers.watermarks(&one.topic, one.partition), committed) {
        (Ok(watermarks), _) => watermarks,
        // Whether the offset is out of range shows when the leader is back.
        (Err(_), Some((offset, _))) if !is_recreated => (offset, offset),
        (Err(error), _) => return Err(error),
    };
    let start = start_offset::resolve(&Known {
        committed,
        watermarks,
        policy: one.policy,
        is_added,
        is_recreated,
    });
    let position = position.filter(|_| one.policy.automatic && start.why == Why::Committed);
    let finished = position.map(|position| {
        let place = commit_metadata::Agreement {
            offset: position.offset,
            leader_epoch: position.leader_epoch,
            listeners: one.listeners,
        };
        let finished = commit_metadata::decode(&position.metadata, place, watermarks.1);
        let is_ignored = finished.is_none() && commit_metadata::lists(&position.metadata);
        let is_accepted = one.repeats == Repeats::Accepted;
        if is_ignored && brokers.asker.is_some() && !is_accepted {
            // With exactly once they must not run again.
            return Err(Error::inconsistent(format!(
                "messages beyond the committed offset are finished for listeners of other names, or the log was truncated; \
                 give the listeners of the topic their former names, or accept that the messages run again: `{}`",
                shell::accept(&one.topic, one.partition)
            )));
        }
        Ok(finished)
    });
    Ok((start, finished.transpose()?.flatten()))
}

/// A committed position of the group.
struct Position {
    offset: i64,
    leader_epoch: i32,
    /// The group has only just begun there.
    is_fresh: bool,
    metadata: String,
}

type Positions = BTreeMap<PartitionKey, Result<Option<Position>, Error>>;

fn committed(brokers: &Brokers, asked: &[TopicPartition]) -> Result<Positions, Error> {
    let found = brokers.committed(asked)?;
    let now_ms = now_ms();
    let position = |one: TopicPartition| match one.error {
        Some(error) => Err(error),
        None if one.offset < 0 => Ok(None),
        None => Ok(Some(Position {
            offset: one.offset,
            leader_epoch: one.leader_epoch,
            is_fresh: start_offset::is_fresh(&one.metadata, now_ms),
            metadata: one.metadata,
        })),
    };
    Ok(found
        .into_iter()
        .map(|one| (key(&one), position(one)))
        .collect())
}

fn key(one: &TopicPartition) -> PartitionKey {
    PartitionKey::new(&one.topic, one.partition)
}

/// Topics in which the group has a position on some partition; looked up where an assigned partition has none.
fn topics_with_positions(
    brokers: &Brokers,
    assigned: &[Assigned],
    known: &mut Positions,
) -> Result<BTreeSet<Arc<str>>, Error> {
    let open: BTreeSet<Arc<str>> = assigned
        .iter()
        .filter(|one| {
            let position = known.get(&one.key());
            one.policy.automatic && matches!(position, None | Some(Ok(None)))
        })
        .map(|one| one.topic.clone())
        .collect();
    if open.is_empty() {
        return Ok(open);
    }
    let mut others = Vec::new();
    for (topic, partitions) in brokers.topics()? {
        if let Some(topic) = open.get(topic.as_str()) {
            others.extend(
                (0..partitions as i32).map(|partition| TopicPartition::new(topic, partition)),
            );
        }
    }
    others.retain(|one| !known.contains_key(&key(one)));
    if !others.is_empty() {
        known.extend(committed(brokers, &others)?);
    }
    let with = known
        .iter()
        .filter(|(_, position)| matches!(position, Ok(Some(position)) if !position.is_fresh))
        .map(|(key, _)| key.topic.clone());
    Ok(with.filter(|topic| open.contains(topic)).collect())
}
