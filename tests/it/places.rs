//! Errors by place: what the log, the status, the metrics and `/ready` say of a partition, a group or a broker that
//! does not work, and when they cease to say it.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, Line, moontide};
use crate::support::http::{address, get, scrape};
use crate::support::kafka::{self, Kafka, java};
use crate::support::project::{Project, RECORDING, from_beginning, listener};
use crate::support::wait::{DEADLINE, stays, wait_for};

const HTTP: &str = "[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"5m\"";
/// Whoever has no rule may do everything; a topic or group with a rule is for those that a rule allows.
pub(crate) const AUTHORIZER: &str = "
authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer
allow.everyone.if.no.acl.found=true
";

/// Adds or removes rules for everybody, on `--topic orders` or `--group g`.
pub(crate) fn acl(kafka: &Kafka, change: &str, rule: &[&str]) {
    let output = java()
        .arg("org.apache.kafka.tools.AclCommand")
        .args(["--bootstrap-server", &kafka.bootstrap(), change, "--force"])
        .args(rule)
        .output()
        .expect("java was found before");
    assert!(output.status.success(), "{output:?}");
}

fn consumer(daemon: &Daemon) -> Value {
    daemon.try_status().unwrap_or_default()["consumers"][0].clone()
}

fn partition(daemon: &Daemon, topic: &str) -> Value {
    let consumer = consumer(daemon);
    let partitions = consumer["partitions"].as_array().cloned();
    let mut partitions = partitions.unwrap_or_default().into_iter();
    partitions
        .find(|one| one["topic"] == topic)
        .unwrap_or_default()
}

/// The right to read a topic goes while it is consumed: the partition says so until it is back, and the others go on.
#[test]
fn a_topic_that_may_no_longer_be_read_is_an_error_of_its_partition_until_it_may() {
    let Some(kafka) = Kafka::start_own_with(AUTHORIZER) else {
        return;
    };
    let (orders, billing) = (kafka.topic("orders", 1), kafka.topic("billing", 1));
    let project = Project::new(&kafka).sections(HTTP);
    project.handler("all.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &orders.name, "all.handle")
            + &from_beginning("billing", &billing.name, "all.handle")),
    );
    let mut daemon = Daemon::join(&project);
    let http = address(&mut daemon);
    orders.produce(numbered(0..3, 0));
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.wait_for("it is ready", |_| get(&http, "/ready").code == 200);

    let describe = [
        "--allow-principal",
        "User:*",
        "--topic",
        &orders.name,
        "--operation",
        "describe",
        "--operation",
        "write",
    ];
    acl(&kafka, "--add", &describe);
    daemon.wait_for("the partition has its error", |daemon| {
        let error = &partition(daemon, &orders.name)["error"];
        error["place"] == format!("{}[0]", orders.name)
            && error["error"]
                .as_str()
                .is_some_and(|text| text.contains("authorization"))
    });
    let is_said = || {
        let ready = get(&http, "/ready");
        assert_eq!(ready.code, 503);
        assert!(ready.body.contains("authorization"), "{}", ready.body);
        let (samples, labels) = (scrape(&http), [("topic", &*orders.name)]);
        assert_eq!(samples.get("moontide_lag_messages", &labels), None);
        let failing = samples.get("moontide_partition_failing", &labels);
        assert_eq!(failing, Some(1.0));
        true
    };
    daemon.wait_for("the end is not known", |daemon| {
        partition(daemon, &orders.name)["lag"].is_null()
    });
    // What works elsewhere, and the time that passes, do not end it.
    billing.produce(numbered(0..3, 0));
    project.wait_for_entries("done", 6, DEADLINE);
    stays("it is said", Duration::from_secs(12), is_said);
    let output = moontide(&["status", "--config"], &project.path("config.toml"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let line = format!("  nothing received from {}[0], for ", orders.name);
    assert!(text.contains(&line), "{text}");
    assert!(text.contains("unknown"), "{text}");

    acl(&kafka, "--remove", &["--topic", &orders.name]);
    orders.produce(numbered(3..4, 0));
    project.wait_for_entries("done", 7, DEADLINE);
    daemon.wait_for("it is over", |_| get(&http, "/ready").code == 200);
    assert_eq!(partition(&daemon, &orders.name)["error"], Value::Null);
    daemon.stop();
}

/// A broker that is away is an outage at once, and no longer than it lasts.
#[test]
fn a_dead_broker_is_an_outage_at_once_and_is_none_when_it_is_back() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("orders", 2);
    let project = Project::new(&kafka).sections(HTTP);
    project.handler("all.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "all.handle"));
    let mut daemon = Daemon::join(&project);
    let http = address(&mut daemon);
    daemon.wait_for("it is ready", |_| get(&http, "/ready").code == 200);

    kafka.kill();
    wait_for("it is not ready", Duration::from_secs(8), || {
        let ready = get(&http, "/ready");
        ready.code == 503 && ready.body.contains("refused")
    });
    daemon.wait_for("the status has the broker", |daemon| {
        let consumer = consumer(daemon);
        let error = consumer["error"].as_str().unwrap_or_default().to_owned();
        consumer["state"] == "connecting"
            && error.starts_with(&format!("broker {}: ", kafka.bootstrap()))
    });
    let is_summary = |line: &crate::support::daemon::Line| line.mentions("brokers are down");
    stays("no other state", Duration::from_secs(5), || {
        consumer(&daemon)["state"] == "connecting"
    });
    assert_eq!(daemon.count(is_summary), 0);

    kafka.start();
    daemon.wait_for("a broker is there", |daemon| {
        consumer(daemon)["state"] != "connecting"
    });
    wait_for("no broker has an error", Duration::from_secs(3), || {
        let errors = consumer(&daemon)["errors"].as_array().cloned().unwrap();
        errors.iter().all(|error| error["isBroker"] == false)
    });
    daemon.wait_for("it is ready again", |_| get(&http, "/ready").code == 200);
    assert_eq!(consumer(&daemon)["error"], Value::Null);
    daemon.stop();
}

/// A topic that does not exist is no error of a connection.
#[test]
fn a_missing_topic_does_not_look_like_a_missing_broker() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.handler("all.lua", RECORDING);
    project.config(&listener("orders", &kafka::unique("missing"), "all.handle"));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("the status has the topic", |daemon| {
        consumer(daemon)["topicErrors"][0]["error"].is_string()
    });
    daemon.wait_for("it is connected", |daemon| {
        consumer(daemon)["state"] != "connecting"
    });
    assert_eq!(consumer(&daemon)["error"], Value::Null);
    daemon.stop();
}

