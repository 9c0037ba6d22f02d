//! Values of Lua for SQLite, and back. Pure.
//!
//! SQLite types values, not columns, so the value alone decides. A string is text where it is UTF-8, else a blob.

use rusqlite::types::{Null, ToSqlOutput, Value as Sqlite, ValueRef};

use crate::outgoing::sql::json;
use crate::wait::Value;

/// An error is the part of a sentence behind the place of the argument.
pub(super) fn parameter(value: &Value) -> Result<ToSqlOutput<'_>, String> {
    Ok(match value {
        Value::Nil => return Err("is nil; write `tide.null` for NULL".to_owned()),
        Value::Null => ToSqlOutput::from(Null),
        Value::Boolean(value) => ToSqlOutput::from(*value),
        Value::Integer(value) => ToSqlOutput::from(*value),
        Value::Number(value) if value.is_nan() => {
            return Err("is not a number (NaN), which SQLite has not".to_owned());
        }
        Value::Number(value) => ToSqlOutput::from(*value),
        Value::Bytes(bytes) => ToSqlOutput::Borrowed(match std::str::from_utf8(bytes) {
            Ok(text) => ValueRef::Text(text.as_bytes()),
            Err(_) => ValueRef::Blob(bytes),
        }),
        table @ Value::Table(_) => ToSqlOutput::Owned(Sqlite::Text(json::text(table)?)),
    })
}

pub(super) fn value(value: ValueRef<'_>) -> Value {
    match value {
        ValueRef::Null => Value::Nil,
        ValueRef::Integer(value) => Value::Integer(value),
        ValueRef::Real(value) => Value::Number(value),
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => Value::Bytes(bytes.into()),
    }
}

/// The bytes of a value, for the bound of a result.
pub(super) fn size(value: ValueRef<'_>) -> usize {
    match value {
        ValueRef::Text(bytes) | ValueRef::Blob(bytes) => bytes.len(),
        _ => 8,
    }
}
