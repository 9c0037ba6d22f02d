//! From the arguments of a handler to the parameters of a statement, by the types that the server has told. Pure.
//!
//! Parameters go as text, in which every type has a form, but for `bytea`: the library has no binary form of `numeric` and
//! of most others. An error is the part of a sentence behind the place of the argument.

use bytes::BytesMut;
use postgres_protocol::IsNull;
use postgres_protocol::types::bytea_to_sql;

use super::arrays;
use super::types::{Kind, kind, name};
use crate::outgoing::sql::{calendar, json};
use crate::rules::hex;
use crate::wait::Value;

/// A parameter in the form of its type.
#[derive(Debug, PartialEq)]
pub(super) enum Parameter {
    Null,
    Text(Vec<u8>),
    /// The bytes of a `bytea` themselves.
    Binary(Vec<u8>),
}

impl Parameter {
    pub(super) fn is_binary(&self) -> bool {
        matches!(self, Self::Binary(_))
    }

    /// Appends its bytes to a message.
    pub(super) fn write(&self, buffer: &mut BytesMut) -> IsNull {
        match self {
            Self::Null => return IsNull::Yes,
            Self::Text(text) => buffer.extend_from_slice(text),
            Self::Binary(bytes) => bytea_to_sql(bytes, buffer),
        }
        IsNull::No
    }
}

pub(super) fn parameter(oid: u32, value: &Value) -> Result<Parameter, String> {
    match (kind(oid), value) {
        (_, Value::Null) => Ok(Parameter::Null),
        (Kind::Bytea, Value::Bytes(bytes)) => Ok(Parameter::Binary(bytes.to_vec())),
        (kind, value) => text(oid, kind, value).map(Parameter::Text),
    }
}

/// The value as `COPY` takes it: `None` for null.
pub(super) fn copied(oid: u32, value: &Value) -> Result<Option<Vec<u8>>, String> {
    Ok(match parameter(oid, value)? {
        Parameter::Null => None,
        Parameter::Text(text) => Some(text),
        Parameter::Binary(bytes) => Some(format!("\\x{}", hex::encoded(&bytes)).into_bytes()),
    })
}

fn text(oid: u32, kind: Kind, value: &Value) -> Result<Vec<u8>, String> {
    let wrong = |takes: &str| {
        let (found, name) = (described(value), name(oid));
        Err(format!(
            "is {found}, and the parameter is {name}, which takes {takes}"
        ))
    };
    Ok(match (kind, value) {
        (_, Value::Nil) => return Err("is nil; write `tide.null` for NULL".to_owned()),
        (Kind::Bool, Value::Boolean(value)) => if *value { b"t" } else { b"f" }.to_vec(),
        (Kind::Bool, _) => return wrong("true or false"),
        (Kind::Integer(least, most), value) => match whole(value) {
            Some(number) if (least..=most).contains(&number) => number.to_string().into_bytes(),
            Some(_) => return wrong(&format!("an integer from {least} to {most}")),
            None if matches!(value, Value::Bytes(_)) => {
                return wrong("an integer; convert it by `math.tointeger`");
            }
            None => return wrong("an integer"),
        },
        (Kind::Float | Kind::Numeric | Kind::Other, Value::Integer(number)) => {
            number.to_string().into_bytes()
        }
        (Kind::Float | Kind::Numeric | Kind::Other, Value::Number(number)) => float(*number),
        // As the database writes it; JSON is its text.
        (
            Kind::Numeric
            | Kind::Text
            | Kind::Json
            | Kind::Timestamp
            | Kind::Date
            | Kind::Array(_)
            | Kind::Other,
            Value::Bytes(text),
        ) => utf8(text)?,
        (Kind::Json, value) => json::text(value)?.into_bytes(),
        (Kind::Timestamp | Kind::Date, Value::Integer(_) | Value::Number(_)) => time(kind, value)?,
        (Kind::Array(element), Value::Table(pairs)) => array(element, pairs)?,
        // An array of such elements.
        (Kind::Other, Value::Table(pairs)) => array(0, pairs)?,
        (Kind::Text, Value::Integer(_) | Value::Number(_)) => {
            return wrong("a string; convert it by `tostring`");
        }
        (Kind::Text, Value::Table(_)) => {
            return wrong("a string; `tide.json.encode` makes one of it");
        }
        (Kind::Text | Kind::Bytea, _) => return wrong("a string"),
        (Kind::Float, _) => return wrong("a number"),
        (Kind::Numeric, _) => return wrong("a number, or its digits as a string"),
        (Kind::Timestamp | Kind::Date, _) => {
            return wrong("milliseconds since the epoch, or a string as the database writes it");
        }
        (Kind::Array(_), _) => return wrong("a list"),
        (Kind::Other, _) => return wrong("a string as the database writes it"),
    })
}

