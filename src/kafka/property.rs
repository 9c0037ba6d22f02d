//! Asks librdkafka itself whether it knows a property and accepts its value.
//!
//! This module keeps no list of names that could fall behind the library. Nothing in it opens a connection.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::config::{ClientConfig, RDKafkaLogLevel};
use rdkafka::consumer::BaseConsumer;
use rdkafka::error::KafkaError;
use rdkafka::producer::BaseProducer;
use rdkafka::types::RDKafkaConfRes;

/// The value of a librdkafka property; a secret value is never shown.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Value {
    pub(crate) text: String,
    pub(crate) secret: bool,
}

impl fmt::Debug for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.secret { "***" } else { &self.text })
    }
}

/// The kind of client that properties are for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    Consumer,
    Producer,
}

/// Why librdkafka refuses a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    /// librdkafka's own error message.
    Invalid(String),
}

/// Whether librdkafka accepts `value` for `name`.
pub(crate) fn check(name: &str, value: &str) -> Result<(), Refusal> {
    if name.contains('\0') || value.contains('\0') {
        return Err(Refusal::Invalid("a NUL byte is not allowed".into()));
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(Refusal::Unknown)
        }
        Err(KafkaError::ClientConfig(_, sentence, ..)) => {
            Err(Refusal::Invalid(sentence.trim().to_owned()))
        }
        Err(error) => Err(Refusal::Invalid(error.to_string())),
    }
}

/// Properties that act outside of a client, or make a client wait.
const ELSEWHERE: [&str; 8] = [
    "bootstrap.servers",
    "group.id",
    "group.instance.id",
    "debug",
    "log_level",
    "statistics.interval.ms",
    "plugin.library.paths",
    "test.mock.num.brokers",
];

/// Whether librdkafka accepts all properties together, certificates included; its own error message when it does not.
///
/// A client is made and dropped. Without brokers it opens no connection, and without a group its drop takes no time.
pub(crate) fn check_together<'p>(
    role: Role,
    properties: impl Iterator<Item = (&'p str, &'p str)>,
) -> Result<(), String> {
    let properties: BTreeMap<&str, &str> = properties.collect();
    // Such a client would request a token at once.
    let oauth = properties.get("sasl.mechanisms") == Some(&"OAUTHBEARER");
    let mut client = ClientConfig::new();
    // The client reports only its error.
    client
        .set_log_level(RDKafkaLogLevel::Emerg)
        .set("log_level", "0");
    for (name, value) in properties {
        match name {
            name if ELSEWHERE.contains(&name) => {}
            "security.protocol" if oauth => {
                client.set(name, value.trim_start_matches("sasl_"));
            }
            name if oauth && name.starts_with("sasl.") => {}
            name => {
                client.set(name, value);
            }
        }
    }
    let made = match role {
        Role::Consumer => client.create::<BaseConsumer>().map(drop),
        Role::Producer => client.create::<BaseProducer>().map(drop),
    };
    match made {
        Ok(()) => Ok(()),
        Err(KafkaError::ClientCreation(sentence)) => Err(sentence.trim().to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Whether a property's value must never be shown.
pub(crate) fn is_sensitive(name: &str) -> bool {
    matches!(
        name,
        "sasl.password"
            | "sasl.oauthbearer.config"
            | "sasl.oauthbearer.client.secret"
            | "sasl.oauthbearer.client.credentials.client.secret"
            | "sasl.oauthbearer.assertion.private.key.passphrase"
            | "sasl.oauthbearer.assertion.private.key.pem"
            | "ssl.key.password"
            | "ssl.key.pem"
            | "ssl_key"
            | "ssl.keystore.password"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn librdkafka_knows_its_own_names() {
        assert_eq!(check("socket.keepalive.enable", "true"), Ok(()));
        assert_eq!(check("no.such.thing", "true"), Err(Refusal::Unknown));
    }

    #[test]
    fn what_is_right_alone_may_be_wrong_together() {
        assert_eq!(
            check_together(Role::Consumer, [("fetch.max.bytes", "2000000")].into_iter()),
            Ok(())
        );
        let small = [("fetch.max.bytes", "1000")].into_iter();
        let sentence = check_together(Role::Consumer, small).unwrap_err();
        assert!(sentence.contains("message.max.bytes"), "{sentence}");
        let mixed = [("enable.idempotence", "true"), ("acks", "1")].into_iter();
        let sentence = check_together(Role::Producer, mixed).unwrap_err();
        assert!(sentence.contains("acks"), "{sentence}");
    }

    #[test]
    fn a_bad_value_brings_librdkafkas_sentence() {
        let Err(Refusal::Invalid(sentence)) = check("socket.timeout.ms", "1") else {
            panic!("1 ms was taken")
        };
        assert!(sentence.contains("10..300000"), "{sentence}");
    }
}
