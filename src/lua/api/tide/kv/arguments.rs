//! The methods of a store, and how each reads its arguments. Pure.

use std::time::Duration;

use crate::duration;
use crate::lua::api::tide::options::{self, Fields};
use crate::state::codec;
use crate::state::op::{Bytes, KEY_MAX, Op, SCAN, SCAN_MAX, TTL_MAX};
use crate::wait::Value;

/// A method of a store.
pub(in crate::lua) struct Method {
    pub(in crate::lua) name: &'static str,
    /// For errors.
    pub(in crate::lua) path: &'static str,
    /// For the status and the metrics.
    pub(super) job: &'static str,
    /// The parameters with their types, as `LuaLS` has them.
    pub(in crate::lua) types: &'static [&'static str],
    pub(in crate::lua) returns: &'static str,
    /// Whether it looks at all entries, for which no worker has the time.
    pub(super) scans: bool,
    pub(super) read: fn(Vec<Value>) -> Result<Op, String>,
}

/// In the order of their names.
pub(in crate::lua) const METHODS: &[Method] = &[
    Method {
        name: "delete",
        path: "kv:delete",
        job: "kv.delete",
        types: &["key: string"],
        returns: "boolean",
        scans: false,
        read: |values| {
            let [value] = some(values, "the key alone")?;
            Ok(Op::Delete { key: key(value)? })
        },
    },
    Method {
        name: "get",
        path: "kv:get",
        job: "kv.get",
        types: &["key: string"],
        returns: "any",
        scans: false,
        read: |values| {
            let [value] = some(values, "the key alone")?;
            Ok(Op::Get { key: key(value)? })
        },
    },
    Method {
        name: "incr",
        path: "kv:incr",
        job: "kv.incr",
        types: &[
            "key: string",
            "by?: integer",
            "options?: { init?: integer, ttl?: number|string }",
        ],
        returns: "integer",
        scans: false,
        read: incr,
    },
    Method {
        name: "scan",
        path: "kv:scan",
        job: "kv.scan",
        types: &["options?: { prefix?: string, after?: string, limit?: integer }"],
        returns: "{ key: string, value: any }[]",
        scans: true,
        read: scan,
    },
    Method {
        name: "set",
        path: "kv:set",
        job: "kv.set",
        types: &["key: string", "value: any", "options?: tide.kv.Ttl"],
        returns: "nothing",
        scans: false,
        read: set,
    },
    Method {
        name: "size",
        path: "kv:size",
        job: "kv.size",
        types: &[],
        returns: "integer",
        scans: false,
        read: |values| {
            let [] = some(values, "no argument")?;
            Ok(Op::Size)
        },
    },
];

/// So many arguments; what is missing is nil.
fn some<const N: usize>(mut values: Vec<Value>, what: &str) -> Result<[Value; N], String> {
    if values.len() > N {
        return Err(format!(" takes {what}, not {} arguments", values.len()));
    }
    values.resize(N, Value::Nil);
    values
        .try_into()
        .map_err(|values: Vec<Value>| format!(" takes {what}, not {} arguments", values.len()))
}

pub(super) fn key(value: Value) -> Result<Bytes, String> {
    match value {
        Value::Bytes(bytes) => checked(bytes),
        other => Err(format!(
            " takes a key, which is a string, not {}{}",
            options::kind(&other),
            if matches!(other, Value::Integer(_) | Value::Number(_)) {
                "; write `tostring(key)`"
            } else {
                ""
            }
        )),
    }
}

pub(super) fn checked(key: Bytes) -> Result<Bytes, String> {
    let found = key.len();
    if found == 0 || found > KEY_MAX {
        return Err(format!(
            " takes a key of 1 to {KEY_MAX} bytes, and this one has {found}; a hash of it is short"
        ));
    }
    Ok(key)
}

/// The value as bytes.
pub(in crate::lua::api::tide) fn encoded(value: &Value) -> Result<Vec<u8>, String> {
    let bytes = codec::encode(value);
    if bytes.len() > codec::VALUE_MAX {
        return Err(format!(
            ": the value has {} bytes, more than {}",
            bytes.len(),
            codec::VALUE_MAX
        ));
    }
    Ok(bytes)
}

fn table(value: Value, form: &str, names: &[&str]) -> Result<Option<Fields>, String> {
    if value == Value::Nil {
        return Ok(None);
    }
    let what = format!("options as a table, as `{form}`");
    // The place stands in front already.
    Fields::of(value, String::new(), &what, names).map(Some)
}

fn incr(values: Vec<Value>) -> Result<Op, String> {
    let [name, by, last] = some(values, "a key, a number and options")?;
    let form = "{ init = 0, ttl = \"60s\" }";
    let mut fields = table(last, form, &["init", "ttl"])?;
    let by = match &by {
        Value::Nil => 1,
        other => options::whole(other)
            .ok_or_else(|| format!(" counts by an integer, not by {}", options::shown(other)))?,
    };
    let (mut init, mut time) = (0, None);
    if let Some(fields) = &mut fields {
        init = options::integer(fields, "init", i64::MIN, i64::MAX)?.unwrap_or(0);
        time = ttl(fields)?;
    }
    Ok(Op::Incr {
        key: key(name)?,
        by,
        init,
        ttl: time,
    })
}

