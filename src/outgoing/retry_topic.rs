//! Durable retries: the record of a message that waits in a retry topic.
//!
//! Pure: a record and the facts in, the record to send out, and back. The headers of the record name the listener and
//! group for which it waits. They also have its due time, its number of runs, and its origin. Its timestamp is the
//! time of the send, so that the topic's retention counts from then; a header keeps the message's own timestamp.

use std::time::Duration;

use crate::config::Retry;
use crate::message::{EachHeader, Outgoing, Record};
use crate::outgoing::failed_message::FailedMessage;
use crate::topic_name;

const PREFIX: &str = "moontide-retry-";
const LISTENER: &str = "moontide-retry-listener";
const GROUP: &str = "moontide-retry-group";
const ATTEMPTS: &str = "moontide-retry-attempts";
const DUE: &str = "moontide-retry-due";
const TOPIC: &str = "moontide-retry-topic";
const PARTITION: &str = "moontide-retry-partition";
const OFFSET: &str = "moontide-retry-offset";
const TIMESTAMP: &str = "moontide-retry-timestamp";
const FIRST_FAILURE: &str = "moontide-retry-first-failure";

/// The most runs that a header can tell.
const ATTEMPTS_MAX: i64 = 1 << 31;
/// The latest time that a header can tell: the end of the year 9999.
const TIME_MAX: i64 = 253_402_300_799_999;

/// The headers of a message in a retry topic.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Origin {
    pub(crate) listener: String,
    pub(crate) group: String,
    /// Runs so far.
    pub(crate) attempts: u32,
    /// The time before which it does not run, in milliseconds since the epoch.
    pub(crate) due_ms: i64,
    pub(crate) topic: String,
    pub(crate) partition: i32,
    pub(crate) offset: i64,
    /// The timestamp of the message itself; -1 if the broker kept none.
    pub(crate) timestamp_ms: i64,
    pub(crate) first_failure_ms: i64,
}

/// A message of a retry topic, as in its source topic: offset, timestamp and headers are those of the message itself.
pub(crate) struct Original<'a> {
    record: &'a dyn Record,
    offset: i64,
    timestamp_ms: i64,
}

/// The delay in a retry topic after run number `attempts` (from 1) failed. `None` after the last run, or without
/// retry topics. Without a limit of attempts the longest delay is repeated.
pub(crate) fn delay(policy: &Retry, attempts: u32) -> Option<Duration> {
    if policy.attempts.is_some_and(|most| attempts >= most) {
        return None;
    }
    let index = (attempts as usize).saturating_sub(1);
    policy.topics.get(index).or(policy.topics.last()).copied()
}

/// The record that waits for `delay` from the last failure on. It goes to the partition of the same number; if that
/// does not exist, the outbox decides by the key.
pub(crate) fn record(source: &dyn Record, facts: &FailedMessage<'_>, delay: Duration) -> Outgoing {
    let origin = origin(facts.topic, source).unwrap_or_else(|| Origin::first(facts, source));
    let mut headers = Vec::new();
    source.headers(&mut |name, value| {
        if !is_own_header(name) {
            headers.push((name.to_vec(), value.map(<[u8]>::to_vec)));
        }
    });
    let due_ms = facts
        .last_failure_ms
        .saturating_add(i64::try_from(delay.as_millis()).unwrap_or(i64::MAX));
    for (name, value) in [
        (LISTENER, facts.listener.to_owned()),
        (GROUP, facts.group.to_owned()),
        (ATTEMPTS, facts.attempts.to_string()),
        (DUE, due_ms.to_string()),
        (TOPIC, origin.topic.clone()),
        (PARTITION, origin.partition.to_string()),
        (OFFSET, origin.offset.to_string()),
        (TIMESTAMP, origin.timestamp_ms.to_string()),
        (FIRST_FAILURE, facts.first_failure_ms.to_string()),
    ] {
        headers.push((name.into(), Some(value.into_bytes())));
    }
    Outgoing {
        topic: topic_name::retry_topic(&origin.topic, facts.group, delay).into(),
        partition: Some(origin.partition),
        key: source.key().map(Into::into),
        value: source.value().map(Into::into),
        headers,
        timestamp_ms: None,
    }
}

