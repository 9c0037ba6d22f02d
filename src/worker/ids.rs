//! The keys of a worker's state.

/// A lane of one epoch of a partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct LaneId {
    pub(super) epoch: u64,
    /// The lane's key in its partition.
    pub(super) lane: u64,
}

/// A record on its way to another topic: a lane has one for each listener at most.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct RecordId {
    pub(super) lane: LaneId,
    pub(super) listener: String,
}
