//! Retry topics: what waits there is not taken before its time, whatever happens meanwhile.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::support::client::{Message, Topic};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

/// When it ran.
const TIMED: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("done", message, ctx, tide.now())
end
"#;

#[test]
fn a_message_of_a_retry_topic_is_not_taken_before_its_time() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "early");
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 1);
    let start = now_ms();
    let due = [start - 1, start + 4_000, start + 4_001, start + 6_000];
    retries.produce(due.iter().map(|due| waiting(&topic, &project, *due)));

    let mut daemon = Daemon::join(&project);
    // What is not a retry does not wait for one.
    topic.produce([Message::value("plain")]);

    let entries = project.wait_for_entries("done", 5, DEADLINE);
    for due in &due {
        let entry = entries.iter().find(|entry| entry.value == due.to_string());
        let ran: i64 = entry.unwrap().extra.parse().unwrap();
        assert!(ran >= *due, "{due} ran at {ran}");
    }
    let values: Vec<_> = entries.iter().map(|entry| entry.value.clone()).collect();
    let place = |value: String| values.iter().position(|one| *one == value).unwrap();
    assert!(
        place("plain".to_owned()) < place(due[1].to_string()),
        "{values:?}"
    );
    daemon.wait_for("all of it is committed", |_| {
        kafka.committed(&project.group, &retries.name, 0) == Some(4)
    });
    daemon.stop();
}

/// A wrong clock or a forged record: nobody sleeps for years, and messages that lie there wait together.
#[test]
fn a_due_time_beyond_the_delay_waits_for_the_delay() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "years");
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 1);
    let year = 365 * 86_400_000;
    let due = [now_ms() + 30 * year, i64::MAX, now_ms() + year];
    let forged = |due: i64| {
        waiting(&topic, &project, due).header("moontide-retry-attempts", Some(b"4294967295"))
    };
    retries.produce(due.map(forged));

    let mut daemon = Daemon::join(&project);
    daemon.wait_line("the log tells of it", |line| {
        line.mentions("due later than its topic's delay")
    });
    let first_seen = now_ms();
    let entries = project.wait_for_entries("done", 3, DEADLINE);
    for entry in entries {
        let ran: i64 = entry.extra.parse().unwrap();
        let waited = ran - first_seen;
        assert!((8_000..14_000).contains(&waited), "ran after {waited} ms");
    }
    daemon.wait_for("all of it is committed", |_| {
        kafka.committed(&project.group, &retries.name, 0) == Some(3)
    });
    daemon.stop();
}

/// What fails goes from topic to topic, holds nothing up, keeps its attempts through a restart, and is seen by its handler
/// as it was in its own topic; after the last topic its dead letter says where it was first.
#[test]
fn what_fails_goes_from_topic_to_topic() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("ladder", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          ctx.commitOffsets(message.offset)
          record.line("try", message, ctx, ctx.headers("own")[1])
          if message.value == "bad" or (message.value == "late" and ctx.attempt < 3) then
            error("not now")
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "retry = { topics = [\"1s\", \"4s\"], allowAutoTopicCreation = true }\n\
               deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
               breaker = false\n"),
    );
    let values = ["bad", "fine", "late", "fine too"];
    topic.produce(values.map(|value| {
        Message::value(value)
            .partition(0)
            .header("own", Some(b"yes"))
    }));

    let daemon = Daemon::join(&project);
    project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(project.values_of("done"), ["fine", "fine too"]);
    // The second attempts have been, the third ones wait.
    project.wait_for_entries("try", 6, DEADLINE);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(4));
    let daemon = Daemon::join(&project);

    let entries = project.wait_for_entries("try", 8, DEADLINE);
    project.wait_for_entries("done", 3, DEADLINE);
    for (offset, value) in [(0, "bad"), (2, "late")] {
        let of: Vec<_> = entries.iter().filter(|one| one.value == value).collect();
        let attempts: Vec<u32> = of.iter().map(|one| one.attempt).collect();
        assert_eq!(attempts, [1, 2, 3], "{value}");
        for one in of {
            assert_eq!(
                (&*one.topic, one.partition, one.offset, &*one.extra),
                (&*topic.name, 0, offset, "yes")
            );
        }
    }
    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 1);
    let letter = &letters[0];
    assert_eq!(letter.value.as_deref(), Some(&b"bad"[..]));
    assert_eq!(letter.header("moontide-attempts"), "3");
    assert_eq!(letter.header("moontide-origin-topic"), topic.name);
    assert_eq!(letter.header("moontide-origin-offset"), "0");
    assert_eq!(letter.header("own"), "yes");
    assert!(letter.header("moontide-first-failure") < letter.header("moontide-last-failure"));
    daemon.stop();
}

