//! The parts of the model: brokers, a process, and its partitions.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use crate::rules::commit_metadata::Finished;
use crate::rules::offsets::{Arrival, NoRoom, Position, Tracker};
use crate::rules::transaction::{Enters, Lane, Machine, Positions, Settings};

pub(super) const PARTITIONS: u64 = 2;
pub(super) const MESSAGES: u64 = 24;
pub(super) const LANES: u64 = 3;
/// An item's number has its partition, too.
pub(super) const STRIDE: u64 = 10_000;

/// A record: its partition and offset, and which of the two copies it is.
pub(super) type Copied = (u64, u64, u8);
/// A position, and what is finished beyond it.
pub(super) type Place = (i64, Finished);

#[derive(Clone, Default)]
pub(super) struct Open {
    pub(super) records: Vec<Copied>,
    pub(super) places: BTreeMap<u64, Place>,
}

/// The brokers: one transactional id, one group.
#[derive(Default)]
pub(super) struct Brokers {
    pub(super) epoch: u64,
    pub(super) open: Option<Open>,
    pub(super) log: Vec<Copied>,
    pub(super) group: BTreeMap<u64, Place>,
    /// Requests for a commit that are still on their way, by the epoch of their producer.
    pub(super) late: Vec<u64>,
}

impl Brokers {
    pub(super) fn start(&mut self) -> u64 {
        self.epoch += 1;
        self.open = None;
        self.epoch
    }

    /// Without a transaction of this epoch nothing happens.
    pub(super) fn commit(&mut self, epoch: u64) {
        if epoch == self.epoch
            && let Some(open) = self.open.take()
        {
            self.log.extend(open.records);
            self.group.extend(open.places);
        }
    }
}

/// One process.
pub(super) struct Process {
    pub(super) machine: Machine<Vec<Copied>>,
    pub(super) trackers: Trackers,
    /// The offsets of the messages that came, by item number.
    pub(super) offsets: HashMap<u64, u64>,
    /// Of each lane, the messages that it has not ended yet.
    pub(super) lanes: BTreeMap<Lane, Vec<u64>>,
    /// The messages of a lane that went out of the worker, in their order, until they are committed.
    pub(super) sent: BTreeMap<Lane, Vec<u64>>,
    /// Messages that run alone.
    pub(super) singles: BTreeSet<u64>,
    pub(super) producer: Option<u64>,
    /// The call that the producer has not answered.
    pub(super) call: Option<Call>,
    pub(super) open: Open,
    pub(super) wanted: BTreeMap<u64, (Place, Place)>,
    /// The group's offsets, read too early.
    pub(super) read_early: Option<BTreeMap<u64, Place>>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Call {
    Start,
    End,
    Abort,
    ReadBack,
}

pub(super) struct Trackers {
    pub(super) by_partition: BTreeMap<u64, Tracker>,
    pub(super) metadata: usize,
    /// A mistake: of a call only the first messages count.
    pub(super) tears: bool,
}

impl Positions for Trackers {
    fn begin(&mut self) {
        for tracker in self.by_partition.values_mut() {
            tracker.begin_transaction(self.metadata);
        }
    }

    fn enter(&mut self, _: u64, numbers: &[u64]) -> Enters {
        let tracker = self.by_partition.get_mut(&(numbers[0] / STRIDE));
        let Some(tracker) = tracker else {
            return Enters::Later;
        };
        let numbers: Vec<u64> = numbers.iter().map(|one| one % STRIDE).collect();
        if let [number] = numbers[..] {
            return if tracker.include(number) {
                Enters::Yes
            } else {
                Enters::Later
            };
        }
        if self.tears {
            tracker.include(numbers[0]);
            return Enters::Yes;
        }
        match tracker.include_all(&numbers) {
            Ok(()) => Enters::Yes,
            Err(NoRoom { has_first: true }) => Enters::Blocked,
            Err(NoRoom { has_first: false }) => Enters::Later,
        }
    }
}

pub(super) fn lane_of(offset: u64) -> u64 {
    offset * 7 % LANES
}

pub(super) fn process(brokers: &Brokers, elsewhere: &BTreeSet<u64>, metadata: usize) -> Process {
    let machine = Machine::new(Settings {
        interval: Duration::from_millis(20),
        messages: 12,
        partition_bytes: 200,
        bytes: 300,
        timeout: Duration::from_millis(200),
        call: Duration::from_millis(50),
    });
    let (mut by_partition, mut offsets) = (BTreeMap::new(), HashMap::new());
    let mut lanes: BTreeMap<Lane, Vec<u64>> = BTreeMap::new();
    for partition in (0..PARTITIONS).filter(|one| !elsewhere.contains(one)) {
        let place = brokers.group.get(&partition).cloned();
        let (offset, beyond) = place.unwrap_or((0, Finished::default()));
        let start = Position {
            offset,
            leader_epoch: -1,
        };
        let mut tracker = Tracker::new(start, Vec::new(), vec!["a".into()], true);
        tracker.keep_uncommitted();
        tracker.seed(beyond);
        for offset in offset as u64..MESSAGES {
            let lane = lane_of(offset);
            if let Arrival::New(number) = tracker.arrive(offset as i64, -1, 1, |_| lane) {
                let number = partition * STRIDE + number;
                offsets.insert(number, offset);
                let epoch = partition + 1;
                lanes.entry(Lane { epoch, lane }).or_default().push(number);
            }
        }
        by_partition.insert(partition, tracker);
    }
    Process {
        machine,
        trackers: Trackers {
            by_partition,
            metadata,
            tears: false,
        },
        offsets,
        lanes,
        sent: BTreeMap::new(),
        singles: BTreeSet::new(),
        producer: None,
        call: None,
        open: Open::default(),
        wanted: BTreeMap::new(),
        read_early: None,
    }
}

/// What a reader of committed records sees has to be everything, once, in the order of each lane.
pub(super) fn check(log: &[Copied]) -> Result<(), String> {
    let mut last: BTreeMap<(u64, u64, u8), u64> = BTreeMap::new();
    let mut seen = BTreeSet::new();
    for one in log {
        let (partition, offset, copy) = *one;
        if !seen.insert(*one) {
            return Err(format!("{one:?} is there twice"));
        }
        let before = last.insert((partition, lane_of(offset), copy), offset);
        if before.is_some_and(|before| before > offset) {
            return Err(format!("{one:?} is behind {before:?} of its lane"));
        }
    }
    let expected = (PARTITIONS * MESSAGES * 2) as usize;
    if seen.len() == expected {
        Ok(())
    } else {
        Err(format!("{} of {expected} records are there", seen.len()))
    }
}
