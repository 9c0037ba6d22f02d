//! The connections of the consumer: which brokers can be used, and since when none can.
//!
//! Events and moments come in. One broker may have several connections: one of its address in the configuration, one
//! of its id, and one of the group's coordinator. The broker can be used if one of them can.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::kafka::{Broker, Connection, Step};

/// A connection that ends within this time may have been of no use: a side that wants authentication closes it after
/// the first request.
const SHORT: Duration = Duration::from_secs(2);
/// A connection that ends without an answer after this time got none. librdkafka waits ten seconds for it.
const SILENT: Duration = Duration::from_secs(5);
/// How long there may be no connection before that is an outage: librdkafka sometimes closes one to open another.
const GRACE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(super) struct Connections {
    /// By name and id of the broker. An id is the more certain name: the address of a broker can change.
    each: BTreeMap<(Arc<str>, i32), One>,
    /// Since when no connection can be used.
    none_since: Option<Instant>,
}

#[derive(Debug)]
struct One {
    step: Step,
    since: Instant,
    /// The last connection was too short: the next one has to prove itself.
    was_short: bool,
    /// A connection has lasted: the kind of the port is right.
    has_worked: bool,
    /// The other side of this connection knows no topics.
    is_without_topics: bool,
}

impl One {
    fn works(&self, now: Instant) -> bool {
        let lasts = now.saturating_duration_since(self.since) >= SHORT;
        self.step == Step::Up && !self.is_without_topics && (!self.was_short || lasts)
    }
}

