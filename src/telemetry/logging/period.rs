//! The periods of a rotated log, and the names of their files.
//!
//! Pure: the caller passes the time. `moontide.log` becomes `moontide.2026-05-28.log`; hours and minutes follow the
//! day. Times are UTC.

use crate::config::Rotation;

const DAY: u64 = 86_400;

/// The names of the files of one log.
#[derive(Clone, Debug)]
pub(super) struct Names {
    /// The name from the configuration.
    name: String,
    rotation: Rotation,
}

impl Names {
    pub(super) fn new(name: &str, rotation: Rotation) -> Self {
        let name = name.to_owned();
        Self { name, rotation }
    }

    /// Whether the file of a period has another name than the configured one.
    pub(super) fn rotates(&self) -> bool {
        self.rotation != Rotation::Never
    }

    /// The number of the period of this second since 1970.
    pub(super) fn period(&self, second: u64) -> u64 {
        second / self.seconds()
    }

    /// The file of a period.
    pub(super) fn file(&self, period: u64) -> String {
        if !self.rotates() {
            return self.name.clone();
        }
        let (stem, suffix) = self.parts();
        let stamp = stamp(self.rotation, period.saturating_mul(self.seconds()));
        format!("{stem}.{stamp}{suffix}")
    }

    /// The period's part of the name, if this is a file of this log, from any period. Only such files are ever
    /// deleted.
    pub(super) fn stamp_of<'a>(&self, file: &'a str) -> Option<&'a str> {
        let (stem, suffix) = self.parts();
        let stamp = file.strip_prefix(stem)?.strip_prefix('.')?;
        let stamp = stamp.strip_suffix(suffix)?;
        let is_alike = |(index, byte): (usize, u8)| match index {
            4 | 7 | 10 | 13 => byte == b'-',
            _ => byte.is_ascii_digit(),
        };
        let is_stamp = self.rotates()
            && matches!(stamp.len(), 10 | 13 | 16)
            && stamp.bytes().enumerate().all(is_alike);
        is_stamp.then_some(stamp)
    }

    /// `moontide` and `.log`.
    fn parts(&self) -> (&str, &str) {
        match self.name.rfind('.') {
            Some(dot) if dot > 0 => self.name.split_at(dot),
            _ => (&self.name, ""),
        }
    }

    fn seconds(&self) -> u64 {
        match self.rotation {
            Rotation::Daily => DAY,
            Rotation::Hourly => 3_600,
            Rotation::Minutely => 60,
            // All time is one period.
            Rotation::Never => u64::MAX,
        }
    }
}

fn stamp(rotation: Rotation, second: u64) -> String {
    let (year, month, day) = date(second / DAY);
    let (hour, minute) = (second % DAY / 3_600, second % 3_600 / 60);
    let day = format!("{year:04}-{month:02}-{day:02}");
    match rotation {
        Rotation::Daily | Rotation::Never => day,
        Rotation::Hourly => format!("{day}-{hour:02}"),
        Rotation::Minutely => format!("{day}-{hour:02}-{minute:02}"),
    }
}

/// Year, month and day of a day since 1970-01-01, by the Gregorian calendar. A year that begins in March has its leap
/// day at its end (<https://howardhinnant.github.io/date_algorithms.html#civil_from_days>).
fn date(day: u64) -> (u64, u64, u64) {
    let day = day + 719_468;
    let (era, day) = (day / 146_097, day % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (era * 400 + year + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `date -u -d 2026-05-28T13:45:10 +%s`
    const SECOND: u64 = 1_779_975_910;

    fn file(name: &str, rotation: Rotation, second: u64) -> String {
        let names = Names::new(name, rotation);
        names.file(names.period(second))
    }

    #[test]
    fn a_file_has_the_name_of_its_period() {
        let file = |rotation| file("moontide.log", rotation, SECOND);
        assert_eq!(file(Rotation::Daily), "moontide.2026-05-28.log");
        assert_eq!(file(Rotation::Hourly), "moontide.2026-05-28-13.log");
        assert_eq!(file(Rotation::Minutely), "moontide.2026-05-28-13-45.log");
        assert_eq!(file(Rotation::Never), "moontide.log");
    }

    #[test]
    fn a_name_needs_no_suffix() {
        let file = |name| file(name, Rotation::Daily, 0);
        assert_eq!(file("moontide"), "moontide.1970-01-01");
        assert_eq!(file(".log"), ".log.1970-01-01");
        assert_eq!(file("a.b.log"), "a.b.1970-01-01.log");
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (second, expected) in [
            (951_782_400, "2000-02-29"),
            (1_709_251_199, "2024-02-29"),
            (1_709_251_200, "2024-03-01"),
            (1_735_689_599, "2024-12-31"),
            (1_735_689_600, "2025-01-01"),
            (4_107_542_400, "2100-03-01"),
        ] {
            assert_eq!(stamp(Rotation::Daily, second), expected);
        }
    }

    #[test]
    fn a_period_ends_with_its_day_hour_or_minute() {
        for (rotation, last) in [
            (Rotation::Daily, 86_399),
            (Rotation::Hourly, 3_599),
            (Rotation::Minutely, 59),
        ] {
            let names = Names::new("a.log", rotation);
            assert_eq!(names.period(last), names.period(0));
            assert_eq!(names.period(last + 1), 1);
        }
        let names = Names::new("a.log", Rotation::Never);
        assert_eq!(names.period(SECOND), names.period(0));
    }

    #[test]
    fn only_files_of_this_log_are_its_own() {
        let names = Names::new("moontide.log", Rotation::Daily);
        for (file, expected) in [
            ("moontide.2026-05-28.log", Some("2026-05-28")),
            ("moontide.2026-05-28-13.log", Some("2026-05-28-13")),
            ("moontide.log", None),
            ("moontide.2026-05-28.log.gz", None),
            ("moontide.notes-2026.log", None),
            ("moontide-other.2026-05-28.log", None),
            ("moontide.other.2026-05-28.log", None),
        ] {
            assert_eq!(names.stamp_of(file), expected, "{file}");
        }
        let names = Names::new("moontide.log", Rotation::Never);
        assert_eq!(names.stamp_of("moontide.2026-05-28.log"), None);
    }
}
