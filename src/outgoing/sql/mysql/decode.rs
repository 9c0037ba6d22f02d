//! From the columns of MySQL to the values of a handler. Pure.
//!
//! Rows of prepared statements have each type in a form of its own. Those of others are text.

use super::times::{self, Moment};
use super::wire::Parts;
use crate::config::Timestamps;
use crate::outgoing::sql::json;
use crate::wait::Value;

const UNSIGNED: u16 = 32;

/// How a type comes, and what it is in Lua.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Bytes of a signed or an unsigned integer.
    Integer(u8),
    Single,
    Double,
    Timestamp,
    Date,
    Time,
    Bit,
    Json,
    Null,
    /// A string as the database writes it.
    Other,
}

/// One column of a result.
#[derive(Clone, Debug)]
pub(super) struct Column {
    pub(super) name: Box<[u8]>,
    pub(super) kind: Kind,
    is_unsigned: bool,
    /// The digits of a second.
    decimals: u8,
}

/// Reads the description of a column. MariaDB adds its own types, such as JSON, to that.
pub(super) fn column(body: &[u8], is_extended: bool) -> Option<Column> {
    let mut parts = Parts(body);
    // The catalogue, the database, and the table by both of its names.
    for _ in 0..4 {
        parts.counted()?;
    }
    let name = parts.counted()?.into();
    parts.counted()?;
    let mut is_json = false;
    if is_extended {
        let mut types = Parts(parts.counted()?);
        while let Some(number) = types.u8() {
            // The number of a format, and not that of a name.
            let text = types.counted()?;
            is_json |= number == 1 && text == b"json";
        }
    }
    parts.length()?;
    let (_charset, _length) = (parts.u16()?, parts.u32()?);
    let (number, flags, decimals) = (parts.u8()?, parts.u16()?, parts.u8()?);
    Some(Column {
        name,
        kind: if is_json { Kind::Json } else { kind(number) },
        is_unsigned: flags & UNSIGNED != 0,
        decimals,
    })
}

fn kind(number: u8) -> Kind {
    match number {
        1 => Kind::Integer(1),
        // Years are such, too.
        2 | 13 => Kind::Integer(2),
        3 | 9 => Kind::Integer(4),
        8 => Kind::Integer(8),
        4 => Kind::Single,
        5 => Kind::Double,
        6 => Kind::Null,
        7 | 12 => Kind::Timestamp,
        10 => Kind::Date,
        11 => Kind::Time,
        16 => Kind::Bit,
        245 => Kind::Json,
        _ => Kind::Other,
    }
}

fn string(text: String) -> Value {
    Value::Bytes(text.into_bytes().into())
}

/// An integer of Lua, or the digits of one that is none.
fn unsigned(number: u64) -> Value {
    i64::try_from(number).map_or_else(|_| string(number.to_string()), Value::Integer)
}

/// The row of a prepared statement.
pub(super) fn row(body: &[u8], columns: &[Column], timestamps: Timestamps) -> Option<Vec<Value>> {
    let mut parts = Parts(body);
    parts.u8()?;
    // The first two bits belong to nothing.
    let nulls = parts.bytes((columns.len() + 9) / 8)?;
    let values = columns.iter().enumerate().map(|(at, column)| {
        let bit = at + 2;
        if nulls[bit / 8] & 1 << (bit % 8) != 0 {
            return Some(Value::Nil);
        }
        value(column, &mut parts, timestamps)
    });
    values.collect()
}

fn value(column: &Column, parts: &mut Parts<'_>, timestamps: Timestamps) -> Option<Value> {
    Some(match column.kind {
        Kind::Integer(width) => integer(parts, width, column.is_unsigned)?,
        Kind::Single => {
            let number = f32::from_bits(parts.u32()?);
            // The shortest decimal that is this number, and not the binary one.
            Value::Number(number.to_string().parse().ok()?)
        }
        Kind::Double => Value::Number(f64::from_bits(parts.u64()?)),
        Kind::Timestamp | Kind::Date => {
            let moment = Moment::read(parts)?;
            time(column, moment, timestamps)
        }
        Kind::Time => string(times::duration(parts, column.decimals)?),
        Kind::Null => Value::Nil,
        Kind::Bit | Kind::Json | Kind::Other => string_value(column.kind, parts.counted()?),
    })
}

