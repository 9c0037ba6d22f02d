//! Caches of functions: results by arguments, each with its time, and what must give way when there is no room.
//!
//! At its capacity a cache lets go the one of a few entries at random that was used longest ago: nearly the choice of a
//! list in the order of use, at the cost of a number an entry.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::flights::Flights;
use super::op::Bytes;
use super::time::Time;

/// The bytes of the results of one cache.
const BYTES_MAX: u64 = 256 << 20;
/// What an entry costs beside its bytes.
const ENTRY_BYTES: u64 = 128;
/// How many are compared when one must go.
const COMPARED: usize = 8;
/// How long an old result counts as fresh when the function has failed: it is not called again for each message.
const AFTER_FAILURE: Duration = Duration::from_secs(1);

/// What identifies a cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Settings {
    pub(crate) name: String,
    /// Of the content of the file that made it.
    pub(crate) file: u64,
    pub(crate) ttl: Duration,
    pub(crate) stale: Duration,
    pub(crate) capacity: usize,
}

#[derive(Debug)]
pub(crate) struct Cache {
    settings: Settings,
    time: Time,
    pub(crate) flights: Arc<Flights>,
    entries: Mutex<Entries>,
    hits: AtomicU64,
    misses: AtomicU64,
}

/// What a cache has for some arguments.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Fresh(Arc<[u8]>),
    /// It is to be renewed, and serves meanwhile.
    Stale(Arc<[u8]>),
    Nothing,
}

/// What a cache is about, for the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
    pub(crate) hits: u64,
    pub(crate) misses: u64,
}

#[derive(Debug)]
struct Entry {
    key: Bytes,
    value: Arc<[u8]>,
    fresh_until: u64,
    stale_until: u64,
    used: u64,
}

impl Entry {
    fn cost(&self) -> u64 {
        ENTRY_BYTES + 2 * self.key.len() as u64 + self.value.len() as u64
    }
}

/// The entries, and where each of them lies. Moments are milliseconds.
#[derive(Debug, Default)]
struct Entries {
    list: Vec<Entry>,
    at: HashMap<Bytes, usize>,
    bytes: u64,
    /// The number of uses so far.
    uses: u64,
    chance: fastrand::Rng,
}

impl Entries {
    fn find(&mut self, key: &[u8], now: u64) -> Found {
        let Some(&at) = self.at.get(key) else {
            return Found::Nothing;
        };
        self.uses += 1;
        let entry = &mut self.list[at];
        entry.used = self.uses;
        if now < entry.fresh_until {
            return Found::Fresh(Arc::clone(&entry.value));
        }
        if now < entry.stale_until {
            return Found::Stale(Arc::clone(&entry.value));
        }
        self.remove(at);
        Found::Nothing
    }

    fn put(&mut self, entry: Entry, capacity: usize) {
        if let Some(&at) = self.at.get(&entry.key) {
            self.remove(at);
        }
        let cost = entry.cost();
        while !self.list.is_empty()
            && (self.list.len() >= capacity || self.bytes + cost > BYTES_MAX)
        {
            self.let_one_go();
        }
        self.bytes += cost;
        self.uses += 1;
        self.at.insert(entry.key.clone(), self.list.len());
        self.list.push(Entry {
            used: self.uses,
            ..entry
        });
    }

    fn let_one_go(&mut self) {
        let count = self.list.len();
        let mut tried = (0..COMPARED).map(|_| self.chance.usize(0..count));
        let first = tried.next().unwrap_or(0);
        let oldest = tried.fold(first, |oldest, one| {
            if self.list[one].used < self.list[oldest].used {
                one
            } else {
                oldest
            }
        });
        self.remove(oldest);
    }

    fn remove(&mut self, at: usize) {
        let entry = self.list.swap_remove(at);
        self.bytes -= entry.cost();
        self.at.remove(&entry.key);
        if let Some(moved) = self.list.get(at)
            && let Some(found) = self.at.get_mut(&moved.key)
        {
            *found = at;
        }
    }
}

impl Cache {
    pub(super) fn new(settings: Settings, time: Time) -> Self {
        Self {
            settings,
            time,
            flights: Arc::default(),
            entries: Mutex::default(),
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
        }
    }

