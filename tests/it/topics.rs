//! Topics that must exist before a message fails, and topics that are deleted, created again, or created late.

mod recreated;

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

const DEAD: &str = "deadLetter = { topic = \"{topic}.dead\" }\n";
const CREATED: &str = "deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";

#[test]
fn a_dead_letter_topic_that_is_missing_ends_the_start_with_the_command_that_creates_it() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("missing", 3);
    let project = recording(kafka, &(orders(&topic.name) + DEAD));

    let mut daemon = Daemon::spawn(&project);

    assert_eq!(daemon.exit_code(DEADLINE), 78);
    let expected = format!(
        "listener `orders`: its dead-letter topic `{name}.dead` does not exist; create it: \
         kafka-topics.sh --bootstrap-server {} --create --topic {name}.dead --partitions 3 --config retention.ms=-1, \
         or set `deadLetter.allowAutoTopicCreation = true`",
        kafka.bootstrap(),
        name = topic.name,
    );
    assert!(
        daemon
            .lines()
            .iter()
            .any(|line| line.field("reason") == expected),
        "{expected}\n{}",
        daemon.log_text()
    );
    assert!(project.entries().is_empty() || project.entries_of("done").len() < 10);
}

#[test]
fn a_missing_topic_is_created_where_that_is_allowed() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("created", 3);
    let project = recording(kafka, &(orders(&topic.name) + CREATED));

    let mut daemon = Daemon::join(&project);

    daemon.wait_line("created", |line| line.is("topic created"));
    assert_eq!(kafka.partitions(&format!("{}.dead", topic.name)), Some(3));
    daemon.stop();
    // The second start finds it.
    let mut daemon = Daemon::join(&project);
    topic.produce(numbered(0..1, 0));
    daemon.wait_for("the message", |_| project.entries_of("done").len() == 1);
    assert_eq!(daemon.count(|line| line.is("topic created")), 0);
    daemon.stop();
}

/// A broker that is away delays nothing; when it is back, it is asked.
#[test]
fn a_start_without_a_broker_is_ready_and_asks_until_there_is_an_answer() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("later", 1).name;
    kafka.stop();
    let project = recording(&kafka, &(orders(&topic) + DEAD));

    let mut daemon = Daemon::start(&project);
    daemon.wait_line("not known yet", |line| {
        line.is("not known yet whether the topic exists")
    });
    assert!(!daemon.ended());
    kafka.start();

    assert_eq!(daemon.exit_code(DEADLINE), 78);
}

#[test]
fn a_reload_that_needs_a_missing_topic_is_refused() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("refused", 1);
    let project = recording(kafka, &orders(&topic.name));
    let mut daemon = Daemon::join(&project);

    project.config(&(orders(&topic.name) + DEAD));
    let (code, said) = daemon.reload();
    assert_ne!(code, 0, "{said}");
    assert!(
        said.contains(&format!(
            "its dead-letter topic `{}.dead` does not exist; create it: kafka-topics.sh",
            topic.name
        )),
        "{said}"
    );
    topic.produce(numbered(0..1, 0));
    daemon.wait_for("the old bundle goes on", |_| {
        project.entries_of("done").len() == 1
    });

    project.config(&(orders(&topic.name) + CREATED));
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");
    assert_eq!(kafka.partitions(&format!("{}.dead", topic.name)), Some(1));
    daemon.stop();
}

/// As a broker that is away says nothing about topics, it keeps nobody from a reload.
#[test]
fn a_reload_without_a_broker_goes_on() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let topic = kafka.topic("away", 1).name;
    let project = recording(&kafka, &orders(&topic));
    let mut daemon = Daemon::join(&project);
    kafka.stop();

    project.config(&(orders(&topic) + CREATED));
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");
    kafka.start();

    daemon.wait_line("created", |line| line.is("topic created"));
    daemon.stop();
}

#[test]
fn what_a_pattern_matches_gets_its_topics_or_an_error() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = unique("matched");
    let topic = |suffix: &str, key: &str| {
        let name = format!("{prefix}-{suffix}");
        kafka.topic_named(name.clone(), 2);
        let pattern = format!("^{prefix}-{suffix}$");
        (
            name,
            from_beginning(suffix, &pattern, "orders.handle") + key,
        )
    };
    let (created, first) = topic("created", CREATED);
    let (missing, second) = topic("missing", DEAD);
    let project = recording(kafka, &(first + &second));

    let mut daemon = Daemon::join(&project);

    daemon.wait_line("created", |line| {
        line.is("topic created") && line.field("topic") == format!("{created}.dead")
    });
    let start =
        format!("listener `missing`: its dead-letter topic `{missing}.dead` does not exist");
    daemon.wait_line("an error", |line| line.field("error").starts_with(&start));
    assert_eq!(kafka.partitions(&format!("{created}.dead")), Some(2));
    daemon.stop();
}

/// What a pattern has matched before a reload needs its topics as well.
#[test]
fn a_reload_asks_for_the_topics_of_what_a_pattern_matches() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("reloaded", 2);
    let project = recording(kafka, &orders(&format!("^{}$", topic.name)));
    let mut daemon = Daemon::join(&project);

    project.config(&(orders(&format!("^{}$", topic.name)) + CREATED));
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");

    daemon.wait_line("created", |line| line.is("topic created"));
    assert_eq!(kafka.partitions(&format!("{}.dead", topic.name)), Some(2));
    daemon.stop();
}

/// A consumer tells what it has subscribed to while topics are still being made: that is nothing to be warned of.
#[test]
fn what_is_simply_to_be_made_is_no_warning() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("quiet", 1);
    let delays: Vec<_> = (1..=20).map(|delay| format!("\"{delay}s\"")).collect();
    let retry = format!(
        "retry = {{ topics = [{}], allowAutoTopicCreation = true }}\n",
        delays.join(", ")
    );
    let project = recording(kafka, &(orders(&topic.name) + CREATED + &retry));

    let mut daemon = Daemon::join(&project);

    daemon.wait_for("all are made", |daemon| {
        daemon.count(|line| line.is("topic created")) == 21
    });
    assert_eq!(daemon.count(|line| line.mentions("not known yet")), 0);
    daemon.stop();
}

/// What a stop drains may be a dead letter whose topic is still to be made.
#[test]
fn a_stop_does_not_end_the_making_of_topics_that_it_waits_for() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("making", 1);
    let other = kafka.topic("makings", 1);
    let project = Project::new(kafka);
    project.handler("fails.lua", "return function() error('no') end");
    project.handler("fine.lua", "return function() end");
    let delays: Vec<_> = (1..=40).map(|delay| format!("\"{delay}s\"")).collect();
    // These are made first, one after the other.
    let many = from_beginning("a", &other.name, "fine")
        + &format!(
            "retry = {{ topics = [{}], allowAutoTopicCreation = true }}\n",
            delays.join(", ")
        );
    let fails = from_beginning("b", &topic.name, "fails") + "retry = { attempts = 1 }\n" + CREATED;
    project.config(&(many + &fails));
    topic.produce(numbered(0..1, 0));

    let mut daemon = Daemon::spawn(&project);
    daemon.wait_line("the failure", |line| {
        line.mentions("goes to the dead-letter topic")
    });
    daemon.stop();

    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 1);
    assert_eq!(letters[0].header("moontide-origin-offset"), "0");
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

fn orders(topic: &str) -> String {
    from_beginning("orders", topic, "orders.handle")
}

fn recording(kafka: &Kafka, listeners: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(listeners);
    project
}
