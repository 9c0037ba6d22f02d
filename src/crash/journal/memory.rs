//! The mapped file, and the parts of it that all workers share: the names and the history.
//!
//! Every word is an atomic that is only ever stored whole. Names are written under a lock, once each. In a record of
//! the history only the last word changes.
#![expect(
    unsafe_code,
    reason = "memory that a file backs has no safe type; it is looked at as atomic words in one place"
)]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use memmap2::{MmapOptions, MmapRaw};

use super::layout::{self, CRASHES, Crashed, Layout, NAMES_MAX, STOPPING, WORD};
use super::shortened::Guard;
use crate::log::log;

pub(super) struct Memory {
    guard: Guard,
    map: MmapRaw,
    layout: Layout,
    names: Mutex<HashMap<(String, String), usize>>,
    /// The crashed messages of each name and partition: their offset and the place of their record.
    history: HashMap<(usize, i32), Vec<(i64, usize)>>,
    crashes_max: u32,
    left_out: AtomicU64,
    has_panicked: AtomicBool,
    /// The shortening was logged.
    is_told: AtomicBool,
}

impl Memory {
    /// Maps a file that [`Layout::image`] has just written with this history.
    pub(super) fn map(
        file: &File,
        layout: Layout,
        crashed: &[Crashed],
        crashes_max: u32,
    ) -> io::Result<Self> {
        let map = MmapOptions::new()
            .len(layout.words() * WORD)
            .map_raw(file)?;
        let guard = Guard::new(&map)?;
        let names = layout::names(crashed);
        let mut history: HashMap<_, Vec<_>> = HashMap::new();
        for (index, (name, one)) in layout::records(crashed).enumerate() {
            let place = history.entry((name, one.partition)).or_default();
            place.push((one.offset, Layout::history(index)));
        }
        Ok(Self {
            guard,
            map,
            layout,
            names: Mutex::new(
                names
                    .into_iter()
                    .enumerate()
                    .map(|(number, name)| (name, number))
                    .collect(),
            ),
            history,
            crashes_max,
            left_out: AtomicU64::new(0),
            has_panicked: AtomicBool::new(false),
            is_told: AtomicBool::new(false),
        })
    }

    pub(super) fn crashes_max(&self) -> u32 {
        self.crashes_max
    }

    pub(super) fn words(&self) -> &[AtomicU64] {
        // SAFETY: the mapping has this many words, begins at a page's boundary, is readable and writable, and lives
        // as long as `self`. This process makes no other reference to it, and atomics allow for other writers. If
        // another process shortens the file, the guard puts plain memory in the place of what is lost.
        unsafe { std::slice::from_raw_parts(self.map.as_mut_ptr().cast(), self.layout.words()) }
    }

    /// The number of a name; `None` if the table is full or the name too long.
    pub(super) fn name(&self, group: &str, topic: &str) -> Option<usize> {
        let mut names = self.names.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (group.to_owned(), topic.to_owned());
        if let Some(&number) = names.get(&key) {
            return Some(number);
        }
        let number = names.len();
        let words = layout::encode_name(group, topic).filter(|_| number < NAMES_MAX)?;
        for (word, value) in self.words()[Layout::name(number)].iter().zip(words) {
            word.store(value, Ordering::Relaxed);
        }
        names.insert(key, number);
        Some(number)
    }

    /// The crashed messages of this partition: their offsets and records.
    pub(super) fn crashed(&self, name: usize, partition: i32) -> Vec<(i64, usize)> {
        self.history
            .get(&(name, partition))
            .cloned()
            .unwrap_or_default()
    }

    /// The crashes of a record, and whether its message ran alone in one.
    pub(super) fn crashes(&self, record: usize) -> (u32, bool) {
        layout::crashes(self.words()[record + CRASHES].load(Ordering::Relaxed))
    }

    pub(super) fn forget(&self, record: usize) {
        self.words()[record + CRASHES].store(0, Ordering::Relaxed);
    }

    /// Lets the message of the record run again, alone.
    pub(super) fn pardon(&self, record: usize) {
        let words = &self.words()[record..=record + CRASHES];
        let place = [0, 1].map(|index| words[index].load(Ordering::Relaxed));
        let crashes = self.crashes(record).0.max(self.crashes_max);
        let word = layout::encode_crashes(&place, crashes, false);
        words[CRASHES].store(word, Ordering::Relaxed);
    }

    pub(super) fn stopping(&self) {
        if !self.has_panicked.load(Ordering::Acquire) {
            self.words()[STOPPING].store(1, Ordering::Relaxed);
        }
    }

    /// Records that a worker's thread has panicked: its running messages stay in the journal.
    pub(super) fn panicked(&self) {
        self.has_panicked.store(true, Ordering::Release);
    }

    /// Logs once that another process has shortened the file.
    pub(super) fn look(&self) {
        if self.guard.is_shortened() && !self.is_told.swap(true, Ordering::Relaxed) {
            log!(
                error,
                crash,
                "another process has shortened the journal of running messages: until the next start, a message that \
                 kills the process is not found"
            );
        }
    }

    pub(super) fn leave_out(&self) {
        if self.left_out.fetch_add(1, Ordering::Relaxed) == 0 {
            log!(
                warn,
                crash,
                "the journal of running messages is full: some messages run without an entry"
            );
        }
    }

    /// The number of calls that ran without an entry.
    #[cfg(test)]
    pub(super) fn left_out(&self) -> u64 {
        self.left_out.load(Ordering::Relaxed)
    }
}
