//! The subscription of the consumer: literal topics, and existing topics that match a pattern.
//!
//! Moontide matches patterns itself, because librdkafka, the brokers and Rust have three regex dialects. A topic that
//! appears while a pattern waits for it starts at its beginning: messages written before its discovery are not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::ToTopics;
use crate::clock::now_ms;
use crate::config::Config;
use crate::consumer::lookups::Lookup;
use crate::kafka::{Class, Error};
use crate::log::log;
use crate::rules::route::{self, Subscription};
use crate::telemetry::status::TopicError;
use crate::threads::supervisor::Ending;

use super::Consumer;
use super::drain::Drain;
use super::trouble::Subject;

/// The pause after a lookup without an answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Topics {
    wanted: Subscription,
    /// The existing topics, after the first lookup.
    existing: Option<Vec<(String, usize)>>,
    /// The topics that existed when a pattern began to wait; every other topic is new.
    known: Option<BTreeSet<String>>,
    ask_at: Option<Instant>,
    /// The pause before the next lookup while a retry topic does not exist yet.
    pause: Duration,
    /// The topics to subscribe to, until an input changes.
    expanded: Option<Vec<Arc<str>>>,
    is_asking: bool,
    subscribed: Vec<Arc<str>>,
    /// Subscribed topics with an error, until they are there or one of their partitions is assigned.
    troubled: BTreeMap<Arc<str>, TopicError>,
    /// Topics that were missing and are there, until librdkafka has seen them: a lookup of all topics shows them to
    /// it.
    come: BTreeSet<Arc<str>>,
}

impl Topics {
    pub(super) fn new(config: &Config, consumer: &str) -> Self {
        Self {
            wanted: route::subscription(config, consumer),
            existing: None,
            known: None,
            ask_at: None,
            pause: ASK_AGAIN,
            expanded: None,
            is_asking: false,
            subscribed: Vec::new(),
            troubled: BTreeMap::new(),
            come: BTreeSet::new(),
        }
    }

    pub(super) fn reload(&mut self, config: &Config, consumer: &str) {
        self.wanted = route::subscription(config, consumer);
        // The reload may have new patterns and new topics.
        self.ask_at = None;
        self.pause = ASK_AGAIN;
        self.expanded = None;
    }

    fn found(&mut self, existing: Vec<(String, usize)>) {
        let is_first = self.known.is_none();
        let known = self.known.get_or_insert_default();
        for (name, _) in &existing {
            // No pattern waits for the topic, so it is not new to a pattern that a reload brings.
            if is_first || !self.wanted.waits_for(name) {
                known.insert(name.clone());
            }
        }
        self.existing = Some(existing);
        self.expanded = None;
    }

    /// The topics to subscribe to; `None` before they are known.
    fn expanded(&mut self) -> Option<&Vec<Arc<str>>> {
        if self.expanded.is_none() {
            let existing = match &self.existing {
                // This gives one subscription instead of two, each with its own rebalance.
                None if self.wanted.needs_topics() => return None,
                None => &[],
                Some(existing) => existing.as_slice(),
            };
            self.expanded = Some(self.wanted.expand(existing));
        }
        self.expanded.as_ref()
    }

    pub(super) fn is_new(&self, topic: &str) -> bool {
        let is_literal = self.wanted.topics.iter().any(|one| **one == *topic);
        !is_literal
            && self
                .known
                .as_ref()
                .is_some_and(|known| !known.contains(topic))
    }

    pub(super) fn is_troubled(&self, topic: &str) -> bool {
        self.troubled.contains_key(topic)
    }

    /// Topics are missing. A topic that a pattern matched is then one that is no longer subscribed to.
    pub(super) fn are_missing(&mut self, missing: &[(Arc<str>, Error)]) {
        for (topic, error) in missing {
            self.trouble(topic, error);
        }
        let is_literal = |(topic, _): &(Arc<str>, Error)| self.wanted.topics.contains(topic);
        if !missing.iter().all(is_literal) {
            self.ask_at = None;
        }
    }

    /// A topic that was missing is there.
    pub(super) fn has_come(&mut self, topic: Arc<str>) {
        self.troubled.remove(&topic);
        self.come.insert(topic);
        self.ask_at = None;
    }

    /// A new client is to subscribe.
    pub(super) fn subscribe_again(&mut self) {
        self.subscribed.clear();
        self.come.clear();
        self.is_asking = false;
    }

    fn needs_lookup(&self) -> bool {
        self.wanted.needs_topics() || !self.come.is_empty()
    }

