//! A store of `tide.kv`: its backend, and the flights of `tide.once` in it.

use std::fmt;
use std::future::Future;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use super::file::FileStore;
use super::flights::Flights;
use super::memory::Memory;
use super::op::{Bounds, Done, Held, Op};
use super::redis::RedisStore;
use super::time::Time;
use crate::config::{Kv, KvBackend};
use crate::wait::Fault;
use crate::wait::redis::Redis;

/// Ends with the result. A drop gives the operation up: it may still be done.
pub(crate) type Doing = Pin<Box<dyn Future<Output = Result<Done, Fault>> + Send>>;

pub(crate) struct Store {
    pub(crate) name: String,
    pub(crate) flights: Arc<Flights>,
    time: Time,
    kind: KvBackend,
    backend: Backend,
}

enum Backend {
    Memory(Memory),
    File(Arc<FileStore>),
    Redis(RedisStore),
}

impl Store {
    pub(super) fn new(kv: &Kv, time: &Time) -> Self {
        Self {
            name: kv.name.clone(),
            flights: Arc::default(),
            time: time.clone(),
            kind: kv.backend.clone(),
            backend: match &kv.backend {
                KvBackend::File => Backend::File(Arc::new(FileStore::new(bounds(kv)))),
                KvBackend::Memory => Backend::Memory(Memory::new(bounds(kv))),
                KvBackend::Redis {
                    redis,
                    prefix,
                    is_cluster,
                } => Backend::Redis(RedisStore {
                    server: redis.clone(),
                    prefix: prefix.clone(),
                    is_cluster: *is_cluster,
                }),
            },
        }
    }

    pub(super) fn is(&self, kv: &Kv) -> bool {
        self.name == kv.name && self.kind == kv.backend
    }

    pub(super) fn set_bounds(&self, kv: &Kv) {
        match &self.backend {
            Backend::Memory(memory) => memory.set_bounds(bounds(kv)),
            Backend::File(file) => file.set_bounds(bounds(kv)),
            Backend::Redis(_) => {}
        }
    }

    /// A store in a file is usable from then on. An error is a sentence with its place.
    pub(super) fn open(&self, kv: &Kv, state_directory: &Path) -> Result<(), String> {
        match &self.backend {
            Backend::File(file) => {
                file.open(&self.name, state_directory, &kv.path(state_directory))
            }
            Backend::Memory(_) | Backend::Redis(_) => Ok(()),
        }
    }

    /// The store and the milliseconds of its clock, if its operations wait for nothing.
    pub(crate) fn memory(&self) -> Option<(&Memory, u64)> {
        match &self.backend {
            Backend::Memory(memory) => Some((memory, self.time.ms())),
            Backend::File(_) | Backend::Redis(_) => None,
        }
    }

    /// The same operation for any backend, outside of a worker. `redis` has the servers of the VM's configuration.
    pub(crate) fn run(
        self: &Arc<Self>,
        op: Op,
        redis: Option<&Arc<dyn Redis>>,
    ) -> Result<Doing, Fault> {
        match &self.backend {
            Backend::Memory(_) => {
                let store = Arc::clone(self);
                // A scan looks at all entries, for which no worker has the time.
                Ok(Box::pin(async move {
                    let work = tokio::task::spawn_blocking(move || match store.memory() {
                        Some((memory, now)) => memory.run(op, now),
                        None => Ok(Done::Nothing),
                    });
                    work.await
                        .unwrap_or_else(|error| Err(Fault::new("internal", error.to_string())))
                }))
            }
            Backend::File(file) => Ok(Box::pin(Arc::clone(file).run(op))),
            Backend::Redis(store) => {
                let Some(redis) = redis else {
                    let message = "no client runs here; a handler or a timer of the daemon calls";
                    return Err(Fault::new("closed", message));
                };
                Ok(Box::pin(store.clone().run(op, Arc::clone(redis))))
            }
        }
    }

    pub(crate) fn backend(&self) -> &'static str {
        self.kind.word()
    }

    /// `None` where another process has the entries.
    pub(super) fn held(&self) -> Option<Held> {
        match &self.backend {
            Backend::Memory(memory) => Some(memory.held(self.time.ms())),
            Backend::File(file) => Some(file.held()),
            Backend::Redis(_) => None,
        }
    }

    pub(crate) fn bounds(&self) -> Bounds {
        match &self.backend {
            Backend::Memory(memory) => memory.bounds(),
            Backend::File(file) => file.bounds(),
            // Redis has its own.
            Backend::Redis(_) => Bounds {
                entries: u64::MAX,
                bytes: u64::MAX,
            },
        }
    }
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store")
            .field("name", &self.name)
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

fn bounds(kv: &Kv) -> Bounds {
    Bounds {
        entries: kv.max_entries,
        bytes: kv.max_bytes,
    }
}
