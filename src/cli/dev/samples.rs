//! `messages.jsonl`: sample messages, one JSON object a line.
//!
//! Pure: text in; records, or the first error with its line and column, out. A value that is no string is sent as the
//! JSON text of the file, byte by byte: serialising it again would change numbers and the order of fields.

use std::path::Path;

use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::{Deserializer, Map, Value};

use crate::kafka::producer::Outgoing;

/// A message and the number of its line.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Sample {
    pub(super) line: usize,
    pub(super) record: Outgoing,
}

/// The fields of a line.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    topic: String,
    #[serde(default)]
    key: Value,
    value: Value,
    #[serde(default)]
    headers: Map<String, Value>,
    partition: Option<u16>,
    timestamp: Option<u64>,
}

/// Parses a whole file; empty lines are counted and skipped. The error begins with the place.
pub(super) fn parse(path: &Path, text: &str) -> Result<Vec<Sample>, String> {
    // Editors of some systems write a byte order mark.
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(index, text)| {
            let line = index + 1;
            let record = parse_line(text).map_err(|(column, error)| {
                format!("{}:{line}:{column}: {error}", path.display())
            })?;
            Ok(Sample { line, record })
        })
        .collect()
}

fn parse_line(text: &str) -> Result<Outgoing, (usize, String)> {
    let line: Line = serde_json::from_str(text).map_err(|error| {
        let sentence = error.to_string();
        let place = format!(" at line {} column {}", error.line(), error.column());
        let sentence = sentence.strip_suffix(&place).unwrap_or(&sentence);
        let kind = if error.is_data() { "" } else { "not JSON: " };
        (error.column().max(1), format!("{kind}{sentence}"))
    })?;
    let mut headers = Vec::new();
    for (name, value) in &line.headers {
        let values = match value {
            Value::Array(values) => values.as_slice(),
            one => std::slice::from_ref(one),
        };
        for value in values {
            headers.push((
                name.clone().into_bytes(),
                bytes(value, || value.to_string()),
            ));
        }
    }
    Ok(Outgoing {
        key: bytes(&line.key, || field(text, "key")),
        value: bytes(&line.value, || field(text, "value")),
        topic: line.topic.into(),
        partition: line.partition.map(i32::from),
        headers,
        timestamp_ms: line.timestamp.map(|ms| ms as i64),
    })
}

/// The bytes of a string, nothing for null, and the JSON text of any other value.
fn bytes(value: &Value, json: impl FnOnce() -> String) -> Option<Vec<u8>> {
    match value {
        Value::Null => None,
        Value::String(text) => Some(text.clone().into_bytes()),
        _ => Some(json().into_bytes()),
    }
}

/// The text of a field, in a valid object that has the field.
fn field(object: &str, wanted: &str) -> String {
    let mut rest = object.trim_start().trim_start_matches('{');
    loop {
        let mut names = Deserializer::from_str(rest).into_iter::<String>();
        let Some(Ok(name)) = names.next() else {
            return String::new();
        };
        rest = rest[names.byte_offset()..]
            .trim_start()
            .trim_start_matches(':')
            .trim_start();
        let mut values = Deserializer::from_str(rest).into_iter::<IgnoredAny>();
        values.next();
        let (value, after) = rest.split_at(values.byte_offset());
        if name == wanted {
            return value.to_owned();
        }
        rest = after.trim_start().trim_start_matches(',');
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, expected: &str) {
        let found = match parse(Path::new("messages.jsonl"), text) {
            Ok(samples) => samples.iter().map(show).collect::<Vec<_>>().join("\n"),
            Err(error) => error,
        };
        assert_eq!(found, expected);
    }

    fn show(sample: &Sample) -> String {
        let text = |bytes: &Option<Vec<u8>>| {
            bytes.as_ref().map_or_else(
                || "null".to_owned(),
                |bytes| String::from_utf8_lossy(bytes).into_owned(),
            )
        };
        let Outgoing {
            topic,
            partition,
            key,
            value,
            headers,
            timestamp_ms,
        } = &sample.record;
        let headers: Vec<_> = headers
            .iter()
            .map(|(name, value)| format!("{}={}", String::from_utf8_lossy(name), text(value)))
            .collect();
        let (key, value, headers) = (text(key), text(value), headers.join(","));
        format!(
            "{} {topic} {partition:?} {key} {value} [{headers}] {timestamp_ms:?}",
            sample.line
        )
    }

    #[test]
    fn a_string_is_sent_as_it_is() {
        check(
            r#"{"topic":"orders","key":"k","value":"é \" {"}"#,
            "1 orders None k é \" { [] None",
        );
    }

    #[test]
    fn a_byte_order_mark_is_no_part_of_the_first_line() {
        check(
            "\u{feff}{\"topic\":\"t\",\"value\":\"v\"}",
            "1 t None null v [] None",
        );
    }

    #[test]
    fn any_other_value_is_sent_as_the_json_that_was_written() {
        check(
            r#" { "value" : {"b": 1.10, "a":[12345678901234567890123]} , "topic":"orders", "key": 7 }"#,
            r#"1 orders None 7 {"b": 1.10, "a":[12345678901234567890123]} [] None"#,
        );
        check(r#"{"topic":"t","value":12}"#, "1 t None null 12 [] None");
    }

    #[test]
    fn null_is_a_tombstone_but_a_forgotten_value_is_an_error() {
        check(
            r#"{"topic":"t","value":null}"#,
            "1 t None null null [] None",
        );
        check(
            "{\"topic\":\"t\"}",
            "messages.jsonl:1:13: missing field `value`",
        );
    }

    #[test]
    fn a_header_may_repeat_or_be_null() {
        check(
            r#"{"topic":"t","value":"","partition":2,"timestamp":5,"headers":{"a":["1","2"],"b":null}}"#,
            "1 t Some(2) null  [a=1,a=2,b=null] Some(5)",
        );
    }

    #[test]
    fn an_error_names_its_line_and_column() {
        check(
            "\n{\"topic\":\"t\",\"value\":1}\n{\"topic\":}\n",
            "messages.jsonl:3:10: not JSON: expected value",
        );
        let unknown = "unknown field `valeu`, expected one of `topic`, `key`, `value`, `headers`, `partition`, `timestamp`";
        check(
            r#"{"topic":"t","valeu":1}"#,
            &format!("messages.jsonl:1:20: {unknown}"),
        );
    }
}
