//! `[http]`: metrics that equal what happened, and probes that say what is wrong.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{Samples, address, get, scrape};
use crate::support::kafka;
use crate::support::project::{GATED, Project, RECORDING, from_beginning};
use crate::support::threads::Halted;
use crate::support::wait::{DEADLINE, wait_for, wait_some};

fn section(stall_after: &str) -> String {
    format!(
        "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"{stall_after}\""
    )
}

/// A scrape as soon as it fulfils the condition.
#[track_caller]
fn scrape_when(address: &str, what: &str, condition: impl Fn(&Samples) -> bool) -> Samples {
    wait_some(what, DEADLINE, || {
        Some(scrape(address)).filter(|samples| condition(samples))
    })
}

/// The reasons of `/ready`, none where it answers 200.
fn reasons(address: &str) -> Vec<Value> {
    let answer = get(address, "/ready");
    let reasons: Vec<Value> = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer.code, if reasons.is_empty() { 200 } else { 503 });
    reasons
}

#[test]
fn the_numbers_of_partitions_are_what_was_produced_and_handled() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("numbers", 2);
    let project = Project::new(kafka).sections(&section("5m"));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce([numbered(0..30, 0), numbered(0..12, 1)].concat());
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    project.wait_for_entries("done", 42, DEADLINE);

    let of = |partition| {
        [
            ("consumer", "default"),
            ("topic", &topic.name),
            ("partition", partition),
        ]
    };
    let samples = scrape_when(&address, "all is committed", |samples| {
        samples.get("moontide_committed_offset", &of("0")) == Some(30.0)
            && samples.get("moontide_committed_offset", &of("1")) == Some(12.0)
    });

    for (partition, count) in [("0", 30.0), ("1", 12.0)] {
        let value = |name| samples.get(name, &of(partition));
        assert_eq!(value("moontide_messages_received_total"), Some(count));
        assert_eq!(value("moontide_position_offset"), Some(count));
        for nothing in [
            "moontide_messages_in_flight",
            "moontide_in_flight_bytes",
            "moontide_lag_messages",
            "moontide_lag_seconds",
            "moontide_oldest_unfinished_seconds",
            "moontide_standstill_seconds",
            "moontide_partition_blocked",
        ] {
            assert_eq!(value(nothing), Some(0.0), "{nothing}");
        }
    }
    let consumer = [("consumer", "default")];
    assert_eq!(
        samples.get("moontide_consumer_assigned", &consumer),
        Some(1.0)
    );
    assert!(
        samples
            .all("moontide_commits_total", &[("result", "ok")])
            .sum::<f64>()
            >= 1.0
    );
    assert_eq!(samples.get("moontide_bundle_number", &[]), Some(1.0));
    assert_eq!(samples.get("moontide_ready", &[]), Some(1.0));
    let resident = samples.get("process_resident_memory_bytes", &[]).unwrap();
    assert!(resident > 5e6, "{resident}");
    assert!(samples.get("process_open_fds", &[]).unwrap() > 5.0);
    daemon.stop();
}

/// A blocked lane: the numbers show it at once, `/ready` after `stallAfter`, and both get over it.
#[test]
fn ready_fails_while_a_lane_is_blocked_for_too_long() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("blocked", 1);
    let project = Project::new(kafka).sections(&section("2s"));
    project.handler("orders.lua", GATED);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "retry = { initialDelay = 50, maxDelay = 200 }\n"),
    );
    let long_ago = Message {
        timestamp: Some(1_600_000_000_000),
        ..Message::value("old")
    };
    topic.produce([long_ago, Message::value("new")]);
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);

    let reason = wait_some("/ready fails", DEADLINE, || reasons(&address).pop());
    assert_eq!(
        reason["what"],
        format!("partition {}[0] of consumer default", topic.name)
    );
    let why = reason["why"].as_str().unwrap();
    assert!(
        why.contains("the gate is closed") && why.contains("offset 0"),
        "{why}"
    );
    assert_eq!(get(&address, "/live").code, 200, "a restart would not help");
    let samples = scrape(&address);
    let value = |name| samples.get(name, &[("topic", &*topic.name)]).unwrap();
    assert!((value("moontide_partition_blocked") - 1.0).abs() < 0.1);
    assert!((value("moontide_messages_in_flight") - 2.0).abs() < 0.1);
    assert!(value("moontide_standstill_seconds") >= 2.0);
    assert!(value("moontide_lag_seconds") > 1e8, "by the timestamp");
    assert_eq!(samples.get("moontide_ready", &[]), Some(0.0));
    let status = daemon.status();
    assert_eq!(status["readiness"]["ready"], false);
    assert_eq!(status["readiness"]["reasons"][0]["what"], reason["what"]);

    project.open_gate();

    wait_for("/ready is well again", DEADLINE, || {
        reasons(&address).is_empty()
    });
    assert_eq!(daemon.status()["readiness"]["ready"], true);
    daemon.stop();
}

