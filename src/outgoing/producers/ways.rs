//! Emitted records leave on the worker's own thread, at once or at the end of its turn: nothing waits, so that a lane goes
//! on, and librdkafka keeps their order. **What a record needs is kept from the one before it**: no allocation, no table, no clock.

use std::sync::{Arc, Weak};

use crate::kafka::producer::Topic;
use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::{Acknowledgements, Emitted, Request};

use super::group::Group;
use super::hearing::Receivers;
use super::pending::Pending;
use super::routes::Route;

/// Most handlers write to a few topics.
const KEPT: usize = 16;
/// Numbers of a receiver are below 2^47.
type Base = u64;

/// The ways of one VM's records.
#[derive(Default)]
pub(super) struct Ways {
    receiver: Option<(Arc<dyn Acknowledgements>, Base)>,
    /// The one used last comes first.
    kept: Vec<Way>,
    /// Records that leave by the first of these ways.
    pending: Pending,
    /// Of the records that are about to leave; empty between two calls.
    found: Vec<(Arc<Group>, Arc<Route>, usize)>,
}

struct Way {
    /// The name of the producer.
    producer: Option<String>,
    group: Arc<Group>,
    /// Its name is that of the topic. It ends with its client.
    route: Weak<Route>,
    topic: Arc<str>,
}

impl Way {
    fn leads(&self, producer: Option<&str>, topic: &Arc<str>) -> bool {
        let is_of_topic = Arc::ptr_eq(&self.topic, topic) || self.topic == *topic;
        is_of_topic && self.producer.as_deref() == producer
    }
}

/// librdkafka tells names with a NUL byte as shorter ones, so that their bytes could not be given back.
fn is_plain(record: &Outgoing) -> bool {
    let mut names = record.headers.iter().map(|(name, _)| name);
    !names.any(|name| name.contains(&0))
}

impl Ways {
    /// What the numbers of this receiver begin with.
    pub(super) fn base_of(
        &mut self,
        to: &Arc<dyn Acknowledgements>,
        receivers: &Receivers,
    ) -> Base {
        match &self.receiver {
            Some((known, base)) if Arc::ptr_eq(known, to) => *base,
            _ => {
                let base = receivers.base_of(to);
                self.receiver = Some((to.clone(), base));
                base
            }
        }
    }

    /// Sends all records, or none and returns false. One record without headers waits for the others of the turn.
    pub(super) fn send(
        &mut self,
        emitted: &Arc<Emitted>,
        first: u64,
        group: impl Fn(&Request) -> Option<Arc<Group>>,
    ) -> bool {
        if let [request] = &emitted.requests[..]
            && let [record] = &request.records[..]
            && Topic::takes_together(record)
        {
            return self.send_later(emitted, (request, record), first, group);
        }
        self.flush();
        let mut found = std::mem::take(&mut self.found);
        let may = self.find(&emitted.requests, &mut found, group);
        if may {
            let requests = emitted.requests.iter();
            let records = requests.flat_map(|request| &request.records);
            let mut ways = found.iter().zip(first..).zip(records);
            let failed = ways.find_map(|(((group, route, size), number), record)| {
                let failure = leave((group, route, *size), record, number).err()?;
                Some((number, failure))
            });
            if let Some((number, fault)) = failed {
                // Those behind it keep their room no longer.
                for (group, _, size) in &found[(number - first) as usize + 1..] {
                    group.give_room_back(*size);
                }
                self.failed(vec![(number, fault)]);
            }
        }
        found.clear();
        self.found = found;
        may
    }

    /// As `send`: the usual case.
    fn send_later(
        &mut self,
        emitted: &Arc<Emitted>,
        (request, record): (&Request, &Outgoing),
        number: u64,
        group: impl Fn(&Request) -> Option<Arc<Group>>,
    ) -> bool {
        // The records that wait have the first way.
        let leads = |way: &Way| way.leads(request.producer.as_deref(), &record.topic);
        if !(self.pending.is_open() && self.kept.first().is_some_and(leads)) {
            self.flush();
            let Some(route) = self.put_first(request, record, group) else {
                return false;
            };
            self.pending.open(self.kept[0].group.clone(), route);
        }
        let is_sent = self.pending.push(emitted, number, record.size());
        if !is_sent || self.pending.is_full() {
            self.flush();
        }
        is_sent
    }

    /// What waits leaves.
    pub(super) fn flush(&mut self) {
        let failed = self.pending.flush();
        if !failed.is_empty() {
            self.failed(failed);
        }
    }

    fn failed(&self, mut failed: Vec<(u64, Fault)>) {
        if let Some((to, base)) = &self.receiver {
            for (number, _) in &mut failed {
                *number &= !base;
            }
            to.answered(Vec::new(), failed);
        }
    }

    /// The way of each record, and room for all of them.
    fn find(
        &mut self,
        requests: &[Request],
        found: &mut Vec<(Arc<Group>, Arc<Route>, usize)>,
        group: impl Fn(&Request) -> Option<Arc<Group>>,
    ) -> bool {
        for request in requests {
            for record in &request.records {
                let size = record.size();
                let route = self.put_first(request, record, &group);
                let way = route.map(|route| (self.kept[0].group.clone(), route));
                let way = way.filter(|(group, _)| is_plain(record) && group.take_room(size));
                let Some((group, route)) = way else {
                    for (group, _, size) in found.iter() {
                        group.give_room_back(*size);
                    }
                    return false;
                };
                found.push((group, route, size));
            }
        }
        true
    }

    /// The way of this record comes first.
    fn put_first(
        &mut self,
        request: &Request,
        record: &Outgoing,
        group: impl Fn(&Request) -> Option<Arc<Group>>,
    ) -> Option<Arc<Route>> {
        let (producer, topic) = (request.producer.as_deref(), &record.topic);
        let at = self.kept.iter().position(|way| way.leads(producer, topic));
        if let Some(at) = at {
            if at > 0 {
                self.kept[..=at].rotate_right(1);
            }
            let route = self.kept[0].route.upgrade();
            if let Some(route) = route.filter(|route| !route.is_stale()) {
                return Some(route);
            }
            self.kept.remove(0);
        }
        let group = group(request)?;
        let route = group.route(topic)?;
        self.kept.truncate(KEPT - 1);
        let way = Way {
            producer: request.producer.clone(),
            group,
            route: Arc::downgrade(&route),
            topic: topic.clone(),
        };
        self.kept.insert(0, way);
        Some(route)
    }
}

/// Gives the record to librdkafka. An error is its only answer.
fn leave(
    (group, route, size): (&Group, &Route, usize),
    record: &Outgoing,
    number: u64,
) -> Result<(), Fault> {
    group.stats.sent(1, size);
    route.sent(1);
    route.topic.send(record, number).map_err(|failure| {
        route.reported(1);
        // The client may have ended for good.
        route.make_stale();
        group.give_room_back(size);
        group.stats.reported(1, size);
        Fault::new(failure.kind, failure.sentence)
    })
}
