//! Topics that are deleted, created again, or created late.

use serde_json::Value;

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::http;
use crate::support::kafka::{self, Kafka, java, send_signal, unique};
use crate::support::project::{Project, RECORDING, from_beginning, listener};
use crate::support::wait::{DEADLINE, stays, wait_for};

/// The messages of the new topic.
fn new(count: u64, partition: i32) -> Vec<Message> {
    let value = |number| Message::value(format!("new-{number}")).partition(partition);
    (0..count).map(value).collect()
}

fn project(kafka: &Kafka, listeners: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(listeners);
    project
}

/// Ten messages of the topic are handled and committed.
fn handle_ten(kafka: &Kafka, project: &Project, daemon: &mut Daemon, topic: &Topic<'_>) {
    topic.produce(numbered(0..10, 0));
    daemon.wait_for("the old messages", |_| {
        project.entries_of("done").len() == 10
    });
    daemon.wait_for("their commit", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(10)
    });
}

#[track_caller]
fn wait_for_new(project: &Project, daemon: &mut Daemon, count: u64) {
    daemon.wait_for("all messages of the new topic", |_| {
        let values = project.values_of("done");
        (0..count).all(|number| values.contains(&format!("new-{number}")))
    });
}

/// How a topic is created again.
#[derive(Clone, Copy, Default)]
struct How {
    /// Messages of the new topic; the old one had ten.
    count: u64,
    /// Lines of `[consumerConfig]`.
    consumer: &'static str,
    /// The broker restarts before: a leader that comes back has a higher epoch, which the new topic has not.
    restart: bool,
    /// The daemon is frozen meanwhile: nothing tells it that the topic was missing.
    unseen: bool,
}

/// A listener that would begin at the end gets all messages of the new topic, and the group their offsets.
#[track_caller]
fn recreate(how: How) {
    let own = how.restart.then(Kafka::start_own).flatten();
    let kafka: Option<&Kafka> = match &own {
        Some(own) => Some(own),
        None => kafka::shared(),
    };
    let Some(kafka) = kafka else { return };
    let topic = kafka.topic("again", 1);
    let project = Project::new(kafka).consumer(how.consumer);
    project.handler("orders.lua", RECORDING);
    project.config(&listener("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);
    if how.restart {
        kafka.stop();
        kafka.start();
    }
    handle_ten(kafka, &project, &mut daemon, &topic);

    if how.unseen {
        send_signal(daemon.pid(), libc::SIGSTOP);
    }
    topic.delete();
    let topic = kafka.topic_named(topic.name.clone(), 1);
    topic.produce(new(how.count, 0));
    if how.unseen {
        send_signal(daemon.pid(), libc::SIGCONT);
    }

    wait_for_new(&project, &mut daemon, how.count);
    let line = daemon.wait_line("the ids", |line| {
        line.mentions("was deleted and created again")
    });
    assert!(line.is_error());
    assert_ne!(line.field("old_id"), line.field("new_id"));
    daemon.wait_for("the commit in the new topic", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(how.count as i64)
    });
    topic.produce([Message::value("last").partition(0)]);
    daemon.wait_for("the next message", |_| {
        project.values_of("done").contains(&"last".to_owned())
    });
    daemon.stop();
    let committed = kafka.committed(&project.group, &topic.name, 0);
    assert_eq!(committed, Some(how.count as i64 + 1));
}

const SHORT: &str = "sessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"";

#[test]
fn a_topic_that_is_created_again_with_as_many_messages_is_read_from_its_beginning() {
    for unseen in [false, true] {
        let (count, consumer) = (10, SHORT);
        recreate(How {
            count,
            consumer,
            unseen,
            ..How::default()
        });
    }
}

#[test]
fn a_topic_that_is_created_again_with_fewer_messages_is_read_from_its_beginning() {
    let (count, consumer, unseen) = (4, SHORT, true);
    recreate(How {
        count,
        consumer,
        unseen,
        ..How::default()
    });
}

#[test]
fn a_topic_that_is_created_again_with_more_messages_is_read_from_its_beginning() {
    let (count, consumer, unseen) = (25, SHORT, true);
    recreate(How {
        count,
        consumer,
        unseen,
        ..How::default()
    });
}

#[test]
fn a_topic_that_is_created_again_after_a_restart_of_its_broker_is_read_from_its_beginning() {
    let (count, consumer, restart) = (10, SHORT, true);
    for unseen in [false, true] {
        recreate(How {
            count,
            consumer,
            restart,
            unseen,
        });
    }
}

#[test]
fn every_protocol_of_a_group_reads_a_topic_that_is_created_again() {
    let (count, restart, unseen) = (10, true, false);
    for consumer in [
        "groupProtocol = \"consumer\"",
        "partitionAssigners = [\"cooperative-sticky\"]\nsessionTimeout = \"6s\"",
    ] {
        recreate(How {
            count,
            consumer,
            restart,
            unseen,
        });
    }
}

/// Each member sees the new topic by itself, and none takes an offset of the old one over from the other.
#[test]
fn two_members_read_a_topic_that_is_created_again() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("shared", 2), kafka.topic("other", 2));
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(
        &(listener("orders", &topic.name, "orders.handle")
            + &from_beginning("other", &other.name, "orders.handle")),
    );
    let mut first = Daemon::join(&project);
    let second_project = project.another_member();
    let mut second = Daemon::join(&second_project);
    for partition in 0..2 {
        topic.produce(numbered(0..10, partition));
    }
    first.wait_for("the old messages", |_| {
        project.entries_of("done").len() >= 20
    });

    topic.delete();
    let topic = kafka.topic_named(topic.name.clone(), 2);
    let values = |range: std::ops::Range<u64>, partition: i32| {
        let value = move |number| format!("new-{partition}-{number}");
        range.map(value).collect::<Vec<_>>()
    };
    for (range, partition) in [(0..12, 0), (0..7, 1), (12..30, 0), (7..30, 1)] {
        let messages = values(range, partition);
        topic.produce(
            messages
                .iter()
                .map(|value| Message::value(value).partition(partition)),
        );
        other.produce(numbered(100..110, partition));
    }

    first.wait_for("all messages of the new topic", |_| {
        let done = project.values_of("done");
        (0..2).all(|partition| {
            values(0..30, partition)
                .iter()
                .all(|value| done.contains(value))
        })
    });
    first.wait_for("the other topic", |_| {
        let done = project.entries_of("done");
        done.iter().filter(|one| one.topic == other.name).count() >= 40
    });
    first.wait_for("the commits in the new topic", |_| {
        (0..2).all(|number| kafka.committed(&project.group, &topic.name, number) == Some(30))
    });
    assert!(!second.ended());
    first.stop();
    second.stop();
}