/// For errors: the value itself may be secret.
fn described(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "a boolean",
        Value::Integer(_) => "an integer",
        Value::Number(_) => "a number with a fraction",
        Value::Bytes(_) => "a string",
        Value::Null => "null",
        Value::Table(_) => "a table",
    }
}

/// An integer, also one that Lua's division made a float.
fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => {
            Some(*number as i64)
        }
        _ => None,
    }
}

fn float(number: f64) -> Vec<u8> {
    if number.is_nan() {
        return b"NaN".to_vec();
    }
    if number.is_infinite() {
        return if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .into();
    }
    // The shortest digits that mean this number.
    format!("{number:?}").into_bytes()
}

fn utf8(bytes: &[u8]) -> Result<Vec<u8>, String> {
    if bytes.contains(&0) {
        return Err("has a zero byte, which only `bytea` takes".to_owned());
    }
    if std::str::from_utf8(bytes).is_err() {
        return Err("is a string that is not UTF-8, which only `bytea` takes".to_owned());
    }
    Ok(bytes.to_vec())
}

/// Milliseconds since the epoch.
fn time(kind: Kind, value: &Value) -> Result<Vec<u8>, String> {
    let micros = match value {
        Value::Integer(ms) => ms.checked_mul(1_000),
        Value::Number(ms) if ms.is_infinite() => {
            return Ok(if *ms > 0.0 { "infinity" } else { "-infinity" }.into());
        }
        // Beyond a million years there is no calendar.
        Value::Number(ms) if ms.abs() < 1e17 => Some((ms * 1_000.0).floor() as i64),
        _ => None,
    };
    let text = micros.and_then(calendar::timestamp).map(|text| match kind {
        // The day in UTC.
        Kind::Date => text[..10].to_owned(),
        _ => text + "+00",
    });
    let text = text.ok_or("is a time outside of the years 1 to 9999; write a string")?;
    Ok(text.into_bytes())
}

