//! `[kafka.admin]`, and the connection of the admin client.

use std::collections::BTreeMap;
use std::time::Duration;

use super::Scene;
use super::file::File;
use super::kafkajs;
use super::passthrough::Table;
use super::properties;
use crate::kafka::property::{Role, Value};
use crate::nearest::suggestion;
use crate::wait::admin::{READING, WRITING};

const PATH: [&str; 2] = ["kafka", "admin"];

/// What handlers may do by `tide.kafka.admin`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Admin {
    /// The names of functions.
    pub(crate) allow: Vec<String>,
}

/// A connection that neither consumes nor sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Connection {
    /// All properties of librdkafka, by its names.
    pub(crate) properties: BTreeMap<String, Value>,
    /// `requestTimeout`: how long a call waits that names no time itself.
    pub(crate) request_timeout: Duration,
}

impl Connection {
    /// The addresses of the brokers, for errors.
    pub(crate) fn addresses(&self) -> &str {
        let addresses = self.properties.get("bootstrap.servers");
        addresses.map_or("", |addresses| &addresses.text)
    }
}

pub(super) fn admin(file: &File, scene: &mut Scene<'_, '_>) -> Admin {
    let reading = || READING.map(str::to_owned).to_vec();
    let allow = file.kafka.admin.allow.clone().unwrap_or_else(reading);
    let known = [&READING[..], &WRITING[..]].concat();
    for name in &allow {
        if !known.contains(&name.as_str()) {
            let at = scene.at_keys(&PATH, &["allow"]);
            let nearest = suggestion(name, &known);
            scene.report.error(
                at,
                format!(
                    "`allow` has `{name}`, which is no function of `tide.kafka.admin`; {nearest}"
                ),
            );
        }
    }
    Admin { allow }
}

/// The connection of `[kafkaConfig]`; `None` without brokers, and in a file with errors, which are told already.
pub(super) fn connection(file: &File, scene: &mut Scene<'_, '_>) -> Option<Connection> {
    let client = &file.kafka_config;
    if client.brokers.is_empty() || !scene.report.is_empty() {
        return None;
    }
    let table = Table {
        role: Role::Producer,
        client,
        path: &["kafkaConfig"],
    };
    let mapped = kafkajs::connection(client, scene.folder);
    Some(Connection {
        properties: properties::resolve(&table, mapped, scene),
        request_timeout: client.request_timeout.duration(),
    })
}
