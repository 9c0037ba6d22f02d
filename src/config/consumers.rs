//! Consumers: from the file's tables, inheritance done, to groups with the properties that librdkafka is told.
//!
//! Every table is checked, those that no listener uses too; only the used ones come out.

use std::collections::{BTreeMap, BTreeSet};

use super::file::{Assigner, Consumer, File, GroupProtocol};
use super::kafkajs::{self, Properties};
use super::passthrough;
use super::tree::{self, CLASSIC_KEYS, Step};
use crate::kafka::property::Value;

use super::{DEFAULT_CONSUMER, Scene};
use crate::kafka::property::{self, Refusal};

/// librdkafka's default of `message.max.bytes`, below which `fetch.max.bytes` may not be.
const MESSAGE_MAX_BYTES: u64 = 1_000_000;

/// The schemes of an address that librdkafka accepts.
const SCHEMES: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// The property by which librdkafka asks for tokens itself.
const OAUTH_METHOD: &str = "sasl.oauthbearer.method";

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
    } else if name.is_empty()
        || !name
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')
    {
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
    brokers(consumer, path, scene);
    let group_id = group(name, consumer, path, scene);
    classic(consumer, path, scene);
    limits(consumer, path, file, scene);
    let properties = properties(consumer, path, scene);
    Some(super::Consumer {
        name: name.to_owned(),
        group_id: group_id?,
        properties,
        rebalance_timeout: consumer.rebalance_timeout.duration(),
        session_timeout: consumer.session_timeout.duration(),
        metadata_max_age: consumer.metadata_max_age.duration(),
        request_timeout: consumer.client.request_timeout.duration(),
    })
}

fn brokers(consumer: &Consumer, path: &[&str], scene: &mut Scene<'_, '_>) {
    let list = kafkajs::brokers(&consumer.client);
    if list.is_empty() {
        if !["brokers", "kafkaConfig"]
            .iter()
            .any(|key| scene.report.is_left_out(key))
        {
            let at = scene.at_keys(&["kafkaConfig"], &["brokers"]);
            scene.report.error(
                at,
                "`brokers` is missing in `[kafkaConfig]`; write `brokers = [\"localhost:9092\"]`",
            );
        }
        return;
    }
    for broker in list {
        if let Err(instead) = broker_address(broker) {
            let at = scene.at_keys(path, &["brokers"]);
            scene.report.error(
                at,
                format!("`brokers` has `{broker}`, which is not host:port{instead}"),
            );
        }
    }
}

/// Whether librdkafka accepts the address; the error is a hint for the end of the sentence.
fn broker_address(broker: &str) -> Result<(), String> {
    let address = match broker.split_once("://") {
        Some((scheme, address)) if SCHEMES.iter().any(|s| s.eq_ignore_ascii_case(scheme)) => {
            address
        }
        Some((scheme, address)) => {
            let host = address.split('/').next().unwrap_or_default();
            return Err(format!("; remove `{scheme}://`: `{host}`"));
        }
        None => broker,
    };
    if let Some(name) = address.strip_prefix('$') {
        let name = name.split(':').next().unwrap_or_default();
        return Err(format!("; write the variable `{name}` as `${{{name}}}`"));
    }
    let (host, port) = match address.rsplit_once(':') {
        Some((host, port)) if !address.ends_with(']') => (host, Some(port)),
        _ => (address, None),
    };
    let bad_port = port.is_some_and(|port| port.parse::<u16>().ok().is_none_or(|port| port == 0));
    let is_good = |c: char| !c.is_whitespace() && !c.is_control() && !"/$@\"'`{}()".contains(c);
    if host.is_empty() || bad_port || !host.chars().all(is_good) {
        return Err(String::new());
    }
    Ok(())
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

/// What somebody on the way to the broker could use.
fn warn_of_open_doors(mapped: &Properties, scene: &mut Scene<'_, '_>) {
    let is = |name: &str, value| mapped.get(name).is_some_and(|mapped| mapped.value == value);
    let mut warn = |warning: &str| {
        // The consumers mostly share what they inherit.
        if !scene.report.warnings.iter().any(|one| one == warning) {
            scene.report.warning(warning);
        }
    };
    if is("sasl.mechanisms", "PLAIN") && is("security.protocol", "sasl_plaintext") {
        warn(
            "`sasl.mechanism` is \"plain\" without `ssl`: the password crosses the network in plain text",
        );
    }
    if is("enable.ssl.certificate.verification", "false") {
        warn("`ssl.rejectUnauthorized` is false: any server can pass for a broker");
    }
}

fn properties(
    consumer: &Consumer,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) -> BTreeMap<String, Value> {
    let (mapped, complaints) = kafkajs::consumer(consumer, scene.folder);
    for complaint in complaints {
        let at = scene.at_keys(path, complaint.keys);
        if !complaint
            .keys
            .iter()
            .any(|key| scene.report.is_left_out(key))
        {
            scene.report.error(at, complaint.message);
        }
    }
    warn_of_open_doors(&mapped, scene);
    let mut properties = BTreeMap::new();
    // librdkafka's telemetry: a broker that asks for it in a wrong way can crash the client.
    let off = Value {
        text: "false".to_owned(),
        secret: false,
    };
    properties.insert("enable.metrics.push".to_owned(), off);
    for (name, value) in passthrough::resolve(consumer, path, &mapped, scene) {
        properties.insert(name, value);
    }
    let no_oauth =
        mapped.contains_key(OAUTH_METHOD) && property::check(OAUTH_METHOD, "oidc").is_err();
    if no_oauth {
        let at = scene.at_keys(path, &["sasl", "mechanism"]);
        scene.report.error(
            at,
            "`sasl.mechanism` is \"oauthbearer\", but this program's librdkafka is built without libcurl, which fetches \
             the tokens; use \"scram-sha-512\"",
        );
    }
    for (name, mapped) in &mapped {
        if !mapped.keys.is_empty()
            && !(no_oauth && (name.contains("oauthbearer") || name.starts_with("https.")))
            && let Err(Refusal::Invalid(sentence)) = property::check(name, &mapped.value)
        {
            let at = scene.at_keys(path, mapped.keys);
            let sentence = passthrough::reason(name, &mapped.value, sentence);
            scene
                .report
                .error(at, format!("`{}`: {sentence}", mapped.keys.join(".")));
        }
        let value = Value {
            secret: scene.is_secret(name, &mapped.value),
            text: mapped.value.clone(),
        };
        properties.entry(name.clone()).or_insert(value);
    }
    // What was left out for an error would be missed here.
    if scene.report.is_empty() {
        together(consumer, &properties, &mapped, path, scene);
    }
    properties
}

/// Reports what librdkafka refuses in the combination of properties, where each alone is good.
fn together(
    consumer: &Consumer,
    properties: &BTreeMap<String, Value>,
    mapped: &Properties,
    path: &[&str],
    scene: &mut Scene<'_, '_>,
) {
    let all = properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.text.as_str()));
    let Err(sentence) = property::check_together(all) else {
        return;
    };
    let passed = consumer
        .client
        .librdkafka
        .keys()
        .find(|name| sentence.contains(name.as_str()));
    let named = mapped
        .iter()
        .find(|(name, of)| !of.keys.is_empty() && sentence.contains(name.as_str()));
    let at = match passed {
        Some(name) => scene.at_keys(path, &["librdkafka", name]),
        None => scene.at_keys(path, named.map_or(&[], |(_, of)| of.keys)),
    };
    scene.report.error(at, format!("librdkafka: {sentence}"));
}
