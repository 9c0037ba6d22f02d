//! The memory of emissions that are over, for the next ones. Pure.

use std::sync::Arc;

use crate::message::Outgoing;
use crate::message::prefetch::prefetch;
use crate::wait::send::Emitted;

/// Emissions that are over.
#[derive(Default)]
pub(super) struct Used {
    /// Each with the bytes that it holds.
    all: Vec<(Arc<Emitted>, usize)>,
    bytes: usize,
}

/// The most bytes of those that are kept, and of one of them.
const USED_MAX: usize = 4 << 20;
const USED_ONE_MAX: usize = 4 << 10;

/// How many emissions ahead an entry of the list is prefetched, and the emission itself; its value follows later.
const ENTRY_AHEAD: usize = 8;
const ONE_AHEAD: usize = 3;

/// The names of topics that were emitted to last: they are few, and valid.
#[derive(Default)]
pub(super) struct Topics(Vec<Arc<str>>);

const TOPICS_MAX: usize = 8;

impl Topics {
    pub(super) fn find(&self, name: &[u8]) -> Option<&Arc<str>> {
        let mut all = self.0.iter();
        all.find(|one| one.as_bytes() == name)
    }

    pub(super) fn add(&mut self, name: &str) -> Arc<str> {
        let name: Arc<str> = name.into();
        self.0.truncate(TOPICS_MAX - 1);
        self.0.insert(0, name.clone());
        name
    }
}

/// About the bytes that an emission of one plain record holds; 0 for one that holds too much to be kept.
pub(super) fn size_of_plain(record: &Outgoing) -> usize {
    let room = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::capacity);
    let bytes = size_of::<Emitted>() + room(&record.value) + room(&record.key);
    if bytes <= USED_ONE_MAX { bytes } else { 0 }
}

impl Used {
    /// Prefetches those that are taken next.
    fn prefetch(&self) {
        let behind = |ahead: usize| self.all.len().checked_sub(ahead);
        if let Some(entry) = behind(ENTRY_AHEAD).and_then(|at| self.all.get(at)) {
            prefetch((&raw const *entry).cast(), 1);
        }
        if let Some((one, _)) = behind(ONE_AHEAD).and_then(|at| self.all.get(at)) {
            Emitted::prefetch(one);
        }
        if let Some((one, _)) = self.all.last() {
            one.prefetch_value();
        }
    }

    /// Nobody else has the emission.
    pub(super) fn keep(&mut self, one: Arc<Emitted>) {
        // Its records are in no cache any more, and are not looked at.
        let bytes = one.kept;
        if bytes > 0 && one.asked.is_none() && self.bytes + bytes <= USED_MAX {
            self.bytes += bytes;
            self.all.push((one, bytes));
        }
    }

    pub(super) fn take(&mut self) -> Option<Arc<Emitted>> {
        let (one, bytes) = self.all.pop()?;
        self.bytes -= bytes;
        self.prefetch();
        Some(one)
    }
}
