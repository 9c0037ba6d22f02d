//! `tide.base64`: bytes as text of 64 characters, RFC 4648.

use base64::Engine as _;
use base64::alphabet::{Alphabet, STANDARD, URL_SAFE};
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use base64::{DecodeError, DecodeSliceError};

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::wait::Fault;

pub(super) const MODULE: Module = Module {
    path: "tide.base64",
    about: "Bytes in Base64.",
    entries: &[
        Entry {
            name: "decode",
            path: "tide.base64.decode",
            types: &[
                "Reads Base64.",
                "@param text string",
                "@param options? { url?: boolean, padding?: boolean, lenient?: boolean }",
                "@return string",
            ],
            body: Body::Now(decode),
        },
        Entry {
            name: "encode",
            path: "tide.base64.encode",
            types: &[
                "Writes bytes as Base64.",
                "@param data string",
                "@param options? { url?: boolean, padding?: boolean }",
                "@return string",
            ],
            body: Body::Now(encode),
        },
    ],
};

struct Options {
    is_url: bool,
    padding: bool,
    is_lenient: bool,
}

impl Options {
    fn read(arguments: &Arguments<'_>, names: &[&str]) -> Result<Self, Fault> {
        let mut options = arguments.options(2, names)?;
        let mut boolean = |name| {
            let value = options.boolean(name);
            value.map_err(|message| Fault::new("invalid", message))
        };
        let is_url = boolean("url")?.unwrap_or(false);
        Ok(Self {
            is_url,
            padding: boolean("padding")?.unwrap_or(!is_url),
            is_lenient: boolean("lenient")?.unwrap_or(false),
        })
    }

    fn alphabet(&self) -> &'static Alphabet {
        if self.is_url { &URL_SAFE } else { &STANDARD }
    }
}

fn encode(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let data = arguments.bytes(1, "data")?;
    let options = Options::read(arguments, &["url", "padding"])?;
    let config = GeneralPurposeConfig::new().with_encode_padding(options.padding);
    let engine = GeneralPurpose::new(options.alphabet(), config);
    Ok(engine.encode(data).into())
}

fn decode(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let text = arguments.bytes(1, "text")?;
    let options = Options::read(arguments, &["url", "padding", "lenient"])?;
    if options.is_lenient {
        return lenient(arguments, text);
    }
    let padding = match (options.padding, options.is_url) {
        (true, _) => DecodePaddingMode::RequireCanonical,
        (false, true) => DecodePaddingMode::Indifferent,
        (false, false) => DecodePaddingMode::RequireNone,
    };
    let config = GeneralPurposeConfig::new().with_decode_padding_mode(padding);
    let engine = GeneralPurpose::new(options.alphabet(), config);
    engine.decode(text).map(Results::from).map_err(|error| {
        let hint = hint(&error, text, &options);
        arguments.invalid(format!("{}{hint}", words(&error)))
    })
}

/// Both alphabets, with or without padding; white space and line ends are passed over.
fn lenient(arguments: &Arguments<'_>, text: &[u8]) -> Result<Results, Fault> {
    let plain = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let plain: Vec<u8> = plain
        .map(|byte| match byte {
            b'-' => b'+',
            b'_' => b'/',
            other => *other,
        })
        .collect();
    let config = GeneralPurposeConfig::new()
        .with_decode_padding_mode(DecodePaddingMode::Indifferent)
        .with_decode_allow_trailing_bits(true);
    let mut bytes = vec![0; base64::decoded_len_estimate(plain.len())];
    match GeneralPurpose::new(&STANDARD, config).decode_slice(&plain, &mut bytes) {
        Ok(length) => {
            bytes.truncate(length);
            Ok(bytes.into())
        }
        // Its position counts without the white space.
        Err(DecodeSliceError::DecodeError(DecodeError::InvalidByte(_, byte))) => {
            let message = format!("a character that is no Base64: {}", shown(byte));
            Err(arguments.invalid(message))
        }
        Err(DecodeSliceError::DecodeError(error)) => Err(arguments.invalid(words(&error))),
        Err(error) => Err(arguments.invalid(error.to_string())),
    }
}

fn words(error: &DecodeError) -> String {
    match error {
        DecodeError::InvalidByte(at, byte) => {
            format!("no Base64 at byte {}: {}", at + 1, shown(*byte))
        }
        DecodeError::InvalidLength(length) => {
            format!("{length} characters, which is no length of Base64")
        }
        DecodeError::InvalidLastSymbol(at, _) => {
            let at = at + 1;
            format!("the last character, at byte {at}, has bits that no encoder writes")
        }
        DecodeError::InvalidPadding => "the padding is wrong".to_owned(),
    }
}

/// What the text may be, by the character or the padding that is wrong.
fn hint(error: &DecodeError, text: &[u8], options: &Options) -> &'static str {
    match error {
        DecodeError::InvalidByte(_, b'-' | b'_') if !options.is_url => {
            "; `{ url = true }` reads the alphabet of URLs"
        }
        DecodeError::InvalidByte(_, b'+' | b'/') if options.is_url => {
            "; without `url` the standard alphabet is read"
        }
        DecodeError::InvalidPadding if options.padding && !text.ends_with(b"=") => {
            "; `{ padding = false }` reads text without it"
        }
        DecodeError::InvalidByte(_, byte) if byte.is_ascii_whitespace() => {
            "; `{ lenient = true }` passes over white space"
        }
        _ => "",
    }
}

fn shown(byte: u8) -> String {
    format!("`{}`", byte.escape_ascii())
}
