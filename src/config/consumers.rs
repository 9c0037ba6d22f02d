//! Consumers: from the file's tables, inheritance done, to groups with the properties that librdkafka is told.
//!
//! Every table is checked, those that no listener uses too; only the used ones come out.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Assigner, Consumer, File, GroupProtocol};
use super::kafkajs;
use super::names::is_word;
use super::passthrough::Table;
use super::properties;
use super::tree::{self, CLASSIC_KEYS, Step};
use super::unit::Millis;
use super::{DEFAULT_CONSUMER, Scene};
use crate::kafka::property::Role;

/// librdkafka's default of `message.max.bytes`, below which `fetch.max.bytes` may not be.
const MESSAGE_MAX_BYTES: u64 = 1_000_000;

pub(super) fn resolve(
    file: &File,
    used: &BTreeSet<String>,
    scene: &mut Scene<'_, '_>,
) -> Vec<super::Consumer> {
    let mut resolved = Vec::new();
    for (name, consumer) in &file.consumers {
        let path = ["consumers", name.as_str()];
        check_name(name, &path, scene);
        let ready = one(name, consumer, &path, file, scene);
        if used.contains(name) {
            resolved.extend(ready);
        } else {
            scene
                .report
                .warning(format!("consumer `{name}` is used by no listener"));
        }
    }
    // Without a listener of its own it is only what the others inherit, which was checked with them.
    if used.contains(DEFAULT_CONSUMER) || file.consumers.is_empty() {
        let ready = one(
            DEFAULT_CONSUMER,
            &file.consumer_config,
            &["consumerConfig"],
            file,
            scene,
        );
        if used.contains(DEFAULT_CONSUMER) {
            resolved.extend(ready);
        }
    }
    groups_differ(&resolved, scene);
    resolved.sort_by_key(|consumer| consumer.name != DEFAULT_CONSUMER);
    resolved
}

fn check_name(name: &str, path: &[&str], scene: &mut Scene<'_, '_>) {
    let at = scene.at_keys(path, &[]);
    if name == DEFAULT_CONSUMER {
        scene.report.error(
            at,
            format!(
                "`{name}` is the name of the consumer of `[consumerConfig]`; write its keys there"
            ),
        );
    } else if !is_word(name) {
        scene.report.error(
            at,
            format!("consumer `{name}`: a name has letters, digits, `_` and `-` only"),
        );
    }
}

fn groups_differ(consumers: &[super::Consumer], scene: &mut Scene<'_, '_>) {
    let mut groups: BTreeMap<&str, &str> = BTreeMap::new();
    for consumer in consumers {
        if let Some(other) = groups.insert(&consumer.group_id, &consumer.name) {
            let at = scene.at(&table_of(&consumer.name, Step::Key("groupId")));
            scene.report.error(
                at,
                format!(
                    "consumers `{other}` and `{}` have the same `groupId` `{}`; give each its own, or use one \
                     consumer for their listeners",
                    consumer.name, consumer.group_id
                ),
            );
        }
    }
}

fn table_of<'a>(name: &'a str, key: Step<'a>) -> Vec<Step<'a>> {
    if name == DEFAULT_CONSUMER {
        vec![Step::Key("consumerConfig"), key]
    } else {
        vec![Step::Key("consumers"), Step::Key(name), key]
    }
}

fn one(
    name: &str,
    consumer: &Consumer,
    path: &[&str],
    file: &File,
    scene: &mut Scene<'_, '_>,
) -> Option<super::Consumer> {
    properties::check_brokers(&consumer.client, path, scene);
    retries(path, scene);
    let group_id = group(name, consumer, path, scene);
    classic(consumer, path, scene);
    limits(consumer, path, file, scene);
    let table = Table {
        role: Role::Consumer,
        client: &consumer.client,
        path,
    };
    let mapped = kafkajs::consumer(consumer, scene.folder);
    let properties = properties::resolve(&table, mapped, scene);
    Some(super::Consumer {
        name: name.to_owned(),
        group_id: group_id?,
        properties,
        rebalance_timeout: consumer.rebalance_timeout.duration(),
        session_timeout: consumer.session_timeout.duration(),
        metadata_max_age: consumer.metadata_max_age.duration(),
        request_timeout: consumer.client.request_timeout.duration(),
        transaction: transaction(consumer, path, scene),
    })
}

/// The longest time that the brokers of most clusters keep an open transaction (`transaction.max.timeout.ms`).
const TIMEOUT_MAX: Millis = Millis(900_000);
/// A shorter time would end with one slow call.
const TIMEOUT_MIN: Millis = Millis(5_000);

fn transaction(
    consumer: &Consumer,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) -> Option<super::Transaction> {
    let own = &consumer.transaction;
    let mut refuse = |keys: &[&str], message: String| {
        let at = scene.at_keys(path, keys);
        scene.report.error(at, message);
    };
    let (interval, messages, timeout) = (own.interval, own.messages, own.timeout);
    if timeout < TIMEOUT_MIN || timeout > TIMEOUT_MAX {
        let message = format!("`transaction.timeout` is {timeout}, not from 5 s to 15 min");
        refuse(&["transaction", "timeout"], message);
    }
    if interval.0 == 0 || interval.0 > timeout.0 / 3 {
        let message = format!(
            "`transaction.interval` is {interval}, not from 1 ms to a third of `transaction.timeout` ({timeout})"
        );
        refuse(&["transaction", "interval"], message);
    }
    if messages == 0 {
        let message = "`transaction.messages` is 0, so no message could be committed".to_owned();
        refuse(&["transaction", "messages"], message);
    }
    if !consumer.exactly_once {
        return None;
    }
    if consumer.read_uncommitted {
        let message = "`readUncommitted` is true with `exactlyOnce`: records of aborted transactions would be handled; \
                       remove it"
            .to_owned();
        refuse(&["readUncommitted"], message);
    }
    Some(super::Transaction {
        interval: interval.duration(),
        messages: messages as usize,
        timeout: timeout.duration(),
    })
}

