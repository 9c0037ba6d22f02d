//! Holds the shipped config.toml equal to the code: it names every key, and its values are the defaults.

use std::collections::BTreeSet;

use serde::Deserialize;
use serde_json::Value as Json;
use toml::Spanned;

use super::error::Report;
use super::file::{
    Batch, BreakerTable, DeadLetter, File, Http, Kv, RateLimitTable, Redis, Sql, SslTable,
};
use super::unit::Millis;
use super::{kafkajs, listeners, shape, tree};
use crate::log::TARGETS;

const REFERENCE: &str = include_str!("../../config.toml");

/// The reference with every setting in force: `#key = value` is a setting, `# ` begins prose.
pub(super) fn uncommented() -> String {
    let line = |line: &'static str| match line.strip_prefix('#') {
        Some(setting) if !setting.is_empty() && !setting.starts_with(' ') => setting,
        _ => line,
    };
    REFERENCE.lines().map(line).collect::<Vec<_>>().join("\n")
}

fn file(text: &str) -> File {
    let mut report = Report::new(text);
    let mut tree = tree::parse(text, &mut report).into_inner();
    shape::check(&mut tree, &mut report);
    assert!(
        report.is_empty(),
        "{}",
        report.finish("config.toml".as_ref())
    );
    File::deserialize(toml::Deserializer::from(Spanned::new(0..text.len(), tree))).unwrap()
}

/// The dotted keys of `value`, list indices left out.
fn keys(value: &Json, way: &str, found: &mut BTreeSet<String>) {
    match value {
        Json::Object(entries) => {
            for (key, value) in entries {
                let way = format!("{way}.{key}");
                found.insert(way.clone());
                keys(value, &way, found);
            }
        }
        Json::Array(entries) => entries.iter().for_each(|value| keys(value, way, found)),
        _ => {}
    }
}

#[test]
fn every_key_of_the_schema_stands_in_the_reference() {
    let written: toml::Table = uncommented().parse().unwrap();
    let mut found = BTreeSet::new();
    keys(&serde_json::to_value(written).unwrap(), "", &mut found);
    let schema = shape::schema();
    let tables = [
        ("File", ""),
        ("Client", ".kafkaConfig"),
        ("ClientRetry", ".kafkaConfig.retry"),
        ("SslTable", ".kafkaConfig.ssl"),
        ("Sasl", ".kafkaConfig.sasl"),
        ("Kafka", ".kafka"),
        ("Admin", ".kafka.admin"),
        ("Consumer", ".consumerConfig"),
        ("Transaction", ".consumerConfig.transaction"),
        ("Producer", ".producerConfig"),
        ("Policies", ".listenerDefaults"),
        ("Batch", ".listenerDefaults.batch"),
        ("Subscription", ".listenerDefaults.subscription"),
        ("RunConfig", ".listenerDefaults.runConfig"),
        ("Retry", ".listenerDefaults.retry"),
        ("DeadLetter", ".listenerDefaults.deadLetter"),
        ("BreakerTable", ".listenerDefaults.breaker"),
        ("Limits", ".listenerDefaults.limits"),
        ("RateLimitTable", ".listenerDefaults.rateLimit"),
        ("Listener", ".listeners"),
        ("Lua", ".lua"),
        ("Log", ".log"),
        ("Daemon", ".daemon"),
        ("Http", ".http"),
        ("HttpClient", ".http.client"),
        ("ClientCertificate", ".http.client.certificates.partner"),
        ("Redis", ".redis.cache"),
        ("Kv", ".kv.sessions"),
        ("TlsTable", ".redis.cache.tls"),
        ("Sql", ".sql.main"),
    ];
    let known: BTreeSet<&str> = schema["$defs"]
        .as_object()
        .unwrap()
        .iter()
        .filter(|(_, def)| def["properties"].is_object())
        .map(|(name, _)| name.as_str())
        .collect();
    let listed: BTreeSet<&str> = tables
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| *name != "File")
        .collect();
    assert_eq!(known, listed, "a table of the schema is not in this test");
    for (name, way) in tables {
        let table = if name == "File" {
            &schema
        } else {
            &schema["$defs"][name]
        };
        for key in table["properties"].as_object().unwrap().keys() {
            let inherited = match name {
                "Consumer" | "Producer" => found.contains(&format!(".kafkaConfig.{key}")),
                "ClientRetry" => found.contains(&format!(".producerConfig.retry.{key}")),
                "Listener" => found.contains(&format!(".listenerDefaults.{key}")),
                _ => false,
            };
            assert!(
                inherited || found.contains(&format!("{way}.{key}")),
                "config.toml lacks `{way}.{key}`"
            );
        }
    }
}

