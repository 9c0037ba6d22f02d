//! The properties that librdkafka is told of a table: consumers and producers have the connection in common.

use std::collections::BTreeMap;

use super::Scene;
use super::file::Client;
use super::kafkajs::{self, Complaint, Properties};
use super::passthrough::{self, Table};
use crate::kafka::property::{self, Refusal, Value};

/// The schemes of an address that librdkafka accepts.
const SCHEMES: [&str; 4] = ["plaintext", "ssl", "sasl_plaintext", "sasl_ssl"];

/// The property by which librdkafka asks for tokens itself.
const OAUTH_METHOD: &str = "sasl.oauthbearer.method";

/// Reports addresses that librdkafka would not accept, and their absence.
pub(super) fn check_brokers(client: &Client, path: &[&str], scene: &mut Scene<'_, '_>) {
    let list = kafkajs::brokers(client);
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

/// The properties of a table: its mapped keys, and those of its `librdkafka` table.
pub(super) fn resolve(
    table: &Table<'_>,
    (mapped, complaints): (Properties, Vec<Complaint>),
    scene: &mut Scene<'_, '_>,
) -> BTreeMap<String, Value> {
    let path = table.path;
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
    for (name, value) in passthrough::resolve(table, &mapped, scene) {
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
        together(table, &properties, &mapped, scene);
    }
    properties
}

/// Reports what librdkafka refuses in the combination of properties, where each alone is good.
fn together(
    table: &Table<'_>,
    properties: &BTreeMap<String, Value>,
    mapped: &Properties,
    scene: &mut Scene<'_, '_>,
) {
    let path = table.path;
    let all = properties
        .iter()
        .map(|(name, value)| (name.as_str(), value.text.as_str()));
    let Err(sentence) = property::check_together(table.role, all) else {
        return;
    };
    let passed = table
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
