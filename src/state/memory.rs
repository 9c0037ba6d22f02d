//! A store in memory, which all workers reach at once. Pure: moments are milliseconds of the caller's clock.
//!
//! Its shards have a lock each, which no operation keeps for longer than its own work. An entry that has expired is
//! gone for its readers at once. Its memory comes back with the next operations of its shard: an index by time tells
//! which entries are due, so that nothing looks at the others.

mod shard;

use std::hash::{BuildHasher as _, RandomState};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::op::{self, Bounds, Bytes, Change, Done, Held, Op};
use crate::wait::Fault;

use shard::{Entry, Shard};

/// More than the threads that reach the store at once.
const SHARDS: usize = 64;
/// Entries that an operation removes on its way, at most.
const ON_THE_WAY: usize = 32;

#[derive(Debug)]
pub(crate) struct Memory {
    hasher: RandomState,
    shards: Box<[Mutex<Shard>]>,
    entries: AtomicU64,
    bytes: AtomicU64,
    max_entries: AtomicU64,
    max_bytes: AtomicU64,
}

impl Memory {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            hasher: RandomState::new(),
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            entries: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            max_entries: AtomicU64::new(bounds.entries),
            max_bytes: AtomicU64::new(bounds.bytes),
        }
    }

    /// What a smaller store already holds stays until it expires or is deleted.
    pub(crate) fn set_bounds(&self, bounds: Bounds) {
        self.max_entries.store(bounds.entries, Ordering::Relaxed);
        self.max_bytes.store(bounds.bytes, Ordering::Relaxed);
    }

    pub(crate) fn bounds(&self) -> Bounds {
        Bounds {
            entries: self.max_entries.load(Ordering::Relaxed),
            bytes: self.max_bytes.load(Ordering::Relaxed),
        }
    }

    /// Without what is due, for up to a second.
    pub(crate) fn held(&self, now: u64) -> Held {
        self.sweep(now);
        Held {
            entries: self.entries.load(Ordering::Relaxed),
            bytes: self.bytes.load(Ordering::Relaxed),
        }
    }

    /// The value of a key. The fast way for what is asked most.
    pub(crate) fn get(&self, key: &[u8], now: u64) -> Option<Bytes> {
        let hash = self.hasher.hash_one(key);
        let shard = self.shard(hash);
        let entry = shard.find(hash, key, now)?;
        Some(entry.value.clone())
    }

    pub(crate) fn run(&self, op: Op, now: u64) -> Result<Done, Fault> {
        match op {
            Op::Get { key } => Ok(Done::Value(self.get(&key, now))),
            Op::Scan {
                prefix,
                after,
                limit,
            } => Ok(Done::Entries(self.scan(
                &prefix,
                after.as_deref(),
                limit,
                now,
            ))),
            Op::Size => Ok(Done::Number(self.held(now).entries as i64)),
            op => self.change(&op, now),
        }
    }

    /// One change of one entry, which nothing comes between. At a bound the entries that are due go first.
    fn change(&self, op: &Op, now: u64) -> Result<Done, Fault> {
        let key = op.key();
        let hash = self.hasher.hash_one(key);
        for is_last in [false, true] {
            let mut shard = self.shard(hash);
            self.sweep_shard(&mut shard, now, ON_THE_WAY);
            let found = shard.find(hash, key, now);
            let found = found.map(|entry| (&*entry.value, entry.until));
            let (change, done) = op::decide(op, found, now)?;
            // An entry that has expired counts until it is removed.
            let old = shard.find(hash, key, 0).map(Entry::cost);
            match change {
                Change::Nothing => return Ok(done),
                Change::Remove => {
                    if let Some(cost) = old {
                        shard.remove(hash, key);
                        self.give_back(1, cost);
                    }
                    return Ok(done);
                }
                Change::Put(value, until) => {
                    if self.reserve(old, op::cost(key, &value)) {
                        let key = key.into();
                        let entry = Entry { key, value, until };
                        shard.put(hash, entry, |key| self.hasher.hash_one(key));
                        return Ok(done);
                    }
                    drop(shard);
                    if !is_last {
                        self.sweep(now);
                    }
                }
            }
        }
        Err(op::full(self.held(now), self.bounds()))
    }

    /// Counts an entry of `new` bytes in place of one of `old`, if there is room for it. What does not grow always has.
    fn reserve(&self, old: Option<u64>, new: u64) -> bool {
        let before = old.unwrap_or(0);
        if old.is_some() && new <= before {
            self.bytes.fetch_sub(before - new, Ordering::Relaxed);
            return true;
        }
        let (more, count) = (new - before, u64::from(old.is_none()));
        let bounds = self.bounds();
        let bytes = self.bytes.fetch_add(more, Ordering::Relaxed) + more;
        let entries = self.entries.fetch_add(count, Ordering::Relaxed) + count;
        if bytes <= bounds.bytes && (count == 0 || entries <= bounds.entries) {
            return true;
        }
        self.give_back(count, more);
        false
    }

    fn give_back(&self, entries: u64, bytes: u64) {
        self.entries.fetch_sub(entries, Ordering::Relaxed);
        self.bytes.fetch_sub(bytes, Ordering::Relaxed);
    }

    /// Looks at all entries, one shard after the other.
    fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        now: u64,
    ) -> Vec<(Bytes, Bytes)> {
        let mut first = std::collections::BTreeMap::new();
        for shard in &self.shards {
            let shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            for entry in shard.alive(now) {
                let key = &*entry.key;
                let is_behind = after.is_none_or(|after| key > after);
                if !is_behind || !key.starts_with(prefix) {
                    continue;
                }
                let is_among = first.len() < limit
                    || first
                        .last_key_value()
                        .is_some_and(|(last, _): (&Bytes, &Bytes)| key < &**last);
                if is_among {
                    first.insert(entry.key.clone(), entry.value.clone());
                    if first.len() > limit {
                        first.pop_last();
                    }
                }
            }
        }
        first.into_iter().collect()
    }

    fn sweep(&self, now: u64) {
        for shard in &self.shards {
            let mut shard = shard.lock().unwrap_or_else(PoisonError::into_inner);
            self.sweep_shard(&mut shard, now, usize::MAX);
        }
    }

    fn sweep_shard(&self, shard: &mut Shard, now: u64, most: usize) {
        let (entries, bytes) = shard.sweep(now, most, |key| self.hasher.hash_one(key));
        if entries > 0 {
            self.give_back(entries, bytes);
        }
    }

    /// Its number are the upper bits: the tables use the lower ones, and the highest seven.
    fn shard(&self, hash: u64) -> MutexGuard<'_, Shard> {
        let shard = &self.shards[(hash >> 48) as usize % SHARDS];
        shard.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
