//! What handlers have emitted, kept until its message is final: its lane may have to go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kafka::Message;
use crate::lua::CallId;
use crate::rules::lanes::Headed;
use crate::wait::send::Emitted;
use crate::wait::{Requested, WaitId};

/// What a listener has emitted for a message, until the message is final.
pub(super) struct Kept {
    pub(super) listener: String,
    /// The number of the emission, until it is acknowledged.
    pub(super) ahead: Option<u64>,
    pub(super) emitted: Arc<Emitted>,
    pub(super) share: Share,
}

/// The emissions of a message, and what follows them.
#[derive(Default)]
pub(super) struct Emitting {
    pub(super) lane: u64,
    pub(super) kept: Vec<Kept>,
    pub(super) then: Vec<Then>,
}

/// What happens when a message is final.
pub(super) enum Then {
    /// A commit that nobody waits for.
    Ask {
        listener: String,
        at: i64,
        asked: Requested,
    },
    /// A commit that a later call of the lane waits for.
    Commit {
        of: (u64, CallId, WaitId),
        offset: i64,
        emitted: Option<Box<Emitted>>,
    },
}

/// A message that is done, and not final.
pub(super) struct Settled {
    pub(super) headed: Headed<Message>,
    pub(super) emitting: Emitting,
}

/// Records that are written again when the lane comes to their message.
pub(super) struct Unwritten {
    pub(super) emitted: Arc<Emitted>,
    /// The run counts as done already.
    pub(super) is_counted: bool,
    pub(super) share: Share,
}

/// Its drop gives the bytes back.
pub(super) struct Share {
    bytes: usize,
    of: Arc<AtomicUsize>,
}

impl Share {
    /// `of` is the sum.
    pub(super) fn new(bytes: usize, of: &Arc<AtomicUsize>) -> Self {
        of.fetch_add(bytes, Ordering::Relaxed);
        Self {
            bytes,
            of: of.clone(),
        }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Emitting {
    pub(super) fn is_acknowledged(&self) -> bool {
        self.open() == 0
    }

    pub(super) fn open(&self) -> usize {
        self.kept.iter().filter(|one| one.ahead.is_some()).count()
    }

    /// The emission of this number is acknowledged.
    pub(super) fn acknowledged(&mut self, number: u64) {
        let mut kept = self.kept.iter_mut();
        if let Some(one) = kept.find(|one| one.ahead == Some(number)) {
            one.ahead = None;
        }
    }
}

impl From<Kept> for Unwritten {
    fn from(kept: Kept) -> Self {
        Self {
            is_counted: kept.ahead.is_none(),
            emitted: kept.emitted,
            share: kept.share,
        }
    }
}
