//! Since when the messages of a retry topic are known to wait. Pure: moments come in.

use std::time::{Duration, Instant};

/// When the messages of a retry topic were first seen: those below the offset lay in the log at that moment. So many
/// messages with a wrong due time wait for one delay together, not one after the other.
#[derive(Debug, Default)]
pub(super) struct FirstSeen(Option<(i64, Instant)>);

impl FirstSeen {
    /// How long the message waits on, and whether it was seen for the first time. `end` is the known end of the log.
    pub(super) fn wait(
        &mut self,
        offset: i64,
        early: Duration,
        delay: Duration,
        end: impl FnOnce() -> Option<i64>,
        now: Instant,
    ) -> (Duration, bool) {
        let known = self.0.filter(|(below, _)| offset < *below);
        let seen = known.unwrap_or_else(|| {
            let next = offset.saturating_add(1);
            (end().map_or(next, |end| end.max(next)), now)
        });
        self.0 = Some(seen);
        // A sum beyond the clock's range is no limit.
        let rest = seen
            .1
            .checked_add(delay)
            .map_or(early, |until| until.saturating_duration_since(now));
        (early.min(rest), known.is_none())
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
        assert_eq!(wait(&mut seen, seconds(3), now), (seconds(3), true));
        let later = now + seconds(2);
        assert_eq!(wait(&mut seen, seconds(1), later), (seconds(1), false));
    }

    #[test]
    fn a_due_time_in_years_waits_for_the_delay_from_the_first_sight() {
        let (mut seen, now) = (FirstSeen::default(), Instant::now());
        let wait = |seen: &mut FirstSeen, at, end, now| seen.wait(at, YEARS, DELAY, || end, now).0;
        assert_eq!(wait(&mut seen, 7, Some(10), now), DELAY);
        assert_eq!(wait(&mut seen, 7, None, now + seconds(2)), seconds(3));
        let then = now + DELAY;
        assert_eq!(wait(&mut seen, 7, None, then), Duration::ZERO);
        // What lay in the log then has waited as long; what came later has not.
        assert_eq!(wait(&mut seen, 9, None, then), Duration::ZERO);
        assert_eq!(wait(&mut seen, 10, None, then), DELAY);
        assert_eq!(wait(&mut seen, 10, None, then + DELAY), Duration::ZERO);
    }

    #[test]
    fn a_delay_beyond_the_clock_is_no_limit() {
        let (mut seen, now) = (FirstSeen::default(), Instant::now());
        let wait = seen.wait(7, YEARS, Duration::MAX, || None, now);
        assert_eq!(wait, (YEARS, true));
    }
}
