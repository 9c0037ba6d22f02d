//! Topics that must exist before a message fails: those of dead letters and of durable retries.
//!
//! Pure: a configuration and names of topics in, the required topics and the sentence for a missing one out. A
//! missing topic is detected at the start and at a reload, not by the first message that fails.

use std::fmt::{self, Write as _};

use crate::config::{Config, Consumer, Listener, Topic};
use crate::rules::route;
use crate::topic_name;

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct RequiredTopic {
    pub(crate) topic: String,
    /// The topic whose messages go there; the required topic has as many partitions.
    pub(crate) source: String,
    pub(crate) consumer: String,
    pub(crate) listener: String,
    pub(crate) purpose: Purpose,
    pub(crate) create: Create,
}

/// Whether Moontide may create a missing topic, in ascending order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Create {
    /// The source was matched by a pattern and is itself a derived topic: topics would be created from topics without
    /// end.
    Never,
    /// `allowAutoTopicCreation` is false.
    No,
    Yes,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    DeadLetters,
    Retries,
}

/// Settings of every topic that Moontide creates, if the brokers know them: the topic accepts any timestamp. Kafka 4
/// refuses timestamps more than an hour ahead, and a dead letter has the timestamp of its message.
pub(crate) const ANY_TIMESTAMP: &[(&str, &str)] = &[
    ("message.timestamp.after.max.ms", "9223372036854775807"),
    ("message.timestamp.before.max.ms", "9223372036854775807"),
];

impl Purpose {
    /// A topic's own settings. Dead letters keep the timestamps of their messages. If retention counted from those,
    /// the dead letter of an old message would be deleted at once.
    pub(crate) fn settings(self) -> &'static [(&'static str, &'static str)] {
        match self {
            Self::DeadLetters => &[("retention.ms", "-1")],
            Self::Retries => &[],
        }
    }

    fn key(self) -> &'static str {
        match self {
            Self::DeadLetters => "deadLetter",
            Self::Retries => "retry",
        }
    }
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::DeadLetters => "dead-letter topic",
            Self::Retries => "retry topic",
        })
    }
}

/// The topics that the literal topics need.
pub(crate) fn by_literals(config: &Config) -> Vec<RequiredTopic> {
    let mut needed = Vec::new();
    for consumer in &config.consumers {
        for listener in of(config, consumer) {
            for topic in &listener.topics {
                if let Topic::Literal(source) = topic {
                    add(&mut needed, consumer, listener, source, false);
                }
            }
        }
    }
    needed
}

/// The topics that the matches of that consumer's pattern need.
pub(crate) fn by_matches(config: &Config, consumer: &str, sources: &[&str]) -> Vec<RequiredTopic> {
    let mut needed = Vec::new();
    let made = config.made_topics();
    let consumers = config.consumers.iter();
    for consumer in consumers.filter(|one| one.name == consumer) {
        for listener in of(config, consumer) {
            for source in sources {
                let is_retry = topic_name::retry_source(source, &consumer.group_id).is_some();
                if !is_retry && route::matches_pattern(&made, listener, source) {
                    add(&mut needed, consumer, listener, source, made.has(source));
                }
            }
        }
    }
    needed
}

fn of<'a>(config: &'a Config, consumer: &'a Consumer) -> impl Iterator<Item = &'a Listener> {
    let listeners = config.listeners.iter();
    listeners.filter(|listener| listener.consumer == consumer.name)
}

/// Adds each topic once. It may be created if one of the listeners that need it allows that.
fn add(
    needed: &mut Vec<RequiredTopic>,
    consumer: &Consumer,
    listener: &Listener,
    source: &str,
    is_made: bool,
) {
    let create = |allowed: bool| match (is_made, allowed) {
        (true, _) => Create::Never,
        (false, true) => Create::Yes,
        (false, false) => Create::No,
    };
    let group = &consumer.group_id;
    let letters = listener.dead_letter.iter().map(|policy| {
        let topic = policy.topic_of(source, group, &listener.name);
        (topic, Purpose::DeadLetters, create(policy.create_topic))
    });
    let retries = listener.retry.topics.iter().map(|delay| {
        let topic = topic_name::retry_topic(source, group, *delay);
        (
            topic,
            Purpose::Retries,
            create(listener.retry.create_topics),
        )
    });
    for (topic, purpose, create) in letters.chain(retries) {
        let known = needed
            .iter_mut()
            .find(|one| one.topic == topic && one.consumer == consumer.name);
        if let Some(known) = known {
            known.create = known.create.max(create);
            continue;
        }
        needed.push(RequiredTopic {
            topic,
            source: source.to_owned(),
            consumer: consumer.name.clone(),
            listener: listener.name.clone(),
            purpose,
            create,
        });
    }
}

impl RequiredTopic {
    /// The reason why the topic is required, and the command that creates it. `refused`: why an allowed creation
    /// failed.
    pub(crate) fn missing(
        &self,
        brokers: &str,
        partitions: Option<usize>,
        refused: Option<&str>,
    ) -> String {
        let Self {
            topic,
            listener,
            purpose,
            ..
        } = self;
        let partitions = partitions.map_or(String::new(), |count| format!(" --partitions {count}"));
        let mut settings = String::new();
        for (name, value) in purpose.settings() {
            // Writing to a string cannot fail.
            let _ = write!(settings, " --config {name}={value}");
        }
        let why = refused.map_or(String::new(), |refused| {
            format!(" and could not be created ({refused})")
        });
        let or = match (refused, self.create) {
            (Some(_), _) | (None, Create::Yes) => String::new(),
            (None, Create::No) => {
                format!(", or set `{}.allowAutoTopicCreation = true`", purpose.key())
            }
            (None, Create::Never) => {
                "; Moontide creates no topic for a topic that Moontide itself created".to_owned()
            }
        };
        format!(
            "listener `{listener}`: its {purpose} `{topic}` does not exist{why}; create it: \
             kafka-topics.sh --bootstrap-server {brokers} --create --topic {topic}{partitions}{settings}{or}"
        )
    }
}
