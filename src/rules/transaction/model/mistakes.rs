//! The mistakes that programs with transactions make.

/// A known mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// After a commit without an answer it is called again.
    CommitsAgain,
    /// A producer with a request that had no answer goes on.
    IgnoresUnanswered,
    /// After a commit without an answer the transaction is aborted, and its records are sent again.
    AbortsUnknown,
    /// The group's offsets are read before the new producer has fenced the old one.
    ReadsBeforeStart,
    /// What does not fit into the metadata is left out.
    CutsMetadata,
    /// The later ones of a lane do not wait for one that does not fit.
    PassesHeld,
    /// A lost partition stays in the transaction.
    KeepsLost,
    /// The group is not asked whether this is still its member.
    IgnoresMembership,
    /// What comes back from an aborted transaction stands behind the others of its lane.
    RequeuesBehind,
    /// A transaction that did not commit counts as committed.
    TrustsSilence,
    /// What a lane sent before it went back to a refused message counts.
    KeepsStale,
    /// The position and what is finished are committed before the records, in a transaction of their own.
    CommitsOffsetsAlone,
    /// The messages of a call do not wait for those before them in each of their lanes.
    Overtakes,
    /// A transaction has the records of a call, and not all of its messages.
    TearsCalls,
}

impl Mistake {
    /// It shows only where calls finish several messages.
    pub(super) fn is_of_calls(self) -> bool {
        matches!(self, Self::Overtakes | Self::TearsCalls)
    }
}

/// Each with a part of what the checker says of it.
pub(super) const MISTAKES: [(Mistake, &str); 14] = [
    (Mistake::CommitsAgain, "twice"),
    (Mistake::IgnoresUnanswered, "twice"),
    (Mistake::AbortsUnknown, "twice"),
    (Mistake::ReadsBeforeStart, "twice"),
    (Mistake::CutsMetadata, "behind"),
    (Mistake::PassesHeld, "behind"),
    (Mistake::KeepsLost, "twice"),
    (Mistake::IgnoresMembership, "twice"),
    (Mistake::RequeuesBehind, "behind"),
    (Mistake::TrustsSilence, "are there"),
    (Mistake::KeepsStale, ""),
    (Mistake::CommitsOffsetsAlone, "are there"),
    (Mistake::Overtakes, "behind"),
    (Mistake::TearsCalls, "twice"),
];