#[test]
fn a_topic_that_is_created_again_during_a_stop_is_read_from_its_beginning() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("stopped", 2);
    let project = project(kafka, &listener("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);
    handle_ten(kafka, &project, &mut daemon, &topic);
    daemon.stop();

    topic.delete();
    let topic = kafka.topic_named(topic.name.clone(), 2);
    topic.produce(new(12, 0));
    // As a member that has not heard of the new topic commits.
    kafka.commit(&project.group, &topic.name, 0, 10);

    let mut daemon = Daemon::join(&project);
    wait_for_new(&project, &mut daemon, 12);
    let line = daemon.wait_line("the start", |line| {
        line.is_error()
            && line.mentions("starts at the beginning")
            && line.field("partition") == "0"
    });
    assert_eq!(line.field("committed"), "10");
    daemon.wait_for("the commit in the new topic", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(12)
    });
    daemon.stop();

    // From now on the offsets of the group count again.
    let daemon = Daemon::join(&project);
    stays(
        "nothing is repeated",
        std::time::Duration::from_secs(2),
        || project.entries_of("done").len() == 22,
    );
    assert_eq!(daemon.count(|line| line.mentions("created again")), 0);
    daemon.stop();
}

/// The start that is not committed yet is not forgotten: the group's offset may still be the one of the old topic.
#[test]
fn a_process_that_dies_before_the_first_commit_in_a_new_topic_begins_again() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("died", 1);
    let project = project(kafka, &listener("orders", &topic.name, "orders.handle"));
    let mut daemon = Daemon::join(&project);
    handle_ten(kafka, &project, &mut daemon, &topic);
    daemon.stop();
    topic.delete();
    let topic = kafka.topic_named(topic.name.clone(), 1);
    topic.produce(new(12, 0));
    kafka.commit(&project.group, &topic.name, 0, 12);

    let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_FAILPOINT", "before-commit=1")]);
    assert_eq!(daemon.exit_code(DEADLINE), 137);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(12));

    let mut daemon = Daemon::join(&project);
    wait_for_new(&project, &mut daemon, 12);
    daemon.stop();
}

