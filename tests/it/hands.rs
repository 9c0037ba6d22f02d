//! What somebody does by hand: skip, retry, pause, resume.

use std::process::Command;
use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{GATED, Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// Fails for good where the value says so, and sleeps for good where it says that.
const MOODY: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value == "bad" then error("does not like it") end
  if message.value == "slow" then tide.sleep(3600) end
  record.line("done", message, ctx)
end
"#;

/// Exit code, and what was printed.
fn run(project: &Project, arguments: &[&str]) -> (i32, String) {
    let output = Command::new(env!("CARGO_BIN_EXE_moontide"))
        .args(arguments)
        .arg("--config")
        .arg(project.path("config.toml"))
        .output()
        .unwrap();
    let printed = [output.stdout, output.stderr].concat();
    let printed = String::from_utf8_lossy(&printed).trim().to_owned();
    (output.status.code().unwrap_or(-1), printed)
}

#[track_caller]
pub(crate) fn check(project: &Project, arguments: &[&str], code: i32, words: &str) {
    let (exit, printed) = run(project, arguments);
    assert!(
        exit == code && printed.contains(words),
        "{arguments:?}: {exit}, {printed}"
    );
}

/// A command of another project may reach this daemon, so each command says which one answers.
#[test]
fn a_command_says_which_daemon_answers() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("who", 1);
    let project = Project::new(kafka);
    project.handler("moody.lua", MOODY);
    project.config(&from_beginning("moody", &topic.name, "moody"));
    let daemon = Daemon::start(&project);
    let config = project.path("config.toml");
    let who = format!(
        "moontide: pid {} answers, with configuration {}",
        daemon.pid(),
        config.display()
    );
    check(&project, &["retry"], 0, &who);
    let other = Project::new(kafka);
    other.write("config.toml", "");
    let output = Command::new(env!("CARGO_BIN_EXE_moontide"))
        .arg("status")
        .arg("--config")
        .arg(other.path("config.toml"))
        .env("RUNTIME_DIRECTORY", project.path("."))
        .output()
        .unwrap();
    let not = format!("{who}, not {}\n", other.path("config.toml").display());
    assert_eq!(String::from_utf8_lossy(&output.stderr), not);
    daemon.stop();
}

/// A message that fails for ever, and one whose call waits for ever, are given up; what is behind them comes.
#[test]
fn a_message_that_blocks_is_skipped() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("skip", 2);
    let project = Project::new(kafka);
    project.handler("moody.lua", MOODY);
    project.config(
        &(from_beginning("moody", &topic.name, "moody")
            + "retry = { initialDelay = \"5m\", maxDelay = \"5m\" }\nlimits = { timeout = \"1h\" }\n"),
    );
    let values = ["bad", "1", "slow", "3"];
    topic.produce(values.map(|value| Message::value(value).partition(1)));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it blocks", |daemon| {
        daemon.status()["consumers"][0]["partitions"][1]["blocked"]["offset"] == 0
    });

    check(
        &project,
        &[
            "skip",
            &topic.name,
            "1",
            "0",
            "--reason",
            "nobody can repair it",
        ],
        0,
        "skipped",
    );
    daemon.wait_for("the next one waits in its call", |_| {
        project
            .values_of("try")
            .last()
            .is_some_and(|value| value == "slow")
    });
    check(
        &project,
        &["skip", &topic.name, "1", "2", "--listener", "moody"],
        0,
        "skipped",
    );

    project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(project.values_of("done"), ["1", "3"]);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 1) == Some(4)
    });
    check(
        &project,
        &["skip", &topic.name, "1", "2"],
        1,
        "is finished already: the position is 4",
    );
    let line = daemon.wait_line("who did it", |line| {
        line.is("an operator skipped the message") && line.field("offset") == "0"
    });
    assert_eq!(line.field("reason"), "nobody can repair it");
    assert!(line.field("by").contains("uid "), "{line:?}");
    daemon.stop();
}

/// Whoever means another message, or asks for what can't be, hears what there is.
#[test]
fn what_cannot_be_skipped_is_told_with_what_could() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("refused", 2);
    let project = Project::new(kafka);
    project.handler("moody.lua", MOODY);
    project.config(&from_beginning("moody", &topic.name, "moody"));
    topic.produce(["bad", "1"].map(|value| Message::value(value).partition(1)));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it blocks", |daemon| {
        daemon.status()["consumers"][0]["partitions"][1]["blocked"]["offset"] == 0
    });

    check(
        &project,
        &["skip", &topic.name, "1", "1"],
        1,
        "@0 in listener `moody`; skip that one first",
    );
    check(
        &project,
        &["skip", &topic.name, "0", "0"],
        1,
        "is not in flight",
    );
    check(
        &project,
        &["skip", &topic.name, "7", "0"],
        1,
        "not assigned to this daemon",
    );
    check(
        &project,
        &["skip", &topic.name, "1", "0", "--listener", "mody"],
        1,
        "no listener is named `mody`, did you mean `moody`?",
    );
    check(
        &project,
        &["skip", &topic.name, "1", "0", "--dead-letter"],
        1,
        "has no dead-letter topic",
    );
    daemon.stop();
    assert!(project.values_of("done").is_empty());
}

