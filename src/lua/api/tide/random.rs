//! `tide.random` and `tide.uuid`: numbers that nobody can guess, by OpenSSL's generator.

use openssl::rand::rand_bytes;

use crate::lua::api::arguments::{Arguments, Results};
use crate::lua::api::module::{Body, Entry, Module};
use crate::rules::hex;
use crate::wait::{Fault, Value};

const BYTES_MAX: i64 = 1 << 20;
/// The last millisecond that 48 bits hold.
const MS_MAX: i64 = (1 << 48) - 1;

pub(super) const MODULE: Module = Module {
    path: "tide.random",
    about: "Random bytes and numbers that nobody can guess.",
    entries: &[
        Entry {
            name: "bytes",
            path: "tide.random.bytes",
            types: &[
                "Returns random bytes, at most 1 MiB.",
                "@param count integer",
                "@return string",
            ],
            body: Body::Now(bytes),
        },
        Entry {
            name: "integer",
            path: "tide.random.integer",
            types: &[
                "Returns an integer from `lowest` to `highest`, each as likely as any other.",
                "@param lowest integer",
                "@param highest integer",
                "@return integer",
            ],
            body: Body::Now(integer),
        },
        Entry {
            name: "number",
            path: "tide.random.number",
            types: &[
                "Returns a float from 0 on and below 1, in steps of 2^-53.",
                "@return number",
            ],
            body: Body::Now(|arguments| {
                let steps = u64::from_be_bytes(random(arguments)?) >> 11;
                Ok(Value::Number(steps as f64 / (1_u64 << 53) as f64).into())
            }),
        },
    ],
};

pub(super) const UUID: Module = Module {
    path: "tide.uuid",
    about: "Unique identifiers, RFC 9562.",
    entries: &[
        Entry {
            name: "isValid",
            path: "tide.uuid.isValid",
            types: &[
                "Tells whether a value is a UUID in its usual form.",
                "@param value any",
                "@return boolean",
            ],
            body: Body::Now(|arguments| {
                let text = arguments.bytes(1, "value");
                Ok(text.is_ok_and(|text| parsed(text).is_some()).into())
            }),
        },
        Entry {
            name: "parse",
            path: "tide.uuid.parse",
            types: &[
                "Reads a UUID: its version, its 16 bytes, and the time of one of version 7.",
                "@param text string",
                "@return { version: integer, bytes: string, time?: integer }",
            ],
            body: Body::Now(parse),
        },
        Entry {
            name: "v4",
            path: "tide.uuid.v4",
            types: &["Returns a random UUID.", "@return string"],
            body: Body::Now(|arguments| Ok(written(random(arguments)?, 4).into())),
        },
        Entry {
            name: "v7",
            path: "tide.uuid.v7",
            types: &[
                "Returns a UUID that sorts by its time. Those of one VM increase.",
                "@param ms? integer milliseconds since the epoch; default: now",
                "@return string",
            ],
            body: Body::Now(v7),
        },
    ],
};

fn random<const N: usize>(arguments: &Arguments<'_>) -> Result<[u8; N], Fault> {
    let mut bytes = [0; N];
    fill(arguments, &mut bytes)?;
    Ok(bytes)
}

fn fill(arguments: &Arguments<'_>, bytes: &mut [u8]) -> Result<(), Fault> {
    rand_bytes(bytes).map_err(|error| {
        let message = format!("OpenSSL has no random bytes: {error}");
        arguments.fault("internal", message)
    })
}

fn bytes(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let count = arguments.integer(1, "count")?;
    if !(0..=BYTES_MAX).contains(&count) {
        let message = format!("`count` is {count}, not from 0 to {BYTES_MAX}");
        return Err(arguments.invalid(message));
    }
    let mut bytes = vec![0; count as usize];
    fill(arguments, &mut bytes)?;
    Ok(bytes.into())
}

fn integer(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let lowest = arguments.integer(1, "lowest")?;
    let highest = arguments.integer(2, "highest")?;
    if lowest > highest {
        let message = format!("`lowest` is {lowest}, above `highest`, which is {highest}");
        return Err(arguments.invalid(message));
    }
    let steps = highest.wrapping_sub(lowest).cast_unsigned();
    let step = loop {
        let number = u64::from_be_bytes(random(arguments)?);
        // Where the numbers are as many as 64 bits have, each is one of them.
        let Some(count) = steps.checked_add(1) else {
            break number;
        };
        // The numbers behind the last whole multiple would make the first ones likelier.
        let beyond = (u64::MAX - steps) % count;
        if number <= u64::MAX - beyond {
            break number % count;
        }
    };
    Ok(lowest.wrapping_add(step.cast_signed()).into())
}

