//! The databases of handlers.

use std::sync::Arc;

use super::{Probe, Reached};
use crate::config::Config;
use crate::outgoing::sql::SqlClients;

pub(super) fn probes(config: &Arc<Config>) -> Vec<Probe> {
    let clients = Arc::new(SqlClients::default());
    let databases = 0..config.sql.len();
    databases
        .map(|at| {
            let (clients, config) = (clients.clone(), config.clone());
            let probe: Probe = Box::pin(async move {
                let Some(settings) = config.sql.get(at) else {
                    return Vec::new();
                };
                let (place, took, result) = clients.reach(settings).await;
                vec![Reached {
                    server: format!("database {} at {place}", settings.name),
                    took,
                    error: result.err().map(|fault| fault.message),
                }]
            });
            probe
        })
        .collect()
}
