//! What handlers asked for under listeners that are still to come: a worker has a bundle before its consumer hears of it.
//!
//! One request a lane is kept, and those of finished messages are thrown away whenever the others may be as many: idle lanes
//! cost nothing.

use std::collections::HashMap;
use std::sync::Arc;

use super::Ask;

/// So many are kept before any is thrown away.
const KEPT_MIN: usize = 16;

#[derive(Debug, Default)]
pub(super) struct Kept {
    by_lane: HashMap<(Arc<str>, u64), Request>,
    /// How many there may be before the next look.
    room: usize,
}

/// What the handler of one message has asked for so far.
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

    /// What comes to the same as all that was asked.
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