/// The origin in a record of the retry topic `topic`. `None` for a record of any other topic, whatever its headers,
/// and for a record that was not put there for a retry. Of a repeated header the last one counts: it was added last.
pub(crate) fn origin(topic: &str, record: &dyn Record) -> Option<Origin> {
    read(record).filter(|origin| {
        topic
            .strip_prefix(&*origin.topic)
            .and_then(|rest| rest.strip_prefix('.'))
            .and_then(|rest| rest.strip_prefix(&*origin.group))
            .is_some_and(|rest| rest.starts_with(".retry."))
    })
}

fn read(record: &dyn Record) -> Option<Origin> {
    let mut found: [Option<String>; 9] = Default::default();
    let names = [
        LISTENER,
        GROUP,
        ATTEMPTS,
        DUE,
        TOPIC,
        PARTITION,
        OFFSET,
        TIMESTAMP,
        FIRST_FAILURE,
    ];
    record.headers(&mut |name, value| {
        if let Some(index) = names.iter().position(|one| one.as_bytes() == name) {
            let value = value.and_then(|value| std::str::from_utf8(value).ok());
            found[index] = value.map(ToOwned::to_owned);
        }
    });
    let [
        listener,
        group,
        attempts,
        due,
        topic,
        partition,
        offset,
        timestamp,
        first_failure,
    ] = found;
    Some(Origin {
        listener: listener?,
        group: group?,
        attempts: number(attempts, 0, ATTEMPTS_MAX)?.try_into().ok()?,
        due_ms: number(due, 0, TIME_MAX)?,
        topic: topic?,
        partition: number(partition, 0, i32::MAX.into())?.try_into().ok()?,
        offset: number(offset, 0, i64::MAX - 1)?,
        timestamp_ms: number(timestamp, -1, TIME_MAX)?,
        first_failure_ms: number(first_failure, 0, TIME_MAX)?,
    })
}

/// A number of a record that anybody may have written: sums and differences of the result stay within their types.
fn number(text: Option<String>, least: i64, most: i64) -> Option<i64> {
    let found: i64 = text?.parse().ok()?;
    Some(found.clamp(least, most))
}

pub(crate) fn is_own_header(name: &[u8]) -> bool {
    name.starts_with(PREFIX.as_bytes())
}

impl Origin {
    /// The origin of a message that has not been in a retry topic.
    pub(crate) fn first(facts: &FailedMessage<'_>, source: &dyn Record) -> Self {
        Self {
            topic: facts.topic.to_owned(),
            partition: facts.partition,
            offset: source.offset(),
            timestamp_ms: source.timestamp_ms(),
            ..Self::default()
        }
    }
}

impl<'a> Original<'a> {
    pub(crate) fn new(record: &'a dyn Record, origin: &Origin) -> Self {
        Self {
            record,
            offset: origin.offset,
            timestamp_ms: origin.timestamp_ms,
        }
    }
}

