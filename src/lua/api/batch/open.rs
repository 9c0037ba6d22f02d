//! The batches of running calls.

use std::sync::Arc;

use crate::lua::CallId;
use crate::lua::open_batch::OpenBatch;
use crate::lua::shared::Shared;
use crate::wait::send::{Emitted, Few};

impl Shared {
    /// What the batch of the running call does, if it is one.
    pub(in crate::lua) fn with_batch<T>(
        &self,
        work: impl FnOnce(&mut OpenBatch) -> T,
    ) -> Option<T> {
        let mut batches = self.batches.borrow_mut();
        batches.get_mut(&self.call.get()).map(work)
    }

    /// The call has ended.
    pub(in crate::lua) fn close_batch(&self, call: CallId) -> Option<OpenBatch> {
        self.batches.borrow_mut().remove(&call.0)
    }

    /// The records of an ended call that belong to its first `done` messages.
    pub(in crate::lua) fn take_emitted_of(
        &self,
        call: CallId,
        batch: &mut OpenBatch,
        done: usize,
        returns: bool,
    ) -> Option<Emitted> {
        let mut all = Arc::unwrap_or_clone(self.take_emitted(call)?);
        let own = batch.split(&mut all, done, returns);
        match own {
            Some(own) => Some(Emitted {
                asked: all.asked,
                ..own
            }),
            // The commit that follows them follows nothing.
            None => all.asked.is_some().then(|| Emitted {
                requests: Few::new(),
                bytes: 0,
                ..all
            }),
        }
    }

    /// All that the running call has emitted is on its way to a commit.
    pub(in crate::lua) fn forget_owners(&self) {
        self.with_batch(|batch| batch.owners.clear());
    }

    /// The host is told of the resolved messages of the running call, and gets their records. `None`: it knows them.
    pub(in crate::lua) fn take_resolved(&self) -> Option<(usize, i64, Option<Emitted>)> {
        let call = self.call.get();
        let mut batches = self.batches.borrow_mut();
        let batch = batches.get_mut(&call)?;
        let behind = batch.behind()?;
        if !batch.tell() {
            return None;
        }
        let mut emitted = self.emitted.borrow_mut();
        let all = emitted.iter_mut().rfind(|one| one.0 == call);
        let own = all.and_then(|(_, all)| {
            let before = all.bytes;
            let own = batch.split(Arc::make_mut(all), batch.resolved(), false);
            let left = before - all.bytes;
            self.emitted_bytes.set(self.emitted_bytes.get() - left);
            own
        });
        Some((batch.resolved(), behind, own))
    }
}
