//! The pages of the HTTP server, made from the answers of the daemon's threads.
//!
//! A page is made on request, never ahead: without requests the daemon collects nothing.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::clock::now_ms;
use crate::config::Config;
use crate::state::State;
use crate::telemetry::http::{Content, JSON, Page, Source};
use crate::telemetry::logging::Guard;
use crate::telemetry::metrics::{
    self, ConsumerSnapshot, Format, HostSnapshot, OutsideSnapshot, Process, ProducerSnapshot,
    WorkerSnapshot,
};
use crate::telemetry::ready::readiness;
use crate::telemetry::status::{CacheStatus, KvStatus, ListenerStatus, Status};
use crate::threads::progress::Stalled;
use crate::threads::supervisor::Supervisor;

use super::fleet::Roster;

/// How long a position may stand still when `[http]` does not set it.
const STALL_AFTER: Duration = Duration::from_secs(300);

/// The threads and the status that a page is made from.
#[derive(Clone)]
pub(super) struct Responses {
    pub(super) roster: Roster,
    pub(super) status: Arc<Mutex<Status>>,
    pub(super) supervisor: Supervisor,
    pub(super) guard: Arc<Guard>,
}

/// The present status, and the counts behind it.
pub(super) struct Gathered {
    pub(super) status: Status,
    consumers: Vec<ConsumerSnapshot>,
    workers: Vec<WorkerSnapshot>,
    producers: Vec<ProducerSnapshot>,
    outside: Vec<OutsideSnapshot>,
    hosts: Vec<HostSnapshot>,
}

impl Responses {
    pub(super) fn source(self) -> Source {
        Arc::new(move |page| match page {
            Page::Metrics(format) => self.metrics(format),
            Page::Live => live(self.supervisor.counted().stalled(Instant::now())),
            Page::Ready => {
                let readiness = self.gather().status.readiness.unwrap_or_default();
                json(readiness.ready, &readiness.reasons)
            }
            Page::Status => json(true, &self.gather().status),
        })
    }

    fn gather(&self) -> Gathered {
        gather(&self.roster, &self.status)
    }

    fn metrics(&self, format: Format) -> Content {
        let gathered = self.gather();
        let page = metrics::exposition(&metrics::Scrape {
            status: &gathered.status,
            consumers: &gathered.consumers,
            workers: &gathered.workers,
            producers: &gathered.producers,
            outside: &gathered.outside,
            hosts: &gathered.hosts,
            process: Process::look(),
            dropped_lines: self.guard.dropped_lines(),
            librdkafka: &crate::kafka::version(),
            now_ms: now_ms(),
        });
        Content {
            is_well: page.is_ok(),
            media_type: format.media_type(),
            text: format.of(page.unwrap_or_default()),
        }
    }
}

/// The same question as systemd's watchdog: whether every thread moves.
fn live(stalled: Option<Stalled>) -> Content {
    let why = stalled.as_ref().map(ToString::to_string);
    let thread = stalled.map(|stalled| stalled.thread);
    let page = serde_json::json!({ "live": thread.is_none(), "thread": thread, "why": why });
    json(thread.is_none(), &page)
}

fn json(is_well: bool, page: &impl serde::Serialize) -> Content {
    let text = serde_json::to_string_pretty(page);
    Content {
        is_well: is_well && text.is_ok(),
        media_type: JSON,
        text: text.map_or_else(|error| error.to_string(), |text| text + "\n"),
    }
}

/// Asks every thread; this takes a second when one of them does not answer.
pub(super) fn gather(roster: &Roster, status: &Mutex<Status>) -> Gathered {
    let (mut consumers, workers) = roster.ask();
    mark_waiting(&mut consumers, &workers);
    let producers = roster.producers();
    let mut status = status
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    status.consumers = consumers.iter().map(|one| one.status.clone()).collect();
    status.producers = producers.iter().map(|one| one.status.clone()).collect();
    let (mut outside, mut hosts) = (Vec::new(), Vec::new());
    if let Some((app, clients)) = roster.outside() {
        status.waits = app.outside_calls.waits();
        outside = app.outside_calls.snapshot();
        hosts = clients.http.hosts();
        let pool = clients.http.status();
        status.http = (!hosts.is_empty() || pool.in_use > 0).then_some(pool);
        status.redis = clients.redis.status();
        status.kv = stores(&app.state);
        status.caches = caches(&app.state);
        status.sql = clients.sql.status();
    }
    if let Some(config) = roster.config() {
        status.listeners = listeners(&config, &workers);
        let stall_after = config.http.as_ref().map(|http| http.stall_after);
        let stall_after = stall_after.unwrap_or(STALL_AFTER);
        status.readiness = Some(readiness(&status, stall_after, now_ms()));
    }
    Gathered {
        status,
        consumers,
        workers,
        producers,
        outside,
        hosts,
    }
}

