//! One line is 64 KiB at most. A longer one is cut, with a mark, and keeps its form: a line of JSON stays an object.

use std::borrow::Cow;
use std::fmt;

use serde::de::{Deserialize, Deserializer, MapAccess, Visitor};
use serde_json::Value;

use crate::log::{LINE_BYTES_MAX, cut};

/// The first limit for one string of an object.
const TEXT_BYTES_MAX: usize = LINE_BYTES_MAX / 2;
/// Room for the mark, and for the end of the line.
const MARK_BYTES: usize = 64;

/// A short enough line is returned unchanged.
pub(super) fn fit(line: &[u8]) -> Cow<'_, [u8]> {
    if line.len() <= LINE_BYTES_MAX {
        return Cow::Borrowed(line);
    }
    let cut = object(line).unwrap_or_else(|| {
        let text = line.strip_suffix(b"\n").unwrap_or(line);
        cut(text, LINE_BYTES_MAX - MARK_BYTES).into_owned()
    });
    Cow::Owned((cut + "\n").into_bytes())
}

/// The fields of an object in their order, with shorter strings; `None` if the line is no object.
fn object(line: &[u8]) -> Option<String> {
    let fields: Fields = serde_json::from_slice(line).ok()?;
    let mut most = TEXT_BYTES_MAX;
    while most > 0 {
        let text = fields.write(most)?;
        if text.len() < LINE_BYTES_MAX {
            return Some(text);
        }
        most /= 2;
    }
    None
}

struct Fields(Vec<(String, Value)>);

impl Fields {
    /// Writes the object with at most this many bytes of each string.
    fn write(&self, most: usize) -> Option<String> {
        let mut text = String::from("{");
        for (name, value) in &self.0 {
            if text.len() > 1 {
                text.push(',');
            }
            text += &serde_json::to_string(name).ok()?;
            text.push(':');
            text += &match value {
                Value::String(long) if long.len() > most + MARK_BYTES => {
                    serde_json::to_string(&cut(long.as_bytes(), most)).ok()?
                }
                other => serde_json::to_string(other).ok()?,
            };
        }
        text.push('}');
        Some(text)
    }
}

impl<'de> Deserialize<'de> for Fields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Object;

        impl<'de> Visitor<'de> for Object {
            type Value = Fields;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Fields, A::Error> {
                let mut fields = Vec::new();
                while let Some(field) = map.next_entry()? {
                    fields.push(field);
                }
                Ok(Fields(fields))
            }
        }

        deserializer.deserialize_map(Object)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fitted(line: &str) -> String {
        String::from_utf8(fit(line.as_bytes()).into_owned()).unwrap()
    }

    #[test]
    fn a_short_line_stays_as_it_is() {
        assert_eq!(fitted("{\"a\":1}\n"), "{\"a\":1}\n");
    }

    #[test]
    fn a_long_text_is_cut_with_a_mark() {
        let line = fitted(&("WARN ".to_owned() + &"x".repeat(100_000) + "\n"));
        assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
        assert!(line.starts_with("WARN xxx") && line.ends_with("x [cut: 100005 bytes]\n"));
    }

    #[test]
    fn a_long_object_stays_one_with_its_fields_in_their_order() {
        for text in ["x", "\\u0001", "\\\""] {
            let long = text.repeat(100_000);
            let line = format!(
                "{{\"level\":\"INFO\",\"message\":\"{long}\",\"error\":\"{long}\",\"target\":\"log\",\"n\":1}}\n"
            );
            let line = fitted(&line);
            assert!(line.len() <= LINE_BYTES_MAX, "{}", line.len());
            let object: Value = serde_json::from_str(&line).unwrap();
            assert_eq!(object["level"], "INFO");
            assert_eq!(object["n"], 1);
            for name in ["message", "error"] {
                let text = object[name].as_str().unwrap();
                assert!(text.ends_with(" [cut: 100000 bytes]"), "{name}");
                assert!(text.len() > 1000, "{name}");
            }
            assert!(line.find("message") < line.find("target"));
        }
    }
}
