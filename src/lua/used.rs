//! The memory of emissions that are over, for the next ones. Pure.

use crate::message::Outgoing;
use crate::wait::send::{Emitted, Request};

/// Emissions that are over.
#[derive(Default)]
pub(super) struct Used {
    #[expect(clippy::vec_box, reason = "the boxes come and go as they are")]
    all: Vec<Box<Emitted>>,
    bytes: usize,
}

/// The most bytes of those that are kept, and of one of them.
const USED_MAX: usize = 4 << 20;
const USED_ONE_MAX: usize = 4 << 10;

impl Used {
    /// About the bytes that it holds.
    fn size(one: &Emitted) -> Option<usize> {
        let ([request], None) = (&one.requests[..], &one.asked) else {
            return None;
        };
        let [record] = &request.records[..] else {
            return None;
        };
        let is_plain = request.producer.is_none() && record.headers.is_empty();
        let room = |bytes: &Option<Vec<u8>>| bytes.as_ref().map_or(0, Vec::capacity);
        let bytes = size_of::<Emitted>() + size_of::<Request>() + size_of::<Outgoing>();
        let bytes = bytes + room(&record.value) + room(&record.key) + record.topic.capacity();
        (is_plain && bytes <= USED_ONE_MAX).then_some(bytes)
    }

    pub(super) fn keep(&mut self, one: Box<Emitted>) {
        if let Some(bytes) = Self::size(&one).filter(|bytes| self.bytes + bytes <= USED_MAX) {
            self.bytes += bytes;
            self.all.push(one);
        }
    }

    pub(super) fn take(&mut self) -> Option<Box<Emitted>> {
        let one = self.all.pop()?;
        self.bytes -= Self::size(&one).unwrap_or(0);
        Some(one)
    }
}
