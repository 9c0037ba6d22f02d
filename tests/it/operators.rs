//! What an operator meets: exit codes, a second daemon, how much is logged, the status on a terminal.

use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// 1 failed, 2 usage, 78 bad config; 0, 3 and 65 are shown where they come from.
#[test]
fn commands_end_with_the_codes_of_the_manual() {
    let folder = tempfile::tempdir().unwrap();
    let config = folder.path().join("config.toml");
    std::fs::create_dir(folder.path().join("handlers")).unwrap();
    std::fs::write(
        folder.path().join("handlers/h.lua"),
        "return function() end\n",
    )
    .unwrap();
    std::fs::write(
        &config,
        "[kafkaConfig]\nbrokers = [\"127.0.0.1:1\"]\n[consumerConfig]\ngroupId = \"g\"\n\
         [[listeners]]\ntopic = \"t\"\nhandler = \"h\"\n",
    )
    .unwrap();
    let code = |arguments: &[&str]| moontide(arguments, &config).status.code();
    assert_eq!(code(&["check", "--config"]), Some(0));
    // Nobody is there to answer.
    assert_eq!(code(&["status", "--config"]), Some(1));
    assert_eq!(code(&["reload", "--config"]), Some(1));
    for wrong in [
        &["check", "--no-such-option"][..],
        &["no-such-command"],
        &["run", "--config", "one", "--config"],
    ] {
        assert_eq!(code(wrong), Some(2), "{wrong:?}");
    }
    std::fs::write(&config, "[kafkaConfig]\nbroker = []\n").unwrap();
    for command in ["check", "run"] {
        assert_eq!(code(&[command, "--config"]), Some(78), "{command}");
    }
}

/// Two daemons with one socket: the second is refused, and the first does not notice.
#[test]
fn a_second_daemon_with_the_same_directory_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("only", 1);
    let project = recording(kafka, &topic.name);
    let first = Daemon::join(&project);

    let mut second = Daemon::spawn(&project);

    assert_eq!(second.exit_code(DEADLINE), 1);
    let said = second.log_text();
    assert!(
        said.contains(project.path(".").to_str().unwrap()),
        "which directory: {said}"
    );
    assert_eq!(first.status()["pid"], first.pid());
    topic.produce(numbered(0..1, 0));
    project.wait_for_entries("done", 1, DEADLINE);
    first.stop();
}

/// Whenever it comes, SIGTERM ends a start, in success or by itself, and never leaves a daemon behind.
#[test]
fn sigterm_at_any_moment_of_the_start_ends_it() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("early", 1);
    for step in 0..20 {
        let project = recording(kafka, &topic.name);
        let mut daemon = Daemon::spawn(&project);
        // Moments all over the start, which takes some hundred milliseconds.
        std::thread::sleep(Duration::from_millis(step * step));
        daemon.term();
        let code = daemon.exit_code(Duration::from_secs(20));
        assert!(
            code == 0 || code == 128 + libc::SIGTERM,
            "after {} ms: {code}",
            step * step
        );
    }
}

/// A daemon that was killed leaves its socket behind, and the next one starts all the same.
#[test]
fn what_a_killed_daemon_leaves_behind_hinders_nobody() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("left", 1);
    let project = recording(kafka, &topic.name);
    let mut first = Daemon::start(&project);
    first.kill();
    let second = Daemon::start(&project);
    assert_eq!(second.status()["pid"], second.pid());
    second.stop();
}

/// Nothing is logged per message above debug; what is above it does not grow with the load.
#[test]
fn a_thousand_messages_leave_no_line_of_their_own() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("quiet", 2);
    let project = recording(kafka, &topic.name);
    let mut daemon = Daemon::join(&project);
    let before = daemon.lines().len();

    for round in 0..10 {
        let first = round * 50;
        topic.produce(
            [
                numbered(first..first + 50, 0),
                numbered(first..first + 50, 1),
            ]
            .concat(),
        );
    }

    project.wait_for_entries("done", 1000, DEADLINE);
    daemon.wait_for("all is committed", |_| {
        (0..2).all(|partition| kafka.committed(&project.group, &topic.name, partition) == Some(500))
    });
    let new = daemon.lines().split_off(before);
    assert!(new.is_empty(), "{new:?}");
    daemon.stop();
}

