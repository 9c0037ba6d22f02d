//! What goes into the machine of transactions, and what comes out of it.
//!
//! Pure.

use std::time::{Duration, Instant};

use super::positions::Positions;
use super::queues::Item;

#[derive(Clone, Copy, Debug)]
pub(crate) struct Settings {
    /// How long a transaction is open.
    pub(crate) interval: Duration,
    /// The most messages of a transaction.
    pub(crate) messages: usize,
    /// The bytes of a partition, and of all, with which a transaction ends at once.
    pub(crate) partition_bytes: usize,
    pub(crate) bytes: usize,
    /// How long the brokers keep an open transaction.
    pub(crate) timeout: Duration,
    /// How long a call of the producer may take.
    pub(crate) call: Duration,
}

/// What the caller has to do.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Action<T> {
    /// The present producer ends, or is left in its call, and a new one with the same id starts.
    Start,
    /// A transaction begins: the positions are counted from here.
    Begin,
    /// Their records belong to the transaction.
    Put(Vec<Item<T>>),
    /// The transaction ends with the positions of these epochs, and of every other that has moved.
    End(Vec<u64>),
    /// A partition of the transaction under way is lost: it must not commit.
    Poison,
    Abort,
    /// The group's offsets of the partitions of the last `End` are to be read.
    ReadBack,
    /// These messages are committed.
    Committed(Vec<Item<T>>),
    /// The transaction is not committed, and its messages wait again.
    Requeued,
    /// The topic of a record never accepts it. The message has left its queue, and so have those behind it.
    Refused {
        item: Item<T>,
        part: usize,
        text: String,
    },
    /// What is finished beyond the position does not fit into the metadata, as long as these messages enter together.
    /// All of the partition has left its queues.
    Divide(Item<T>),
    /// The metadata has to be shorter.
    Shorten,
    /// Another process has the transactional id.
    SecondProcess,
}

/// The answer of the producer to its last call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    Started,
    NotStarted {
        is_fenced: bool,
    },
    /// `is_clean`: every request of the producer has had its answer.
    Committed {
        is_clean: bool,
    },
    /// Nothing of the transaction is committed, and nothing of it will be: no end was requested.
    NotCommitted(Why),
    Unknown {
        is_fenced: bool,
    },
    Aborted {
        is_clean: bool,
    },
    NotAborted {
        is_fenced: bool,
    },
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// It may go better the next time.
    Transient,
    /// The brokers take less metadata.
    Metadata,
    /// The topic of some record never accepts it. The number is that of the part of its message, if that was alone.
    Refused { part: usize, text: String },
}

/// What the group's offsets say of a transaction without an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    Wanted,
    Before,
    /// Its partitions have gone, all of them.
    Nothing,
    /// The brokers have not told them.
    Unreachable,
}

/// For the status.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    pub(crate) committed: u64,
    pub(crate) aborted: u64,
    pub(crate) unknown: u64,
    pub(crate) replaced: u64,
    pub(crate) refused: u64,
}

/// The caller's part in a step.
pub(crate) struct Step<'a> {
    pub(crate) now: Instant,
    pub(crate) positions: &'a mut dyn Positions,
    /// A position has moved without a message of a transaction.
    pub(crate) has_moved: bool,
    /// A partition leaves, or the consumer: the transaction ends at once.
    pub(crate) is_hurried: bool,
}
