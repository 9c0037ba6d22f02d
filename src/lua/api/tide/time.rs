//! `tide.time`: times as text and in parts, in the zones of the embedded time zone database.

mod moment;

use jiff::Zoned;
use jiff::civil::{Date, Time};
use jiff::tz::TimeZone;

use super::options::{Fields, integer, kind, shown, whole};
use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::wait::{Fault, Value};

use moment::{ms_of, zone_named, zoned};

const SPANS: [&str; 8] = [
    "years",
    "months",
    "weeks",
    "days",
    "hours",
    "minutes",
    "seconds",
    "milliseconds",
];
/// The parts that make a time, and then those that follow from them.
const PARTS: [&str; 12] = [
    "year",
    "month",
    "day",
    "hour",
    "minute",
    "second",
    "millisecond",
    "zone",
    "offset",
    "weekday",
    "yearDay",
    "abbreviation",
];
const SPAN_MAX: i64 = 1_000_000_000_000;

pub(super) const MODULE: Module = Module {
    path: "tide.time",
    about: "Times as text and in parts. A time is milliseconds since the epoch.",
    entries: &[
        Entry {
            name: "add",
            path: "tide.time.add",
            types: &[
                "Returns the time that is so much later by the calendar of a zone; negative numbers go back.",
                "@param ms integer",
                "@param span { years?: integer, months?: integer, weeks?: integer, days?: integer, hours?: integer, minutes?: integer, seconds?: integer, milliseconds?: integer }",
                "@param zone? string default: UTC",
                "@return integer",
            ],
            body: Body::Now(add),
        },
        Entry {
            name: "fields",
            path: "tide.time.fields",
            types: &[
                "Returns the parts of a time in a zone.",
                "@param ms integer",
                "@param zone? string default: UTC",
                "@return { year: integer, month: integer, day: integer, hour: integer, minute: integer, second: integer, millisecond: integer, weekday: integer, yearDay: integer, offset: integer, zone: string, abbreviation: string }",
            ],
            body: Body::Now(fields),
        },
        Entry {
            name: "format",
            path: "tide.time.format",
            types: &[
                "Writes a time, as RFC 3339 in UTC unless the options say otherwise.",
                "@param ms integer",
                "@param options? { format?: string, zone?: string }",
                "@return string",
            ],
            body: Body::Now(format),
        },
        Entry {
            name: "of",
            path: "tide.time.of",
            types: &[
                "Returns the time that has these parts in a zone.",
                "@param parts { year: integer, month?: integer, day?: integer, hour?: integer, minute?: integer, second?: integer, millisecond?: integer, zone?: string, offset?: integer }",
                "@return integer",
            ],
            body: Body::Now(of),
        },
        Entry {
            name: "parse",
            path: "tide.time.parse",
            types: &[
                "Reads a time: RFC 3339, ISO 8601, RFC 2822, or by a format.",
                "@param text string",
                "@param options? { format?: string, zone?: string }",
                "@return integer",
            ],
            body: Body::Now(parse),
        },
        Entry {
            name: "startOf",
            path: "tide.time.startOf",
            types: &[
                "Returns the first moment of the unit in which a time lies.",
                "@param ms integer",
                "@param unit \"second\"|\"minute\"|\"hour\"|\"day\"|\"week\"|\"month\"|\"quarter\"|\"year\"",
                "@param zone? string default: UTC",
                "@return integer",
            ],
            body: Body::Now(start_of),
        },
    ],
};

/// The zone of an argument; absent, it is UTC.
fn zone(arguments: &Arguments<'_>, index: i32) -> Result<TimeZone, Fault> {
    if arguments.is_absent(index) {
        return Ok(TimeZone::UTC);
    }
    zone_named(arguments.text(index, "zone")?).map_err(|reason| arguments.invalid(reason))
}

/// A time in its zone, of an argument.
fn moment(arguments: &Arguments<'_>, zone: TimeZone) -> Result<Zoned, Fault> {
    let ms = arguments.integer(1, "ms")?;
    zoned(ms, zone).map_err(|reason| arguments.invalid(reason))
}

/// `format` and `zone` of the options.
fn style(arguments: &Arguments<'_>) -> Result<(Option<String>, Option<TimeZone>), Fault> {
    if arguments.is_absent(2) {
        return Ok((None, None));
    }
    let mut options = arguments.options(2, &["format", "zone"])?;
    let mut text = |name: &str| match options.take(name) {
        Value::Nil => Ok(None),
        Value::Bytes(bytes) => Ok(Some(String::from_utf8_lossy(&bytes).into_owned())),
        other => {
            let message = format!("`{name}` is {}, not a string", kind(&other));
            Err(arguments.invalid(message))
        }
    };
    let format = text("format")?;
    let zone = text("zone")?.map(|name| zone_named(&name)).transpose();
    let zone = zone.map_err(|reason| arguments.invalid(reason))?;
    Ok((format, zone))
}

