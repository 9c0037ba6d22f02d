//! From the answer of a request to the value that a handler gets, or the error that it sees. Pure.

use std::sync::Arc;

use crate::wait::send::{Coordinates, Failed, Fate};
use crate::wait::{Fault, Value};

/// `topics` are those of the records, in their order.
pub(super) fn value(
    answer: Result<Vec<Coordinates>, Failed>,
    topics: &[Arc<str>],
    is_one: bool,
) -> Result<Value, Fault> {
    match answer {
        Ok(written) => {
            let all = written
                .iter()
                .zip(topics)
                .map(|(one, topic)| coordinates(one, topic));
            let mut all = all.map(Value::Table);
            match (is_one, all.next()) {
                (true, Some(one)) => Ok(one),
                (_, first) => Ok(list(first.into_iter().chain(all))),
            }
        }
        Err(failed) => {
            let fates = failed.results.iter().zip(topics);
            let results = fates.map(|(one, topic)| fate(one, topic));
            Err(Fault {
                kind: failed.kind,
                message: failed.message,
                fields: vec![("results", list(results))],
            })
        }
    }
}

fn coordinates(written: &Coordinates, topic: &str) -> Vec<(Value, Value)> {
    let mut fields = vec![
        (text("topic"), text(topic)),
        (text("partition"), Value::Integer(written.partition.into())),
    ];
    let offset = written.offset.map(|offset| ("offset", offset));
    let timestamp = written.timestamp_ms.map(|ms| ("timestamp", ms));
    let numbers = offset.into_iter().chain(timestamp);
    fields.extend(numbers.map(|(name, number)| (text(name), Value::Integer(number))));
    fields
}

fn fate(fate: &Fate, topic: &str) -> Value {
    let topic_field = (text("topic"), text(topic));
    Value::Table(match fate {
        Fate::Written(one) => coordinates(one, topic),
        Fate::Failed(fault) | Fate::Refused(fault) => vec![
            topic_field,
            (text("kind"), text(fault.kind)),
            (text("error"), text(&fault.message)),
        ],
        Fate::Unknown => vec![topic_field, (text("unknown"), Value::Boolean(true))],
    })
}

fn list(values: impl Iterator<Item = Value>) -> Value {
    let numbered = values.zip(1..);
    Value::Table(
        numbered
            .map(|(value, index)| (Value::Integer(index), value))
            .collect(),
    )
}

fn text(text: &str) -> Value {
    Value::Bytes(text.as_bytes().into())
}
