//! Commits by hand in batches: a request holds for every lane of the batch.

use std::collections::BTreeMap;

use crate::wait::Requested;
use crate::worker::commit_requests::Who;
use crate::worker::slot::Slot;

use super::state::OpenBatch;

impl OpenBatch {
    /// The lane of the first message, and the offset of the last one in it.
    pub(super) fn first_lane(&self) -> Option<(u64, i64)> {
        let first = self.members.first()?;
        let mut members = self.members.iter().rev();
        let last = members.find(|one| one.lane == first.lane)?;
        Some((first.lane, last.offset))
    }

    /// The first and the last offset in each lane.
    fn lanes(&self) -> BTreeMap<u64, (i64, i64)> {
        let mut lanes = BTreeMap::new();
        for one in &self.members {
            let (_, last) = lanes.entry(one.lane).or_insert((one.offset, one.offset));
            *last = one.offset;
        }
        lanes
    }
}

impl Slot {
    /// The handler of a batch has requested commits, and does not wait for them.
    pub(in crate::worker) fn ask_of_batch(&mut self, id: u64, asked: Requested) {
        self.ask_lanes(id, asked, None);
    }

    /// A request that the handler waits for: that of the lane `but` follows.
    pub(in crate::worker) fn ask_other_lanes(&mut self, id: u64, offset: i64, but: u64) {
        let asked = Requested {
            highest: offset,
            last: offset,
        };
        self.ask_lanes(id, asked, Some(but));
    }

    fn ask_lanes(&mut self, id: u64, asked: Requested, but: Option<u64>) {
        let Some(batch) = self.batches.open.get(&id) else {
            return;
        };
        let (listener, lanes) = (batch.listener.clone(), batch.lanes());
        let is_one = lanes.len() == 1;
        for (lane, (first, last)) in lanes {
            // A lane without a message before the offset has nothing to commit.
            if Some(lane) == but || (!is_one && asked.highest <= first) {
                continue;
            }
            let who = Who {
                listener: &listener,
                lane,
                at: last,
            };
            self.ask_now(who, asked);
        }
    }
}
