//! Detects messages that retention deleted before they were fetched. When the start of the log has passed the next
//! offset, librdkafka continues at that start without an error. Only a jump in the offsets shows it.
//!
//! Pure. Most jumps are harmless: transaction markers use offsets too, and compaction removes messages. After a
//! harmless jump the log still starts at or below the first missing offset. A jump below the start of the log is a
//! loss **if it is wider than every harmless jump before**. A narrower jump is doubtful: the offset may be a marker
//! that retention deleted together with the messages around it. A jump is doubtful, too, if it waited in librdkafka's
//! queue while the start of the log passed it.
//!
//! Bounded: the jumps that cannot be judged yet are merged into one.

use std::ops::Range;
use std::time::{Duration, Instant};

/// The time between two log lines about a doubtful loss.
const DOUBTS_APART: Duration = Duration::from_secs(60);

#[derive(Debug, Default)]
pub(super) struct LostOffsets {
    /// A jump that is not judged yet, because the start of the log was unknown.
    open: Option<Skipped>,
    /// The widest harmless jump.
    widest: i64,
    found: Option<Lost>,
    doubtful: Option<Lost>,
    doubted: Option<Instant>,
}

/// A range of missing offsets; several jumps may be merged into one.
#[derive(Debug)]
struct Skipped {
    first: i64,
    /// The offset of the message after the range.
    next: i64,
    missing: i64,
    /// The width of the widest merged range.
    width: i64,
}

/// Messages that the log no longer has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Lost {
    pub(super) first: i64,
    pub(super) last: i64,
    /// An upper bound: the count includes offsets whose messages compaction removed earlier.
    pub(super) count: i64,
    /// The offset at which consumption continued.
    pub(super) next: i64,
    pub(super) is_certain: bool,
}

impl LostOffsets {
    /// A message arrived, and none of the offsets in `over`, just before it, did. `log_start` is the start of the log
    /// at the time of the fetch, or later.
    pub(super) fn jumped(&mut self, over: &Range<i64>, log_start: Option<i64>) {
        let width = over.end - over.start;
        let jump = Skipped {
            first: over.start,
            next: over.end,
            missing: width,
            width,
        };
        match (log_start, &mut self.open) {
            (Some(log_start), _) => self.judge(&jump, log_start),
            (None, Some(open)) => {
                open.next = jump.next;
                open.missing += width;
                open.width = open.width.max(width);
            }
            (None, open) => *open = Some(jump),
        }
    }

    /// Whether a jump waits for the start of the log, which `look` supplies.
    pub(super) fn is_open(&self) -> bool {
        self.open.is_some()
    }

    pub(super) fn look(&mut self, log_start: i64) {
        if let Some(jump) = self.open.take() {
            self.judge(&jump, log_start);
        }
    }

    /// Classifies a jump as harmless, certainly lost or doubtful. Only offsets below the start of the log can be
    /// lost.
    fn judge(&mut self, jump: &Skipped, log_start: i64) {
        let gone = log_start.min(jump.next) - jump.first;
        let width = gone.min(jump.width);
        let is_certain = width > self.widest;
        if log_start <= jump.first || log_start > jump.next {
            // The jump is harmless, or the start of the log passed it only after the fetch. The next jump of this
            // width may be harmless too.
            self.widest = self.widest.max(jump.width);
        }
        if gone <= 0 {
            return;
        }
        let lost = Lost {
            first: jump.first,
            last: jump.first + gone - 1,
            count: gone.min(jump.missing),
            next: jump.next,
            is_certain,
        };
        let known = if is_certain {
            &mut self.found
        } else {
            &mut self.doubtful
        };
        *known = Some(match known {
            Some(earlier) => Lost {
                first: earlier.first,
                count: earlier.count + lost.count,
                ..lost
            },
            None => lost,
        });
    }

