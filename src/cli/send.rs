//! `moontide send`: sends one message to a topic, and prints its partition and offset.
//!
//! The default target is the broker of a running `moontide dev`: a test message must never reach a real cluster
//! because `dev` was not running.

use std::collections::BTreeMap;
use std::io::{self, Read as _};
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::dev::address;
use super::{Exit, locate, terminal};
use crate::config::Config;
use crate::kafka::producer::{Outgoing, Producer};
use crate::kafka::property::Value;
use crate::rules::route::takes;

const DEADLINE: Duration = Duration::from_secs(10);

/// Sends one message to the broker of `moontide dev`, or to other brokers.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// The topic, which must exist
    topic: String,
    /// The value, or `-` for all of standard input, byte by byte
    #[arg(required_unless_present = "null", allow_negative_numbers = true)]
    value: Option<String>,
    /// Sends a null value, which is a tombstone
    #[arg(long, conflicts_with = "value")]
    null: bool,
    /// The key; decides the partition
    #[arg(short, long)]
    key: Option<String>,
    /// A header; may be given several times
    #[arg(long = "header", value_name = "NAME=VALUE", value_parser = parse_header)]
    headers: Vec<(String, String)>,
    /// The partition; overrides the key
    #[arg(short, long, allow_negative_numbers = true)]
    partition: Option<u16>,
    /// Let the broker create the topic
    #[arg(long)]
    create: bool,
    #[command(flatten)]
    daemon: locate::Daemon,
    /// Sends to these brokers, without TLS and SASL
    #[arg(long, value_name = "HOST:PORT,…", conflicts_with = "config_brokers")]
    brokers: Option<String>,
    /// Sends to the brokers of the configuration, with its connection settings
    #[arg(long)]
    config_brokers: bool,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    terminal::print(send(arguments))
}

fn send(arguments: &Arguments) -> Result<String> {
    let target = Target::of(arguments)?;
    let record = record(arguments)?;
    let producer = Producer::new(&target.properties, DEADLINE)?;
    if !arguments.create {
        expect_topic(&arguments.topic, &producer.topics()?)?;
    }
    let place = producer.send(&record)?;
    let Outgoing { topic, .. } = record;
    Ok(format!(
        "sent to {topic}[{}]@{}, {}",
        place.partition, place.offset, target.description
    ))
}

/// The broker to send to.
struct Target {
    properties: BTreeMap<String, Value>,
    description: String,
}

impl Target {
    fn of(arguments: &Arguments) -> Result<Self> {
        if let Some(brokers) = &arguments.brokers {
            return Ok(Self::plain(brokers, format!("on {brokers}")));
        }
        if arguments.config_brokers {
            let config = super::dev::load(&arguments.daemon.config())?;
            let properties = properties_for(&config, &arguments.topic);
            let brokers = properties
                .get("bootstrap.servers")
                .map_or("", |value| value.text.as_str());
            return Ok(Self {
                description: format!("on {brokers}"),
                properties: properties.clone(),
            });
        }
        // A bad configuration does not matter here: its user is still writing it.
        match address::find(&arguments.daemon.likely_directory()?)? {
            Some(dev) => Ok(Self::plain(
                &dev.brokers,
                format!("on {}, the broker of `moontide dev`", dev.brokers),
            )),
            None => bail!(nobody_there(&arguments.daemon.config())),
        }
    }

    fn plain(brokers: &str, description: String) -> Self {
        let brokers = Value {
            text: brokers.to_owned(),
            secret: false,
        };
        Self {
            properties: [("bootstrap.servers".to_owned(), brokers)].into(),
            description,
        }
    }
}

fn nobody_there(config: &Path) -> String {
    format!(
        "no `moontide dev` runs with {}; start it, or name the brokers: --config-brokers, or --brokers HOST:PORT",
        config.display()
    )
}

/// The properties of the consumer with this topic, else of the first consumer.
fn properties_for<'a>(config: &'a Config, topic: &str) -> &'a BTreeMap<String, Value> {
    let made = config.made_topics();
    let listener = config
        .listeners
        .iter()
        .find(|listener| takes(&made, listener, topic));
    let consumer = listener.and_then(|listener| {
        config
            .consumers
            .iter()
            .find(|each| each.name == listener.consumer)
    });
    &consumer.unwrap_or(&config.consumers[0]).properties
}

fn record(arguments: &Arguments) -> Result<Outgoing> {
    let value = match arguments.value.as_deref() {
        Some("-") => {
            let mut bytes = Vec::new();
            io::stdin()
                .lock()
                .read_to_end(&mut bytes)
                .context("standard input")?;
            Some(bytes)
        }
        other => other.map(|text| text.as_bytes().to_vec()),
    };
    let headers = arguments
        .headers
        .iter()
        .map(|(name, value)| (name.clone().into_bytes(), Some(value.clone().into_bytes())));
    Ok(Outgoing {
        topic: arguments.topic.as_str().into(),
        partition: arguments.partition.map(i32::from),
        key: arguments.key.as_ref().map(|key| key.as_bytes().to_vec()),
        value,
        headers: headers.collect(),
        timestamp_ms: None,
    })
}

fn parse_header(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err("expected `NAME=VALUE`".to_owned()),
    }
}

/// A mistyped name must not create a topic.
fn expect_topic(topic: &str, existing: &[String]) -> Result<()> {
    if existing.iter().any(|each| each == topic) {
        return Ok(());
    }
    let near = existing
        .iter()
        .map(|each| (strsim::jaro_winkler(topic, each), each));
    let near = near
        .filter(|(similarity, _)| *similarity > 0.8)
        .max_by(|a, b| a.0.total_cmp(&b.0));
    match near {
        Some((_, near)) => {
            bail!("topic `{topic}` does not exist, did you mean `{near}`? (--create creates it)")
        }
        None => bail!("topic `{topic}` does not exist (--create creates it)"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_topic_that_does_not_exist_names_the_nearest_one() {
        let existing = ["orders".to_owned(), "payments".to_owned()];
        let check = |topic| expect_topic(topic, &existing).map_err(|error| error.to_string());
        assert_eq!(check("orders"), Ok(()));
        let error = "topic `ordres` does not exist, did you mean `orders`? (--create creates it)";
        assert_eq!(check("ordres"), Err(error.to_owned()));
        assert_eq!(
            check("zzz"),
            Err("topic `zzz` does not exist (--create creates it)".to_owned())
        );
    }

    #[test]
    fn a_header_is_a_name_and_a_value_which_may_hold_further_equals_signs() {
        assert_eq!(
            parse_header("a=b=c"),
            Ok(("a".to_owned(), "b=c".to_owned()))
        );
        assert_eq!(parse_header("a="), Ok(("a".to_owned(), String::new())));
        assert!(parse_header("a").is_err() && parse_header("=a").is_err());
    }
}