impl Connections {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            each: BTreeMap::new(),
            none_since: Some(now),
        }
    }

    /// Notes a step. Returns whether the connection ended because the other side did not answer.
    pub(super) fn change(&mut self, change: &Connection, now: Instant) -> bool {
        let Connection { broker, step } = change;
        let (key, step) = ((broker.name.clone(), broker.id), *step);
        let one = self.each.entry(key).or_insert(One {
            step,
            since: now,
            was_short: false,
            has_worked: false,
            is_without_topics: false,
        });
        one.is_without_topics &= step == Step::Up;
        let lasted = now.saturating_duration_since(one.since);
        if step == Step::Down && one.step == Step::Up {
            one.was_short = lasted < SHORT;
            one.has_worked |= !one.was_short;
        }
        let is_silent = step == Step::Down && one.step == Step::Asks && lasted >= SILENT;
        (one.step, one.since) = (step, now);
        self.look(now);
        is_silent
    }

    /// The open connection to this broker is of no use.
    pub(super) fn without_topics(&mut self, broker: &Broker, now: Instant) {
        let key = (broker.name.clone(), broker.id);
        if let Some(one) = self.each.get_mut(&key) {
            one.is_without_topics = true;
        }
        self.look(now);
    }

    /// The name under which the errors of a broker are kept, whichever of its connections had them.
    pub(super) fn name_of(&self, broker: &Broker) -> Arc<str> {
        let mut names = self.each.keys();
        let known = names.find(|(_, id)| broker.id >= 0 && *id == broker.id);
        known.map_or_else(|| broker.name.clone(), |(name, _)| name.clone())
    }

    /// Whether the broker has worked before, so that a closed connection says nothing about the kind of its port.
    pub(super) fn has_worked(&self, broker: &Broker) -> bool {
        let mut each = self.each.iter();
        each.any(|((name, id), one)| {
            one.has_worked && (*name == broker.name || (broker.id >= 0 && *id == broker.id))
        })
    }

    /// Whether the broker of this name can be used.
    pub(super) fn works(&self, name: &str, now: Instant) -> bool {
        let mut each = self.each.iter();
        each.any(|((one, _), connection)| **one == *name && connection.works(now))
    }

    /// Notes whether any connection can be used now.
    pub(super) fn look(&mut self, now: Instant) {
        if self.each.values().any(|one| one.works(now)) {
            self.none_since = None;
        } else {
            self.none_since.get_or_insert(now);
        }
    }

    /// Whether no broker can be used, and that not only for a moment.
    pub(super) fn are_none(&self, now: Instant) -> bool {
        let lasts = |since| now.saturating_duration_since(since) >= GRACE;
        self.none_since.is_some_and(lasts)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kafka::Step::{Asks, Connects, Down, Idle, Up};

    /// Steps of one broker at these milliseconds.
    fn after(steps: &[(u64, Step)]) -> (Connections, Instant) {
        let start = Instant::now();
        let mut connections = Connections::new(start);
        let mut now = start;
        for &(at_ms, step) in steps {
            now = start + Duration::from_millis(at_ms);
            let broker = Broker::new("a:1", -1);
            connections.change(&Connection { broker, step }, now);
        }
        (connections, now)
    }

    #[test]
    fn a_broker_works_from_its_first_connection_on() {
        let (connections, now) = after(&[(0, Connects), (5, Asks), (9, Up)]);
        assert!(connections.works("a:1", now));
        assert!(!connections.works("b:1", now));
        assert!(!connections.are_none(now + GRACE));
    }

    #[test]
    fn a_refused_connection_leaves_none() {
        let (connections, now) = after(&[(0, Connects), (1, Down)]);
        assert!(!connections.are_none(now));
        assert!(connections.are_none(now + GRACE));
    }

    #[test]
    fn a_connection_that_was_short_has_to_prove_itself() {
        let (connections, now) = after(&[(0, Asks), (1, Down)]);
        assert!(!connections.works("a:1", now));

        let steps = [(0, Up), (100, Down), (200, Connects), (300, Up)];
        let (mut connections, now) = after(&steps);
        assert!(!connections.works("a:1", now));
        assert!(connections.works("a:1", now + SHORT));
        assert!(connections.are_none(now + GRACE), "none has proved itself");
        connections.look(now + SHORT);
        assert!(!connections.are_none(now + SHORT + GRACE));
    }

    #[test]
    fn a_port_that_accepts_and_does_not_answer_is_silent() {
        let start = Instant::now();
        let mut connections = Connections::new(start);
        let mut change = |seconds, step| {
            let broker = Broker::new("a:1", -1);
            let now = start + Duration::from_secs(seconds);
            connections.change(&Connection { broker, step }, now)
        };
        assert!(!change(0, Connects) && !change(0, Asks) && change(10, Down));
        assert!(!change(10, Down), "once an attempt");
        assert!(!change(11, Connects) && !change(30, Asks));
        assert!(!change(31, Down), "it was closed");
        assert!(!change(32, Up) && !change(60, Down));
    }

    #[test]
    fn a_broker_without_topics_does_not_work_while_the_connection_lasts() {
        let (mut connections, now) = after(&[(0, Up)]);
        let broker = Broker::new("a:1", -1);
        connections.without_topics(&broker, now);
        assert!(!connections.works("a:1", now));
        assert!(connections.are_none(now + GRACE));
        for step in [Down, Up] {
            let broker = broker.clone();
            connections.change(&Connection { broker, step }, now + SHORT);
        }
        assert!(connections.works("a:1", now + SHORT));
    }

    #[test]
    fn a_connection_that_lasted_may_end() {
        let (connections, now) = after(&[(0, Up), (5_000, Down), (5_001, Idle), (5_100, Up)]);
        assert!(connections.works("a:1", now));
    }

    #[test]
    fn a_broker_has_worked_once_a_connection_has_lasted() {
        let a = Broker::new("a:1", -1);
        let (connections, _) = after(&[(0, Up), (100, Down)]);
        assert!(!connections.has_worked(&a));
        let (connections, _) = after(&[(0, Up), (5_000, Down), (5_100, Up), (5_200, Down)]);
        assert!(connections.has_worked(&a));
        assert!(!connections.has_worked(&Broker::new("b:1", -1)));
    }

    #[test]
    fn the_connections_of_a_broker_have_one_name() {
        let now = Instant::now();
        let mut connections = Connections::new(now);
        for (name, id, step) in [("old:1", 7, Up), ("new:1", -1, Down)] {
            let broker = Broker::new(name, id);
            connections.change(&Connection { broker, step }, now);
        }
        assert_eq!(&*connections.name_of(&Broker::new("new:1", 7)), "old:1");
        assert_eq!(&*connections.name_of(&Broker::new("new:1", -1)), "new:1");
    }
}
