//! The numbers of listeners: runs, failures, outcomes, times, breakers, all equal to what the handlers did.

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{Samples, address, get, scrape};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, wait_some};

const SECTIONS: &str = "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"";

#[track_caller]
fn scrape_when(address: &str, what: &str, condition: impl Fn(&Samples) -> bool) -> Samples {
    wait_some(what, DEADLINE, || {
        Some(scrape(address)).filter(|samples| condition(samples))
    })
}

/// The sum over everything that fits: a number of messages or calls.
#[track_caller]
fn check(samples: &Samples, name: &str, labels: &[(&str, &str)], expected: f64) {
    let sum: f64 = samples.all(name, labels).sum();
    assert!(
        (sum - expected).abs() < 1e-6,
        "{name} {labels:?}: {sum} where {expected} were expected"
    );
}

/// Done, failed and tried again, skipped, dead-lettered, ended by a limit: each in its own number, and all together the
/// messages that came.
#[test]
fn outcomes_failures_and_limits_are_counted_by_listener() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("outcomes", 1);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), 1);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler(
        "picky.lua",
        r#"
        return function(message, ctx)
          local value = message.value
          if value == "once" and ctx.attempt == 1 then error("not at once") end
          if value == "never" then error("never") end
          if value == "skip" then ctx.skip("not wanted") end
          if value == "loop" then while true do end end
        end
        "#,
    );
    project.config(
        &(from_beginning("picky", &topic.name, "picky")
            + "onError = \"deadLetter\"\nretry = { attempts = 2, initialDelay = 20, jitter = 0.0 }\n"
            + "limits = { blocking = \"300ms\" }\n"),
    );
    let values = ["good", "once", "never", "skip", "loop", "good"];
    topic.produce(values.map(|value| Message::value(value).partition(0)));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);

    let of = [("topic", topic.name.as_str())];
    let samples = scrape_when(&address, "all is committed", |samples| {
        samples.get("moontide_committed_offset", &of) == Some(6.0)
    });

    check_outcomes(&samples, &topic.name);
    let listener = [("listener", "picky")];
    // `once` twice, `never` and `loop` twice each, the others once.
    check(
        &samples,
        "moontide_handler_run_seconds_count",
        &listener,
        9.0,
    );
    check(&samples, "moontide_handler_failures_total", &listener, 5.0);
    check(&samples, "moontide_handler_retries_total", &listener, 3.0);
    check(
        &samples,
        "moontide_handler_wait_seconds_count",
        &listener,
        6.0,
    );
    let kills = |limit| [("listener", "picky"), ("limit", limit)];
    check(
        &samples,
        "moontide_limit_kills_total",
        &kills("blocking"),
        2.0,
    );
    check(
        &samples,
        "moontide_limit_kills_total",
        &kills("timeout"),
        0.0,
    );
    check(&samples, "moontide_vms_replaced_total", &[], 2.0);
    check(&samples, "moontide_records_unacknowledged", &listener, 0.0);
    assert_eq!(dead.watermarks(0), (0, 2), "as many as were counted");
    let memory: f64 = samples.all("moontide_lua_memory_bytes", &[]).sum();
    assert!(memory > 1e4, "{memory}");
    daemon.stop();
}

/// Three done, two dead-lettered, one skipped: of the partition and of its one listener alike.
#[track_caller]
fn check_outcomes(samples: &Samples, topic: &str) {
    let finished = |outcome| [("topic", topic), ("outcome", outcome)];
    for (outcome, count) in [
        ("done", 3.0),
        ("dead_lettered", 2.0),
        ("skipped", 1.0),
        ("retried_later", 0.0),
    ] {
        let name = "moontide_messages_finished_total";
        check(samples, name, &finished(outcome), count);
        let of_listener = [("listener", "picky"), ("outcome", outcome)];
        let name = "moontide_listener_outcomes_total";
        check(samples, name, &of_listener, count);
    }
}

