//! The arguments of a consumer's functions, as plain data: Moontide's forms and those of kafkajs.

use super::Key;
use crate::nearest::suggestion;
use crate::rules::seek::Target;
use crate::rules::topic_pauses::Selection;
use crate::wait::{Fault, Value};

/// The partition that a call without coordinates means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::lua) enum Own {
    /// That of the call's message.
    Partition(Key),
    /// The message lies in a retry topic, so that its own coordinates could mean two partitions.
    Retry,
    /// No message.
    None,
}

pub(in crate::lua) fn invalid(message: impl Into<String>) -> Fault {
    Fault::new("invalid", message)
}

/// The pairs of a table with names as keys, one of `fields` each.
fn named<'v>(
    name: &str,
    value: &'v Value,
    fields: &[&str],
) -> Result<Vec<(&'v str, &'v Value)>, Fault> {
    let Value::Table(pairs) = value else {
        return Err(invalid(format!(
            "`{name}` takes a table, as `{{ topic = \"orders\", partition = 3 }}`, not {}",
            value.describe()
        )));
    };
    let mut found = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let key = key.text().ok_or_else(|| {
            let key = key.describe();
            invalid(format!("the fields of `{name}` have names, not {key}"))
        })?;
        if !fields.contains(&key) {
            let nearest = suggestion(key, fields);
            return Err(invalid(format!("`{name}` knows no `{key}`, {nearest}")));
        }
        found.push((key, value));
    }
    Ok(found)
}

fn topic_of(name: &str, value: &Value) -> Result<String, Fault> {
    let text = value.text().map(str::to_owned);
    text.ok_or_else(|| {
        let found = value.describe();
        invalid(format!("`topic` of `{name}` is a string, not {found}"))
    })
}

fn number_of(name: &str, value: &Value) -> Result<i32, Fault> {
    let number = match value {
        Value::Integer(number) => i32::try_from(*number).ok(),
        _ => None,
    };
    number.filter(|number| *number >= 0).ok_or_else(|| {
        let found = value.describe();
        invalid(format!(
            "a partition of `{name}` is an integer from 0, not {found}"
        ))
    })
}

/// The values of a list, in its order.
fn list(value: &Value) -> Option<Vec<&Value>> {
    let Value::Table(pairs) = value else {
        return None;
    };
    let mut items = Vec::with_capacity(pairs.len());
    for (key, value) in pairs {
        let Value::Integer(index) = key else {
            return None;
        };
        items.push((*index, value));
    }
    items.sort_by_key(|(index, _)| *index);
    let has_gap = (1..).zip(&items).any(|(index, item)| item.0 != index);
    if has_gap {
        return None;
    }
    Some(items.into_iter().map(|(_, value)| value).collect())
}

/// The partition of the call's message.
fn own_key<'o>(name: &str, own: &'o Own) -> Result<&'o Key, Fault> {
    match own {
        Own::Partition(key) => Ok(key),
        Own::Retry => Err(invalid(format!(
            "`{name}` needs `topic` and `partition`, since the message lies in a retry topic"
        ))),
        Own::None => Err(invalid(format!(
            "`{name}` needs `topic` and `partition` here, where no message is handled"
        ))),
    }
}

/// The argument of `pause` and `resume`: nothing, a table, or a list of tables.
pub(in crate::lua) fn selections(
    name: &str,
    argument: &Value,
    own: &Own,
) -> Result<Vec<Selection>, Fault> {
    if *argument == Value::Nil {
        let (topic, number) = own_key(name, own)?;
        return Ok(vec![Selection {
            topic: topic.clone(),
            partitions: Some(vec![*number]),
        }]);
    }
    match list(argument) {
        Some(items) => items
            .into_iter()
            .map(|item| selection(name, item, own))
            .collect(),
        None => Ok(vec![selection(name, argument, own)?]),
    }
}

fn selection(name: &str, value: &Value, own: &Own) -> Result<Selection, Fault> {
    let (mut topic, mut partitions) = (None, None);
    for (key, value) in named(name, value, &["partition", "partitions", "topic"])? {
        match key {
            "topic" => topic = Some(topic_of(name, value)?),
            _ if partitions.is_some() => {
                return Err(invalid(format!(
                    "`{name}` takes either `partition` or `partitions`"
                )));
            }
            "partition" => partitions = Some(vec![number_of(name, value)?]),
            _ => {
                let items = list(value).ok_or_else(|| {
                    let found = value.describe();
                    invalid(format!("`partitions` of `{name}` is a list, not {found}"))
                })?;
                let numbers = items.into_iter().map(|item| number_of(name, item));
                partitions = Some(numbers.collect::<Result<Vec<_>, _>>()?);
            }
        }
    }
    let topic = match topic {
        Some(topic) => topic,
        None => own_key(name, own)?.0.clone(),
    };
    Ok(Selection { topic, partitions })
}

