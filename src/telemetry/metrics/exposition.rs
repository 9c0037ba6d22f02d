//! The page of metrics, made from the collected counts: the value of each metric.
//!
//! Pure. A partition that is not assigned any more is left out, and so is a consumer or listener that the config no
//! longer has.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use crate::telemetry::status::{
    BreakerState, ConsumerStatus, PartitionStatus, Status, TransactionStatus,
};

use super::families as f;
use super::text::{Samples, Value};
use super::{
    ConsumerCounts, ConsumerSnapshot, HostSnapshot, ListenerCounts, Outcomes, OutsideSnapshot,
    Process, ProducerSnapshot, TickCounts, WorkerSnapshot,
};

/// The data of a page.
pub(crate) struct Scrape<'a> {
    pub(crate) status: &'a Status,
    pub(crate) consumers: &'a [ConsumerSnapshot],
    pub(crate) workers: &'a [WorkerSnapshot],
    pub(crate) producers: &'a [ProducerSnapshot],
    pub(crate) outside: &'a [OutsideSnapshot],
    pub(crate) hosts: &'a [HostSnapshot],
    pub(crate) process: Process,
    pub(crate) dropped_lines: u64,
    pub(crate) librdkafka: &'a str,
    pub(crate) now_ms: i64,
}

pub(crate) fn exposition(facts: &Scrape<'_>) -> Result<String, fmt::Error> {
    let mut samples = Samples::default();
    let outcomes: HashMap<(&str, &str, i32), Outcomes> = facts
        .workers
        .iter()
        .flat_map(|worker| &worker.partitions)
        .map(|one| ((&*one.consumer, &*one.topic, one.partition), one.outcomes))
        .collect();
    for consumer in facts.consumers {
        let (status, counts) = (&consumer.status, &consumer.counts);
        for (one, received) in status.partitions.iter().zip(&consumer.received) {
            let outcomes = outcomes.get(&(&status.name, &one.topic, one.partition));
            let outcomes = outcomes.copied().unwrap_or_default();
            partition(&mut samples, &status.name, one, facts.now_ms);
            flow(&mut samples, &status.name, one, *received, outcomes);
        }
        self::consumer(&mut samples, status, counts);
    }
    listeners(&mut samples, facts);
    breakers(&mut samples, facts.status);
    timers(&mut samples, facts.workers);
    for one in facts.producers {
        producer(&mut samples, one);
    }
    outside(&mut samples, facts);
    daemon(&mut samples, facts);
    process(&mut samples, facts);
    samples.text()
}

fn partition(samples: &mut Samples, consumer: &str, one: &PartitionStatus, now_ms: i64) {
    let number = one.partition.to_string();
    let labels = [consumer, &one.topic, &number];
    let mut whole = |family, value: Option<i64>| {
        if let Some(value) = value {
            samples.add(family, &labels, Value::Whole(value));
        }
    };
    whole(&f::IN_FLIGHT, Some(one.in_flight as i64));
    whole(&f::IN_FLIGHT_BYTES, Some(one.in_flight_bytes as i64));
    let deferred = one.deferred.as_ref().map_or(0, |all| all.messages);
    whole(&f::DEFERRED, Some(deferred as i64));
    whole(&f::LAG, one.lag);
    whole(&f::POSITION, one.position);
    whole(&f::COMMITTED, one.committed);
    whole(&f::BLOCKED, Some(i64::from(one.blocked.is_some())));
    whole(&f::PAUSED, Some(i64::from(one.paused.is_some())));
    whole(&f::FAILING, Some(i64::from(one.error.is_some())));
    let mut seconds = |family, ms: Option<i64>| {
        if let Some(ms) = ms {
            samples.add(family, &labels, Value::Real(ms.max(0) as f64 / 1e3));
        }
    };
    let since = |at: Option<i64>| Some(at.map_or(0, |at| now_ms - at));
    seconds(&f::LAG_SECONDS, one.lag_ms);
    seconds(&f::LAG_UNKNOWN, since(one.lag_unknown_since));
    seconds(&f::OLDEST_UNFINISHED, since(one.oldest_unfinished_since));
    seconds(&f::STANDSTILL, since(one.stands_still_since));
}

