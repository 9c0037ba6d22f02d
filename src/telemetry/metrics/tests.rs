//! The page as a whole: every family shows, with the numbers that went in, and docs/reference/metrics.md tells the
//! same.

use std::collections::BTreeSet;
use std::time::Duration;

use super::families::{ALL, Family, Kind};
use crate::telemetry::metrics::*;
use crate::telemetry::status::{
    BreakerState, CacheStatus, ConsumerStatus, Deferred, KvStatus, ListenerStatus, PartitionStatus,
    PoolStatus, ProducerStatus, Readiness, RedisStatus, SqlStatus, Status, TransactionStatus,
};

const NOW: i64 = 1_700_000_000_000;

fn consumer() -> ConsumerSnapshot {
    let partition = PartitionStatus {
        topic: "orders".to_owned(),
        partition: 3,
        position: Some(40),
        committed: Some(38),
        lag: Some(7),
        in_flight: 2,
        in_flight_bytes: 300,
        lag_ms: Some(1_500),
        oldest_unfinished_since: Some(NOW - 2_000),
        deferred: Some(Deferred {
            messages: 8,
            offset: 40,
            listener: "orders".to_owned(),
            at: "handlers/orders.lua:3".to_owned(),
            since: NOW,
            holds_position: true,
        }),
        ..PartitionStatus::default()
    };
    ConsumerSnapshot {
        status: ConsumerStatus {
            name: "default".to_owned(),
            state: "assigned".to_owned(),
            transactions: Some(TransactionStatus {
                waiting: 3,
                ..TransactionStatus::default()
            }),
            partitions: vec![partition],
            ..ConsumerStatus::default()
        },
        counts: ConsumerCounts {
            commits: 5,
            commit_errors: 1,
            ..ConsumerCounts::default()
        },
        received: vec![42],
    }
}

fn listener_status(name: &str) -> ListenerStatus {
    ListenerStatus {
        name: name.to_owned(),
        breaker: BreakerState::HalfOpen,
        ..ListenerStatus::default()
    }
}

fn worker(listener: &str) -> WorkerSnapshot {
    let mut counts = ListenerCounts {
        failures: 4,
        rate_limit_holds: 6,
        limit_kills: LimitKills {
            blocking: 1,
            ..LimitKills::default()
        },
        ..ListenerCounts::default()
    };
    counts.run.record_many(Duration::from_millis(1), 10);
    WorkerSnapshot {
        memory: 1 << 20,
        vms_replaced: 1,
        listeners: vec![ListenerSnapshot {
            counts,
            status: listener_status(listener),
        }],
        partitions: vec![PartitionSnapshot {
            consumer: "default".into(),
            topic: "orders".into(),
            partition: 3,
            outcomes: Outcomes {
                done: 39,
                skipped: 1,
                ..Outcomes::default()
            },
            waits: None,
            held_until: None,
            deferred: None,
        }],
        timers: vec![TimerSnapshot {
            timer: "handlers/jobs.lua:3".into(),
            counts: TickCounts {
                done: 7,
                failed: 1,
                missed: 2,
            },
        }],
    }
}

fn producer() -> ProducerSnapshot {
    let mut one = ProducerSnapshot {
        status: ProducerStatus {
            name: "audit".to_owned(),
            clients: 1,
            queued: 2,
            in_flight: 3,
            in_flight_bytes: 400,
            error: None,
            error_since: None,
        },
        acknowledged: 50,
        failed: 6,
        ..ProducerSnapshot::default()
    };
    one.sends.record(Duration::from_millis(1));
    one
}

fn store() -> KvStatus {
    KvStatus {
        name: "sessions".to_owned(),
        backend: "memory".to_owned(),
        entries: 7,
        bytes: 700,
        max_entries: 1_000,
        max_bytes: 1_000_000,
    }
}

fn cache() -> CacheStatus {
    CacheStatus {
        name: "prices".to_owned(),
        entries: 5,
        capacity: 100,
        bytes: 500,
        hits: 90,
        misses: 10,
    }
}

fn database() -> SqlStatus {
    SqlStatus {
        name: "main".to_owned(),
        pool: PoolStatus {
            size: 8,
            in_use: 3,
            idle: 2,
            waiting: 1,
            open: 5,
        },
        transactions: 2,
    }
}

