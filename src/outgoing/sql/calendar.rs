//! Milliseconds since the epoch as a date and a time of day, in UTC. Pure.

const DAY_MICROS: i64 = 86_400_000_000;

/// `2024-02-29 12:34:56.789012`; `None` outside of the years 1 to 9999.
pub(super) fn timestamp(micros: i64) -> Option<String> {
    let date = date(micros.div_euclid(DAY_MICROS))?;
    let of_day = micros.rem_euclid(DAY_MICROS);
    let (seconds, micros) = (of_day / 1_000_000, of_day % 1_000_000);
    let (hours, minutes, seconds) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    Some(format!(
        "{date} {hours:02}:{minutes:02}:{seconds:02}.{micros:06}"
    ))
}

/// The date of a day since the epoch.
pub(super) fn date(days: i64) -> Option<String> {
    // From the first of March of the year 0, in cycles of 400 years.
    let days = days.checked_add(719_468)?;
    let (cycle, day) = (days.div_euclid(146_097), days.rem_euclid(146_097));
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let of_year = day - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + cycle * 400 + i64::from(month <= 2);
    (1..=9999)
        .contains(&year)
        .then(|| format!("{year:04}-{month:02}-{day:02}"))
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
