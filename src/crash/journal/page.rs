//! A worker's own page of the journal: the messages that it runs at this moment.
//!
//! This is the hot path: two stores at the begin of a call, one at its end. Only this worker writes here, and the
//! only reader is the next process.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::layout::{self, Layout, SLOT_WORDS, SLOTS};
use super::memory::Memory;

pub(crate) struct Page {
    memory: Option<Arc<Memory>>,
    /// The first word of the page.
    start: usize,
    free: Vec<Slot>,
    /// Slots from this one on were never used: a lower number means fewer pages of memory in use.
    fresh: u32,
}

/// A partition in a group, as the journal names it; made once a lane.
pub(crate) struct InPartition {
    /// `None` if the journal writes nothing of it.
    name: Option<usize>,
    partition: i32,
    memory: Option<Arc<Memory>>,
    /// Messages that were running in crashes; almost always none.
    crashed: Vec<(i64, usize)>,
}

/// The slot of a running call; [`Page::end`] takes it back.
#[must_use]
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Slot(u32);

const NO_SLOT: u32 = u32::MAX;

/// A message that runs alone, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Suspect {
    pub(crate) crashes: u32,
    /// The message is proven to kill the process: it died while only this message ran.
    pub(crate) crashed_alone: bool,
}

impl Page {
    pub(super) fn new(memory: Arc<Memory>, worker: usize) -> Self {
        Self {
            start: Layout::page(worker),
            memory: Some(memory),
            free: Vec::new(),
            fresh: 0,
        }
    }

    /// A page that writes nothing and suspects no message.
    pub(crate) fn none() -> Self {
        Self {
            memory: None,
            start: 0,
            free: Vec::new(),
            fresh: 0,
        }
    }

    pub(crate) fn partition_of(&self, group: &str, topic: &str, partition: i32) -> InPartition {
        let memory = self.memory.clone();
        let name = memory.as_ref().and_then(|memory| memory.name(group, topic));
        let crashed = memory
            .as_ref()
            .zip(name)
            .map(|(memory, name)| memory.crashed(name, partition));
        InPartition {
            name,
            partition,
            memory,
            crashed: crashed.unwrap_or_default(),
        }
    }

    /// Logs once that another process has shortened the journal. Called every second or so.
    pub(crate) fn look(&self) {
        if let Some(memory) = &self.memory {
            memory.look();
        }
    }

    /// Records the begin of a call. `alone`: nothing else runs in the process.
    pub(crate) fn begin(&mut self, place: &InPartition, offset: i64, alone: bool) -> Slot {
        let Some(memory) = &self.memory else {
            return Slot(NO_SLOT);
        };
        let slot = self.free.pop().map(|slot| slot.0).or_else(|| {
            let fresh = self.fresh;
            self.fresh += u32::from((fresh as usize) < SLOTS);
            ((fresh as usize) < SLOTS).then_some(fresh)
        });
        let (Some(slot), Some(name)) = (slot, place.name) else {
            self.free.extend(slot.map(Slot));
            memory.leave_out();
            return Slot(NO_SLOT);
        };
        let word = layout::slot_word(name, place.partition, alone);
        let words = &memory.words()[self.start + slot as usize * SLOT_WORDS..];
        // The offset comes first: a running slot always has the offset of its message.
        words[1].store(offset as u64, Ordering::Release);
        words[0].store(word, Ordering::Release);
        Slot(slot)
    }

    pub(crate) fn end(&mut self, slot: Slot) {
        if let (Some(memory), true) = (&self.memory, slot.0 != NO_SLOT) {
            let words = &memory.words()[self.start + slot.0 as usize * SLOT_WORDS..];
            words[0].store(0, Ordering::Release);
            self.free.push(slot);
        }
    }
}

impl Drop for Page {
    fn drop(&mut self) {
        if let (Some(memory), true) = (&self.memory, std::thread::panicking()) {
            memory.panicked();
        }
    }
}

impl InPartition {
    /// Whether some message of this partition may be a suspect: almost never.
    pub(crate) fn has_crashed(&self) -> bool {
        !self.crashed.is_empty()
    }

    /// The offset behind all messages that were running in crashes; 0 without any.
    pub(crate) fn crashed_below(&self) -> i64 {
        let offsets = self.crashed.iter().map(|(offset, _)| offset + 1);
        offsets.max().unwrap_or(0)
    }

    pub(crate) fn suspect(&self, offset: i64) -> Option<Suspect> {
        if self.crashed.is_empty() {
            return None;
        }
        let memory = self.memory.as_ref()?;
        let record = self.record(offset)?;
        let (crashes, crashed_alone) = memory.crashes(record);
        let is_suspect = crashes > 0 && (crashed_alone || crashes >= memory.crashes_max());
        is_suspect.then_some(Suspect {
            crashes,
            crashed_alone,
        })
    }

    /// Forgets the crashes of a message that has an outcome: it did not cause them.
    pub(crate) fn finished(&mut self, offset: i64) {
        if self.crashed.is_empty() {
            return;
        }
        if let (Some(memory), Some(record)) = (&self.memory, self.record(offset)) {
            memory.forget(record);
            self.crashed.retain(|(one, _)| *one != offset);
        }
    }

    /// The operator lets a proven message run again: alone, and once more.
    pub(crate) fn pardon(&self, offset: i64) {
        if let (Some(memory), Some(record)) = (&self.memory, self.record(offset)) {
            memory.pardon(record);
        }
    }

    fn record(&self, offset: i64) -> Option<usize> {
        let mut crashed = self.crashed.iter();
        crashed
            .find(|(one, _)| *one == offset)
            .map(|(_, record)| *record)
    }
}
