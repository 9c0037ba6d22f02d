//! The log: its file, lines that are left out or dropped, texts that would forge it; and the signals that concern it.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::time::{Duration, Instant};

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, send_signal};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for};

const FILE: &str = "[log]\nformat = \"json\"\nfile = \"moontide.log\"\nrotation = \"never\"";

/// The window of a limit, a look at its end, and a slow machine.
const IN_TIME: Duration = Duration::from_secs(25);

fn project(kafka: &Kafka, topic: &str, handler: &str) -> Project {
    let project = Project::new(kafka).sections(FILE);
    project.handler("orders.lua", handler);
    project.config(&from_beginning("orders", topic, "orders"));
    project
}

/// logrotate renames the file and sends SIGHUP: the lines of the reload are in the new file already.
#[test]
fn sighup_opens_the_log_file_again_and_then_reloads() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("reopen", 1);
    let project = project(kafka, &topic.name, "return function() end\n");
    let mut daemon = Daemon::start(&project);
    let (file, renamed) = (project.path("moontide.log"), project.path("moontide.log.1"));
    wait_for("the file has the start", DEADLINE, || {
        fs::read_to_string(&file).unwrap().contains("\"ready\"")
    });
    fs::rename(&file, &renamed).unwrap();

    daemon.hup();

    daemon.wait_line("reloaded", |line| line.is("reloaded"));
    wait_for("the new file has the reload", DEADLINE, || {
        fs::read_to_string(&file).is_ok_and(|text| text.contains("\"reloaded\""))
    });
    assert!(!fs::read_to_string(&renamed).unwrap().contains("reloaded"));
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o7777, 0o640);
    daemon.stop();
    assert!(fs::read_to_string(&file).unwrap().contains("\"stopped\""));
}

/// Ctrl-\ and `kill -QUIT`: a drain, a last commit, and the group is left.
#[test]
fn sigquit_stops_as_sigterm_does() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("quit", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..3, 0));
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 3, DEADLINE);

    send_signal(daemon.pid(), libc::SIGQUIT);

    assert_eq!(daemon.exit_code(DEADLINE), 0);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
    assert!(kafka.members(&project.group).is_empty());
}

#[test]
fn sigusr1_and_sigusr2_are_ignored_and_explained() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("user", 1);
    let project = project(kafka, &topic.name, "return function() end\n");
    let mut daemon = Daemon::start(&project);
    for (signal, name) in [(libc::SIGUSR1, "SIGUSR1"), (libc::SIGUSR2, "SIGUSR2")] {
        send_signal(daemon.pid(), signal);
        let line = daemon.wait_line("it is explained", |line| line.field("signal") == name);
        assert!(line.mentions("SIGHUP reloads, SIGTERM stops"), "{line:?}");
    }
    stays("it lives", Duration::from_millis(300), || !daemon.ended());
    daemon.stop();
}

/// A hundred dead letters, and nothing else happens: the log says in time how many lines it left out.
#[test]
fn lines_that_are_left_out_are_counted_at_the_end_of_their_window() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("count", 1);
    let project = Project::new(kafka).sections(FILE);
    project.handler("orders.lua", "return function() error(\"no\") end\n");
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "onError = \"deadLetter\"\nretry = { attempts = 1 }\nbreaker = false\n\
               deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n"),
    );
    let mut daemon = Daemon::join(&project);
    topic.produce(numbered(0..100, 0));
    daemon.wait_line("the first", |line| {
        line.mentions("goes to the dead-letter topic")
    });
    let begun = Instant::now();

    daemon.wait_for("all hundred are in the log", |daemon| {
        let lines = daemon.lines();
        let shown = lines
            .iter()
            .filter(|line| line.mentions("goes to the dead-letter topic"));
        let left_out = lines
            .iter()
            .filter_map(|line| line.field("left_out").parse::<usize>().ok());
        shown.count() + left_out.sum::<usize>() == 100
    });

    assert!(begun.elapsed() < IN_TIME, "{:?}", begun.elapsed());
    let line = daemon.wait_line("the count", |line| line.is("lines about messages left out"));
    assert_eq!(line.field("level"), "WARN");
    assert_eq!(line.field("listener"), "orders");
    daemon.stop();
}