fn text() -> String {
    let status = Status {
        started_at: NOW - 1_000,
        listeners: vec![
            listener_status("orders"),
            listener_status("never \"called\""),
        ],
        readiness: Some(Readiness {
            ready: true,
            reasons: Vec::new(),
        }),
        http: Some(PoolStatus {
            size: 256,
            in_use: 3,
            idle: 2,
            waiting: 1,
            open: 5,
        }),
        redis: vec![RedisStatus {
            name: "cache".to_owned(),
            pool: PoolStatus {
                size: 64,
                in_use: 4,
                idle: 3,
                waiting: 2,
                open: 8,
            },
            blocking: 1,
        }],
        kv: vec![store()],
        caches: vec![cache()],
        sql: vec![database()],
        ..Status::default()
    };
    let mut outside = OutsideSnapshot {
        function: "http.get",
        results: [("ok", 5), ("timeout", 1)].into(),
        ..OutsideSnapshot::default()
    };
    outside.calls.record(Duration::from_millis(1));
    let mut host = HostSnapshot {
        host: "api.example".to_owned(),
        results: [("2xx", 5), ("timeout", 1)].into(),
        ..HostSnapshot::default()
    };
    host.requests.record(Duration::from_millis(1));
    exposition(&Scrape {
        status: &status,
        consumers: &[consumer()],
        workers: &[worker("orders"), worker("orders"), worker("gone")],
        producers: &[producer()],
        outside: &[outside],
        hosts: &[host],
        process: Process {
            cpu_seconds: Some(0.5),
            resident_bytes: Some(1),
            virtual_bytes: Some(2),
            open_fds: Some(3),
            max_fds: Some(4),
            threads: Some(5),
        },
        dropped_lines: 9,
        librdkafka: "2",
        now_ms: NOW,
    })
    .unwrap()
}

#[track_caller]
fn check(line: &str) {
    let text = text();
    assert!(text.lines().any(|one| one == line), "{line}\n{text}");
}

#[test]
fn the_connections_of_a_database_count_by_state() {
    check("moontide_sql_connections{sql=\"main\",state=\"in_transaction\"} 2");
    check("moontide_sql_connections{sql=\"main\",state=\"idle\"} 2");
    check("moontide_sql_connections_max{sql=\"main\"} 8");
    check("moontide_sql_calls_waiting{sql=\"main\"} 1");
}

#[test]
fn waits_outside_count_by_function_and_by_host() {
    check("moontide_outside_calls_total{function=\"http.get\",result=\"timeout\"} 1");
    check("moontide_http_requests_total{host=\"api.example\",result=\"2xx\"} 5");
    check("moontide_http_connections{state=\"in_use\"} 3");
    check("moontide_http_connections{state=\"idle\"} 2");
    check("moontide_http_connections_max 256");
    check("moontide_http_requests_waiting 1");
}

#[test]
fn the_ticks_of_a_timer_are_those_of_all_workers() {
    let of = "timer=\"handlers/jobs.lua:3\"";
    for (result, count) in [("done", 21), ("failed", 3), ("missed", 6)] {
        check(&format!(
            "moontide_timer_ticks_total{{{of},result=\"{result}\"}} {count}"
        ));
    }
}

#[test]
fn a_producer_shows_under_its_name() {
    let of = "{producer=\"audit\"";
    check(&format!(
        "moontide_records_sent_total{of},result=\"acknowledged\"}} 50"
    ));
    check(&format!(
        "moontide_records_sent_total{of},result=\"failed\"}} 6"
    ));
    check(&format!("moontide_sends_queued{of}}} 2"));
    check(&format!("moontide_sent_records_in_flight{of}}} 3"));
    check(&format!("moontide_sent_in_flight_bytes{of}}} 400"));
    check(&format!("moontide_send_seconds_count{of}}} 1"));
}

#[test]
fn a_partition_shows_under_its_consumer_topic_and_number() {
    let of = "{consumer=\"default\",topic=\"orders\",partition=\"3\"";
    check(&format!("moontide_messages_received_total{of}}} 42"));
    check(&format!(
        "moontide_messages_finished_total{of},outcome=\"done\"}} 39"
    ));
    check(&format!("moontide_lag_messages{of}}} 7"));
    check(&format!("moontide_lag_seconds{of}}} 1.5"));
    check(&format!("moontide_oldest_unfinished_seconds{of}}} 2.0"));
    check(&format!("moontide_standstill_seconds{of}}} 0.0"));
    check(&format!("moontide_in_flight_bytes{of}}} 300"));
    check(&format!("moontide_messages_deferred{of}}} 8"));
    check(&format!("moontide_position_offset{of}}} 40"));
}

