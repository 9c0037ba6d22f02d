//! The fields of a table of options: each is taken once. Pure.

use crate::nearest::suggestion;
use crate::wait::Value;

/// A table of options. An error begins with its place, behind the name of the function.
pub(in crate::lua::api::tide) struct Fields {
    /// Empty, or as ": message 2".
    pub(in crate::lua::api::tide) place: String,
    pairs: Vec<(Value, Value)>,
}

impl Fields {
    /// The table must have no fields but those of `names`: a misspelt one is told as such, before the right one is
    /// missed. `what` describes the table for the error about another value.
    pub(in crate::lua::api::tide) fn of(
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
    pub(in crate::lua::api::tide) fn take(&mut self, name: &str) -> Value {
        let is_it = |(key, _): &(Value, Value)| matches!(key, Value::Bytes(key) if **key == *name.as_bytes());
        match self.pairs.iter().position(is_it) {
            Some(index) => self.pairs.swap_remove(index).1,
            None => Value::Nil,
        }
    }

    pub(in crate::lua::api::tide) fn has(&self, name: &str) -> bool {
        let mut keys = self.pairs.iter().map(|(key, _)| key);
        keys.any(|key| matches!(key, Value::Bytes(key) if **key == *name.as_bytes()))
    }

    pub(in crate::lua::api::tide) fn error<T>(
        &self,
        message: impl AsRef<str>,
    ) -> Result<T, String> {
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
pub(in crate::lua::api::tide) fn list(value: Value) -> Result<Vec<Value>, String> {
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
pub(in crate::lua::api::tide) fn kind(value: &Value) -> &'static str {
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
