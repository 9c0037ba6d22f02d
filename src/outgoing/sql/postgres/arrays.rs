//! Arrays as PostgreSQL writes them: `{1,NULL,"a b",{…}}`. Pure.

use crate::wait::Value;

/// Appends one element.
pub(super) fn push(text: &mut Vec<u8>, element: Option<&[u8]>) {
    let Some(element) = element else {
        text.extend_from_slice(b"NULL");
        return;
    };
    text.push(b'"');
    for byte in element {
        if matches!(byte, b'"' | b'\\') {
            text.push(b'\\');
        }
        text.push(*byte);
    }
    text.push(b'"');
}

/// The list of an array, whose elements `value` reads; null is [`Value::Null`], so that the list has no hole. `None`
/// where the text is no array.
pub(super) fn list(text: &[u8], value: &dyn Fn(&[u8]) -> Value) -> Option<Value> {
    // Bounds other than from 1 come first: `[0:1]={1,2}`.
    let start = if text.first() == Some(&b'[') {
        text.iter().position(|byte| *byte == b'=')? + 1
    } else {
        0
    };
    let mut reading = Reading {
        rest: text.get(start..)?,
        value,
    };
    let list = reading.list()?;
    reading.rest.is_empty().then_some(list)
}

struct Reading<'t> {
    rest: &'t [u8],
    value: &'t dyn Fn(&[u8]) -> Value,
}

impl Reading<'_> {
    fn next(&mut self) -> Option<u8> {
        let (first, rest) = self.rest.split_first()?;
        self.rest = rest;
        Some(*first)
    }

    fn list(&mut self) -> Option<Value> {
        if self.next()? != b'{' {
            return None;
        }
        let mut items = Vec::new();
        if self.rest.first() == Some(&b'}') {
            self.next();
            return Some(Value::Table(items));
        }
        loop {
            let item = match self.rest.first()? {
                b'{' => self.list()?,
                b'"' => self.quoted()?,
                _ => self.plain()?,
            };
            items.push((Value::Integer(items.len() as i64 + 1), item));
            match self.next()? {
                b',' => {}
                b'}' => return Some(Value::Table(items)),
                _ => return None,
            }
        }
    }

    fn quoted(&mut self) -> Option<Value> {
        self.next();
        let mut bytes = Vec::new();
        loop {
            match self.next()? {
                b'"' => return Some((self.value)(&bytes)),
                b'\\' => bytes.push(self.next()?),
                byte => bytes.push(byte),
            }
        }
    }

    fn plain(&mut self) -> Option<Value> {
        let end = self.rest.iter().position(|byte| b",}".contains(byte))?;
        let (text, rest) = self.rest.split_at(end);
        self.rest = rest;
        Some(if text == b"NULL" {
            Value::Null
        } else {
            (self.value)(text)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(bytes: &[u8]) -> Value {
        Value::Bytes(bytes.into())
    }

    fn items(values: Vec<Value>) -> Value {
        Value::Table((1..).map(Value::Integer).zip(values).collect())
    }

    #[test]
    fn an_array_is_read_as_a_list() {
        let read = |array: &str| list(array.as_bytes(), &text);
        assert_eq!(read("{}"), Some(items(Vec::new())));
        let expected = items(vec![
            text(b"a"),
            Value::Null,
            text(b"b\",\\ }"),
            text(b"NULL"),
        ]);
        assert_eq!(read(r#"{a,NULL,"b\",\\ }","NULL"}"#), Some(expected));
        let deep = items(vec![items(vec![text(b"1")]), items(vec![text(b"2")])]);
        assert_eq!(read("{{1},{2}}"), Some(deep));
        assert_eq!(read("[0:0]={7}"), Some(items(vec![text(b"7")])));
        for broken in ["", "{", "{1", "{1,", "{\"a}", "{1}}", "1"] {
            assert_eq!(read(broken), None, "{broken}");
        }
    }

    #[test]
    fn what_is_written_is_read_again() {
        for element in ["", "a", "NULL", "\"\\,{}", " x "] {
            let mut array = b"{".to_vec();
            push(&mut array, Some(element.as_bytes()));
            array.push(b',');
            push(&mut array, None);
            array.push(b'}');
            let expected = items(vec![text(element.as_bytes()), Value::Null]);
            assert_eq!(list(&array, &text), Some(expected));
        }
    }
}
