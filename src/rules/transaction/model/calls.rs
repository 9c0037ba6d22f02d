//! Calls that finish several messages of a partition at once.

use super::{Copied, Item, Lane, STRIDE, World};
use crate::rules::transaction::Member;

impl World {
    /// A call ends, with the next messages of some lanes of a partition.
    pub(super) fn finish_call(&mut self) {
        let lanes = self.process.lanes.iter();
        let open: Vec<Lane> = lanes
            .filter(|(_, left)| !left.is_empty())
            .map(|(lane, _)| *lane)
            .collect();
        let Some(first) = self.dice.choice(open.iter().copied()) else {
            return;
        };
        let mut members = Vec::new();
        for lane in open.iter().filter(|one| one.epoch == first.epoch) {
            if *lane != first && self.dice.bool() {
                continue;
            }
            let count = 1 + self.dice.usize(..3);
            let process = &mut self.process;
            let Some(left) = process.lanes.get_mut(lane) else {
                continue;
            };
            for _ in 0..count.min(left.len()) {
                let is_alone = process.singles.contains(&left[0]);
                if is_alone && !members.is_empty() {
                    break;
                }
                let number = left.remove(0);
                process.sent.entry(*lane).or_default().push(number);
                members.push(Member {
                    lane: lane.lane,
                    number,
                });
                if is_alone {
                    return self.hand_over_call(first.epoch, members);
                }
            }
        }
        self.hand_over_call(first.epoch, members);
    }

    fn hand_over_call(&mut self, epoch: u64, mut members: Vec<Member>) {
        members.sort_unstable_by_key(|one| one.number);
        let offsets = &self.process.offsets;
        let copies = |one: &Member| {
            let (partition, offset) = (one.number / STRIDE, offsets[&one.number]);
            [(partition, offset, 0), (partition, offset, 1)]
        };
        let load: Vec<Copied> = members.iter().flat_map(copies).collect();
        let first = members.remove(0);
        self.process.machine.finished(Item {
            lane: Lane {
                epoch,
                lane: first.lane,
            },
            number: first.number,
            others: members,
            is_of_batches: true,
            bytes: 10,
            load,
        });
    }

    /// All of the partition that is not committed runs again. The messages of the call run alone, and one that was alone
    /// is given up by its listener, if a record of it was refused.
    pub(super) fn partition_goes_back(&mut self, item: &Item<Vec<Copied>>, is_refused: bool) {
        let epoch = item.lane.epoch;
        if item.others.is_empty() {
            assert!(is_refused, "the first message of a partition always enters");
            let offset = self.process.offsets[&item.number];
            self.bad.remove(&(item.number / STRIDE, offset));
        } else {
            let numbers = item.members().map(|one| one.number);
            self.process.singles.extend(numbers);
        }
        let sent = self
            .process
            .sent
            .extract_if(.., |lane, _| lane.epoch == epoch);
        let sent: Vec<(Lane, Vec<u64>)> = sent.collect();
        // A letter that was under way by then.
        let last = sent.iter().filter_map(|(lane, sent)| {
            let (lane, number) = (lane.lane, *sent.last()?);
            Some(Member { lane, number })
        });
        let last: Vec<Member> = last.collect();
        if !last.is_empty() {
            self.hand_over_call(epoch, last);
        }
        self.process.machine.partition_went_back(epoch);
        for (lane, again) in sent {
            let left = self.process.lanes.entry(lane).or_default();
            left.splice(..0, again);
        }
    }
}
