//! The errors of Kafka that the consumer has now. **Each belongs to a place, and stays until that place works again**:
//! what works elsewhere says nothing about it.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::assignment::PartitionKey;
use crate::clock::now_ms;
use crate::kafka::{Class, Error};
use crate::log::log;
use crate::rate_limit::{RateLimit, RateLimits};
use crate::telemetry::status::ErrorStatus;

use super::connections::Connections;

/// Lines of one code and place in a window: librdkafka repeats itself.
const BURST: u32 = 3;
const WINDOW: Duration = Duration::from_secs(10);
/// Beyond this many codes and places in a window, further ones share one limit.
const KINDS_MAX: usize = 256;
/// librdkafka repeats a request that fails at least this often while it needs the place. The errors of a broker that
/// has left the cluster, and of a member that heartbeats again, end this way: nothing else tells their end.
const FORGOTTEN: Duration = Duration::from_secs(120);
/// The same for the fetches of a partition whose end is known again.
const FETCHED: Duration = Duration::from_secs(10);

/// Where an error belongs. The order is that of the status.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Subject {
    Group,
    Commits,
    /// The lookups of topics and of committed offsets.
    Lookups,
    Broker(Arc<str>),
    Topic(Arc<str>),
    Partition(PartitionKey),
}

impl Subject {
    pub(super) fn partition(topic: &Arc<str>, number: i32) -> Self {
        Self::Partition(PartitionKey::new(topic, number))
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Group => f.write_str("group"),
            Self::Commits => f.write_str("commits"),
            Self::Lookups => f.write_str("lookups"),
            Self::Broker(name) => write!(f, "broker {name}"),
            Self::Topic(name) => write!(f, "topic {name}"),
            Self::Partition(key) => write!(f, "{}[{}]", key.topic, key.number),
        }
    }
}

struct Kept {
    error: String,
    /// Without a change by an operator this does not end.
    lasts: bool,
    /// Milliseconds since the epoch.
    since: i64,
    last: Instant,
}

/// The errors by place: at most one for each broker and partition.
pub(super) struct Trouble {
    errors: BTreeMap<Subject, Kept>,
    /// By place and code.
    limits: RateLimits,
    /// Errors noted so far.
    count: u64,
    has_partitions: bool,
}

impl Default for Trouble {
    fn default() -> Self {
        Self {
            errors: BTreeMap::new(),
            limits: line_limits(),
            count: 0,
            has_partitions: false,
        }
    }
}

impl Trouble {
    /// Logs an error and keeps it.
    pub(super) fn note(&mut self, consumer: &str, error: &Error, place: Subject, now: Instant) {
        self.tell(consumer, error, &place, now);
        self.keep(error, place, now);
    }

    /// Logs an error that the status has elsewhere.
    pub(super) fn tell(&mut self, consumer: &str, error: &Error, place: &Subject, now: Instant) {
        let kind = format!("{place} {}", error.name());
        let Some(left_out) = self.limits.allow(&kind, now) else {
            return;
        };
        let (topic, partition, broker) = match place {
            Subject::Topic(topic) => (Some(&**topic), None, None),
            Subject::Partition(key) => (Some(&*key.topic), Some(key.number), None),
            Subject::Broker(name) => (None, None, Some(&**name)),
            Subject::Group | Subject::Commits | Subject::Lookups => (None, None, None),
        };
        let left_out = (left_out > 0).then_some(left_out);
        log!(
            warn,
            consumer,
            consumer,
            topic,
            partition,
            broker,
            %error,
            left_out,
            "kafka error"
        );
    }

    /// Logs the number of suppressed lines: of windows that ended by then, or of all.
    pub(super) fn tell_left_out(&mut self, consumer: &str, ended: Option<Instant>) {
        for (of, left_out) in left_out(&mut self.limits, ended) {
            log!(
                warn,
                consumer,
                consumer,
                of,
                left_out,
                "lines about kafka errors left out"
            );
        }
    }

