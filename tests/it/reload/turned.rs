//! Listeners that commit automatically and become manual ones by a reload, and the other way round.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use crate::support::client::{Topic, numbered};
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

/// Changes a file, and waits until the change is in force.
fn reload(daemon: &mut Daemon, change: impl FnOnce()) {
    let reloaded = |daemon: &Daemon| daemon.count(|line| line.is("reloaded"));
    let before = reloaded(daemon);
    change();
    daemon.wait_for("it has reloaded", |daemon| reloaded(daemon) > before);
}

fn replace_config(project: &Project, listeners: &str) {
    project.write("new.toml", &project.config_text(listeners));
    fs::rename(project.path("new.toml"), project.path("config.toml")).unwrap();
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

        reload(&mut daemon, || {
            replace_config(&project, &listener("manual"));
        });
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

        let turned = listeners("manual", "manual", "automatic");
        reload(&mut daemon, || replace_config(&project, &turned));
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

/// A call of partition 0 waits for a file; the others do what the test is about.
const AHEAD: &str = r#"
    local record = require "record"
    local tide = require "tide"
    local function wait(name)
      local file
      repeat
        tide.sleep(10)
        file = io.open("FOLDER/" .. name)
      until file
      file:close()
    end
    local function hold(message, ctx)
      if message.partition == 0 then
        record.line("held", message, ctx)
        wait("hold")
      else
        record.line("passed", message, ctx)
      end
    end
    return {
      hold = hold,
      asks = function(message, ctx)
        record.line("asks", message, ctx)
        ctx.commitOffsets(message.offset + 1)
        record.line("asked", message, ctx)
      end,
      waits = function(message, ctx) wait("go") end,
      second_asks = function(message, ctx)
        hold(message, ctx)
        if message.offset == 0 then wait("go") end
        ctx.commitOffsets(message.offset + 1)
      end,
    }
    "#;

/// Two workers, one of which keeps a call of the first bundle: the second bundle is in force, and a third one can be so in the
/// other worker alone, until `hold` is written.
fn held(kafka: &Kafka, topic: &Topic<'_>, listeners: &str) -> (Project, Daemon) {
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    let handlers = AHEAD.replace("FOLDER", &project.path(".").to_string_lossy());
    project.handler("orders.lua", &handlers);
    project.config(listeners);
    let mut daemon = Daemon::join(&project);
    topic.produce(numbered(0..1, 0));
    project.wait_for_entries("held", 1, DEADLINE);
    reload(&mut daemon, || {
        project.replace_handler("orders.lua", &format!("{handlers}-- again\n"));
    });
    (project, daemon)
}

/// What handlers ask for under a bundle that is not in force everywhere is heard when it is, and answered then.
#[test]
fn what_is_asked_before_a_bundle_is_in_force_everywhere_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("ahead", 8);
    let listeners = |handler: &str, how: &str| {
        let of = |name, handler, how| {
            turned_listener(name, &topic.name, handler, how, "none") + "maxInFlight = 1000\n"
        };
        of("first", handler, how) + &of("last", "waits", "automatic")
    };
    let (project, mut daemon) = held(kafka, &topic, &listeners("hold", "automatic"));
    let mut count = 0;
    let mut produce = || {
        for partition in 1..8 {
            topic.produce(numbered(count..count + 1, partition));
        }
        count += 1;
    };
    // What is under way is not begun anew.
    produce();
    project.wait_for_entries("passed", 7, DEADLINE);
    replace_config(&project, &listeners("asks", "manual"));
    wait_for("a worker has the bundle", DEADLINE, || {
        produce();
        !project.entries_of("asks").is_empty()
    });
    stays("nobody is answered", Duration::from_millis(500), || {
        project.entries_of("asked").is_empty()
    });
    project.write("hold", "");
    project.write("go", "");

    let committed = |partition| kafka.committed(&project.group, &topic.name, partition);
    daemon.wait_for("everything is committed", |_| {
        committed(0) == Some(1) && (1..8).all(|one| committed(one) == Some(count as i64))
    });
    daemon.wait_for("all are answered", |_| {
        project.entries_of("asks").len() == project.entries_of("asked").len()
    });
    daemon.stop();
}

/// While one worker has other lanes for a topic than its consumer, nothing of it is committed too far.
#[test]
fn an_ordering_that_is_not_in_force_everywhere_commits_nothing_unfinished() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("other-lanes", 32);
    let listeners = |ordering: &str| {
        turned_listener("orders", &topic.name, "second_asks", "manual", ordering)
            + "maxInFlight = 1000\n"
    };
    let (project, mut daemon) = held(kafka, &topic, &listeners("partition"));
    let committed = |partition| kafka.committed(&project.group, &topic.name, partition);
    replace_config(&project, &listeners("none"));
    // Some are there before a worker has the new bundle, and most of them after.
    for partition in 1..32 {
        topic.produce(numbered(0..2, partition));
        stays(
            "its first message waits",
            Duration::from_millis(100),
            || committed(partition).unwrap_or(0) == 0,
        );
    }
    assert!((1..32).all(|partition| committed(partition).unwrap_or(0) == 0));
    project.write("hold", "");
    project.write("go", "");
    daemon.wait_for("everything is committed", |_| {
        committed(0) == Some(1) && (1..32).all(|partition| committed(partition) == Some(2))
    });
    daemon.stop();
}
