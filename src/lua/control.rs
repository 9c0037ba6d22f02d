//! The control of consumers: what handlers, ticks and init.lua request of a consumer, on its way to the consumer's
//! thread.
//!
//! A pause takes effect here and at once: it marks the partition, whose worker then begins no run of it. The
//! consumer's thread follows: it stops the fetches, and wakes the worker after a resume. **No lock is held while the
//! thread is called.**

pub(super) mod forms;
pub(crate) mod observers;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::rules::seek::Target;
use crate::rules::topic_pauses::{By, Selection, TopicPauses};
use crate::wait::sql::{Committed, Positions};
use crate::wait::{Fault, Value};

use observers::Observers;

/// How long the consumer's thread may take to answer.
pub(super) const ANSWER: Duration = Duration::from_secs(10);

/// The consumers of the process, by name. A consumer that a reload removes keeps its pauses for a later bundle.
#[derive(Debug, Default)]
pub(crate) struct Consumers {
    by_name: Mutex<BTreeMap<String, Arc<Control>>>,
    pub(super) observers: Arc<Observers>,
}

impl Consumers {
    pub(crate) fn of(&self, name: &str) -> Arc<Control> {
        let mut consumers = self.by_name.lock().unwrap_or_else(PoisonError::into_inner);
        let consumer = consumers.entry(name.to_owned()).or_insert_with(|| {
            Arc::new(Control {
                observers: self.observers.clone(),
                ..Control::default()
            })
        });
        consumer.clone()
    }
}

/// A partition that a consumer has. Its worker looks at it before each run.
pub(crate) trait Holdable: Send + Sync {
    /// No run of the partition begins while it is held.
    /// Returns whether it was held before.
    fn set_held(&self, is_held: bool) -> bool;

    /// Its epoch ends: no further run begins.
    fn is_over(&self) -> bool;
}

/// Where a partition stands for a call that has messages of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    Ours,
    /// Code requested that it goes on at another position.
    Sought,
    /// It is revoked, or the daemon stops.
    Over,
}

/// The requests to one consumer.
#[derive(Default)]
pub(crate) struct Control {
    state: Mutex<State>,
    /// The consumer's thread has to look.
    has_news: AtomicBool,
    /// The workers that are to hear of partitions.
    pub(crate) observers: Arc<Observers>,
}

/// A topic's name and the number of a partition.
pub(crate) type Key = (String, i32);

#[derive(Default)]
struct State {
    pauses: TopicPauses,
    /// The partitions of the assignment, each in its present epoch.
    partitions: BTreeMap<Key, Weak<dyn Holdable>>,
    resumed: Vec<Key>,
    questions: Vec<Question>,
    /// The last request of each partition, until its new epoch begins.
    seeks: BTreeMap<Key, Sought>,
    last_seek: u64,
    /// Wakes the consumer's thread; none before the first one starts.
    bell: Option<Arc<dyn Fn() + Send + Sync>>,
}

/// A request to go on at another position.
#[derive(Clone, Debug)]
pub(crate) struct Sought {
    /// Unique in the consumer.
    pub(crate) id: u64,
    pub(crate) key: Key,
    pub(crate) target: Target,
    pub(crate) by: By,
}

/// What a handler waits to hear of a partition.
pub(crate) struct Question {
    pub(crate) key: Key,
    pub(crate) what: What,
    pub(crate) reply: oneshot::Sender<Result<Value, Fault>>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Position,
    Committed,
    Lag,
}

/// The work for the consumer's thread.
#[derive(Default)]
pub(crate) struct News {
    /// Partitions whose worker may begin runs again.
    pub(crate) resumed: Vec<Key>,
    pub(crate) questions: Vec<Question>,
}

impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Control")
    }
}

/// The error about a partition that is not assigned to this process.
pub(crate) fn not_ours(key: &Key) -> Fault {
    let (topic, number) = key;
    let message = format!(
        "partition {topic}[{number}] is not assigned to this daemon now; ask in the daemon that has it"
    );
    Fault::new("notFound", message)
}

/// The partitions that the selections name one by one.
fn named(selections: &[Selection]) -> impl Iterator<Item = Key> {
    selections.iter().flat_map(|one| {
        let numbers = one.partitions.iter().flatten();
        numbers.map(|number| (one.topic.clone(), *number))
    })
}

