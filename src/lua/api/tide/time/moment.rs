//! Times and their text, by the zones that the program has in itself. Pure.

use jiff::civil::{Date, Time};
use jiff::fmt::rfc2822;
use jiff::fmt::strtime::{self, BrokenDownTime};
use jiff::fmt::temporal::{DateTimeParser, DateTimePrinter, Pieces};
use jiff::tz::TimeZone;
use jiff::{RoundMode, Span, Timestamp, Unit, Zoned, ZonedRound};

use crate::nearest::suggestion;

const PARSER: DateTimeParser = DateTimeParser::new();
const PRINTER: DateTimePrinter = DateTimePrinter::new().precision(Some(3));
const FORMATS: [&str; 3] = ["rfc3339", "rfc2822", "http"];
const UNITS: [&str; 8] = [
    "second", "minute", "hour", "day", "week", "month", "quarter", "year",
];
/// The most bytes of a text or a format.
const TEXT_MAX: usize = 1 << 10;
/// The most bytes of what a format makes.
const RESULT_MAX: usize = 64 << 10;

/// A fraction of a millisecond is left out, also before the epoch.
pub(super) fn ms_of(timestamp: Timestamp) -> i64 {
    timestamp.as_nanosecond().div_euclid(1_000_000) as i64
}

pub(super) fn zoned(ms: i64, zone: TimeZone) -> Result<Zoned, String> {
    let timestamp = Timestamp::from_millisecond(ms)
        .map_err(|_| format!("the time {ms} is not within the years -9999 to 9999"))?;
    Ok(timestamp.to_zoned(zone))
}

/// A name such as `Asia/Shanghai`, `UTC`, or an offset such as `+08:00`.
pub(super) fn zone_named(name: &str) -> Result<TimeZone, String> {
    if matches!(name, "UTC" | "Z") {
        return Ok(TimeZone::UTC);
    }
    let zone = (name.len() <= 100).then(|| PARSER.parse_time_zone(name).ok());
    zone.flatten().ok_or_else(|| {
        let name: String = name.chars().take(100).collect();
        format!(
            "there is no time zone {name:?}; a zone is a name such as \"Asia/Shanghai\", \"UTC\" or an offset such as \"+08:00\""
        )
    })
}

/// Reads a text without an offset of its own as a time of `zone`.
pub(super) fn parsed(text: &str, format: Option<&str>, zone: TimeZone) -> Result<i64, String> {
    if text.len() > TEXT_MAX {
        return Err(format!("`text` has more than {TEXT_MAX} bytes"));
    }
    let moment = match format {
        None => of_iso(text, zone).or_else(|()| of_rfc2822(text)).map_err(|()| {
            format!(
                "`text` is {text:?}, no time of RFC 3339, ISO 8601 or RFC 2822; `format` reads others"
            )
        })?,
        Some("rfc3339") => {
            of_iso(text, zone).map_err(|()| format!("`text` is {text:?}, no time of RFC 3339"))?
        }
        Some("rfc2822" | "http") => {
            of_rfc2822(text).map_err(|()| format!("`text` is {text:?}, no time of RFC 2822"))?
        }
        Some(format) => {
            is_format(format)?;
            strtime::parse(format, text)
                .and_then(|parts| of_parts(&parts, zone))
                .map_err(|error| format!("`text` is {text:?}, no time of the format: {error}"))?
        }
    };
    Ok(ms_of(moment))
}

fn of_rfc2822(text: &str) -> Result<Timestamp, ()> {
    const PARSER: rfc2822::DateTimeParser = rfc2822::DateTimeParser::new();
    PARSER.parse_timestamp(text.trim()).map_err(|_| ())
}

/// RFC 3339, RFC 9557 and what ISO 8601 has beside them.
fn of_iso(text: &str, zone: TimeZone) -> Result<Timestamp, ()> {
    let pieces = Pieces::parse(text).map_err(|_| ())?;
    if pieces.time_zone_annotation().is_some() {
        let zoned = PARSER.parse_zoned(text).map_err(|_| ())?;
        return Ok(zoned.timestamp());
    }
    let civil = pieces
        .date()
        .to_datetime(pieces.time().unwrap_or_else(Time::midnight));
    let zone = pieces.to_numeric_offset().map_or(zone, TimeZone::fixed);
    let zoned = civil.to_zoned(zone).map_err(|_| ())?;
    Ok(zoned.timestamp())
}

fn of_parts(parts: &BrokenDownTime, zone: TimeZone) -> Result<Timestamp, jiff::Error> {
    if parts.iana_time_zone().is_some() {
        return Ok(parts.to_zoned()?.timestamp());
    }
    // Those with an offset, and seconds since the epoch.
    if let Ok(timestamp) = parts.to_timestamp() {
        return Ok(timestamp);
    }
    let date: Date = parts.to_date()?;
    let time = match parts.hour() {
        Some(_) => parts.to_time()?,
        None => Time::midnight(),
    };
    Ok(date.to_datetime(time).to_zoned(zone)?.timestamp())
}

