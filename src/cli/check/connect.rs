//! `--connect`: reaches the servers that the configuration names, all at the same time.
//!
//! Each kind of server has its function in `probes`; a further kind adds one.

mod brokers;
mod redis;
mod sql;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value as Json, json};

use crate::config::Config;
use crate::duration::short;

/// The most servers that block a thread each at once.
const THREADS_MAX: usize = 32;

/// One server, and whether it was reached.
#[derive(Debug)]
pub(super) struct Reached {
    /// `broker 127.0.0.1:9092 of consumer default`.
    pub(super) server: String,
    pub(super) took: Duration,
    pub(super) error: Option<String>,
}

/// Ends within a deadline of its own. A server may tell of further ones.
type Probe = Pin<Box<dyn Future<Output = Vec<Reached>> + Send>>;

/// **The one list of what is reached**: a function for each kind of server.
fn probes(config: &Arc<Config>) -> Vec<Probe> {
    [
        brokers::probes(config),
        redis::probes(config),
        sql::probes(config),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// Every server once, in the order of the list.
pub(super) fn all(config: &Arc<Config>) -> anyhow::Result<Vec<Reached>> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .max_blocking_threads(THREADS_MAX)
        .enable_all()
        .build()?;
    let begun: Vec<_> = probes(config)
        .into_iter()
        .map(|probe| runtime.spawn(probe))
        .collect();
    let mut all = Vec::new();
    for probe in begun {
        all.extend(runtime.block_on(probe)?);
    }
    // A lookup that does not come back keeps its thread.
    runtime.shutdown_background();
    Ok(all)
}

impl Reached {
    pub(super) fn as_line(&self) -> String {
        let (server, took) = (&self.server, short(self.took));
        match &self.error {
            None => format!("{server}: reached in {took}"),
            Some(error) => format!("{server}: not reached after {took}: {error}"),
        }
    }

    pub(super) fn as_json(&self) -> Json {
        json!({
            "server": self.server,
            "milliseconds": self.took.as_millis() as u64,
            "error": self.error,
        })
    }
}
