//! Listeners that commit automatically and become manual ones by a reload, and the other way round.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for};

/// Handlers of a listener that commits automatically, and of the manual one that a reload makes of it.
const TURNED: &str = r#"
    local record = require "record"
    local tide = require "tide"
    return {
      quick = function(message, ctx) record.line("quick", message, ctx) end,
      automatic = function(message, ctx)
        record.line("begun", message, ctx)
        local file
        repeat
          tide.sleep(10)
          file = io.open("GO")
        until file
        file:close()
        END
      end,
      manual = function(message, ctx)
        ctx.commitOffsets(message.offset + 1)
        record.line("asked", message, ctx)
      end,
    }
    "#;

/// A project with these handlers, whose waiting calls end by `end` when the file exists.
fn turned(kafka: &Kafka, end: &str) -> (Project, PathBuf) {
    let project = Project::new(kafka);
    let go = project.path("go");
    let handlers = TURNED
        .replace("GO", &go.to_string_lossy())
        .replace("END", end);
    project.handler("orders.lua", &handlers);
    (project, go)
}

/// `how` is "automatic" or "manual".
fn turned_listener(name: &str, topic: &str, handler: &str, how: &str, ordering: &str) -> String {
    from_beginning(name, topic, &format!("orders.{handler}"))
        + &format!(
            "ordering = \"{ordering}\"\nrunConfig = {{ autoCommit = {} }}\n",
            how == "automatic"
        )
}

fn reload_with(project: &Project, daemon: &Daemon, listeners: &str) {
    project.write("new.toml", &project.config_text(listeners));
    fs::rename(project.path("new.toml"), project.path("config.toml")).unwrap();
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");
}

/// Whose call waits while it becomes a manual one: that the call ends is all that the listener as it was asked for.
#[test]
fn a_call_that_outlives_its_automatic_listener_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    for (ordering, end) in [
        ("none", ""),
        ("key", ""),
        ("partition", ""),
        ("none", "ctx.skip('not wanted')"),
    ] {
        let topic = kafka.topic("outlives", 1);
        let (project, go) = turned(kafka, end);
        let listener = |how: &str| turned_listener("orders", &topic.name, how, how, ordering);
        project.config(&listener("automatic"));
        let mut daemon = Daemon::join(&project);
        topic.produce(numbered(0..1, 0));
        project.wait_for_entries("begun", 1, DEADLINE);

        reload_with(&project, &daemon, &listener("manual"));
        fs::write(&go, "").unwrap();

        daemon.wait_for("its message is committed", |_| {
            kafka.committed(&project.group, &topic.name, 0) == Some(1)
        });
        topic.produce(numbered(1..3, 0));
        project.wait_for_entries("asked", 2, DEADLINE);
        assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
        daemon.stop();
    }
}

/// One listener of the topic is done with a message, another waits, and the first becomes a manual one: it never sees that
/// message again. What it has done with counts for itself alone, also where the other becomes an automatic one with it.
#[test]
fn what_a_listener_did_before_it_became_a_manual_one_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    for (ordering, second) in [
        ("none", "automatic"),
        ("key", "automatic"),
        ("partition", "automatic"),
        ("none", "manual"),
        ("partition", "manual"),
    ] {
        let topic = kafka.topic("did-before", 1);
        let (project, go) = turned(kafka, "");
        let listeners = |handler: &str, how: &str, second: &str| {
            let of =
                |name, handler, how| turned_listener(name, &topic.name, handler, how, ordering);
            of("first", handler, how) + &of("second", "automatic", second)
        };
        project.config(&listeners("quick", "automatic", second));
        let mut daemon = Daemon::join(&project);
        topic.produce(numbered(0..1, 0));
        project.wait_for_entries("quick", 1, DEADLINE);
        project.wait_for_entries("begun", 1, DEADLINE);

        reload_with(
            &project,
            &daemon,
            &listeners("manual", "manual", "automatic"),
        );
        let committed = || kafka.committed(&project.group, &topic.name, 0);
        stays(
            "nothing is committed while one waits",
            Duration::from_secs(1),
            || committed().unwrap_or(0) == 0,
        );
        fs::write(&go, "").unwrap();
        daemon.wait_for("its message is committed", |_| committed() == Some(1));
        topic.produce(numbered(1..3, 0));
        project.wait_for_entries("asked", 2, DEADLINE);
        daemon.wait_for("and those that follow", |_| committed() == Some(3));
        daemon.stop();
    }
}

/// Two listeners of a topic: the first one of partition 0 waits for `HOLD`, all of the second one for `GO`.
const AHEAD: &str = r#"
    local record = require "record"
    local tide = require "tide"
    local function wait(path)
      local file
      repeat
        tide.sleep(10)
        file = io.open(path)
      until file
      file:close()
    end
    return {
      automatic = function(message, ctx)
        if message.partition == 0 then
          record.line("held", message, ctx)
          wait("HOLD")
        end
      end,
      manual = function(message, ctx)
        record.line("asks", message, ctx)
        ctx.commitOffsets(message.offset + 1)
        record.line("asked", message, ctx)
      end,
      last = function(message, ctx) wait("GO") end,
    }
    "#;

/// One worker has a bundle while another one waits for a call of the last but one: what its handlers ask for meanwhile is heard
/// when the bundle is in force everywhere, and answered then.
#[test]
fn what_is_asked_before_a_bundle_is_in_force_everywhere_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("ahead", 8);
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    let (hold, go) = (project.path("hold"), project.path("go"));
    let handlers = AHEAD
        .replace("HOLD", &hold.to_string_lossy())
        .replace("GO", &go.to_string_lossy());
    project.handler("orders.lua", &handlers);
    let listeners = |how: &str| {
        let of = |name, handler, how| {
            turned_listener(name, &topic.name, handler, how, "none") + "maxInFlight = 1000\n"
        };
        of("first", how, how) + &of("last", "last", "automatic")
    };
    project.config(&listeners("automatic"));
    let mut daemon = Daemon::join(&project);
    topic.produce(numbered(0..1, 0));
    project.wait_for_entries("held", 1, DEADLINE);
    project.replace_handler("orders.lua", &format!("{handlers}-- again\n"));
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");

    project.write("new.toml", &project.config_text(&listeners("manual")));
    fs::rename(project.path("new.toml"), project.path("config.toml")).unwrap();
    let mut count = 0;
    wait_for("a worker has the bundle", DEADLINE, || {
        for partition in 1..8 {
            topic.produce(numbered(count..count + 1, partition));
        }
        count += 1;
        !project.entries_of("asks").is_empty()
    });
    let has_all = |daemon: &mut Daemon, bundle: &str| {
        daemon.count(|line| line.is("reloaded") && line.field("bundle") == bundle) > 0
    };
    assert!(
        !has_all(&mut daemon, "3"),
        "a call of the first bundle waits"
    );
    assert!(project.entries_of("asked").is_empty());
    fs::write(&hold, "").unwrap();
    fs::write(&go, "").unwrap();

    daemon.wait_for("everything is committed", |_| {
        (1..8).all(|partition| {
            kafka.committed(&project.group, &topic.name, partition) == Some(count as i64)
        })
    });
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
    assert!(has_all(&mut daemon, "3"));
    assert_eq!(
        project.entries_of("asks").len(),
        project.entries_of("asked").len()
    );
    daemon.stop();
}