/// A server of another protocol, and what the daemon says of it.
fn check_foreign(serve: impl Fn(TcpStream) + Send + 'static, lines: &str, words: &[&str]) {
    let server = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
    let place = server.local_addr().unwrap().to_string();
    std::thread::spawn(move || server.incoming().flatten().for_each(serve));
    check_unfit(&place, lines, words);
}

/// A port that is not that of a broker, and what the daemon says of it. Returns the log.
fn check_unfit(place: &str, lines: &str, words: &[&str]) -> Vec<Line> {
    let project = Project::at(place.to_owned());
    project.handler("all.lua", RECORDING);
    let text = project
        .config_text(&listener("orders", "orders", "all.handle"))
        .replace("[kafkaConfig]\n", &format!("[kafkaConfig]\n{lines}\n"));
    project.write("config.toml", &text);
    let mut daemon = Daemon::start(&project);
    let line = daemon.wait_line("why there is no connection", |line| {
        line.is("kafka error") && words.iter().all(|word| line.field("error").contains(word))
    });
    assert_eq!(line.field("broker"), place);
    daemon.wait_for("the status says why", |daemon| {
        let consumer = consumer(daemon);
        let error = consumer["error"].as_str().unwrap_or_default().to_owned();
        consumer["state"] == "connecting"
            && error.starts_with(&format!("broker {place}: "))
            && words.iter().all(|word| error.contains(word))
    });
    let log = daemon.lines();
    daemon.stop();
    log
}

#[test]
fn a_server_that_closes_at_once_is_told_with_the_keys_that_may_be_wrong() {
    check_foreign(
        drop,
        "logLevel = \"ERROR\"",
        &["closes the connection", "`ssl` is not set"],
    );
}

#[test]
fn a_server_of_http_is_told_as_such() {
    let serve = |mut stream: TcpStream| {
        let mut request = [0; 512];
        if stream.read(&mut request).is_ok() {
            let _ = stream.write_all(b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\n\r\n");
        }
    };
    check_foreign(serve, "", &["an HTTP server"]);
}

/// A broker that hangs, a proxy without a broker behind it, a server of a protocol whose client speaks second.
#[test]
fn a_server_that_does_not_answer_is_told_as_such() {
    let accepted = Mutex::new(Vec::new());
    check_foreign(
        move |stream| accepted.lock().unwrap().push(stream),
        "",
        &["does not answer", "may not be the port of a Kafka broker"],
    );
}

/// A controller speaks Kafka's protocol, but has no topics. That says nothing of what brokers have.
#[test]
fn the_port_of_a_controller_is_told_as_such() {
    let Some(kafka) = kafka::shared() else { return };
    let words = ["KRaft controller", "write the address of a broker"];
    let log = check_unfit(&kafka.controller(), "", &words);
    assert!(!log.iter().any(|line| line.mentions("ids of topics")));
}
