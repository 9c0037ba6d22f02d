//! What handlers do with a store, and what comes of it. Pure.

use std::time::Duration;

use super::codec;
use crate::wait::Fault;

pub(crate) type Bytes = Box<[u8]>;

/// The most bytes of a key.
pub(crate) const KEY_MAX: usize = 4 << 10;
/// The most entries that one scan returns, and its default.
pub(crate) const SCAN_MAX: i64 = 10_000;
pub(crate) const SCAN: i64 = 100;
/// The longest time to live.
pub(crate) const TTL_MAX: Duration = Duration::from_secs(3660 * 24 * 3600);

/// One operation on a store. Values are those of `codec`.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Op {
    Get {
        key: Bytes,
    },
    /// Without `ttl` the entry never expires.
    Set {
        key: Bytes,
        value: Bytes,
        ttl: Option<Duration>,
    },
    /// An entry that is not there is made from `init`, with `ttl`. One that is there keeps its own.
    Incr {
        key: Bytes,
        by: i64,
        init: i64,
        ttl: Option<Duration>,
    },
    /// Puts `new` in place of `old`, if that is there still; `None` is no entry. Without `ttl` the entry keeps its own.
    Swap {
        key: Bytes,
        old: Option<Bytes>,
        new: Option<Bytes>,
        ttl: Option<Duration>,
    },
    Delete {
        key: Bytes,
    },
    /// In the order of keys, behind `after`.
    Scan {
        prefix: Bytes,
        after: Option<Bytes>,
        limit: usize,
    },
    Size,
}

/// The result of an operation.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Done {
    Nothing,
    Value(Option<Bytes>),
    Number(i64),
    /// Whether the entry was there.
    Deleted(bool),
    /// An error is what the entry has now.
    Swapped(Result<(), Option<Bytes>>),
    Entries(Vec<(Bytes, Bytes)>),
}

impl Op {
    /// The key of the one entry that it is about.
    pub(crate) fn key(&self) -> &[u8] {
        match self {
            Self::Get { key }
            | Self::Set { key, .. }
            | Self::Incr { key, .. }
            | Self::Swap { key, .. }
            | Self::Delete { key } => key,
            Self::Scan { .. } | Self::Size => &[],
        }
    }

    /// The bytes that it may have to keep while it waits.
    pub(crate) fn bytes(&self) -> usize {
        let of = |one: &Option<Bytes>| one.as_ref().map_or(0, |bytes| bytes.len());
        match self {
            Self::Get { key } | Self::Incr { key, .. } | Self::Delete { key } => key.len(),
            Self::Set { key, value, .. } => key.len() + value.len(),
            Self::Swap { key, old, new, .. } => key.len() + of(old) + of(new),
            Self::Scan { prefix, after, .. } => prefix.len() + of(after),
            Self::Size => 0,
        }
    }
}

/// How much a store may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// How much a store holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Held {
    pub(crate) entries: u64,
    pub(crate) bytes: u64,
}

/// The end of an entry that does not expire.
pub(crate) const NEVER: u64 = u64::MAX;
/// What an entry costs beside its bytes: itself, and the room around it.
const ENTRY_BYTES: u64 = 96;

/// What an operation makes of its entry.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Change {
    Nothing,
    /// A value, and the moment of its end.
    Put(Bytes, u64),
    Remove,
}

pub(crate) fn cost(key: &[u8], value: &[u8]) -> u64 {
    ENTRY_BYTES + (key.len() + value.len()) as u64
}

/// The operation on one entry, which has this value and this end. Moments are milliseconds of the store's clock.
pub(crate) fn decide(
    op: &Op,
    found: Option<(&[u8], u64)>,
    now: u64,
) -> Result<(Change, Done), Fault> {
    let value = found.map(|(value, _)| value);
    // Without a time of its own the entry keeps the one that it has.
    let kept = |ttl: &Option<Duration>| match (ttl, found) {
        (Some(ttl), _) => after(now, *ttl),
        (None, Some((_, until))) => until,
        (None, None) => NEVER,
    };
    Ok(match op {
        Op::Get { .. } => (Change::Nothing, Done::Value(value.map(Into::into))),
        Op::Set { value, ttl, .. } => {
            let until = ttl.map_or(NEVER, |ttl| after(now, ttl));
            (Change::Put(value.clone(), until), Done::Nothing)
        }
        Op::Incr { by, init, ttl, .. } => {
            let sum = sum(value, *by, *init)?;
            let until = found.map_or_else(|| kept(ttl), |(_, until)| until);
            let bytes = codec::of_integer(sum).into();
            (Change::Put(bytes, until), Done::Number(sum))
        }
        Op::Swap { old, .. } if value != old.as_deref() => {
            let found = value.map(Into::into);
            (Change::Nothing, Done::Swapped(Err(found)))
        }
        Op::Swap { new, ttl, .. } => {
            let change = match new {
                Some(new) => Change::Put(new.clone(), kept(ttl)),
                None => Change::Remove,
            };
            (change, Done::Swapped(Ok(())))
        }
        Op::Delete { .. } => (Change::Remove, Done::Deleted(found.is_some())),
        Op::Scan { .. } | Op::Size => (Change::Nothing, Done::Nothing),
    })
}

fn after(now: u64, ttl: Duration) -> u64 {
    let ttl = u64::try_from(ttl.as_millis()).unwrap_or(NEVER);
    now.saturating_add(ttl)
}

/// The sum of a counter; an error is the part of a sentence behind the name of the function.
pub(crate) fn sum(found: Option<&[u8]>, by: i64, init: i64) -> Result<i64, Fault> {
    let from = match found {
        None => init,
        Some(bytes) => codec::integer(bytes).ok_or_else(|| not_a_number(codec::kind(bytes)))?,
    };
    from.checked_add(by).ok_or_else(|| {
        let message = format!("{from} and {by} are together no integer of 64 bits");
        Fault::new("invalid", message)
    })
}

/// The error of a store that has no room. Nothing is evicted: a store of `once` would forget what it must know.
pub(crate) fn full(held: Held, bounds: Bounds) -> Fault {
    let reason = if held.entries >= bounds.entries {
        format!("`maxEntries` is {}", bounds.entries)
    } else {
        format!("`maxBytes` is {}", bounds.bytes)
    };
    let message = format!(
        "the store is full: it has {} entries and {} bytes, and {reason}; raise the bound, delete entries, or give them \
         a `ttl`",
        held.entries, held.bytes
    );
    Fault::new("tooLarge", message)
}

pub(super) fn not_a_number(found: &str) -> Fault {
    let message = format!("the key has {found}, and only an integer is counted");
    Fault::new("invalid", message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait::Value;

    #[test]
    fn a_counter_begins_at_its_first_value_and_never_wraps() {
        assert_eq!(sum(None, 2, 10), Ok(12));
        assert_eq!(sum(Some(&codec::of_integer(5)), -7, 10), Ok(-2));
        let most = codec::of_integer(i64::MAX);
        assert_eq!(sum(Some(&most), 1, 0).unwrap_err().kind, "invalid");
        let text = codec::encode(&Value::Bytes(b"5".as_slice().into()));
        let error = sum(Some(&text), 1, 0).unwrap_err();
        assert_eq!(
            error.message,
            "the key has a string, and only an integer is counted"
        );
    }
}