fn is_format(format: &str) -> Result<(), String> {
    if format.len() > TEXT_MAX {
        return Err(format!("`format` has more than {TEXT_MAX} bytes"));
    }
    if format.contains('%') {
        return Ok(());
    }
    let nearest = suggestion(format, &FORMATS);
    Err(format!(
        "`format` is {format:?}, {nearest}; any other format has fields such as `%Y-%m-%d`"
    ))
}

pub(super) fn formatted(moment: &Zoned, format: Option<&str>) -> Result<String, String> {
    let (timestamp, zone) = (moment.timestamp(), moment.time_zone());
    match format {
        None | Some("rfc3339") if *zone == TimeZone::UTC => {
            Ok(PRINTER.timestamp_to_string(&timestamp))
        }
        None | Some("rfc3339") => {
            Ok(PRINTER.timestamp_with_offset_to_string(&timestamp, moment.offset()))
        }
        Some("rfc2822") => rfc2822::to_string(moment).map_err(|error| error.to_string()),
        Some("http") => rfc2822::DateTimePrinter::new()
            .timestamp_to_rfc9110_string(&timestamp)
            .map_err(|error| error.to_string()),
        Some(format) => {
            is_format(format)?;
            let text =
                strtime::format(format, moment).map_err(|error| format!("`format`: {error}"))?;
            if text.len() > RESULT_MAX {
                return Err(format!("the result has more than {RESULT_MAX} bytes"));
            }
            Ok(text)
        }
    }
}

/// Hours and shorter units keep the offset, so that the second one of a repeated hour begins in itself.
pub(super) fn start_of(moment: &Zoned, unit: &str) -> Result<Zoned, String> {
    let date = moment.date();
    let first = match unit {
        "second" | "minute" | "hour" => {
            let unit = match unit {
                "second" => Unit::Second,
                "minute" => Unit::Minute,
                _ => Unit::Hour,
            };
            let round = ZonedRound::new().smallest(unit).mode(RoundMode::Trunc);
            return moment.round(round).map_err(|error| error.to_string());
        }
        "day" => Ok(date),
        "week" => {
            let days = i64::from(moment.weekday().to_monday_zero_offset());
            date.checked_sub(Span::new().days(days))
        }
        "month" => Ok(date.first_of_month()),
        "quarter" => Date::new(date.year(), (date.month() - 1) / 3 * 3 + 1, 1),
        "year" => Ok(date.first_of_year()),
        other => {
            let nearest = suggestion(other, &UNITS);
            return Err(format!("there is no unit {other:?}, {nearest}"));
        }
    };
    first
        .and_then(|date| date.to_zoned(moment.time_zone().clone()))
        .map_err(|error| error.to_string())
}

