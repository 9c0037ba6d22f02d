//! Start and stop: an absent broker, SIGTERM, a second one, the drain's deadline.

use std::time::Duration;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// Sleeps for as many milliseconds as the message says, between two lines.
const SLEEPY: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("begin", message, ctx)
  tide.sleep(tonumber(message.value))
  record.line("end", message, ctx)
end
"#;

/// S15: a broker that is down is no reason to end: it is said, and tried again.
#[test]
fn a_broker_that_is_absent_at_the_start_is_waited_for() {
    let Some(kafka) = kafka::Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("absent", 1);
    topic.produce(numbered(0..3, 0));
    kafka.stop();
    let project = Project::new(&kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));

    let mut daemon = Daemon::start(&project);
    daemon.wait_line("which broker cannot be reached", |line| {
        matches!(line.field("level").as_str(), "WARN" | "ERROR")
            && line.mentions(&kafka.bootstrap())
    });
    daemon.wait_for("the status says so", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["consumers"][0]["error"].is_string())
    });
    stays("it does not give up", Duration::from_secs(2), || {
        !daemon.ended()
    });
    kafka.start();

    project.wait_for_entries("done", 3, DEADLINE);
    daemon.wait_for("the status has no error any more", |daemon| {
        daemon.try_status().is_some_and(|status| {
            let consumer = &status["consumers"][0];
            consumer["error"].is_null() && consumer["state"] == "assigned"
        })
    });
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// A daemon whose broker has never been there ends on SIGTERM like any other.
#[test]
fn sigterm_ends_a_daemon_that_never_saw_a_broker() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    let text = project.config_text(&from_beginning("orders", "nowhere", "orders.handle"));
    project.write(
        "config.toml",
        &text.replace(&kafka.bootstrap(), "127.0.0.1:1"),
    );

    let daemon = Daemon::start(&project);

    daemon.stop();
}

/// S16: SIGTERM lets the running handlers end, begins no others, commits exactly what has ended, leaves the group.
#[test]
fn sigterm_drains_and_commits_what_has_ended() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("drain", 2);
    let project = Project::new(kafka);
    project.handler("sleepy.lua", SLEEPY);
    project.config(&from_beginning("sleepy", &topic.name, "sleepy"));
    let messages = |partition| numbered(1500..1510, partition).into_iter();
    topic.produce(messages(0).chain(messages(1)));

    let mut daemon = Daemon::start(&project);
    daemon.wait_for("both partitions are in a handler", |_| {
        project.entries_of("begin").len() == 2
    });
    daemon.stop();

    let (begun, ended) = (project.entries_of("begin"), project.entries_of("end"));
    assert_eq!(begun.len(), ended.len(), "whatever has begun has ended");
    for partition in 0..2 {
        let count = ended
            .iter()
            .filter(|entry| entry.partition == partition)
            .count() as i64;
        assert!((1..10).contains(&count), "the rest was not begun");
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(count)
        );
    }
    assert!(
        kafka.members(&project.group).is_empty(),
        "it has left the group"
    );
}

/// S16: the drain has a deadline; what does not end by then stays uncommitted.
#[test]
fn the_drain_ends_at_its_deadline() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("deadline", 1);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1s\"");
    project.handler("sleepy.lua", SLEEPY);
    project.config(&from_beginning("sleepy", &topic.name, "sleepy"));
    topic.produce(["0", "3600000"].map(crate::support::client::Message::value));

    let mut daemon = Daemon::start(&project);
    daemon.wait_for("the second is in its handler", |_| {
        project.entries_of("begin").len() == 2
    });
    daemon.term();

    daemon.exit_code(Duration::from_secs(20));
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

/// S16: whoever asks twice does not want to wait.
#[test]
fn a_second_sigterm_ends_at_once() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("twice", 1);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"50s\"");
    project.handler("sleepy.lua", SLEEPY);
    project.config(&from_beginning("sleepy", &topic.name, "sleepy"));
    topic.produce(["0", "3600000"].map(crate::support::client::Message::value));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("the second is in its handler", |_| {
        project.entries_of("begin").len() == 2
    });

    daemon.term();
    stays(
        "the first lets handlers end",
        Duration::from_secs(1),
        || !daemon.ended(),
    );
    daemon.term();

    daemon.exit_code(Duration::from_secs(10));
    assert!(kafka.committed(&project.group, &topic.name, 0) <= Some(1));
}

/// A message in back-off does not hold the end up, and stays.
#[test]
fn a_message_in_back_off_does_not_hold_up_the_end() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("backoff", 1);
    let project = Project::new(kafka);
    project.handler("gated.lua", crate::support::project::GATED);
    project.config(
        &(from_beginning("gated", &topic.name, "gated.handle")
            + "retry = { initialDelay = \"10m\", maxDelay = \"1h\" }\n"),
    );
    topic.produce(numbered(0..2, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it has failed", |_| !project.entries_of("try").is_empty());

    daemon.term();

    assert_eq!(daemon.exit_code(Duration::from_secs(15)), 0);
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0).unwrap_or(0),
        0
    );
}

/// Two daemons of one group share its partitions; when one leaves, the other takes over without a loss.
#[test]
fn a_second_member_takes_over_what_the_first_leaves() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("members", 4);
    let (one, two) = (Project::new(kafka), Project::new(kafka));
    one.handler("orders.lua", RECORDING);
    two.handler("orders.lua", RECORDING);
    let listener = from_beginning("orders", &topic.name, "orders.handle");
    one.config(&listener);
    // The same group, another directory.
    two.write(
        "config.toml",
        &two.config_text(&listener).replace(&two.group, &one.group),
    );
    let mut first = Daemon::join(&one);
    let second = Daemon::join(&two);
    let four = |from| (0..4).flat_map(move |partition| numbered(from..from + 5, partition));
    first.wait_for("each has two partitions", |first| {
        let count = |daemon: &Daemon| {
            daemon.try_status().and_then(|status| {
                status["consumers"][0]["partitions"]
                    .as_array()
                    .map(Vec::len)
            })
        };
        count(first) == Some(2) && count(&second) == Some(2)
    });

    topic.produce(four(0));
    one.wait_for_entries("done", 10, DEADLINE);
    two.wait_for_entries("done", 10, DEADLINE);
    second.stop();
    topic.produce(four(100));

    one.wait_for_entries("done", 30, DEADLINE);
    first.stop();
    for partition in 0..4 {
        assert_eq!(
            kafka.committed(&one.group, &topic.name, partition),
            Some(10)
        );
    }
}

/// A config that cannot be used is told with its place, and ends with the code that systemd does not restart.
#[test]
fn a_bad_config_ends_the_start() {
    let Some(kafka) = kafka::shared() else { return };
    let project = Project::new(kafka);
    project.handler("orders.lua", "return { handle = function( }\n");
    project.config(&from_beginning("orders", "orders", "orders.handle"));

    let mut daemon = Daemon::spawn(&project);

    assert_eq!(daemon.exit_code(DEADLINE), 78);
    daemon.wait_line("where", |line| line.mentions("handlers/orders.lua:1"));
}
