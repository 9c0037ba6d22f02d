//! From the columns of PostgreSQL to the values of a handler. Pure.
//!
//! Columns come as text, in which every type has a form, but for `bytea` and for times in milliseconds.

use postgres_protocol::types::{bytea_from_sql, date_from_sql, timestamp_from_sql};

use super::arrays;
use super::types::{Kind, kind};
use crate::config::Timestamps;
use crate::outgoing::sql::json;
use crate::wait::Value;

/// Milliseconds from the epoch to the first day of 2000, from which PostgreSQL counts.
const SINCE_2000: i64 = 946_684_800_000;
const DAY: i64 = 86_400_000;

/// One column of a result.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: Box<[u8]>,
    pub(super) oid: u32,
}

/// Whether the column comes as bytes, and not as text.
pub(super) fn is_binary(oid: u32, timestamps: Timestamps) -> bool {
    match kind(oid) {
        Kind::Bytea => true,
        Kind::Timestamp | Kind::Date => timestamps == Timestamps::Ms,
        _ => false,
    }
}

pub(super) fn value(oid: u32, bytes: &[u8], timestamps: Timestamps) -> Value {
    let kind = kind(oid);
    match kind {
        Kind::Bytea => Value::Bytes(bytea_from_sql(bytes).into()),
        Kind::Timestamp | Kind::Date if timestamps == Timestamps::Ms => {
            time(kind, bytes).unwrap_or_else(|| Value::Bytes(bytes.into()))
        }
        _ => text(kind, bytes),
    }
}

fn text(kind: Kind, bytes: &[u8]) -> Value {
    let string = || Value::Bytes(bytes.into());
    let parsed = std::str::from_utf8(bytes).ok().and_then(|text| match kind {
        Kind::Bool => Some(Value::Boolean(text == "t")),
        Kind::Integer(..) => text.parse().ok().map(Value::Integer),
        Kind::Float => text.parse().ok().map(Value::Number),
        Kind::Json => json::value(bytes).ok(),
        Kind::Array(element) => {
            let element = super::types::kind(element);
            arrays::list(bytes, &|bytes| element_value(element, bytes))
        }
        _ => None,
    });
    parsed.unwrap_or_else(string)
}

fn element_value(kind: Kind, bytes: &[u8]) -> Value {
    match kind {
        Kind::Bytea => unhexed(bytes).unwrap_or_else(|| Value::Bytes(bytes.into())),
        kind => text(kind, bytes),
    }
}

fn unhexed(text: &[u8]) -> Option<Value> {
    let text = std::str::from_utf8(text.strip_prefix(b"\\x")?).ok()?;
    let bytes = (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(text.get(at..at + 2)?, 16).ok());
    Some(Value::Bytes(bytes.collect::<Option<Vec<u8>>>()?.into()))
}

fn time(kind: Kind, bytes: &[u8]) -> Option<Value> {
    let (ms, is_least, is_most) = if kind == Kind::Date {
        let days = date_from_sql(bytes).ok()?;
        (i64::from(days) * DAY, days == i32::MIN, days == i32::MAX)
    } else {
        let micros = timestamp_from_sql(bytes).ok()?;
        (
            micros.div_euclid(1_000),
            micros == i64::MIN,
            micros == i64::MAX,
        )
    };
    Some(match (is_least, is_most) {
        (true, _) => Value::Number(f64::NEG_INFINITY),
        (_, true) => Value::Number(f64::INFINITY),
        _ => Value::Integer(ms + SINCE_2000),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &[u8]) -> Value {
        Value::Bytes(text.into())
    }

    #[test]
    fn every_type_has_its_value() {
        let list = |items: Vec<Value>| Value::Table((1..).map(Value::Integer).zip(items).collect());
        for (oid, text, expected) in [
            (16, &b"f"[..], Value::Boolean(false)),
            (20, b"9223372036854775807", Value::Integer(i64::MAX)),
            (701, b"-Infinity", Value::Number(f64::NEG_INFINITY)),
            (701, b"0.1", Value::Number(0.1)),
            (1700, b"1.10", bytes(b"1.10")),
            (2950, b"a-b", bytes(b"a-b")),
            (
                3802,
                b"[1, null]",
                list(vec![Value::Integer(1), Value::Null]),
            ),
            (3802, b"null", Value::Null),
            (
                1007,
                b"{1,NULL}",
                list(vec![Value::Integer(1), Value::Null]),
            ),
            (
                1000,
                b"{t,f}",
                list(vec![Value::Boolean(true), Value::Boolean(false)]),
            ),
            (1001, b"{\"\\\\x00ff\"}", list(vec![bytes(b"\0\xff")])),
            (17, b"\0\xff", bytes(b"\0\xff")),
            (99_999, b"anything", bytes(b"anything")),
        ] {
            assert_eq!(value(oid, text, Timestamps::String), expected, "{oid}");
        }
        assert!(matches!(value(701, b"NaN", Timestamps::Ms), Value::Number(n) if n.is_nan()));
    }

    #[test]
    fn a_time_is_in_milliseconds_or_a_string() {
        let ms = |oid, bytes: &[u8]| value(oid, bytes, Timestamps::Ms);
        assert_eq!(ms(1184, &0i64.to_be_bytes()), Value::Integer(SINCE_2000));
        assert_eq!(
            ms(1114, &(-1i64).to_be_bytes()),
            Value::Integer(SINCE_2000 - 1)
        );
        assert_eq!(
            ms(1184, &i64::MAX.to_be_bytes()),
            Value::Number(f64::INFINITY)
        );
        assert_eq!(
            ms(1082, &1i32.to_be_bytes()),
            Value::Integer(SINCE_2000 + DAY)
        );
        assert_eq!(
            ms(1082, &i32::MIN.to_be_bytes()),
            Value::Number(f64::NEG_INFINITY)
        );
        let text = b"2024-01-02 03:04:05+00";
        assert_eq!(value(1184, text, Timestamps::String), bytes(text));
        assert!(is_binary(1184, Timestamps::Ms) && !is_binary(1184, Timestamps::String));
    }
}
