//! The `librdkafka` tables: properties that go to librdkafka by their own names.
//!
//! Refused are properties that have a key in the file, so that one setting has one name, and properties that the delivery
//! guarantees need. librdkafka itself checks names and values.

use super::Scene;
use super::file::{Client, Property};
use super::kafkajs::Properties;
use crate::kafka::producer::is_of_connection;
use crate::kafka::property::{self, Refusal, Role, Value};
use crate::nearest::nearest;

/// A table of a consumer or a producer, inheritance done.
pub(super) struct Table<'t> {
    pub(super) role: Role,
    pub(super) client: &'t Client,
    pub(super) path: &'t [&'t str],
}

/// The properties of the `librdkafka` table that are passed on.
pub(super) fn resolve(
    table: &Table<'_>,
    mapped: &Properties,
    scene: &mut Scene<'_, '_>,
) -> Vec<(String, Value)> {
    let mut passed = Vec::new();
    for (name, value) in &table.client.librdkafka {
        let at = scene.at_keys(table.path, &["librdkafka", name]);
        let text = value.text();
        let is_inherited = !scene.is_own(table.path, &["librdkafka", name]);
        if table.role == Role::Producer && is_inherited && !is_of_connection(name) {
            // `[kafkaConfig]` may have it for the consumers.
            continue;
        }
        if let Some(reason) = reserved(table.role, name) {
            scene
                .report
                .error(at, format!("librdkafka's `{name}` {reason}"));
            continue;
        }
        match property::check(name, &text) {
            Ok(()) => {}
            Err(Refusal::Unknown) => {
                let known = mapped.keys().map(String::as_str);
                let near = nearest(name, known).map(|near| format!(", did you mean `{near}`?"));
                scene.report.error(
                    at,
                    format!(
                        "librdkafka knows no property `{name}`{}",
                        near.unwrap_or_default()
                    ),
                );
                continue;
            }
            Err(Refusal::Invalid(sentence)) => {
                scene.report.error(
                    at,
                    format!("librdkafka's `{name}`: {}", reason(name, &text, sentence)),
                );
                continue;
            }
        }
        passed.push((
            name.clone(),
            Value {
                secret: scene.is_secret(name, &text),
                text,
            },
        ));
    }
    passed
}

/// What to write instead of a librdkafka property that stands among the keys of kafkajs.
pub(super) fn misplaced(role: Role, property: &str) -> Option<String> {
    if !property.contains('.') {
        return None;
    }
    match reserved(role, property) {
        Some(reason) => Some(format!("librdkafka's `{property}` {reason}")),
        // No value fits every property. Only the name counts here.
        None if property::check(property, "") == Err(Refusal::Unknown) => None,
        None => Some(format!(
            "`{property}` is a property of librdkafka: write `librdkafka.\"{property}\"`"
        )),
    }
}

/// librdkafka's sentence, unless it could repeat a secret.
pub(super) fn reason(name: &str, value: &str, sentence: String) -> String {
    if property::is_sensitive(name) && !value.is_empty() {
        "librdkafka refuses its value".to_owned()
    } else {
        sentence
    }
}

impl Property {
    fn text(&self) -> String {
        match self {
            Self::Switch(value) => value.to_string(),
            Self::Whole(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(value) => value.clone(),
        }
    }
}

/// Why a property may not be passed through, when librdkafka would take it.
fn reserved(role: Role, property: &str) -> Option<String> {
    let own = match role {
        Role::Consumer => named_of_consumers(property),
        Role::Producer => named_of_producers(property),
    };
    if let Some(key) = named(property).or(own) {
        return Some(format!("has a name here: write `{key}`"));
    }
    let reason = match role {
        Role::Consumer => set_for_consumers(property),
        Role::Producer => set_for_producers(property),
    };
    reason.map(str::to_owned)
}

fn set_for_consumers(property: &str) -> Option<&'static str> {
    Some(match property {
        "enable.auto.commit"
        | "auto.commit.enable"
        | "enable.auto.offset.store"
        | "auto.commit.interval.ms" => {
            "is set by Moontide, which commits an offset only after the outcome of its message; see `runConfig`"
        }
        "auto.offset.reset" => {
            "is set by Moontide: write `subscription.fromBeginning` in a `[[listeners]]`"
        }
        "enable.partition.eof" => "is set by Moontide: it must stay true",
        "group.protocol.type" => "would keep this consumer out of every consumer group",
        "rebalance_cb" | "offset_commit_cb" | "consume_cb" | "enabled_events" | "opaque"
        | "default_topic_conf" => CALLBACK,
        _ => return None,
    })
}