/// `retry.retries` of `[kafkaConfig]` is for producers.
fn retries(path: &[&str], scene: &mut Scene<'_, '_>) {
    let keys = ["retry", "retries"];
    if scene.is_own(path, &keys) {
        let at = scene.at_keys(path, &keys);
        scene.report.error(
            at,
            "`retry.retries`: a consumer retries requests without limit; `retry.attempts` in `[[listeners]]` is for handlers",
        );
    }
}

fn group(
    name: &str,
    consumer: &Consumer,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) -> Option<String> {
    let at = scene.at_keys(path, &["groupId"]);
    match consumer.group_id.as_deref() {
        Some("") => scene
            .report
            .error(at, format!("consumer `{name}`: `groupId` is empty")),
        Some(id) => return Some(id.to_owned()),
        None if scene.report.is_left_out("groupId") => {}
        None if name == DEFAULT_CONSUMER => scene
            .report
            .error(at, "`groupId` is missing in `[consumerConfig]`"),
        None => {
            scene.report.error(at, format!("`groupId` is missing in `[consumers.{name}]`; a named consumer does not inherit it"));
        }
    }
    None
}

fn classic(consumer: &Consumer, path: &[&str], scene: &mut Scene<'_, '_>) {
    if consumer.group_protocol == GroupProtocol::Consumer {
        for key in CLASSIC_KEYS {
            if tree::table(scene.tree, path).is_some_and(|table| table.contains_key(key)) {
                let at = scene.at_keys(path, &[key]);
                scene.report.error(
                    at,
                    format!(
                        "`{key}` is set by the broker with `groupProtocol` \"consumer\"; remove it"
                    ),
                );
            }
        }
        return;
    }
    let (heartbeat, session) = (consumer.heartbeat_interval, consumer.session_timeout);
    if heartbeat >= session {
        let at = scene.at_written(path, &["heartbeatInterval", "sessionTimeout"]);
        scene.report.error(
            at,
            format!("`heartbeatInterval` is {heartbeat}, not less than `sessionTimeout` {session}"),
        );
    }
    if session > consumer.rebalance_timeout {
        let at = scene.at_written(path, &["sessionTimeout", "rebalanceTimeout"]);
        let rebalance = consumer.rebalance_timeout;
        scene.report.error(
            at,
            format!("`rebalanceTimeout` is {rebalance}, less than `sessionTimeout` {session}"),
        );
    }
    let assigners = &consumer.partition_assigners;
    let at = scene.at_keys(path, &["partitionAssigners"]);
    if assigners.is_empty() && !scene.report.is_left_out("partitionAssigners") {
        scene.report.error(
            at,
            "`partitionAssigners` is empty; remove it for [\"cooperative-sticky\"]",
        );
    } else if assigners.len() > 1 && assigners.contains(&Assigner::CooperativeSticky) {
        scene.report.error(at, "`partitionAssigners` has \"cooperative-sticky\" and another assignor, which librdkafka cannot mix");
    }
}

fn limits(consumer: &Consumer, path: &[&str], file: &File, scene: &mut Scene<'_, '_>) {
    if consumer.metadata_max_age.0 == 0 {
        let at = scene.at_keys(path, &["metadataMaxAge"]);
        scene.report.error(
            at,
            "`metadataMaxAge` is 0, so new topics and partitions would never be found",
        );
    }
    let (wait, request) = (
        consumer.max_wait_time_in_ms,
        consumer.client.request_timeout,
    );
    if wait >= request {
        let at = scene.at_written(path, &["maxWaitTimeInMs", "requestTimeout"]);
        scene.report.error(
            at,
            format!("`maxWaitTimeInMs` is {wait}, not less than `requestTimeout` {request}"),
        );
    }
    let own_limit = consumer.client.librdkafka.contains_key("message.max.bytes");
    if consumer.max_bytes.0 < MESSAGE_MAX_BYTES && !own_limit {
        let at = scene.at_keys(path, &["maxBytes"]);
        let most = consumer.max_bytes;
        scene.report.error(
            at,
            format!(
                "`maxBytes` is {most}, less than 1 MB, the largest message that librdkafka takes"
            ),
        );
    }
    let (drain, rebalance) = (file.daemon.drain_deadline, consumer.rebalance_timeout);
    if drain > rebalance {
        let at = scene
            .at_written(&["daemon"], &["drainDeadline"])
            .or_else(|| scene.at_written(path, &["rebalanceTimeout"]));
        scene.report.error(
            at,
            format!("`drainDeadline` is {drain}, more than `rebalanceTimeout` {rebalance}, after which the group gives the partitions to other members"),
        );
    }
}