/// It waits where no process has to live: a restart changes nothing.
#[test]
fn a_message_of_a_retry_topic_waits_through_a_restart() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "restart");
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 2);
    let due = now_ms() + 6_000;
    retries.produce([0, 1].map(|partition| Message {
        partition: Some(partition),
        ..waiting(&topic, &project, due)
    }));

    Daemon::join(&project).stop();
    assert!(project.entries().is_empty());
    let daemon = Daemon::join(&project);

    let entries = project.wait_for_entries("done", 2, DEADLINE);
    assert!(
        entries
            .iter()
            .all(|entry| entry.extra.parse::<i64>().unwrap() >= due)
    );
    daemon.stop();
}

/// The partitions of a sleeping member go to another one, which keeps their time too.
#[test]
fn a_rebalance_wakes_nobody_early() {
    let Some(kafka) = kafka::shared() else { return };
    for assignor in ["cooperative-sticky", "range"] {
        let (topic, project) = retrying(kafka, "moved");
        let project = project.consumer(&format!(
            "sessionTimeout = \"6s\"\npartitionAssigners = [\"{assignor}\"]"
        ));
        project.config(&listener(&topic.name));
        let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 4);
        let due = now_ms() + 8_000;
        retries.produce((0..4).map(|partition| Message {
            partition: Some(partition),
            ..waiting(&topic, &project, due)
        }));

        let one = Daemon::join(&project);
        let member = project.another_member();
        let two = Daemon::join(&member);
        two.stop();

        let entries = project.wait_for_entries("done", 4, DEADLINE);
        for entry in &entries {
            assert!(entry.extra.parse::<i64>().unwrap() >= due, "{entry:?}");
        }
        one.stop();
    }
}

/// A reload while it waits: it is not woken early, and the new handler gets it.
#[test]
fn a_reload_wakes_nobody_early() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "reloaded");
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 1);
    let due = now_ms() + 6_000;
    retries.produce([waiting(&topic, &project, due)]);
    let daemon = Daemon::join(&project);

    project.handler("orders.lua", &TIMED.replace("done", "mended"));
    assert_eq!(daemon.reload().0, 0);

    let entry = project.wait_for_entries("mended", 1, DEADLINE).remove(0);
    assert!(entry.extra.parse::<i64>().unwrap() >= due, "{entry:?}");
    assert_eq!(project.entries().len(), 1);
    daemon.stop();
}

/// A retry topic that comes into being is consumed within seconds.
#[test]
fn retry_topics_are_created_and_found() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "found");

    let mut daemon = Daemon::join(&project);

    let retries = format!("{}.{}.retry.10s", topic.name, project.group);
    daemon.wait_for("the retry topic is subscribed to", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["consumers"].to_string().contains(&retries))
    });
    assert_eq!(kafka.partitions(&retries), Some(1));
    daemon.stop();
}

const FAILS: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("fails", message, ctx, tide.now())
  record.note("seen", ("%s %d %d %s"):format(ctx.topic, ctx.partition, message.timestamp, message.headers.a))
  error("no")
end
"#;

const FINE: &str = r#"
local record = require "record"
return function(message, ctx) record.line("fine", message, ctx) end
"#;

