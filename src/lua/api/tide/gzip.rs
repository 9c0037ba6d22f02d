//! `tide.gzip`: compressed bytes, RFC 1952.

use std::io::{self, ErrorKind, Read, Write};

use flate2::Compression;
use flate2::bufread::MultiGzDecoder;
use flate2::write::GzEncoder;

use super::options::integer;
use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::lua::vm::hook;
use crate::wait::Fault;

/// The most bytes of a decompressed string, where the options have no bound.
const BYTES_MAX: usize = 64 << 20;
/// Bytes between two checks of the watchdog.
const STEP: usize = 64 << 10;

pub(super) const MODULE: Module = Module {
    path: "tide.gzip",
    about: "Compression by gzip.",
    entries: &[
        Entry {
            name: "compress",
            path: "tide.gzip.compress",
            types: &[
                "Compresses a string.",
                "@param data string",
                "@param options? { level?: integer }",
                "@return string",
            ],
            body: Body::Now(compress),
        },
        Entry {
            name: "decompress",
            path: "tide.gzip.decompress",
            types: &[
                "Decompresses a string; a result above `maxBytes` raises.",
                "@param compressed string",
                "@param options? { maxBytes?: integer }",
                "@return string",
            ],
            body: Body::Now(decompress),
        },
    ],
};

fn compress(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let data = arguments.bytes(1, "data")?;
    let mut options = arguments.options(2, &["level"])?;
    let level = integer(&mut options, "level", 0, 9)
        .map_err(|message| Fault::new("invalid", message))?
        .unwrap_or(6);
    let mut encoder = GzEncoder::new(Vec::new(), Compression::new(level as u32));
    let mut work = || {
        for part in data.chunks(STEP) {
            goes_on()?;
            encoder.write_all(part)?;
        }
        encoder.try_finish()
    };
    work().map_err(|error| arguments.fault("internal", error.to_string()))?;
    let compressed = encoder.finish();
    let compressed = compressed.map_err(|error| arguments.fault("internal", error.to_string()))?;
    Ok(compressed.into())
}

fn decompress(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let data = arguments.bytes(1, "compressed")?;
    let mut options = arguments.options(2, &["maxBytes"])?;
    let memory = arguments.shared.memory;
    let max = integer(&mut options, "maxBytes", 1, memory as i64)
        .map_err(|message| Fault::new("invalid", message))?
        .map_or(BYTES_MAX.min(memory), |max| max as usize);
    let mut decoder = MultiGzDecoder::new(data);
    let mut bytes = Vec::new();
    let mut work = || {
        loop {
            goes_on()?;
            let step = STEP.min(max + 1 - bytes.len());
            let count = decoder.by_ref().take(step as u64).read_to_end(&mut bytes)?;
            if count == 0 || bytes.len() > max {
                return Ok(());
            }
        }
    };
    work().map_err(|error: io::Error| {
        arguments.invalid(match error.kind() {
            ErrorKind::UnexpectedEof => "`compressed` ends too soon".to_owned(),
            _ => format!("`compressed` is no gzip: {error}"),
        })
    })?;
    if bytes.len() > max {
        let message = format!("the result has more than {max} bytes (`maxBytes`)");
        return Err(arguments.too_large(message));
    }
    Ok(bytes.into())
}

/// An error when the watchdog has ended the call.
fn goes_on() -> io::Result<()> {
    if hook::ends() {
        return Err(io::Error::other("the call has ended"));
    }
    Ok(())
}