#[test]
fn the_values_of_the_reference_are_the_defaults() {
    let written = serde_json::to_value(file(&uncommented())).unwrap();
    let defaults = serde_json::to_value(File::default()).unwrap();
    equal(&written, &defaults, "");
    let ssl = serde_json::to_value(SslTable::default()).unwrap();
    equal(&written["kafkaConfig"]["ssl"], &ssl, ".kafkaConfig.ssl");
    let listener = &written["listenerDefaults"];
    let blocking = serde_json::to_value(listeners::BLOCKING).unwrap();
    equal(&listener["limits"]["blocking"], &blocking, ".blocking");
    let dead_letter = serde_json::to_value(DeadLetter::default()).unwrap();
    equal(&listener["deadLetter"], &dead_letter, ".deadLetter");
    let breaker = serde_json::to_value(BreakerTable::default()).unwrap();
    equal(&listener["breaker"], &breaker, ".breaker");
    let rate_limit = serde_json::to_value(RateLimitTable::default()).unwrap();
    equal(&listener["rateLimit"], &rate_limit, ".rateLimit");
    let batch = serde_json::to_value(Batch::default()).unwrap();
    equal(&listener["batch"], &batch, ".batch");
    let http = serde_json::to_value(Http::default()).unwrap();
    equal(&written["http"], &http, ".http");
    let redis = serde_json::to_value(Redis::default()).unwrap();
    equal(&written["redis"]["cache"], &redis, ".redis.cache");
    let kv = serde_json::to_value(Kv::default()).unwrap();
    equal(&written["kv"]["sessions"], &kv, ".kv.sessions");
    let sql = serde_json::to_value(Sql::default()).unwrap();
    equal(&written["sql"]["main"], &sql, ".sql.main");
}

#[track_caller]
fn equal(written: &Json, default: &Json, way: &str) {
    match default {
        // No default: the reference has an example.
        Json::Null => {}
        Json::Object(entries) => {
            for (key, default) in entries {
                equal(&written[key], default, &format!("{way}.{key}"));
            }
        }
        _ if matches!(way, ".kafkaConfig.brokers" | ".listeners") => {}
        _ => assert_eq!(written, default, "`{way}` in config.toml"),
    }
}

#[test]
fn the_reference_has_the_longest_wait_for_a_reconnect() {
    let mut lines = REFERENCE.lines();
    let line = lines.find(|line| line.starts_with("#maxRetryTime"));
    let wait = Millis(kafkajs::RECONNECT_MAX_MS);
    assert!(
        line.is_some_and(|line| line.ends_with(&format!("for reconnects {wait}"))),
        "{line:?}, and not {wait}"
    );
}

#[test]
fn the_reference_lists_the_log_targets() {
    let prose: Vec<&str> = REFERENCE
        .lines()
        .map(|line| line.trim_start_matches("# "))
        .collect();
    let prose = prose.join(" ");
    let (_, list) = prose.split_once(" Targets: ").expect("a list of targets");
    let (list, _) = list.split_once('.').expect("an end of the list");
    assert_eq!(list.split(", ").collect::<Vec<_>>(), TARGETS);
}

#[test]
fn the_shipped_file_is_right_as_it_stands() {
    let sources = [("orders.lua".to_owned(), [].into())].into_iter().collect();
    let written = super::Written::parse("config.toml".as_ref(), REFERENCE, &|_| None);
    let config = written.config(&sources).unwrap();
    assert_eq!(
        (
            config.consumers.len(),
            config.listeners.len(),
            config.warnings.len()
        ),
        (1, 1, 0)
    );
}
