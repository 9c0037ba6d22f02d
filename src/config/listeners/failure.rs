//! `onError`, `retry`, `deadLetter` and `breaker` of a listener: the policies for failed messages.
//!
//! Names of topics are checked as far as the file has them; whether the topics exist is checked at the start.

use super::super::file;
use super::super::names::{self, TOPIC_FORM};
use super::super::unit::Millis;
use super::super::{
    Breaker, DEFAULT_CONSUMER, DeadLetter, HeaderStyle, Infrastructure, OnError, OnRefusal, Retry,
    TooLarge, Topic,
};
use super::One;
use crate::topic_name::{self, Made};

/// The default of `retry.attempts` with `onError` "deadLetter".
const DEAD_LETTER_ATTEMPTS: u32 = 5;
const SECOND: u64 = 1_000;
const HOUR: u64 = 3_600 * SECOND;
/// Of `breaker.window` and `breaker.pause`.
const BREAKER_TIMES: (Millis, Millis) = (Millis(100), Millis(HOUR));
const BREAKER_RUNS_MAX: u32 = 1_000_000;
const PROBES_MAX: u32 = 1_000;

/// The group that `policies` join, where the file has one.
pub(super) fn group<'f>(file: &'f file::File, policies: &file::Policies) -> Option<&'f str> {
    let name = policies.consumer.as_deref().unwrap_or(DEFAULT_CONSUMER);
    let consumer = if name == DEFAULT_CONSUMER {
        &file.consumer_config
    } else {
        file.consumers.get(name)?
    };
    consumer.group_id.as_deref()
}

/// A `deadLetter` table alone sets `onError`.
pub(super) fn on_error(policies: &file::Policies) -> OnError {
    match policies.on_error {
        Some(file::OnError::DeadLetter) => OnError::DeadLetter,
        Some(file::OnError::Skip) => OnError::Skip,
        Some(file::OnError::Stop) => OnError::Stop,
        None if policies.dead_letter.is_some() => OnError::DeadLetter,
        Some(file::OnError::Retry) | None => OnError::Retry,
    }
}

