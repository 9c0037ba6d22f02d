//! Plain data as bytes: how stores and caches keep values, whatever VM they come from. Pure.
//!
//! A byte tells the kind of a value. No kind is a digit or a minus: the backend of Redis keeps integers as their
//! digits, so that Redis counts by itself.

use crate::wait::Value;

/// The most bytes of a value.
pub(crate) const VALUE_MAX: usize = 1 << 20;
/// Deeper values come from no handler.
const DEPTH_MAX: usize = 128;

const NIL: u8 = b'n';
const NULL: u8 = b'N';
const FALSE: u8 = b'F';
const TRUE: u8 = b'T';
const INTEGER: u8 = b'i';
const NUMBER: u8 = b'd';
const STRING: u8 = b's';
const TABLE: u8 = b't';

pub(crate) fn encode(value: &Value) -> Vec<u8> {
    let mut out = Vec::with_capacity(16);
    write(value, &mut out);
    out
}

/// Appends a value.
pub(crate) fn write(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Nil => out.push(NIL),
        Value::Null => out.push(NULL),
        Value::Boolean(false) => out.push(FALSE),
        Value::Boolean(true) => out.push(TRUE),
        Value::Integer(number) => {
            out.push(INTEGER);
            out.extend(number.to_le_bytes());
        }
        Value::Number(number) => {
            out.push(NUMBER);
            out.extend(number.to_le_bytes());
        }
        Value::Bytes(bytes) => {
            out.push(STRING);
            write_length(bytes.len(), out);
            out.extend_from_slice(bytes);
        }
        Value::Table(pairs) => {
            out.push(TABLE);
            write_length(pairs.len(), out);
            for (key, value) in pairs {
                write(key, out);
                write(value, out);
            }
        }
    }
}

/// Seven bits a byte, the lowest first.
fn write_length(mut length: usize, out: &mut Vec<u8>) {
    while length >= 0x80 {
        out.push(length as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
}

/// `None` for bytes that are not those of one whole value.
pub(crate) fn decode(bytes: &[u8]) -> Option<Value> {
    let mut rest = bytes;
    let value = read(&mut rest, DEPTH_MAX)?;
    rest.is_empty().then_some(value)
}

pub(crate) fn of_integer(number: i64) -> Vec<u8> {
    encode(&Value::Integer(number))
}

/// The integer that these bytes are.
pub(crate) fn integer(bytes: &[u8]) -> Option<i64> {
    let (kind, number) = bytes.split_first()?;
    let number = number.try_into().ok()?;
    (*kind == INTEGER).then(|| i64::from_le_bytes(number))
}

/// The kind of a value, for errors.
pub(crate) fn kind(bytes: &[u8]) -> &'static str {
    match bytes.first() {
        Some(&NIL) => "nil",
        Some(&NULL) => "null",
        Some(&(FALSE | TRUE)) => "a boolean",
        Some(&INTEGER) => "an integer",
        Some(&NUMBER) => "a float",
        Some(&STRING) => "a string",
        Some(&TABLE) => "a table",
        _ => "foreign data",
    }
}

fn take<'b>(rest: &mut &'b [u8], count: usize) -> Option<&'b [u8]> {
    let (taken, behind) = rest.split_at_checked(count)?;
    *rest = behind;
    Some(taken)
}

fn eight(rest: &mut &[u8]) -> Option<[u8; 8]> {
    take(rest, 8)?.try_into().ok()
}

fn read_length(rest: &mut &[u8]) -> Option<usize> {
    let mut length = 0_usize;
    for shift in (0..35).step_by(7) {
        let byte = take(rest, 1)?[0];
        length |= usize::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(length);
        }
    }
    None
}

fn read(rest: &mut &[u8], depth: usize) -> Option<Value> {
    Some(match take(rest, 1)?[0] {
        NIL => Value::Nil,
        NULL => Value::Null,
        FALSE => Value::Boolean(false),
        TRUE => Value::Boolean(true),
        INTEGER => Value::Integer(i64::from_le_bytes(eight(rest)?)),
        NUMBER => Value::Number(f64::from_le_bytes(eight(rest)?)),
        STRING => {
            let length = read_length(rest)?;
            Value::Bytes(take(rest, length)?.into())
        }
        TABLE if depth > 0 => {
            let count = read_length(rest)?;
            // A pair has two bytes or more.
            let mut pairs = Vec::with_capacity(count.min(rest.len() / 2));
            for _ in 0..count {
                pairs.push((read(rest, depth - 1)?, read(rest, depth - 1)?));
            }
            Value::Table(pairs)
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn any_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Nil),
            Just(Value::Null),
            any::<bool>().prop_map(Value::Boolean),
            any::<i64>().prop_map(Value::Integer),
            (-1e300..1e300).prop_map(Value::Number),
            prop::collection::vec(any::<u8>(), 0..300).prop_map(|bytes| Value::Bytes(bytes.into())),
        ];
        leaf.prop_recursive(4, 40, 5, |inner| {
            prop::collection::vec((inner.clone(), inner), 0..5).prop_map(Value::Table)
        })
    }

    proptest! {
        #[test]
        fn what_is_written_is_read(value in any_value()) {
            let bytes = encode(&value);
            prop_assert_eq!(decode(&bytes), Some(value));
            // A part of it is nothing, and neither is more than it.
            prop_assert_eq!(decode(&bytes[..bytes.len() - 1]), None);
            prop_assert_eq!(decode(&[&bytes[..], b"n"].concat()), None);
        }

        #[test]
        fn any_bytes_are_read_without_a_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let _ = decode(&bytes);
        }
    }

    #[test]
    fn integers_are_exact_and_no_kind_looks_like_digits() {
        for number in [i64::MIN, -1, 0, (1 << 53) + 1, i64::MAX] {
            assert_eq!(integer(&of_integer(number)), Some(number));
        }
        assert_eq!(integer(&encode(&Value::Number(1.0))), None);
        for kind in [NIL, NULL, FALSE, TRUE, INTEGER, NUMBER, STRING, TABLE] {
            assert!(!kind.is_ascii_digit() && kind != b'-');
        }
    }

    #[test]
    fn endless_tables_end() {
        let endless = [TABLE, 1].repeat(100_000);
        assert_eq!(decode(&endless), None);
        assert_eq!(decode(&[TABLE, 0xff, 0xff, 0xff, 0xff, 0x7f]), None);
    }
}