impl State {
    fn is_paused(&self, topic: &str, number: i32) -> bool {
        self.pauses.of(topic, number).is_some()
    }

    /// Whether no run of the partition may begin.
    fn is_held(&self, key: &Key) -> bool {
        self.is_paused(&key.0, key.1) || self.seeks.contains_key(key)
    }

    fn may_pause(&self, selections: &[Selection]) -> Result<(), Fault> {
        named(selections)
            .find(|key| !self.has(key))
            .map_or(Ok(()), |key| Err(not_ours(&key)))
    }

    fn may_resume(&self, selections: &[Selection]) -> Result<(), Fault> {
        let is_strange = |key: &Key| !self.has(key) && !self.is_paused(&key.0, key.1);
        named(selections)
            .find(is_strange)
            .map_or(Ok(()), |key| Err(not_ours(&key)))
    }

    /// Marks the partitions of a topic as the requests want them, and notes those that may go on.
    fn mark(&mut self, topic: &str) {
        let all = (topic.to_owned(), i32::MIN)..=(topic.to_owned(), i32::MAX);
        let mut resumed = Vec::new();
        for (key, partition) in self.partitions.range(all) {
            let is_held = self.is_held(key);
            let was_held = partition
                .upgrade()
                .is_some_and(|partition| partition.set_held(is_held));
            if was_held && !is_held {
                resumed.push(key.clone());
            }
        }
        self.resumed.extend(resumed);
    }

    fn has(&self, key: &Key) -> bool {
        self.partitions.contains_key(key)
    }
}

/// The side of the VMs.
impl Control {
    /// All or nothing: a partition that is not ours refuses the whole request.
    pub(super) fn pause(&self, selections: &[Selection], by: &By) -> Result<(), Fault> {
        self.change(|state| {
            state.may_pause(selections)?;
            for one in selections {
                state.pauses.pause(one, by);
                state.mark(&one.topic);
            }
            Ok(())
        })
    }

    /// A partition that is paused here may be resumed although another daemon has it now.
    pub(super) fn resume(&self, selections: &[Selection]) -> Result<(), Fault> {
        self.change(|state| {
            state.may_resume(selections)?;
            for one in selections {
                state.pauses.resume(one);
                state.mark(&one.topic);
            }
            Ok(())
        })
    }

    pub(super) fn may_pause(&self, selections: &[Selection]) -> Result<(), Fault> {
        self.lock().may_pause(selections)
    }

    pub(super) fn may_resume(&self, selections: &[Selection]) -> Result<(), Fault> {
        self.lock().may_resume(selections)
    }

    /// The partitions of the assignment that handlers have paused, by topic.
    pub(super) fn paused(&self) -> BTreeMap<String, Vec<i32>> {
        let state = self.lock();
        let mut paused: BTreeMap<String, Vec<i32>> = BTreeMap::new();
        let keys = state.partitions.keys();
        for (topic, number) in keys.filter(|(topic, number)| state.is_paused(topic, *number)) {
            paused.entry(topic.clone()).or_default().push(*number);
        }
        paused
    }

    /// Leaves word: the partition goes on at another position as soon as no call of it runs. The last word counts.
    pub(super) fn seek(&self, key: Key, target: Target, by: By) -> Result<(), Fault> {
        self.change(|state| {
            if !state.has(&key) {
                return Err(not_ours(&key));
            }
            if let Some(partition) = state.partitions.get(&key).and_then(Weak::upgrade) {
                partition.set_held(true);
            }
            state.last_seek += 1;
            let sought = Sought {
                id: state.last_seek,
                key: key.clone(),
                target,
                by,
            };
            state.seeks.insert(key, sought);
            Ok(())
        })
    }

    pub(super) fn standing(&self, key: &Key) -> Standing {
        let state = self.lock();
        let partition = state.partitions.get(key).and_then(Weak::upgrade);
        match partition {
            Some(partition) if !partition.is_over() => {}
            _ => return Standing::Over,
        }
        if state.seeks.contains_key(key) {
            return Standing::Sought;
        }
        Standing::Ours
    }

