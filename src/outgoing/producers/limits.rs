//! The largest batch that each topic accepts, as the brokers tell it.
//!
//! One question has all topics of a send that nobody has asked for. Sends to other topics do not wait for it.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::watch;

use crate::kafka::producer::Producer;
use crate::log::log;

/// The limit of a question, whatever the number of its topics.
const QUESTION_MAX: Duration = Duration::from_secs(5);
/// How long a topic counts as one without a known limit after a question that failed.
const AGAIN: Duration = Duration::from_secs(5);
/// How long a topic counts as missing: it may be made at any moment.
const MISSING: Duration = Duration::from_secs(1);
/// More topics than that are asked for again.
const TOPICS_MAX: usize = 10_000;

pub(super) struct Limits {
    /// How long an answer counts.
    lasts: Duration,
    topics: Mutex<HashMap<String, Limit>>,
}

enum Limit {
    /// A question for it is under way, until the channel closes.
    Asked(watch::Receiver<()>),
    Known {
        /// `usize::MAX` where nobody tells it.
        bytes: usize,
        /// The topic does not exist, as far as the brokers tell.
        is_missing: bool,
        until: Instant,
    },
}

/// Topics that nobody has asked for. Its drop tells those who wait for the answer.
pub(super) struct Question {
    limits: Arc<Limits>,
    topics: Vec<String>,
    _told_by_its_end: watch::Sender<()>,
}

impl Limits {
    pub(super) fn new(lasts: Duration) -> Arc<Self> {
        Arc::new(Self {
            lasts,
            topics: Mutex::default(),
        })
    }

    /// The questions whose answers these topics need, and the one among them that the caller has to put.
    pub(super) fn ask(
        self: &Arc<Self>,
        topics: &[&str],
    ) -> (Vec<watch::Receiver<()>>, Option<Question>) {
        let mut limits = self.lock();
        let (mut waits, mut unknown) = (Vec::new(), Vec::new());
        let now = Instant::now();
        for topic in topics {
            match limits.get(*topic) {
                Some(Limit::Known { until, .. }) if now < *until => {}
                // A question that ended without an answer is put again.
                Some(Limit::Asked(wait)) if wait.has_changed().is_ok() => waits.push(wait.clone()),
                _ => unknown.push((*topic).to_owned()),
            }
        }
        if unknown.is_empty() {
            return (waits, None);
        }
        if limits.len() + unknown.len() > TOPICS_MAX {
            limits.clear();
        }
        let (sender, wait) = watch::channel(());
        for topic in &unknown {
            limits.insert(topic.clone(), Limit::Asked(wait.clone()));
        }
        waits.push(wait);
        let question = Question {
            limits: self.clone(),
            topics: unknown,
            _told_by_its_end: sender,
        };
        (waits, Some(question))
    }

    /// The limit of a topic and until when it counts, if the answer to its question is there.
    pub(super) fn known(&self, topic: &str) -> Option<(usize, Instant)> {
        match self.lock().get(topic) {
            Some(Limit::Known { bytes, until, .. }) if Instant::now() < *until => {
                Some((*bytes, *until))
            }
            _ => None,
        }
    }

    /// The least of the known limits of these topics.
    pub(super) fn least(&self, topics: &[&str]) -> usize {
        let limits = self.lock();
        let known = topics.iter().filter_map(|topic| match limits.get(*topic) {
            Some(Limit::Known { bytes, .. }) => Some(*bytes),
            _ => None,
        });
        known.min().unwrap_or(usize::MAX)
    }

    /// Whether the last answer says that the topic does not exist.
    pub(super) fn is_missing(&self, topic: &str) -> bool {
        let limits = self.lock();
        matches!(
            limits.get(topic),
            Some(Limit::Known {
                is_missing: true,
                ..
            })
        )
    }

    /// The topic accepts less than was known.
    pub(super) fn forget(&self, topic: &str) {
        let mut limits = self.lock();
        if let Some(Limit::Known { .. }) = limits.get(topic) {
            limits.remove(topic);
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Limit>> {
        self.topics.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Question {
    /// Asks the brokers. **The call blocks.**
    pub(super) fn put(self, producer: &Producer) {
        let lasts = self.limits.lasts;
        let answer = producer.largest_batches(&self.topics, QUESTION_MAX);
        let (mut told, unknown_for) = match answer {
            Ok(told) => (told, AGAIN),
            Err(error) => {
                log!(debug, kafka, topics = self.topics.len(), %error, "the limits of topics are not known");
                let is_for_good = error.is_unsupported();
                (HashMap::new(), if is_for_good { lasts } else { AGAIN })
            }
        };
        let mut limits = self.limits.lock();
        for topic in &self.topics {
            let mut is_missing = false;
            let (bytes, lasts) = match told.remove(topic) {
                Some(Ok(bytes)) => (bytes.unwrap_or(usize::MAX), lasts),
                // The topic may be missing, or its configuration may not be read. The record then finds out by itself.
                Some(Err(error)) => {
                    log!(debug, kafka, topic, %error, "the limit of a topic is not known");
                    is_missing = error.is_missing_topic();
                    (usize::MAX, if is_missing { MISSING } else { AGAIN })
                }
                None => (usize::MAX, unknown_for),
            };
            let until = Instant::now() + lasts;
            let known = Limit::Known {
                bytes,
                is_missing,
                until,
            };
            limits.insert(topic.clone(), known);
        }
    }
}
