//! From the options of `send` and `sendBatch` to a request. Pure: plain data in, plain data out.
//!
//! An error is the part of a sentence behind the name of the function.

use std::sync::Arc;

use smallvec::smallvec;

use super::Read;
use crate::lua::api::tide::options::{Fields, kind, list, shown, timeout, whole};
use crate::message::{Header, Outgoing};
use crate::topic_name::is_topic;
use crate::wait::Value;
use crate::wait::send::{Acks, Compression, Few, Request};

const RECORD: [&str; 5] = ["value", "key", "headers", "partition", "timestamp"];
const OPTIONS: [&str; 3] = ["acks", "compression", "timeout"];
/// Every field of `send`.
const ALL: [&str; 10] = [
    "topic",
    "messages",
    "value",
    "key",
    "headers",
    "partition",
    "timestamp",
    "acks",
    "compression",
    "timeout",
];

pub(super) fn send(value: Value) -> Result<Read, String> {
    let mut fields = Fields::of(value, String::new(), "a table of options", &ALL)?;
    let mut request = options(&mut fields)?;
    let (records, is_one) = one_or_more(&mut fields)?;
    request.records = records;
    Ok(Read { request, is_one })
}

/// The records of one topic: `messages`, or one that is written flat.
fn one_or_more(fields: &mut Fields) -> Result<(Few<Outgoing>, bool), String> {
    let topic = topic(fields)?.into();
    if !fields.has("messages") {
        return Ok((smallvec![record(fields, &topic)?], true));
    }
    let messages = fields.take("messages");
    if let Some(flat) = RECORD.iter().find(|name| fields.has(name)) {
        return fields.error(format!(
            "`{flat}` stands beside `messages`; write it into each message, or leave `messages` out"
        ));
    }
    Ok((records(messages, &topic, &fields.place)?, false))
}

fn producer(fields: &mut Fields) -> Result<Option<String>, String> {
    match fields.take("producer") {
        Value::Nil => Ok(None),
        Value::Bytes(name) => Ok(Some(String::from_utf8_lossy(&name).into_owned())),
        other => fields.error(format!("`producer` is {}, not a name", kind(&other))),
    }
}

/// The options of `ctx.emit`: those of `send`, without what belongs to a call that waits.
pub(in crate::lua::api) fn emit(value: Value) -> Result<Request, String> {
    let names = [&["topic", "messages", "producer"], &RECORD[..]].concat();
    let mut fields = Fields::of(value, String::new(), "a table of options", &names)?;
    let producer = producer(&mut fields)?;
    let records = one_or_more(&mut fields)?.0;
    Ok(Request {
        producer,
        records,
        ..Request::default()
    })
}

pub(super) fn send_batch(value: Value) -> Result<Read, String> {
    let names = [&["topicMessages"], &OPTIONS[..]].concat();
    let mut fields = Fields::of(value, String::new(), "a table of options", &names)?;
    let mut request = options(&mut fields)?;
    let topics = match list(fields.take("topicMessages")) {
        Ok(topics) => topics,
        Err(found) => {
            return fields.error(format!(
                "`topicMessages` is {found}, not a list of tables with `topic` and `messages`"
            ));
        }
    };
    for (index, value) in topics.into_iter().enumerate() {
        let place = format!(": entry {} of `topicMessages`", index + 1);
        let what = "a table with `topic` and `messages`";
        let mut fields = Fields::of(value, place, what, &["topic", "messages"])?;
        let topic = topic(&mut fields)?.into();
        let messages = fields.take("messages");
        request
            .records
            .extend(records(messages, &topic, &fields.place)?);
    }
    Ok(Read {
        request,
        is_one: false,
    })
}

fn options(fields: &mut Fields) -> Result<Request, String> {
    Ok(Request {
        acks: acks(fields)?,
        compression: compression(fields)?,
        timeout: timeout(fields)?,
        ..Request::default()
    })
}

fn acks(fields: &mut Fields) -> Result<Option<Acks>, String> {
    let value = fields.take("acks");
    let acks = match &value {
        Value::Nil => return Ok(None),
        Value::Integer(number) => Acks::of(*number),
        _ => None,
    };
    if acks.is_none() {
        let found = shown(&value);
        return fields.error(format!(
            "`acks` is {found}, not -1 (all replicas in sync), 1 (the leader) or 0 (none)"
        ));
    }
    Ok(acks)
}

fn compression(fields: &mut Fields) -> Result<Option<Compression>, String> {
    let value = fields.take("compression");
    let compression = match &value {
        Value::Nil => return Ok(None),
        Value::Bytes(word) => std::str::from_utf8(word).ok().and_then(Compression::of),
        _ => None,
    };
    if compression.is_none() {
        let words = Compression::WORDS.join("\", \"");
        return fields.error(format!(
            "`compression` is {}, not one of \"{words}\"",
            shown(&value)
        ));
    }
    Ok(compression)
}

