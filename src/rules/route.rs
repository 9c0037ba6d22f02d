//! Topic → listeners: the handlers that run for a message, and the settings of the topic as a whole.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use regex::Regex;

use crate::config::{Batch, Config, Listener, NullKeys, Ordering, Topic};
use crate::rules::commit_metadata;
use crate::topic_name::{self, Made};

/// How one consumer handles one topic.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Indices in the config's listeners, in the order of declaration.
    pub(crate) listeners: Vec<usize>,
    /// The names of the listeners with manual commits.
    pub(crate) manual: Vec<Arc<str>>,
    /// The names of the listeners with automatic commits.
    pub(crate) automatic: Vec<Arc<str>>,
    pub(crate) from_beginning: bool,
    pub(crate) commit_interval: Option<Duration>,
    pub(crate) commit_threshold: Option<u64>,
    /// `maxInFlight`: calls of the topic that wait at once.
    pub(crate) calls_max: usize,
    /// `maxDeferred`: messages of a partition that are deferred at once.
    pub(crate) deferred_max: usize,
    /// `partitionsConsumedConcurrently`: partitions in which calls wait at once.
    pub(crate) partitions_max: Option<usize>,
    /// The listeners of a topic agree on it; if they do not, the first listener's value counts.
    pub(crate) ordering: Ordering,
    pub(crate) null_keys: NullKeys,
    /// The hash of the listeners' names.
    pub(crate) listeners_hash: u32,
    /// A retry topic: each message names its listener, and the time before which it is not taken.
    pub(crate) is_retry: bool,
    /// Of no retry topic: a message is not taken before it is that old.
    pub(crate) delay: Option<Duration>,
    /// The share of the topic, if one of its consumer's topics has a share.
    pub(crate) share: Option<u32>,
    /// The one listener gets batches. A message of a retry topic is a batch of its own.
    pub(crate) batch: Option<Batch>,
}

impl Plan {
    /// The plan of a topic without a listener.
    pub(crate) fn nobody() -> Self {
        Self {
            listeners: Vec::new(),
            manual: Vec::new(),
            automatic: Vec::new(),
            from_beginning: false,
            commit_interval: None,
            commit_threshold: None,
            calls_max: 1,
            deferred_max: 1,
            partitions_max: None,
            ordering: Ordering::Partition,
            null_keys: NullKeys::Parallel,
            listeners_hash: 0,
            is_retry: false,
            delay: None,
            share: None,
            batch: None,
        }
    }

    /// The most partitions that can run at once; no more workers than these have a share of the topic.
    pub(crate) fn concurrency(&self) -> usize {
        self.calls_max
            .min(self.partitions_max.unwrap_or(usize::MAX))
    }

    /// Whether the topic has this listener.
    pub(crate) fn has(&self, listener: &str) -> bool {
        let mut names = self.manual.iter().chain(&self.automatic);
        names.any(|name| **name == *listener)
    }

    /// Whether both plans have the same listeners with the same kind of commits.
    pub(crate) fn commits_alike(&self, other: &Self) -> bool {
        (&self.manual, &self.automatic) == (&other.manual, &other.automatic)
    }

    /// Whether the two plans assign messages to lanes differently, or one of them to batches.
    pub(crate) fn orders_otherwise(&self, other: &Self) -> bool {
        let order = |plan: &Self| (plan.ordering, plan.null_keys, plan.batch.is_some());
        order(self) != order(other)
    }
}

/// The subscription of one consumer.
#[derive(Clone, Debug, Default)]
pub(crate) struct Subscription {
    pub(crate) topics: Vec<Arc<str>>,
    patterns: Vec<Regex>,
    /// Topics that patterns must not match by accident.
    made: Made,
    /// The topics of listeners with retry topics, and the delays of these.
    retried: Vec<(Topic, Vec<Duration>)>,
    group: String,
}

