//! What handlers share over VMs, workers and bundles: stores, flights, caches and limits.
//!
//! Nothing of it knows Lua or a socket. A VM has what its configuration and its files name, and equal things are
//! shared: a store, a cache or a limit ends when neither the bundle in force nor a VM has it any more.

pub(crate) mod cache;
pub(crate) mod codec;
mod file;
pub(crate) mod flights;
pub(crate) mod lease;
pub(crate) mod limit;
pub(crate) mod memory;
pub(crate) mod op;
mod redis;
pub(crate) mod store;
mod time;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use crate::clock::Clock;
use crate::config::{Config, Kv, KvBackend};

use cache::Cache;
use limit::Limit;
use op::{Bounds, Held};
use store::Store;
use time::Time;

/// The bounds of the store of `tide.once`.
const ONCE: Bounds = Bounds {
    entries: 1_000_000,
    bytes: 256 << 20,
};
/// Its name in errors and in the status; no store of the configuration can have it.
const ONCE_NAME: &str = "tide.once";

/// The state of the process.
#[derive(Debug)]
pub(crate) struct State {
    time: Time,
    once: Arc<Store>,
    kept: Mutex<Kept>,
    caches: Mutex<Vec<Weak<Cache>>>,
    limits: Mutex<Vec<Weak<Limit>>>,
}

#[derive(Debug, Default)]
struct Kept {
    /// All that live, those of VMs that drain too.
    known: Vec<Weak<Store>>,
    in_force: Vec<Arc<Store>>,
    /// Of a bundle that loads.
    loading: Vec<Arc<Store>>,
}

impl Default for State {
    fn default() -> Self {
        Self::new(Clock::default())
    }
}

impl State {
    pub(crate) fn new(clock: Clock) -> Self {
        let time = Time::new(clock);
        let once = Kv {
            name: ONCE_NAME.to_owned(),
            backend: KvBackend::Memory,
            max_entries: ONCE.entries,
            max_bytes: ONCE.bytes,
        };
        Self {
            once: Arc::new(Store::new(&once, &time)),
            time,
            kept: Mutex::default(),
            caches: Mutex::default(),
            limits: Mutex::default(),
        }
    }

    /// The store of `tide.once`.
    pub(crate) fn once(&self) -> Arc<Store> {
        Arc::clone(&self.once)
    }

    /// The stores of a configuration, in its order.
    pub(crate) fn stores(&self, config: &Config) -> Vec<Arc<Store>> {
        let known = &mut self.kept().known;
        known.retain(|store| store.strong_count() > 0);
        let one = |kv: &Kv| {
            let mut alive = known.iter().filter_map(Weak::upgrade);
            if let Some(store) = alive.find(|store| store.is(kv)) {
                return store;
            }
            let store = Arc::new(Store::new(kv, &self.time));
            known.push(Arc::downgrade(&store));
            store
        };
        config.kv.iter().map(one).collect()
    }

    /// Opens the stores of a bundle that is about to load, and keeps them for it.
    pub(crate) fn prepare(&self, config: &Config) -> Result<(), String> {
        let stores = self.stores(config);
        for (store, kv) in stores.iter().zip(&config.kv) {
            store.open(kv, &config.daemon.state_directory)?;
        }
        self.kept().loading = stores;
        Ok(())
    }

    /// From now on the stores have the bounds of this configuration, and those that it leaves out end with their VMs.
    pub(crate) fn put_in_force(&self, config: &Config) {
        let stores = self.stores(config);
        for (store, kv) in stores.iter().zip(&config.kv) {
            store.set_bounds(kv);
        }
        let mut kept = self.kept();
        let before = std::mem::replace(&mut kept.in_force, stores);
        let loaded = std::mem::take(&mut kept.loading);
        // A large store is freed without the lock.
        drop(kept);
        drop((before, loaded));
    }

    /// The stores in force whose entries this process counts, and that of `tide.once` where it is used.
    pub(crate) fn held(&self) -> Vec<(Arc<Store>, Held)> {
        let stores = self.kept().in_force.clone();
        let all = stores.into_iter().chain([self.once()]);
        let held = all.filter_map(|store| {
            let held = store.held()?;
            let is_shown = store.name != ONCE_NAME || held.entries > 0;
            is_shown.then_some((store, held))
        });
        held.collect()
    }

    /// The cache with this name and these settings, of a file with this content.
    pub(crate) fn cache(&self, settings: &cache::Settings) -> Arc<Cache> {
        shared(
            &self.caches,
            |cache| cache.settings() == settings,
            || Cache::new(settings.clone(), self.time.clone()),
        )
    }

    /// The caches of all VMs, by name.
    pub(crate) fn caches(&self) -> Vec<Arc<Cache>> {
        let mut caches = alive(&self.caches);
        caches.sort_by(|one, other| one.settings().name.cmp(&other.settings().name));
        caches
    }

    /// The limit with this name and these settings.
    pub(crate) fn limit(&self, settings: &limit::Settings) -> Arc<Limit> {
        shared(
            &self.limits,
            |limit| limit.settings() == settings,
            || Limit::new(settings.clone(), self.time.clone()),
        )
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn alive<T>(list: &Mutex<Vec<Weak<T>>>) -> Vec<Arc<T>> {
    let list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.iter().filter_map(Weak::upgrade).collect()
}

/// The one that lives and is it, or a new one.
fn shared<T>(
    list: &Mutex<Vec<Weak<T>>>,
    is_it: impl Fn(&T) -> bool,
    make: impl FnOnce() -> T,
) -> Arc<T> {
    let mut list = list.lock().unwrap_or_else(PoisonError::into_inner);
    list.retain(|one| one.strong_count() > 0);
    let mut alive = list.iter().filter_map(Weak::upgrade);
    if let Some(one) = alive.find(|one| is_it(one)) {
        return one;
    }
    let one = Arc::new(make());
    list.push(Arc::downgrade(&one));
    one
}
