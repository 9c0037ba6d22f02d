//! A dead letter: the unchanged message, and headers with its origin and the reason.
//!
//! Pure: a record and the facts in, the record to send out. Key, value, foreign headers and timestamp stay unchanged,
//! byte for byte. A message that is dead-lettered again keeps its first origin, whatever the style of that.
//!
//! | | `moontide` (text) | `spring` | `connect` (text) | `kafka` (text) |
//! | --- | --- | --- | --- | --- |
//! | topic | `moontide-origin-topic` | `kafka_dlt-original-topic` | `__connect.errors.topic` | `__dlq.errors.topic` |
//! | partition | `….-partition` | `….-partition` (int32) | `….partition` | `….partition` |
//! | offset | `….-offset` | `….-offset` (int64) | `….offset` | `….offset` |
//! | timestamp | `….-timestamp` | `….-timestamp` (int64) | as `moontide` | as `moontide` |
//! | group | `moontide-group` | `kafka_dlt-original-consumer-group` | as `moontide` | `….group` |
//! | error | `moontide-error` | `kafka_dlt-exception-message` | `….exception.message` | `….message` |
//! | traceback | `moontide-traceback` | `kafka_dlt-exception-stacktrace` | `….exception.stacktrace` | as `moontide` |
//!
//! Every style also has `moontide-listener`, `moontide-attempts`, `moontide-first-failure`, `moontide-last-failure`
//! (milliseconds since the epoch, like timestamps) and `moontide-bundle`, as text. `moontide-value-dropped` has the
//! length of a value that was left out. `spring` adds `kafka_dlt-exception-fqcn`. `connect` adds
//! `__connect.errors.exception.class.name`, `….stage` and `….connector.name` (the listener), for tools that expect
//! them.
//! `kafka` has the names that brokers write for share groups (KIP-1191), and adds `….delivery.count` (the runs).

use crate::config::{DeadLetter, HeaderStyle};
use crate::message::{Outgoing, Record};
use crate::outgoing::failed_message::FailedMessage;
use crate::outgoing::retry_topic;

/// The most bytes of an error and of a traceback: all headers count against the topic's limit for a message.
const ERROR_MAX: usize = 4 << 10;
const TRACEBACK_MAX: usize = 16 << 10;
/// The mark at the end of a cut string.
const CUT: &str = "…";

const LISTENER: &str = "moontide-listener";
const ATTEMPTS: &str = "moontide-attempts";
const FIRST_FAILURE: &str = "moontide-first-failure";
const LAST_FAILURE: &str = "moontide-last-failure";
const BUNDLE: &str = "moontide-bundle";
const VALUE_DROPPED: &str = "moontide-value-dropped";

/// The class of the exception for tools that sort by it.
const CLASS: &str = "moontide.HandlerFailed";

/// The first origin of a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) topic: Vec<u8>,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// Absent if a foreign tool did not write it.
    pub(crate) timestamp_ms: Option<i64>,
}

/// The header names of a style.
struct Names {
    topic: &'static str,
    partition: &'static str,
    offset: &'static str,
    timestamp: &'static str,
    group: &'static str,
    error: &'static str,
    traceback: &'static str,
    /// A further header with the listener's name.
    listener: Option<&'static str>,
    /// A further header with the number of runs.
    attempts: Option<&'static str>,
    /// Numbers of the origin are big-endian integers, not text.
    is_binary: bool,
    fixed: &'static [(&'static str, &'static str)],
}

const MOONTIDE: Names = Names {
    topic: "moontide-origin-topic",
    partition: "moontide-origin-partition",
    offset: "moontide-origin-offset",
    timestamp: "moontide-origin-timestamp",
    group: "moontide-group",
    error: "moontide-error",
    traceback: "moontide-traceback",
    listener: None,
    attempts: None,
    is_binary: false,
    fixed: &[],
};

const SPRING: Names = Names {
    topic: "kafka_dlt-original-topic",
    partition: "kafka_dlt-original-partition",
    offset: "kafka_dlt-original-offset",
    timestamp: "kafka_dlt-original-timestamp",
    group: "kafka_dlt-original-consumer-group",
    error: "kafka_dlt-exception-message",
    traceback: "kafka_dlt-exception-stacktrace",
    listener: None,
    attempts: None,
    is_binary: true,
    fixed: &[("kafka_dlt-exception-fqcn", CLASS)],
};