/// Times: what waits is timed by itself, what computes for long too, and trivial calls count all the same.
#[test]
fn runs_are_timed_waits_included() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("times", 1);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler(
        "times.lua",
        r#"
        local tide = require "tide"
        return function(message)
          if message.value == "wait" then tide.sleep(200) end
          if message.value == "compute" then
            local start = os.clock()
            while os.clock() - start < 0.15 do end
          end
        end
        "#,
    );
    project.config(&from_beginning("times", &topic.name, "times"));
    let special = ["wait", "compute", "wait"].map(|value| Message::value(value).partition(0));
    topic.produce(numbered(0..100, 0).into_iter().chain(special));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);

    let listener = [("listener", "times")];
    let samples = scrape_when(&address, "all have run", |samples| {
        samples.get("moontide_handler_run_seconds_count", &listener) == Some(103.0)
    });

    let below = |name: &str, le| {
        let labels = [("listener", "times"), ("le", le)];
        samples.get(name, &labels).expect("a bucket")
    };
    let run = "moontide_handler_run_seconds_bucket";
    check(
        &samples,
        run,
        &[("listener", "times"), ("le", "+Inf")],
        103.0,
    );
    assert!(
        below(run, "0.1024") <= 101.0,
        "two wait, and the third computes for 150 ms"
    );
    assert!(below(run, "0.0512") <= 100.0);
    let sum = samples
        .get("moontide_handler_run_seconds_sum", &listener)
        .unwrap();
    assert!(sum >= 0.5, "{sum}");
    // The last one waited for all that ran before it.
    check(
        &samples,
        "moontide_handler_wait_seconds_count",
        &listener,
        103.0,
    );
    let waited = samples
        .get("moontide_handler_wait_seconds_sum", &listener)
        .unwrap();
    assert!(waited >= 0.3, "{waited}");
    daemon.stop();
}

/// Two workers, one listener: their counts add up; a reload keeps those of who stays and lets go of who goes.
#[test]
fn workers_add_up_and_a_reload_keeps_the_counts() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("added", 4), kafka.topic("other", 1));
    let project = Project::new(kafka).sections(&format!("{SECTIONS}\n[lua]\nworkers = 2"));
    project.handler("quick.lua", "return function() end");
    let stays = from_beginning("stays", &topic.name, "quick");
    project.config(&(stays.clone() + &from_beginning("goes", &other.name, "quick")));
    let messages = (0..4).flat_map(|partition| numbered(0..25, partition));
    topic.produce(messages);
    other.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let runs = "moontide_handler_run_seconds_count";
    let samples = scrape_when(&address, "all have run", |samples| {
        samples.get(runs, &[("listener", "stays")]) == Some(100.0)
            && samples.get(runs, &[("listener", "goes")]) == Some(3.0)
    });
    assert_eq!(samples.all("moontide_lua_memory_bytes", &[]).count(), 2);

    project.config(&stays);
    daemon.hup();
    daemon.wait_line("reloaded", |line| line.is("reloaded"));

    let samples = scrape_when(&address, "it has gone", |samples| {
        samples.get(runs, &[("listener", "goes")]).is_none()
            && samples.all("moontide_position_offset", &[]).count() == 4
    });
    assert_eq!(samples.get(runs, &[("listener", "stays")]), Some(100.0));
    assert_eq!(samples.get("moontide_bundle_number", &[]), Some(2.0));
    let applied = samples.get("moontide_reloads_total", &[("result", "applied")]);
    assert!(applied >= Some(1.0), "{applied:?}");
    daemon.stop();
}

