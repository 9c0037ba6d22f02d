//! Whether a broker can be reached, for `moontide check --connect`. **Blocks** up to its deadline.

use std::collections::BTreeMap;
use std::net::{TcpStream, ToSocketAddrs as _};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use rdkafka::ClientContext;
use rdkafka::config::{ClientConfig, FromClientConfigAndContext as _, RDKafkaLogLevel};
use rdkafka::error::{KafkaError, RDKafkaErrorCode as Code};
use rdkafka::metadata::MetadataBroker;
use rdkafka::producer::{BaseProducer, DeliveryResult, Producer as _, ProducerContext};

use super::connection::{Broker, Security, Unfit};
use super::producer::connection;
use crate::kafka::property::Value;

/// One attempt of librdkafka may take so much of the deadline.
const ATTEMPT: Duration = Duration::from_secs(3);

/// Between two looks at the reasons of librdkafka.
const SLICE: Duration = Duration::from_millis(250);

/// How long the events of the queue are taken, so that none is left.
const DRAIN: Duration = Duration::from_millis(20);

/// What a connection is made of, without its addresses: equal ones reach the same brokers.
pub(crate) type Identity = BTreeMap<String, String>;

pub(crate) fn identity(properties: &BTreeMap<String, Value>) -> Identity {
    connection(properties)
        .filter(|(name, _)| *name != "bootstrap.servers")
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

/// The addresses of `brokers`.
pub(crate) fn addresses(properties: &BTreeMap<String, Value>) -> Vec<String> {
    let list = properties.get("bootstrap.servers");
    let list = list.map_or("", |list| list.text.as_str());
    list.split(',').map(str::to_owned).collect()
}

/// Asks this one broker for its cluster. Returns the addresses of all brokers, as the cluster announces them.
pub(crate) fn reach(
    identity: &Identity,
    address: &str,
    deadline: Duration,
) -> Result<Vec<String>, String> {
    let until = Instant::now() + deadline;
    knock(address, deadline)?;
    let why = Why::default();
    let mut config = ClientConfig::new();
    for (name, value) in identity {
        config.set(name, value);
    }
    let attempt = ATTEMPT.min(deadline).as_millis().to_string();
    config.set("bootstrap.servers", address);
    config.set("allow.auto.create.topics", "false");
    config.set("api.version.request.timeout.ms", &attempt);
    config.set("reconnect.backoff.ms", "50");
    config.set("reconnect.backoff.max.ms", "500");
    // Lines at this level say who closes connections.
    config.set_log_level(RDKafkaLogLevel::Info);
    let protocol = identity.get("security.protocol");
    let security = Security::of(protocol.map_or("plaintext", String::as_str));
    let context = Noting {
        why: why.clone(),
        security,
    };
    let client: BaseProducer<Noting> = BaseProducer::from_config_and_context(&config, context)
        .map_err(|error| error.to_string())?;
    loop {
        let left = until.saturating_duration_since(Instant::now());
        let error = match client.client().fetch_metadata(None, left.min(SLICE)) {
            Ok(metadata) => {
                let brokers = metadata.brokers().iter();
                let address = |one: &MetadataBroker| format!("{}:{}", one.host(), one.port());
                return Ok(brokers.map(address).collect());
            }
            Err(error) => error,
        };
        // Errors come by the queue of the client, behind all log lines: a peer that closes at once makes many of these.
        client.poll(DRAIN);
        if let Some(reason) = why.take() {
            return Err(reason);
        }
        if left <= SLICE {
            return Err(match error.rdkafka_error_code() {
                // It has accepted the connection, and nothing more is known of it.
                Some(Code::OperationTimedOut | Code::BrokerTransportFailure) => {
                    told(security, Unfit::Silent)
                }
                _ => error.to_string(),
            });
        }
    }
}

/// A connection without a protocol: its error is clearer than librdkafka's.
fn knock(address: &str, deadline: Duration) -> Result<(), String> {
    let host = address.rsplit_once("://").map_or(address, |(_, host)| host);
    let found = host.to_socket_addrs();
    let found: Vec<_> = found
        .map_err(|error| format!("the lookup failed: {error}"))?
        .collect();
    let mut last = "the name has no address".to_owned();
    for address in &found {
        let share = deadline / found.len() as u32;
        match TcpStream::connect_timeout(address, share) {
            Ok(_) => return Ok(()),
            Err(error) => last = format!("no connection: {error}"),
        }
    }
    Err(last)
}

fn told(security: Security, unfit: Unfit) -> String {
    match security.hint_unfit(unfit) {
        Some(hint) => format!("{unfit}; {hint}"),
        None => unfit.to_string(),
    }
}

/// The last reason of librdkafka for having no connection.
#[derive(Clone, Default)]
struct Why(Arc<Mutex<Option<String>>>);

impl Why {
    fn note(&self, reason: String) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason);
    }

    fn take(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

struct Noting {
    why: Why,
    security: Security,
}

impl Noting {
    fn note(&self, text: &str) {
        if let Some((_, error)) = Broker::of_error(text) {
            let hint = self.security.hint(error);
            let hint = hint.map_or_else(String::new, |hint| format!("; {hint}"));
            self.why.note(format!("{error}{hint}"));
        }
    }
}

impl ClientContext for Noting {
    fn log(&self, _: RDKafkaLogLevel, facility: &str, text: &str) {
        if let Some((_, unfit)) = Unfit::of_line(facility, text) {
            self.why.note(told(self.security, unfit));
        }
    }

    fn error(&self, _: KafkaError, reason: &str) {
        self.note(reason);
    }
}

impl ProducerContext for Noting {
    type DeliveryOpaque = ();

    fn delivery(&self, _: &DeliveryResult<'_>, (): ()) {}
}
