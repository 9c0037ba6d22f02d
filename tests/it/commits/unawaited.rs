//! `ctx.commitOffsets(offset, { wait = false })`: together, exactly, also when the partition goes, and never silently.

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::client::numbered;
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{Samples, address, scrape};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

use super::MANUAL;

const HTTP: &str = "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"";

/// Asks in every message, and records each thousandth.
const MANY: &str = r#"
local record = require "record"
local options = { wait = false }
local count = 0
return function(message, ctx)
  ctx.commitOffsets(message.offset + 1, options)
  count = count + 1
  if count % 1000 == 0 then record.line("thousand", message, ctx) end
end
"#;

/// Asks once the gate is open, and has no more to do.
const GATED: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("begin", message, ctx)
  while not io.open("gate") do tide.sleep(10) end
  ctx.commitOffsets(message.offset + 1, { wait = false })
  record.line("done", message, ctx)
end
"#;

fn is_unheard(line: &Line) -> bool {
    line.is("the offset that ctx.commitOffsets requested is not committed")
}

fn commits(samples: &Samples, result: &str) -> u64 {
    let labels = [("consumer", "default"), ("result", result)];
    samples
        .get("moontide_commits_total", &labels)
        .unwrap_or(0.0) as u64
}

#[test]
fn a_thousand_commits_are_a_few() {
    let Some(kafka) = kafka::shared() else { return };
    for ordering in ["", "ordering = \"key\"\n", "ordering = \"none\"\n"] {
        let topic = kafka.topic("few", 2);
        let project = Project::new(kafka).sections(HTTP);
        project.handler("many.lua", MANY);
        project.config(&(from_beginning("many", &topic.name, "many") + ordering + MANUAL));
        topic.produce([numbered(0..500, 0), numbered(0..500, 1)].concat());

        let mut daemon = Daemon::start(&project);

        let address = address(&mut daemon);
        daemon.wait_for("all is committed", |_| {
            (0..2).all(|number| kafka.committed(&project.group, &topic.name, number) == Some(500))
        });
        let samples = scrape(&address);
        let count = commits(&samples, "ok");
        assert!((1..250).contains(&count), "{ordering}: {count} commits");
        assert_eq!(commits(&samples, "error"), 0);
        assert_eq!(daemon.count(is_unheard), 0);
        daemon.stop();
    }
}

#[test]
fn a_stop_commits_exactly_what_was_asked_for() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("exactly", 1);
    let project = Project::new(kafka);
    project.handler(
        "some.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          if message.offset < 7 then ctx.commitOffsets(message.offset + 1, { wait = false }) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("some", &topic.name, "some") + MANUAL));
    topic.produce(numbered(0..10, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 10, DEADLINE);

    daemon.stop();

    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(7));
}

/// What is asked for in the last moment of a revocation is committed before the partition goes.
#[test]
fn a_revocation_commits_what_was_asked_for() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("revoked", 2);
    let patient =
        "sessionTimeout = \"10m\"\nrebalanceTimeout = \"10m\"\nheartbeatInterval = \"500ms\"";
    let project = Project::new(kafka).consumer(patient);
    let project = project.sections("[daemon]\ndrainDeadline = \"10m\"");
    project.handler("gated.lua", GATED);
    project.config(&(from_beginning("gated", &topic.name, "gated") + MANUAL));
    topic.produce([numbered(0..1, 0), numbered(0..1, 1)].concat());
    let mut first = Daemon::join(&project);
    project.wait_for_entries("begin", 2, DEADLINE);

    let place = project.another_member();
    let mut second = Daemon::start(&place);
    first.wait_for("it drains", |first| {
        let status = first.try_status().unwrap_or_default();
        status["consumers"][0]["state"] == "rebalancing"
    });
    project.open_gate();

    second.wait_line("assigned", |line| line.is("assigned"));
    project.wait_for_entries("done", 2, DEADLINE);
    first.stop();
    second.stop();
    assert_eq!(project.entries_of("begin").len(), 2, "none came again");
    for number in 0..2 {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, number),
            Some(1)
        );
    }
}

