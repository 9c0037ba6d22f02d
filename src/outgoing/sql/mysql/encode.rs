//! From the arguments of a handler to the parameters of a statement. Pure.
//!
//! The server does not tell the types of parameters, so the value alone decides.
//! An error is the part of a sentence behind the position of the argument.

use std::borrow::Cow;

use super::decode::{Column, Kind};
use super::exchange::Prepared;
use super::times;
use super::wire::put_bytes;
use crate::outgoing::sql::json;
use crate::wait::Value;

const EXECUTE: u8 = 0x17;

/// Types of parameters.
const TINY: u8 = 1;
const DOUBLE: u8 = 5;
const NULL: u8 = 6;
const LONG: u8 = 8;
const BLOB: u8 = 252;
const STRING: u8 = 253;

/// The command that runs a prepared statement.
pub(super) fn execute(prepared: Prepared, arguments: &[Value]) -> Result<Vec<u8>, String> {
    let (takes, found) = (usize::from(prepared.parameters), arguments.len());
    if takes != found {
        return Err(format!(
            "the statement has {takes} parameters, and the call has {found} arguments"
        ));
    }
    let mut body = vec![EXECUTE];
    body.extend_from_slice(&prepared.id.to_le_bytes());
    // No cursor, and one run.
    body.push(0);
    body.extend_from_slice(&1u32.to_le_bytes());
    if arguments.is_empty() {
        return Ok(body);
    }
    let mut nulls = vec![0u8; arguments.len().div_ceil(8)];
    let (mut types, mut values) = (Vec::with_capacity(2 * found), Vec::new());
    for (at, value) in arguments.iter().enumerate() {
        let written = parameter(value, &mut values);
        let written = written.map_err(|reason| format!("argument {} {reason}", at + 1))?;
        if written == NULL {
            nulls[at / 8] |= 1 << (at % 8);
        }
        types.extend_from_slice(&[written, 0]);
    }
    body.extend_from_slice(&nulls);
    // The types follow.
    body.push(1);
    body.extend_from_slice(&types);
    body.extend_from_slice(&values);
    Ok(body)
}

/// Writes a value, and returns its type.
fn parameter(value: &Value, body: &mut Vec<u8>) -> Result<u8, String> {
    Ok(match value {
        Value::Nil => return Err("is nil; write `tide.null` for NULL".to_owned()),
        Value::Null => NULL,
        Value::Boolean(value) => {
            body.push(u8::from(*value));
            TINY
        }
        Value::Integer(number) => {
            body.extend_from_slice(&number.to_le_bytes());
            LONG
        }
        Value::Number(number) if !number.is_finite() => {
            return Err(format!("is {number}, which MySQL has not"));
        }
        Value::Number(number) => {
            body.extend_from_slice(&number.to_le_bytes());
            DOUBLE
        }
        Value::Bytes(bytes) => {
            put_bytes(body, bytes);
            // What is no text is not converted to the character set of its column.
            if std::str::from_utf8(bytes).is_ok() {
                STRING
            } else {
                BLOB
            }
        }
        table @ Value::Table(_) => {
            put_bytes(body, json::text(table)?.as_bytes());
            STRING
        }
    })
}

/// The value of a row for a column of this type: milliseconds are a time there.
pub(super) fn for_column<'v>(
    column: Option<&Column>,
    value: &'v Value,
) -> Result<Cow<'v, Value>, String> {
    let text = match (column.map(|column| column.kind), value) {
        (_, Value::Nil) => return Err("is nil; write `tide.null` for NULL".to_owned()),
        (Some(Kind::Timestamp), Value::Integer(_) | Value::Number(_)) => times::of_millis(value)?,
        (Some(Kind::Date), Value::Integer(_) | Value::Number(_)) => {
            let mut text = times::of_millis(value)?;
            text.truncate("2024-02-29".len());
            text
        }
        // As a number it would be one in the document, too.
        (Some(Kind::Json), Value::Boolean(_)) => json::text(value)?,
        _ => return Ok(Cow::Borrowed(value)),
    };
    Ok(Cow::Owned(Value::Bytes(text.into_bytes().into())))
}

/// About the bytes of a value in a command, with those of its type and its placeholder.
pub(super) fn size(value: &Value) -> usize {
    let own = match value {
        Value::Bytes(bytes) => bytes.len(),
        table @ Value::Table(_) => json::text(table).map_or(0, |text| text.len()),
        _ => 8,
    };
    own + 16
}

#[cfg(test)]
mod tests {
    use super::*;

    fn prepared(parameters: u16) -> Prepared {
        Prepared { id: 7, parameters }
    }

    #[test]
    fn arguments_are_written_by_their_value() {
        let head = [EXECUTE, 7, 0, 0, 0, 0, 1, 0, 0, 0];
        assert_eq!(execute(prepared(0), &[]).unwrap(), head);
        let arguments = [
            Value::Null,
            Value::Boolean(true),
            Value::Integer(-1),
            Value::Bytes(b"a".as_slice().into()),
            Value::Bytes(b"\xff".as_slice().into()),
            Value::Table(Vec::new()),
            Value::Number(0.5),
        ];
        let written = execute(prepared(7), &arguments).unwrap();
        let mut expected = head.to_vec();
        expected.extend_from_slice(&[1, 1]);
        for number in [NULL, TINY, LONG, STRING, BLOB, STRING, DOUBLE] {
            expected.extend_from_slice(&[number, 0]);
        }
        expected.push(1);
        expected.extend_from_slice(&[0xFF; 8]);
        expected.extend_from_slice(b"\x01a\x01\xff\x02{}");
        expected.extend_from_slice(&0.5f64.to_le_bytes());
        assert_eq!(written, expected);
    }

    #[test]
    fn what_is_no_argument_is_told() {
        for (arguments, part) in [
            (vec![Value::Nil], "argument 1 is nil; write `tide.null`"),
            (vec![Value::Number(f64::NAN)], "argument 1 is NaN"),
            (
                Vec::new(),
                "the statement has 1 parameters, and the call has 0 arguments",
            ),
        ] {
            let error = execute(prepared(1), &arguments).unwrap_err();
            assert!(error.contains(part), "{error}");
        }
    }
}