/// `None` if no listener of that consumer takes the topic.
pub(crate) fn plan(config: &Config, consumer: &str, topic: &str) -> Option<Plan> {
    let made = made(config);
    let of = |index: &usize| &config.listeners[*index];
    let all = 0..config.listeners.len();
    let mut listeners = Vec::new();
    if let Some(source) = topic_name::retry_source(topic, group(config, consumer)) {
        let retries =
            |one: &Listener| !one.retry.topics.is_empty() && wants(&made, one, consumer, source);
        listeners.extend(all.clone().filter(|index| retries(of(index))));
    }
    let is_retry = !listeners.is_empty();
    if !is_retry {
        listeners.extend(all.filter(|index| wants(&made, of(index), consumer, topic)));
    }
    let first = of(listeners.first()?);
    // Two patterns may meet in a topic that the check of the configuration does not know: the first listener decides.
    match first.batch {
        Some(_) => listeners.truncate(1),
        None => listeners.retain(|index| of(index).batch.is_none()),
    }
    let names = |auto_commit: bool| -> Vec<Arc<str>> {
        let commits = |one: &&Listener| one.run.auto_commit == auto_commit;
        let listeners = listeners.iter().map(of).filter(commits);
        listeners.map(|one| one.name.as_str().into()).collect()
    };
    let (manual, automatic) = (names(false), names(true));
    Some(Plan {
        automatic,
        manual,
        // Messages that wait in a retry topic already belonged to this group.
        from_beginning: is_retry || listeners.iter().map(of).any(|one| one.from_beginning),
        commit_interval: first.run.auto_commit_interval,
        commit_threshold: first.run.auto_commit_threshold,
        calls_max: first.max_in_flight,
        deferred_max: first.max_deferred,
        partitions_max: first.run.partitions_consumed_concurrently,
        ordering: if is_retry {
            Ordering::None
        } else {
            first.ordering
        },
        is_retry,
        // What comes back from a retry topic has waited in its own topic.
        delay: first.delay.filter(|_| !is_retry),
        share: has_shares(config, consumer).then(|| first.share.unwrap_or(1)),
        null_keys: first.null_keys,
        batch: first.batch,
        listeners_hash: commit_metadata::listeners_hash(
            listeners.iter().map(|index| &*of(index).name),
        ),
        listeners,
    })
}

/// Whether the topics of this consumer run by shares.
fn has_shares(config: &Config, consumer: &str) -> bool {
    let mut listeners = config.listeners.iter();
    listeners.any(|one| one.share.is_some() && one.consumer == consumer)
}

pub(crate) fn subscription(config: &Config, consumer: &str) -> Subscription {
    let group = group(config, consumer);
    let mut subscription = Subscription {
        group: group.to_owned(),
        made: config.made_topics(),
        ..Subscription::default()
    };
    let add = |topics: &mut Vec<Arc<str>>, name: &str| {
        if !topics.iter().any(|other| **other == *name) {
            topics.push(name.into());
        }
    };
    for listener in config
        .listeners
        .iter()
        .filter(|one| one.consumer == consumer)
    {
        for topic in &listener.topics {
            match topic {
                Topic::Literal(name) => add(&mut subscription.topics, name),
                Topic::Pattern(pattern) => subscription.patterns.push(pattern.clone()),
            }
            if !listener.retry.topics.is_empty() {
                let delays = listener.retry.topics.clone();
                subscription.retried.push((topic.clone(), delays));
            }
        }
    }
    subscription
}

impl Subscription {
    /// Whether the subscription depends on the existing topics.
    pub(crate) fn needs_topics(&self) -> bool {
        !self.patterns.is_empty() || !self.retried.is_empty()
    }

    /// Whether a topic with retry topics lacks one of them, or this is not known yet.
    pub(crate) fn lacks_retries(&self, existing: &[(String, usize)]) -> bool {
        let existing: BTreeSet<&str> = existing.iter().map(|(name, _)| name.as_str()).collect();
        let lacks = |source: &str, delays: &[Duration]| {
            let mut topics = delays
                .iter()
                .map(|delay| topic_name::retry_topic(source, &self.group, *delay));
            topics.any(|topic| !existing.contains(topic.as_str()))
        };
        self.retried.iter().any(|(topic, delays)| match topic {
            Topic::Literal(source) => lacks(source, delays),
            Topic::Pattern(_) => existing.iter().any(|source| {
                !self.made.has(source)
                    && is_match(&self.made, topic, source)
                    && lacks(source, delays)
            }),
        })
    }

    /// Whether a pattern matches the topic.
    pub(crate) fn waits_for(&self, topic: &str) -> bool {
        let mut patterns = self.patterns.iter();
        patterns.any(|pattern| self.made.is_taken(pattern, topic))
    }

    /// The literal topics, and those of `existing` that a pattern matches or that hold retry messages; sorted. The
    /// latter include retry topics whose delays are no longer configured. Kafka's internal topics never match, and
    /// topics made by Moontide match only by name.
    pub(crate) fn expand(&self, existing: &[(String, usize)]) -> Vec<Arc<str>> {
        let mut topics = self.topics.clone();
        for (name, _) in existing {
            let source = topic_name::retry_source(name, &self.group);
            let is_retry = source.is_some_and(|source| {
                self.retried
                    .iter()
                    .any(|(topic, _)| is_match(&self.made, topic, source))
            });
            if (self.waits_for(name) || is_retry) && !topics.iter().any(|topic| **topic == **name) {
                topics.push(name.as_str().into());
            }
        }
        topics.sort();
        topics
    }
}