/// `--dead-letter`: it goes where failed ones go, with who and why.
#[test]
fn a_message_that_blocks_is_sent_away() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = (kafka.topic("away", 1), kafka.topic("dead", 1));
    let project = Project::new(kafka);
    project.handler("moody.lua", MOODY);
    project.handler(
        "dead.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          for name, value in pairs(message.headers) do
            record.line("header", message, ctx, name .. "=" .. tostring(value):gsub("%c", " "))
          end
          record.line("dead", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("moody", &topic.name, "moody")
            + "retry = { initialDelay = \"5m\", maxDelay = \"5m\" }\n"
            + &format!("deadLetter = {{ topic = \"{}\" }}\n", dead.name)
            + &from_beginning("dead", &dead.name, "dead")),
    );
    topic.produce(["bad", "1"].map(|value| Message::value(value).partition(0)));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it has failed", |_| !project.values_of("try").is_empty());

    let order = [
        "skip",
        &topic.name,
        "0",
        "0",
        "--dead-letter",
        "--reason",
        "by the book",
    ];
    daemon.wait_for("it is in back-off", |_| run(&project, &order).0 == 0);

    project.wait_for_entries("dead", 1, DEADLINE);
    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(project.values_of("dead"), ["bad"]);
    let headers = project.entries_of("header");
    assert!(
        headers
            .iter()
            .any(|entry| entry.extra.contains("by the book")),
        "{headers:?}"
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(2));
}

/// A back-off of five minutes ends at once.
#[test]
fn a_back_off_is_ended_by_retry() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("retry", 1);
    let project = Project::new(kafka);
    project.handler("gated.lua", GATED);
    project.config(
        &(from_beginning("gated", &topic.name, "gated.handle")
            + "retry = { initialDelay = \"5m\", maxDelay = \"5m\" }\n"),
    );
    topic.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_line("the failure", |line| line.is("handler failed"));
    check(&project, &["retry", "gatd"], 1, "did you mean `gated`?");
    project.open_gate();

    check(
        &project,
        &["retry", "gated", "--reason", "it is back"],
        0,
        "1 message of listener `gated` runs again now",
    );

    project.wait_for_entries("done", 3, DEADLINE);
    check(&project, &["retry"], 0, "no message is in back-off");
    let line = daemon.wait_line("who did it", |line| {
        line.is("an operator ended the back-offs")
    });
    assert_eq!(line.field("reason"), "it is back");
    daemon.stop();
}

/// A paused listener takes nothing, also after a reload; the others go on; the status says who did it.
#[test]
fn a_paused_listener_takes_nothing_until_it_is_resumed() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("paused", 2), kafka.topic("other", 1));
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders.handle")
            + &from_beginning("other", &other.name, "orders.handle")),
    );
    let mut daemon = Daemon::join(&project);
    topic.produce([numbered(0..5, 0), numbered(5..10, 1)].concat());
    project.wait_for_entries("done", 10, DEADLINE);

    check(&project, &["pause", "order"], 1, "did you mean `orders`?");
    let order = ["pause", "orders", "--reason", "the shop is down"];
    check(&project, &order, 0, "listener `orders` is paused");
    check(&project, &["pause", "orders"], 0, "is paused already");
    topic.produce([numbered(10..15, 0), numbered(15..20, 1)].concat());
    other.produce(numbered(20..25, 0));
    project.wait_for_entries("done", 15, DEADLINE);
    assert_eq!(daemon.reload().0, 0);
    stays("nothing comes", Duration::from_millis(1500), || {
        project.entries_of("done").len() == 15
    });
    let paused = daemon.status()["paused"][0].clone();
    assert_eq!(paused["listener"], "orders");
    assert_eq!(paused["reason"], "the shop is down");

    // What it would take next can be given up meanwhile.
    let skip = ["skip", &topic.name, "0", "5", "--listener", "orders"];
    check(&project, &skip, 0, "is skipped");

    check(
        &project,
        &["resume", "orders"],
        0,
        "listener `orders` takes messages again",
    );
    project.wait_for_entries("done", 24, DEADLINE);
    assert!(!project.values_of("done").contains(&"10".to_owned()));
    check(&project, &["resume", "orders"], 0, "is not paused");
    assert!(daemon.status()["paused"].as_array().unwrap().is_empty());
    daemon.wait_line("who did it", |line| {
        line.is("an operator resumed the listener")
    });
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(10));
}

/// Without a daemon every order fails, and says so.
#[test]
fn without_a_daemon_nothing_is_done() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    for order in [
        &["skip", "orders", "0", "0"][..],
        &["retry"],
        &["pause", "orders"],
        &["resume", "orders"],
    ] {
        check(&project, order, 1, "no daemon runs");
    }
    // And a coordinate that is none is a wrong command line.
    assert_eq!(run(&project, &["skip", "orders", "-1", "0"]).0, 2);
}
