//! The Redis servers of handlers, and the masters that a cluster names.

use std::sync::Arc;

use super::{Probe, Reached};
use crate::config::Config;
use crate::outgoing::redis::RedisClients;

pub(super) fn probes(config: &Arc<Config>) -> Vec<Probe> {
    let clients = Arc::new(RedisClients::default());
    let servers = 0..config.redis.len();
    servers
        .map(|at| {
            let (clients, config) = (clients.clone(), config.clone());
            let probe: Probe = Box::pin(async move {
                let Some(settings) = config.redis.get(at) else {
                    return Vec::new();
                };
                let found = clients.reach(settings).await.into_iter();
                found
                    .map(|(address, took, result)| Reached {
                        server: format!("redis {} at {address}", settings.name),
                        took,
                        error: result.err().map(|fault| fault.message),
                    })
                    .collect()
            });
            probe
        })
        .collect()
}
