//! The gate of a listener with batches: breaker and rate limit count messages.

use crate::worker::rates::{Rate, Waiter};

use super::{Gate, Gates};

/// Whether a batch of a listener may begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::worker) enum BatchGate {
    /// With at most so many messages.
    Most(usize),
    /// Messages run alone, in their lanes: the breaker is not closed.
    Alone,
    /// Held until a gate opens.
    Wait,
}

impl Gates {
    /// Whether a batch of this listener may begin; `admit_batch` follows.
    pub(in crate::worker) fn batch_gate(&mut self, listener: usize) -> BatchGate {
        if self.is_open(listener) {
            return BatchGate::Most(usize::MAX);
        }
        if self.look_at(listener) == Gate::Wait {
            return BatchGate::Wait;
        }
        match self.listeners.get(listener) {
            Some(one) if one.breaker.is_closed() => {
                let most = one.rate.as_ref().map_or(usize::MAX, Rate::most);
                BatchGate::Most(most)
            }
            _ => BatchGate::Alone,
        }
    }

    /// Whether the rate limit has room for a batch of so many messages; if not, its partition waits in the queue of the
    /// limit.
    pub(in crate::worker) fn admit_batch(
        &mut self,
        listener: usize,
        epoch: u64,
        messages: usize,
    ) -> bool {
        if self.is_open(listener) {
            return true;
        }
        let now = self.clock.now();
        let one = self.listeners.get_mut(listener);
        one.is_none_or(|one| one.admit(Waiter::Partition(epoch), messages as u64, now))
    }

    /// So many messages of a batch are done.
    pub(in crate::worker) fn done_many(&mut self, listener: usize, messages: u32) {
        if let Some(one) = self.listeners.get_mut(listener)
            && one.breaker.is_closed()
        {
            one.done += messages;
        }
    }

    /// So many messages have failed, and none is to blame.
    pub(in crate::worker) fn failed_many(&mut self, listener: usize, messages: usize) {
        let now = self.clock.now();
        self.flush(now);
        for _ in 0..messages {
            let Some(one) = self.listeners.get_mut(listener) else {
                return;
            };
            if !one.breaker.is_closed() {
                return;
            }
            if let Some(opened) = one.breaker.failed(now) {
                self.say_opened(listener, opened);
            }
        }
    }
}