/// An open breaker shows in the numbers, makes `/ready` fail with its reason, and both get over it.
#[test]
fn an_open_breaker_shows_and_makes_ready_fail() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("breaker", 4);
    let project = Project::new(kafka).sections(SECTIONS);
    project.handler("gated.lua", crate::support::project::GATED);
    project.config(
        &(from_beginning("gated", &topic.name, "gated.handle")
            + "retry = { initialDelay = 50, maxDelay = 100 }\n"
            + "breaker = { failureRatio = 0.5, window = \"1s\", minimumRuns = 5, pause = \"500ms\", probes = 1 }\n"),
    );
    topic.produce((0..4).flat_map(|partition| numbered(0..5, partition)));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let state = |samples: &Samples, state| {
        samples.get(
            "moontide_breaker_state",
            &[("listener", "gated"), ("state", state)],
        )
    };

    scrape_when(&address, "it opens", |samples| {
        state(samples, "closed") == Some(0.0)
    });
    let reason = wait_some("/ready says so", DEADLINE, || {
        let reasons: serde_json::Value =
            serde_json::from_str(&get(&address, "/ready").body).unwrap();
        let mut reasons = reasons.as_array().unwrap().clone().into_iter();
        reasons.find(|reason| reason["what"] == "listener gated")
    });
    let why = reason["why"].as_str().unwrap();
    assert!(
        why.contains("breaker") && why.contains("runs failed"),
        "{why}"
    );
    let listener = daemon.status()["listeners"][0].clone();
    assert_eq!(listener["name"], "gated");
    assert_ne!(listener["breaker"], "closed");

    project.open_gate();

    scrape_when(&address, "it closes", |samples| {
        state(samples, "closed") == Some(1.0)
    });
    wait_some("/ready is well", DEADLINE, || {
        (get(&address, "/ready").code == 200).then_some(())
    });
    project.wait_for_entries("done", 20, DEADLINE);
    daemon.stop();
}

/// What goes to a retry topic counts as retried later there where it came from, and as done where it ran at last; while
/// it waits nothing is wrong.
#[test]
fn a_durable_retry_counts_in_both_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("later", 1);
    let project = Project::new(kafka).sections(&format!("{SECTIONS}\nstallAfter = \"1s\""));
    project.handler(
        "later.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if ctx.attempt == 1 then error("not yet") end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("later", &topic.name, "later")
            + "ordering = \"none\"\nonError = \"skip\"\n"
            + "retry = { topics = [\"3s\"], allowAutoTopicCreation = true }\n"),
    );
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    project.wait_for_entries("try", 4, DEADLINE);

    let outcome = |outcome| [("listener", "later"), ("outcome", outcome)];
    let name = "moontide_listener_outcomes_total";
    scrape_when(&address, "they wait", |samples| {
        samples.get(name, &outcome("retried_later")) == Some(4.0)
    });
    project.wait_for_entries("done", 4, DEADLINE);
    let samples = scrape_when(&address, "they are done", |samples| {
        samples.get(name, &outcome("done")) == Some(4.0)
    });
    let finished = |topic| {
        samples
            .all(
                "moontide_messages_finished_total",
                &[("topic", topic), ("outcome", "done")],
            )
            .sum::<f64>()
    };
    assert!(finished(&topic.name) < 0.5, "none was done there");
    check(
        &samples,
        "moontide_handler_retries_total",
        &[("listener", "later")],
        4.0,
    );
    check(
        &samples,
        "moontide_handler_failures_total",
        &[("listener", "later")],
        4.0,
    );
    assert_eq!(get(&address, "/ready").code, 200);
    daemon.stop();
}

/// What somebody has paused stands still, and nothing is wrong with that.
#[test]
fn a_paused_listener_shows_and_is_no_reason_not_to_be_ready() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("paused", 1);
    let project = Project::new(kafka).sections(&format!("{SECTIONS}\nstallAfter = \"500ms\""));
    project.handler("quick.lua", "return function() end");
    project.config(&from_beginning("quick", &topic.name, "quick"));
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    let config = project.path("config.toml");
    assert!(
        moontide(&["pause", "quick", "--config"], &config)
            .status
            .success()
    );
    topic.produce(numbered(0..5, 0));

    let of = [("topic", topic.name.as_str())];
    let samples = scrape_when(
        &address,
        "it stands still for longer than it may",
        |samples| samples.get("moontide_standstill_seconds", &of) > Some(1.0),
    );

    check(
        &samples,
        "moontide_listener_paused",
        &[("listener", "quick")],
        1.0,
    );
    check(&samples, "moontide_partition_paused", &of, 1.0);
    check(&samples, "moontide_messages_in_flight", &of, 5.0);
    assert_eq!(get(&address, "/ready").code, 200);
    assert!(
        moontide(&["resume", "quick", "--config"], &config)
            .status
            .success()
    );
    scrape_when(&address, "it goes on", |samples| {
        samples.get("moontide_position_offset", &of) == Some(5.0)
    });
    daemon.stop();
}