fn parse(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let text = arguments.text(1, "text")?;
    let (format, zone) = style(arguments)?;
    let zone = zone.unwrap_or(TimeZone::UTC);
    moment::parsed(text, format.as_deref(), zone)
        .map(Results::from)
        .map_err(|reason| arguments.invalid(reason))
}

fn format(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let (format, zone) = style(arguments)?;
    let moment = moment(arguments, zone.unwrap_or(TimeZone::UTC))?;
    moment::formatted(&moment, format.as_deref())
        .map(Results::from)
        .map_err(|reason| arguments.invalid(reason))
}

fn fields(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let moment = moment(arguments, zone(arguments, 2)?)?;
    let zone = moment.time_zone();
    let info = zone.to_offset_info(moment.timestamp());
    let text = |text: &str| Value::Bytes(text.as_bytes().into());
    let offset = moment.offset();
    let zone = zone
        .iana_name()
        .map_or_else(|| offset.to_string(), str::to_owned);
    let numbers = [
        ("year", i64::from(moment.year())),
        ("month", moment.month().into()),
        ("day", moment.day().into()),
        ("hour", moment.hour().into()),
        ("minute", moment.minute().into()),
        ("second", moment.second().into()),
        ("millisecond", moment.millisecond().into()),
        ("weekday", moment.weekday().to_monday_one_offset().into()),
        ("yearDay", moment.day_of_year().into()),
        ("offset", offset.seconds().into()),
    ];
    let numbers = numbers.map(|(name, number)| (text(name), Value::Integer(number)));
    let texts = [("zone", &*zone), ("abbreviation", info.abbreviation())];
    let texts = texts.map(|(name, value)| (text(name), text(value)));
    Ok(Value::Table(numbers.into_iter().chain(texts).collect()).into())
}

fn of(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let what = "a table of parts";
    let mut fields = arguments.fields(arguments.value(1)?, what, &PARTS)?;
    given(&mut fields)
        .map(Results::from)
        .map_err(|message| Fault::new("invalid", message))
}

fn given(fields: &mut Fields) -> Result<i64, String> {
    let zone = match fields.take("zone") {
        Value::Nil => match integer(fields, "offset", -93_599, 93_599)? {
            Some(seconds) => {
                let offset = jiff::tz::Offset::from_seconds(seconds as i32);
                offset.map_or(TimeZone::UTC, TimeZone::fixed)
            }
            None => TimeZone::UTC,
        },
        Value::Bytes(name) => {
            zone_named(&String::from_utf8_lossy(&name)).or_else(|reason| fields.error(reason))?
        }
        other => return fields.error(format!("`zone` is {}, not a string", kind(&other))),
    };
    let Some(year) = integer(fields, "year", -9_999, 9_999)? else {
        return fields.error("`year` is missing");
    };
    let mut part = |name, least, most| {
        let part = integer(fields, name, least, most)?;
        Ok::<i8, String>(part.unwrap_or(least) as i8)
    };
    let (month, day) = (part("month", 1, 12)?, part("day", 1, 31)?);
    let (hour, minute) = (part("hour", 0, 23)?, part("minute", 0, 59)?);
    let second = part("second", 0, 59)?;
    let ms = integer(fields, "millisecond", 0, 999)?.unwrap_or(0);
    let Ok(date) = Date::new(year as i16, month, day) else {
        return fields.error(format!(
            "there is no day {year}-{month:02}-{day:02}; `tide.time.add` counts beyond the end of a month"
        ));
    };
    let time = Time::new(hour, minute, second, ms as i32 * 1_000_000);
    let moment = time.and_then(|time| date.to_datetime(time).to_zoned(zone));
    match moment {
        Ok(moment) => Ok(ms_of(moment.timestamp())),
        Err(error) => fields.error(error.to_string()),
    }
}

fn start_of(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let moment = moment(arguments, zone(arguments, 3)?)?;
    let unit = arguments.text(2, "unit")?;
    let start = moment::start_of(&moment, unit).map_err(|reason| arguments.invalid(reason))?;
    Ok(ms_of(start.timestamp()).into())
}

fn add(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let moment = moment(arguments, zone(arguments, 3)?)?;
    let what = "a table such as { days = 1 }";
    let mut fields = arguments.fields(arguments.value(2)?, what, &SPANS)?;
    let mut numbers = [0; SPANS.len()];
    for (name, number) in SPANS.into_iter().zip(&mut numbers) {
        let value = fields.take(name);
        if value == Value::Nil {
            continue;
        }
        let Some(found) = whole(&value).filter(|found| found.abs() <= SPAN_MAX) else {
            let found = shown(&value);
            let message =
                format!("`{name}` is {found}, not an integer from -{SPAN_MAX} to {SPAN_MAX}");
            return Err(arguments.invalid(message));
        };
        *number = found;
    }
    let later = moment::later(&moment, numbers).map_err(|reason| arguments.invalid(reason))?;
    Ok(ms_of(later.timestamp()).into())
}
