//! Asks librdkafka itself whether it knows a property and takes its value.
//!
//! No list of names is kept here that could fall behind the library. Nothing in here opens a connection.

use rdkafka::config::ClientConfig;
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaConfRes;

/// Why librdkafka refuses a property.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    Unknown,
    /// librdkafka's own sentence.
    Invalid(String),
}

/// Whether librdkafka takes `value` for `name`.
pub(crate) fn check(name: &str, value: &str) -> Result<(), Refusal> {
    if name.contains('\0') || value.contains('\0') {
        return Err(Refusal::Invalid("a NUL byte is not allowed".into()));
    }
    match ClientConfig::new().set(name, value).create_native_config() {
        Ok(_) => Ok(()),
        Err(KafkaError::ClientConfig(RDKafkaConfRes::RD_KAFKA_CONF_UNKNOWN, ..)) => {
            Err(Refusal::Unknown)
        }
        Err(KafkaError::ClientConfig(_, sentence, ..)) => Err(Refusal::Invalid(sentence)),
        Err(error) => Err(Refusal::Invalid(error.to_string())),
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
    fn a_bad_value_brings_librdkafkas_sentence() {
        let Err(Refusal::Invalid(sentence)) = check("socket.timeout.ms", "1") else {
            panic!("1 ms was taken")
        };
        assert!(sentence.contains("10..300000"), "{sentence}");
    }
}
