//! The target of a seek, and the offset of the log that it means.

/// Where a handler wants its partition to go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    Offset(i64),
    Beginning,
    End,
    /// The first message of this time or a later one, in milliseconds since the epoch.
    Timestamp(i64),
}

/// The offset where the partition goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Found {
    pub(crate) offset: i64,
    /// The requested offset, if the log does not have it.
    pub(crate) outside: Option<i64>,
}

/// `watermarks` are the first retained offset and the next one; `at` is the offset of a timestamp, if the log has one.
pub(crate) fn resolve(target: Target, watermarks: (i64, i64), at: Option<i64>) -> Found {
    let (low, high) = watermarks;
    let requested = match target {
        Target::Offset(offset) => offset,
        Target::Beginning => low,
        Target::End => high,
        Target::Timestamp(_) => at.unwrap_or(high),
    };
    // A position outside of the log would be reset by the client, to the beginning.
    let offset = requested.max(low).min(high);
    Found {
        offset,
        outside: (offset != requested).then_some(requested),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(target: Target, at: Option<i64>, offset: i64, outside: Option<i64>) {
        let found = resolve(target, (10, 30), at);
        assert_eq!(found, Found { offset, outside }, "{target:?}");
    }

    #[test]
    fn a_target_is_an_offset_of_the_log() {
        check(Target::Offset(20), None, 20, None);
        check(Target::Offset(30), None, 30, None);
        check(Target::Beginning, None, 10, None);
        check(Target::End, None, 30, None);
        check(Target::Timestamp(5), Some(12), 12, None);
        check(Target::Timestamp(5), None, 30, None);
    }

    #[test]
    fn an_offset_outside_of_the_log_is_its_nearest_one() {
        check(Target::Offset(9), None, 10, Some(9));
        check(Target::Offset(31), None, 30, Some(31));
    }
}
