//! Watches the subscribed topics: the brokers describe them every so often, and soon after an error of a topic.
//!
//! The description shows a topic that is missing, one that has come, and one that was deleted and created again.
//! librdkafka sees none of them in time: it looks for a missing topic every `metadataMaxAge`, and it goes on in a new
//! topic at the offset of the old one, or never fetches from it (`lookups::Brokers::is_recreated`).

use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::Described;
use crate::consumer::lookups::Lookup;
use crate::kafka::Error;
use crate::log::log;

use super::Consumer;

/// The pause before the next description after an error, and while a topic is missing: doubled up to the longest.
const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// The time between two descriptions is so long for each topic, and no longer than `metadataMaxAge`: a large
/// subscription is no load.
const FOR_EACH_TOPIC: Duration = Duration::from_secs(1);
const PERIOD_MIN: Duration = Duration::from_secs(10);

pub(super) struct TopicWatch {
    due: Instant,
    /// The lookup without an answer, and whether another one is due after it.
    open: Option<u64>,
    again: bool,
    pause: Duration,
}

impl TopicWatch {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            due: now,
            open: None,
            again: false,
            pause: PAUSE,
        }
    }

    /// Something has happened to a topic.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.again |= self.open.is_some();
        self.due = self.due.min(now + PAUSE);
    }

    /// The answer to the open lookup has come.
    fn answered(&mut self, pause: Duration, now: Instant) {
        self.open = None;
        let pause = if std::mem::take(&mut self.again) {
            PAUSE
        } else {
            pause
        };
        self.due = now + pause;
    }

    fn longer_pause(&mut self) -> Duration {
        let pause = self.pause;
        self.pause = (pause * 2).min(PAUSE_MAX);
        pause
    }
}

impl Consumer {
    /// The error may tell of a topic that is gone, or created again.
    pub(super) fn watch_after(&mut self, error: &Error) {
        if error.is_of_topic() {
            self.watch.hurry(Instant::now());
        }
    }

    /// Asks for a description when one is due.
    pub(super) fn watch(&mut self, now: Instant) {
        let topics = self.topics.subscribed();
        if self.phase.is_closing() || topics.is_empty() {
            return;
        }
        if self.watch.open.is_none() && self.watch.due <= now {
            self.phase.asked += 1;
            let id = self.phase.asked;
            self.watch.open = Some(id);
            let topics = topics.to_vec();
            self.lookups.ask(Lookup::Describe { id, topics });
        }
    }

    pub(super) fn described(&mut self, id: u64, described: Result<Described, Error>, now: Instant) {
        if self.watch.open != Some(id) {
            // A lookup by an earlier client.
            return;
        }
        let described = match described {
            Ok(described) => described,
            Err(error) => {
                let pause = self.watch.longer_pause();
                self.watch.answered(pause, now);
                // Errors of brokers have their own place, and a partition that cannot start without a description
                // has this one. An idle consumer may not ask again for long, so that here it would outlive its cause.
                log!(debug, consumer, consumer = &*self.name, %error, "topics are not described");
                return;
            }
        };
        if self.note_missing(&described) {
            self.watch.pause = PAUSE;
        }
        let pause = if described.missing.is_empty() {
            self.watch.pause = PAUSE;
            let topics = self.topics.subscribed().len() as u32;
            let period = (FOR_EACH_TOPIC * topics).max(PERIOD_MIN);
            period.min(self.settings.metadata_max_age)
        } else {
            self.watch.longer_pause()
        };
        self.watch.answered(pause, now);
        if !described.recreated.is_empty() {
            self.begin_again(&described.recreated, now);
        }
    }

    /// Returns whether a topic has gone or come.
    fn note_missing(&mut self, described: &Described) -> bool {
        let is_new = |(topic, _): &&(Arc<str>, Error)| !self.topics.is_troubled(topic);
        let gone: Vec<_> = described.missing.iter().filter(is_new).collect();
        let is_troubled = |topic: &&Arc<str>| self.topics.is_troubled(topic);
        let existing = described.existing.iter().chain(&described.recreated);
        let come: Vec<_> = existing.filter(is_troubled).cloned().collect();
        if let Some((_, error)) = gone.first() {
            let topics: Vec<_> = gone.iter().map(|(topic, _)| &**topic).collect();
            let (consumer, topics) = (&*self.name, topics.join(", "));
            log!(warn, consumer, consumer, topics, %error, "topics are missing, or may not be read");
        }
        if !come.is_empty() {
            let (consumer, topics) = (&*self.name, come.join(", "));
            log!(info, consumer, consumer, topics, "missing topics exist now");
        }
        let is_changed = !gone.is_empty() || !come.is_empty();
        self.topics.are_missing(&described.missing);
        for topic in come {
            self.topics.has_come(topic);
        }
        is_changed
    }
}
