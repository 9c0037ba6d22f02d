//! `tide.hex`: bytes in hexadecimal.

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::wait::Fault;

const DIGITS: &[u8; 16] = b"0123456789abcdef";

pub(super) const MODULE: Module = Module {
    path: "tide.hex",
    about: "Bytes in hexadecimal.",
    entries: &[
        Entry {
            name: "decode",
            path: "tide.hex.decode",
            types: &[
                "Reads hexadecimal digits, of either case.",
                "@param text string",
                "@return string",
            ],
            body: Body::Now(decode),
        },
        Entry {
            name: "encode",
            path: "tide.hex.encode",
            types: &[
                "Writes bytes as hexadecimal digits, in lower case.",
                "@param data string",
                "@return string",
            ],
            body: Body::Now(|arguments| Ok(encoded(arguments.bytes(1, "data")?).into())),
        },
    ],
};

pub(super) fn encoded(bytes: &[u8]) -> Vec<u8> {
    let digits = bytes
        .iter()
        .flat_map(|byte| [byte >> 4, byte & 15].map(|digit| DIGITS[usize::from(digit)]));
    digits.collect()
}

fn decode(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let text = arguments.bytes(1, "text")?;
    let (pairs, rest) = text.as_chunks::<2>();
    let mut bytes = Vec::with_capacity(pairs.len());
    for (pair, at) in pairs.iter().zip((1..).step_by(2)) {
        let [Some(high), Some(low)] = pair.map(digit) else {
            let at = at + usize::from(digit(pair[0]).is_some());
            return Err(arguments.invalid(format!("no hexadecimal digit at byte {at}")));
        };
        bytes.push(high << 4 | low);
    }
    if !rest.is_empty() {
        let count = text.len();
        let message = format!("{count} digits, not an even number");
        return Err(arguments.invalid(message));
    }
    Ok(bytes.into())
}

/// The value of a hexadecimal digit.
pub(super) fn digit(byte: u8) -> Option<u8> {
    char::from(byte).to_digit(16).map(|digit| digit as u8)
}