/// A level that a reload changes is in force.
#[test]
fn the_level_of_the_log_follows_the_config() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("level", 1);
    let project = Project::new(kafka).sections("[log]\nformat = \"json\"\nlevel = \"info\"");
    project.handler(
        "orders.lua",
        "local record = require \"record\"\n\
         return function(message, ctx) ctx.logger.debug(\"said \" .. message.value) record.line(\"done\", message, ctx) end\n",
    );
    project.config(&from_beginning("orders", &topic.name, "orders"));
    topic.produce([Message::value("before")]);
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);

    let text = project.config_text(&from_beginning("orders", &topic.name, "orders"));
    project.write("config.toml", &text.replace("\"info\"", "\"debug\""));
    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce([Message::value("after")]);

    daemon.wait_line("what was said", |line| line.is("said after"));
    assert_eq!(daemon.count(|line| line.is("said before")), 0);
    daemon.stop();
}

/// `moontide status` for people: which message blocks which partition, and why.
#[test]
fn the_status_for_people_names_the_blocked_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("blocked", 2);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        "return function(message) if message.value == \"1\" then error(\"no such customer\") end end\n",
    );
    project.config(&from_beginning("orders", &topic.name, "orders"));
    topic.produce([numbered(0..5, 0), numbered(10..15, 1)].concat());
    let mut daemon = Daemon::start(&project);

    let shown = daemon.wait_some("the status shows it", |_| {
        let output = moontide(&["status", "--config"], &project.path("config.toml"));
        let text = String::from_utf8(output.stdout).unwrap();
        (output.status.code() == Some(0) && text.contains("no such customer")).then_some(text)
    });

    for word in [topic.name.as_str(), "orders", &project.group] {
        assert!(shown.contains(word), "`{word}`: {shown}");
    }
    let line = shown.lines().find(|line| line.contains("]@1 "));
    assert!(line.is_some(), "its offset: {shown}");
    daemon.stop();
}

/// A handler that fails for ever, on every partition, behind a long backlog: memory stays where it is.
#[test]
fn failing_for_ever_takes_no_more_memory() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("failing", 4);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        "return function(message, ctx) error({ reason = (\"x\"):rep(2000) .. ctx.attempt }) end\n",
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "retry = { initialDelay = 1, maxDelay = 2, multiplier = 1.0 }\n"),
    );
    topic.produce((0..40_000).map(|number| Message::value([b'x'; 200]).partition(number % 4)));
    let mut daemon = Daemon::join(&project);
    let attempts = |daemon: &Daemon| -> Option<u64> {
        let status = daemon.try_status()?;
        status["consumers"][0]["partitions"][0]["blocked"]["attempt"].as_u64()
    };
    daemon.wait_for("a thousand attempts", |daemon| {
        attempts(daemon) > Some(1000)
    });
    let before = daemon.memory();

    daemon.wait_for("three thousand more", |daemon| {
        attempts(daemon) > Some(4000)
    });

    let after = daemon.memory();
    assert!(after < before + (16 << 20), "{before} bytes, then {after}");
    // Half of the lines would be one for every attempt but the first few.
    assert!(daemon.lines().len() < 1000, "the log is limited");
    daemon.stop();
}

/// A broker that swallows everything: no processor time is burnt, and SIGTERM ends the daemon in time.
#[test]
fn a_broker_that_is_frozen_is_no_reason_to_spin_or_to_hang() {
    let Some(kafka) = kafka::Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("frozen", 2);
    // What the first member sent before it gave up reaches the broker when that thaws: the group may then wait for a
    // member that is gone, for so long.
    let project = Project::new(&kafka)
        .consumer("rebalanceTimeout = \"10s\"\nsessionTimeout = \"6s\"")
        .sections("[daemon]\ndrainDeadline = \"2s\"");
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + "runConfig = { autoCommitInterval = \"1h\" }\n"),
    );
    topic.produce([numbered(0..50, 0), numbered(0..50, 1)].concat());
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 100, DEADLINE);

    kafka.freeze();
    let before = daemon.cpu_time();
    stays("it lives", Duration::from_secs(4), || !daemon.ended());
    let used = daemon.cpu_time().saturating_sub(before);
    assert!(
        used < Duration::from_secs(1),
        "{used:?} of processor time in four seconds"
    );
    daemon.term();
    // The drain, the last commit, and leaving a group that does not answer.
    daemon.exit_code(Duration::from_secs(2 + 15 + 10));

    kafka.thaw();
    let daemon = Daemon::start(&project);
    topic.produce(numbered(100..101, 0));
    let mut daemon = daemon;
    daemon.wait_for("it goes on", |_| {
        project.values_of("done").contains(&"100".into())
    });
    daemon.stop();
}

