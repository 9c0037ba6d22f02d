//! Reloads of producers, `produces`, and what metrics, status and `check` say of producers.

use crate::sends::{sender, sending, values};
use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, unique};
use crate::support::project::from_beginning;
use crate::support::wait::{DEADLINE, wait_for};

/// After a reload new calls use the new producer; a call of before goes on with the one that it began with.
#[test]
fn producers_are_live() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        local audit = tide.kafka.producer("audit")
        local place = audit.send{ topic = out, value = message.value .. " before" }
        record.line("first", message, ctx)
        while message.value == "0" and not io.open("gate") do tide.sleep(20) end
        local ok, err = pcall(audit.send, { topic = out, value = message.value, timeout = "50s" })
        record.line("done", message, ctx, ok and "taken" or err.kind)
        "#;
    // The watch would take a save before the command asks.
    let sections = "[producers.audit]\ntimeout = \"10s\"\n[daemon]\nwatch = false\n";
    let (project, source, out) = sending(kafka, "ordering = \"none\"\n", sections, 1, body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("first", 1, DEADLINE);

    let text = std::fs::read_to_string(project.path("config.toml")).unwrap();
    project.write(
        "config.toml",
        &text.replace("timeout = \"10s\"", "timeout = \"1m\""),
    );
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    assert!(printed.contains("producers changed: `audit`"), "{printed}");
    kafka.existing_topic(&source).produce(numbered(1..2, 0));
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(
        (done[0].value.as_str(), done[0].extra.as_str()),
        ("1", "taken")
    );
    project.open_gate();
    let done = project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(
        (done[1].value.as_str(), done[1].extra.as_str()),
        ("0", "invalid")
    );
    assert_eq!(
        values(&kafka.read(&out, 1, 3)),
        ["0 before", "1 before", "1"]
    );

    let text = std::fs::read_to_string(project.path("config.toml")).unwrap();
    project.write(
        "config.toml",
        &text.replace("[producers.audit]", "[producers.other]"),
    );
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains("producers added: `other`; producers removed: `audit`"),
        "{printed}"
    );
    daemon.stop();
}

/// The list of a listener: everything else is refused before it is sent.
#[test]
fn produces_of_a_listener() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = unique("allowed");
    let allowed = kafka.topic_named(format!("{prefix}.eu"), 1);
    let listener = format!("produces = [\"{prefix}.*\"]\n");
    let body = r#"
        local place = tide.kafka.send{ topic = "@ALLOWED@", value = "v" }
        local ok, err = pcall(tide.kafka.send, { topic = out, value = "v" })
        record.line("done", message, ctx, place.offset .. " " .. err.kind)
        "#
    .replace("@ALLOWED@", &allowed.name);
    let (project, source, out) = sending(kafka, &listener, "", 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let _daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "0 refused");
    assert_eq!(kafka.existing_topic(&out).watermarks(0), (0, 0));
    let output = moontide(&["check", "--config"], &project.path("config.toml"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains(&format!("sends to {prefix}.* only")),
        "{text}"
    );
    assert!(
        text.contains("producer default\n    acks -1, idempotent"),
        "{text}"
    );
}

/// The numbers of a producer are those of the records that handlers sent.
#[test]
fn metrics_and_status_of_a_producer() {
    let Some(kafka) = kafka::shared() else { return };
    let sections =
        "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n[producerConfig]\nacks = -1\n";
    let body = r#"
        local partition = message.value == "bad" and 9 or 0
        pcall(tide.kafka.send, { topic = out, messages = {
          { value = "a", partition = partition }, { value = "b", partition = 0 },
        } })
        record.line("done", message, ctx)
        "#;
    let (project, source, _) = sending(kafka, "", sections, 1, body);
    let values = ["good", "bad", "good"];
    let messages = values.map(|value| Message::value(value).partition(0));
    kafka.existing_topic(&source).produce(messages);
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    project.wait_for_entries("done", 3, DEADLINE);

    let of = [("producer", "default")];
    let samples = scrape(&address);
    let sum = |name: &str, labels: &[(&str, &str)]| samples.all(name, labels).sum::<f64>() as i64;
    let sent = |result| sum("moontide_records_sent_total", &[of[0], ("result", result)]);
    assert_eq!((sent("acknowledged"), sent("failed")), (5, 1));
    assert_eq!(sum("moontide_send_seconds_count", &of), 3);
    assert_eq!(sum("moontide_sent_records_in_flight", &of), 0);
    assert_eq!(sum("moontide_sends_queued", &of), 0);
    let status = daemon.status();
    assert_eq!(status["producers"][0]["name"], "default");
    assert!(
        status["producers"][0]["clients"].as_u64() >= Some(1),
        "{status}"
    );
    let output = moontide(&["status", "--config"], &project.path("config.toml"));
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        text.contains("producer  default: 0 records in flight (0 bytes)"),
        "{text}"
    );
    daemon.stop();
}

/// init.lua may send at the start, before the first message.
#[test]
fn init_lua_sends_at_the_start() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(kafka, "", "", 1, "record.line(\"done\", message, ctx)");
    sender(&project, &out, "record.line(\"done\", message, ctx)");
    project.handler(
        "init.lua",
        &format!(
            "local tide = require \"tide\"\nreturn function() tide.kafka.send{{ topic = \"{out}\", value = \"up\" }} end\n"
        ),
    );
    project.config(&from_beginning("sender", &source, "sender"));
    let daemon = Daemon::start(&project);
    wait_for("the record", DEADLINE, || {
        kafka.existing_topic(&out).watermarks(0).1 == 1
    });
    daemon.stop();
}
