//! librdkafka's own log lines, as lines of ours.
//!
//! A broker that is away makes librdkafka say so several times a second, for every broker and client. The first lines
//! of a kind appear, the rest is counted. The counters are a part of the subscriber, so that there is no static and a
//! process without a subscriber counts nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::Layer;

use crate::log::{log, target};
use crate::rate_limit::RateLimit;

/// Lines of one facility that appear in a window.
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// librdkafka has some eighty facilities. Beyond this many kinds of lines they share one counter.
const FACILITIES_MAX: usize = 256;

/// The counters, by facility.
#[derive(Debug, Default)]
pub(crate) struct Limits(Mutex<HashMap<String, RateLimit>>);

impl<S: tracing::Subscriber> Layer<S> for Limits {}

impl Limits {
    fn allow(&self, facility: &str, now: Instant) -> Option<u64> {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let known = limits.contains_key(facility) || limits.len() < FACILITIES_MAX;
        let key = if known { facility } else { "" };
        if let Some(limit) = limits.get_mut(key) {
            return limit.allow(now);
        }
        limits
            .entry(key.to_owned())
            .or_insert_with(|| RateLimit::new(BURST, WINDOW))
            .allow(now)
    }
}

/// One line of librdkafka: its syslog level, facility (`FAIL`, `REQTMOUT`, …), client name and text.
pub(crate) fn line(level: i32, facility: &str, client: &str, text: &str) {
    // What a client reports as an error too is said by whoever gets that error, with the consumer's name.
    let level = if facility == "FAIL" {
        Level::DEBUG
    } else {
        level_of(level)
    };
    // Lines that the level hides are neither shown nor counted. Outside of `get_default`, in which nothing is enabled.
    if !is_enabled(level) {
        return;
    }
    let left_out = tracing::dispatcher::get_default(|subscriber| {
        let limits = subscriber.downcast_ref::<Limits>();
        limits.map_or(Some(0), |limits| limits.allow(facility, Instant::now()))
    });
    let Some(left_out) = left_out else { return };
    write(level, facility, client, text);
    if left_out > 0 {
        write(
            level,
            facility,
            client,
            &format!("{left_out} similar lines left out"),
        );
    }
}

fn is_enabled(level: Level) -> bool {
    match level {
        Level::ERROR => tracing::enabled!(target: target::librdkafka, Level::ERROR),
        Level::WARN => tracing::enabled!(target: target::librdkafka, Level::WARN),
        Level::INFO => tracing::enabled!(target: target::librdkafka, Level::INFO),
        _ => tracing::enabled!(target: target::librdkafka, Level::DEBUG),
    }
}

fn write(level: Level, facility: &str, client: &str, text: &str) {
    match level {
        Level::ERROR => log!(error, librdkafka, facility, client, "{text}"),
        Level::WARN => log!(warn, librdkafka, facility, client, "{text}"),
        Level::INFO => log!(info, librdkafka, facility, client, "{text}"),
        _ => log!(debug, librdkafka, facility, client, "{text}"),
    }
}

/// syslog's levels: 0 to 3 are errors, 4 a warning, 5 and 6 information, 7 for debugging.
fn level_of(syslog: i32) -> Level {
    match syslog {
        ..=3 => Level::ERROR,
        4 => Level::WARN,
        5 | 6 => Level::INFO,
        _ => Level::DEBUG,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_facility_has_a_limit_of_its_own() {
        let limits = Limits::default();
        let now = Instant::now();
        for _ in 0..BURST {
            assert_eq!(limits.allow("FAIL", now), Some(0));
        }
        assert_eq!(limits.allow("FAIL", now), None);
        assert_eq!(limits.allow("REQTMOUT", now), Some(0));
        assert_eq!(limits.allow("FAIL", now + WINDOW), Some(1));
    }

    #[test]
    fn endless_facilities_take_no_endless_memory() {
        let limits = Limits::default();
        let now = Instant::now();
        for number in 0..2 * FACILITIES_MAX {
            limits.allow(&number.to_string(), now);
        }
        assert!(limits.0.lock().unwrap().len() <= FACILITIES_MAX + 1);
    }

    #[test]
    fn syslog_levels_become_ours() {
        let levels: Vec<Level> = (0..=8).map(level_of).collect();
        let expected = "ERROR ERROR ERROR ERROR WARN INFO INFO DEBUG DEBUG";
        let found: Vec<String> = levels.iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected);
    }
}
