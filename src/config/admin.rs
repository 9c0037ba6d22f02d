//! `[kafka.admin]`, and the connection of the admin client.

use super::file::File;
use super::kafkajs;
use super::passthrough::Table;
use super::properties;
use super::{Admin, Connection, Scene};
use crate::kafka::property::Role;
use crate::nearest::suggestion;
use crate::wait::admin::{READING, WRITING};

const PATH: [&str; 2] = ["kafka", "admin"];

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
