//! A part of a store in memory: its entries, and the index by the time at which they expire. Pure.

use std::collections::BTreeMap;

use hashbrown::HashTable;
use hashbrown::hash_table::Entry as Slot;

use crate::state::op::{self, Bytes, NEVER};

/// The index counts in steps of so many bits of milliseconds, a second of 1,024.
const STEP: u32 = 10;
/// The index is made anew when it has more than twice the entries, and so many more.
const SPARE: usize = 64;

#[derive(Debug)]
pub(super) struct Entry {
    pub(super) key: Bytes,
    pub(super) value: Bytes,
    pub(super) until: u64,
}

#[derive(Debug, Default)]
pub(super) struct Shard {
    table: HashTable<Entry>,
    /// Hashes of entries, by the step in which they expire. One that has another end by now stands there too.
    due: BTreeMap<u64, Vec<u64>>,
    indexed: usize,
}

impl Entry {
    pub(super) fn cost(&self) -> u64 {
        op::cost(&self.key, &self.value)
    }

    fn is_alive(&self, now: u64) -> bool {
        self.until > now
    }
}

impl Shard {
    pub(super) fn find(&self, hash: u64, key: &[u8], now: u64) -> Option<&Entry> {
        let entry = self.table.find(hash, |entry| *entry.key == *key)?;
        entry.is_alive(now).then_some(entry)
    }

    pub(super) fn alive(&self, now: u64) -> impl Iterator<Item = &Entry> {
        self.table.iter().filter(move |entry| entry.is_alive(now))
    }

    pub(super) fn put(&mut self, hash: u64, entry: Entry, hasher: impl Fn(&[u8]) -> u64) {
        let until = entry.until;
        let slot = self.table.entry(
            hash,
            |other| other.key == entry.key,
            |other| hasher(&other.key),
        );
        let mut before = None;
        match slot {
            Slot::Occupied(mut occupied) => {
                let old = occupied.get_mut();
                before = Some(old.until);
                *old = entry;
            }
            Slot::Vacant(vacant) => {
                vacant.insert(entry);
            }
        }
        let is_indexed = before.is_some_and(|before| before >> STEP == until >> STEP);
        if until != NEVER && !is_indexed {
            self.due.entry(until >> STEP).or_default().push(hash);
            self.indexed += 1;
            self.rebuild_index(&hasher);
        }
    }

    pub(super) fn remove(&mut self, hash: u64, key: &[u8]) {
        if let Ok(found) = self.table.find_entry(hash, |entry| *entry.key == *key) {
            found.remove();
        }
    }

    /// Removes at most `most` of the entries that are due; returns their number and their bytes.
    pub(super) fn sweep(
        &mut self,
        now: u64,
        most: usize,
        hasher: impl Fn(&[u8]) -> u64,
    ) -> (u64, u64) {
        let (mut entries, mut bytes) = (0, 0);
        let mut left = most;
        while left > 0 {
            let Some(mut step) = self.due.first_entry() else {
                break;
            };
            if *step.key() >= now >> STEP {
                break;
            }
            let Some(hash) = step.get_mut().pop() else {
                step.remove();
                continue;
            };
            left -= 1;
            self.indexed -= 1;
            let found = self.table.find_entry(hash, |entry| {
                !entry.is_alive(now) && hasher(&entry.key) == hash
            });
            if let Ok(found) = found {
                let (entry, _) = found.remove();
                entries += 1;
                bytes += entry.cost();
            }
        }
        if entries > 0 && self.table.capacity() > 64 && self.table.len() < self.table.capacity() / 8
        {
            let room = self.table.len() * 2;
            self.table.shrink_to(room, |entry| hasher(&entry.key));
        }
        (entries, bytes)
    }

    /// Entries that get a new end again and again leave their old ones behind.
    fn rebuild_index(&mut self, hasher: &impl Fn(&[u8]) -> u64) {
        if self.indexed <= 2 * self.table.len() + SPARE {
            return;
        }
        self.due.clear();
        self.indexed = 0;
        for entry in &self.table {
            if entry.until != NEVER {
                let step = self.due.entry(entry.until >> STEP).or_default();
                step.push(hasher(&entry.key));
                self.indexed += 1;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn hash(key: &[u8]) -> u64 {
        key.iter()
            .fold(7, |hash, byte| hash * 31 + u64::from(*byte))
    }

    fn entry(key: &str, until: u64) -> Entry {
        Entry {
            key: key.as_bytes().into(),
            value: b"v".as_slice().into(),
            until,
        }
    }

    #[test]
    fn an_entry_that_is_written_again_and_again_keeps_the_index_short() {
        let mut shard = Shard::default();
        for round in 1..100_000 {
            shard.put(hash(b"a"), entry("a", round * 2_000), hash);
        }
        assert!(shard.indexed <= 2 + SPARE + 1, "{}", shard.indexed);
        assert_eq!(shard.sweep(100_000 * 3_000, usize::MAX, hash).0, 1);
        assert_eq!((shard.indexed, shard.due.len()), (0, 0));
    }

    #[test]
    fn a_sweep_removes_what_is_due_and_no_more_than_it_may() {
        let mut shard = Shard::default();
        for number in 0..100_u64 {
            let key = format!("key-{number}");
            let until = if number % 2 == 0 { 1_000 } else { 9_000_000 };
            shard.put(hash(key.as_bytes()), entry(&key, until), hash);
        }
        assert_eq!(shard.sweep(500, usize::MAX, hash).0, 0);
        assert_eq!(shard.sweep(5_000, 20, hash).0, 20);
        assert_eq!(shard.sweep(5_000, usize::MAX, hash).0, 30);
        assert_eq!(shard.table.len(), 50);
    }

    #[test]
    fn an_entry_with_a_later_end_stays() {
        let mut shard = Shard::default();
        shard.put(hash(b"a"), entry("a", 1_000), hash);
        shard.put(hash(b"a"), entry("a", NEVER), hash);
        assert_eq!(shard.sweep(1_000_000, usize::MAX, hash).0, 0);
        assert!(shard.find(hash(b"a"), b"a", 1_000_000).is_some());
    }
}