/// Attempt by attempt through the topics, then to the dead letters: the handler sees the message as it was, and only the
/// listener that failed sees it again.
#[test]
fn a_failing_message_waits_in_one_topic_after_the_other() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("chain", 3);
    let project = Project::new(kafka);
    project.handler("fails.lua", FAILS);
    project.handler("fine.lua", FINE);
    let ordering = "ordering = \"none\"\n";
    let fails = from_beginning("fails", &topic.name, "fails")
        + ordering
        + "retry = { topics = [\"1s\", \"3s\"], allowAutoTopicCreation = true }\n"
        + "deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    let fine = from_beginning("fine", &topic.name, "fine") + ordering;
    project.config(&(fails + &fine));
    let odd = Message {
        timestamp: Some(1_500_000_000_000),
        ..Message::value("bad")
            .partition(2)
            .key("k")
            .header("a", Some(b"1"))
    };
    topic.produce([odd]);

    let daemon = Daemon::join(&project);
    project.wait_for_entries("fails", 1, DEADLINE);
    // What waits, waits for whoever comes next.
    daemon.stop();
    let mut daemon = Daemon::join(&project);

    let dead = format!("{}.dead", topic.name);
    let letter = kafka.read(&dead, 3, 1).remove(0);
    let runs = project.wait_for_entries("fails", 3, DEADLINE);
    assert_eq!(
        runs.iter().map(|run| run.attempt).collect::<Vec<_>>(),
        [1, 2, 3]
    );
    let at = |run: usize| runs[run].extra.parse::<i64>().unwrap();
    assert!(at(1) >= at(0) + 1_000 && at(2) >= at(1) + 3_000, "{runs:?}");
    assert!(
        runs.iter()
            .all(|run| run.offset == 0 && run.topic == topic.name),
        "{runs:?}"
    );
    let seen: Vec<_> = project
        .entries_of("seen")
        .into_iter()
        .map(|entry| entry.extra)
        .collect();
    assert_eq!(seen, vec![format!("{} 2 1500000000000 1", topic.name); 3]);
    assert_eq!(project.entries_of("fine").len(), 1);
    assert_eq!(
        (letter.partition, letter.timestamp),
        (2, Some(1_500_000_000_000))
    );
    assert_eq!(
        (letter.key.as_deref(), letter.value.as_deref()),
        (Some(&b"k"[..]), Some(&b"bad"[..]))
    );
    assert_eq!(letter.header("moontide-origin-topic"), topic.name);
    assert_eq!(letter.header("moontide-origin-offset"), "0");
    assert_eq!(letter.header("moontide-attempts"), "3");
    assert_eq!(letter.header("a"), "1");
    assert!(!letter.has_header("moontide-retry-due"), "{letter:?}");
    for (name, partition) in [("retry.1s", 2), ("retry.3s", 2)] {
        let name = format!("{}.{}.{name}", topic.name, project.group);
        daemon.wait_for("the position is committed", |_| {
            kafka.committed(&project.group, &name, partition) == Some(1)
        });
    }
    daemon.stop();
}

/// The delays are other ones now: what waits by the old ones runs all the same.
#[test]
fn what_waits_in_a_topic_of_an_old_delay_is_not_left_behind() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "old");
    let old = kafka.topic_named(format!("{}.{}.retry.7m", topic.name, project.group), 1);
    old.produce([waiting(&topic, &project, now_ms())]);

    let daemon = Daemon::join(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// A listener that gets retry topics while a message of another one runs in one of them is not meant by it.
#[test]
fn a_message_of_a_retry_topic_is_its_own_listeners_alone_through_a_reload() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("meant", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.handler(
        "second.lua",
        "local record = require \"record\"\n\
         return function(message, ctx) record.line(\"second\", message, ctx) end\n",
    );
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 1);
    let second = from_beginning("second", &topic.name, "second") + "ordering = \"none\"\n";
    project.config(&(listener(&topic.name) + &second));
    retries.produce([waiting(&topic, &project, now_ms() - 1)]);
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("begin", 1, DEADLINE);

    project.config(&(listener(&topic.name) + &second + "retry = { topics = [\"10s\"] }\n"));
    let (code, said) = daemon.reload();
    assert_eq!(code, 0, "{said}");
    project.open_gate();

    project.wait_for_entries("done", 1, DEADLINE);
    daemon.wait_for("it is finished", |_| {
        kafka.committed(&project.group, &retries.name, 0) == Some(1)
    });
    assert!(project.entries_of("second").is_empty());
    daemon.stop();
}

/// A foreign record in a retry topic: it is no listener's, and not passed over in silence.
#[test]
fn a_record_of_a_retry_topic_without_its_headers_is_skipped_with_a_warning() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, project) = retrying(kafka, "foreign");
    let retries = kafka.topic_named(format!("{}.{}.retry.10s", topic.name, project.group), 1);
    retries.produce([Message::value("foreign").partition(0)]);

    let mut daemon = Daemon::join(&project);

    let line = daemon.wait_line("it is told", |line| {
        line.mentions("its headers do not say for which listener")
    });
    assert_eq!(line.field("level"), "WARN");
    assert_eq!(line.field("topic"), retries.name);
    daemon.wait_for("it is committed", |_| {
        kafka.committed(&project.group, &retries.name, 0) == Some(1)
    });
    assert!(project.entries().is_empty());
    daemon.stop();
}

