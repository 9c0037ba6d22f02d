//! librdkafka's own log lines, as log lines of Moontide.
//!
//! While a broker is away, librdkafka logs it several times a second, for every broker and client. The first lines of
//! a kind appear. The rest is counted, and the count becomes a line at the end of its window. The counters are a part
//! of the subscriber, so nothing is static, and a process without a subscriber counts nothing.

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use tracing::Level;
use tracing_subscriber::Layer;

use crate::log::{log, target};
use crate::rate_limit::RateLimits;

/// Lines of one facility, level and client that appear in a window.
const BURST: u32 = 10;
const WINDOW: Duration = Duration::from_secs(10);
/// librdkafka has some eighty facilities. Beyond this limit, further kinds of lines share one counter.
const KINDS_MAX: usize = 256;
/// A line of one level never hides one of another.
const LEVELS: [Level; 4] = [Level::ERROR, Level::WARN, Level::INFO, Level::DEBUG];

/// The counters, by level, facility and client: one client never hides the lines of another.
#[derive(Debug)]
pub(crate) struct Limits(Mutex<[RateLimits; LEVELS.len()]>);

impl Default for Limits {
    fn default() -> Self {
        let limits = RateLimits::new(BURST, WINDOW, KINDS_MAX);
        Self(Mutex::new(std::array::from_fn(|_| limits.clone())))
    }
}

impl<S: tracing::Subscriber> Layer<S> for Limits {}

/// Lines that were left out: their level, their facility and client, and how many.
type LeftOut = Vec<(Level, String, u64)>;

impl Limits {
    fn allow(&self, level: Level, facility: &str, client: &str, now: Instant) -> Option<u64> {
        let kind = format!("{facility} {client}");
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let index = LEVELS.iter().position(|one| *one == level);
        limits[index.unwrap_or(LEVELS.len() - 1)].allow(&kind, now)
    }

    fn left_out(&self, of: impl Fn(&mut RateLimits) -> Vec<(String, u64)>) -> LeftOut {
        let mut limits = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let levels = LEVELS.into_iter().zip(limits.iter_mut());
        let counts = levels.flat_map(|(level, limits)| {
            let counts = of(limits).into_iter();
            counts.map(move |(kind, count)| (level, kind, count))
        });
        counts.collect()
    }
}

/// Logs the counts of windows that have ended. Call it every second or so.
pub(crate) fn tell_ended(now: Instant) {
    tell(|limits| limits.ended(now));
}

/// Logs all remaining counts, at the end of the log.
pub(crate) fn tell_rest() {
    tell(RateLimits::rest);
}

fn tell(of: impl Fn(&mut RateLimits) -> Vec<(String, u64)>) {
    let left_out = tracing::dispatcher::get_default(|subscriber| {
        let limits = subscriber.downcast_ref::<Limits>();
        limits.map_or_else(Vec::new, |limits| limits.left_out(&of))
    });
    for (level, kind, left_out) in left_out {
        let text = "lines of the same facility left out";
        let (facility, client) = kind.split_once(' ').unwrap_or((&kind, ""));
        match level {
            Level::ERROR | Level::WARN => {
                log!(warn, librdkafka, facility, client, left_out, "{text}");
            }
            Level::INFO => log!(info, librdkafka, facility, client, left_out, "{text}"),
            _ => log!(debug, librdkafka, facility, client, left_out, "{text}"),
        }
    }
}

/// Logs one line of librdkafka: its syslog level, facility (`FAIL`, `REQTMOUT`, …), client name and text.
pub(crate) fn line(level: i32, facility: &str, client: &str, text: &str) {
    // A client also reports this as an error, and the receiver of that error logs it with the consumer's name.
    let level = if facility == "FAIL" {
        Level::DEBUG
    } else {
        level_of(level)
    };
    // Lines below the log level are neither shown nor counted. This check is outside of `get_default`, in which
    // nothing is enabled.
    if !is_enabled(level) {
        return;
    }
    let left_out = tracing::dispatcher::get_default(|subscriber| {
        let limits = subscriber.downcast_ref::<Limits>();
        limits.map_or(Some(0), |limits| {
            limits.allow(level, facility, client, Instant::now())
        })
    });
    let Some(left_out) = left_out else { return };
    let left_out = (left_out > 0).then_some(left_out);
    match level {
        Level::ERROR => log!(error, librdkafka, facility, client, left_out, "{text}"),
        Level::WARN => log!(warn, librdkafka, facility, client, left_out, "{text}"),
        Level::INFO => log!(info, librdkafka, facility, client, left_out, "{text}"),
        _ => log!(debug, librdkafka, facility, client, left_out, "{text}"),
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
    fn each_facility_level_and_client_has_a_limit_of_its_own() {
        let limits = Limits::default();
        let now = Instant::now();
        let allow = |level, facility, at| limits.allow(level, facility, "one", at);
        for _ in 0..BURST {
            assert_eq!(allow(Level::WARN, "FAIL", now), Some(0));
        }
        assert_eq!(allow(Level::WARN, "FAIL", now), None);
        assert_eq!(allow(Level::ERROR, "FAIL", now), Some(0));
        assert_eq!(allow(Level::WARN, "REQTMOUT", now), Some(0));
        assert_eq!(limits.allow(Level::WARN, "FAIL", "other", now), Some(0));
        let left_out = limits.left_out(|limits| limits.ended(now + WINDOW));
        assert_eq!(left_out, [(Level::WARN, "FAIL one".to_owned(), 1)]);
    }

    #[test]
    fn syslog_levels_become_ours() {
        let levels: Vec<Level> = (0..=8).map(level_of).collect();
        let expected = "ERROR ERROR ERROR ERROR WARN INFO INFO DEBUG DEBUG";
        let found: Vec<String> = levels.iter().map(ToString::to_string).collect();
        assert_eq!(found.join(" "), expected);
    }
}