fn set(values: Vec<Value>) -> Result<Op, String> {
    let [name, value, last] = some(values, "a key, a value and options")?;
    let key = key(name)?;
    if value == Value::Nil {
        return Err(": the value is nil; `delete` removes an entry".to_owned());
    }
    let mut fields = table(last, "{ ttl = \"60s\" }", &["ttl"])?;
    Ok(Op::Set {
        key,
        value: encoded(&value)?.into(),
        ttl: fields.as_mut().map_or(Ok(None), ttl)?,
    })
}

fn scan(values: Vec<Value>) -> Result<Op, String> {
    let [last] = some(values, "options")?;
    let form = "{ prefix = \"user:\", limit = 100 }";
    let fields = table(last, form, &["prefix", "after", "limit"])?;
    let Some(mut fields) = fields else {
        return Ok(Op::Scan {
            prefix: Bytes::default(),
            after: None,
            limit: SCAN as usize,
        });
    };
    let mut text = |name: &str| match fields.take(name) {
        Value::Nil => Ok(None),
        Value::Bytes(bytes) if bytes.len() <= KEY_MAX => Ok(Some(bytes)),
        other => fields.error(format!(
            "`{name}` is {}, not a string of {KEY_MAX} bytes at most",
            options::kind(&other)
        )),
    };
    let (prefix, after) = (text("prefix")?, text("after")?);
    let limit = options::integer(&mut fields, "limit", 1, SCAN_MAX)?;
    Ok(Op::Scan {
        prefix: prefix.unwrap_or_default(),
        after,
        limit: limit.unwrap_or(SCAN) as usize,
    })
}

/// The time to live; `None` where it is not given.
fn ttl(fields: &mut Fields) -> Result<Option<Duration>, String> {
    let value = fields.take("ttl");
    match time(&value) {
        _ if value == Value::Nil => Ok(None),
        Some(time) => Ok(Some(time)),
        None => fields.error(format!(
            "`ttl` is {}, not {}, from 1 ms to 10 years",
            options::shown(&value),
            duration::FORM
        )),
    }
}

fn time(value: &Value) -> Option<Duration> {
    let time = match value {
        Value::Integer(ms) => duration::of_ms(*ms as f64),
        Value::Number(ms) => duration::of_ms(*ms),
        value => value.text().and_then(duration::parse),
    };
    time.filter(|time| !time.is_zero() && *time <= TTL_MAX)
}

/// The options of `update`.
pub(super) fn of_update(value: Value) -> Result<Option<Duration>, String> {
    let mut fields = table(value, "{ ttl = \"60s\" }", &["ttl"])?;
    fields.as_mut().map_or(Ok(None), ttl)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn options(pairs: Vec<(&str, Value)>) -> Value {
        let pairs = pairs.into_iter().map(|(name, value)| (text(name), value));
        Value::Table(pairs.collect())
    }

    #[test]
    fn a_counter_has_defaults() {
        let op = incr(vec![text("k")]).unwrap();
        let expected = Op::Incr {
            key: b"k".as_slice().into(),
            by: 1,
            init: 0,
            ttl: None,
        };
        assert_eq!(op, expected);
        let last = options(vec![("init", Value::Integer(5)), ("ttl", text("1.5s"))]);
        let op = incr(vec![text("k"), Value::Number(-2.0), last]).unwrap();
        let expected = Op::Incr {
            key: b"k".as_slice().into(),
            by: -2,
            init: 5,
            ttl: Some(Duration::from_millis(1_500)),
        };
        assert_eq!(op, expected);
    }

    #[test]
    fn what_is_wrong_is_told() {
        let one = |value| vec![text("k"), text("v"), options(vec![("ttl", value)])];
        for (found, expected) in [
            (
                set(vec![Value::Integer(1), text("v")]),
                " takes a key, which is a string, not an integer; write `tostring(key)`",
            ),
            (
                set(vec![text(""), text("v")]),
                " takes a key of 1 to 4096 bytes, and this one has 0; a hash of it is short",
            ),
            (
                set(vec![text("k")]),
                ": the value is nil; `delete` removes an entry",
            ),
            (
                set(one(Value::Integer(0))),
                ": `ttl` is 0, not milliseconds or a string such as \"300ms\", \"1.5s\", \"5m\", \"1h\" or \"1d\", from 1 ms to 10 years",
            ),
            (
                set(vec![text("k"), text("v"), text("60s")]),
                " takes options as a table, as `{ ttl = \"60s\" }`, not a string",
            ),
            (
                set(vec![
                    text("k"),
                    text("v"),
                    options(vec![("tll", text("60s"))]),
                ]),
                " knows no option `tll`, did you mean `ttl`?",
            ),
            (
                incr(vec![text("k"), Value::Number(0.5)]),
                " counts by an integer, not by 0.5",
            ),
            (
                scan(vec![options(vec![("limit", Value::Integer(0))])]),
                ": `limit` is 0, not an integer from 1 to 10000",
            ),
        ] {
            assert_eq!(found.unwrap_err(), expected);
        }
        let large = Value::Bytes(vec![0; codec::VALUE_MAX].into());
        let error = set(vec![text("k"), large]).unwrap_err();
        assert_eq!(error, ": the value has 1048580 bytes, more than 1048576");
    }
}
