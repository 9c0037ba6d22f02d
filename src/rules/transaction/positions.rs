//! What a transaction needs to know of the partitions.
//!
//! Pure.

/// The positions of the partitions.
pub(crate) trait Positions {
    /// A transaction begins.
    fn begin(&mut self);

    /// Whether these messages of a partition enter it together, in the order of their numbers: its metadata fits
    /// afterwards.
    fn enter(&mut self, epoch: u64, numbers: &[u64]) -> Enters;
}

/// The answer to messages that want to enter a transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Enters {
    Yes,
    /// Not before other messages of their partition are committed.
    Later,
    /// As `Later`, and the first of the partition is among them: it may be that nothing ever makes room.
    Blocked,
}