    /// Keeps an error for the status.
    pub(super) fn keep(&mut self, error: &Error, place: Subject, now: Instant) {
        self.count += 1;
        self.has_partitions |= matches!(place, Subject::Partition(_));
        let since = self.errors.get(&place).map_or_else(now_ms, |one| one.since);
        let kept = Kept {
            error: error.to_string(),
            lasts: error.class() == Class::Lasting,
            since,
            last: now,
        };
        self.errors.insert(place, kept);
    }

    /// This place works again.
    pub(super) fn over(&mut self, place: &Subject) {
        self.errors.remove(place);
    }

    /// Messages of this partition have arrived. Almost always no partition has an error, and this costs nothing.
    pub(super) fn received(&mut self, key: impl FnOnce() -> PartitionKey) {
        if self.has_partitions {
            self.over(&Subject::Partition(key()));
        }
    }

    /// Ends the errors of brokers that can be used again, and those that have not come again for a long time.
    pub(super) fn look(&mut self, connections: &Connections, is_member: bool, now: Instant) {
        self.errors.retain(|place, kept| {
            let is_old = now.saturating_duration_since(kept.last) >= FORGOTTEN;
            match place {
                Subject::Broker(name) => !is_old && !connections.works(name, now),
                Subject::Group => !is_old || !is_member,
                _ => true,
            }
        });
    }

    /// Ends the errors of partitions that are not this consumer's any more, and of those that are fetched again:
    /// `is_fetched` is whether the end of the partition is known, and `None` for a partition of another member.
    pub(super) fn look_at_partitions(
        &mut self,
        is_fetched: impl Fn(&PartitionKey) -> Option<bool>,
        now: Instant,
    ) {
        if !self.has_partitions {
            return;
        }
        self.has_partitions = false;
        self.errors.retain(|place, kept| {
            let Subject::Partition(key) = place else {
                return true;
            };
            let is_recent = now.saturating_duration_since(kept.last) < FETCHED;
            let stays = is_fetched(key).is_some_and(|is_fetched| is_recent || !is_fetched);
            self.has_partitions |= stays;
            stays
        });
    }

    pub(super) fn count(&self) -> u64 {
        self.count
    }

    /// The error of a partition.
    pub(super) fn of_partition(&self, key: PartitionKey) -> Option<ErrorStatus> {
        let place = self.has_partitions.then_some(Subject::Partition(key))?;
        let kept = self.errors.get(&place)?;
        Some(kept.shown(&place))
    }

    /// The errors, but those of these partitions.
    pub(super) fn others(&self, has: impl Fn(&PartitionKey) -> bool) -> Vec<ErrorStatus> {
        let others = self
            .errors
            .iter()
            .filter(|(place, _)| !matches!(place, Subject::Partition(key) if has(key)));
        others.map(|(place, kept)| kept.shown(place)).collect()
    }

    /// The error that explains the state of the consumer, with its place, and its begin.
    pub(super) fn first(&self, is_connecting: bool) -> Option<(String, i64)> {
        let is_first = |place: &Subject| !is_connecting || matches!(place, Subject::Broker(_));
        let mut errors = self.errors.iter();
        let first = errors.find(|(place, _)| is_first(place));
        let (place, kept) = first.or_else(|| self.errors.first_key_value())?;
        Some((format!("{place}: {}", kept.error), kept.since))
    }
}

impl Kept {
    fn shown(&self, place: &Subject) -> ErrorStatus {
        ErrorStatus {
            place: place.to_string(),
            error: self.error.clone(),
            since: self.since,
            is_broker: matches!(place, Subject::Broker(_)),
            lasts: self.lasts,
        }
    }
}

/// A limit for one kind of line.
pub(super) fn line_limit() -> RateLimit {
    RateLimit::new(BURST, WINDOW)
}

/// Limits repeated lines of the same code and place.
pub(super) fn line_limits() -> RateLimits {
    RateLimits::new(BURST, WINDOW, KINDS_MAX)
}

