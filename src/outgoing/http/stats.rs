//! The counts of requests by host, over all clients and reloads. The number of hosts is bounded.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crate::telemetry::metrics::HostSnapshot;
use crate::wait::Fault;
use crate::wait::http::Response;

/// Further hosts are counted together.
const HOSTS_MAX: usize = 50;
const OTHER: &str = "other";

#[derive(Debug, Default)]
pub(super) struct Stats(Mutex<BTreeMap<String, HostSnapshot>>);

/// One request under way. Its drop without an end counts a request that was given up.
#[derive(Debug)]
pub(super) struct Measured<'s> {
    stats: &'s Stats,
    host: String,
    began: Instant,
    has_ended: bool,
}

impl Stats {
    pub(super) fn begin(&self, host: &str) -> Measured<'_> {
        Measured {
            stats: self,
            host: host.to_owned(),
            began: Instant::now(),
            has_ended: false,
        }
    }

    pub(super) fn snapshot(&self) -> Vec<HostSnapshot> {
        self.lock().values().cloned().collect()
    }

    fn count(&self, host: &str, began: Instant, result: &'static str) {
        let mut hosts = self.lock();
        let host = if hosts.contains_key(host) || hosts.len() < HOSTS_MAX {
            host
        } else {
            OTHER
        };
        let one = hosts
            .entry(host.to_owned())
            .or_insert_with(|| HostSnapshot {
                host: host.to_owned(),
                ..HostSnapshot::default()
            });
        *one.results.entry(result).or_default() += 1;
        one.requests.record(began.elapsed());
    }

    fn lock(&self) -> MutexGuard<'_, BTreeMap<String, HostSnapshot>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Measured<'_> {
    pub(super) fn ended(mut self, result: &Result<Response, Fault>) {
        self.has_ended = true;
        let word = match result {
            Ok(response) => class(response.status),
            Err(fault) => fault.kind,
        };
        self.stats.count(&self.host, self.began, word);
    }
}

impl Drop for Measured<'_> {
    fn drop(&mut self) {
        if !self.has_ended {
            self.stats.count(&self.host, self.began, "givenUp");
        }
    }
}

fn class(status: u16) -> &'static str {
    match status {
        0..200 => "1xx",
        200..300 => "2xx",
        300..400 => "3xx",
        400..500 => "4xx",
        _ => "5xx",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_counts_by_host_and_result_and_further_hosts_together() {
        let stats = Stats::default();
        let answered = |status| {
            Ok(Response {
                status,
                ..Response::default()
            })
        };
        stats.begin("a").ended(&answered(200));
        stats.begin("a").ended(&answered(503));
        stats.begin("a").ended(&Err(Fault::new("timeout", "late")));
        drop(stats.begin("a"));
        let found = stats.snapshot();
        let results: Vec<_> = found[0]
            .results
            .iter()
            .map(|(word, n)| (*word, *n))
            .collect();
        assert_eq!(
            results,
            [("2xx", 1), ("5xx", 1), ("givenUp", 1), ("timeout", 1)]
        );
        assert_eq!(found[0].requests.count(), 4);
        for number in 0..100 {
            stats.begin(&format!("host-{number}")).ended(&answered(200));
        }
        let found = stats.snapshot();
        assert_eq!(found.len(), HOSTS_MAX + 1);
        let other = found.iter().find(|one| one.host == OTHER).unwrap();
        assert_eq!(other.results["2xx"], 51);
    }
}
