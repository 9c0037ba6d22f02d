//! The fields of a table of options: each is taken once, and what is left is unknown. Pure.

use crate::nearest::suggestion;
use crate::wait::Value;

/// A table of options. An error begins with its place, behind the name of the function.
pub(super) struct Fields {
    /// Empty, or as ": message 2".
    pub(super) place: String,
    pairs: Vec<(Value, Value)>,
}

impl Fields {
    /// `what` describes the table for the error about another value.
    pub(super) fn of(value: Value, place: String, what: &str) -> Result<Self, String> {
        match value {
            Value::Table(pairs) => Ok(Self { place, pairs }),
            other => Err(format!("{place} takes {what}, not {}", kind(&other))),
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

    /// An error names the first field that nobody has taken, and the nearest of `names`.
    pub(super) fn end(self, names: &[&str]) -> Result<(), String> {
        let Some((key, _)) = self.pairs.first() else {
            return Ok(());
        };
        let place = self.place;
        match key {
            Value::Bytes(key) => {
                let key = String::from_utf8_lossy(key);
                let nearest = suggestion(&key, names);
                Err(format!("{place} knows no option `{key}`, {nearest}"))
            }
            Value::Integer(1) => Err(format!(
                "{place} has a list where named fields are expected; write records into `messages`"
            )),
            other => Err(format!(
                "{place} has {} as the name of an option; {}",
                kind(other),
                suggestion("", names)
            )),
        }
    }

    pub(super) fn error<T>(&self, message: impl AsRef<str>) -> Result<T, String> {
        Err(format!("{}: {}", self.place, message.as_ref()))
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
