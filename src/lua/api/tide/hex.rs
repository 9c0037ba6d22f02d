//! `tide.hex`: bytes in hexadecimal.

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::rules::hex::{digit, encoded};
use crate::wait::Fault;

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
            body: Body::Now(|arguments| {
                Ok(encoded(arguments.bytes(1, "data")?).into_bytes().into())
            }),
        },
    ],
};

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