fn v7(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let mut bytes: [u8; 16] = random(arguments)?;
    let (ms, counter) = if arguments.is_absent(1) {
        let seed = u16::from_be_bytes([bytes[6], bytes[7]]) & 0x7ff;
        let now = arguments.shared.clock.wall_ms();
        let next = following(arguments.shared.last_uuid.get(), now, seed);
        arguments.shared.last_uuid.set(next);
        next
    } else {
        let ms = arguments.integer(1, "ms")?;
        (ms, u16::from_be_bytes([bytes[6], bytes[7]]) & 0xfff)
    };
    if !(0..=MS_MAX).contains(&ms) {
        let message = format!("`ms` is {ms}, not from 0 to {MS_MAX}");
        return Err(arguments.invalid(message));
    }
    bytes[..6].copy_from_slice(&ms.to_be_bytes()[2..]);
    bytes[6..8].copy_from_slice(&counter.to_be_bytes());
    Ok(written(bytes, 7).into())
}

/// The millisecond and the counter behind the last ones. In the same millisecond, or when the clock has gone back, the
/// counter goes on; where its 12 bits are full, the next millisecond begins early.
fn following(last: (i64, u16), now: i64, seed: u16) -> (i64, u16) {
    match last {
        (ms, _) if now > ms => (now, seed),
        (ms, counter) if counter < 0xfff => (ms, counter + 1),
        (ms, _) => (ms + 1, seed),
    }
}

/// In the usual form, with its version and the variant of RFC 9562.
fn written(mut bytes: [u8; 16], version: u8) -> Vec<u8> {
    bytes[6] = bytes[6] & 0x0f | version << 4;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let digits = hex::encoded(&bytes);
    let groups = [0..8, 8..12, 12..16, 16..20, 20..32].map(|range| &digits[range]);
    groups.join("-").into_bytes()
}

/// The bytes of `xxxxxxxx-xxxx-xxxx-xxxx-xxxxxxxxxxxx`.
fn parsed(text: &[u8]) -> Option<[u8; 16]> {
    let has_lines = text.len() == 36 && [8, 13, 18, 23].iter().all(|at| text[*at] == b'-');
    if !has_lines {
        return None;
    }
    let mut digits = text.iter().filter(|byte| **byte != b'-');
    let mut bytes = [0; 16];
    for byte in &mut bytes {
        let (high, low) = (hex::digit(*digits.next()?)?, hex::digit(*digits.next()?)?);
        *byte = high << 4 | low;
    }
    digits.next().is_none().then_some(bytes)
}

fn parse(arguments: &Arguments<'_>) -> Result<Results, Fault> {
    let text = arguments.bytes(1, "text")?;
    let Some(bytes) = parsed(text) else {
        let form = "a UUID such as `0190163d-8694-739b-aea5-966c26f8ad91`";
        return Err(arguments.invalid(format!("`text` is not {form}")));
    };
    let field = |name: &str, value| (Value::Bytes(name.as_bytes().into()), value);
    let version = i64::from(bytes[6] >> 4);
    let mut fields = vec![
        field("version", Value::Integer(version)),
        field("bytes", Value::Bytes(bytes.into())),
    ];
    if version == 7 {
        let mut ms = [0; 8];
        ms[2..].copy_from_slice(&bytes[..6]);
        fields.push(field("time", Value::Integer(i64::from_be_bytes(ms))));
    }
    Ok(Value::Table(fields).into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_counter_goes_on_within_a_millisecond() {
        assert_eq!(following((5, 7), 6, 100), (6, 100));
        assert_eq!(following((5, 7), 5, 100), (5, 8));
        assert_eq!(following((5, 7), 3, 100), (5, 8));
        assert_eq!(following((5, 0xfff), 5, 100), (6, 100));
        assert_eq!(following((6, 100), 5, 3), (6, 101));
    }

    /// Appendix A of RFC 9562.
    #[test]
    fn a_uuid_is_read_and_written() {
        for text in [
            "919108f7-52d1-4320-9bac-f847db4148a8",
            "017f22e2-79b0-7cc3-98c4-dc0c0c07398f",
        ] {
            let bytes = parsed(text.as_bytes()).unwrap();
            assert_eq!(written(bytes, bytes[6] >> 4), text.as_bytes());
            assert_eq!(parsed(text.to_ascii_uppercase().as_bytes()), Some(bytes));
        }
        for text in [
            "",
            "919108f752d143209bacf847db4148a8",
            "919108f7-52d1-4320-9bac-f847db4148a",
            "919108f7-52d1-4320-9bac-f847db4148ag",
            "919108f7-52d1-4320-9bac-f847db4148-8",
        ] {
            assert_eq!(parsed(text.as_bytes()), None, "{text}");
        }
    }
}