/// Reloads that end a partition's epoch: its topic goes, or is ordered otherwise and goes on.
#[test]
fn a_reload_commits_what_was_asked_for() {
    let Some(kafka) = kafka::shared() else { return };
    for is_removed in [true, false] {
        let (topic, other) = (kafka.topic("reloaded", 1), kafka.topic("stays", 1));
        let project = Project::new(kafka);
        project.handler("gated.lua", GATED);
        let gated = from_beginning("gated", &topic.name, "gated");
        let other = from_beginning("other", &other.name, "gated");
        project.config(&(gated.clone() + MANUAL + &other));
        topic.produce(numbered(0..1, 0));
        let mut daemon = Daemon::join(&project);
        project.wait_for_entries("begin", 1, DEADLINE);

        let gated = gated + MANUAL + "ordering = \"key\"\n";
        project.config(&if is_removed { other } else { gated + &other });
        daemon.hup();
        if !is_removed {
            daemon.wait_line("reloaded", |line| line.is("reloaded"));
        }
        project.open_gate();

        daemon.wait_for("it is committed", |_| {
            kafka.committed(&project.group, &topic.name, 0) == Some(1)
        });
        daemon.stop();
        assert_eq!(
            project.entries_of("begin").len(),
            1,
            "it did not come again"
        );
    }
}

/// Nobody waits to hear that it failed: the log says so, and it is tried again.
#[test]
fn a_commit_that_fails_is_logged_counted_and_tried_again() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("asked", 1, 1).unwrap();
    let refused = RDKafkaRespErr::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED;
    cluster.request_errors(RDKafkaApiKey::OffsetCommit, &[refused; 5]);
    let project = Project::at(cluster.bootstrap_servers()).sections(HTTP);
    project.handler("gated.lua", GATED);
    project.config(&(from_beginning("gated", "asked", "gated") + MANUAL));
    project.open_gate();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .create()
        .unwrap();
    let record = BaseRecord::<str, str>::to("asked").payload("0");
    producer.send(record).unwrap();
    producer.flush(DEADLINE).unwrap();

    let mut daemon = Daemon::start(&project);

    let line = daemon.wait_line("it is said", is_unheard);
    assert_eq!(line.field("level"), "WARN");
    assert_eq!(line.field("consumer"), "default");
    assert_eq!(line.field("topic"), "asked");
    assert_eq!(line.field("partition"), "0");
    assert_eq!(line.field("offset"), "1");
    assert!(
        line.field("error").to_lowercase().contains("authorization"),
        "{}",
        line.field("error")
    );
    let address = address(&mut daemon);
    daemon.wait_for("it is committed in the end", |_| {
        commits(&scrape(&address), "ok") >= 1
    });
    assert_eq!(commits(&scrape(&address), "error"), 5);
    // Three lines in ten seconds are enough.
    assert!(daemon.count(is_unheard) <= 3);
    assert_eq!(project.entries_of("done").len(), 1, "the handler went on");
    daemon.stop();
}

/// One answer is for both.
#[test]
fn what_is_awaited_later_answers_for_what_was_not() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("both", 1);
    let project = Project::new(kafka);
    project.handler(
        "both.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          local nothing = ctx.commitOffsets(message.offset, { wait = false })
          record.line("done", message, ctx, tostring(nothing) .. " " .. ctx.commitOffsets(message.offset + 1))
        end
        "#,
    );
    project.config(&(from_beginning("both", &topic.name, "both") + MANUAL));
    topic.produce(numbered(0..2, 0));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(entries[0].extra, "nil 1");
    assert_eq!(entries[1].extra, "nil 2");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
}

/// An early commit does not wait for the interval of the automatic ones.
#[test]
fn an_automatic_listener_may_ask_and_go_on() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("early", 1);
    let project = Project::new(kafka);
    project.handler(
        "early.lua",
        r#"
        return function(message, ctx)
          if message.value == "1" then ctx.commitOffsets(message.offset + 1, { wait = false }) end
        end
        "#,
    );
    let hourly = "runConfig = { autoCommitInterval = \"1h\" }\n";
    project.config(&(from_beginning("early", &topic.name, "early") + hourly));
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(2)
    });
    daemon.stop();
}

#[test]
fn options_that_are_none_raise_and_say_so() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("options", 1);
    let project = Project::new(kafka);
    project.handler(
        "options.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          for _, bad in ipairs { false, { wiat = false }, { wait = "no" } } do
            local _, problem = pcall(ctx.commitOffsets, message.offset + 1, bad)
            record.line("refused", message, ctx, problem)
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(&(from_beginning("options", &topic.name, "options") + MANUAL));
    topic.produce(numbered(0..1, 0));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    let refused = project.entries_of("refused");
    for (entry, problem) in refused.iter().zip([
        "takes options as a table, as `{ wait = false }`, not a boolean",
        "knows no `wiat`, did you mean `wait`?",
        "is true or false, not a string",
    ]) {
        assert!(entry.extra.ends_with(problem), "{}", entry.extra);
    }
    assert_eq!(refused.len(), 3);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), None);
}