/// The argument of `position`, `committed` and `lag`: nothing, or a table.
pub(in crate::lua) fn partition(name: &str, argument: &Value, own: &Own) -> Result<Key, Fault> {
    let (mut topic, mut number) = (None, None);
    if *argument != Value::Nil {
        for (key, value) in named(name, argument, &["partition", "topic"])? {
            match key {
                "topic" => topic = Some(topic_of(name, value)?),
                _ => number = Some(number_of(name, value)?),
            }
        }
    }
    key(name, topic, number, own)
}

/// A partition of another topic needs its number.
fn key(name: &str, topic: Option<String>, number: Option<i32>, own: &Own) -> Result<Key, Fault> {
    match (topic, number) {
        (Some(topic), Some(number)) => Ok((topic, number)),
        (None, Some(number)) => Ok((own_key(name, own)?.0.clone(), number)),
        (None, None) => own_key(name, own).cloned(),
        (Some(topic), None) => Err(invalid(format!(
            "`{name}` needs a `partition` of topic `{topic}`"
        ))),
    }
}

/// The argument of `seek`: the partition, and where it goes on.
pub(in crate::lua) fn seek(
    name: &str,
    argument: &Value,
    own: &Own,
) -> Result<(Key, Target), Fault> {
    let fields = ["offset", "partition", "timestamp", "topic"];
    let (mut topic, mut number, mut target) = (None, None, None);
    for (field, value) in named(name, argument, &fields)? {
        match field {
            "topic" => topic = Some(topic_of(name, value)?),
            "partition" => number = Some(number_of(name, value)?),
            _ if target.is_some() => {
                return Err(invalid(format!(
                    "`{name}` takes either `offset` or `timestamp`"
                )));
            }
            "offset" => target = Some(offset_of(name, value)?),
            _ => target = Some(timestamp_of(name, value)?),
        }
    }
    let target = target.ok_or_else(|| {
        invalid(format!(
            "`{name}` needs `offset` or `timestamp`, as `{{ offset = \"beginning\" }}`"
        ))
    })?;
    Ok((key(name, topic, number, own)?, target))
}

/// An integer, also as kafkajs writes it: -1 is the end, -2 the beginning, and a string may have the digits.
fn offset_of(name: &str, value: &Value) -> Result<Target, Fault> {
    let number = match value {
        Value::Integer(number) => Some(*number),
        _ => value.text().and_then(|text| text.parse().ok()),
    };
    match (number, value.text()) {
        (Some(-1), _) | (_, Some("end")) => Ok(Target::End),
        (Some(-2), _) | (_, Some("beginning")) => Ok(Target::Beginning),
        (Some(offset), _) if offset >= 0 => Ok(Target::Offset(offset)),
        _ => Err(invalid(format!(
            "`offset` of `{name}` is an integer from 0, \"beginning\" (-2) or \"end\" (-1), not {}",
            value
                .text()
                .map_or_else(|| value.describe(), |text| format!("{text:?}"))
        ))),
    }
}

