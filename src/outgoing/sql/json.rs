//! Values of Lua as JSON, and back. Pure.
//!
//! An error is the part of a sentence behind the place of the value.

use serde_json::{Map, Number, Value as Json};

use crate::wait::Value;

/// A table with the keys 1 to n is an array, and any other an object; an empty one is an object.
pub(super) fn text(value: &Value) -> Result<String, String> {
    json(value).map(|json| json.to_string())
}

fn json(value: &Value) -> Result<Json, String> {
    Ok(match value {
        Value::Nil | Value::Null => Json::Null,
        Value::Boolean(value) => Json::Bool(*value),
        Value::Integer(value) => Json::Number((*value).into()),
        Value::Number(value) => {
            let number = Number::from_f64(*value);
            Json::Number(
                number.ok_or_else(|| format!("has the number {value}, which JSON has not"))?,
            )
        }
        Value::Bytes(bytes) => Json::String(string(bytes)?),
        Value::Table(pairs) => return table(pairs),
    })
}

fn table(pairs: &[(Value, Value)]) -> Result<Json, String> {
    if let Some(items) = items(pairs) {
        return items.into_iter().map(json).collect();
    }
    let mut map = Map::new();
    for (key, value) in pairs {
        let key = match key {
            Value::Bytes(key) => string(key)?,
            Value::Integer(key) => key.to_string(),
            other => return Err(format!("has {} as a key", other.describe())),
        };
        map.insert(key, json(value)?);
    }
    Ok(Json::Object(map))
}

/// The values of a table that is a list, and not empty.
pub(super) fn items(pairs: &[(Value, Value)]) -> Option<Vec<&Value>> {
    let mut items: Vec<Option<&Value>> = vec![None; pairs.len()];
    for (key, value) in pairs {
        let Value::Integer(key) = key else {
            return None;
        };
        let at = usize::try_from(*key).ok()?.checked_sub(1)?;
        *items.get_mut(at)? = Some(value);
    }
    items
        .into_iter()
        .collect::<Option<Vec<_>>>()
        .filter(|items| !items.is_empty())
}

fn string(bytes: &[u8]) -> Result<String, String> {
    let text = std::str::from_utf8(bytes);
    text.map(str::to_owned)
        .map_err(|_| "has a string that is not UTF-8, which JSON has not".to_owned())
}

/// The value of a document. `null` is [`Value::Null`], so that it differs from no value.
pub(super) fn value(text: &[u8]) -> Result<Value, String> {
    let json: Json = serde_json::from_slice(text).map_err(|error| error.to_string())?;
    Ok(of(json))
}

fn of(json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(value) => Value::Boolean(value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Value::Integer(number),
            None => Value::Number(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::Bytes(text.into_bytes().into()),
        Json::Array(items) => {
            let items = (1..).map(Value::Integer).zip(items.into_iter().map(of));
            Value::Table(items.collect())
        }
        Json::Object(map) => {
            let pairs = map.into_iter();
            let pairs =
                pairs.map(|(key, value)| (Value::Bytes(key.into_bytes().into()), of(value)));
            Value::Table(pairs.collect())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_comes_back_as_it_was() {
        let document =
            r#"{"a":[1,2.5,-9223372036854775808,null],"b":{"c":"ä\u0000"},"d":true,"e":[]}"#;
        let read = value(document.as_bytes()).unwrap();
        let again = value(text(&read).unwrap().as_bytes()).unwrap();
        assert_eq!(read, again);
        assert_eq!(value(b"null"), Ok(Value::Null));
        assert!(value(b"{").is_err());
    }

    #[test]
    fn only_a_list_without_holes_is_an_array() {
        let pair = |key: i64| (Value::Integer(key), Value::Integer(key));
        let shown = |pairs: Vec<(Value, Value)>| text(&Value::Table(pairs)).unwrap();
        assert_eq!(shown(vec![pair(2), pair(1)]), "[1,2]");
        assert_eq!(shown(vec![pair(1), pair(3)]), r#"{"1":1,"3":3}"#);
        assert_eq!(shown(Vec::new()), "{}");
        assert!(text(&Value::Number(f64::NAN)).unwrap_err().contains("NaN"));
        assert!(text(&Value::Bytes(b"\xff".as_slice().into())).is_err());
    }
}