fn integer(parts: &mut Parts<'_>, width: u8, is_unsigned: bool) -> Option<Value> {
    Some(match (width, is_unsigned) {
        (1, true) => Value::Integer(parts.u8()?.into()),
        (1, false) => Value::Integer((parts.u8()? as i8).into()),
        (2, true) => Value::Integer(parts.u16()?.into()),
        (2, false) => Value::Integer((parts.u16()? as i16).into()),
        (4, true) => Value::Integer(parts.u32()?.into()),
        (4, false) => Value::Integer((parts.u32()? as i32).into()),
        (_, true) => unsigned(parts.u64()?),
        (_, false) => Value::Integer(parts.u64()? as i64),
    })
}

/// A time that no calendar has is a string always.
fn time(column: &Column, moment: Moment, timestamps: Timestamps) -> Value {
    let millis = (timestamps == Timestamps::Ms).then(|| moment.millis());
    match millis.flatten() {
        Some(millis) => Value::Integer(millis),
        None if column.kind == Kind::Date => string(moment.date()),
        None => string(moment.text(column.decimals)),
    }
}

fn string_value(kind: Kind, bytes: &[u8]) -> Value {
    match kind {
        Kind::Bit if bytes.len() <= 8 => {
            let number = bytes
                .iter()
                .fold(0, |number: u64, byte| number << 8 | u64::from(*byte));
            unsigned(number)
        }
        Kind::Json => json::value(bytes).unwrap_or_else(|_| Value::Bytes(bytes.into())),
        _ => Value::Bytes(bytes.into()),
    }
}

/// The row of a statement that was not prepared.
pub(super) fn text_row(
    body: &[u8],
    columns: &[Column],
    timestamps: Timestamps,
) -> Option<Vec<Value>> {
    let mut parts = Parts(body);
    let values = columns.iter().map(|column| {
        if parts.0.first() == Some(&0xFB) {
            parts.u8();
            return Some(Value::Nil);
        }
        Some(text(column, parts.counted()?, timestamps))
    });
    values.collect()
}

fn text(column: &Column, bytes: &[u8], timestamps: Timestamps) -> Value {
    let parsed = std::str::from_utf8(bytes)
        .ok()
        .and_then(|text| match column.kind {
            Kind::Integer(_) => text.parse().ok().map(Value::Integer),
            Kind::Single | Kind::Double => text.parse().ok().map(Value::Number),
            Kind::Timestamp | Kind::Date => {
                let moment = Moment::parse(bytes)?;
                Some(time(column, moment, timestamps))
            }
            _ => None,
        });
    parsed.unwrap_or_else(|| string_value(column.kind, bytes))
}

#[cfg(test)]
mod tests {
    use super::super::wire::put_bytes;
    use super::*;

    fn described(number: u8, flags: u16, extended: Option<&[u8]>) -> Column {
        let mut body = Vec::new();
        for name in [&b"def"[..], b"d", b"t", b"t", b"n", b"n"] {
            put_bytes(&mut body, name);
        }
        if let Some(extended) = extended {
            put_bytes(&mut body, extended);
        }
        body.extend_from_slice(&[12, 45, 0, 0, 0, 0, 0, number]);
        body.extend_from_slice(&flags.to_le_bytes());
        body.extend_from_slice(&[0, 0, 0]);
        column(&body, extended.is_some()).unwrap()
    }

    fn bytes(text: &[u8]) -> Value {
        Value::Bytes(text.into())
    }