/// The numbers are in the order years, months, weeks, days, hours, minutes, seconds, milliseconds.
pub(super) fn later(moment: &Zoned, numbers: [i64; 8]) -> Result<Zoned, String> {
    let [years, months, weeks, days, hours, minutes, seconds, ms] = numbers;
    // Days, hours and what is shorter each in a span of its own, since the numbers may differ in their signs.
    let steps = [
        Span::new().try_months(years.saturating_mul(12).saturating_add(months)),
        Span::new().try_weeks(weeks),
        Span::new().try_days(days),
        Span::new().try_hours(hours),
        Span::new().try_minutes(minutes),
        Span::new().try_seconds(seconds),
        Span::new().try_milliseconds(ms),
    ];
    let mut later = moment.clone();
    for step in steps {
        later = step
            .and_then(|step| later.checked_add(step))
            .map_err(|error| format!("the result is no time: {error}"))?;
    }
    Ok(later)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> i64 {
        parsed(text, None, TimeZone::UTC).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn the_usual_forms_are_read() {
        let expected = 1_714_557_600_123;
        for text in [
            "2024-05-01T10:00:00.123Z",
            "2024-05-01T10:00:00.1239999Z",
            "2024-05-01 12:00:00.123+02:00",
            "20240501T100000.123Z",
            "2024-05-01T12:00:00.123+02:00[Europe/Berlin]",
            "2024-05-01T10:00:00.123",
        ] {
            assert_eq!(at(text), expected, "{text}");
        }
        assert_eq!(at("Wed, 01 May 2024 12:00:00 +0200"), expected - 123);
        assert_eq!(at("Wed, 01 May 2024 10:00:00 GMT"), expected - 123);
        assert_eq!(at("2024-05-01"), 1_714_521_600_000);
        assert_eq!(at("1969-12-31T23:59:59.9995Z"), -1);
        let zone = zone_named("Asia/Shanghai").unwrap();
        assert_eq!(parsed("2024-05-01T18:00:00.123", None, zone), Ok(expected));
    }

    #[test]
    fn formats_are_read() {
        for (text, format, expected) in [
            ("01/05/2024 10:00", "%d/%m/%Y %H:%M", 1_714_557_600_000),
            ("01/05/2024", "%d/%m/%Y", 1_714_521_600_000),
            ("1714557600", "%s", 1_714_557_600_000),
            (
                "2024-05-01 12:00 +0200",
                "%Y-%m-%d %H:%M %z",
                1_714_557_600_000,
            ),
            (
                "2024-05-01 12:00 Europe/Berlin",
                "%Y-%m-%d %H:%M %Q",
                1_714_557_600_000,
            ),
        ] {
            assert_eq!(
                parsed(text, Some(format), TimeZone::UTC),
                Ok(expected),
                "{format}"
            );
        }
        for (text, format) in [
            ("x", None),
            ("2024-13-01", None),
            ("2024-05-01T12:00:00+01:00[Europe/Berlin]", None),
            ("2024", Some("%Y")),
            ("2024-05-01", Some("rfc1123")),
            ("2024-05-01", Some("rfc2822")),
        ] {
            assert!(parsed(text, format, TimeZone::UTC).is_err(), "{text}");
        }
    }

    #[test]
    fn formats_are_written() {
        let berlin = zone_named("Europe/Berlin").unwrap();
        let moment = zoned(1_714_557_600_123, berlin).unwrap();
        let utc = zoned(1_714_557_600_123, TimeZone::UTC).unwrap();
        for (moment, format, expected) in [
            (&utc, None, "2024-05-01T10:00:00.123Z"),
            (&moment, None, "2024-05-01T12:00:00.123+02:00"),
            (&moment, Some("rfc2822"), "Wed, 1 May 2024 12:00:00 +0200"),
            (&moment, Some("http"), "Wed, 01 May 2024 10:00:00 GMT"),
            (&moment, Some("%F %T %Z"), "2024-05-01 12:00:00 CEST"),
            (&moment, Some("%G-W%V-%u %j"), "2024-W18-3 122"),
        ] {
            assert_eq!(formatted(moment, format).as_deref(), Ok(expected));
        }
        assert!(formatted(&utc, Some("yyyy-MM-dd")).is_err());
        assert!(formatted(&utc, Some("%!")).is_err());
    }

    #[test]
    fn units_begin_by_the_calendar_of_the_zone() {
        let berlin = zone_named("Europe/Berlin").unwrap();
        // The second of the two hours from 02:00 on.
        let ms = at("2024-10-27T01:30:15.5Z");
        let moment = zoned(ms, berlin).unwrap();
        for (unit, expected) in [
            ("second", "2024-10-27T01:30:15Z"),
            ("minute", "2024-10-27T01:30:00Z"),
            ("hour", "2024-10-27T01:00:00Z"),
            ("day", "2024-10-26T22:00:00Z"),
            ("week", "2024-10-20T22:00:00Z"),
            ("month", "2024-09-30T22:00:00Z"),
            ("quarter", "2024-09-30T22:00:00Z"),
            ("year", "2023-12-31T23:00:00Z"),
        ] {
            let start = start_of(&moment, unit).unwrap();
            assert_eq!(ms_of(start.timestamp()), at(expected), "{unit}");
        }
        assert!(start_of(&moment, "days").unwrap_err().contains("`day`"));
    }

    #[test]
    fn spans_are_those_of_the_calendar() {
        let berlin = zone_named("Europe/Berlin").unwrap();
        let moment = zoned(at("2024-01-31T11:00:00Z"), berlin).unwrap();
        for (numbers, expected) in [
            ([0, 1, 0, 0, 0, 0, 0, 0], "2024-02-29T11:00:00Z"),
            ([0, 6, 0, 0, 0, 0, 0, 0], "2024-07-31T10:00:00Z"),
            ([1, 1, 0, 0, 0, 0, 0, 0], "2025-02-28T11:00:00Z"),
            ([1, -1, 0, 0, 0, 0, 0, 0], "2024-12-31T11:00:00Z"),
            ([0, 0, -1, 1, 1, -1, 1, -1], "2024-01-25T11:59:00.999Z"),
        ] {
            let later = later(&moment, numbers).unwrap();
            assert_eq!(ms_of(later.timestamp()), at(expected), "{numbers:?}");
        }
        assert!(later(&moment, [20_000, 0, 0, 0, 0, 0, 0, 0]).is_err());
    }

    #[test]
    fn zones_have_names_or_offsets() {
        for name in ["Asia/Kolkata", "asia/kolkata", "+05:30", "UTC", "Z", "-03"] {
            assert!(zone_named(name).is_ok(), "{name}");
        }
        for name in ["Berlin", "", "../etc/passwd", &"x".repeat(1000)] {
            assert!(
                zone_named(name)
                    .unwrap_err()
                    .contains("there is no time zone")
            );
        }
    }
}