fn set_for_producers(property: &str) -> Option<&'static str> {
    Some(match property {
        "linger.ms" | "queue.buffering.max.ms" => {
            "is set by Moontide: an awaited record leaves at once, and an emitted one within 5 ms"
        }
        "queue.buffering.max.messages" | "queue.buffering.max.kbytes" => {
            "is set by Moontide: write `bufferMemory`"
        }
        "message.max.bytes" => {
            "is set by Moontide: the topic's `max.message.bytes` decides, and `bufferMemory`"
        }
        "enable.gapless.guarantee" => "would end the producer for good where one record is refused",
        "transactional.id" | "transaction.timeout.ms" => {
            "is set by Moontide for a consumer with `exactlyOnce`; `transaction` of its table has the time-out"
        }
        "delivery.report.only.error" | "produce.offset.report" => {
            "is set by Moontide: a send returns the offset of each record"
        }
        "dr_cb" | "dr_msg_cb" | "partitioner_cb" | "msg_order_cmp" | "enabled_events"
        | "opaque" | "default_topic_conf" => CALLBACK,
        _ => return None,
    })
}

const CALLBACK: &str = "takes a callback or a pointer, which a configuration cannot hold";

/// The key of the connection for a property of librdkafka, its aliases included.
fn named(property: &str) -> Option<&'static str> {
    Some(match property {
        "bootstrap.servers" | "metadata.broker.list" => "brokers",
        "client.id" => "clientId",
        "socket.connection.setup.timeout.ms" => "connectionTimeout",
        "socket.timeout.ms" => "requestTimeout",
        "retry.backoff.ms" | "reconnect.backoff.ms" => "retry.initialRetryTime",
        "retry.backoff.max.ms" | "reconnect.backoff.max.ms" => "retry.maxRetryTime",
        "max.in.flight.requests.per.connection" | "max.in.flight" => "maxInFlightRequests",
        "log_level" => "logLevel",
        "security.protocol" => "ssl` or `sasl",
        "ssl.ca.location" | "ssl.ca.pem" => "ssl.ca",
        "ssl.certificate.location" | "ssl.certificate.pem" => "ssl.cert",
        "ssl.key.location" | "ssl.key.pem" => "ssl.key",
        "ssl.key.password" | "ssl.keystore.password" => "ssl.passphrase",
        "ssl.keystore.location" => "ssl.pfx",
        "ssl.cipher.suites" => "ssl.ciphers",
        "ssl.endpoint.identification.algorithm" => "ssl.checkServerIdentity",
        "enable.ssl.certificate.verification" => "ssl.rejectUnauthorized",
        "sasl.mechanism" | "sasl.mechanisms" | "sasl.oauthbearer.method" => "sasl.mechanism",
        "sasl.username" => "sasl.username",
        "sasl.password" => "sasl.password",
        "sasl.oauthbearer.client.id" | "sasl.oauthbearer.client.credentials.client.id" => {
            "sasl.clientId"
        }
        "sasl.oauthbearer.client.secret" | "sasl.oauthbearer.client.credentials.client.secret" => {
            "sasl.clientSecret"
        }
        "sasl.oauthbearer.token.endpoint.url" => "sasl.tokenEndpointUrl",
        "sasl.oauthbearer.scope" => "sasl.scope",
        "sasl.oauthbearer.extensions" => "sasl.extensions",
        "topic.metadata.refresh.interval.ms" | "metadata.max.age.ms" => "metadataMaxAge",
        "allow.auto.create.topics" => "allowAutoTopicCreation",
        _ => return None,
    })
}

/// The key of a producer for a property of librdkafka, its aliases included.
fn named_of_producers(property: &str) -> Option<&'static str> {
    Some(match property {
        "acks" | "request.required.acks" => "acks",
        "enable.idempotence" => "idempotent",
        "compression.codec" | "compression.type" => "compression",
        "message.timeout.ms" | "delivery.timeout.ms" => "timeout",
        "retries" | "message.send.max.retries" => "retry.retries",
        _ => return None,
    })
}

/// The key of a consumer for a property of librdkafka, its aliases included.
fn named_of_consumers(property: &str) -> Option<&'static str> {
    Some(match property {
        "group.id" => "groupId",
        "group.protocol" => "groupProtocol",
        "partition.assignment.strategy" => "partitionAssigners",
        "session.timeout.ms" => "sessionTimeout",
        "max.poll.interval.ms" => "rebalanceTimeout",
        "heartbeat.interval.ms" => "heartbeatInterval",
        "max.partition.fetch.bytes" | "fetch.message.max.bytes" => "maxBytesPerPartition",
        "fetch.min.bytes" => "minBytes",
        "fetch.max.bytes" => "maxBytes",
        "fetch.wait.max.ms" => "maxWaitTimeInMs",
        "isolation.level" => "readUncommitted",
        "client.rack" => "rackId",
        _ => return None,
    })
}
