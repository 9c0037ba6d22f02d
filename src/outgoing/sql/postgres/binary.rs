//! Rows in the binary form of `COPY`, which spares both sides the digits, and the server the search for escapes. Pure.
//!
//! <https://www.postgresql.org/docs/current/sql-copy.html#id-1.9.55.9.4> has the format. A type or a value without a
//! binary form here makes all rows go as text; so does a wrong one, since the other form has the errors.

use super::types::{Kind, kind};
use crate::outgoing::sql::{calendar, json};
use crate::wait::Value;
use crate::wait::sql::Insert;

/// The signature, no flags, and no extension of the header.
const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
/// In place of a number of columns.
const END: [u8; 2] = (-1_i16).to_be_bytes();
/// In place of a length.
const NULL: [u8; 4] = (-1_i32).to_be_bytes();
/// 2000-01-01, from which the server counts, in microseconds since 1970.
const EPOCH: i64 = 946_684_800_000_000;
const DAY: i64 = 86_400_000_000;
/// The first byte of a `jsonb`.
const JSONB_VERSION: u8 = 1;

const INT2: u32 = 21;
const INT4: u32 = 23;
const INT8: u32 = 20;
const FLOAT8: u32 = 701;
const JSONB: u32 = 3802;
/// Those of texts whose bytes the server takes as they are.
const TEXTS: [u32; 3] = [25, 1042, 1043];

/// The rows with what is around them; `None` where they go as text.
pub(super) fn rows(insert: &Insert, types: &[u32]) -> Option<Vec<u8>> {
    let width = i16::try_from(insert.columns.len()).ok()?;
    let mut binary = HEADER.to_vec();
    for row in &insert.rows {
        binary.extend_from_slice(&width.to_be_bytes());
        for (at, value) in row.iter().enumerate() {
            push(&mut binary, *types.get(at)?, value)?;
        }
    }
    binary.extend_from_slice(&END);
    Some(binary)
}

fn push(binary: &mut Vec<u8>, oid: u32, value: &Value) -> Option<()> {
    let mut put = |parts: [&[u8]; 2]| {
        let length = i32::try_from(parts[0].len() + parts[1].len()).ok()?;
        binary.extend_from_slice(&length.to_be_bytes());
        binary.extend_from_slice(parts[0]);
        binary.extend_from_slice(parts[1]);
        Some(())
    };
    match (kind(oid), value) {
        (_, Value::Null) => {
            binary.extend_from_slice(&NULL);
            Some(())
        }
        (Kind::Bool, Value::Boolean(value)) => put([&[u8::from(*value)], &[]]),
        (Kind::Integer(..), Value::Integer(number)) => match oid {
            INT2 => put([&i16::try_from(*number).ok()?.to_be_bytes(), &[]]),
            INT4 => put([&i32::try_from(*number).ok()?.to_be_bytes(), &[]]),
            INT8 => put([&number.to_be_bytes(), &[]]),
            _ => None,
        },
        (Kind::Float, Value::Number(number)) if oid == FLOAT8 => put([&number.to_be_bytes(), &[]]),
        (Kind::Float, Value::Integer(number)) if oid == FLOAT8 => {
            put([&(*number as f64).to_be_bytes(), &[]])
        }
        (Kind::Text, Value::Bytes(text)) if TEXTS.contains(&oid) => put([plain(text)?, &[]]),
        (Kind::Bytea, Value::Bytes(bytes)) => put([bytes, &[]]),
        (Kind::Json, value) => {
            let version: &[u8] = if oid == JSONB { &[JSONB_VERSION] } else { &[] };
            match value {
                Value::Nil => None,
                Value::Bytes(text) => put([version, plain(text)?]),
                value => put([version, json::text(value).ok()?.as_bytes()]),
            }
        }
        (kind @ (Kind::Timestamp | Kind::Date), Value::Integer(ms)) => {
            let micros = ms.checked_mul(1_000)?;
            // The years that the form of text has.
            calendar::timestamp(micros)?;
            let since = micros.checked_sub(EPOCH)?;
            match kind {
                Kind::Date => {
                    let days = i32::try_from(since.div_euclid(DAY)).ok()?;
                    put([&days.to_be_bytes(), &[]])
                }
                _ => put([&since.to_be_bytes(), &[]]),
            }
        }
        _ => None,
    }
}

fn plain(text: &[u8]) -> Option<&[u8]> {
    (!text.contains(&0) && std::str::from_utf8(text).is_ok()).then_some(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(oid: u32, value: Value) -> Option<Vec<u8>> {
        let insert = Insert {
            table: vec!["t".to_owned()],
            columns: vec!["c".to_owned()],
            rows: vec![vec![value]],
            on_conflict: None,
        };
        let all = rows(&insert, &[oid])?;
        let row = all.strip_prefix(HEADER).unwrap();
        let row = row.strip_prefix(&[0, 1]).unwrap();
        Some(row.strip_suffix(&END).unwrap().to_vec())
    }

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    #[test]
    fn a_value_has_its_length_before_it() {
        let hour = |ms| one(1114, Value::Integer(ms)).unwrap();
        assert_eq!(one(25, Value::Null).unwrap(), [0xff; 4]);
        assert_eq!(one(25, text("ab")).unwrap(), [0, 0, 0, 2, b'a', b'b']);
        assert_eq!(
            one(21, Value::Integer(-2)).unwrap(),
            [0, 0, 0, 2, 0xff, 0xfe]
        );
        assert_eq!(one(3802, text("7")).unwrap(), [0, 0, 0, 2, 1, b'7']);
        assert_eq!(one(114, text("7")).unwrap(), [0, 0, 0, 1, b'7']);
        assert_eq!(
            hour(946_684_800_001),
            [0, 0, 0, 8, 0, 0, 0, 0, 0, 0, 3, 232]
        );
        let eve = one(1082, Value::Integer(946_684_799_999)).unwrap();
        assert_eq!(eve, [0, 0, 0, 4, 0xff, 0xff, 0xff, 0xff]);
    }

    #[test]
    fn what_has_no_binary_form_or_is_wrong_goes_as_text() {
        for (oid, value) in [
            (1700, Value::Integer(1)),
            (700, Value::Number(0.1)),
            (21, Value::Integer(40_000)),
            (20, Value::Number(7.0)),
            (25, Value::Integer(7)),
            (25, text("a\0b")),
            (25, Value::Bytes([0xff].as_slice().into())),
            (1114, text("2024-02-29")),
            (1114, Value::Integer(i64::MAX)),
            (114, Value::Nil),
            (2950, text("00000000-0000-0000-0000-000000000000")),
            (1007, Value::Table(Vec::new())),
        ] {
            assert_eq!(one(oid, value.clone()), None, "{oid} {value:?}");
        }
    }
}