#[test]
fn a_topic_that_is_deleted_makes_the_daemon_unready_until_it_is_there_again() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("gone", 1), kafka.topic("kept", 1));
    let project =
        Project::new(kafka).sections("[http]\nlisten = \"127.0.0.1:0\"\nstallAfter = \"3s\"");
    project.handler("orders.lua", RECORDING);
    project.config(
        &(listener("orders", &topic.name, "orders.handle")
            + &from_beginning("kept", &other.name, "orders.handle")),
    );
    let mut daemon = Daemon::join(&project);
    let address = http::address(&mut daemon);
    handle_ten(kafka, &project, &mut daemon, &topic);
    let missing = || http::scrape(&address).get("moontide_topics_missing", &[]);
    daemon.wait_for("ready", |_| http::get(&address, "/ready").code == 200);
    assert_eq!(missing(), Some(0.0));

    topic.delete();

    daemon.wait_for("not ready", |_| {
        let answer = http::get(&address, "/ready");
        answer.code == 503 && answer.body.contains(&format!("topic {}", topic.name))
    });
    assert_eq!(missing(), Some(1.0));
    other.produce(numbered(10..12, 0));
    daemon.wait_for("the other topic", |_| {
        project.entries_of("done").len() >= 12
    });

    let topic = kafka.topic_named(topic.name.clone(), 1);
    topic.produce(new(5, 0));
    wait_for_new(&project, &mut daemon, 5);
    daemon.wait_for("ready again", |_| http::get(&address, "/ready").code == 200);
    assert_eq!(missing(), Some(0.0));
    daemon.stop();
}

#[test]
fn a_topic_that_is_created_late_is_read_within_seconds() {
    for consumer in ["", "groupProtocol = \"consumer\""] {
        let Some(kafka) = kafka::shared() else { return };
        let name = unique("late");
        let project = Project::new(kafka).consumer(consumer);
        project.handler("orders.lua", RECORDING);
        project.config(&from_beginning("orders", &name, "orders.handle"));
        let mut daemon = Daemon::start(&project);
        daemon.wait_for("the missing topic", |daemon| {
            daemon.status()["consumers"][0]["topicErrors"][0]["topic"] == name.as_str()
        });

        let topic = kafka.topic_named(name, 1);
        topic.produce(new(3, 0));

        wait_for("it is read", std::time::Duration::from_secs(15), || {
            project.entries_of("done").len() == 3
        });
        assert_eq!(
            daemon.status()["consumers"][0]["topicErrors"],
            Value::Array(Vec::new())
        );
        daemon.stop();
    }
}

/// A right that is granted late is found as a topic that is created late is.
#[test]
fn a_topic_that_may_be_read_late_is_read_within_seconds() {
    let authorizer = "authorizer.class.name=org.apache.kafka.metadata.authorizer.StandardAuthorizer\n\
                      allow.everyone.if.no.acl.found=true\n";
    let Some(kafka) = Kafka::start_own_with(authorizer) else {
        return;
    };
    let (topic, other) = (kafka.topic("denied", 1), kafka.topic("allowed", 1));
    topic.produce(new(3, 0));
    deny(&kafka, "--add", &topic.name);
    let project = project(
        &kafka,
        &(from_beginning("denied", &topic.name, "orders.handle")
            + &from_beginning("allowed", &other.name, "orders.handle")),
    );
    other.produce(numbered(0..2, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 2, DEADLINE);
    daemon.wait_for("the error of the topic", |daemon| {
        daemon.status()["consumers"][0]["topicErrors"][0]["topic"] == topic.name.as_str()
    });

    deny(&kafka, "--remove", &topic.name);

    wait_for_new(&project, &mut daemon, 3);
    assert_eq!(
        daemon.status()["consumers"][0]["topicErrors"],
        Value::Array(Vec::new())
    );
    daemon.stop();
}

/// Adds or removes the rule that nobody may do anything with the topic.
fn deny(kafka: &Kafka, change: &str, topic: &str) {
    let output = java()
        .args(["org.apache.kafka.tools.AclCommand", "--bootstrap-server"])
        .arg(kafka.bootstrap())
        .args([change, "--force", "--topic", topic])
        .args(["--deny-principal", "User:ANONYMOUS", "--operation", "All"])
        .output()
        .expect("java was found before");
    assert!(
        output.status.success(),
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
}
