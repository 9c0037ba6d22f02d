//! Since when messages that are not due are known to wait. Pure: moments come in.

use std::time::{Duration, Instant};

/// When messages that are not due were first seen. So many messages with a wrong due time wait for one delay together,
/// not one after the other.
#[derive(Debug, Default)]
pub(super) struct FirstSeen(Option<Seen>);

#[derive(Clone, Copy, Debug)]
struct Seen {
    /// Messages below this offset lay in the log at that moment.
    below: i64,
    at: Instant,
    /// The log has a line about one of them whose due time is wrong.
    is_told: bool,
}

impl FirstSeen {
    /// How long the message waits on. `end` is the known end of the log.
    pub(super) fn wait(
        &mut self,
        offset: i64,
        early: Duration,
        delay: Duration,
        end: impl FnOnce() -> Option<i64>,
        now: Instant,
    ) -> Duration {
        let known = self.0.filter(|seen| offset < seen.below);
        let seen = known.unwrap_or_else(|| {
            let next = offset.saturating_add(1);
            Seen {
                below: end().map_or(next, |end| end.max(next)),
                at: now,
                is_told: false,
            }
        });
        self.0 = Some(seen);
        // A sum beyond the clock's range is no limit.
        let until = seen.at.checked_add(delay);
        let rest = until.map_or(early, |until| until.saturating_duration_since(now));
        early.min(rest)
    }

    /// Whether a wrong due time is to be told: once for the messages that were seen together.
    pub(super) fn is_to_tell(&mut self) -> bool {
        let seen = self.0.as_mut();
        seen.is_some_and(|seen| !std::mem::replace(&mut seen.is_told, true))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DELAY: Duration = Duration::from_secs(5);
    const YEARS: Duration = Duration::from_secs(1 << 30);

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn a_message_waits_until_it_is_due() {
        let (mut seen, now) = (FirstSeen::default(), Instant::now());
        let wait = |seen: &mut FirstSeen, early, now| seen.wait(7, early, DELAY, || Some(8), now);
        assert_eq!(wait(&mut seen, seconds(3), now), seconds(3));
        let later = now + seconds(2);
        assert_eq!(wait(&mut seen, seconds(1), later), seconds(1));
    }

    #[test]
    fn a_due_time_in_years_waits_for_the_delay_from_the_first_sight() {
        let (mut seen, now) = (FirstSeen::default(), Instant::now());
        let wait = |seen: &mut FirstSeen, at, end, now| seen.wait(at, YEARS, DELAY, || end, now);
        assert_eq!(wait(&mut seen, 7, Some(10), now), DELAY);
        assert!(seen.is_to_tell() && !seen.is_to_tell(), "once");
        assert_eq!(wait(&mut seen, 7, None, now + seconds(2)), seconds(3));
        let then = now + DELAY;
        assert_eq!(wait(&mut seen, 7, None, then), Duration::ZERO);
        // What lay in the log then has waited as long; what came later has not.
        assert_eq!(wait(&mut seen, 9, None, then), Duration::ZERO);
        assert!(!seen.is_to_tell());
        assert_eq!(wait(&mut seen, 10, None, then), DELAY);
        assert!(seen.is_to_tell());
        assert_eq!(wait(&mut seen, 10, None, then + DELAY), Duration::ZERO);
    }

    #[test]
    fn a_delay_beyond_the_clock_is_no_limit() {
        let (mut seen, now) = (FirstSeen::default(), Instant::now());
        let wait = seen.wait(7, YEARS, Duration::MAX, || None, now);
        assert_eq!(wait, YEARS);
    }
}