/// The suppressed lines of windows that have ended by then, or else of all.
pub(super) fn left_out(limits: &mut RateLimits, ended: Option<Instant>) -> Vec<(String, u64)> {
    match ended {
        Some(now) => limits.ended(now),
        None => limits.rest(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::{Broker, Connection, Step};

    const CONSUMER: &str = "default";

    fn key(number: i32) -> PartitionKey {
        PartitionKey::new(&"orders".into(), number)
    }

    fn partition(number: i32) -> Subject {
        Subject::Partition(key(number))
    }

    fn places(trouble: &Trouble) -> Vec<String> {
        let all = trouble.others(|_| false);
        all.into_iter().map(|one| one.place).collect()
    }

    fn refused() -> Error {
        Error::closed("refused")
    }

    #[test]
    fn an_error_stays_until_its_own_place_works() {
        let now = Instant::now();
        let mut trouble = Trouble::default();
        trouble.note(CONSUMER, &refused(), partition(0), now);
        trouble.note(CONSUMER, &refused(), Subject::Commits, now);
        trouble.received(|| key(1));
        trouble.over(&Subject::Group);
        assert_eq!(places(&trouble), ["commits", "orders[0]"]);
        trouble.received(|| key(0));
        assert_eq!(places(&trouble), ["commits"]);
        trouble.over(&Subject::Commits);
        assert_eq!(places(&trouble), [""; 0]);
    }

    #[test]
    fn an_error_of_a_partition_ends_with_its_fetches_or_with_its_assignment() {
        let start = Instant::now();
        let mut trouble = Trouble::default();
        for number in 0..3 {
            trouble.note(CONSUMER, &refused(), partition(number), start);
        }
        let is_fetched = |key: &PartitionKey| [Some(true), Some(false), None][key.number as usize];
        trouble.look_at_partitions(is_fetched, start);
        assert_eq!(places(&trouble), ["orders[0]", "orders[1]"]);
        trouble.look_at_partitions(is_fetched, start + FETCHED);
        assert_eq!(places(&trouble), ["orders[1]"]);
        trouble.look_at_partitions(is_fetched, start + 100 * FETCHED);
        assert_eq!(places(&trouble), ["orders[1]"], "it does not fade");
    }

    #[test]
    fn an_error_of_a_broker_ends_when_the_broker_can_be_used() {
        let now = Instant::now();
        let (mut trouble, mut connections) = (Trouble::default(), Connections::new(now));
        let place = Subject::Broker("a:1".into());
        trouble.note(CONSUMER, &refused(), place.clone(), now);
        trouble.look(&connections, false, now);
        assert_eq!(places(&trouble), ["broker a:1"]);
        let broker = Broker::new("a:1", 4);
        let step = Step::Up;
        connections.change(&Connection { broker, step }, now);
        trouble.look(&connections, false, now);
        assert_eq!(places(&trouble), [""; 0]);

        trouble.note(CONSUMER, &refused(), Subject::Broker("gone:1".into()), now);
        trouble.look(&connections, false, now + FORGOTTEN);
        assert_eq!(places(&trouble), [""; 0], "nobody needs it any more");
    }

    #[test]
    fn while_no_broker_can_be_reached_the_brokers_error_comes_first() {
        let now = Instant::now();
        let mut trouble = Trouble::default();
        trouble.note(CONSUMER, &Error::closed("timed out"), Subject::Lookups, now);
        trouble.note(CONSUMER, &refused(), Subject::Broker("a:1".into()), now);
        let first = |is_connecting| trouble.first(is_connecting).unwrap().0;
        assert_eq!(first(true), "broker a:1: refused");
        assert_eq!(first(false), "lookups: timed out");
    }

    #[test]
    fn unlike_errors_share_no_limit() {
        let now = Instant::now();
        let mut trouble = Trouble::default();
        for _ in 0..100 {
            trouble.note(CONSUMER, &refused(), Subject::Group, now);
        }
        let other = Error::fatal("another code");
        trouble.note(CONSUMER, &other, Subject::Group, now);
        trouble.note(CONSUMER, &refused(), partition(0), now);
        let left_out = left_out(&mut trouble.limits, None);
        let expected = ("group BrokerTransportFailure".to_owned(), 97);
        assert_eq!(left_out, [expected]);
    }
}
