//! Requests that handlers send by `tide.http`, to a server of the harness that answers well and badly.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{address, scrape};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;
use crate::support::web::Web;

/// Two listeners, two requests each. Runs fail, records wait in a retry topic, and the daemon is killed: each deed keeps
/// its one key.
#[test]
fn what_a_handler_does_again_has_the_same_key() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("http-keys", 1);
    let web = Web::start();
    let project = Project::new(kafka);
    project.handler(
        "post.lua",
        &r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          tide.http.post("URL/one/" .. message.value, { json = { attempt = ctx.attempt } })
          tide.parallel{
            function() tide.http.put("URL/two/" .. message.value) end,
            function() tide.sleep(5) tide.http.post("URL/three/" .. message.value) end,
          }
          record.line("try", message, ctx)
          if not io.open("gate") then error("the gate is closed") end
          record.line("done", message, ctx)
        end
        "#
        .replace("URL", &web.url("")),
    );
    let in_lane = from_beginning("lane", &topic.name, "post")
        + "ordering = \"none\"\nretry = { initialDelay = 50 }\n";
    let in_topic = from_beginning("topic", &topic.name, "post")
        + "ordering = \"none\"\nretry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n";
    project.config(&(in_lane + &in_topic));
    topic.produce(numbered(0..2, 0));

    let mut first = Daemon::start(&project);
    first.wait_for("runs of both listeners are repeated", |_| {
        let tries = project.entries_of("try");
        let again = |value: &str| {
            tries
                .iter()
                .filter(|one| one.value == value && one.attempt >= 2)
                .count()
                >= 3
        };
        again("0") && again("1")
    });
    first.kill();
    let before = web.seen().len();
    let mut second = Daemon::start(&project);
    second.wait_for("the messages run again", |_| web.seen().len() >= before + 6);
    project.open_gate();
    // The kill may leave a message behind twice, in its topic and in the retry topic.
    second.wait_for("all are done", |_| project.entries_of("done").len() >= 4);
    second.stop();

    let mut keys = BTreeSet::new();
    for seen in web.seen() {
        let key = seen
            .header("idempotency-key")
            .expect("every request has a key");
        keys.insert((seen.path.clone(), key.to_owned()));
    }
    // Three deeds of two messages in two listeners, whatever has failed.
    assert_eq!(keys.len(), 12, "{keys:?}");
    let different: BTreeSet<_> = keys.iter().map(|(_, key)| key).collect();
    assert_eq!(different.len(), 12, "{keys:?}");
    assert!(web.seen().len() > 24);
    let start = format!("{}/lane/{}/0/0/", project.group, topic.name);
    assert!(
        different.iter().any(|key| key.starts_with(&start)),
        "{keys:?}"
    );
}

const AWAY: &str = r#"
        local record, tide = require "record", require "tide"
        local M = {}
        function M.request(message, ctx)
          record.line("try", message, ctx)
          local url = message.value == "0" and "URL/away" or "http://127.0.0.1:NOBODY/"
          if message.value == "1" and io.open("gate") then url = "URL/x" end
          tide.http.get(url)
          record.line("done", message, ctx)
        end
        function M.send(message, ctx)
          record.line("send", message, ctx)
          tide.kafka.producer("nobody").send{ topic = "t", value = "x", timeout = "200ms" }
        end
        return M
        "#;

/// A service that is away costs no attempt, and the message shows in status and metrics meanwhile. The same holds of a
/// producer without brokers.
#[test]
fn infrastructure_that_is_away_costs_no_attempt() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("http-away", 1);
    let web = Web::start();
    web.set_sick(true);
    let nobody = kafka::free_port();
    let project = Project::new(kafka).sections(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"1s\"\n\
         [producers.nobody]\nbrokers = [\"127.0.0.1:{nobody}\"]\n"
    ));
    project.handler(
        "away.lua",
        &AWAY
            .replace("URL", &web.url(""))
            .replace("NOBODY", &nobody.to_string()),
    );
    let policy = "onError = \"skip\"\nordering = \"none\"\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 50 }\n";
    project.config(
        &(from_beginning("request", &topic.name, "away.request")
            + policy
            + &from_beginning("send", &topic.name, "away.send")
            + policy),
    );
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("each has run often", |_| {
        let often = |event| {
            let entries = project.entries_of(event);
            ["0", "1"]
                .iter()
                .all(|value| entries.iter().filter(|one| one.value == *value).count() >= 3)
        };
        often("try") && often("send")
    });
    let entries = project.entries();
    assert!(entries.iter().all(|one| one.attempt == 1), "{entries:?}");
    let line = daemon.wait_line("the log says so", |line| {
        line.field("message").starts_with("infrastructure is away")
            && line.field("listener") == "send"
    });
    assert!(line.mentions("handlers/away.lua:"), "{line:?}");
    let http = address(&mut daemon);
    daemon.wait_for("the probe tells of it", |daemon| {
        let status = daemon.status();
        let reasons = status["readiness"]["reasons"].to_string();
        reasons.contains("tide.kafka") || reasons.contains("tide.http")
    });
    let samples = scrape(&http);
    let host = ("host", "127.0.0.1");
    for result in ["closed", "unreachable"] {
        let labels = [host, ("result", result)];
        let count = samples.get("moontide_http_requests_total", &labels);
        assert!(
            count.is_some_and(|count| count >= 3.0),
            "{result}: {count:?}"
        );
        let labels = [("function", "http.get"), ("result", result)];
        assert!(
            samples
                .get("moontide_outside_calls_total", &labels)
                .is_some()
        );
    }
    web.set_sick(false);
    project.open_gate();
    project.wait_for_entries("done", 2, DEADLINE);
    daemon.term();
    daemon.exit_code(DEADLINE);
}

