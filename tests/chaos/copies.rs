//! The copies: what a consumer with `exactlyOnce` has emitted for the messages of the load, as a reader of committed
//! records sees it.
//!
//! Each message has one copy, some have a twin in another partition, of the same transaction. Nothing may stand there
//! twice, nothing out of the order of its lane, and in the end nothing is missing and no twin is alone.

use rdkafka::message::{BorrowedMessage, Message as _};
use std::collections::BTreeMap;

use crate::driver::{Load, PARTITIONS_MAX};
use crate::fate::{has_twin, key_of};
use crate::floor::Floor;
use crate::oracle::Order;

pub(crate) const PARTITIONS: i32 = 3;

pub(crate) struct Copies {
    order: Order,
    /// By partition of the load.
    ledgers: Vec<[Ledger; 2]>,
    pub(crate) read: u64,
    pub(crate) violations: Vec<String>,
}

/// Where a copy comes from.
pub(crate) struct Copy {
    partition: usize,
    offset: i64,
    key: String,
    is_twin: bool,
}

/// The copies of one partition, or their twins.
#[derive(Default)]
struct Ledger {
    /// What was read, or has no copy of this kind.
    read: Floor,
    /// The last of each lane.
    lanes: BTreeMap<String, i64>,
}

impl Copies {
    pub(crate) fn new(order: Order) -> Self {
        let ledgers = (0..PARTITIONS_MAX).map(|_| {
            let mut ledgers = <[Ledger; 2]>::default();
            // The first messages may have no twin that could be waited for.
            ledgers[1].pass_twinless();
            ledgers
        });
        Self {
            order,
            ledgers: ledgers.collect(),
            read: 0,
            violations: Vec::new(),
        }
    }

    pub(crate) fn take(&mut self, copy: Result<Copy, String>) {
        let taken = copy.and_then(|copy| self.enter(&copy));
        if let Err(sentence) = taken
            && self.violations.len() < 20
        {
            self.violations.push(sentence);
        }
    }

    fn enter(&mut self, copy: &Copy) -> Result<(), String> {
        self.read += 1;
        let (partition, offset) = (copy.partition, copy.offset);
        let what = if copy.is_twin { "twin" } else { "copy" };
        let lane = match self.order {
            Order::Partition => "",
            Order::Key => &copy.key,
        };
        let ledger = &mut self.ledgers[partition][usize::from(copy.is_twin)];
        if !ledger.read.insert(offset) {
            return Err(format!(
                "partition {partition}: the {what} of {offset} is committed twice"
            ));
        }
        if copy.is_twin {
            ledger.pass_twinless();
        }
        let last = ledger.lanes.insert(lane.to_owned(), offset);
        match last {
            Some(last) if last > offset => Err(format!(
                "partition {partition}: the {what} of {offset} stands behind that of {last}, of the same lane"
            )),
            _ => Ok(()),
        }
    }

    /// Below, each message has its copy and its twin, by partition.
    pub(crate) fn floors(&self) -> Vec<i64> {
        let of = |[copies, twins]: &[Ledger; 2]| copies.read.next().min(twins.read.next());
        self.ledgers.iter().map(of).collect()
    }

    /// Whether each acknowledged message has its copies.
    pub(crate) fn are_whole(&self, load: &Load) -> bool {
        let mut floors = self.floors().into_iter().enumerate();
        floors.all(|(partition, floor)| floor >= load.acked(partition))
    }
}

impl Ledger {
    fn pass_twinless(&mut self) {
        while !has_twin(self.read.next()) {
            self.read.insert(self.read.next());
        }
    }
}

pub(crate) fn copy(message: &BorrowedMessage<'_>) -> Result<Copy, String> {
    let emitted = emitted(message, &["copy", "twin"])?;
    Ok(Copy {
        partition: emitted.partition,
        offset: emitted.offset,
        key: emitted.key,
        is_twin: emitted.kind == "twin",
    })
}

/// What a handler has emitted for a message of the load.
pub(crate) struct Emitted {
    pub(crate) partition: usize,
    pub(crate) offset: i64,
    key: String,
    kind: String,
}

pub(crate) fn emitted(message: &BorrowedMessage<'_>, kinds: &[&str]) -> Result<Emitted, String> {
    let text =
        |bytes: Option<&[u8]>| String::from_utf8_lossy(bytes.unwrap_or_default()).into_owned();
    let (key, value) = (text(message.key()), text(message.payload()));
    let mut fields = value.split(' ');
    let mut number = || fields.next()?.parse::<i64>().ok();
    if let (Some(partition), Some(offset), Some(number)) = (number(), number(), number())
        && let (Some(kind), None) = (fields.next(), fields.next())
        && kinds.contains(&kind)
        && key == key_of(number)
        && number <= offset
    {
        return Ok(Emitted {
            partition: partition as usize,
            offset,
            key,
            kind: kind.to_owned(),
        });
    }
    Err(format!(
        "not one of {kinds:?}: key {key:?}, value {value:?}"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(offset: i64, kind: &str) -> Copy {
        Copy {
            partition: 0,
            offset,
            key: key_of(offset),
            is_twin: kind == "twin",
        }
    }

    fn taken(copies: &[(i64, &str)], order: Order) -> Copies {
        let mut taken = Copies::new(order);
        for (offset, kind) in copies {
            taken.take(Ok(of(*offset, kind)));
        }
        taken
    }

    #[test]
    fn a_floor_waits_for_copies_and_twins() {
        let twin = (0..100).find(|offset| has_twin(*offset)).unwrap();
        let mut copies: Vec<_> = (0..=twin).map(|offset| (offset, "copy")).collect();
        assert_eq!(taken(&copies, Order::Partition).floors()[0], twin);
        copies.push((twin, "twin"));
        assert_eq!(taken(&copies, Order::Partition).floors()[0], twin + 1);
    }

    #[test]
    fn what_is_committed_twice_is_seen_however_late() {
        for again in [0, 3] {
            let copies = [(0, "copy"), (1, "copy"), (3, "copy"), (again, "copy")];
            let violations = taken(&copies, Order::Partition).violations;
            assert!(
                violations[0].contains("is committed twice"),
                "{violations:?}"
            );
        }
    }

    #[test]
    fn what_overtakes_in_its_lane_is_seen() {
        let copies = [(1, "copy"), (0, "copy")];
        assert!(taken(&copies, Order::Key).violations.is_empty());
        let violations = taken(&copies, Order::Partition).violations;
        assert!(
            violations[0].contains("stands behind that of 1"),
            "{violations:?}"
        );
    }
}
