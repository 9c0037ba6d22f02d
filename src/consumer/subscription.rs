//! What the consumer subscribes to: literal topics, and those that exist and match a pattern.
//!
//! Patterns are matched by us, since librdkafka, the brokers and Rust read three dialects. A topic that appears while a
//! pattern waits for it starts at its beginning: what was written before we saw it is not lost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::asker::Ask;
use crate::clock::now_ms;
use crate::config::Config;
use crate::kafka::{Class, Error};
use crate::route::{self, Subscription};
use crate::status::TopicError;
use crate::supervisor::Ending;

use super::Consumer;

/// After a question that had no answer.
const ASK_AGAIN: Duration = Duration::from_secs(1);

pub(super) struct Topics {
    wanted: Subscription,
    /// The topics that exist, once they were asked for.
    existing: Option<Vec<(String, usize)>>,
    /// Topics that were there when a pattern began to wait: what is not among them is new.
    known: Option<BTreeSet<String>>,
    ask_at: Option<Instant>,
    is_asking: bool,
    subscribed: Vec<Arc<str>>,
    /// Subscribed ones that can't be had, until a partition of them is.
    troubled: BTreeMap<Arc<str>, TopicError>,
}

impl Topics {
    pub(super) fn new(config: &Config, consumer: &str) -> Self {
        Self {
            wanted: route::subscription(config, consumer),
            existing: None,
            known: None,
            ask_at: None,
            is_asking: false,
            subscribed: Vec::new(),
            troubled: BTreeMap::new(),
        }
    }

    pub(super) fn reload(&mut self, config: &Config, consumer: &str) {
        self.wanted = route::subscription(config, consumer);
        // Patterns may be new, and topics too.
        self.ask_at = None;
    }

    fn found(&mut self, existing: Vec<(String, usize)>) {
        let wanted = &self.wanted.patterns;
        let is_first = self.known.is_none();
        let known = self.known.get_or_insert_default();
        for (name, _) in &existing {
            // No pattern waits for it: it is not new to one that a reload brings.
            if is_first || !wanted.iter().any(|pattern| pattern.is_match(name)) {
                known.insert(name.clone());
            }
        }
        self.existing = Some(existing);
    }

    pub(super) fn is_new(&self, topic: &str) -> bool {
        let is_literal = self.wanted.topics.iter().any(|one| **one == *topic);
        !is_literal
            && self
                .known
                .as_ref()
                .is_some_and(|known| !known.contains(topic))
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

    /// A partition of it is there.
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
    /// Asks for topics when it is time, and subscribes when the list has changed.
    pub(super) fn subscribe(&mut self, now: Instant) {
        if self.closing.is_some() {
            return;
        }
        let topics = &mut self.topics;
        let has_patterns = !topics.wanted.patterns.is_empty();
        if has_patterns && !topics.is_asking && topics.ask_at.is_none_or(|at| at <= now) {
            topics.is_asking = true;
            topics.ask_at = Some(now + self.settings.metadata_max_age);
            self.asker.ask(Ask::Topics);
        }
        let existing = match &topics.existing {
            // One subscription instead of two, each with its rebalance.
            None if has_patterns => return,
            None => &[],
            Some(existing) => existing.as_slice(),
        };
        let list = topics.wanted.expand(existing);
        if list == topics.subscribed {
            return;
        }
        match self.client.subscribe(&list) {
            Ok(()) => {
                tracing::info!(
                    consumer = &*self.name,
                    topics = list.join(", "),
                    "subscribed"
                );
                self.topics.troubled.retain(|topic, _| list.contains(topic));
                self.topics.subscribed = list;
            }
            Err(error) if error.class() == Class::Fatal => self.error(&error, None),
            Err(error) => {
                let _ = self.endings.send(Ending::Failed(format!(
                    "consumer `{}`: not subscribed: {error}",
                    self.name
                )));
                self.topics.subscribed = list;
            }
        }
    }

    pub(super) fn topics_found(
        &mut self,
        found: Result<Vec<(String, usize)>, Error>,
        now: Instant,
    ) {
        self.topics.is_asking = false;
        match found {
            Ok(existing) => {
                self.topics.found(existing);
            }
            Err(error) => {
                self.topics.ask_at = Some(now + ASK_AGAIN);
                self.trouble.note(&self.name, &error, None);
            }
        }
    }
}
