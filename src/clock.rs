//! The time of day, as Kafka and status have it: milliseconds since the epoch.

use std::time::{SystemTime, UNIX_EPOCH};

/// A clock before the epoch counts as the epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |since| since.as_millis() as i64)
}
