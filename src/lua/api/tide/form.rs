//! The encoding of queries and forms. Pure.

use std::fmt::Write as _;

use super::options::{kind, list};
use crate::wait::Value;

/// The pairs of a table, in the order of their names. An error is the part of a sentence behind "has".
pub(super) fn encoded(pairs: Vec<(Value, Value)>) -> Result<String, String> {
    let mut texts: Vec<(Box<[u8]>, Vec<u8>)> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Value::Bytes(name) = name else {
            return Err(format!("{} as a name, not a string", kind(&name)));
        };
        for value in one_or_more(value) {
            let text = match value {
                Value::Bytes(bytes) => bytes.into_vec(),
                Value::Integer(_) | Value::Number(_) | Value::Boolean(_) => {
                    value.describe().into_bytes()
                }
                other => {
                    let name = String::from_utf8_lossy(&name);
                    return Err(format!(
                        "{} as `{name}`, not a string, a number, a boolean or a list of them",
                        kind(&other)
                    ));
                }
            };
            texts.push((name.clone(), text));
        }
    }
    texts.sort_by(|(one, _), (other, _)| one.cmp(other));
    let mut text = String::new();
    for (name, value) in texts {
        if !text.is_empty() {
            text.push('&');
        }
        encode(&mut text, &name);
        text.push('=');
        encode(&mut text, &value);
    }
    Ok(text)
}

/// The values of a list, or the value itself.
pub(super) fn one_or_more(value: Value) -> Vec<Value> {
    match value {
        table @ Value::Table(_) => list(table.clone()).unwrap_or_else(|_| vec![table]),
        value => vec![value],
    }
}

/// Letters, digits and `-._~` stay.
pub(super) fn encode(text: &mut String, bytes: &[u8]) {
    for byte in bytes {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(byte) {
            text.push(char::from(*byte));
        } else {
            // Writing to a string cannot fail.
            let _ = write!(text, "%{byte:02X}");
        }
    }
}
