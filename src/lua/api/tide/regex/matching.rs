//! Matches in a string: one after the other, their groups, and what replaces them. Pure.

use regex::bytes::{Captures, Regex};

use crate::lua::vm::hook;
use crate::wait::{Fault, Value};

/// Matches between two checks of the watchdog.
const STEPS: usize = 256;

/// The way from one match to the next. An empty match right behind the last one does not count. Plain data.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Walk {
    pub(super) at: usize,
    pub(super) last_end: Option<usize>,
}

impl Walk {
    pub(super) fn next<'t>(&mut self, regex: &Regex, text: &'t [u8]) -> Option<Captures<'t>> {
        loop {
            if self.at > text.len() {
                return None;
            }
            let captures = regex.captures_at(text, self.at)?;
            let whole = captures.get(0)?;
            let (start, end) = (whole.start(), whole.end());
            self.at = if start == end { end + 1 } else { end };
            if start == end && self.last_end == Some(end) {
                continue;
            }
            self.last_end = Some(end);
            return Some(captures);
        }
    }
}

/// The groups by their number and name; the whole match is 0. A group without a part has no field.
pub(super) fn groups(regex: &Regex, captures: &Captures<'_>) -> Value {
    let mut fields = Vec::with_capacity(captures.len());
    for (index, name) in regex.capture_names().enumerate() {
        let Some(group) = captures.get(index) else {
            continue;
        };
        let value = || Value::Bytes(group.as_bytes().into());
        fields.push((Value::Integer(index as i64), value()));
        if let Some(name) = name {
            fields.push((Value::Bytes(name.as_bytes().into()), value()));
        }
    }
    Value::Table(fields)
}

/// A part of what replaces a match.
#[derive(Debug, PartialEq)]
enum Piece<'t> {
    Text(&'t [u8]),
    Group(usize),
}

/// The text that replaces a match: `$1`, `${name}` and `$name` are groups, `$$` is a `$`.
#[derive(Debug, PartialEq)]
pub(super) struct Template<'t>(Vec<Piece<'t>>);

impl<'t> Template<'t> {
    /// An error names the group that the pattern does not have.
    pub(super) fn of(text: &'t [u8], regex: &Regex) -> Result<Self, String> {
        let mut pieces = Vec::new();
        let mut rest = text;
        while let Some(at) = rest.iter().position(|byte| *byte == b'$') {
            if at > 0 {
                pieces.push(Piece::Text(&rest[..at]));
            }
            let (piece, length) = reference(&rest[at..], regex)?;
            pieces.push(piece);
            rest = &rest[at + length..];
        }
        if !rest.is_empty() {
            pieces.push(Piece::Text(rest));
        }
        Ok(Self(pieces))
    }

    fn write(&self, captures: &Captures<'_>, text: &mut Vec<u8>) {
        for piece in &self.0 {
            match piece {
                Piece::Text(bytes) => text.extend_from_slice(bytes),
                Piece::Group(index) => {
                    if let Some(group) = captures.get(*index) {
                        text.extend_from_slice(group.as_bytes());
                    }
                }
            }
        }
    }
}

/// The reference that begins with the `$`, and its bytes.
fn reference<'t>(text: &'t [u8], regex: &Regex) -> Result<(Piece<'t>, usize), String> {
    let behind = &text[1..];
    let is_word = |byte: &u8| byte.is_ascii_alphanumeric() || *byte == b'_';
    let (name, length) = match behind.first() {
        Some(b'$') => return Ok((Piece::Text(&text[..1]), 2)),
        Some(b'{') => {
            let end = behind.iter().position(|byte| *byte == b'}');
            let end = end.ok_or("has a `${` without its `}`; write `$$` for a `$`")?;
            (&behind[1..end], end + 2)
        }
        Some(byte) if byte.is_ascii_digit() => {
            let end = behind.iter().position(|byte| !byte.is_ascii_digit());
            let end = end.unwrap_or(behind.len());
            (&behind[..end], end + 1)
        }
        Some(byte) if is_word(byte) => {
            let end = behind.iter().position(|byte| !is_word(byte));
            let end = end.unwrap_or(behind.len());
            (&behind[..end], end + 1)
        }
        _ => return Ok((Piece::Text(&text[..1]), 1)),
    };
    let name = String::from_utf8_lossy(name);
    let index = match name.parse::<usize>() {
        Ok(index) => Some(index).filter(|index| *index < regex.captures_len()),
        Err(_) => regex.capture_names().position(|one| one == Some(&*name)),
    };
    let index = index.ok_or_else(|| {
        format!("has `${{{name}}}`, but the pattern has no such group; write `$$` for a `$`")
    })?;
    Ok((Piece::Group(index), length))
}

