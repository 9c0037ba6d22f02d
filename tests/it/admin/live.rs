//! The admin client beside the daemon's life: start, timers, reloads, brokers that are away, calls that are given up.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use super::noted;
use crate::places::{AUTHORIZER, acl};
use crate::sends::sending;
use crate::support::client::numbered;
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::DEADLINE;

fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

/// The topics that a daemon needs may be created by its `start`, before its consumers ask for them.
#[test]
fn create_topics_in_start_and_list_topics_in_a_timer() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = unique("started");
    let project =
        Project::new(kafka).sections("[kafka.admin]\nallow = [\"createTopics\", \"listTopics\"]");
    let lua = r#"
        local tide = require "tide"
        tide.every("100ms", function()
          tide.app.setAttr("seen", #tide.kafka.admin.listTopics() > 0)
        end)
        return {
          start = function()
            tide.kafka.admin.createTopics{ topics = { { topic = "@TOPIC@", numPartitions = 2 } } }
          end,
        }
        "#;
    project.handler("init.lua", &lua.replace("@TOPIC@", &topic));
    project.handler(
        "seen.lua",
        "local record, tide = require \"record\", require \"tide\"\nreturn function(message, ctx)\n\
         while not tide.app.getAttr(\"seen\") do tide.sleep(10) end\nrecord.line(\"done\", message, ctx)\nend\n",
    );
    project.config(&from_beginning("seen", &topic, "seen"));
    let daemon = Daemon::start(&project);
    assert_eq!(kafka.partitions(&topic), Some(2));
    kafka.existing_topic(&topic).produce(numbered(0..1, 1));
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// Brokers of the admin client that are away keep nothing from starting or stopping.
#[test]
fn a_client_whose_brokers_are_away_raises_and_the_daemon_starts_and_stops() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("present", 1);
    let address = nobody();
    let consumer = format!("brokers = [\"{}\"]", kafka.bootstrap());
    let project = Project::at(address.clone()).consumer(&consumer);
    project.handler(
        "init.lua",
        r#"
        local tide = require "tide"
        return { start = function()
          local ok, err = pcall(tide.kafka.admin.listTopics, { timeout = "700ms" })
          tide.app.setAttr("start", err.kind)
        end }
        "#,
    );
    project.handler(
        "away.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          local ok, err = pcall(tide.kafka.admin.describeCluster, { timeout = "1500ms" })
          record.line("done", message, ctx, tide.app.getAttr("start") .. " " .. err.kind .. " " .. err.message)
          tide.kafka.admin.listGroups{ timeout = "5m" }
        end
        "#,
    );
    project.config(&from_beginning("away", &topic.name, "away"));
    topic.produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert!(
        done[0].extra.starts_with("unreachable unreachable "),
        "{done:?}"
    );
    for part in [&address[..], "within 1500ms", "refused"] {
        assert!(done[0].extra.contains(part), "{done:?}");
    }
    let jobs = daemon.stop_counted();
    assert_eq!((jobs.open, jobs.lost, jobs.dropped), (0, 0, 0), "{jobs:?}");
}

