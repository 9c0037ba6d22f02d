//! The clients of handlers that live: configurations with equal settings share one, and it ends with its last VM.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

/// A client that is made from settings alone.
pub(super) trait Configured {
    type Settings: PartialEq;

    fn settings(&self) -> &Self::Settings;
}

#[derive(Debug)]
pub(super) struct Registry<C>(Mutex<Vec<Weak<C>>>);

impl<C> Default for Registry<C> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<C: Configured> Registry<C> {
    /// The client with these settings, which `make` makes where there is none.
    pub(super) fn find_or_make(&self, settings: &C::Settings, make: impl FnOnce() -> C) -> Arc<C> {
        let mut clients = self.lock();
        clients.retain(|client| client.strong_count() > 0);
        let mut alive = clients.iter().filter_map(Weak::upgrade);
        if let Some(client) = alive.find(|client| client.settings() == settings) {
            return client;
        }
        let client = Arc::new(make());
        clients.push(Arc::downgrade(&client));
        client
    }

    /// Those of the bundle in force, with those of VMs that still drain.
    pub(super) fn alive(&self) -> Vec<Arc<C>> {
        self.lock().iter().filter_map(Weak::upgrade).collect()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Weak<C>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug)]
    struct Client(u32);

    impl Configured for Client {
        type Settings = u32;

        fn settings(&self) -> &u32 {
            &self.0
        }
    }

    #[test]
    fn equal_settings_share_a_client_until_its_last_holder_ends() {
        let registry = Registry::default();
        let one = registry.find_or_make(&1, || Client(1));
        let same = registry.find_or_make(&1, || panic!("it is there"));
        assert!(Arc::ptr_eq(&one, &same));
        let other = registry.find_or_make(&2, || Client(2));
        assert_eq!(registry.alive().len(), 2);
        drop((one, same));
        let alive: Vec<_> = registry.alive().iter().map(|client| client.0).collect();
        assert_eq!(alive, [2]);
        drop(other);
        let anew = registry.find_or_make(&1, || Client(1));
        assert_eq!(anew.0, 1);
    }
}
