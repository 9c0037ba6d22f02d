//! The load of the running reload, for the others who end it: a newer save, and a stop.

use std::path::Path;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, TryLockError};

use crate::bundle;
use crate::lua::Ticket;

/// A clone belongs to the same reloads.
#[derive(Clone, Default)]
pub(super) struct Loading(Arc<Shared>);

#[derive(Default)]
struct Shared {
    is_stopping: AtomicBool,
    /// Locked while the reload reads the disk, so that nobody compares with an older hash.
    running: Mutex<Option<Running>>,
}

/// A reload reads the disk. Its drop tells that the disk could not be read.
pub(super) struct Reading<'l> {
    shared: &'l Shared,
    running: MutexGuard<'l, Option<Running>>,
    ticket: &'l Ticket,
}

#[derive(Clone)]
struct Running {
    ticket: Ticket,
    hash: u64,
}

impl Loading {
    /// A reload with this ticket begins to read the disk.
    pub(super) fn begin<'l>(&'l self, ticket: &'l Ticket) -> Reading<'l> {
        let mut running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        *running = None;
        Reading {
            shared: &self.0,
            running,
            ticket,
        }
    }

    /// Cancels the load if the disk has other bytes than those that it loads.
    pub(super) fn cancel_if_superseded(&self, config: &Path) {
        let running = self
            .0
            .running
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        let Some(running) = running else { return };
        // Files that cannot be read are reported by the next reload.
        let Ok(text) = bundle::text(config) else {
            return;
        };
        let Ok(snapshot) = bundle::read(config, &text) else {
            return;
        };
        if snapshot.hash != running.hash {
            running.ticket.cancel();
        }
    }

    /// Whether the daemon stops, so that nothing more is loaded.
    pub(super) fn is_stopping(&self) -> bool {
        self.0.is_stopping.load(Ordering::SeqCst)
    }

    /// The daemon stops: nobody waits for a load any more.
    pub(super) fn stop(&self) {
        self.0.is_stopping.store(true, Ordering::SeqCst);
        let running = match self.0.running.try_lock() {
            Ok(running) => running.clone(),
            Err(TryLockError::Poisoned(error)) => error.into_inner().clone(),
            // The reload reads the disk, and looks at `is_stopping` afterwards.
            Err(TryLockError::WouldBlock) => None,
        };
        if let Some(running) = running {
            running.ticket.leave();
        }
    }
}

impl Reading<'_> {
    /// The disk is read, and its bytes have this hash.
    pub(super) fn found(mut self, hash: u64) {
        *self.running = Some(Running {
            ticket: self.ticket.clone(),
            hash,
        });
        drop(self.running);
        if self.shared.is_stopping.load(Ordering::SeqCst) {
            self.ticket.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONFIG: &str = "[[listeners]]\n";

    fn loading(config: &Path, ticket: &Ticket) -> Loading {
        let loading = Loading::default();
        let text = bundle::text(config).unwrap();
        let hash = bundle::read(config, &text).unwrap().hash;
        loading.begin(ticket).found(hash);
        loading
    }

    #[test]
    fn only_other_bytes_on_the_disk_cancel_a_load() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let ticket = Ticket::default();
        let loading = loading(&config, &ticket);

        loading.cancel_if_superseded(&config);
        assert!(!ticket.is_cancelled(), "the same bytes");
        std::fs::remove_file(&config).unwrap();
        loading.cancel_if_superseded(&config);
        assert!(!ticket.is_cancelled(), "a save that is not complete");
        std::fs::write(&config, [CONFIG, "#\n"].concat()).unwrap();
        loading.cancel_if_superseded(&config);
        assert!(ticket.is_cancelled());
    }

    #[test]
    fn a_stop_leaves_a_load_that_is_still_to_come() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("config.toml");
        std::fs::write(&config, CONFIG).unwrap();
        let (first, second) = (Ticket::default(), Ticket::default());
        let loading = loading(&config, &first);
        loading.stop();
        assert!(first.is_cancelled());
        loading.begin(&second).found(0);
        assert!(second.is_cancelled());
    }
}
