//! The changes of `moontide dev` to a config: the broker, and all settings that would make a new user wait.
//!
//! Pure, and the same for the config of the start and of every reload, so that a reload shows only the edits.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use crate::config::{Config, LogFormat, Produced, Topic};
use crate::kafka::property::Value;
use crate::outgoing::required_topics::{self, Create};

/// The longest delay until a corrected handler runs again.
const RETRY_MAX: Duration = Duration::from_secs(1);

/// The longest delay until a topic that a pattern matches is found.
const METADATA_MAX_AGE: Duration = Duration::from_secs(1);

/// The embedded broker lets a member that subscribes again wait for the session timeout less a second, as if other
/// members could follow. That is the delay from a new topic in the config to its first message.
const SESSION: &[(&str, &str)] = &[
    ("session.timeout.ms", "2000"),
    ("heartbeat.interval.ms", "200"),
];

/// Parts of property names: the access to the config's own brokers, their trust, and protocols that need a real
/// cluster.
const REMOVED: &[&str] = &[
    "bootstrap.servers",
    "broker.address.family",
    "client.rack",
    "enable.sasl.",
    "enable.ssl.",
    "group.protocol",
    "group.remote.assignor",
    "metadata.broker.list",
    "sasl.",
    "security.protocol",
    "ssl.",
];

/// Puts the broker at `address` in place of the config's.
pub(super) fn adjust(config: &mut Config, address: &str) {
    for consumer in &mut config.consumers {
        replace_broker(&mut consumer.properties, address);
        consumer.metadata_max_age = consumer.metadata_max_age.min(METADATA_MAX_AGE);
    }
    for producer in &mut config.producers {
        replace_address(&mut producer.properties, address);
    }
    if let Some(connection) = &mut config.connection {
        replace_address(&mut connection.properties, address);
    }
    for listener in &mut config.listeners {
        listener.from_beginning = true;
        listener.retry.max_delay = listener.retry.max_delay.min(RETRY_MAX);
        listener.retry.initial_delay = listener.retry.initial_delay.min(RETRY_MAX);
    }
    // The log is for the person at the terminal; its file belongs to the daemon in production.
    config.log.format = LogFormat::Text;
    config.log.file = None;
    // A person at the terminal sees each save at work.
    config.daemon.watch = true;
    // The embedded broker forgets everything, so that nothing may be left for its next start, or for `moontide run`.
    config.daemon.state_directory = state_directory(config);
}

/// The state of one run of `dev`.
pub(super) fn state_directory(config: &Config) -> PathBuf {
    config.daemon.runtime_directory.join("dev")
}

fn replace_broker(properties: &mut BTreeMap<String, Value>, address: &str) {
    replace_address(properties, address);
    let session = SESSION.iter().map(|(name, text)| property(name, text));
    properties.extend(session);
}

fn replace_address(properties: &mut BTreeMap<String, Value>, address: &str) {
    properties.retain(|name, _| !REMOVED.iter().any(|prefix| name.starts_with(prefix)));
    properties.extend([property("bootstrap.servers", address)]);
}

fn property(name: &str, text: &str) -> (String, Value) {
    let value = Value {
        text: text.to_owned(),
        secret: false,
    };
    (name.to_owned(), value)
}

/// The topics that the listeners name, those to which they send included.
pub(super) fn literal_topics(config: &Config) -> BTreeSet<String> {
    let topics = config
        .listeners
        .iter()
        .flat_map(|listener| &listener.topics);
    let literal = topics.filter_map(|topic| match topic {
        Topic::Literal(name) => Some(name.clone()),
        Topic::Pattern(_) => None,
    });
    let lists = config
        .listeners
        .iter()
        .filter_map(|one| one.produces.as_ref());
    let produced = lists.flatten().filter_map(Produced::literal);
    literal.chain(produced.map(str::to_owned)).collect()
}

/// The topics of dead letters and retries, including those of `matched` topics.
pub(super) fn required_topics(config: &Config, matched: &[&str]) -> BTreeSet<String> {
    let consumers = config.consumers.iter();
    let by_matches =
        consumers.flat_map(|consumer| required_topics::by_matches(config, &consumer.name, matched));
    required_topics::by_literals(config)
        .into_iter()
        .chain(by_matches)
        .filter(|needed| needed.create != Create::Never)
        .map(|needed| needed.topic)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, Written};

    #[test]
    fn each_save_is_reloaded_whatever_the_config_says() {
        let text = "[kafkaConfig]\nbrokers = ['theirs:9092']\n[consumerConfig]\ngroupId = 'g'\n[daemon]\nwatch = false\n";
        let written = Written::parse("/test/config.toml".as_ref(), text, &|_| None);
        let mut config = written.config(&Sources::default()).unwrap();
        assert!(!config.daemon.watch);
        adjust(&mut config, "127.0.0.1:1");
        assert!(config.daemon.watch);
        assert!(config.daemon.state_directory.ends_with(".moontide/dev"));
    }

    #[test]
    fn the_topics_that_produces_names_are_made_and_every_producer_sends_to_the_broker() {
        let text = "[kafkaConfig]\nbrokers = ['theirs:9092']\n[consumerConfig]\ngroupId = 'g'\n[producers.audit]\n\
                    ssl = true\n[[listeners]]\ntopic = 'in'\nhandler = 'h'\nproduces = ['out', 'orders.*']\n";
        let written = Written::parse("/test/config.toml".as_ref(), text, &|_| None);
        let sources: Sources = [("h.lua".to_owned(), [].into())].into_iter().collect();
        let mut config = written.config(&sources).unwrap();
        adjust(&mut config, "127.0.0.1:1");
        let topics: Vec<_> = literal_topics(&config).into_iter().collect();
        assert_eq!(topics, ["in", "out"]);
        for producer in &config.producers {
            assert_eq!(producer.properties["bootstrap.servers"].text, "127.0.0.1:1");
            assert!(!producer.properties.contains_key("security.protocol"));
        }
    }

    #[test]
    fn nothing_of_the_configs_own_brokers_remains() {
        let value = |text: &str| Value {
            text: text.to_owned(),
            secret: false,
        };
        let names = [
            "bootstrap.servers",
            "client.id",
            "group.id",
            "group.protocol",
            "sasl.mechanisms",
            "sasl.password",
            "security.protocol",
            "session.timeout.ms",
            "socket.timeout.ms",
            "ssl.ca.location",
            "enable.ssl.certificate.verification",
        ];
        let mut properties = names
            .iter()
            .map(|name| ((*name).to_owned(), value("theirs")))
            .collect();
        replace_broker(&mut properties, "127.0.0.1:1");
        let kept: Vec<_> = properties
            .iter()
            .map(|(name, value)| format!("{name}={}", value.text))
            .collect();
        let expected = [
            "bootstrap.servers=127.0.0.1:1",
            "client.id=theirs",
            "group.id=theirs",
            "heartbeat.interval.ms=200",
            "session.timeout.ms=2000",
            "socket.timeout.ms=theirs",
        ];
        assert_eq!(kept, expected);
    }
}