fn timestamp_of(name: &str, value: &Value) -> Result<Target, Fault> {
    match value {
        Value::Integer(ms) if *ms >= 0 => Ok(Target::Timestamp(*ms)),
        _ => Err(invalid(format!(
            "`timestamp` of `{name}` is an integer of milliseconds since the epoch, not {}",
            value.describe()
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(text: &str) -> Value {
        Value::Bytes(text.as_bytes().into())
    }

    fn table(pairs: &[(&str, Value)]) -> Value {
        let pairs = pairs.iter();
        Value::Table(
            pairs
                .map(|(key, value)| (text(key), value.clone()))
                .collect(),
        )
    }

    fn items(values: &[Value]) -> Value {
        let values = values.iter().zip(1..);
        Value::Table(
            values
                .map(|(value, at)| (Value::Integer(at), value.clone()))
                .collect(),
        )
    }

    fn own() -> Own {
        Own::Partition(("orders".to_owned(), 3))
    }

    #[track_caller]
    fn check(argument: &Value, own: &Own, expected: &[(&str, Option<&[i32]>)]) {
        let found = selections("pause", argument, own).unwrap();
        let found: Vec<_> = found
            .iter()
            .map(|one| (&*one.topic, one.partitions.as_deref()))
            .collect();
        assert_eq!(found, expected);
    }

    #[test]
    fn every_form_of_a_selection_is_read() {
        let numbers = |numbers: &[i64]| {
            items(
                &numbers
                    .iter()
                    .map(|one| Value::Integer(*one))
                    .collect::<Vec<_>>(),
            )
        };
        check(&Value::Nil, &own(), &[("orders", Some(&[3]))]);
        check(&table(&[("topic", text("a"))]), &own(), &[("a", None)]);
        check(
            &table(&[("partition", Value::Integer(1))]),
            &own(),
            &[("orders", Some(&[1]))],
        );
        check(
            &table(&[("partitions", numbers(&[1, 2]))]),
            &own(),
            &[("orders", Some(&[1, 2]))],
        );
        let one = table(&[("topic", text("a")), ("partitions", numbers(&[0]))]);
        let two = table(&[("topic", text("b"))]);
        check(
            &items(&[one, two]),
            &Own::None,
            &[("a", Some(&[0])), ("b", None)],
        );
        check(&Value::Table(Vec::new()), &own(), &[]);
    }

    #[test]
    fn wrong_forms_are_told_with_what_is_allowed() {
        let refused = |argument: Value, own: Own| {
            let fault = selections("pause", &argument, &own).unwrap_err();
            assert_eq!(fault.kind, "invalid");
            fault.message
        };
        for (argument, own, expected) in [
            (
                Value::Nil,
                Own::Retry,
                "since the message lies in a retry topic",
            ),
            (Value::Nil, Own::None, "where no message is handled"),
            (
                text("orders"),
                own(),
                "takes a table, as `{ topic = \"orders\", partition = 3 }`, not a string",
            ),
            (
                table(&[("topics", text("a"))]),
                own(),
                "knows no `topics`, did you mean `topic`?",
            ),
            (
                table(&[("topic", Value::Integer(1))]),
                own(),
                "`topic` of `pause` is a string, not 1",
            ),
            (
                table(&[("partition", Value::Integer(-1))]),
                own(),
                "an integer from 0, not -1",
            ),
            (
                table(&[("partitions", Value::Integer(1))]),
                own(),
                "`partitions` of `pause` is a list, not 1",
            ),
        ] {
            let message = refused(argument, own);
            assert!(message.contains(expected), "{message}");
        }
    }

    #[test]
    fn every_form_of_a_seek_is_read() {
        let of = |field: &str, value: Value| seek("seek", &table(&[(field, value)]), &own());
        for (value, expected) in [
            (Value::Integer(7), Target::Offset(7)),
            (Value::Integer(-1), Target::End),
            (Value::Integer(-2), Target::Beginning),
            (text("end"), Target::End),
            (text("beginning"), Target::Beginning),
            (text("-2"), Target::Beginning),
            (text("42"), Target::Offset(42)),
        ] {
            let found = of("offset", value).unwrap();
            assert_eq!(found, (("orders".to_owned(), 3), expected));
        }
        let found = of("timestamp", Value::Integer(5)).unwrap();
        assert_eq!(found.1, Target::Timestamp(5));
        for value in [
            Value::Integer(-3),
            Value::Number(1.5),
            text("latest"),
            Value::Nil,
        ] {
            assert!(of("offset", value).is_err());
        }
        assert!(of("timestamp", text("5")).is_err());
        let both = [
            ("offset", Value::Integer(1)),
            ("timestamp", Value::Integer(1)),
        ];
        let neither = [("topic", text("a")), ("partition", Value::Integer(1))];
        for argument in [table(&both), table(&neither), Value::Nil] {
            assert_eq!(seek("seek", &argument, &own()).unwrap_err().kind, "invalid");
        }
        let retry = table(&[("offset", Value::Integer(1)), ("topic", text("a"))]);
        assert!(seek("seek", &retry, &Own::Retry).is_err());
    }

    #[test]
    fn one_partition_is_named_or_that_of_the_message() {
        let name = |argument: &Value, own: &Own| partition("lag", argument, own);
        assert_eq!(name(&Value::Nil, &own()).unwrap(), ("orders".to_owned(), 3));
        let other = table(&[("topic", text("a")), ("partition", Value::Integer(1))]);
        assert_eq!(name(&other, &Own::Retry).unwrap(), ("a".to_owned(), 1));
        let fault = name(&table(&[("topic", text("a"))]), &own()).unwrap_err();
        assert_eq!(fault.message, "`lag` needs a `partition` of topic `a`");
        assert!(name(&Value::Nil, &Own::Retry).is_err());
        assert!(name(&Value::Nil, &Own::None).is_err());
    }
}
