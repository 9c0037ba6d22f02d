//! The characters that the escapes of a string stand for, by RFC 8259, section 7.

use std::str;

use super::text::Error;

/// Writes the characters of `raw` into `into`, which is as long: no character is longer than its escape. Returns the
/// length.
pub(super) fn unescape(raw: &[u8], into: &mut [u8]) -> Result<usize, Error> {
    let mut from = 0;
    let mut to = 0;
    while let Some(&byte) = raw.get(from) {
        if byte != b'\\' {
            into[to] = byte;
            from += 1;
            to += 1;
            continue;
        }
        let simple = match raw.get(from + 1) {
            Some(b'n') => b'\n',
            Some(b't') => b'\t',
            Some(b'r') => b'\r',
            Some(b'b') => 8,
            Some(b'f') => 12,
            Some(&(b'"' | b'\\' | b'/')) => raw[from + 1],
            Some(b'u') => {
                let (char, length) = unicode(raw, from)?;
                to += char.encode_utf8(&mut into[to..]).len();
                from += length;
                continue;
            }
            _ => {
                return Err(Error {
                    what: "an unknown escape",
                    at: from,
                });
            }
        };
        into[to] = simple;
        from += 2;
        to += 1;
    }
    Ok(to)
}

/// The character of the `\u` at `at`, with its surrogate half if it has one, and its length in the text.
fn unicode(raw: &[u8], at: usize) -> Result<(char, usize), Error> {
    let lone = Error {
        what: "half of a surrogate pair",
        at,
    };
    let first = hex(raw, at)?;
    if !(0xd800..0xe000).contains(&first) {
        return char::from_u32(first).map(|char| (char, 6)).ok_or(lone);
    }
    if first >= 0xdc00 || raw.get(at + 6..at + 8) != Some(b"\\u") {
        return Err(lone);
    }
    let second = hex(raw, at + 6)?;
    if !(0xdc00..0xe000).contains(&second) {
        return Err(lone);
    }
    let code = 0x10000 + ((first - 0xd800) << 10) + (second - 0xdc00);
    char::from_u32(code).map(|char| (char, 12)).ok_or(lone)
}

fn hex(raw: &[u8], at: usize) -> Result<u32, Error> {
    let digits = raw
        .get(at + 2..at + 6)
        .filter(|digits| digits.iter().all(u8::is_ascii_hexdigit));
    digits
        .and_then(|digits| str::from_utf8(digits).ok())
        .and_then(|digits| u32::from_str_radix(digits, 16).ok())
        .ok_or(Error {
            what: "four hexadecimal digits are missing after `\\u`",
            at,
        })
}
