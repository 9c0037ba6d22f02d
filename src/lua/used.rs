//! The memory of emissions that are over, for the next ones. Pure.

use std::sync::Arc;

use crate::message::Outgoing;
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
        Some(one)
    }
}