impl Record for Original<'_> {
    fn offset(&self) -> i64 {
        self.offset
    }

    fn timestamp_ms(&self) -> i64 {
        self.timestamp_ms
    }

    fn key(&self) -> Option<&[u8]> {
        self.record.key()
    }

    fn value(&self) -> Option<&[u8]> {
        self.record.value()
    }

    fn headers(&self, each: EachHeader<'_>) {
        self.record.headers(&mut |name, value| {
            if !is_own_header(name) {
                each(name, value);
            }
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::OwnedRecord;

    fn message() -> OwnedRecord {
        OwnedRecord {
            offset: 12,
            timestamp_ms: 1_600_000_000_000,
            key: Some(b"k".as_slice().into()),
            value: None,
            headers: vec![
                (b"\xff".as_slice().into(), None),
                (b"a".as_slice().into(), Some(b"1".as_slice().into())),
            ],
        }
    }

    fn facts() -> FailedMessage<'static> {
        FailedMessage {
            topic: "orders",
            partition: 3,
            group: "billing",
            listener: "bills",
            attempts: 1,
            first_failure_ms: 1_700_000_000_000,
            last_failure_ms: 1_700_000_000_000,
            error: "no",
            traceback: None,
            bundle: 1,
        }
    }

    fn read_back(sent: &Outgoing) -> OwnedRecord {
        let bytes = |bytes: &Vec<u8>| bytes.as_slice().into();
        OwnedRecord {
            offset: 0,
            timestamp_ms: 5,
            key: sent.key.as_ref().map(bytes),
            value: sent.value.as_ref().map(bytes),
            headers: sent
                .headers
                .iter()
                .map(|(name, value)| (bytes(name), value.as_ref().map(bytes)))
                .collect(),
        }
    }

    #[test]
    fn a_message_keeps_its_origin_from_topic_to_topic() {
        let first = record(&message(), &facts(), Duration::from_secs(5));
        assert_eq!(&*first.topic, "orders.billing.retry.5s");
        assert_eq!((first.partition, first.timestamp_ms), (Some(3), None));
        let second = FailedMessage {
            topic: &first.topic,
            partition: 0,
            attempts: 2,
            last_failure_ms: 1_700_000_009_000,
            ..facts()
        };
        let next = record(&read_back(&first), &second, Duration::from_secs(60));
        assert_eq!(&*next.topic, "orders.billing.retry.1m");
        let expected = Origin {
            listener: "bills".to_owned(),
            group: "billing".to_owned(),
            attempts: 2,
            due_ms: 1_700_000_069_000,
            topic: "orders".to_owned(),
            partition: 3,
            offset: 12,
            timestamp_ms: 1_600_000_000_000,
            first_failure_ms: 1_700_000_000_000,
        };
        let found = origin(&next.topic, &read_back(&next)).unwrap();
        assert_eq!(found, expected);
        assert_eq!(next.headers.len(), 2 + 9);
        assert_eq!(next.headers[0], (vec![0xff], None));
    }

    #[test]
    fn the_original_is_the_message_as_it_was() {
        let sent = record(&message(), &facts(), Duration::from_secs(5));
        let back = read_back(&sent);
        let original = Original::new(&back, &origin(&sent.topic, &back).unwrap());
        let copy = OwnedRecord::copy_of(&original);
        assert_eq!(format!("{copy:?}"), format!("{:?}", message()));
    }

    #[test]
    fn numbers_that_no_failure_writes_are_clamped() {
        let sent = record(&message(), &facts(), Duration::from_secs(5));
        let forged = |value: &str| {
            let mut back = read_back(&sent);
            for name in [ATTEMPTS, DUE, PARTITION, OFFSET, TIMESTAMP, FIRST_FAILURE] {
                let value = Some(value.as_bytes().into());
                back.headers.push((name.as_bytes().into(), value));
            }
            let origin = origin(&sent.topic, &back).unwrap();
            let Origin {
                partition, offset, ..
            } = origin;
            let times = [origin.due_ms, origin.timestamp_ms, origin.first_failure_ms];
            (origin.attempts, partition, offset, times)
        };
        let most = forged("9223372036854775807");
        assert_eq!(most, (1 << 31, i32::MAX, i64::MAX - 1, [TIME_MAX; 3]));
        assert_eq!(forged("-9223372036854775808"), (0, 0, 0, [0, -1, 0]));
    }

    #[test]
    fn headers_of_a_retry_say_nothing_in_any_other_topic() {
        let sent = record(&message(), &facts(), Duration::from_secs(5));
        for topic in ["orders", "orders.billing.retry", "other.billing.retry.5s"] {
            assert_eq!(origin(topic, &read_back(&sent)), None, "{topic}");
        }
        assert_eq!(origin("orders.billing.retry.5s", &message()), None);
    }

    #[test]
    fn each_failure_waits_longer_and_the_last_topic_repeats_where_there_is_no_end() {
        let seconds = |seconds: &[u64]| {
            seconds
                .iter()
                .map(|one| Duration::from_secs(*one))
                .collect()
        };
        let policy = |attempts| Retry {
            attempts,
            initial_delay: Duration::from_millis(300),
            max_delay: Duration::from_secs(30),
            multiplier: 2.0,
            jitter: 0.2,
            topics: seconds(&[5, 60]),
            infrastructure: crate::config::Infrastructure::Wait,
            create_topics: false,
        };
        let delays = |policy: &Retry| -> Vec<_> {
            (1..=4)
                .map(|run| delay(policy, run).map(|delay| delay.as_secs()))
                .collect()
        };
        assert_eq!(delays(&policy(Some(3))), [Some(5), Some(60), None, None]);
        assert_eq!(
            delays(&policy(None)),
            [Some(5), Some(60), Some(60), Some(60)]
        );
    }
}