fn flow(
    samples: &mut Samples,
    consumer: &str,
    one: &PartitionStatus,
    received: u64,
    outcomes: Outcomes,
) {
    let number = one.partition.to_string();
    let labels = [consumer, &one.topic, &number];
    samples.add(&f::RECEIVED, &labels, count(received));
    for (outcome, value) in outcomes.by_name() {
        let labels = [consumer, &one.topic, &number, outcome];
        samples.add(&f::FINISHED, &labels, count(value));
    }
}

fn consumer(samples: &mut Samples, status: &ConsumerStatus, counts: &ConsumerCounts) {
    let name = status.name.as_str();
    let assigned = i64::from(status.state == "assigned");
    samples.add(&f::ASSIGNED, &[name], Value::Whole(assigned));
    for (kind, value) in [
        ("assigned", counts.assigned),
        ("revoked", counts.revoked),
        ("lost", counts.lost),
    ] {
        samples.add(&f::REBALANCES, &[name, kind], count(value));
    }
    for (result, value) in [("ok", counts.commits), ("error", counts.commit_errors)] {
        samples.add(&f::COMMITS, &[name, result], count(value));
    }
    if let Some(one) = &status.transactions {
        transactions(samples, name, one);
    }
    samples.add(&f::KAFKA_ERRORS, &[name], count(counts.errors));
    samples.add(&f::MESSAGES_LOST, &[name], count(counts.messages_lost));
    let passed_over = count(counts.passed_over);
    samples.add(&f::PASSED_OVER, &[name], passed_over);
    let missing = status.topic_errors.len() as u64;
    samples.add(&f::TOPICS_MISSING, &[name], count(missing));
    let recreated = count(counts.partitions_recreated);
    samples.add(&f::PARTITIONS_RECREATED, &[name], recreated);
}

fn transactions(samples: &mut Samples, name: &str, one: &TransactionStatus) {
    for (result, value) in [
        ("committed", one.committed),
        ("aborted", one.aborted),
        ("unknown", one.unknown),
    ] {
        samples.add(&f::TRANSACTIONS, &[name, result], count(value));
    }
    let waiting = count(one.waiting as u64);
    samples.add(&f::TRANSACTION_WAITING, &[name], waiting);
    let bytes = count(one.waiting_bytes as u64);
    samples.add(&f::TRANSACTION_WAITING_BYTES, &[name], bytes);
    let replaced = count(one.replaced);
    samples.add(&f::TRANSACTION_PRODUCERS_REPLACED, &[name], replaced);
    let left = count(one.left as u64);
    samples.add(&f::TRANSACTION_PRODUCERS_LEFT, &[name], left);
}

/// A listener may run in several workers: their counts are added.
fn listeners(samples: &mut Samples, facts: &Scrape<'_>) {
    let mut sums: BTreeMap<&str, ListenerCounts> = facts
        .status
        .listeners
        .iter()
        .map(|one| (one.name.as_str(), ListenerCounts::default()))
        .collect();
    for one in facts.workers.iter().flat_map(|worker| &worker.listeners) {
        if let Some(sum) = sums.get_mut(one.status.name.as_str()) {
            sum.merge(&one.counts);
        }
    }
    for (name, sum) in sums {
        let kills = sum.limit_kills;
        for (outcome, value) in sum.outcomes.by_name() {
            samples.add(&f::OUTCOMES, &[name, outcome], count(value));
        }
        samples.add(&f::FAILURES, &[name], count(sum.failures));
        samples.add(&f::RETRIES, &[name], count(sum.retries));
        samples.add(&f::RATE_LIMIT_HOLDS, &[name], count(sum.rate_limit_holds));
        for (limit, value) in [
            ("blocking", kills.blocking),
            ("timeout", kills.timeout),
            ("memory", kills.memory),
        ] {
            samples.add(&f::LIMIT_KILLS, &[name, limit], count(value));
        }
        samples.add(&f::RUN, &[name], Value::Times(Box::new(sum.run)));
        samples.add(&f::WAIT, &[name], Value::Times(Box::new(sum.wait)));
    }
}

