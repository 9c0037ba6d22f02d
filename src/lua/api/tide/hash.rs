//! `tide.hash` and `tide.hmac`: digests by OpenSSL, and short hashes as integers.

mod short;

use openssl::hash::{Hasher, MessageDigest};

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::rules::hex;
use crate::wait::{Fault, Value};

/// The largest block of a digest: that of SHA-512.
const BLOCK_MAX: usize = 128;

macro_rules! digest {
    ($name:literal, $about:literal, $method:path) => {
        Entry {
            name: $name,
            path: concat!("tide.hash.", $name),
            types: &[
                concat!(
                    "Returns the ",
                    $about,
                    " digest of a string, in hexadecimal."
                ),
                "@param data string",
                "@param options? { raw?: boolean }",
                "@return string",
            ],
            body: Body::Now(|arguments| digest(arguments, $method())),
        }
    };
}

macro_rules! hmac {
    ($name:literal, $about:literal, $method:path) => {
        Entry {
            name: $name,
            path: concat!("tide.hmac.", $name),
            types: &[
                concat!(
                    "Returns the HMAC of a string by ",
                    $about,
                    ", in hexadecimal."
                ),
                "@param key string",
                "@param data string",
                "@param options? { raw?: boolean }",
                "@return string",
            ],
            body: Body::Now(|arguments| keyed(arguments, $method())),
        }
    };
}

macro_rules! short {
    ($name:literal, $about:literal, $function:path) => {
        Entry {
            name: $name,
            path: concat!("tide.hash.", $name),
            types: &[$about, "@param data string", "@return integer"],
            body: Body::Now(|arguments| {
                let data = arguments.bytes(1, "data")?;
                Ok(Results::One(Value::Integer($function(data).into())))
            }),
        }
    };
}

pub(super) const MODULE: Module = Module {
    path: "tide.hash",
    about: "Digests and hashes.",
    entries: &[
        short!(
            "crc32",
            "Returns the CRC-32 of a string, as gzip has it.",
            crc32fast::hash
        ),
        digest!("md5", "MD5", MessageDigest::md5),
        short!(
            "murmur2",
            "Returns the hash by which Kafka's clients choose the partition of a key.",
            short::murmur2
        ),
        digest!("sha1", "SHA-1", MessageDigest::sha1),
        digest!("sha256", "SHA-256", MessageDigest::sha256),
        digest!("sha384", "SHA-384", MessageDigest::sha384),
        digest!("sha512", "SHA-512", MessageDigest::sha512),
        short!(
            "xxh64",
            "Returns the hash XXH64 of a string, with the seed 0.",
            short::xxh64
        ),
    ],
};

pub(super) const HMAC: Module = Module {
    path: "tide.hmac",
    about: "Authentication codes by a secret key.",
    entries: &[
        Entry {
            name: "equals",
            path: "tide.hmac.equals",
            types: &[
                "Compares two strings in a time that does not depend on their bytes.",
                "@param a string",
                "@param b string",
                "@return boolean",
            ],
            body: Body::Now(|arguments| {
                let (a, b) = (arguments.bytes(1, "a")?, arguments.bytes(2, "b")?);
                Ok((a.len() == b.len() && openssl::memcmp::eq(a, b)).into())
            }),
        },
        hmac!("md5", "MD5", MessageDigest::md5),
        hmac!("sha1", "SHA-1", MessageDigest::sha1),
        hmac!("sha256", "SHA-256", MessageDigest::sha256),
        hmac!("sha384", "SHA-384", MessageDigest::sha384),
        hmac!("sha512", "SHA-512", MessageDigest::sha512),
    ],
};

fn digest(arguments: &Arguments<'_>, method: MessageDigest) -> Result<Results, Fault> {
    let data = arguments.bytes(1, "data")?;
    let is_raw = raw(arguments, 2)?;
    result(arguments, digest_of(method, &[data]), is_raw)
}

fn keyed(arguments: &Arguments<'_>, method: MessageDigest) -> Result<Results, Fault> {
    let (key, data) = (arguments.bytes(1, "key")?, arguments.bytes(2, "data")?);
    let is_raw = raw(arguments, 3)?;
    result(arguments, hmac_of(method, key, data), is_raw)
}

fn raw(arguments: &Arguments<'_>, index: i32) -> Result<bool, Fault> {
    if arguments.is_absent(index) {
        return Ok(false);
    }
    let mut options = arguments.options(index, &["raw"])?;
    options
        .boolean("raw")
        .map(|raw| raw.unwrap_or(false))
        .map_err(|message| Fault::new("invalid", message))
}

fn result(
    arguments: &Arguments<'_>,
    digest: Result<Vec<u8>, openssl::error::ErrorStack>,
    is_raw: bool,
) -> Result<Results, Fault> {
    match digest {
        Ok(digest) if is_raw => Ok(digest.into()),
        Ok(digest) => Ok(hex::encoded(&digest).into_bytes().into()),
        Err(error) => Err(arguments.fault("internal", format!("OpenSSL fails: {error}"))),
    }
}

fn digest_of(
    method: MessageDigest,
    parts: &[&[u8]],
) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let mut hasher = Hasher::new(method)?;
    for part in parts {
        hasher.update(part)?;
    }
    Ok(hasher.finish()?.to_vec())
}

/// RFC 2104. OpenSSL's own needs a context of five allocations, and refuses an empty key.
fn hmac_of(
    method: MessageDigest,
    key: &[u8],
    data: &[u8],
) -> Result<Vec<u8>, openssl::error::ErrorStack> {
    let size = method.block_size().min(BLOCK_MAX);
    let mut block = [0; BLOCK_MAX];
    if key.len() > size {
        let key = digest_of(method, &[key])?;
        block[..key.len()].copy_from_slice(&key);
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let block = &block[..size];
    let inner: Vec<u8> = block.iter().map(|byte| byte ^ 0x36).collect();
    let outer: Vec<u8> = block.iter().map(|byte| byte ^ 0x5c).collect();
    let inner = digest_of(method, &[&inner, data])?;
    digest_of(method, &[&outer, &inner])
}
