//! What handlers have emitted, kept until its message is final: its lane may have to go back.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::kafka::Message;
use crate::lua::CallId;
use crate::rules::lanes::Headed;
use crate::wait::send::Emitted;
use crate::wait::{Requested, WaitId};

/// The number of an emission that waits for its transaction. No other has it: the message is acknowledged as a whole.
pub(super) const IN_TRANSACTION: Option<u64> = Some(0);

/// A listener whose handler emits, in this worker.
#[derive(Debug)]
pub(super) struct Emitter {
    pub(super) name: Arc<str>,
    /// The bytes of its records that are kept.
    pub(super) bytes: AtomicUsize,
}

/// What a listener has emitted for a message, until the message is final.
pub(super) struct Kept {
    /// The number of its first record, until it is acknowledged.
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
        emitted: Option<Arc<Emitted>>,
    },
}

/// A message that is done, and not final.
pub(super) enum Settled {
    /// Its one listener was done at its first run, and nothing follows: the usual case, which allocates nothing.
    Plain {
        number: u64,
        lane: u64,
        message: Message,
        kept: Kept,
    },
    Full(Box<Full>),
    /// One of the messages that a call with several of them has finished, by the number of the call.
    Member {
        message: Message,
        call: u64,
    },
    /// Between two of these.
    None,
}

pub(super) struct Full {
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
    pub(super) of: Arc<Emitter>,
}

impl Share {
    pub(super) fn new(bytes: usize, of: Arc<Emitter>) -> Self {
        of.bytes.fetch_add(bytes, Ordering::Relaxed);
        Self { bytes, of }
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.of.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Kept {
    pub(super) fn listener(&self) -> &str {
        &self.share.of.name
    }
}

impl Emitting {
    pub(super) fn is_acknowledged(&self) -> bool {
        self.open() == 0
    }

    pub(super) fn open(&self) -> usize {
        self.kept.iter().filter(|one| one.ahead.is_some()).count()
    }

    /// The emission with this number is acknowledged. Returns its listener.
    pub(super) fn acknowledged(&mut self, number: u64) -> Option<&Arc<Emitter>> {
        let mut kept = self.kept.iter_mut();
        let one = kept.find(|one| one.ahead == Some(number))?;
        one.ahead = None;
        Some(&one.share.of)
    }

    /// The listener of the emission with this number.
    pub(super) fn emitter(&self, number: u64) -> Option<&Arc<Emitter>> {
        let mut kept = self.kept.iter();
        let one = kept.find(|one| one.ahead == Some(number))?;
        Some(&one.share.of)
    }
}

impl Settled {
    pub(super) fn full(headed: Headed<Message>, emitting: Emitting) -> Self {
        Self::Full(Box::new(Full { headed, emitting }))
    }

    /// `None` never stays.
    pub(super) fn into_full(self) -> Option<Full> {
        match self {
            Self::Full(full) => Some(*full),
            Self::Plain {
                number,
                lane,
                message,
                kept,
            } => Some(Full {
                headed: Headed::done(number, message, kept.listener()),
                emitting: Emitting {
                    lane,
                    kept: vec![kept],
                    then: Vec::new(),
                },
            }),
            Self::Member { .. } | Self::None => None,
        }
    }

    /// This follows when the message is final.
    pub(super) fn follow_with(&mut self, then: Then) {
        if let Some(mut full) = std::mem::replace(self, Self::None).into_full() {
            full.emitting.then.push(then);
            *self = Self::Full(Box::new(full));
        }
    }

    /// Prefetches what its end reads.
    pub(super) fn prefetch(&self) {
        if let Self::Plain { message, kept, .. } = self {
            message.prefetch();
            Emitted::prefetch(&kept.emitted);
        }
    }

    pub(super) fn detach(&mut self) {
        match self {
            Self::Plain { message, .. } | Self::Member { message, .. } => message.detach(),
            Self::Full(full) => full.headed.message.detach(),
            Self::None => {}
        }
    }

    /// The emission with this number is acknowledged. Returns its listener.
    pub(super) fn acknowledged(&mut self, number: u64) -> Option<&Arc<Emitter>> {
        match self {
            Self::Plain { kept, .. } if kept.ahead == Some(number) => {
                kept.ahead = None;
                Some(&kept.share.of)
            }
            Self::Full(full) => full.emitting.acknowledged(number),
            _ => None,
        }
    }

    /// What is not acknowledged.
    pub(super) fn open(&self) -> impl Iterator<Item = &Kept> {
        let kept = match self {
            Self::Plain { kept, .. } => std::slice::from_ref(kept),
            Self::Full(full) => &full.emitting.kept,
            Self::Member { .. } | Self::None => &[],
        };
        kept.iter().filter(|one| one.ahead.is_some())
    }

    /// The listener of the emission with this number.
    pub(super) fn emitter(&self, number: u64) -> Option<&Arc<Emitter>> {
        match self {
            Self::Plain { kept, .. } => (kept.ahead == Some(number)).then_some(&kept.share.of),
            Self::Full(full) => full.emitting.emitter(number),
            Self::Member { .. } | Self::None => None,
        }
    }
}

impl From<Kept> for Unwritten {
    fn from(kept: Kept) -> Self {
        Self {
            is_counted: kept.ahead.is_none() || kept.ahead == IN_TRANSACTION,
            emitted: kept.emitted,
            share: kept.share,
        }
    }
}
