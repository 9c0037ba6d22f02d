//! A thread that asks the brokers what takes waiting for, so that the consumer's never does.
//!
//! One question after the other, each with a deadline; an answer that failed goes back as it is, and the consumer asks
//! again.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use crate::assignment::{Answered, Assigned, Found, PartitionKey, Starts, ToConsumer};
use crate::clock::now_ms;
use crate::kafka::{Client, Error, TopicPartition};
use crate::rules::commit_metadata::{self, Finished};
use crate::rules::start_offset::{self, Facts, Start, Why};
use crate::threads::mailbox::Mailbox;

pub(crate) enum Ask {
    /// Where these partitions start.
    Starts {
        id: u64,
        partitions: Vec<Assigned>,
    },
    /// Which topics there are.
    Topics,
    Stop,
}

pub(crate) struct Asker {
    questions: Arc<Mailbox<Ask>>,
    thread: Option<JoinHandle<()>>,
}

impl Asker {
    pub(crate) fn start(
        client: Arc<Client>,
        inbox: Arc<Mailbox<ToConsumer>>,
        timeout: Duration,
    ) -> std::io::Result<Self> {
        let questions = Arc::new(Mailbox::default());
        let thread = std::thread::Builder::new()
            .name("asker".to_owned())
            .spawn({
                let questions = questions.clone();
                move || serve(&client, &questions, &inbox, timeout)
            })?;
        Ok(Self {
            questions,
            thread: Some(thread),
        })
    }

    pub(crate) fn ask(&self, question: Ask) {
        self.questions.send(question);
    }
}

impl Drop for Asker {
    /// Waits for the question under way: its deadline at most.
    fn drop(&mut self) {
        self.questions.send(Ask::Stop);
        if let Some(thread) = self.thread.take() {
            // A panic in it was reported by the panic hook.
            let _ = thread.join();
        }
    }
}

fn serve(
    client: &Client,
    questions: &Mailbox<Ask>,
    inbox: &Mailbox<ToConsumer>,
    timeout: Duration,
) {
    let mut letters = Vec::new();
    loop {
        questions.wait(&mut letters, Instant::now() + Duration::from_secs(3600));
        // To stop overtakes what is still asked.
        if letters.iter().any(|letter| matches!(letter, Ask::Stop)) {
            return;
        }
        for question in letters.drain(..) {
            inbox.send(ToConsumer::Answered(match question {
                Ask::Starts { id, partitions } => Answered::Starts {
                    id,
                    starts: starts(client, partitions, timeout),
                },
                Ask::Topics => Answered::Topics(client.topics(timeout)),
                Ask::Stop => return,
            }));
        }
    }
}

fn starts(client: &Client, assigned: Vec<Assigned>, timeout: Duration) -> Result<Starts, Error> {
    let asked: Vec<_> = assigned
        .iter()
        .map(|one| TopicPartition::new(&one.topic, one.partition))
        .collect();
    let mut known = committed(client, &asked, timeout)?;
    let added = topics_with_positions(client, &assigned, &mut known, timeout)?;
    let mut starts = Starts::default();
    for one in assigned {
        let is_added = added.contains(&one.topic);
        match start(client, &one, &known, is_added, timeout) {
            Ok((start, finished)) => starts.found.push(Found {
                assigned: one,
                start,
                finished,
            }),
            // One partition without a leader does not keep the others waiting.
            Err(error) => starts.open.push((one, error)),
        }
    }
    Ok(starts)
}

fn start(
    client: &Client,
    one: &Assigned,
    known: &Positions,
    is_added: bool,
    timeout: Duration,
) -> Result<(Start, Option<Finished>), Error> {
    let position = match known.get(&one.key()) {
        Some(Ok(position)) => position.as_ref(),
        Some(Err(error)) => return Err(error.clone()),
        None => None,
    };
    let committed = position.map(|position| (position.offset, position.leader_epoch));
    let watermarks = match (
        client.watermarks(&one.topic, one.partition, timeout),
        committed,
    ) {
        (Ok(watermarks), _) => watermarks,
        // Whether it is out of range shows when the leader is back.
        (Err(_), Some((offset, _))) => (offset, offset),
        (Err(error), None) => return Err(error),
    };
    let start = start_offset::resolve(&Facts {
        committed,
        watermarks,
        policy: one.policy,
        is_added,
    });
    let position = position.filter(|_| one.policy.automatic && start.why == Why::Committed);
    let finished = position.and_then(|position| {
        let place = commit_metadata::Place {
            offset: position.offset,
            leader_epoch: position.leader_epoch,
            listeners: one.listeners,
        };
        commit_metadata::decode(&position.metadata, place, watermarks.1)
    });
    Ok((start, finished))
}

/// What the group has committed.
struct Position {
    offset: i64,
    leader_epoch: i32,
    /// The group has only just begun there.
    is_fresh: bool,
    metadata: String,
}

type Positions = BTreeMap<PartitionKey, Result<Option<Position>, Error>>;

fn committed(
    client: &Client,
    asked: &[TopicPartition],
    timeout: Duration,
) -> Result<Positions, Error> {
    let found = client.committed(asked, timeout)?;
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

/// Topics of which the group has a position on some partition, looked up where one of ours has none.
fn topics_with_positions(
    client: &Client,
    assigned: &[Assigned],
    known: &mut Positions,
    timeout: Duration,
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
    for (topic, partitions) in client.topics(timeout)? {
        if let Some(topic) = open.get(topic.as_str()) {
            others.extend(
                (0..partitions as i32).map(|partition| TopicPartition::new(topic, partition)),
            );
        }
    }
    others.retain(|one| !known.contains_key(&key(one)));
    if !others.is_empty() {
        known.extend(committed(client, &others, timeout)?);
    }
    let with = known
        .iter()
        .filter(|(_, position)| matches!(position, Ok(Some(position)) if !position.is_fresh))
        .map(|(key, _)| key.topic.clone());
    Ok(with.filter(|topic| open.contains(topic)).collect())
}