#[test]
fn a_listener_adds_up_over_the_workers_and_one_that_is_gone_does_not_show() {
    check("moontide_handler_failures_total{listener=\"orders\"} 8");
    check("moontide_rate_limit_holds_total{listener=\"orders\"} 12");
    check("moontide_breaker_state{listener=\"orders\",state=\"half_open\"} 1");
    check("moontide_breaker_state{listener=\"orders\",state=\"closed\"} 0");
    check("moontide_limit_kills_total{listener=\"orders\",limit=\"blocking\"} 2");
    check("moontide_handler_run_seconds_count{listener=\"orders\"} 20");
    check("moontide_handler_run_seconds_sum{listener=\"orders\"} 0.02");
    check("moontide_handler_run_seconds_bucket{le=\"0.0008\",listener=\"orders\"} 0");
    check("moontide_handler_run_seconds_bucket{le=\"0.0016\",listener=\"orders\"} 20");
    check("moontide_handler_run_seconds_bucket{le=\"+Inf\",listener=\"orders\"} 20");
    check("moontide_handler_failures_total{listener=\"never \\\"called\\\"\"} 0");
    assert!(!text().contains("gone"));
}

#[test]
fn the_daemon_shows_without_labels() {
    check("moontide_ready 1");
    check("moontide_log_lines_dropped_total 9");
    check("process_cpu_seconds_total 0.5");
    check("process_start_time_seconds 1699999999.0");
    check("# EOF");
}

#[test]
fn every_family_shows_on_the_page() {
    let text = text();
    for family in ALL {
        let (name, kind) = (family.name, format!("{:?}", family.kind).to_lowercase());
        assert!(text.contains(&format!("# TYPE {name} {kind}\n")), "{name}");
        assert!(text.contains(&format!("# HELP {name} {}\n", family.help)));
    }
}

/// The name under which a family is asked for.
fn name(family: &Family) -> String {
    match family.kind {
        Kind::Counter => format!("{}_total", family.name),
        Kind::Info => format!("{}_info", family.name),
        Kind::Gauge | Kind::Histogram => family.name.to_owned(),
    }
}

fn unit(family: &Family) -> &'static str {
    let is = |end| family.name.ends_with(end);
    match () {
        () if is("_seconds") => "seconds",
        () if is("_bytes") => "bytes",
        () if is("_offset") => "offset",
        () if family.kind == Kind::Info => "1",
        () => "",
    }
}

/// The rows of the tables of docs/reference/metrics.md: name, type, labels, unit.
fn documented() -> BTreeSet<String> {
    let text = include_str!("../../../docs/reference/metrics.md");
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let is_metric = cells.len() > 5 && cells[1].starts_with('`');
        is_metric.then(|| cells[1..5].join(" | "))
    };
    text.lines().filter_map(row).collect()
}

#[test]
fn the_documents_name_every_metric_and_no_other() {
    let row = |family: &Family| {
        let labels: Vec<String> = family.labels.iter().map(|one| format!("`{one}`")).collect();
        let kind = format!("{:?}", family.kind).to_lowercase();
        format!(
            "`{}` | {kind} | {} | {}",
            name(family),
            labels.join(", "),
            unit(family)
        )
    };
    let known: BTreeSet<String> = ALL.iter().map(row).collect();
    assert_eq!(known.len(), ALL.len());
    assert_eq!(known, documented());
}

#[test]
fn queries_of_the_documents_ask_for_what_there_is() {
    let text = include_str!("../../../docs/reference/metrics.md");
    let is_word = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let words = text.split(|c| !is_word(c));
    let asked: BTreeSet<&str> = words.filter(|word| word.starts_with("moontide_")).collect();
    assert!(asked.len() > 20);
    for word in asked {
        let stem = ["_bucket", "_count", "_sum"]
            .iter()
            .find_map(|end| word.strip_suffix(end))
            .unwrap_or(word);
        let is_known = |family: &Family| name(family) == word || family.name == stem;
        assert!(ALL.iter().any(is_known), "{word}");
    }
}