/// Whether a listener takes a topic by a pattern, not by its name.
pub(crate) fn matches_pattern(made: &Made, listener: &Listener, topic: &str) -> bool {
    let is_literal = |wanted: &Topic| matches!(wanted, Topic::Literal(name) if name == topic);
    !listener.topics.iter().any(is_literal) && takes(made, listener, topic)
}

/// Whether a listener takes a topic, by its name or by a pattern.
pub(crate) fn takes(made: &Made, listener: &Listener, topic: &str) -> bool {
    let mut topics = listener.topics.iter();
    topics.any(|wanted| is_match(made, wanted, topic))
}

fn wants(made: &Made, listener: &Listener, consumer: &str, topic: &str) -> bool {
    listener.consumer == consumer && takes(made, listener, topic)
}

fn is_match(made: &Made, wanted: &Topic, topic: &str) -> bool {
    match wanted {
        Topic::Literal(name) => name == topic,
        Topic::Pattern(pattern) => made.is_taken(pattern, topic),
    }
}

/// The topics that patterns must not match by accident; empty without a pattern.
fn made(config: &Config) -> Made {
    let mut topics = config.listeners.iter().flat_map(|one| &one.topics);
    if topics.any(|topic| matches!(topic, Topic::Pattern(_))) {
        config.made_topics()
    } else {
        Made::default()
    }
}

fn group<'a>(config: &'a Config, consumer: &str) -> &'a str {
    let mut consumers = config.consumers.iter();
    consumers
        .find(|one| one.name == consumer)
        .map_or("", |one| one.group_id.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(topic: Topic, existing: &[&str], expected: bool) {
        let subscription = Subscription {
            retried: vec![(topic, vec![Duration::from_secs(5)])],
            group: "billing".to_owned(),
            ..Subscription::default()
        };
        let existing: Vec<_> = existing
            .iter()
            .map(|name| ((*name).to_owned(), 1))
            .collect();
        assert_eq!(subscription.lacks_retries(&existing), expected);
    }

    #[test]
    fn two_groups_with_one_pattern_leave_each_others_topics_alone() {
        let pattern = || Topic::Pattern(Regex::new("^orders.*").unwrap());
        let mut existing = vec!["orders".to_owned(), "orders.new".to_owned()];
        let mut taken = Vec::new();
        for _ in 0..3 {
            taken.clear();
            for group in ["billing", "shipping"] {
                let Topic::Pattern(regex) = pattern() else {
                    unreachable!()
                };
                let subscription = Subscription {
                    patterns: vec![regex],
                    retried: vec![(pattern(), vec![Duration::from_secs(5)])],
                    group: group.to_owned(),
                    ..Subscription::default()
                };
                let found: Vec<_> = existing.iter().map(|name| (name.clone(), 1)).collect();
                let topics = subscription.expand(&found);
                let sources = topics.iter().filter(|one| subscription.waits_for(one));
                for source in sources {
                    for made in [
                        topic_name::retry_topic(source, group, Duration::from_secs(5)),
                        format!("{source}.dead"),
                    ] {
                        if !existing.contains(&made) {
                            existing.push(made);
                        }
                    }
                }
                taken.push(topics.iter().map(ToString::to_string).collect::<Vec<_>>());
            }
        }
        existing.sort();
        let all = [
            "orders",
            "orders.billing.retry.5s",
            "orders.dead",
            "orders.new",
            "orders.new.billing.retry.5s",
            "orders.new.dead",
            "orders.new.shipping.retry.5s",
            "orders.shipping.retry.5s",
        ];
        assert_eq!(existing, all);
        assert_eq!(taken[0], [all[0], all[1], all[3], all[4]]);
        assert_eq!(taken[1], [all[0], all[3], all[6], all[7]]);
    }

    #[test]
    fn a_retry_topic_is_missed_until_it_is_there_also_that_of_what_a_pattern_matches() {
        let both = ["orders", "orders.billing.retry.5s"];
        let literal = || Topic::Literal("orders".to_owned());
        check(literal(), &["orders"], true);
        check(literal(), &both, false);
        let pattern = || Topic::Pattern(Regex::new("^orders").unwrap());
        check(pattern(), &["other"], false);
        check(pattern(), &["orders"], true);
        check(pattern(), &both, false);
    }
}