/// A value of a message that looks like a line of the log, in the form of text.
#[test]
fn a_text_of_a_handler_forges_no_line() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("forged", 1);
    let project = Project::new(kafka).sections("[log]\nformat = \"text\"");
    project.handler(
        "orders.lua",
        "return function(message, ctx) print(message.value) ctx.logger.info(message.value) \
         ctx.logger.info(\"fields\", { value = message.value }) error(message.value) end\n",
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "onError = \"skip\"\nretry = { attempts = 1 }\n"),
    );
    topic.produce([Message::value("x\r\nFORGED \u{202e}\u{1b}[2J\u{85}y")]);
    let mut daemon = Daemon::spawn(&project);

    daemon.wait_for("all is logged", |daemon| {
        daemon.log_text().matches("FORGED").count() >= 4
    });

    let text = daemon.log_text();
    let raw = |character: char| {
        character.is_control() && character != '\n' && character != '\t' || character == '\u{202e}'
    };
    assert!(!text.contains(raw), "{text}");
    assert!(
        text.lines().all(|line| !line.starts_with("FORGED")),
        "{text}"
    );
    assert!(
        text.contains("x\\r\\nFORGED \\u{202e}\\u{1b}[2J\\u{85}y"),
        "{text}"
    );
    daemon.stop();
}

/// No room for standard error and the log file: lines are lost, counted and told, and no two share a line.
#[test]
fn a_full_disk_costs_lines_that_are_told() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("full", 1);
    let handler = "return function(message) print((\"x\"):rep(3000), message.value) end\n";
    let project = project(kafka, &topic.name, handler);
    let mut daemon = Daemon::join(&project);
    let file = project.path("moontide.log");
    let seen = daemon.lines().len();

    // Amid a line of 3 kB.
    daemon.limit_files(Some(fs::metadata(&file).unwrap().len() + 10_000));
    topic.produce(numbered(0..50, 0));
    daemon.wait_for("messages are handled as before", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(50)
    });
    daemon.limit_files(None);

    let dropped = daemon.wait_line_after(seen, "it is told", |line| {
        line.mentions("log lines were dropped")
    });
    assert_eq!(dropped.field("level"), "WARN");
    assert!(
        dropped.field("total").parse::<u64>().unwrap() > 0,
        "{dropped:?}"
    );
    let stderr = daemon.log_text();
    daemon.stop();
    for text in [fs::read_to_string(&file).unwrap(), stderr] {
        let timestamps = |line: &str| line.matches("\"timestamp\"").count();
        assert!(text.lines().all(|line| timestamps(line) <= 1), "{text}");
        assert!(text.contains("log lines were dropped"));
        let whole = |line: &&str| serde_json::from_str::<serde_json::Value>(line).is_ok();
        assert!(text.lines().filter(|line| !whole(line)).count() <= 1);
    }
}

/// More headers than librdkafka reads: the message is handled, and the log says what it lacks.
#[test]
fn headers_that_nobody_can_read_are_told() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("headers", 1);
    let project = project(kafka, &topic.name, "return function() end\n");
    let many = (0..100_001).fold(Message::value("many"), |message, _| {
        message.header("", None)
    });
    topic.produce([many.partition(0)]);
    let mut daemon = Daemon::start(&project);

    let line = daemon.wait_line("it is told", |line| {
        line.mentions("the message runs without headers")
    });

    assert_eq!(line.field("level"), "WARN");
    assert_eq!(line.field("topic"), topic.name);
    assert_eq!(line.field("offset"), "0");
    daemon.wait_for("it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    daemon.stop();
}