    pub(crate) fn settings(&self) -> &Settings {
        &self.settings
    }

    /// Counts a hit, fresh or stale, or a miss.
    pub(crate) fn look(&self, key: &[u8]) -> Found {
        let now = self.time.ms();
        let found = self.entries().find(key, now);
        let count = match found {
            Found::Nothing => &self.misses,
            Found::Fresh(_) | Found::Stale(_) => &self.hits,
        };
        count.fetch_add(1, Ordering::Relaxed);
        found
    }

    /// The same for a call that has counted already.
    pub(crate) fn look_again(&self, key: &[u8]) -> Found {
        let now = self.time.ms();
        self.entries().find(key, now)
    }

    pub(crate) fn put(&self, key: &[u8], value: Arc<[u8]>) {
        let now = self.time.ms();
        self.put_until(key, value, now, self.settings.ttl);
    }

    /// The function has failed, and its old result goes on.
    pub(crate) fn keep(&self, key: &[u8]) {
        let now = self.time.ms();
        let mut entries = self.entries();
        if let Some(&at) = entries.at.get(key) {
            let fresh = now + AFTER_FAILURE.as_millis() as u64;
            let entry = &mut entries.list[at];
            entry.fresh_until = fresh.min(entry.stale_until);
        }
    }

    fn put_until(&self, key: &[u8], value: Arc<[u8]>, now: u64, ttl: Duration) {
        let fresh_until = now.saturating_add(ttl.as_millis() as u64);
        let entry = Entry {
            key: key.into(),
            value,
            fresh_until,
            stale_until: fresh_until.saturating_add(self.settings.stale.as_millis() as u64),
            used: 0,
        };
        self.entries().put(entry, self.settings.capacity);
    }

    pub(crate) fn counts(&self) -> Counts {
        let entries = self.entries();
        Counts {
            entries: entries.list.len() as u64,
            bytes: entries.bytes,
            hits: self.hits.load(Ordering::Relaxed),
            misses: self.misses.load(Ordering::Relaxed),
        }
    }

    fn entries(&self) -> MutexGuard<'_, Entries> {
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(key: &str, fresh_until: u64, stale_until: u64) -> Entry {
        Entry {
            key: key.as_bytes().into(),
            value: key.as_bytes().into(),
            fresh_until,
            stale_until,
            used: 0,
        }
    }

    #[test]
    fn a_result_is_fresh_then_stale_then_gone() {
        let mut entries = Entries::default();
        entries.put(entry("a", 100, 150), 10);
        let value: Arc<[u8]> = b"a".as_slice().into();
        assert_eq!(entries.find(b"a", 99), Found::Fresh(Arc::clone(&value)));
        assert_eq!(entries.find(b"a", 149), Found::Stale(value));
        assert_eq!(entries.find(b"a", 150), Found::Nothing);
        assert_eq!((entries.bytes, entries.list.len()), (0, 0));
    }

    #[test]
    fn at_the_capacity_what_is_not_used_goes() {
        let mut entries = Entries {
            chance: fastrand::Rng::with_seed(7),
            ..Entries::default()
        };
        for number in 0..1_000 {
            entries.put(entry(&format!("k{number}"), 10, 10), 100);
            // One that is used all the time.
            entries.find(b"k0", 0);
            assert!(entries.list.len() <= 100);
        }
        assert!(matches!(entries.find(b"k0", 0), Found::Fresh(_)));
        let found = (0..1_000).filter(|number| {
            let key = format!("k{number}");
            entries.at.contains_key(key.as_bytes())
        });
        let found: Vec<_> = found.collect();
        assert_eq!(found.len(), 100);
        let late = found.iter().filter(|number| **number >= 700).count();
        assert!(late > 80, "only {late} of the last are there");
        for (key, at) in &entries.at {
            assert_eq!(entries.list[*at].key, *key);
        }
    }

    #[test]
    fn large_results_push_others_out() {
        let mut entries = Entries::default();
        for number in 0..8 {
            let value = vec![0; 50 << 20].into();
            let one = entry(&format!("k{number}"), 10, 10);
            entries.put(Entry { value, ..one }, 1_000);
            assert!(entries.bytes <= BYTES_MAX);
        }
        assert_eq!(entries.list.len(), 5);
    }
}
