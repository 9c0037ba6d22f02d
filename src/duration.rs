//! Durations as configuration and handlers write them. Pure.
//!
//! A number counts milliseconds; a string has a number and one unit, as `"1.5s"`. Both may have decimals, and a started
//! millisecond counts whole, so that no duration but 0 becomes 0.

use std::time::Duration;

/// The units and their milliseconds, the largest first.
pub(crate) const UNITS: [(&str, u64); 5] = [
    ("d", 86_400_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1_000),
    ("ms", 1),
];

/// What a duration is, for errors.
pub(crate) const FORM: &str =
    "milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\"";

/// The strings as a regular expression of JSON Schema, without its anchors.
pub(crate) const PATTERN: &str = r"[0-9]+(\.[0-9]+)? *(ms|s|m|h|d)";

/// More digits of a fraction only tell whether it is a little longer.
const FRACTION_DIGITS: usize = 18;

/// A duration from its string; `None` where it is none, or longer than `i64` counts milliseconds.
pub(crate) fn parse(text: &str) -> Option<Duration> {
    let end = text
        .find(|c: char| !c.is_ascii_digit() && c != '.')
        .unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let unit = unit.trim_start_matches(' ');
    let (_, factor) = UNITS.iter().find(|(name, _)| *name == unit)?;
    let (whole, fraction) = match number.split_once('.') {
        Some((_, fraction)) if fraction.is_empty() || fraction.contains('.') => return None,
        Some(parts) => parts,
        None => (number, ""),
    };
    let ms = whole.parse::<u64>().ok()?.checked_mul(*factor)?;
    of_whole(ms.checked_add(of_fraction(fraction, *factor))?)
}

/// A duration from its milliseconds; `None` for what is negative, not a number or too large.
pub(crate) fn of_ms(ms: f64) -> Option<Duration> {
    // Above 2^53 every value is whole, and the cast saturates.
    (ms >= 0.0 && ms < i64::MAX as f64).then(|| Duration::from_millis(ms.ceil() as u64))
}

/// A string that reads back as the duration: `90s`, `10m`, `24h`. Names of retry topics are made of it and must stay.
pub(crate) fn short(duration: Duration) -> String {
    let ms = duration.as_millis();
    // Days are read and not written.
    let whole = UNITS[1..]
        .iter()
        .find(|(_, length)| ms > 0 && ms.is_multiple_of(u128::from(*length)));
    let (unit, length) = whole.unwrap_or(&("ms", 1));
    format!("{}{unit}", ms / u128::from(*length))
}

fn of_whole(ms: u64) -> Option<Duration> {
    i64::try_from(ms).is_ok().then(|| Duration::from_millis(ms))
}

/// The decimals of a unit of `factor` milliseconds, rounded up.
fn of_fraction(digits: &str, factor: u64) -> u64 {
    let (kept, rest) = digits.split_at(digits.len().min(FRACTION_DIGITS));
    let scale = 10_u64.pow(kept.len() as u32);
    let counted = u128::from(kept.parse::<u64>().unwrap_or(0)) * u128::from(factor);
    let is_longer = rest.contains(|c| c != '0') && counted.is_multiple_of(u128::from(scale));
    // Less than a whole unit and one millisecond.
    counted.div_ceil(u128::from(scale)) as u64 + u64::from(is_longer)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Strings and their milliseconds: the grammar, for every place that reads durations.
    pub(crate) const STRINGS: &[(&str, Option<u64>)] = &[
        ("300ms", Some(300)),
        ("5s", Some(5_000)),
        ("5 s", Some(5_000)),
        ("1.5s", Some(1_500)),
        ("0.25m", Some(15_000)),
        ("1m", Some(60_000)),
        ("2h", Some(7_200_000)),
        ("1d", Some(86_400_000)),
        ("0.5d", Some(43_200_000)),
        ("0s", Some(0)),
        ("1.1s", Some(1_100)),
        ("0.1ms", Some(1)),
        ("1.0001s", Some(1_001)),
        ("0.0000000000000000000001s", Some(1)),
        ("1.0000000000000000000001s", Some(1_001)),
        ("1.00000000000000000000000s", Some(1_000)),
        ("", None),
        ("5", None),
        ("s", None),
        (".5s", None),
        ("5.s", None),
        ("1.2.3s", None),
        ("-1s", None),
        ("+1s", None),
        ("1e3s", None),
        ("1m30s", None),
        (" 5s", None),
        ("5s ", None),
        ("5\ts", None),
        ("5S", None),
        ("5 years", None),
        ("١s", None),
        ("106751991167d", Some(9_223_372_036_828_800_000)),
        ("106751991168d", None),
        ("99999999999999999999ms", None),
    ];

    #[test]
    fn a_string_has_a_number_and_one_unit() {
        for (text, expected) in STRINGS {
            assert_eq!(parse(text), expected.map(Duration::from_millis), "{text:?}");
        }
    }

    #[test]
    fn the_pattern_of_the_schema_takes_the_same_strings() {
        let pattern = regex::Regex::new(&format!("^{PATTERN}$")).unwrap();
        for (text, expected) in STRINGS {
            // A pattern cannot count.
            let is_too_long = text.len() > 10 && text.starts_with(['1', '9']) && expected.is_none();
            assert_eq!(
                pattern.is_match(text),
                expected.is_some() || is_too_long,
                "{text:?}"
            );
        }
    }

    #[test]
    fn a_duration_is_written_in_its_largest_whole_unit() {
        for (ms, expected) in [
            (0, "0ms"),
            (1_500, "1500ms"),
            (90_000, "90s"),
            (600_000, "10m"),
            (172_800_000, "48h"),
        ] {
            let duration = Duration::from_millis(ms);
            assert_eq!(short(duration), expected);
            assert_eq!(parse(expected), Some(duration));
        }
    }

    #[test]
    fn a_number_counts_milliseconds() {
        for (number, expected) in [
            (0.0, Some(0)),
            (-0.0, Some(0)),
            (1.0, Some(1)),
            (0.1, Some(1)),
            (1_500.5, Some(1_501)),
            (-1.0, None),
            (f64::NAN, None),
            (f64::INFINITY, None),
            (1e300, None),
        ] {
            assert_eq!(
                of_ms(number),
                expected.map(Duration::from_millis),
                "{number}"
            );
        }
    }
}
