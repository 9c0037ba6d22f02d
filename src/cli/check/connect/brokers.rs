//! The brokers of consumers, producers and the admin client: those of the file, and those that the cluster names.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::{Probe, Reached};
use crate::config::Config;
use crate::kafka::probe::{Identity, addresses, identity, reach};
use crate::kafka::property::Value;

/// Longer than any broker takes that is of use.
const DEADLINE: Duration = Duration::from_secs(10);

/// Clients that reach the same brokers in the same way.
struct Connection {
    identity: Identity,
    addresses: Vec<String>,
    /// `consumer default`.
    clients: Vec<String>,
}

pub(super) fn probes(config: &Arc<Config>) -> Vec<Probe> {
    let mut found: Vec<Connection> = Vec::new();
    let mut add = |client: String, properties: &BTreeMap<String, Value>| {
        let (identity, addresses) = (identity(properties), addresses(properties));
        let mut known = found.iter_mut();
        match known.find(|one| one.identity == identity && one.addresses == addresses) {
            Some(one) => one.clients.push(client),
            None => found.push(Connection {
                identity,
                addresses,
                clients: vec![client],
            }),
        }
    };
    for consumer in &config.consumers {
        add(format!("consumer {}", consumer.name), &consumer.properties);
    }
    for producer in config.producers.iter().filter(|one| config.mentions(one)) {
        add(format!("producer {}", producer.name), &producer.properties);
    }
    // Handlers ask brokers by the admin client, also those that no other client has.
    if let Some(admin) = &config.connection {
        let addresses = addresses(&admin.properties);
        if !found.iter().any(|one| one.addresses == addresses) {
            found.push(Connection {
                identity: identity(&admin.properties),
                addresses,
                clients: vec!["the admin client".to_owned()],
            });
        }
    }
    found.into_iter().map(probe).collect()
}

fn probe(connection: Connection) -> Probe {
    Box::pin(async move {
        let of = connection.clients.join(", ");
        let identity = Arc::new(connection.identity);
        let (mut known, mut wanted) = (Vec::new(), connection.addresses);
        let mut all = Vec::new();
        // The second round has what the first one tells of the cluster.
        while !wanted.is_empty() {
            let begun: Vec<_> = wanted
                .iter()
                .map(|address| {
                    let (identity, address) = (identity.clone(), address.clone());
                    tokio::task::spawn_blocking(move || {
                        let began = Instant::now();
                        let result = reach(&identity, &address, DEADLINE);
                        (result, began.elapsed())
                    })
                })
                .collect();
            known.append(&mut wanted);
            let mut told = Vec::new();
            for (address, one) in known[known.len() - begun.len()..].iter().zip(begun) {
                let (result, took) = one
                    .await
                    .unwrap_or_else(|error| (Err(error.to_string()), Duration::ZERO));
                all.push(Reached {
                    server: format!("broker {address} of {of}"),
                    took,
                    error: result.as_ref().err().cloned(),
                });
                told.extend(result.unwrap_or_default());
            }
            told.sort_unstable();
            told.dedup();
            told.retain(|address| !known.contains(address));
            wanted = told;
        }
        all
    })
}