/// Another process shortens the journal under a running daemon, which would be a SIGBUS.
#[test]
fn a_journal_that_is_shortened_is_an_error_and_no_end() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("shortened", 1);
    let project = recording(kafka, &topic.name);
    let mut daemon = Daemon::start(&project);
    topic.produce(numbered(0..1, 0));
    project.wait_for_entries("done", 1, DEADLINE);

    std::fs::write(project.path("running"), "").unwrap();
    topic.produce(numbered(1..100, 0));
    project.wait_for_entries("done", 100, DEADLINE);
    let line = daemon.wait_line("it is told", |line| {
        line.mentions("another process has shortened the journal")
    });
    assert!(line.is_error());
    daemon.stop();
}

/// A FIFO in the place of the journal holds up neither the start nor the stop.
#[test]
fn a_fifo_in_the_state_directory_holds_up_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("fifo", 1);
    let project = recording(kafka, &topic.name);
    let made = std::process::Command::new("mkfifo")
        .args([project.path("running"), project.path("topics-default.json")])
        .status();
    assert!(made.unwrap().success());
    let mut daemon = Daemon::start(&project);
    let line = daemon.wait_line("the ids are told", |line| {
        line.mentions("the ids of topics are not known")
    });
    assert!(
        line.field("error")
            .contains("it is a named pipe, not a file"),
        "{line:?}"
    );
    let line = daemon.wait_line("it is told", |line| line.mentions("no journal"));
    assert!(
        line.field("error")
            .contains("it is a named pipe, not a file"),
        "{line:?}"
    );
    topic.produce(numbered(0..1, 0));
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// A directory in which everybody may write is refused, with the command that mends it.
#[test]
fn a_directory_that_is_open_to_all_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("open", 1);
    let project = recording(kafka, &topic.name);
    let mode = |mode| {
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(mode);
        std::fs::set_permissions(project.path("."), permissions).unwrap();
    };
    mode(0o777);
    let mut daemon = Daemon::spawn(&project);
    assert_eq!(daemon.exit_code(DEADLINE), 1);
    let text = daemon.log_text();
    assert!(text.contains("has mode 0777"), "{text}");
    assert!(text.contains("`chmod 700 "), "{text}");
    mode(0o700);
    Daemon::start(&project).stop();
}

/// A handlers folder that goes away, as in the midst of a deployment: the old bundle goes on until there is a new one.
#[test]
fn a_folder_that_goes_and_comes_back_is_seen() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("folder", 1);
    let project = recording(kafka, &topic.name);
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);

    std::fs::rename(project.path("handlers"), project.path("away")).unwrap();
    daemon.wait_line("it is missed", |line| {
        line.is_error() && line.mentions("handlers")
    });
    topic.produce(numbered(1..2, 0));
    project.wait_for_entries("done", 2, DEADLINE);
    project.write("away/orders.lua", &RECORDING.replace("\"done\"", "\"new\""));
    std::fs::rename(project.path("away"), project.path("handlers")).unwrap();

    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    topic.produce(numbered(2..3, 0));
    project.wait_for_entries("new", 1, DEADLINE);
    // The folder that came back is watched too.
    let seen = daemon.lines().len();
    project.handler("orders.lua", &RECORDING.replace("\"done\"", "\"newer\""));
    daemon.wait_line_after(seen, "reloaded", |line| line.is("reloaded"));
    topic.produce(numbered(3..4, 0));
    project.wait_for_entries("newer", 1, DEADLINE);
    daemon.stop();
}

fn recording(kafka: &kafka::Kafka, topic: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", topic, "orders.handle"));
    project
}