fn array(element: u32, pairs: &[(Value, Value)]) -> Result<Vec<u8>, String> {
    if pairs.is_empty() {
        return Ok(b"{}".to_vec());
    }
    let items = json::items(pairs).ok_or("is a table that is no list")?;
    let mut text = b"{".to_vec();
    for (item, number) in items.into_iter().zip(1..) {
        if number > 1 {
            text.push(b',');
        }
        // A list within a list is a further dimension, but one in a list of JSON is a document.
        if let (Value::Table(inner), false) = (item, kind(element) == Kind::Json) {
            text.extend(array(element, inner)?);
            continue;
        }
        let item = copied(element, item)
            .map_err(|reason| format!("has element {number}, which {reason}"))?;
        arrays::push(&mut text, item.as_deref());
    }
    text.push(b'}');
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bytes(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn list(values: Vec<Value>) -> Value {
        Value::Table((1..).map(Value::Integer).zip(values).collect())
    }

    #[test]
    fn every_type_takes_its_values() {
        for (oid, value, expected) in [
            (16, Value::Boolean(true), "t"),
            (20, Value::Integer(i64::MIN), "-9223372036854775808"),
            (21, Value::Integer(-32_768), "-32768"),
            (23, Value::Number(7.0), "7"),
            (701, Value::Number(0.1), "0.1"),
            (701, Value::Number(1e300), "1e300"),
            (701, Value::Number(f64::NEG_INFINITY), "-Infinity"),
            (700, Value::Integer(3), "3"),
            (
                1700,
                bytes("12345678901234567890.12"),
                "12345678901234567890.12",
            ),
            (1700, Value::Number(0.5), "0.5"),
            (25, bytes("ä"), "ä"),
            (2950, bytes("a-b"), "a-b"),
            (3802, bytes("{\"a\":1}"), "{\"a\":1}"),
            (3802, list(vec![Value::Integer(1), Value::Null]), "[1,null]"),
            (114, Value::Boolean(false), "false"),
            (
                1184,
                Value::Integer(1_709_210_096_789),
                "2024-02-29 12:34:56.789000+00",
            ),
            (1114, Value::Number(0.5), "1970-01-01 00:00:00.000500+00"),
            (1082, Value::Integer(-1), "1969-12-31"),
            (1184, bytes("now"), "now"),
            (
                1007,
                list(vec![Value::Integer(1), Value::Null]),
                "{\"1\",NULL}",
            ),
            (1009, list(vec![bytes("a\"b")]), "{\"a\\\"b\"}"),
            (1007, list(vec![list(vec![Value::Integer(1)])]), "{{\"1\"}}"),
            (3807, list(vec![list(vec![Value::Integer(1)])]), "{\"[1]\"}"),
            (99_999, list(vec![bytes("x")]), "{\"x\"}"),
            (99_999, Value::Integer(1), "1"),
        ] {
            let found = parameter(oid, &value).unwrap();
            assert_eq!(
                found,
                Parameter::Text(expected.as_bytes().to_vec()),
                "{oid} {value:?}"
            );
        }
        let binary = Value::Bytes(b"\0\xff".as_slice().into());
        assert_eq!(
            parameter(17, &binary),
            Ok(Parameter::Binary(b"\0\xff".to_vec()))
        );
        assert_eq!(copied(17, &binary), Ok(Some(b"\\x00ff".to_vec())));
        assert_eq!(parameter(23, &Value::Null), Ok(Parameter::Null));
    }

    #[test]
    fn another_value_is_told_with_its_type() {
        for (oid, value, expected) in [
            (
                23,
                bytes("7"),
                "is a string, and the parameter is integer, which takes an integer; convert it",
            ),
            (
                21,
                Value::Integer(40_000),
                "takes an integer from -32768 to 32767",
            ),
            (
                23,
                Value::Number(0.5),
                "is a number with a fraction, and the parameter is integer",
            ),
            (
                25,
                Value::Integer(7),
                "the parameter is text, which takes a string; convert it by `tostring`",
            ),
            (16, Value::Integer(1), "takes true or false"),
            (25, Value::Nil, "is nil; write `tide.null` for NULL"),
            (25, bytes("a\0"), "has a zero byte"),
            (25, Value::Bytes(b"\xff".as_slice().into()), "not UTF-8"),
            (701, bytes("1"), "is double precision, which takes a number"),
            (
                1007,
                list(vec![Value::Integer(1), bytes("x")]),
                "has element 2, which is a string",
            ),
            (
                1007,
                Value::Table(vec![(bytes("a"), Value::Integer(1))]),
                "no list",
            ),
            (1184, Value::Integer(i64::MAX), "outside of the years"),
            (3802, Value::Number(f64::NAN), "has the number NaN"),
            (99_999, Value::Boolean(true), "a type with the OID 99999"),
        ] {
            let error = parameter(oid, &value).unwrap_err();
            assert!(error.contains(expected), "{oid} {value:?}: {error}");
            assert!(!error.contains("40000"), "{error}");
        }
    }
}