pub(super) fn topic(fields: &mut Fields) -> Result<String, String> {
    match fields.take("topic") {
        Value::Bytes(name) => {
            let name = String::from_utf8_lossy(&name).into_owned();
            if !is_topic(&name) {
                return fields.error(format!(
                    "`topic` is {name:?}, not a valid name: a name has 1 to 249 letters, digits, `.`, `_` and `-`"
                ));
            }
            Ok(name)
        }
        Value::Nil => fields.error("`topic` is missing"),
        other => fields.error(format!("`topic` is {}, not a string", kind(&other))),
    }
}

fn records(messages: Value, topic: &Arc<str>, place: &str) -> Result<Few<Outgoing>, String> {
    let messages = list(messages).map_err(|found| {
        format!("{place}: `messages` is {found}, not a list of tables such as {{ value = \"…\" }}")
    })?;
    let read = |(index, value)| {
        let place = format!("{place}: message {}", index + 1);
        let what = "a table such as { value = \"…\" }";
        record(&mut Fields::of(value, place, what, &RECORD)?, topic)
    };
    messages.into_iter().enumerate().map(read).collect()
}

fn record(fields: &mut Fields, topic: &Arc<str>) -> Result<Outgoing, String> {
    Ok(Outgoing {
        topic: topic.clone(),
        value: value(fields)?,
        key: key(fields)?,
        headers: headers(fields)?,
        partition: partition(fields)?,
        timestamp_ms: timestamp(fields)?,
    })
}

fn value(fields: &mut Fields) -> Result<Option<Vec<u8>>, String> {
    match fields.take("value") {
        Value::Bytes(bytes) => Ok(Some(bytes.into_vec())),
        Value::Null => Ok(None),
        Value::Nil => fields.error(
            "`value` is missing; `tide.null` is a tombstone, so `value = message.value or tide.null` forwards one",
        ),
        other => fields.error(format!(
            "`value` is {}, not a string; `tide.json.encode` makes a string of it",
            kind(&other)
        )),
    }
}

fn key(fields: &mut Fields) -> Result<Option<Vec<u8>>, String> {
    match fields.take("key") {
        Value::Bytes(bytes) => Ok(Some(bytes.into_vec())),
        Value::Nil | Value::Null => Ok(None),
        other => fields.error(format!(
            "`key` is {}, not a string; `tostring` makes a string of a number",
            kind(&other)
        )),
    }
}

/// In the order of their names: a table has no order.
fn headers(fields: &mut Fields) -> Result<Vec<Header>, String> {
    let pairs = match fields.take("headers") {
        Value::Nil => return Ok(Vec::new()),
        Value::Table(pairs) => pairs,
        other => {
            return fields.error(format!(
                "`headers` is {}, not a table such as {{ name = \"value\" }}",
                kind(&other)
            ));
        }
    };
    let mut headers: Vec<Header> = Vec::with_capacity(pairs.len());
    for (name, value) in pairs {
        let Value::Bytes(name) = name else {
            return fields.error(format!(
                "`headers` has {} as a name, not a string",
                kind(&name)
            ));
        };
        let shown = String::from_utf8_lossy(&name).into_owned();
        let values = match value {
            table @ Value::Table(_) => list(table),
            other => Ok(vec![other]),
        };
        let values = match values {
            Ok(values) => values,
            Err(found) => {
                return fields.error(format!(
                    "header `{shown}` is {found}, not a string or a list of strings"
                ));
            }
        };
        for value in values {
            match value {
                Value::Bytes(bytes) => headers.push((name.to_vec(), Some(bytes.into_vec()))),
                Value::Null => headers.push((name.to_vec(), None)),
                other => {
                    return fields.error(format!(
                        "header `{shown}` is {}, not a string or a list of strings; `tostring` makes a string of a \
                         number",
                        kind(&other)
                    ));
                }
            }
        }
    }
    // The sort is stable, so the values of one name keep the order of their list.
    headers.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(headers)
}

fn partition(fields: &mut Fields) -> Result<Option<i32>, String> {
    let value = fields.take("partition");
    match whole(&value) {
        _ if value == Value::Nil => Ok(None),
        Some(number) if (0..=i64::from(i32::MAX)).contains(&number) => Ok(Some(number as i32)),
        _ => fields.error(format!(
            "`partition` is {}, not an integer from 0",
            shown(&value)
        )),
    }
}

fn timestamp(fields: &mut Fields) -> Result<Option<i64>, String> {
    let value = fields.take("timestamp");
    match whole(&value) {
        _ if value == Value::Nil => Ok(None),
        Some(ms) if ms >= 0 => Ok(Some(ms)),
        _ => fields.error(format!(
            "`timestamp` is {}, not milliseconds since the epoch as an integer from 0",
            shown(&value)
        )),
    }
}