/// A revoked partition takes its series along.
#[test]
fn what_another_member_takes_over_disappears_here() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("shared", 4);
    let project = Project::new(kafka).sections(&section("5m"));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let mut first = Daemon::join(&project);
    let address = address(&mut first);
    let positions = |samples: &Samples| samples.all("moontide_position_offset", &[]).count();
    scrape_when(&address, "it has all partitions", |samples| {
        positions(samples) == 4
    });

    let second = Daemon::join(&project.another_member());

    let samples = scrape_when(&address, "it shares them", |samples| {
        positions(samples) == 2
    });
    let revoked = samples.get("moontide_rebalances_total", &[("kind", "revoked")]);
    assert!(revoked >= Some(1.0), "{revoked:?}");
    second.stop();
    scrape_when(&address, "they come back", |samples| {
        positions(samples) == 4
    });
    first.stop();
}

/// A thread that stands still: at once `silent`, and after its allowance not `live`.
#[test]
fn live_fails_while_a_thread_stands_still() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("still", 1);
    let project = Project::new(kafka).sections(&section("5m"));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    let live = |address: &str| {
        let answer = get(address, "/live");
        let page: Value = serde_json::from_str(&answer.body).unwrap();
        assert_eq!(answer.code, if page["live"] == true { 200 } else { 503 });
        page["thread"].as_str().map(str::to_owned)
    };
    assert_eq!(live(&address), None);

    let halted = Halted::thread(daemon.pid(), "consumer-defaul");
    let reason = wait_some("/ready fails", DEADLINE, || reasons(&address).pop());
    assert_eq!(reason["what"], "consumer default");
    assert_eq!(reason["why"], "it does not answer");
    let thread = wait_some("/live fails", DEADLINE, || live(&address));
    assert_eq!(thread, "consumer-default");
    daemon.wait_line("the same in the log", |line| {
        line.is("a thread stands still: systemd's watchdog is not notified")
    });

    drop(halted);
    wait_for("/live is well again", DEADLINE, || live(&address).is_none());
    wait_for("/ready too", DEADLINE, || reasons(&address).is_empty());
    topic.produce([Message::value("after")]);
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// Whatever the broker does, it answers: not ready, but live.
#[test]
fn without_a_broker_it_is_live_and_not_ready() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka).sections(&section("5m"));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    let config = project.config_text(&from_beginning("orders", "orders", "orders.handle"));
    project.write(
        "config.toml",
        &config.replace(&kafka.bootstrap(), "127.0.0.1:1"),
    );
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let reason = wait_some("the error is known", DEADLINE, || {
        let reason = reasons(&address).pop().expect("a reason");
        let why = reason["why"].as_str().unwrap();
        why.starts_with("connecting: ").then_some(reason)
    });
    assert_eq!(reason["what"], "consumer default");
    assert_eq!(get(&address, "/live").code, 200);
    let status: Value = serde_json::from_str(&get(&address, "/status").body).unwrap();
    assert_eq!(status["pid"], daemon.pid());
    daemon.stop();
}

/// An address that is taken ends the start, with the address.
#[test]
fn an_address_that_is_taken_ends_the_start() {
    let Some(kafka) = kafka::shared() else { return };
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = taken.local_addr().unwrap().to_string();
    let project = Project::new(kafka).sections(&section("5m").replace("127.0.0.1:0", &address));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    let mut daemon = Daemon::spawn(&project);
    assert_eq!(daemon.exit_code(DEADLINE), 1);
    assert!(
        daemon.log_text().contains(&address),
        "{}",
        daemon.log_text()
    );
}

/// Those who connect and say nothing hold nobody up, and are let go.
#[test]
fn idle_connections_do_not_keep_others_out() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka).sections(&section("5m"));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let idle: Vec<_> = (0..64)
        .map(|_| std::net::TcpStream::connect(&address).unwrap())
        .collect();
    let started = Instant::now();
    assert_eq!(get(&address, "/live").code, 200);
    assert!(started.elapsed() < DEADLINE);
    drop(idle);
    let is_panic = |line: &Line| line.mentions("panicked");
    assert_eq!(daemon.count(is_panic), 0);
    daemon.term();
    assert_eq!(daemon.exit_code(Duration::from_secs(30)), 0);
}
