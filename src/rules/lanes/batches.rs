//! What batches need of lanes: several messages of a lane at once.

use super::progress::Behind;
use super::{Lane, Lanes};

impl<M> Lanes<M> {
    /// The messages that have not begun, in their order.
    pub(crate) fn fresh_all(&self) -> impl Iterator<Item = (u64, &M)> {
        self.incoming.iter().map(|(number, one)| (*number, one))
    }

    /// Queues a message behind the earlier ones of its open lane.
    pub(crate) fn queue_behind(&mut self, lane: u64, number: u64, message: M) {
        if let Some(open) = self.open.get_mut(&lane) {
            open.waiting.push_back(Behind::new(number, message));
        }
    }

    /// Queues messages below this number that have not begun behind the earlier ones of their open lanes, up to that one
    /// behind which `most` others stand before it.
    pub(crate) fn defer_open(&mut self, most: usize, below: u64, lane_of: impl Fn(u64, &M) -> u64) {
        let mut others = Vec::new();
        while others.len() < most
            && self.incoming.front().is_some_and(|one| one.0 < below)
            && let Some((number, message)) = self.incoming.pop_front()
        {
            let lane = lane_of(number, &message);
            match self.open.get_mut(&lane) {
                Some(open) => open.waiting.push_back(Behind::new(number, message)),
                None => others.push((number, message)),
            }
        }
        for one in others.into_iter().rev() {
            self.incoming.push_front(one);
        }
    }
}

impl<M> Lane<M> {
    /// The head, and the messages behind it, up to one that has been a head and goes on by itself.
    pub(crate) fn messages(&self) -> impl Iterator<Item = (u64, &M)> {
        let behind = self.waiting.iter().take_while(|one| one.is_new());
        let behind = behind.map(|one| (one.number, &one.message));
        std::iter::once((self.number, &self.message)).chain(behind)
    }

    /// The head and those behind it, `count` in all, have their outcomes: calls `each` for every one. Returns the lane
    /// with the next message as its head.
    pub(crate) fn finish_first<'a>(
        self,
        count: usize,
        mut each: impl FnMut(u64, M),
        names: impl Iterator<Item = &'a str>,
    ) -> Option<Self> {
        let Self {
            number,
            message,
            progress,
            mut waiting,
            ..
        } = self;
        each(number, message);
        for one in waiting.drain(..(count - 1).min(waiting.len())) {
            each(one.number, one.message);
        }
        Self::next(waiting, progress, names)
    }
}
