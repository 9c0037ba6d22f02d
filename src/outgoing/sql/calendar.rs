//! Times since the epoch as a date and a time of day, in UTC. Pure.

use jiff::SignedDuration;
use jiff::civil::DateTime;

/// `2024-02-29 12:34:56.789012`; `None` outside of the years 1 to 9999.
pub(super) fn timestamp(micros: i64) -> Option<String> {
    // Without a zone, whose offset would end the last year a day too soon.
    let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
    let moment = epoch
        .checked_add(SignedDuration::from_micros(micros))
        .ok()?;
    (moment.year() >= 1).then(|| moment.strftime("%Y-%m-%d %H:%M:%S%.6f").to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_is_that_of_the_calendar() {
        for (micros, expected) in [
            (0, "1970-01-01 00:00:00.000000"),
            (-1, "1969-12-31 23:59:59.999999"),
            (951_782_400_000_000, "2000-02-29 00:00:00.000000"),
            (1_709_210_096_789_012, "2024-02-29 12:34:56.789012"),
            (4_107_542_399_000_000, "2100-02-28 23:59:59.000000"),
            (4_107_542_400_000_000, "2100-03-01 00:00:00.000000"),
            (253_402_300_799_999_999, "9999-12-31 23:59:59.999999"),
            (-62_135_596_800_000_000, "0001-01-01 00:00:00.000000"),
        ] {
            assert_eq!(timestamp(micros).as_deref(), Some(expected));
        }
        assert_eq!(timestamp(253_402_300_800_000_000), None);
        assert_eq!(timestamp(i64::MIN), None);
    }
}
