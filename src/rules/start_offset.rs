//! The start of a partition: the group's committed offset, else the start by the listener's option; **never past a
//! retained message**. Pure.

/// The policy of the topic's listeners if the group has no offset.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Policy {
    pub(crate) from_beginning: bool,
    /// Whether the topic's commits are automatic.
    pub(crate) automatic: bool,
    /// The topic appeared while a pattern was waiting for it.
    pub(crate) is_new_topic: bool,
}

/// The metadata of the commit of a resolved start, followed by its time.
const MARK: &str = "moontide start ";
/// How long such a commit means only that the group is new.
const FRESH_MS: i64 = 10_000;

/// Marks the commit of a start that was resolved by a listener's option.
pub(crate) fn mark(now_ms: i64) -> String {
    format!("{MARK}{now_ms}")
}

/// Whether a position with this metadata was only just begun. Two members of a new group that start together each
/// commit their starts. The later member must not take the earlier one's commit for an established group, and its own
/// partitions for added ones.
pub(crate) fn is_fresh(metadata: &str, now_ms: i64) -> bool {
    let at = metadata
        .strip_prefix(MARK)
        .and_then(|at| at.parse::<i64>().ok());
    at.is_some_and(|at| (now_ms - at).abs() < FRESH_MS)
}

/// The known facts about a newly assigned partition.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Known {
    /// The group's committed offset and its leader epoch (-1: none).
    pub(crate) committed: Option<(i64, i32)>,
    /// The first retained offset and the next offset.
    pub(crate) watermarks: (i64, i64),
    pub(crate) policy: Policy,
    /// Whether the group has a position on another partition of the topic: then this partition was added later.
    pub(crate) is_added: bool,
    /// The topic was created again since the group began with it: a committed offset may be one of the old topic.
    pub(crate) is_recreated: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    pub(crate) offset: i64,
    pub(crate) leader_epoch: i32,
    pub(crate) why: Why,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    Committed,
    /// `fromBeginning`.
    Beginning,
    /// Not `fromBeginning`: this many earlier messages are left out.
    End {
        left_out: i64,
    },
    /// The partition, or its topic, is younger than the group's positions.
    Added,
    /// The topic was created again. The group has this offset, which may be one of the old topic.
    Recreated {
        committed: Option<i64>,
    },
    /// Retention took this many messages that were not handled.
    BelowLogStart {
        lost: i64,
    },
    /// The log ends before the committed offset.
    BeyondLogEnd,
    /// A handler has requested it.
    Sought,
}

impl Why {
    /// Whether the group had no position anywhere in the topic. A start whose commit says so, and is not, would let a
    /// partition that comes next begin at its end.
    pub(crate) fn is_of_new_group(self) -> bool {
        matches!(self, Self::Beginning | Self::End { .. })
    }
}

pub(crate) fn resolve(facts: &Known) -> Start {
    let (low, high) = facts.watermarks;
    let at = |offset, why| Start {
        offset,
        leader_epoch: -1,
        why,
    };
    match facts.committed {
        committed if facts.is_recreated => {
            let committed = committed.map(|(offset, _)| offset);
            at(low, Why::Recreated { committed })
        }
        Some((offset, _)) if offset < low => at(low, Why::BelowLogStart { lost: low - offset }),
        // With a leader epoch the broker can tell where the log diverged, and librdkafka queries it. Without one,
        // the start of the log repeats messages rather than skips them.
        Some((offset, leader_epoch)) if offset > high && leader_epoch >= 0 => Start {
            offset,
            leader_epoch,
            why: Why::BeyondLogEnd,
        },
        Some((offset, _)) if offset > high => at(low, Why::BeyondLogEnd),
        Some((offset, leader_epoch)) => Start {
            offset,
            leader_epoch,
            why: Why::Committed,
        },
        None if facts.policy.from_beginning => at(low, Why::Beginning),
        None if facts.policy.is_new_topic || (facts.policy.automatic && facts.is_added) => {
            at(low, Why::Added)
        }
        None => at(
            high,
            Why::End {
                left_out: high - low,
            },
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const POLICY: Policy = Policy {
        from_beginning: false,
        automatic: true,
        is_new_topic: false,
    };
    const FACTS: Known = Known {
        committed: None,
        watermarks: (10, 20),
        policy: POLICY,
        is_added: false,
        is_recreated: false,
    };

    #[track_caller]
    fn check(facts: Known, offset: i64, why: Why) {
        let start = resolve(&facts);
        assert_eq!((start.offset, start.why), (offset, why));
    }

    fn policy(from_beginning: bool, automatic: bool, is_new_topic: bool) -> Policy {
        Policy {
            from_beginning,
            automatic,
            is_new_topic,
        }
    }

    #[test]
    fn a_committed_offset_counts_whatever_the_option_says() {
        let policy = policy(true, true, false);
        check(
            Known {
                committed: Some((15, 2)),
                policy,
                ..FACTS
            },
            15,
            Why::Committed,
        );
        check(
            Known {
                committed: Some((20, -1)),
                ..FACTS
            },
            20,
            Why::Committed,
        );
    }

    #[test]
    fn without_one_the_option_counts() {
        check(FACTS, 20, Why::End { left_out: 10 });
        check(
            Known {
                policy: policy(true, true, false),
                ..FACTS
            },
            10,
            Why::Beginning,
        );
    }

    #[test]
    fn an_added_partition_of_an_auto_topic_starts_at_its_beginning() {
        let added = Known {
            is_added: true,
            ..FACTS
        };
        check(added, 10, Why::Added);
        let manual = policy(false, false, false);
        check(
            Known {
                policy: manual,
                ..added
            },
            20,
            Why::End { left_out: 10 },
        );
        check(
            Known {
                policy: policy(false, false, true),
                ..FACTS
            },
            10,
            Why::Added,
        );
    }

    #[test]
    fn a_topic_that_was_created_again_starts_at_its_beginning_whatever_the_group_has() {
        for committed in [None, Some((15, 2)), Some((5, -1)), Some((30, 4))] {
            let recreated = Known {
                committed,
                is_recreated: true,
                ..FACTS
            };
            let committed = committed.map(|(offset, _)| offset);
            check(recreated, 10, Why::Recreated { committed });
        }
    }

    #[test]
    fn a_start_is_fresh_for_ten_seconds_and_nothing_else_is() {
        assert!(is_fresh(&mark(1_000), 2_000));
        assert!(!is_fresh(&mark(1_000), 11_000));
        assert!(!is_fresh("", 0));
        assert!(!is_fresh("somebody else's", 0));
    }

    #[test]
    fn out_of_range_never_skips_a_retained_message() {
        check(
            Known {
                committed: Some((3, 1)),
                ..FACTS
            },
            10,
            Why::BelowLogStart { lost: 7 },
        );
        check(
            Known {
                committed: Some((30, -1)),
                ..FACTS
            },
            10,
            Why::BeyondLogEnd,
        );
        check(
            Known {
                committed: Some((30, 4)),
                ..FACTS
            },
            30,
            Why::BeyondLogEnd,
        );
    }
}
