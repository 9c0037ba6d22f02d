//! The messages of the transaction under way, with the sums of them.
//!
//! Pure. Each look at the open transaction asks for the sums, so they are kept.

use super::queues::Item;

#[derive(Debug)]
pub(super) struct Content<T> {
    items: Vec<Item<T>>,
    messages: usize,
    bytes: usize,
}

impl<T> Default for Content<T> {
    fn default() -> Self {
        Self {
            items: Vec::new(),
            messages: 0,
            bytes: 0,
        }
    }
}

impl<T> Content<T> {
    pub(super) fn push(&mut self, item: Item<T>) {
        self.messages += item.messages();
        self.bytes += item.bytes;
        self.items.push(item);
    }

    /// How many items: a call with several messages is one.
    pub(super) fn len(&self) -> usize {
        self.items.len()
    }

    pub(super) fn messages(&self) -> usize {
        self.messages
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn contains(&self, epoch: u64) -> bool {
        self.items.iter().any(|item| item.lane.epoch == epoch)
    }

    /// In order, each once.
    pub(super) fn epochs(&self) -> Vec<u64> {
        let mut epochs: Vec<u64> = self.items.iter().map(|one| one.lane.epoch).collect();
        epochs.sort_unstable();
        epochs.dedup();
        epochs
    }

    pub(super) fn take(&mut self) -> Vec<Item<T>> {
        (self.messages, self.bytes) = (0, 0);
        std::mem::take(&mut self.items)
    }

    pub(super) fn forget(&mut self, epoch: u64) {
        for item in self.take() {
            if item.lane.epoch != epoch {
                self.push(item);
            }
        }
    }
}