/// 1,000 calls hang, most of them for want of a connection. Another listener goes on, the status tells what is waited
/// for, and the stop leaves no socket behind.
#[test]
fn a_thousand_calls_that_hang_hold_up_nobody_else() {
    let Some(kafka) = kafka::shared() else { return };
    let (slow, quick) = (kafka.topic("http-hang", 1), kafka.topic("http-quick", 1));
    let web = Web::start();
    let project = Project::new(kafka).sections(
        "[http]\nlisten = \"127.0.0.1:0\"\n[http.client]\nsize = 200\nacquireTimeout = \"1h\"\ntimeout = \"1h\"\n\
         [daemon]\ndrainDeadline = \"200ms\"\n",
    );
    project.handler(
        "calls.lua",
        &r#"
        local record, tide = require "record", require "tide"
        local M = {}
        function M.slow() tide.http.get("URL/hang") end
        function M.quick(message, ctx)
          assert(tide.json.decode(message.value) >= 0)
          record.line("quick", message, ctx)
        end
        return M
        "#
        .replace("URL", &web.url("")),
    );
    project.config(
        &(from_beginning("slow", &slow.name, "calls.slow")
            + "ordering = \"none\"\nmaxInFlight = 1000\n"
            + &from_beginning("quick", &quick.name, "calls.quick")),
    );
    slow.produce(numbered(0..1000, 0));

    let mut daemon = Daemon::start(&project);

    let mut pool = serde_json::Value::Null;
    daemon.wait_for("all hang", |daemon| {
        pool = daemon.status()["http"].clone();
        pool["inUse"] == 200 && pool["waiting"] == 800
    });
    let memory = daemon.memory();
    quick.produce(numbered(0..500, 0));
    project.wait_for_entries("quick", 500, DEADLINE);
    let text = moontide(&["status", "--config"], &project.path("config.toml")).stdout;
    let text = String::from_utf8(text).unwrap();
    let expected = format!(
        "slow waits for http GET {} in 1000 calls, the first for ",
        web.address()
    );
    assert!(text.contains(&expected), "{text}");
    assert!(
        text.contains("200 of 200 connections in use, 0 idle, 800 requests waiting for one"),
        "{text}"
    );
    let samples = scrape(&address(&mut daemon));
    assert_eq!(
        samples.get("moontide_http_requests_waiting", &[]),
        Some(800.0)
    );
    let in_use = samples.get("moontide_http_connections", &[("state", "in_use")]);
    assert_eq!(in_use, Some(200.0));
    assert!(daemon.memory() < memory + (64 << 20));
    let jobs = daemon.stop_counted();
    assert!(jobs.ended_in_order() && jobs.told == 1000, "{jobs:?}");
    let until = std::time::Instant::now() + DEADLINE;
    while web.open() > 0 {
        assert!(std::time::Instant::now() < until, "{} sockets", web.open());
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// `[http.client]` is live, and so are the calls of the old handlers.
#[test]
fn a_reload_changes_what_requests_may_do() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("http-reload", 1);
    let web = Web::start();
    // The command reloads, and no watch comes first.
    let project = Project::new(kafka).sections("[daemon]\nwatch = false\n");
    project.handler(
        "get.lua",
        &r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          local ok, result = pcall(tide.http.get, "URL/" .. message.value)
          record.line("done", message, ctx, ok and result.status or result.kind)
        end
        "#
        .replace("URL", &web.url("")),
    );
    let listener = from_beginning("get", &topic.name, "get") + "ordering = \"none\"\n";
    let with = |client: &str| format!("{listener}\n[http.client]\n{client}\n");
    project.config(&with("size = 3"));
    topic.produce([Message::value("a").partition(0)]);
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    topic.produce([Message::value("slow/700").partition(0)]);
    let until = std::time::Instant::now() + DEADLINE;
    while web.seen_at("/slow").is_empty() {
        assert!(std::time::Instant::now() < until);
        std::thread::sleep(Duration::from_millis(5));
    }
    project.config(&with("allow = [\"api.example.com\"]"));
    let (code, text) = daemon.reload();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains("http.client.allow"), "{text}");
    topic.produce([Message::value("b").partition(0)]);
    let done = project.wait_for_entries("done", 3, DEADLINE);
    let mut results: Vec<_> = done
        .iter()
        .map(|one| (one.value.as_str(), one.extra.as_str()))
        .collect();
    results.sort_unstable();
    assert_eq!(
        results,
        [("a", "200"), ("b", "refused"), ("slow/700", "200")]
    );
    project.config(&with("size = 0"));
    let (code, text) = daemon.reload();
    assert_ne!(code, 0);
    assert!(text.contains("`size` is 0, not from 1 to 10000"), "{text}");
    daemon.stop();
}