/// Each of two groups makes its own topics for what a pattern matches, and none for those that the other one made.
#[test]
fn two_groups_of_one_pattern_make_a_bounded_number_of_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = kafka::unique("bounded");
    let topics = [
        kafka.topic_named(prefix.clone(), 1),
        kafka.topic_named(format!("{prefix}.new"), 1),
    ];
    let member = || {
        let project = Project::new(kafka).consumer("metadataMaxAge = \"1s\"");
        project.handler("orders.lua", FAILS);
        project.config(
            &(from_beginning("orders", &format!("^{prefix}.*"), "orders")
                + "ordering = \"none\"\nbreaker = false\n\
                   retry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n\
                   deadLetter = { allowAutoTopicCreation = true }\n"),
        );
        project
    };
    let (one, two) = (member(), member());
    let daemons = [Daemon::join(&one), Daemon::join(&two)];
    let made = || {
        let topics = kafka.topics_with(&prefix).into_iter();
        let mut names: Vec<_> = topics.map(|(name, _)| name).collect();
        names.sort();
        names
    };
    let mut expected = Vec::new();
    for topic in &topics {
        expected.push(topic.name.clone());
        expected.push(format!("{}.dead", topic.name));
        for project in [&one, &two] {
            expected.push(format!("{}.{}.retry.1s", topic.name, project.group));
        }
    }
    expected.sort();
    wait_for("all topics are made", DEADLINE, || made() == expected);

    // A message of each goes all the way, which takes longer than many looks at the topics that exist.
    for topic in &topics {
        topic.produce([Message::value("bad").partition(0)]);
        kafka.read(&format!("{}.dead", topic.name), 1, 2);
    }
    for project in [&one, &two] {
        assert_eq!(project.wait_for_entries("fails", 4, DEADLINE).len(), 4);
    }
    assert_eq!(made(), expected);
    for daemon in daemons {
        daemon.stop();
    }
    assert_eq!(made(), expected);
}

/// A retry topic that never takes a record (a compacted one, and no key): the message waits in its lane for as long, and
/// its neighbours are where they belong.
#[test]
fn what_its_retry_topic_refuses_waits_in_its_lane() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("refusing", 1);
    let project = Project::new(kafka);
    project.handler("fails.lua", FAILS);
    project.config(
        &(from_beginning("fails", &topic.name, "fails")
            + "ordering = \"none\"\nbreaker = false\nretry = { topics = [\"1s\"] }\n\
               deadLetter = { allowAutoTopicCreation = true }\n"),
    );
    let retries = format!("{}.{}.retry.1s", topic.name, project.group);
    let retries = kafka.topic_with(retries, 1, &[("cleanup.policy", "compact")]);
    let keyed = |number: u32| Message::value("bad").key(number.to_string()).partition(0);
    let mut messages: Vec<_> = (0..5).map(keyed).collect();
    messages.insert(2, Message::value("bad").partition(0));
    topic.produce(messages);

    let mut daemon = Daemon::start(&project);

    assert_eq!(kafka.read(&retries.name, 1, 5).len(), 5);
    let line = daemon.wait_line("which and why", |line| {
        line.mentions("waits in its lane instead") && line.field("offset") == "2"
    });
    assert!(line.is_error());
    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 6);
    assert!(
        letters
            .iter()
            .all(|letter| letter.header("moontide-attempts") == "2")
    );
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(6));
}

fn retrying<'a>(kafka: &'a Kafka, name: &str) -> (Topic<'a>, Project) {
    let topic = kafka.topic(name, 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", TIMED);
    project.config(&listener(&topic.name));
    (topic, project)
}

fn listener(topic: &str) -> String {
    from_beginning("orders", topic, "orders")
        + "ordering = \"none\"\nretry = { topics = [\"10s\"], allowAutoTopicCreation = true }\n"
}

/// As a failed run leaves it, with its due time as the value.
fn waiting(topic: &Topic<'_>, project: &Project, due: i64) -> Message {
    let headers = [
        ("listener", "orders".to_owned()),
        ("group", project.group.clone()),
        ("attempts", "1".to_owned()),
        ("due", due.to_string()),
        ("topic", topic.name.clone()),
        ("partition", "0".to_owned()),
        ("offset", "0".to_owned()),
        ("timestamp", "1700000000000".to_owned()),
        ("first-failure", "1700000000000".to_owned()),
    ];
    headers.into_iter().fold(
        Message::value(due.to_string()).partition(0),
        |message, (name, value)| {
            message.header(format!("moontide-retry-{name}"), Some(value.as_bytes()))
        },
    )
}

fn now_ms() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    since.as_millis() as i64
}