    pub(super) fn trouble(&mut self, topic: &Arc<str>, error: &Error) {
        let since = self
            .troubled
            .get(topic)
            .map_or_else(now_ms, |one| one.since);
        let error = error.to_string();
        let topic_error = TopicError {
            topic: topic.to_string(),
            error,
            since,
        };
        self.troubled.insert(topic.clone(), topic_error);
    }

    /// A partition of the topic is assigned.
    pub(super) fn has(&mut self, topic: &str) {
        self.troubled.remove(topic);
    }

    pub(super) fn troubled(&self) -> Vec<TopicError> {
        self.troubled.values().cloned().collect()
    }

    pub(super) fn subscribed(&self) -> &[Arc<str>] {
        &self.subscribed
    }
}

impl Consumer {
    /// Looks up the topics when that is due, and subscribes when the list has changed.
    pub(super) fn subscribe(&mut self, now: Instant) {
        if self.phase.is_closing() {
            return;
        }
        let topics = &mut self.topics;
        if topics.needs_lookup() && !topics.is_asking && topics.ask_at.is_none_or(|at| at <= now) {
            topics.is_asking = true;
            topics.ask_at = Some(now + self.settings.metadata_max_age);
            self.lookups.ask(Lookup::Topics);
        }
        let Some(list) = topics.expanded().cloned() else {
            return;
        };
        if list == topics.subscribed && self.phase.emptying.is_none() {
            return;
        }
        if !self.is_emptied(now) {
            return;
        }
        match self.client.subscribe(&list) {
            Ok(()) => {
                log!(
                    info,
                    consumer,
                    consumer = &*self.name,
                    topics = list.join(", "),
                    "subscribed"
                );
                self.topics.troubled.retain(|topic, _| list.contains(topic));
                let before = &self.topics.subscribed;
                let new = list.iter().filter(|topic| !before.contains(topic));
                self.needed.send(ToTopics::Matched {
                    consumer: self.name.clone(),
                    topics: new.cloned().collect(),
                });
                self.topics.subscribed = list;
            }
            Err(error) if error.class() == Class::Fatal => self.error(&error, Subject::Group),
            Err(error) => {
                let _ = self.endings.send(Ending::Failed(format!(
                    "consumer `{}`: not subscribed: {error}",
                    self.name
                )));
                self.topics.subscribed = list;
            }
        }
    }

    /// With an eager assignor a new subscription revokes every partition. The race: librdkafka should wait for the
    /// drain, but rejoins at once when metadata arrives meanwhile; another member then gets partitions whose calls
    /// still run here. So the consumer drains and commits everything before it passes the new subscription to
    /// librdkafka.
    fn is_emptied(&mut self, now: Instant) -> bool {
        if self.held.is_empty() || self.client.is_cooperative() {
            self.phase.emptying = None;
            return true;
        }
        if self.phase.is_busy() {
            return false;
        }
        let drain = self.phase.emptying.take();
        let ends_at = now + self.drain_time();
        let mut drain = drain
            .unwrap_or_else(|| Drain::new(ends_at).cancels_again(self.settings.session_timeout));
        self.observe_revoked(|_| true, now, ends_at);
        for held in self.held.values_mut() {
            held.release();
            held.seeking.released = false;
        }
        let is_done = self.go_on_draining(&mut drain, |_| true, now);
        self.phase.emptying = (!is_done).then_some(drain);
        is_done
    }

    pub(super) fn topics_found(
        &mut self,
        found: Result<Vec<(String, usize)>, Error>,
        now: Instant,
    ) {
        self.topics.is_asking = false;
        match found {
            Ok(existing) => {
                self.trouble.over(&Subject::Lookups);
                self.topics.come.retain(|topic| {
                    let is_seen = |(name, _): &(String, usize)| *name == **topic;
                    !existing.iter().any(is_seen)
                });
                let lacks = self.topics.wanted.lacks_retries(&existing);
                if lacks || !self.topics.come.is_empty() {
                    let pause = &mut self.topics.pause;
                    self.topics.ask_at = Some(now + *pause);
                    *pause = (*pause * 2).min(self.settings.metadata_max_age);
                } else {
                    self.topics.pause = ASK_AGAIN;
                }
                self.topics.found(existing);
            }
            Err(error) => {
                self.topics.ask_at = Some(now + ASK_AGAIN);
                self.trouble.note(&self.name, &error, Subject::Lookups, now);
            }
        }
    }
}