const CONNECT: Names = Names {
    topic: "__connect.errors.topic",
    partition: "__connect.errors.partition",
    offset: "__connect.errors.offset",
    timestamp: MOONTIDE.timestamp,
    group: MOONTIDE.group,
    error: "__connect.errors.exception.message",
    traceback: "__connect.errors.exception.stacktrace",
    listener: Some("__connect.errors.connector.name"),
    attempts: None,
    is_binary: false,
    fixed: &[
        ("__connect.errors.exception.class.name", CLASS),
        ("__connect.errors.stage", "TASK_PUT"),
    ],
};

const KAFKA: Names = Names {
    topic: "__dlq.errors.topic",
    partition: "__dlq.errors.partition",
    offset: "__dlq.errors.offset",
    timestamp: MOONTIDE.timestamp,
    group: "__dlq.errors.group",
    error: "__dlq.errors.message",
    traceback: MOONTIDE.traceback,
    listener: None,
    attempts: Some("__dlq.errors.delivery.count"),
    is_binary: false,
    fixed: &[],
};

/// The dead letter of `source`, which may come from a retry topic: its origin counts. The dead letter goes to the
/// partition of the same number; if that does not exist, the outbox decides by the key.
pub(crate) fn record(
    policy: &DeadLetter,
    source: &dyn Record,
    facts: &FailedMessage<'_>,
) -> Outgoing {
    let retried = retry_topic::origin(facts.topic, source);
    let is_retried = retried.is_some();
    let retry_topic::Origin {
        topic,
        partition,
        offset,
        timestamp_ms,
        ..
    } = retried.unwrap_or_else(|| retry_topic::Origin::first(facts, source));
    let here = Origin {
        topic: topic.as_bytes().into(),
        partition,
        offset,
        timestamp_ms: Some(timestamp_ms),
    };
    let names = names(policy.header_style);
    let mut headers = Vec::new();
    source.headers(&mut |name, value| {
        let is_over = is_retried && retry_topic::is_own_header(name);
        if !is_over && !is_replaced(policy.header_style, name) {
            headers.push((name.to_vec(), value.map(<[u8]>::to_vec)));
        }
    });
    let mut add = |name: &str, value: Vec<u8>| headers.push((name.into(), Some(value)));
    let origin = origin(source).unwrap_or(here);
    add(names.topic, origin.topic);
    add(
        names.partition,
        if names.is_binary {
            origin.partition.to_be_bytes().into()
        } else {
            text(origin.partition)
        },
    );
    add(names.offset, names.number(origin.offset));
    if let Some(timestamp_ms) = origin.timestamp_ms {
        add(names.timestamp, names.number(timestamp_ms));
    }
    add(names.group, facts.group.into());
    add(LISTENER, facts.listener.into());
    add(ATTEMPTS, text(facts.attempts));
    add(FIRST_FAILURE, text(facts.first_failure_ms));
    add(LAST_FAILURE, text(facts.last_failure_ms));
    add(BUNDLE, text(facts.bundle));
    for (name, value) in names.fixed {
        add(name, (*value).into());
    }
    if let Some(name) = names.listener {
        add(name, facts.listener.into());
    }
    if let Some(name) = names.attempts {
        add(name, text(facts.attempts));
    }
    add(names.error, cut(facts.error, ERROR_MAX));
    if let Some(traceback) = facts.traceback {
        add(names.traceback, cut(traceback, TRACEBACK_MAX));
    }
    Outgoing {
        topic: policy.topic_of(&topic, facts.group, facts.listener).into(),
        partition: Some(partition),
        key: source.key().map(Into::into),
        value: source.value().map(Into::into),
        headers,
        timestamp_ms: (timestamp_ms >= 0).then_some(timestamp_ms),
    }
}

/// Makes a dead letter that was too large smaller: without the traceback, then without the error. `false`: only the
/// value is left to remove.
pub(crate) fn shrink(policy: &DeadLetter, outgoing: &mut Outgoing) -> bool {
    let names = names(policy.header_style);
    [names.traceback, names.error].into_iter().any(|name| {
        let before = outgoing.headers.len();
        outgoing
            .headers
            .retain(|(other, _)| other != name.as_bytes());
        outgoing.headers.len() < before
    })
}

/// Gives the dead letter an empty value, and a header with the length of the removed one. A null value would delete
/// the earlier dead letters of its key in a compacted topic.
pub(crate) fn without_value(outgoing: &mut Outgoing) {
    let length = outgoing.value.as_ref().map_or(0, Vec::len);
    let name = VALUE_DROPPED.as_bytes();
    outgoing.headers.retain(|(other, _)| other != name);
    outgoing
        .headers
        .push((name.into(), Some(text(length as u64))));
    outgoing.value = Some(Vec::new());
}

