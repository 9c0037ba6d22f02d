//! `moontide check --connect`: which servers it reaches, what it says of those that it does not, and until when.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::time::{Duration, Instant};

use crate::dev::Dev;
use crate::support::daemon::moontide;
use crate::support::kafka::{self, free_port};
use crate::support::project::{Project, RECORDING, listener};
use crate::support::redis::{self, Cluster};

/// The exit code, and what is printed.
fn check(project: &Project, arguments: &[&str]) -> (i32, String, String) {
    let arguments = [&["check"], arguments, &["--config"]].concat();
    let output = moontide(&arguments, &project.path("config.toml"));
    (
        output.status.code().unwrap_or(-1),
        String::from_utf8(output.stdout).unwrap(),
        String::from_utf8(output.stderr).unwrap(),
    )
}

#[track_caller]
fn line<'t>(text: &'t str, start: &str) -> &'t str {
    let mut lines = text.lines();
    let found = lines.find(|line| line.starts_with(start));
    found.unwrap_or_else(|| panic!("no line `{start}`: {text}"))
}

#[test]
fn servers_that_are_there_are_reached_and_told_with_their_time() {
    let Some(kafka) = kafka::shared() else { return };
    let (Some(redis), Some(cluster)) = (redis::shared(), Cluster::start()) else {
        return;
    };
    let project = Project::new(kafka).sections(&format!(
        "[producers.audit]\nacks = -1\n[redis.cache]\nurl = \"redis://:pass%40word@{}\"\n\
         [redis.cluster]\nurl = \"{}\"\ncluster = true\n[http.client]\nsize = 7\nallow = [\"*.example.com\"]\n",
        redis.address(),
        cluster.nodes[0].url(),
    ));
    project.handler("none.lua", RECORDING);
    project.config(&listener("none", "t", "none.handle"));
    // The server has no password, and refuses one.
    let (code, text, errors) = check(&project, &["--connect"]);
    assert_eq!(code, 78, "{text}");
    let refused = line(
        &text,
        &format!("redis cache at {}: not reached after ", redis.address()),
    );
    assert!(refused.contains("the log-in at"), "{refused}");
    assert!(
        !text.contains("pass@word") && !text.contains("pass%40"),
        "{text}"
    );
    assert!(errors.contains("1 of 5 servers not reached"), "{errors}");

    let config = fs::read_to_string(project.path("config.toml")).unwrap();
    project.write("config.toml", &config.replace(":pass%40word@", ""));
    let (code, text, errors) = check(&project, &["--connect"]);
    assert_eq!((code, errors.as_str()), (0, ""), "{text}");
    let broker = kafka.bootstrap();
    let broker = format!("broker {broker} of consumer default, producer audit: reached in ");
    assert!(line(&text, &broker).ends_with("ms"), "{text}");
    for node in &cluster.nodes {
        line(
            &text,
            &format!("redis cluster at {}: reached in ", node.address()),
        );
    }
    assert!(text.ends_with("config.toml: ok\n"), "{text}");
    // What it shows of the clients.
    assert_eq!(line(&text, "http.client"), "http.client");
    line(&text, "    requests reach *.example.com");
    line(&text, "    at most 7 connections, waited for 5s at most");
    line(&text, &format!("redis cache at {}", redis.address()));
    line(&text, "    database 0, without a password, without TLS");
    line(&text, "    a cluster, without a password, without TLS");

    let (code, json, _) = check(&project, &["--connect", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ok"]), (0, &true.into()));
    assert_eq!(json["servers"].as_array().map(Vec::len), Some(5), "{json}");
    assert!(json["servers"][0]["milliseconds"].is_u64() && json["servers"][0]["error"].is_null());
    assert_eq!(
        (&json["httpClient"]["size"], &json["redis"][0]["name"]),
        (&7.into(), &"cache".into())
    );
    tls_where_there_is_none(&project, &kafka.bootstrap(), &redis.address());
    // Without the option nothing is contacted.
    let (code, text, _) = check(&project, &[]);
    assert!(code == 0 && !text.contains("reached"), "{text}");
}

fn tls_where_there_is_none(project: &Project, broker: &str, redis: &str) {
    let config = fs::read_to_string(project.path("config.toml")).unwrap();
    let wrong = config
        .replace("[kafkaConfig]\n", "[kafkaConfig]\nssl = true\n")
        .replace(
            "url = \"redis://",
            "connectTimeout = \"2s\"\nurl = \"rediss://",
        );
    project.write("config.toml", &wrong);
    let (code, text, _) = check(project, &["--connect"]);
    assert_eq!(code, 78, "{text}");
    let start = format!("broker {broker} of consumer default");
    let found = line(&text, &start);
    assert!(
        found.contains("not reached after") && found.contains("SSL"),
        "{found}"
    );
    let found = line(&text, &format!("redis cache at {redis}: not"));
    assert!(found.contains("the TLS handshake with"), "{found}");
    project.write("config.toml", &config);
}

/// As a port without TLS does with the first bytes of TLS. Its log lines stand before its errors in the client's queue.
#[test]
fn a_port_that_closes_each_connection_at_once_is_told_with_the_reason() {
    let port = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = port.local_addr().unwrap();
    std::thread::spawn(move || {
        for connection in port.incoming() {
            drop(connection);
        }
    });
    let project = Project::at(address.to_string());
    project.handler("none.lua", RECORDING);
    project.config(&listener("none", "t", "none.handle"));
    let config = fs::read_to_string(project.path("config.toml")).unwrap();
    let tls = config.replace("[kafkaConfig]\n", "[kafkaConfig]\nssl = true\n");
    project.write("config.toml", &tls);
    let (code, text, _) = check(&project, &["--connect"]);
    assert_eq!(code, 78, "{text}");
    let found = line(&text, &format!("broker {address} of consumer default"));
    assert!(found.contains("the port may be one without TLS"), "{found}");
}

/// `moontide dev`, and the address of its broker.
fn embedded(folder: &Path) -> (Dev, String) {
    let plain = "[kafkaConfig]\nclientId = \"dev\"\nbrokers = [\"localhost:1\"]\n[consumerConfig]\ngroupId = \"dev\"\n\
                 [[listeners]]\ntopic = \"t\"\nhandler = \"none\"\n";
    fs::create_dir(folder.join("handlers")).unwrap();
    fs::write(folder.join("handlers/none.lua"), "return function() end").unwrap();
    fs::write(folder.join("config.toml"), plain).unwrap();
    let mut dev = Dev::start(folder, &[]);
    let welcome = dev.wait_any_line("an embedded broker on ");
    let (_, embedded) = welcome.split_once("an embedded broker on ").unwrap();
    let address = embedded.split(' ').next().unwrap().to_owned();
    (dev, address)
}

/// A closed port, one that accepts and never answers, TLS where there is none, and a name that is none: each has its
/// reason, and all of them together take no longer than the slowest.
#[test]
fn servers_that_are_not_there_are_told_with_the_reason_in_time() {
    let folder = tempfile::tempdir().unwrap();
    let (_dev, embedded) = embedded(folder.path());
    // Its backlog takes connections, and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let quiet = silent.local_addr().unwrap();
    let closed = format!("127.0.0.1:{}", free_port());
    let project = Project::at(embedded.clone()).sections(&format!(
        "[consumers.closed]\ngroupId = \"closed\"\nbrokers = [\"{closed}\"]\n\
         [consumers.silent]\ngroupId = \"silent\"\nbrokers = [\"{quiet}\"]\n\
         [consumers.tls]\ngroupId = \"tls\"\nssl = true\nbrokers = [\"{embedded}\"]\n\
         [consumers.lost]\ngroupId = \"lost\"\nbrokers = [\"no-such-host.invalid:9092\"]\n\
         [redis.closed]\nurl = \"redis://{closed}\"\n\
         [redis.silent]\nurl = \"redis://{quiet}\"\nconnectTimeout = \"1s\"\n\
         [redis.tls]\nurl = \"rediss://{embedded}\"\nconnectTimeout = \"1s\"\n"
    ));
    project.handler("none.lua", RECORDING);
    let of = |name: &str| {
        listener(name, &format!("t-{name}"), "none.handle") + &format!("consumer = \"{name}\"\n")
    };
    let listeners = ["closed", "silent", "tls", "lost"].map(of).concat();
    project.config(&(listener("none", "t", "none.handle") + &listeners));
    let began = Instant::now();
    let (code, text, errors) = check(&project, &["--connect"]);
    assert!(
        began.elapsed() < Duration::from_secs(25),
        "{:?}",
        began.elapsed()
    );
    assert_eq!(code, 78, "{text}{errors}");
    line(
        &text,
        &format!("broker {embedded} of consumer default: reached in "),
    );
    for (start, reason) in [
        (
            format!("broker {closed} of consumer closed: not reached after "),
            "no connection: Connection refused",
        ),
        (
            format!("broker {quiet} of consumer silent: not reached after "),
            "the other side accepts the connection, but does not answer",
        ),
        (
            format!("broker {embedded} of consumer tls: not reached after "),
            "not reached",
        ),
        (
            "broker no-such-host.invalid:9092 of consumer lost: not reached after ".to_owned(),
            "the lookup failed",
        ),
        (
            format!("redis closed at {closed}: not reached after "),
            "Connection refused",
        ),
        (
            format!("redis silent at {quiet}: not reached after "),
            "has not ended within 1",
        ),
        (
            format!("redis tls at {embedded}: not reached after "),
            "TLS",
        ),
    ] {
        let found = line(&text, &start);
        assert!(found.contains(reason), "{found}");
    }
    assert!(errors.contains("7 of 8 servers not reached"), "{errors}");
    assert!(!text.contains(": ok"), "{text}");
    assert_json_says_so(&project);
}

fn assert_json_says_so(project: &Project) {
    let (code, json, _) = check(project, &["--connect", "--json"]);
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    assert_eq!((code, &json["ok"]), (78, &false.into()), "{json}");
}