/// The text with at most `limit` matches replaced, and their number. `most` is the limit of the result's bytes.
pub(super) fn replaced(
    regex: &Regex,
    text: &[u8],
    template: &Template<'_>,
    limit: usize,
    most: usize,
) -> Result<(Vec<u8>, usize), Fault> {
    let mut walk = Walk::default();
    let (mut result, mut copied, mut count) = (Vec::new(), 0, 0);
    while count < limit {
        let Some(captures) = walk.next(regex, text) else {
            break;
        };
        let Some(whole) = captures.get(0) else { break };
        result.extend_from_slice(&text[copied..whole.start()]);
        template.write(&captures, &mut result);
        copied = whole.end();
        count += 1;
        if result.len() > most {
            break;
        }
        goes_on(count)?;
    }
    if result.len() + text.len() - copied > most {
        let message = format!("`regex:replace`: the result has more than {most} bytes");
        return Err(Fault::new("tooLarge", message));
    }
    result.extend_from_slice(&text[copied..]);
    Ok((result, count))
}

/// The parts between the matches, at most `limit`: the last one has the rest.
pub(super) fn split(regex: &Regex, text: &[u8], limit: usize) -> Result<Value, Fault> {
    let mut walk = Walk::default();
    let (mut parts, mut copied) = (Vec::new(), 0);
    while parts.len() + 1 < limit {
        let Some(captures) = walk.next(regex, text) else {
            break;
        };
        let Some(whole) = captures.get(0) else { break };
        parts.push(Value::Bytes(text[copied..whole.start()].into()));
        copied = whole.end();
        goes_on(parts.len())?;
    }
    parts.push(Value::Bytes(text[copied..].into()));
    let parts = (1..).map(Value::Integer).zip(parts);
    Ok(Value::Table(parts.collect()))
}

/// An error when the watchdog has ended the call.
fn goes_on(count: usize) -> Result<(), Fault> {
    if count.is_multiple_of(STEPS) && hook::ends() {
        return Err(Fault::new("closed", "the call has ended"));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replace(pattern: &str, text: &str, template: &str, limit: usize) -> Result<String, String> {
        let regex = Regex::new(pattern).unwrap();
        let template = Template::of(template.as_bytes(), &regex)?;
        let (text, _) = replaced(&regex, text.as_bytes(), &template, limit, 100).unwrap();
        Ok(String::from_utf8(text).unwrap())
    }

    #[test]
    fn a_template_names_groups() {
        for (template, expected) in [
            ("[$2-$1]", "[b-a]"),
            ("${key}x", "ax"),
            ("$key=$0", "a=a:b"),
            ("$$1 $ $", "$1 $ $"),
            ("$1a", "aa"),
        ] {
            let text = replace("(?<key>[a-z]):([a-z])", "a:b", template, 9).unwrap();
            assert_eq!(text, expected, "{template}");
        }
        for template in ["$3", "${no}", "$no", "${1"] {
            assert!(replace("(.)(.)", "ab", template, 9).is_err(), "{template}");
        }
    }

    #[test]
    fn matches_are_those_of_the_library() {
        for (pattern, text) in [
            ("a*", "baac"),
            ("", "ab"),
            ("b|", "abb"),
            (r"\b", "ab cd"),
            ("^", "ab"),
            ("$", ""),
        ] {
            let regex = Regex::new(pattern).unwrap();
            let expected: Vec<_> = regex
                .find_iter(text.as_bytes())
                .map(|one| one.range())
                .collect();
            let mut walk = Walk::default();
            let mut found = Vec::new();
            while let Some(captures) = walk.next(&regex, text.as_bytes()) {
                found.push(captures.get(0).unwrap().range());
            }
            assert_eq!(found, expected, "{pattern}");
            let expected = regex.replace_all(text.as_bytes(), &b"-"[..]);
            assert_eq!(
                replace(pattern, text, "-", usize::MAX).unwrap().as_bytes(),
                &*expected
            );
        }
    }

    #[test]
    fn a_limit_leaves_the_rest_as_it_is() {
        assert_eq!(replace("a", "aaa", "b", 2).unwrap(), "bba");
        assert_eq!(replace("a", "aaa", "b", 0).unwrap(), "aaa");
        let regex = Regex::new(",").unwrap();
        let parts = |limit| match split(&regex, b"a,b,c", limit).unwrap() {
            Value::Table(parts) => parts.len(),
            _ => 0,
        };
        assert_eq!((parts(1), parts(2), parts(9)), (1, 2, 3));
    }

    #[test]
    fn a_result_has_a_bound() {
        let regex = Regex::new("a").unwrap();
        let template = Template::of(b"bbbbbbbbbb", &regex).unwrap();
        let error = replaced(&regex, &[b'a'; 50], &template, 99, 100).unwrap_err();
        assert_eq!(error.kind, "tooLarge");
        let (text, count) = replaced(&regex, &[b'a'; 10], &template, 99, 100).unwrap();
        assert_eq!((text.len(), count), (100, 10));
    }
}