    /// Asks the consumer's thread.
    pub(super) fn ask(
        &self,
        key: Key,
        what: What,
    ) -> Result<oneshot::Receiver<Result<Value, Fault>>, Fault> {
        let (reply, answer) = oneshot::channel();
        self.change(|state| {
            if !state.has(&key) {
                return Err(not_ours(&key));
            }
            state.questions.push(Question { key, what, reply });
            Ok(())
        })?;
        Ok(answer)
    }

    /// Changes the state, then wakes the consumer's thread.
    fn change(&self, work: impl FnOnce(&mut State) -> Result<(), Fault>) -> Result<(), Fault> {
        let mut state = self.lock();
        work(&mut state)?;
        let bell = state.bell.clone();
        drop(state);
        self.has_news.store(true, Ordering::Release);
        if let Some(bell) = bell {
            bell();
        }
        Ok(())
    }
}

impl Positions for Control {
    fn committed(&self, topic: &str, partition: i32) -> Committed {
        let answer = self.ask((topic.to_owned(), partition), What::Committed);
        Box::pin(async move {
            match timeout(ANSWER, answer.ok()?).await {
                Ok(Ok(Ok(Value::Integer(offset)))) => Some(offset),
                _ => None,
            }
        })
    }
}

/// The side of the consumer's thread.
impl Control {
    pub(crate) fn connect(&self, bell: Arc<dyn Fn() + Send + Sync>) {
        self.lock().bell = Some(bell);
    }

    /// The consumer's thread ends, or has lost every partition. Its pauses stay. Returns the seeks that cannot be done
    /// any more.
    pub(crate) fn disconnect(&self) -> Vec<Sought> {
        let mut state = self.lock();
        state.bell = None;
        state.partitions.clear();
        state.resumed.clear();
        let seeks = std::mem::take(&mut state.seeks);
        // The replies of open questions say that nobody answers.
        let questions = std::mem::take(&mut state.questions);
        drop(state);
        drop(questions);
        seeks.into_values().collect()
    }

    /// An epoch of a partition begins: its pauses hold from the first message on.
    pub(crate) fn begin(&self, topic: &str, number: i32, weak: Weak<dyn Holdable>) {
        let (key, mut state) = ((topic.to_owned(), number), self.lock());
        if let Some(partition) = weak.upgrade() {
            partition.set_held(state.is_held(&key));
        }
        state.partitions.insert(key, weak);
    }

    /// The assignment has lost the partition. Returns the seek that cannot be done any more.
    pub(crate) fn end(&self, topic: &str, number: i32) -> Option<Sought> {
        let (key, mut state) = ((topic.to_owned(), number), self.lock());
        state.partitions.remove(&key);
        state.seeks.remove(&key)
    }

    /// The requests to go on at another position.
    pub(crate) fn seeks(&self) -> Vec<Sought> {
        self.lock().seeks.values().cloned().collect()
    }

    /// Takes this request, unless a later one has replaced it.
    pub(crate) fn take_seek(&self, topic: &str, number: i32, id: u64) -> Option<Sought> {
        let (key, mut state) = ((topic.to_owned(), number), self.lock());
        let is_last = state.seeks.get(&key).is_some_and(|sought| sought.id == id);
        if is_last {
            state.seeks.remove(&key)
        } else {
            None
        }
    }

    /// The work since the last call, if there is any.
    pub(crate) fn take_news(&self) -> Option<News> {
        if !self.has_news.swap(false, Ordering::AcqRel) {
            return None;
        }
        let mut state = self.lock();
        Some(News {
            resumed: std::mem::take(&mut state.resumed),
            questions: std::mem::take(&mut state.questions),
        })
    }

    /// Who paused each of these partitions; `None` without any pause of the consumer.
    pub(crate) fn pauses(&self) -> Option<Pauses<'_>> {
        let state = self.lock();
        (!state.pauses.is_empty()).then_some(Pauses(state))
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The pauses of a consumer, under its lock.
pub(crate) struct Pauses<'a>(MutexGuard<'a, State>);

impl Pauses<'_> {
    pub(crate) fn of(&self, topic: &str, number: i32) -> Option<&By> {
        self.0.pauses.of(topic, number)
    }
}
