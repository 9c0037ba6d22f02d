//! The call of a batch that has not ended: what it has resolved, and to which messages its records belong. No Lua.

use crate::message::Outgoing;
use crate::wait::send::{Emitted, Few};

/// The messages to which records belong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Owner {
    /// Those that the next `ctx.resolveOffset` resolves, or the return.
    Next,
    /// So many of the first messages.
    Upto(usize),
    /// The message at this index.
    Of(usize),
}

/// The call of a batch.
#[derive(Debug)]
pub(super) struct OpenBatch {
    /// Ascending.
    offsets: Vec<i64>,
    /// How many of the first messages the handler has resolved.
    resolved: usize,
    /// Those of them that the host has been told of.
    told: usize,
    /// Those of them whose records are written.
    settled: usize,
    /// The offset behind the last message that the host has been told of, or that is committed.
    committed: Option<i64>,
    pub(super) auto_resolve: bool,
    /// One for each request of what the call has emitted.
    pub(super) owners: Vec<Owner>,
}

impl OpenBatch {
    pub(super) fn new(offsets: Vec<i64>, auto_resolve: bool) -> Self {
        Self {
            offsets,
            resolved: 0,
            told: 0,
            settled: 0,
            committed: None,
            auto_resolve,
            owners: Vec::new(),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.offsets.len()
    }

    pub(super) fn resolved(&self) -> usize {
        self.resolved
    }

    /// Resolves the messages up to this offset.
    pub(super) fn resolve(&mut self, offset: i64) {
        let count = self.offsets.partition_point(|one| *one <= offset);
        if count <= self.resolved {
            return;
        }
        self.resolved = count;
        for owner in self.owners.iter_mut().filter(|one| **one == Owner::Next) {
            *owner = Owner::Upto(count);
        }
    }

    /// How many of the first messages are done although records of the call are not written.
    pub(super) fn settled(&self) -> usize {
        self.settled
    }

    /// The index of the message with this offset.
    pub(super) fn index_of(&self, offset: i64) -> Option<usize> {
        self.offsets.binary_search(&offset).ok()
    }

    /// The offset behind the last resolved message.
    pub(super) fn behind(&self) -> Option<i64> {
        let last = self.resolved.checked_sub(1)?;
        Some(self.offsets[last] + 1)
    }

    /// The same, unless it is committed.
    pub(super) fn uncommitted(&self) -> Option<i64> {
        self.behind()
            .filter(|behind| self.committed.is_none_or(|at| at < *behind))
    }

    pub(super) fn committed(&mut self, offset: i64) {
        self.settled = self.told;
        self.committed = Some(self.committed.map_or(offset, |one| one.max(offset)));
    }

    /// The resolved messages of which the host has not been told; from now on it has.
    pub(super) fn tell(&mut self) -> bool {
        let is_new = self.resolved > self.told;
        self.told = self.resolved;
        is_new
    }

    /// Whether records of this owner may join the last request.
    pub(super) fn continues(&self, owner: Owner) -> bool {
        self.owners.last() == Some(&owner)
    }

    pub(super) fn owns(&mut self, owner: Owner) {
        self.owners.push(owner);
    }

    /// Takes the records that belong to the first `done` messages.
    /// `returns`: so do those that belong to what the return resolves.
    pub(super) fn split(
        &mut self,
        emitted: &mut Emitted,
        done: usize,
        returns: bool,
    ) -> Option<Emitted> {
        let is_done = |owner: Owner| match owner {
            Owner::Next => returns,
            Owner::Upto(count) => count <= done,
            Owner::Of(index) => index < done,
        };
        let mut owners = std::mem::take(&mut self.owners).into_iter();
        let (mut own, mut rest) = (Few::new(), Few::new());
        for request in emitted.requests.drain(..) {
            let owner = owners.next().unwrap_or(Owner::Next);
            if is_done(owner) {
                own.push(request);
            } else {
                self.owners.push(owner);
                rest.push(request);
            }
        }
        emitted.requests = rest;
        if own.is_empty() {
            return None;
        }
        let records = own.iter().flat_map(|request| &request.records);
        let bytes = records.map(Outgoing::size).sum();
        emitted.bytes = emitted.bytes.saturating_sub(bytes);
        Some(Emitted {
            senders: emitted.senders.clone(),
            requests: own,
            bytes,
            kept: 0,
            last_bytes: bytes,
            asked: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn batch() -> OpenBatch {
        OpenBatch::new(vec![3, 5, 9], true)
    }

    #[test]
    fn an_offset_resolves_the_messages_up_to_it_and_never_fewer() {
        let mut batch = batch();
        assert_eq!((batch.resolved(), batch.behind()), (0, None));
        batch.resolve(2);
        assert_eq!(batch.resolved(), 0);
        batch.resolve(6);
        assert_eq!((batch.resolved(), batch.behind()), (2, Some(6)));
        batch.resolve(3);
        assert_eq!(batch.resolved(), 2);
        batch.resolve(i64::MAX);
        assert_eq!((batch.resolved(), batch.behind()), (3, Some(10)));
    }

    #[test]
    fn what_is_resolved_is_uncommitted_until_it_is_committed() {
        let mut batch = batch();
        batch.resolve(5);
        assert_eq!(batch.uncommitted(), Some(6));
        batch.committed(6);
        assert_eq!(batch.uncommitted(), None);
        batch.resolve(9);
        assert_eq!(batch.uncommitted(), Some(10));
    }

    #[test]
    fn records_belong_to_what_is_resolved_next() {
        let mut batch = batch();
        batch.owns(Owner::Next);
        batch.owns(Owner::Of(2));
        batch.resolve(3);
        batch.owns(Owner::Next);
        assert_eq!(batch.owners, [Owner::Upto(1), Owner::Of(2), Owner::Next]);
        assert!(batch.continues(Owner::Next) && !batch.continues(Owner::Of(2)));
    }
}
