//! Arguments and options of `tide.kafka.admin` as plain values. Pure: plain data in, plain data out.
//!
//! An error is the part of a sentence behind the name of the function.

use std::collections::BTreeSet;

use crate::lua::api::tide::options::{Fields, integer, kind, list, shown, whole};
use crate::nearest::suggestion;
use crate::topic_name::is_topic;
use crate::wait::Value;
use crate::wait::admin::{BEGINNING, END, PartitionOffset, Resource, ResourceKind, ResourceQuery};

/// The most entries of a list.
const ENTRIES_MAX: usize = 10_000;
/// Kafka's own limit of a group id is that of a string of its protocol.
const GROUP_BYTES_MAX: usize = 32_767;

/// The arguments of a call, in their order.
pub(super) struct Arguments(Vec<Value>);

impl Arguments {
    pub(super) fn of(values: Vec<Value>) -> Self {
        Self(values)
    }

    /// `Nil` for those that are not there.
    pub(super) fn take<const N: usize>(self) -> Result<[Value; N], String> {
        let found = self.0.len();
        let mut values = self.0.into_iter();
        let taken = std::array::from_fn(|_| values.next().unwrap_or(Value::Nil));
        if values.any(|value| value != Value::Nil) {
            return Err(format!(" takes at most {N} arguments, not {found}"));
        }
        Ok(taken)
    }
}

/// The values of a list that is not empty.
fn entries(value: Value, what: &str) -> Result<Vec<Value>, String> {
    match list(value) {
        Ok(values) if values.is_empty() => Err(format!("empty, not a list of {what}")),
        Ok(values) if values.len() > ENTRIES_MAX => Err(format!(
            "a list of {} entries, more than {ENTRIES_MAX}",
            values.len()
        )),
        Ok(values) => Ok(values),
        Err(found) if found == "nil" => Err(format!("missing; write a list of {what}")),
        Err(found) => Err(format!("{found}, not a list of {what}")),
    }
}

/// A topic; an error describes the value.
pub(super) fn topic_of(value: Value) -> Result<String, String> {
    match value {
        Value::Bytes(name) => {
            let name = String::from_utf8_lossy(&name).into_owned();
            if is_topic(&name) {
                return Ok(name);
            }
            Err(format!(
                "{name:?}, not a valid name: a name has 1 to 249 letters, digits, `.`, `_` and `-`"
            ))
        }
        Value::Nil => Err("missing".to_owned()),
        other => Err(format!("{}, not the name of a topic", kind(&other))),
    }
}

/// A group; an error describes the value.
fn group_of(value: Value) -> Result<String, String> {
    match value {
        Value::Bytes(bytes) => match String::from_utf8(bytes.into_vec()) {
            Ok(name) if name.is_empty() => Err("empty, not a group id".to_owned()),
            Ok(name) if name.len() <= GROUP_BYTES_MAX && !name.contains('\0') => Ok(name),
            _ => Err(format!(
                "not a group id: UTF-8 of at most {GROUP_BYTES_MAX} bytes, without a NUL byte"
            )),
        },
        Value::Nil => Err("missing".to_owned()),
        other => Err(format!("{}, not a group id", kind(&other))),
    }
}

/// A text without a NUL byte; an error describes the value.
fn text_of(value: Value) -> Result<String, String> {
    match value {
        Value::Bytes(bytes) => match String::from_utf8(bytes.into_vec()) {
            Ok(text) if !text.contains('\0') => Ok(text),
            _ => Err("a string that is no text, or has a NUL byte".to_owned()),
        },
        Value::Nil => Err("missing".to_owned()),
        other => Err(format!("{}, not a string", kind(&other))),
    }
}

fn all_of(
    value: Value,
    name: &str,
    what: &str,
    read: impl Fn(Value) -> Result<String, String>,
) -> Result<Vec<String>, String> {
    let values = entries(value, what).map_err(|found| format!(": `{name}` is {found}"))?;
    let read = |(value, index): (Value, u32)| {
        read(value).map_err(|found| format!(": entry {index} of `{name}` is {found}"))
    };
    let all: Vec<String> = values
        .into_iter()
        .zip(1..)
        .map(read)
        .collect::<Result<_, _>>()?;
    let distinct: BTreeSet<&String> = all.iter().collect();
    if distinct.len() < all.len() {
        return Err(format!(": `{name}` has an entry twice"));
    }
    Ok(all)
}

/// `None` for a field that is not there, and for an empty list, which kafkajs takes for all.
pub(super) fn optional_names(
    fields: &mut Fields,
    name: &str,
    read: fn(Value) -> Result<String, String>,
) -> Result<Option<Vec<String>>, String> {
    match fields.take(name) {
        Value::Nil => Ok(None),
        Value::Table(pairs) if pairs.is_empty() => Ok(None),
        value => all_of(value, name, "names", read).map(Some),
    }
}

pub(super) fn topics(fields: &mut Fields) -> Result<Vec<String>, String> {
    all_of(fields.take("topics"), "topics", "names", topic_of)
}

pub(super) fn groups(value: Value) -> Result<Vec<String>, String> {
    all_of(value, "groupIds", "group ids", group_of)
}

pub(super) fn group(fields: &mut Fields) -> Result<String, String> {
    match group_of(fields.take("groupId")) {
        Ok(group) => Ok(group),
        Err(found) => fields.error(format!("`groupId` is {found}")),
    }
}

