//! Durations and sizes: numbers with a unit.
//!
//! A bare number is what kafkajs takes, milliseconds and bytes. The grammar of durations is that of [`crate::duration`];
//! a size is a whole number with one unit.

use std::borrow::Cow;
use std::fmt;
use std::time::Duration;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::de::{Error, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::duration::{self, UNITS};

const SIZES: [(&str, u64); 7] = [
    ("GiB", 1 << 30),
    ("MiB", 1 << 20),
    ("KiB", 1 << 10),
    ("GB", 1_000_000_000),
    ("MB", 1_000_000),
    ("kB", 1_000),
    ("B", 1),
];
const SIZE_FORM: &str = "bytes or a string such as \"64KiB\", \"256MiB\" or \"1GiB\"";

/// A duration.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Millis(pub(super) u64);

/// A number of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Size(pub(super) u64);

impl Millis {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        Self::of(duration::parse(text), text)
    }

    /// From a number with decimals, which `text` is.
    pub(super) fn of_number(ms: f64, text: &str) -> Result<Self, String> {
        Self::of(duration::of_ms(ms), text)
    }

    fn of(duration: Option<Duration>, text: &str) -> Result<Self, String> {
        duration
            .map(|duration| Self(duration.as_millis() as u64))
            .ok_or_else(|| format!("is `{text}`, not {}", duration::FORM))
    }

    pub(super) fn duration(self) -> Duration {
        Duration::from_millis(self.0)
    }
}

impl Size {
    pub(super) fn parse(text: &str) -> Result<Self, String> {
        bytes(text)
            .map(Self)
            .ok_or_else(|| format!("is `{text}`, not {SIZE_FORM}"))
    }
}

fn bytes(text: &str) -> Option<u64> {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let unit = unit.trim_start_matches(' ');
    let (_, factor) = SIZES.iter().find(|(name, _)| *name == unit)?;
    number
        .parse::<u64>()
        .ok()?
        .checked_mul(*factor)
        .filter(|number| i64::try_from(*number).is_ok())
}

fn show(number: u64, units: &[(&str, u64)], between: &str) -> String {
    let (unit, factor) = units
        .iter()
        .find(|(_, factor)| number > 0 && number.is_multiple_of(*factor))
        .or(units.last())
        .expect("the tables of units have entries");
    format!("{}{between}{unit}", number / factor)
}

impl fmt::Display for Millis {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0, &UNITS[3..], " "))
    }
}

impl fmt::Display for Size {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&show(self.0, &SIZES, " "))
    }
}

impl Serialize for Millis {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&duration::short(self.duration()))
    }
}

impl Serialize for Size {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&show(self.0, &SIZES, ""))
    }
}

struct NumberOrText {
    form: &'static str,
    parse: fn(&str) -> Result<u64, String>,
    of_number: fn(f64) -> Result<u64, String>,
}

impl Visitor<'_> for NumberOrText {
    type Value = u64;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.form)
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<u64, E> {
        Ok(value)
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<u64, E> {
        u64::try_from(value).map_err(|_| E::custom(format!("is {value}, less than 0")))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<u64, E> {
        (self.of_number)(value).map_err(E::custom)
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<u64, E> {
        (self.parse)(value).map_err(E::custom)
    }
}

impl<'de> Deserialize<'de> for Millis {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = NumberOrText {
            form: duration::FORM,
            parse: |text| Self::parse(text).map(|time| time.0),
            of_number: |ms| Self::of_number(ms, &ms.to_string()).map(|time| time.0),
        };
        deserializer.deserialize_any(visitor).map(Self)
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let visitor = NumberOrText {
            form: SIZE_FORM,
            parse: |text| Self::parse(text).map(|size| size.0),
            of_number: |bytes| Err(format!("is {bytes}, not {SIZE_FORM}")),
        };
        deserializer.deserialize_any(visitor).map(Self)
    }
}

impl JsonSchema for Millis {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Millis".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        let pattern = format!(r"^({}|.*\$\{{.*)$", duration::PATTERN);
        json_schema!({ "type": ["number", "string"], "format": "duration-ms", "minimum": 0, "pattern": pattern })
    }
}

impl JsonSchema for Size {
    fn inline_schema() -> bool {
        true
    }

    fn schema_name() -> Cow<'static, str> {
        "Size".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "type": ["integer", "string"], "format": "size-bytes", "minimum": 0, "pattern": r"^([0-9]+ *([KMG]iB|[kMG]?B)|.*\$\{.*)$" })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::duration::tests::STRINGS;

    #[test]
    fn a_duration_is_what_the_grammar_of_durations_says() {
        for (text, expected) in STRINGS {
            assert_eq!(Millis::parse(text).ok(), expected.map(Millis), "{text:?}");
        }
        assert_eq!(
            Millis::parse("soon").unwrap_err(),
            "is `soon`, not milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\""
        );
    }

    #[test]
    fn the_schema_takes_the_durations_that_are_read_and_references() {
        let schema = Millis::json_schema(&mut SchemaGenerator::default());
        let pattern = schema.get("pattern").unwrap().as_str().unwrap();
        let pattern = regex::Regex::new(pattern).unwrap();
        for text in ["1.5s", "1d", "5 ms", "${WAIT:-5s}"] {
            assert!(pattern.is_match(text), "{text}");
        }
        for text in ["5", "1.s", "5s ", "soon"] {
            assert!(!pattern.is_match(text), "{text}");
        }
    }

    #[test]
    fn a_size_knows_binary_and_decimal_units() {
        assert_eq!(Size::parse("256MiB"), Ok(Size(256 << 20)));
        assert_eq!(Size::parse("1MB"), Ok(Size(1_000_000)));
        assert!(Size::parse("256").is_err());
    }

    #[test]
    fn a_unit_shows_in_its_largest_whole_form() {
        assert_eq!(Millis(30_000).to_string(), "30 s");
        assert_eq!(Millis(0).to_string(), "0 ms");
        assert_eq!(Size(10 << 20).to_string(), "10 MiB");
        assert_eq!(serde_json::to_string(&Millis(1_500)).unwrap(), "\"1500ms\"");
    }
}
