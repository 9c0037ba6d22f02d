//! Requests of handlers whose listeners belong to a coming bundle: a worker has a bundle before its consumer hears of
//! it.
//!
//! One request per lane is kept. Requests of finished messages are dropped whenever they may be as many as the
//! others: so idle lanes cost nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::Ask;

/// This many are kept before any is dropped.
const KEPT_MIN: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Kept {
    by_lane: HashMap<(Arc<str>, u64), Request>,
    /// The number of requests at which finished ones are next dropped.
    room: usize,
}

/// The requests so far of the handler of one message.
#[derive(Clone, Copy, Debug)]
struct Request {
    at: i64,
    highest: i64,
    last: i64,
}

impl Kept {
    pub(super) fn ask(&mut self, ask: &Ask, is_unfinished: impl Fn(i64) -> bool) {
        let &Ask {
            lane, at, offset, ..
        } = ask;
        let new = Request {
            at,
            highest: offset,
            last: offset,
        };
        let request = self
            .by_lane
            .entry((ask.listener.clone(), lane))
            .or_insert(new);
        if request.at == at {
            request.highest = request.highest.max(offset);
            request.last = offset;
        } else {
            *request = new;
        }
        if self.by_lane.len() > self.room.max(KEPT_MIN) {
            self.by_lane.retain(|_, request| is_unfinished(request.at));
            self.room = self.by_lane.len() * 2;
        }
    }

    /// Requests with the same effect as all that were made.
    pub(super) fn into_requests(self) -> impl Iterator<Item = Ask> {
        self.by_lane
            .into_iter()
            .flat_map(|((listener, lane), request)| {
                [request.highest, request.last].map(|offset| Ask {
                    listener: listener.clone(),
                    lane,
                    at: request.at,
                    offset,
                })
            })
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.by_lane.len()
    }
}