pub(super) fn boolean(fields: &mut Fields, name: &str, default: bool) -> Result<bool, String> {
    match fields.take(name) {
        Value::Nil => Ok(default),
        Value::Boolean(value) => Ok(value),
        other => fields.error(format!("`{name}` is {}, not true or false", shown(&other))),
    }
}

/// The tables of a list, each with at most these fields.
pub(super) fn tables(
    fields: &mut Fields,
    name: &str,
    names: &[&str],
) -> Result<Vec<Fields>, String> {
    let what = format!("tables with `{}`", names.join("`, `"));
    let values = match entries(fields.take(name), &what) {
        Ok(values) => values,
        Err(found) => return fields.error(format!("`{name}` is {found}")),
    };
    let read = |(value, index): (Value, u32)| {
        let place = format!("{}: entry {index} of `{name}`", fields.place);
        Fields::of(value, place, "a table", names)
    };
    values.into_iter().zip(1..).map(read).collect()
}

/// `partitions` of a topic, each with an offset. `"beginning"` and `"end"` stand for kafkajs' -2 and -1.
pub(super) fn partition_offsets(
    fields: &mut Fields,
    least: i64,
) -> Result<Vec<PartitionOffset>, String> {
    let mut offsets: Vec<PartitionOffset> = Vec::new();
    for mut entry in tables(fields, "partitions", &["partition", "offset"])? {
        let Some(partition) = integer(&mut entry, "partition", 0, i32::MAX.into())? else {
            return entry.error("`partition` is missing");
        };
        let offset = entry.take("offset");
        let offset = match (&offset, offset.text()) {
            (_, Some("end")) => Some(END),
            (_, Some("beginning")) if least <= BEGINNING => Some(BEGINNING),
            _ => whole(&offset)
                .filter(|number| *number >= least)
                .ok_or(offset)
                .or_else(|offset| {
                    let words = if least <= BEGINNING {
                        "\"beginning\" (-2) or \"end\" (-1)"
                    } else {
                        "\"end\" (-1)"
                    };
                    entry.error(format!(
                        "`offset` is {}, not an integer from 0, {words}",
                        shown(&offset)
                    ))
                })
                .map(Some)?,
        };
        let partition = partition as i32;
        if offsets.iter().any(|one| one.partition == partition) {
            return fields.error(format!("`partitions` has partition {partition} twice"));
        }
        offsets.extend(offset.map(|offset| PartitionOffset { partition, offset }));
    }
    Ok(offsets)
}

/// Settings as a list of tables with `name` and `value`; `tide.null` is a value of `None`.
pub(super) fn settings(
    fields: &mut Fields,
    with_null: bool,
) -> Result<Vec<(String, Option<String>)>, String> {
    let mut settings = Vec::new();
    for mut entry in tables(fields, "configEntries", &["name", "value"])? {
        let name = match text_of(entry.take("name")) {
            Ok(name) if !name.is_empty() => name,
            Ok(_) => return entry.error("`name` is empty"),
            Err(found) => return entry.error(format!("`name` is {found}")),
        };
        let value = match entry.take("value") {
            Value::Null if with_null => None,
            value => match text_of(value) {
                Ok(value) => Some(value),
                Err(found) => {
                    return entry.error(format!(
                        "`value` is {found}; `tostring` makes a string of a number"
                    ));
                }
            },
        };
        settings.push((name, value));
    }
    Ok(settings)
}

/// `resources`, each with `type`, `name` and these further fields.
pub(super) fn resources<T>(
    fields: &mut Fields,
    further: &[&str],
    read: fn(&mut Fields, Resource) -> Result<T, String>,
) -> Result<Vec<T>, String> {
    let names = [&["type", "name"], further].concat();
    let mut seen: Vec<Resource> = Vec::new();
    let mut all = Vec::new();
    for mut entry in tables(fields, "resources", &names)? {
        let resource = resource(&mut entry)?;
        if seen.contains(&resource) {
            return entry.error(format!(
                "{} `{}` is there twice",
                resource.kind.word(),
                resource.name
            ));
        }
        seen.push(resource.clone());
        all.push(read(&mut entry, resource)?);
    }
    Ok(all)
}

fn resource(fields: &mut Fields) -> Result<Resource, String> {
    let kind = fields.take("type");
    let word = kind.text().unwrap_or_default();
    let Some(kind) = ResourceKind::of(word) else {
        let nearest = suggestion(word, &ResourceKind::WORDS);
        return fields.error(format!("`type` is {}; {nearest}", shown(&kind)));
    };
    let name = fields.take("name");
    let name = match (kind, whole(&name)) {
        (ResourceKind::Broker, Some(id)) => Ok(id.to_string()),
        (ResourceKind::Broker, None) => {
            let id = text_of(name)?;
            match id.parse::<i32>() {
                Ok(_) => Ok(id),
                Err(_) => Err(format!("{id:?}, not the id of a broker")),
            }
        }
        (ResourceKind::Topic, _) => topic_of(name),
        (ResourceKind::Group, _) => group_of(name),
    };
    match name {
        Ok(name) => Ok(Resource { kind, name }),
        Err(found) => fields.error(format!("`name` is {found}")),
    }
}

/// One of `resources` of `describeConfigs`.
pub(super) fn resource_query(
    fields: &mut Fields,
    resource: Resource,
) -> Result<ResourceQuery, String> {
    let names = optional_names(fields, "configNames", text_of)?;
    Ok(ResourceQuery { resource, names })
}