/// The broker stands still: the call times out, a longer one is given up with its message, and a later one is answered.
#[test]
fn timeout_of_a_call_to_a_frozen_broker() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, source, _) = sending(
        &kafka,
        "limits = { timeout = \"8s\" }\n",
        "",
        1,
        r#"
        if message.value == "0" and ctx.attempt == 1 then
          assert(#tide.kafka.admin.listTopics() > 0)
          record.line("frozen", message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          for _, name in ipairs{ "describeCluster", "listTopics", "listGroups" } do
            local ok, err = pcall(tide.kafka.admin[name], { timeout = "500ms" })
            assert(not ok and tide.error.is(err, "timeout"), tostring(err))
            record.line("late", message, ctx, err.message)
          end
          tide.kafka.admin.describeCluster{ timeout = "2m" }
        end
        record.line("done", message, ctx, #tide.kafka.admin.describeCluster().brokers)
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    kafka.freeze();
    project.open_gate();
    project.wait_for_entries("late", 3, DEADLINE);
    kafka.thaw();
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "1");
    daemon.stop();
}

/// A call that no answer ends does not hold up a stop.
#[test]
fn a_stop_gives_up_what_waits() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("stopped", 1);
    let consumer = format!("brokers = [\"{}\"]", kafka.bootstrap());
    let project = Project::new(&own)
        .consumer(&consumer)
        .sections("[daemon]\ndrainDeadline = \"1s\"\n");
    project.handler(
        "stopped.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          local admin = tide.kafka.admin
          assert(#admin.describeCluster().brokers == 1)
          record.line("frozen", message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          local function waiting(name) return function() admin[name]{ timeout = "2m" } end end
          tide.parallel{ waiting "describeCluster", waiting "listGroups", waiting "listTopics", function()
            record.line("waits", message, ctx)
          end }
        end
        "#,
    );
    project.config(&from_beginning("stopped", &topic.name, "stopped"));
    topic.produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("frozen", 1, DEADLINE);
    own.freeze();
    project.open_gate();
    project.wait_for_entries("waits", 1, DEADLINE);
    let since = Instant::now();
    let jobs = daemon.stop_counted();
    assert!(
        since.elapsed() < Duration::from_secs(30),
        "{:?}",
        since.elapsed()
    );
    assert_eq!((jobs.answered, jobs.told), (1, 3), "{jobs:?}");
    assert!(jobs.ended_in_order(), "{jobs:?}");
    own.thaw();
}

/// `allow` is live: the call after the reload has the new rights. `check` shows them.
#[test]
fn allow_is_live() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        local ok, err = pcall(tide.kafka.admin.createTopics, { topics = { { topic = out .. ".new" } } })
        record.line("done", message, ctx, ok and tostring(err) or err.kind)
        "#;
    let sections = "[kafka.admin]\nallow = [\"listTopics\"]\n[daemon]\nwatch = false\n";
    let (project, source, out) = sending(kafka, "", sections, 1, body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "refused");

    let config = project.path("config.toml");
    let text = std::fs::read_to_string(&config).unwrap();
    let text = text.replace("\"listTopics\"", "\"listTopics\", \"createTopics\"");
    project.write("config.toml", &text);
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
    assert!(
        printed.contains("changed: `kafka.admin.allow`"),
        "{printed}"
    );
    let checked = moontide(&["check", "--config"], &config);
    let checked = String::from_utf8_lossy(&checked.stdout).into_owned();
    let line = "admin: handlers may call listTopics, createTopics";
    assert!(checked.contains(line), "{checked}");
    kafka.existing_topic(&source).produce(numbered(1..2, 0));
    let done = project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(done[1].extra, "true");
    assert!(kafka.partitions(&format!("{out}.new")).is_some());
    daemon.stop();
}

/// librdkafka may take long to make a client. The call ends in time, and nothing else waits for it.
#[test]
fn a_client_that_is_being_made_holds_up_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "ordering = \"none\"\n",
        "",
        1,
        r#"
        if message.value == "0" then
          local ok, err = pcall(tide.kafka.admin.listTopics, { timeout = "300ms" })
          assert(not ok and tide.error.is(err, "timeout"), tostring(err))
          record.line("late", message, ctx, tostring(err))
        else
          tide.kafka.send{ topic = out, value = "v" }
          record.line("sent", message, ctx)
        end
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..2, 0));
    let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_FAILPOINT", "admin-make=1:hang")]);
    daemon.wait_line("ready", |line| line.is("ready"));
    let late = project.wait_for_entries("late", 1, DEADLINE);
    assert!(late[0].extra.contains("no answer within 300ms"), "{late:?}");
    project.wait_for_entries("sent", 1, DEADLINE);
    assert_eq!(kafka.read(&out, 1, 1).len(), 1);
}

/// What the brokers do not allow is `refused`, as what the configuration does not.
#[test]
fn a_missing_right_is_refused() {
    let Some(kafka) = Kafka::start_own_with(AUTHORIZER) else {
        return;
    };
    let guarded = kafka.topic("guarded", 1).name;
    let describe = ["--allow-principal", "User:*", "--operation", "describe"];
    acl(
        &kafka,
        "--add",
        &[&describe[..], &["--topic", &guarded]].concat(),
    );
    let body = r#"
        local guarded = "@GUARDED@"
        local ok, err
        -- The broker hears of the rule after the tool that made it.
        repeat
          tide.sleep(20)
          ok, err = pcall(admin.describeConfigs, { resources = { { type = "topic", name = guarded } } })
        until not ok
        note(err.kind .. " " .. err.message)
        ok, err = pcall(admin.deleteTopicRecords,
          { topic = guarded, partitions = { { partition = 0, offset = -1 } } })
        note(err.kind .. " " .. err.results[1].kind)
        note(#admin.fetchTopicOffsets(guarded))
        "#;
    let sections = "[kafka.admin]\nallow = [\"describeConfigs\", \"deleteTopicRecords\", \"fetchTopicOffsets\"]\n";
    let noted = noted(&kafka, sections, 1, &body.replace("@GUARDED@", &guarded));
    let refused = format!("refused `tide.kafka.admin.describeConfigs`: topic `{guarded}`");
    assert!(noted.notes[0].starts_with(&refused), "{:?}", noted.notes);
    assert_eq!(noted.notes[1..], ["refused refused", "1"]);
    noted.daemon.stop();
}
