//! Emitted records that leave by one call at the end of a turn: those of one topic, in their order.
//!
//! **What records share is paid once for all of them**: librdkafka's clocks and locks, the counts, the room.

use std::sync::Arc;

use crate::kafka::producer::{Failure, Together};
use crate::message::Outgoing;
use crate::wait::Fault;
use crate::wait::send::Emitted;

use super::group::Group;
use super::routes::Route;

/// The most records of one call.
const MOST: usize = 1000;
/// The room that is taken at once, where there is so much.
const ROOM: usize = 64 << 10;

#[derive(Default)]
pub(super) struct Pending {
    way: Option<Way>,
    /// With the number of the one record.
    emitted: Vec<(Arc<Emitted>, u64)>,
    together: Together,
}

struct Way {
    group: Arc<Group>,
    route: Arc<Route>,
    /// Of the records.
    bytes: usize,
    /// Taken, and not used yet.
    room: usize,
}

fn record(emitted: &Emitted) -> Option<&Outgoing> {
    emitted.requests.first()?.records.first()
}

impl Pending {
    /// Whether records wait, and their way may be used still.
    pub(super) fn is_open(&self) -> bool {
        self.way.as_ref().is_some_and(|way| !way.route.is_stale())
    }

    pub(super) fn is_full(&self) -> bool {
        self.emitted.len() >= MOST
    }

    /// The next records have this way. None waits.
    pub(super) fn open(&mut self, group: Arc<Group>, route: Arc<Route>) {
        self.way = Some(Way {
            group,
            route,
            bytes: 0,
            room: 0,
        });
    }

    /// Takes an emission of one record with so many bytes, if there is room for it.
    pub(super) fn push(&mut self, emitted: &Arc<Emitted>, number: u64, size: usize) -> bool {
        let Some(way) = &mut self.way else {
            return false;
        };
        if way.room < size {
            let wanted = [size.max(ROOM), size];
            let Some(taken) = wanted.into_iter().find(|one| way.group.take_room(*one)) else {
                return false;
            };
            way.room += taken;
        }
        way.room -= size;
        way.bytes += size;
        self.emitted.push((emitted.clone(), number));
        true
    }

    /// Gives the records to librdkafka. Returns those that it has not taken: that is their only answer.
    pub(super) fn flush(&mut self) -> Vec<(u64, Fault)> {
        let Some(way) = self.way.take() else {
            return Vec::new();
        };
        let Way { group, route, .. } = &way;
        group.stats.sent(self.emitted.len(), way.bytes);
        route.sent(self.emitted.len());
        let mut failed: Vec<(u64, Failure)> = Vec::new();
        let records = self.emitted.iter();
        let records = records.filter_map(|(emitted, number)| Some((record(emitted)?, *number)));
        let not_sent = |number, failure| failed.push((number, failure));
        route
            .topic
            .send_together(&mut self.together, records, not_sent);
        if way.room > 0 {
            group.give_room_back(way.room);
        }
        let faults = failed.into_iter().map(|(number, failure)| {
            let mut emitted = self.emitted.iter();
            let own = emitted.find(|(_, one)| *one == number);
            let size = own.and_then(|(emitted, _)| record(emitted));
            way.forget(size.map_or(0, Outgoing::size));
            (number, Fault::new(failure.kind, failure.sentence))
        });
        let faults = faults.collect();
        self.emitted.clear();
        faults
    }
}

impl Way {
    /// A record was not sent.
    fn forget(&self, size: usize) {
        self.route.reported(1);
        // The client may have ended for good.
        self.route.make_stale();
        self.group.give_room_back(size);
        self.group.stats.reported(1, size);
    }
}