/// The origin of a message before its first dead letter; of several styles the one whose header comes first counts.
pub(crate) fn origin(source: &dyn Record) -> Option<Origin> {
    let styles = [&MOONTIDE, &SPRING, &CONNECT, &KAFKA];
    let mut found: [Found; 4] = Default::default();
    let mut seen = 0;
    source.headers(&mut |name, value| {
        let Some(value) = value else { return };
        for (style, found) in styles.into_iter().zip(&mut found) {
            if name == style.topic.as_bytes() && found.topic.is_none() {
                found.topic = Some((seen, value.to_vec()));
                seen += 1;
            } else if name == style.partition.as_bytes() {
                found.partition = found.partition.or(style.read(value));
            } else if name == style.offset.as_bytes() {
                found.offset = found.offset.or(style.read(value));
            } else if name == style.timestamp.as_bytes() {
                found.timestamp_ms = found.timestamp_ms.or(style.read(value));
            }
        }
    });
    let mut whole: Vec<_> = found.into_iter().filter_map(Found::origin).collect();
    whole.sort_by_key(|(place, _)| *place);
    let mut same = whole.into_iter().map(|(_, origin)| origin);
    let mut first = same.next()?;
    let is_same = |one: &Origin| {
        one.topic == first.topic && (one.partition, one.offset) == (first.partition, first.offset)
    };
    // Not every tool writes a header for it, but another style may have one.
    first.timestamp_ms = first
        .timestamp_ms
        .or(same.filter(is_same).find_map(|one| one.timestamp_ms));
    Some(first)
}

/// The headers of one style that were read.
#[derive(Default)]
struct Found {
    /// With its index among the headers of all styles.
    topic: Option<(usize, Vec<u8>)>,
    partition: Option<i64>,
    offset: Option<i64>,
    timestamp_ms: Option<i64>,
}

impl Found {
    fn origin(self) -> Option<(usize, Origin)> {
        let (place, topic) = self.topic?;
        let origin = Origin {
            topic,
            partition: i32::try_from(self.partition?).ok()?,
            offset: self.offset?,
            timestamp_ms: self.timestamp_ms,
        };
        Some((place, origin))
    }
}

impl Names {
    fn number(&self, number: i64) -> Vec<u8> {
        if self.is_binary {
            number.to_be_bytes().into()
        } else {
            text(number)
        }
    }

    fn read(&self, value: &[u8]) -> Option<i64> {
        if !self.is_binary {
            return std::str::from_utf8(value).ok()?.parse().ok();
        }
        match value.len() {
            4 => Some(i32::from_be_bytes(value.try_into().ok()?).into()),
            8 => Some(i64::from_be_bytes(value.try_into().ok()?)),
            _ => None,
        }
    }
}

fn names(style: HeaderStyle) -> &'static Names {
    match style {
        HeaderStyle::Moontide => &MOONTIDE,
        HeaderStyle::Spring => &SPRING,
        HeaderStyle::Connect => &CONNECT,
        HeaderStyle::Kafka => &KAFKA,
    }
}

/// Whether a header is written again. A header of another style is foreign and stays.
fn is_replaced(style: HeaderStyle, name: &[u8]) -> bool {
    let of = |names: &Names| {
        [
            names.topic,
            names.partition,
            names.offset,
            names.timestamp,
            names.group,
            names.error,
            names.traceback,
        ]
        .into_iter()
        .chain(names.listener)
        .chain(names.attempts)
        .chain(names.fixed.iter().map(|(name, _)| *name))
        .any(|one| one.as_bytes() == name)
    };
    let always = [LISTENER, ATTEMPTS, FIRST_FAILURE, LAST_FAILURE, BUNDLE];
    of(&MOONTIDE) || of(names(style)) || always.iter().any(|one| one.as_bytes() == name)
}

fn text(number: impl Into<i128>) -> Vec<u8> {
    number.into().to_string().into_bytes()
}

/// The text, or as many of its characters as fit together with the mark of a cut.
fn cut(text: &str, most: usize) -> Vec<u8> {
    if text.len() <= most {
        return text.into();
    }
    let mut end = most - CUT.len();
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    format!("{}{CUT}", &text[..end]).into_bytes()
}

#[cfg(test)]
mod tests;
