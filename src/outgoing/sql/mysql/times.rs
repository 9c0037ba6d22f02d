//! Dates and times of MySQL, as bytes, as text, and as milliseconds. Pure.

use std::fmt::Write as _;

use jiff::civil::DateTime;

use super::wire::Parts;
use crate::outgoing::sql::calendar;
use crate::wait::Value;

/// A date with a time of day. It may be none of the calendar, such as `0000-00-00`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Moment {
    year: u16,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
    micros: u32,
}

impl Moment {
    /// As a row of a prepared statement has it: what is zero at the end is left out.
    pub(super) fn read(parts: &mut Parts<'_>) -> Option<Self> {
        let length = parts.u8()?;
        let mut moment = Self::default();
        if length >= 4 {
            moment.year = parts.u16()?;
            (moment.month, moment.day) = (parts.u8()?, parts.u8()?);
        }
        if length >= 7 {
            (moment.hour, moment.minute, moment.second) = (parts.u8()?, parts.u8()?, parts.u8()?);
        }
        if length >= 11 {
            moment.micros = parts.u32()?;
        }
        matches!(length, 0 | 4 | 7 | 11).then_some(moment)
    }

    /// `2024-02-29 12:34:56.789`
    pub(super) fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let (date, time) = text.split_once(' ').unwrap_or((text, ""));
        let mut date = date.splitn(3, '-');
        let mut moment = Self {
            year: date.next()?.parse().ok()?,
            month: date.next()?.parse().ok()?,
            day: date.next()?.parse().ok()?,
            ..Self::default()
        };
        if time.is_empty() {
            return Some(moment);
        }
        let (time, fraction) = time.split_once('.').unwrap_or((time, ""));
        let mut time = time.splitn(3, ':');
        moment.hour = time.next()?.parse().ok()?;
        moment.minute = time.next()?.parse().ok()?;
        moment.second = time.next()?.parse().ok()?;
        moment.micros = format!("{fraction:0<6}").get(..6)?.parse().ok()?;
        Some(moment)
    }

    /// Milliseconds since the epoch, if the calendar has it.
    pub(super) fn millis(self) -> Option<i64> {
        let Self {
            month, day, hour, ..
        } = self;
        let (year, second) = (i16::try_from(self.year).ok()?, self.second as i8);
        if self.year == 0 {
            return None;
        }
        let nanos = i32::try_from(self.micros).ok()?.checked_mul(1_000)?;
        let (month, day, hour) = (month as i8, day as i8, hour as i8);
        let civil = DateTime::new(year, month, day, hour, self.minute as i8, second, nanos).ok()?;
        let epoch = DateTime::constant(1970, 1, 1, 0, 0, 0, 0);
        let micros = civil.duration_since(epoch).as_micros();
        i64::try_from(micros.div_euclid(1_000)).ok()
    }

    pub(super) fn date(self) -> String {
        format!("{:04}-{:02}-{:02}", self.year, self.month, self.day)
    }

    /// With so many digits of the second.
    pub(super) fn text(self, decimals: u8) -> String {
        let (date, hour) = (self.date(), self.hour);
        let text = format!("{date} {hour:02}:{:02}:{:02}", self.minute, self.second);
        text + &fraction(self.micros, decimals)
    }
}

/// `-838:59:59.5`, as a row of a prepared statement has it.
pub(super) fn duration(parts: &mut Parts<'_>, decimals: u8) -> Option<String> {
    let length = parts.u8()?;
    if length == 0 {
        return Some(format!("00:00:00{}", fraction(0, decimals)));
    }
    let sign = if parts.u8()? == 0 { "" } else { "-" };
    let days = parts.u32()?;
    let (hours, minutes, seconds) = (parts.u8()?, parts.u8()?, parts.u8()?);
    let micros = if length >= 12 { parts.u32()? } else { 0 };
    let hours = u64::from(days) * 24 + u64::from(hours);
    let mut text = format!("{sign}{hours:02}:{minutes:02}:{seconds:02}");
    text.push_str(&fraction(micros, decimals));
    matches!(length, 8 | 12).then_some(text)
}

/// `.789`; a column without a number of digits has as many as its value.
fn fraction(micros: u32, decimals: u8) -> String {
    let digits = match decimals {
        0..=6 => usize::from(decimals),
        _ if micros > 0 => 6,
        _ => 0,
    };
    let mut text = String::new();
    if digits > 0 {
        // Writing to a string cannot fail.
        let _ = write!(text, ".{micros:06}");
        text.truncate(digits + 1);
    }
    text
}

/// Milliseconds since the epoch as the text of a column. An error is the part of a sentence behind the value's position.
pub(super) fn of_millis(value: &Value) -> Result<String, String> {
    let micros = match value {
        Value::Integer(millis) => millis.checked_mul(1_000),
        Value::Number(millis) if millis.abs() < 1e15 => Some((millis * 1_000.0) as i64),
        _ => None,
    };
    let text = micros.and_then(calendar::timestamp);
    text.ok_or_else(|| "is no time of the years 1 to 9999 in milliseconds".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_moment_is_read_and_written() {
        let bytes = [11, 0xE8, 0x07, 2, 29, 12, 34, 56, 0x15, 0x0A, 0x0C, 0];
        let moment = Moment::read(&mut Parts(&bytes)).unwrap();
        assert_eq!(moment.text(6), "2024-02-29 12:34:56.789013");
        assert_eq!(moment.text(3), "2024-02-29 12:34:56.789");
        assert_eq!(moment.text(0), "2024-02-29 12:34:56");
        assert_eq!(moment.millis(), Some(1_709_210_096_789));
        assert_eq!(Moment::parse(b"2024-02-29 12:34:56.789013"), Some(moment));
        let date = Moment::read(&mut Parts(&[4, 0xB1, 0x07, 12, 31])).unwrap();
        assert_eq!(
            (date.date(), date.millis()),
            ("1969-12-31".to_owned(), Some(-86_400_000))
        );
        let none = Moment::read(&mut Parts(&[0])).unwrap();
        assert_eq!(
            (none.text(31), none.millis()),
            ("0000-00-00 00:00:00".to_owned(), None)
        );
        assert_eq!(Moment::parse(b"0000-00-00"), Some(none));
        assert_eq!(Moment::parse(b"2024-02").map(Moment::date), None);
        assert_eq!(Moment::read(&mut Parts(&[7, 0, 0])), None);
    }

    #[test]
    fn a_duration_has_hours_beyond_a_day() {
        let bytes = [8, 1, 34, 0, 0, 0, 22, 59, 59];
        assert_eq!(duration(&mut Parts(&bytes), 0).unwrap(), "-838:59:59");
        let bytes = [12, 0, 0, 0, 0, 0, 1, 2, 3, 0x20, 0xA1, 7, 0];
        assert_eq!(duration(&mut Parts(&bytes), 1).unwrap(), "01:02:03.5");
        assert_eq!(duration(&mut Parts(&[0]), 0).unwrap(), "00:00:00");
        assert_eq!(duration(&mut Parts(&[8, 0]), 0), None);
    }

    #[test]
    fn milliseconds_are_a_text() {
        let before = of_millis(&Value::Integer(-1)).unwrap();
        assert_eq!(before, "1969-12-31 23:59:59.999000");
        let after = of_millis(&Value::Number(0.5)).unwrap();
        assert_eq!(after, "1970-01-01 00:00:00.000500");
        for none in [Value::Number(f64::INFINITY), Value::Integer(i64::MAX)] {
            assert!(of_millis(&none).unwrap_err().contains("no time"));
        }
    }
}