impl One<'_, '_, '_> {
    pub(super) fn retry(
        &mut self,
        policies: &file::Policies,
        topics: &[Topic],
        group: Option<&str>,
    ) -> Retry {
        let retry = &policies.retry;
        let attempts = if retry.topics.is_empty() {
            self.attempts(policies)
        } else {
            self.retry_topics(policies, topics, group)
        };
        let (initial, most) = (retry.initial_delay, retry.max_delay);
        if initial.0 == 0 {
            self.error(
                &["retry", "initialDelay"],
                "`retry.initialDelay` is 0, so a failed message would run again without a pause",
            );
        } else if most < initial {
            self.error(
                &["retry", "maxDelay"],
                format!("`retry.maxDelay` is {most}, less than `retry.initialDelay` {initial}"),
            );
        }
        if !(1.0..=1_000.0).contains(&retry.multiplier) {
            self.error(
                &["retry", "multiplier"],
                format!(
                    "`retry.multiplier` is {}, not from 1 to 1000",
                    retry.multiplier
                ),
            );
        }
        if !(0.0..=1.0).contains(&retry.jitter) {
            self.error(
                &["retry", "jitter"],
                format!("`retry.jitter` is {}, not from 0 to 1", retry.jitter),
            );
        }
        Retry {
            attempts,
            initial_delay: initial.duration(),
            max_delay: most.duration(),
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            topics: retry.topics.iter().map(|delay| delay.duration()).collect(),
            infrastructure: match retry.infrastructure {
                file::Infrastructure::Wait => Infrastructure::Wait,
                file::Infrastructure::Count => Infrastructure::Count,
            },
            create_topics: retry.allow_auto_topic_creation,
        }
    }

    fn attempts(&mut self, policies: &file::Policies) -> Option<u32> {
        match (on_error(policies), policies.retry.attempts) {
            (_, Some(0)) => {
                self.error(
                    &["retry", "attempts"],
                    "`retry.attempts` is 0; it counts all runs, so the minimum is 1",
                );
                None
            }
            (OnError::Retry, Some(_)) if self.scene.report.is_left_out("onError") => None,
            (OnError::Retry, Some(attempts)) => {
                self.error(
                    &["retry", "attempts"],
                    format!(
                        "`retry.attempts` is {attempts}, but with `onError` \"retry\" a message runs until it succeeds; \
                         remove it, or set `onError` to \"deadLetter\", \"skip\" or \"stop\""
                    ),
                );
                None
            }
            (OnError::Retry, None) => None,
            (OnError::DeadLetter, attempts) => Some(attempts.unwrap_or(DEAD_LETTER_ATTEMPTS)),
            (OnError::Skip | OnError::Stop, attempts) => Some(attempts.unwrap_or(1)),
        }
    }

    /// Checks `retry.topics`; their number sets the attempts.
    fn retry_topics(
        &mut self,
        policies: &file::Policies,
        topics: &[Topic],
        group: Option<&str>,
    ) -> Option<u32> {
        let delays = &policies.retry.topics;
        let (least, most) = (Millis(SECOND), Millis(24 * HOUR));
        let key = ["retry", "topics"];
        if let Some(delay) = delays.iter().find(|delay| !(least..=most).contains(delay)) {
            self.error(
                &key,
                format!("`retry.topics` has {delay}, not from 1 s to 24 h"),
            );
        } else if let Some(pair) = delays.windows(2).find(|pair| pair[0] >= pair[1]) {
            let (before, delay) = (pair[0], pair[1]);
            self.error(
                &key,
                format!("`retry.topics` has {delay} after {before}; each delay must be longer than the previous one"),
            );
        }
        if let Some(attempts) = policies.retry.attempts {
            self.error(
                &["retry", "attempts"],
                format!(
                    "`retry.attempts` is {attempts}, but the number of `retry.topics` sets how often a message runs; \
                     remove one of them"
                ),
            );
        }
        if !policies.run_config.auto_commit {
            self.error(
                &key,
                "`retry.topics` needs `runConfig.autoCommit`: a message that moves to a retry topic is finished in its own \
                 topic, and with manual commits only ctx.commitOffsets finishes it; remove one of them",
            );
        }
        self.retry_topic_names(delays, topics, group);
        if policies.ordering != file::Ordering::None {
            let name = &self.name;
            self.scene.report.warning(format!(
                "listener `{name}`: with `retry.topics` messages lose their order: a failed message runs again after later \
                 ones"
            ));
        }
        let attempts = u32::try_from(delays.len()).unwrap_or(u32::MAX);
        (on_error(policies) != OnError::Retry).then_some(attempts.saturating_add(1))
    }

    fn retry_topic_names(&mut self, delays: &[Millis], topics: &[Topic], group: Option<&str>) {
        let group = group.unwrap_or("group");
        for topic in topics.iter().map(a_name) {
            let names: Vec<String> = delays
                .iter()
                .map(|delay| topic_name::retry_topic(topic, group, delay.duration()))
                .collect();
            let is_own = |name: &&String| {
                topics.iter().any(|topic| match topic {
                    Topic::Literal(own) => own == *name,
                    Topic::Pattern(pattern) => Made::default().is_taken(pattern, name),
                })
            };
            let message = if topic_name::is_retry_topic(topic) {
                format!(
                    "`retry.topics` makes retry topics of `{topic}`, which is a retry topic itself; remove it from the \
                     listener's topics, or remove `retry.topics`"
                )
            } else if let Some(bad) = names.iter().find(|name| !names::is_topic(name)) {
                format!(
                    "`retry.topics` gives the topic `{bad}`, which is not a valid name: {TOPIC_FORM}"
                )
            } else if let Some(own) = names.iter().find(is_own) {
                format!(
                    "`retry.topics` gives the topic `{own}`, which Moontide itself consumes; remove it from the topics of the listener"
                )
            } else {
                continue;
            };
            self.error(&["retry", "topics"], message);
            return;
        }
    }

    pub(super) fn dead_letter(
        &mut self,
        policies: &file::Policies,
        topics: &[Topic],
        group: Option<&str>,
    ) -> Option<DeadLetter> {
        let default = file::DeadLetter::default();
        let table = match &policies.dead_letter {
            Some(table) => table,
            None if on_error(policies) == OnError::DeadLetter => &default,
            None => return None,
        };
        if table.max_per_minute == 0 {
            self.error(
                &["deadLetter", "maxPerMinute"],
                "`deadLetter.maxPerMinute` is 0, so no message could become a dead letter; the minimum is 1",
            );
        }
        let dead_letter = DeadLetter {
            topic: table.topic.clone(),
            header_style: match table.header_style {
                file::HeaderStyle::Moontide => HeaderStyle::Moontide,
                file::HeaderStyle::Spring => HeaderStyle::Spring,
                file::HeaderStyle::Connect => HeaderStyle::Connect,
                file::HeaderStyle::Kafka => HeaderStyle::Kafka,
            },
            create_topic: table.allow_auto_topic_creation,
            too_large: match table.too_large {
                file::TooLarge::Block => TooLarge::Block,
                file::TooLarge::DropValue => TooLarge::DropValue,
                file::TooLarge::Skip => TooLarge::Skip,
            },
            refused: match table.refused {
                file::OnRefusal::Block => OnRefusal::Block,
                file::OnRefusal::Skip => OnRefusal::Skip,
            },
            per_minute_max: table.max_per_minute,
        };
        self.dead_letter_topic(&dead_letter, topics, group.unwrap_or("group"));
        Some(dead_letter)
    }

    fn dead_letter_topic(&mut self, dead_letter: &DeadLetter, topics: &[Topic], group: &str) {
        let (key, written) = (["deadLetter", "topic"], &dead_letter.topic);
        if dead_letter.topic_of("t", "g", "l").contains(['{', '}']) {
            self.error(
                &key,
                format!(
                    "`deadLetter.topic` is `{written}`; the placeholders are `{{topic}}`, `{{group}}` and `{{listener}}`"
                ),
            );
            return;
        }
        for topic in topics {
            let name = dead_letter.topic_of(a_name(topic), group, &self.name);
            if !names::is_topic(&name) {
                self.error(
                    &key,
                    format!("`deadLetter.topic` gives the topic `{name}`, which is not a valid name: {TOPIC_FORM}"),
                );
                return;
            }
            let mut made = Made::default();
            made.add(written, group, &self.name);
            let own = |other: &&Topic| match other {
                Topic::Literal(other) => *other == name,
                Topic::Pattern(pattern) => made.is_taken(pattern, &name),
            };
            match topics.iter().find(own) {
                Some(Topic::Literal(other)) => self.error(
                    &key,
                    format!(
                        "`deadLetter.topic` is `{other}`, which this listener consumes, so it would get its own dead \
                         letters; use another topic"
                    ),
                ),
                Some(Topic::Pattern(pattern)) => {
                    let listener = &self.name;
                    self.scene.report.warning(format!(
                        "listener `{listener}`: its pattern `{pattern}` matches its dead-letter topic `{written}` too, so it \
                         would get its own dead letters; use a narrower pattern, or another topic"
                    ));
                }
                None => continue,
            }
            return;
        }
    }

    pub(super) fn breaker(&mut self, policies: &file::Policies) -> Option<Breaker> {
        let default = file::BreakerTable::default();
        let table = match &policies.breaker {
            Some(file::Breaker::Table(table)) => table,
            Some(file::Breaker::On(true)) => &default,
            None if on_error(policies) == OnError::DeadLetter => &default,
            Some(file::Breaker::On(false)) | None => return None,
        };
        let ratio = table.failure_ratio;
        if !(ratio > 0.0 && ratio <= 1.0) {
            self.error(
                &["breaker", "failureRatio"],
                format!("`breaker.failureRatio` is {ratio}, not above 0 and up to 1"),
            );
        }
        for (key, found) in [("window", table.window), ("pause", table.pause)] {
            let (least, most) = BREAKER_TIMES;
            if !(least..=most).contains(&found) {
                self.error(
                    &["breaker", key],
                    format!("`breaker.{key}` is {found}, not from {least} to 1 h"),
                );
            }
        }
        let counts = [
            ("minimumRuns", table.minimum_runs, BREAKER_RUNS_MAX),
            ("probes", table.probes, PROBES_MAX),
        ];
        for (key, found, most) in counts {
            if found == 0 || found > most {
                self.error(
                    &["breaker", key],
                    format!("`breaker.{key}` is {found}, not from 1 to {most}"),
                );
            }
        }
        Some(Breaker {
            ratio,
            window: table.window.duration(),
            runs_min: table.minimum_runs,
            pause: table.pause.duration(),
            probes: table.probes,
        })
    }
}

/// The topic, or a sample of the topics that a pattern matches.
fn a_name(topic: &Topic) -> &str {
    match topic {
        Topic::Literal(name) => name,
        Topic::Pattern(_) => "topic",
    }
}