fn breakers(samples: &mut Samples, status: &Status) {
    for one in &status.listeners {
        for (state, name) in [
            (BreakerState::Closed, "closed"),
            (BreakerState::HalfOpen, "half_open"),
            (BreakerState::Open, "open"),
        ] {
            let value = Value::Whole(i64::from(one.breaker == state));
            samples.add(&f::BREAKER, &[&one.name, name], value);
        }
        let paused = Value::Whole(i64::from(one.paused));
        samples.add(&f::LISTENER_PAUSED, &[&one.name], paused);
        let waiting = Value::Whole(one.unacknowledged as i64);
        samples.add(&f::UNACKNOWLEDGED, &[&one.name], waiting);
    }
}

/// A timer of the process ticks in any worker: their counts are added.
fn timers(samples: &mut Samples, workers: &[WorkerSnapshot]) {
    let mut sums: BTreeMap<&str, TickCounts> = BTreeMap::new();
    for one in workers.iter().flat_map(|worker| &worker.timers) {
        sums.entry(&one.timer).or_default().merge(one.counts);
    }
    for (timer, sum) in sums {
        for (result, value) in [
            ("done", sum.done),
            ("failed", sum.failed),
            ("missed", sum.missed),
        ] {
            samples.add(&f::TICKS, &[timer, result], count(value));
        }
    }
}

fn producer(samples: &mut Samples, one: &ProducerSnapshot) {
    let status = &one.status;
    let name = status.name.as_str();
    for (result, value) in [("acknowledged", one.acknowledged), ("failed", one.failed)] {
        samples.add(&f::SENT, &[name, result], count(value));
    }
    for (family, value) in [
        (&f::SENDS_QUEUED, status.queued),
        (&f::SENT_IN_FLIGHT, status.in_flight),
        (&f::SENT_BYTES, status.in_flight_bytes),
    ] {
        samples.add(family, &[name], count(value as u64));
    }
    samples.add(
        &f::SENDS,
        &[name],
        Value::Times(Box::new(one.sends.clone())),
    );
}

fn outside(samples: &mut Samples, facts: &Scrape<'_>) {
    for one in facts.outside {
        for (result, value) in &one.results {
            samples.add(&f::OUTSIDE, &[one.function, result], count(*value));
        }
        let times = Value::Times(Box::new(one.calls.clone()));
        samples.add(&f::OUTSIDE_TIMES, &[one.function], times);
    }
    for one in facts.hosts {
        for (result, value) in &one.results {
            samples.add(&f::HTTP_REQUESTS, &[&one.host, result], count(*value));
        }
        let times = Value::Times(Box::new(one.requests.clone()));
        samples.add(&f::HTTP_TIMES, &[&one.host], times);
    }
    if let Some(pool) = facts.status.http {
        for (state, value) in [("in_use", pool.in_use), ("idle", pool.idle)] {
            samples.add(&f::HTTP_CONNECTIONS, &[state], count(value as u64));
        }
        samples.add(&f::HTTP_SIZE, &[], count(pool.size as u64));
        samples.add(&f::HTTP_WAITING, &[], count(pool.waiting as u64));
    }
    for redis in &facts.status.redis {
        let (name, pool) = (redis.name.as_str(), redis.pool);
        for (state, value) in [
            ("in_use", pool.in_use),
            ("idle", pool.idle),
            ("blocking", redis.blocking),
        ] {
            samples.add(&f::REDIS_CONNECTIONS, &[name, state], count(value as u64));
        }
        samples.add(&f::REDIS_SIZE, &[name], count(pool.size as u64));
        samples.add(&f::REDIS_WAITING, &[name], count(pool.waiting as u64));
    }
    for kv in &facts.status.kv {
        samples.add(&f::KV_ENTRIES, &[&kv.name], count(kv.entries));
        samples.add(&f::KV_BYTES, &[&kv.name], count(kv.bytes));
    }
    for cache in &facts.status.caches {
        let name = cache.name.as_str();
        samples.add(&f::CACHE_ENTRIES, &[name], count(cache.entries));
        samples.add(&f::CACHE_CALLS, &[name, "hit"], count(cache.hits));
        samples.add(&f::CACHE_CALLS, &[name, "miss"], count(cache.misses));
    }
    for sql in &facts.status.sql {
        let (name, pool) = (sql.name.as_str(), sql.pool);
        for (state, value) in [
            ("in_use", pool.in_use),
            ("idle", pool.idle),
            ("in_transaction", sql.transactions),
        ] {
            samples.add(&f::SQL_CONNECTIONS, &[name, state], count(value as u64));
        }
        samples.add(&f::SQL_SIZE, &[name], count(pool.size as u64));
        samples.add(&f::SQL_WAITING, &[name], count(pool.waiting as u64));
    }
}