fn stores(state: &State) -> Vec<KvStatus> {
    let held = state.held().into_iter();
    held.map(|(store, held)| {
        let bounds = store.bounds();
        KvStatus {
            name: store.name.clone(),
            backend: store.backend().to_owned(),
            entries: held.entries,
            bytes: held.bytes,
            max_entries: bounds.entries,
            max_bytes: bounds.bytes,
        }
    })
    .collect()
}

/// Those of one name are one: after a reload the VMs that drain have the one before.
fn caches(state: &State) -> Vec<CacheStatus> {
    let mut found: Vec<CacheStatus> = Vec::new();
    for cache in state.caches() {
        let (settings, counts) = (cache.settings(), cache.counts());
        if found.last().is_none_or(|last| last.name != settings.name) {
            found.push(CacheStatus {
                name: settings.name.clone(),
                ..CacheStatus::default()
            });
        }
        if let Some(last) = found.last_mut() {
            last.capacity = settings.capacity as u64;
            last.entries += counts.entries;
            last.bytes += counts.bytes;
            last.hits += counts.hits;
            last.misses += counts.misses;
        }
    }
    found
}

/// Every listener of the bundle in force, merged over all workers.
fn listeners(config: &Config, workers: &[WorkerSnapshot]) -> Vec<ListenerStatus> {
    let of_worker = |name: &str, worker: &WorkerSnapshot| {
        let mut listeners = worker.listeners.iter().map(|one| &one.status);
        listeners.find(|one| one.name == name).cloned()
    };
    let merged = |name: &str| {
        let mut sum = ListenerStatus {
            name: name.to_owned(),
            ..ListenerStatus::default()
        };
        for one in workers.iter().filter_map(|worker| of_worker(name, worker)) {
            sum.merge(&one);
        }
        sum
    };
    let listeners = config.listeners.iter();
    listeners.map(|listener| merged(&listener.name)).collect()
}

/// Only a partition's worker knows which listener its messages wait for. A position does not stand still while a rate
/// limit holds its message.
fn mark_waiting(consumers: &mut [ConsumerSnapshot], workers: &[WorkerSnapshot]) {
    let partitions = workers.iter().flat_map(|worker| &worker.partitions);
    let waiting: HashMap<_, _> = partitions
        .map(|one| ((&*one.consumer, &*one.topic, one.partition), one))
        .collect();
    for consumer in consumers.iter_mut().map(|one| &mut one.status) {
        for one in &mut consumer.partitions {
            let Some(found) = waiting.get(&(&*consumer.name, &*one.topic, one.partition)) else {
                continue;
            };
            one.paused = found.waits.or(one.paused);
            one.deferred.clone_from(&found.deferred);
            let since = one.stands_still_since.zip(found.held_until);
            if let Some((since, until)) = since {
                one.stands_still_since = Some(since.max(until));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::telemetry::metrics::{Outcomes, PartitionSnapshot};
    use crate::telemetry::status::{ConsumerStatus, Pause};

    #[test]
    fn a_thread_that_stands_still_is_named_and_ends_live() {
        assert!(live(None).is_well);
        let content = live(Some(Stalled {
            thread: "worker-0".to_owned(),
            still_for: Duration::from_secs(16),
            allowance: Duration::from_secs(15),
        }));
        assert!(!content.is_well);
        let page: serde_json::Value = serde_json::from_str(&content.text).unwrap();
        assert_eq!(page["thread"], "worker-0");
        let why = "worker-0, for 16 s where 15 s are allowed";
        assert_eq!(page["why"], why);
    }

    #[test]
    fn a_partition_that_waits_for_its_listener_says_so() {
        let partition = |partition| crate::telemetry::status::PartitionStatus {
            topic: "orders".to_owned(),
            partition,
            stands_still_since: Some(1_000),
            ..Default::default()
        };
        let mut consumers = [ConsumerSnapshot {
            status: ConsumerStatus {
                name: "default".to_owned(),
                partitions: (0..4).map(partition).collect(),
                ..ConsumerStatus::default()
            },
            ..ConsumerSnapshot::default()
        }];
        let snapshot = |partition, waits, held_until| PartitionSnapshot {
            consumer: "default".into(),
            topic: "orders".into(),
            partition,
            outcomes: Outcomes::default(),
            waits,
            held_until,
            deferred: None,
        };
        let worker = WorkerSnapshot {
            partitions: vec![
                snapshot(1, Some(Pause::Listener), None),
                snapshot(2, Some(Pause::RateLimit), Some(9_000)),
                snapshot(3, None, Some(500)),
            ],
            ..WorkerSnapshot::default()
        };
        mark_waiting(&mut consumers, &[worker]);
        let partitions = consumers[0].status.partitions.iter();
        let found: Vec<_> = partitions
            .map(|one| (one.paused, one.stands_still_since))
            .collect();
        let expected = [
            (None, Some(1_000)),
            (Some(Pause::Listener), Some(1_000)),
            (Some(Pause::RateLimit), Some(9_000)),
            (None, Some(1_000)),
        ];
        assert_eq!(found, expected);
    }
}