    /// The loss to log now: a certain one at once, doubtful ones `DOUBTS_APART`.
    pub(super) fn tell(&mut self, now: Instant) -> Option<Lost> {
        if let Some(lost) = self.found.take() {
            return Some(lost);
        }
        let is_early = |at: Instant| now.saturating_duration_since(at) < DOUBTS_APART;
        if self.doubtful.is_none() || self.doubted.is_some_and(is_early) {
            return None;
        }
        self.doubted = Some(now);
        self.doubtful.take()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(jumps: &mut LostOffsets, first: i64, last: i64, count: i64, is_certain: bool) {
        let told = jumps.tell(Instant::now()).expect("something to say");
        assert_eq!(
            (told.first, told.last, told.count, told.is_certain),
            (first, last, count, is_certain)
        );
    }

    #[test]
    fn what_lies_below_the_start_of_the_log_is_lost() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(10..100), Some(100));
        check(&mut jumps, 10, 99, 90, true);
        assert_eq!(jumps.tell(Instant::now()), None);
    }

    #[test]
    fn what_the_log_has_jumps_over_is_not() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(10..100), Some(40));
        check(&mut jumps, 10, 39, 30, true);
    }

    #[test]
    fn a_jump_within_the_log_is_no_loss() {
        let mut jumps = LostOffsets::default();
        for log_start in [0, 9, 10] {
            jumps.jumped(&(10..100), Some(log_start));
        }
        assert_eq!(jumps.tell(Instant::now()), None);
        assert!(!jumps.is_open());
    }

    #[test]
    fn what_is_as_narrow_as_a_marker_is_doubtful_once_there_are_markers() {
        let (mut jumps, now) = (LostOffsets::default(), Instant::now());
        jumps.jumped(&(8..9), Some(0));
        jumps.jumped(&(10..11), Some(11));
        check(&mut jumps, 10, 10, 1, false);
        jumps.jumped(&(20..22), Some(22));
        check(&mut jumps, 20, 21, 2, true);
        jumps.jumped(&(30..31), Some(31));
        jumps.jumped(&(40..41), Some(41));
        assert_eq!(jumps.tell(now + DOUBTS_APART / 2), None);
        let lost = jumps.tell(now + DOUBTS_APART * 2).unwrap();
        assert_eq!((lost.first, lost.last, lost.count), (30, 40, 2));
    }

    #[test]
    fn markers_that_were_fetched_before_the_log_start_passed_them_are_said_once() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(1..2), Some(1000));
        check(&mut jumps, 1, 1, 1, true);
        for offset in 2..50 {
            jumps.jumped(&(2 * offset..2 * offset + 1), Some(1000));
        }
        check(&mut jumps, 4, 98, 48, false);
        jumps.jumped(&(100..1000), Some(1000));
        check(&mut jumps, 100, 999, 900, true);
    }

    #[test]
    fn one_loss_does_not_hide_the_next_smaller_one() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(0..1000), Some(1000));
        check(&mut jumps, 0, 999, 1000, true);
        jumps.jumped(&(2000..2010), Some(2010));
        check(&mut jumps, 2000, 2009, 10, true);
    }

    #[test]
    fn what_is_not_known_yet_waits_as_one() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(8..9), Some(0));
        for offset in 5..100 {
            jumps.jumped(&(2 * offset..2 * offset + 1), None);
        }
        assert!(jumps.is_open());
        assert_eq!(jumps.tell(Instant::now()), None);
        jumps.look(0);
        assert!(!jumps.is_open());
        assert_eq!(jumps.tell(Instant::now()), None);

        jumps.jumped(&(300..301), None);
        jumps.jumped(&(400..500), None);
        jumps.look(450);
        check(&mut jumps, 300, 449, 101, true);
    }

    #[test]
    fn several_losses_are_said_together() {
        let mut jumps = LostOffsets::default();
        jumps.jumped(&(10..20), Some(20));
        jumps.jumped(&(30..40), Some(40));
        check(&mut jumps, 10, 39, 20, true);
    }
}
