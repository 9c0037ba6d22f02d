//! The fields of a table of options: each is taken once. Pure.

use std::time::Duration;

use crate::duration;
use crate::nearest::suggestion;
use crate::wait::Value;

/// A table of options. An error begins with its place, behind the name of the function.
pub(in crate::lua) struct Fields {
    /// Empty, or as ": message 2".
    pub(super) place: String,
    pairs: Vec<(Value, Value)>,
}

impl Fields {
    /// The table must have no fields but those of `names`: a misspelt one is told as such, before the right one is
    /// missed. `what` describes the table for the error about another value.
    pub(in crate::lua::api) fn of(
        value: Value,
        place: String,
        what: &str,
        names: &[&str],
    ) -> Result<Self, String> {
        let Value::Table(pairs) = value else {
            return Err(format!("{place} takes {what}, not {}", kind(&value)));
        };
        let is_known = |(key, _): &&(Value, Value)| matches!(key, Value::Bytes(key) if names.iter().any(|name| name.as_bytes() == &**key));
        match pairs.iter().find(|pair| !is_known(pair)) {
            Some((key, _)) => Err(unknown(&place, key, names)),
            None => Ok(Self { place, pairs }),
        }
    }

    /// `Nil` for a field that is not there.
    pub(super) fn take(&mut self, name: &str) -> Value {
        let is_it = |(key, _): &(Value, Value)| matches!(key, Value::Bytes(key) if **key == *name.as_bytes());
        match self.pairs.iter().position(is_it) {
            Some(index) => self.pairs.swap_remove(index).1,
            None => Value::Nil,
        }
    }

    pub(super) fn has(&self, name: &str) -> bool {
        let mut keys = self.pairs.iter().map(|(key, _)| key);
        keys.any(|key| matches!(key, Value::Bytes(key) if **key == *name.as_bytes()))
    }

    /// `None` for a field that is not there.
    pub(super) fn boolean(&mut self, name: &str) -> Result<Option<bool>, String> {
        match self.take(name) {
            Value::Nil => Ok(None),
            Value::Boolean(is_so) => Ok(Some(is_so)),
            other => self.error(format!("`{name}` is {}, not a boolean", kind(&other))),
        }
    }

    pub(super) fn error<T>(&self, message: impl AsRef<str>) -> Result<T, String> {
        Err(format!("{}: {}", self.place, message.as_ref()))
    }
}

fn unknown(place: &str, key: &Value, names: &[&str]) -> String {
    match key {
        Value::Bytes(key) => {
            let key = String::from_utf8_lossy(key);
            let nearest = suggestion(&key, names);
            format!("{place} knows no option `{key}`, {nearest}")
        }
        Value::Integer(1) => {
            let hint = if names.contains(&"messages") {
                "write records into `messages`".to_owned()
            } else {
                suggestion("", names)
            };
            format!("{place} has a list where named fields are expected; {hint}")
        }
        other => format!(
            "{place} has {} as the name of an option; {}",
            kind(other),
            suggestion("", names)
        ),
    }
}

/// The values of a list; an error describes the value that is none.
pub(super) fn list(value: Value) -> Result<Vec<Value>, String> {
    let Value::Table(pairs) = value else {
        return Err(kind(&value).to_owned());
    };
    let mut items = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        match key {
            Value::Integer(index) => items.push((index, value)),
            _ => return Err("a table with named fields".to_owned()),
        }
    }
    items.sort_by_key(|(index, _)| *index);
    let is_whole = items.iter().zip(1..).all(|((index, _), at)| *index == at);
    if !is_whole {
        return Err("a list with a hole".to_owned());
    }
    Ok(items.into_iter().map(|(_, value)| value).collect())
}

/// The type of a value, for errors.
pub(super) fn kind(value: &Value) -> &'static str {
    match value {
        Value::Nil => "nil",
        Value::Boolean(_) => "a boolean",
        Value::Integer(_) => "an integer",
        Value::Number(_) => "a number",
        Value::Bytes(_) => "a string",
        Value::Null => "null",
        Value::Table(_) => "a table",
    }
}

pub(super) fn timeout(fields: &mut Fields) -> Result<Option<Duration>, String> {
    let value = fields.take("timeout");
    let timeout = match &value {
        Value::Nil => return Ok(None),
        Value::Integer(ms) => duration::of_ms(*ms as f64),
        Value::Number(ms) => duration::of_ms(*ms),
        Value::Bytes(text) => std::str::from_utf8(text).ok().and_then(duration::parse),
        _ => None,
    };
    if timeout.is_none_or(|timeout| timeout.is_zero()) {
        return fields.error(format!(
            "`timeout` is {}, not {} above 0",
            shown(&value),
            duration::FORM
        ));
    }
    Ok(timeout)
}

/// An integer, also one that Lua's division made a float.
pub(super) fn whole(value: &Value) -> Option<i64> {
    match value {
        Value::Integer(number) => Some(*number),
        Value::Number(number) if number.fract() == 0.0 && number.abs() < 2f64.powi(53) => {
            Some(*number as i64)
        }
        _ => None,
    }
}

/// A value for errors: numbers and short strings themselves, else the type.
pub(super) fn shown(value: &Value) -> String {
    match value {
        Value::Integer(number) => number.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Bytes(bytes) if bytes.len() <= 32 => format!("{:?}", String::from_utf8_lossy(bytes)),
        other => kind(other).to_owned(),
    }
}

/// An integer from `least` to `most`; `None` for a field that is not there.
pub(super) fn integer(
    fields: &mut Fields,
    name: &str,
    least: i64,
    most: i64,
) -> Result<Option<i64>, String> {
    let value = fields.take(name);
    match whole(&value) {
        _ if value == Value::Nil => Ok(None),
        Some(number) if (least..=most).contains(&number) => Ok(Some(number)),
        _ => fields.error(format!(
            "`{name}` is {}, not an integer from {least} to {most}",
            shown(&value)
        )),
    }
}
