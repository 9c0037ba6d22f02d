//! Names to addresses. `getaddrinfo` blocks a thread and cannot be given up, so lookups have a bound of their own.
//!
//! Calls that wait for the same name share one lookup. One that does not come back keeps its thread, and no further
//! call waits for a thread longer than for a connection.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::net::{IpAddr, ToSocketAddrs};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::{Semaphore, watch};

/// The most lookups at once: each has a thread.
const LOOKUPS_MAX: usize = 16;
/// The most names that are looked up, or wait for a thread.
const NAMES_MAX: usize = 1_024;

type Found = Result<Vec<IpAddr>, String>;
/// Blocks until the name is known.
pub(in crate::outgoing) type Lookup = Arc<dyn Fn(&str) -> io::Result<Vec<IpAddr>> + Send + Sync>;

/// The lookups of the process, over all reloads.
pub(in crate::outgoing) struct Resolver {
    lookup: Lookup,
    threads: Arc<Semaphore>,
    running: Mutex<HashMap<String, watch::Receiver<Option<Found>>>>,
}

impl fmt::Debug for Resolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Resolver").finish_non_exhaustive()
    }
}

/// The lookup of the system.
pub(in crate::outgoing) fn system() -> Lookup {
    Arc::new(|host| {
        let found = (host, 0).to_socket_addrs()?;
        Ok(found.map(|address| address.ip()).collect())
    })
}

impl Resolver {
    pub(in crate::outgoing) fn new(lookup: Lookup) -> Self {
        Self {
            lookup,
            threads: Arc::new(Semaphore::new(LOOKUPS_MAX)),
            running: Mutex::default(),
        }
    }

    /// Ends when the name is known. A drop gives the answer up, and no lookup.
    pub(in crate::outgoing) async fn resolve(self: &Arc<Self>, host: &str) -> Found {
        let mut answer = self.join_or_begin(host)?;
        let found = answer.wait_for(Option::is_some).await;
        match found.as_deref() {
            Ok(Some(found)) => found.clone(),
            _ => Err("the lookup ended without an answer".to_owned()),
        }
    }

    fn join_or_begin(
        self: &Arc<Self>,
        host: &str,
    ) -> Result<watch::Receiver<Option<Found>>, String> {
        let mut running = self.lock();
        if let Some(answer) = running.get(host) {
            return Ok(answer.clone());
        }
        if running.len() >= NAMES_MAX {
            return Err(format!("{NAMES_MAX} other names are being looked up"));
        }
        let (sender, answer) = watch::channel(None);
        running.insert(host.to_owned(), answer.clone());
        let (own, host) = (Arc::clone(self), host.to_owned());
        tokio::spawn(async move {
            let found = own.look_up(&host).await;
            own.lock().remove(&host);
            sender.send_replace(Some(found));
        });
        Ok(answer)
    }

    async fn look_up(&self, host: &str) -> Found {
        let Ok(thread) = Arc::clone(&self.threads).acquire_owned().await else {
            return Err("no lookup begins any more".to_owned());
        };
        let (lookup, host) = (Arc::clone(&self.lookup), host.to_owned());
        let found = tokio::task::spawn_blocking(move || {
            let _until_it_comes_back = thread;
            lookup(&host)
        });
        match found.await {
            Ok(Ok(found)) if found.is_empty() => Err("the name has no address".to_owned()),
            Ok(found) => found.map_err(|error| error.to_string()),
            Err(_) => Err("the lookup ended without an answer".to_owned()),
        }
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, watch::Receiver<Option<Found>>>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_lookup_that_hangs_holds_one_thread_for_all_who_wait_for_it() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let begun = Arc::new(AtomicUsize::new(0));
        let (release, hold) = mpsc::channel::<()>();
        let hold = Mutex::new(hold);
        let count = begun.clone();
        let resolver = Arc::new(Resolver::new(Arc::new(move |host| {
            if host == "slow" {
                count.fetch_add(1, Ordering::SeqCst);
                let _ = hold.lock().unwrap().recv();
            }
            Ok(vec![[127, 0, 0, 1].into()])
        })));
        runtime.block_on(async {
            let short = Duration::from_millis(20);
            for _ in 0..20 {
                let found = tokio::time::timeout(short, resolver.resolve("slow")).await;
                assert!(found.is_err(), "it hangs");
            }
            assert_eq!(begun.load(Ordering::SeqCst), 1);
            let found = resolver.resolve("quick").await;
            assert_eq!(found, Ok(vec![[127, 0, 0, 1].into()]));
            drop(release);
            assert!(resolver.resolve("slow").await.is_ok());
        });
        assert!(resolver.lock().is_empty());
    }

    #[test]
    fn a_name_without_an_address_and_an_error_are_told() {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .build()
            .unwrap();
        let resolver = Arc::new(Resolver::new(Arc::new(|host| match host {
            "empty" => Ok(Vec::new()),
            _ => Err(io::Error::other("no such name")),
        })));
        runtime.block_on(async {
            let found = resolver.resolve("empty").await;
            assert_eq!(found, Err("the name has no address".to_owned()));
            let found = resolver.resolve("other").await;
            assert_eq!(found, Err("no such name".to_owned()));
        });
    }
}