fn daemon(samples: &mut Samples, facts: &Scrape<'_>) {
    let status = facts.status;
    let is_ready = status.readiness.as_ref().is_some_and(|one| one.ready);
    samples.add(&f::READY, &[], Value::Whole(i64::from(is_ready)));
    samples.add(&f::BUNDLE, &[], Value::Whole(status.bundle.number as i64));
    let is_bad = i64::from(status.disk.is_some());
    samples.add(&f::DISK_BAD, &[], Value::Whole(is_bad));
    let is_stuck = i64::from(status.stuck_load.is_some());
    samples.add(&f::LOAD_STUCK, &[], Value::Whole(is_stuck));
    for (result, value) in [
        ("applied", status.reloads.applied),
        ("unchanged", status.reloads.unchanged),
        ("rejected", status.reloads.rejected),
    ] {
        samples.add(&f::RELOADS, &[result], count(value));
    }
    for (index, worker) in facts.workers.iter().enumerate() {
        let labels = [&*index.to_string()];
        samples.add(&f::LUA_MEMORY, &labels, count(worker.memory as u64));
        samples.add(&f::VMS_REPLACED, &labels, count(worker.vms_replaced));
    }
    samples.add(&f::DROPPED_LINES, &[], count(facts.dropped_lines));
    let build = [status.version.as_str(), facts.librdkafka];
    samples.add(&f::BUILD, &build, Value::Whole(1));
}

fn process(samples: &mut Samples, facts: &Scrape<'_>) {
    let process = facts.process;
    let started = facts.status.started_at as f64 / 1e3;
    samples.add(&f::START_TIME, &[], Value::Real(started));
    if let Some(seconds) = process.cpu_seconds {
        samples.add(&f::CPU, &[], Value::Real(seconds));
    }
    for (family, value) in [
        (&f::RESIDENT, process.resident_bytes),
        (&f::VIRTUAL, process.virtual_bytes),
        (&f::OPEN_FDS, process.open_fds),
        (&f::MAX_FDS, process.max_fds),
        (&f::THREADS, process.threads),
    ] {
        if let Some(value) = value {
            samples.add(family, &[], count(value));
        }
    }
}

fn count(value: u64) -> Value {
    Value::Whole(i64::try_from(value).unwrap_or(i64::MAX))
}

impl Outcomes {
    fn by_name(self) -> [(&'static str, u64); 4] {
        [
            ("done", self.done),
            ("dead_lettered", self.dead_lettered),
            ("skipped", self.skipped),
            ("retried_later", self.retried_later),
        ]
    }
}