    #[test]
    fn every_type_has_its_value() {
        for (number, flags, body, expected) in [
            (1, 0, &[0xFF][..], Value::Integer(-1)),
            (1, UNSIGNED, &[0xFF], Value::Integer(255)),
            (2, 0, &[0xFE, 0xFF], Value::Integer(-2)),
            (13, UNSIGNED, &[0xE8, 7], Value::Integer(2024)),
            (9, 0, &[0xFF, 0xFF, 0xFF, 0xFF], Value::Integer(-1)),
            (
                3,
                UNSIGNED,
                &[0xFF, 0xFF, 0xFF, 0xFF],
                Value::Integer(4_294_967_295),
            ),
            (8, 0, &[0xFF; 8], Value::Integer(-1)),
            (8, UNSIGNED, &[0xFF; 8], bytes(b"18446744073709551615")),
            (4, 0, &0.1f32.to_le_bytes(), Value::Number(0.1)),
            (5, 0, &0.1f64.to_le_bytes(), Value::Number(0.1)),
            (16, 0, &[2, 1, 2], Value::Integer(258)),
            (
                16,
                0,
                &[8, 255, 255, 255, 255, 255, 255, 255, 255],
                bytes(b"18446744073709551615"),
            ),
            (246, 0, b"\x041.10", bytes(b"1.10")),
            (245, 0, b"\x04null", Value::Null),
            (252, 0, b"\x02\0\xff", bytes(b"\0\xff")),
            (7, 0, &[7, 0xB2, 7, 1, 1, 0, 0, 1], Value::Integer(1_000)),
            (10, 0, &[0], bytes(b"0000-00-00")),
            (11, 0, &[8, 0, 0, 0, 0, 0, 1, 2, 3], bytes(b"01:02:03")),
        ] {
            let column = described(number, flags, None);
            let body = [&[0, 0][..], body].concat();
            let found = row(&body, std::slice::from_ref(&column), Timestamps::Ms);
            assert_eq!(found, Some(vec![expected]), "{number}");
            let null = row(&[0, 4], &[column], Timestamps::Ms);
            assert_eq!(null, Some(vec![Value::Nil]));
        }
        assert_eq!(
            row(&[0, 0, 1], &[described(8, 0, None)], Timestamps::Ms),
            None
        );
    }

    #[test]
    fn text_has_the_same_values() {
        for (number, flags, text, expected) in [
            (1, 0, &b"-1"[..], Value::Integer(-1)),
            (
                8,
                UNSIGNED,
                b"18446744073709551615",
                bytes(b"18446744073709551615"),
            ),
            (5, 0, b"0.1", Value::Number(0.1)),
            (12, 0, b"1970-01-01 00:00:01", Value::Integer(1_000)),
            (12, 0, b"0000-00-00 00:00:00", bytes(b"0000-00-00 00:00:00")),
            (16, 0, &[1, 2], Value::Integer(258)),
            (246, 0, b"1.10", bytes(b"1.10")),
        ] {
            let mut body = vec![0xFB];
            put_bytes(&mut body, text);
            let column = described(number, flags, None);
            let found = text_row(&body, &[column.clone(), column], Timestamps::Ms);
            assert_eq!(found, Some(vec![Value::Nil, expected]), "{number}");
        }
    }

    #[test]
    fn mariadb_tells_json_and_times_are_strings_by_option() {
        assert_eq!(described(252, 0, Some(b"\x01\x04json")).kind, Kind::Json);
        assert_eq!(described(254, 0, Some(b"\x00\x04uuid")).kind, Kind::Other);
        assert_eq!(described(252, 0, Some(b"")).kind, Kind::Other);
        let body = [0, 0, 7, 0xB2, 7, 1, 1, 0, 0, 1];
        let found = row(&body, &[described(12, 0, None)], Timestamps::String);
        assert_eq!(found, Some(vec![bytes(b"1970-01-01 00:00:01")]));
    }
}
