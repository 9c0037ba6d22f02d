//! Dead letters: what lies in their topic, and that nothing is final before it lies there.

use std::collections::BTreeSet;

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::records::Record;

/// Fails for everything that is not `fine`.
const FAILING: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value ~= "fine" then error("does not like it") end
end
"#;

#[test]
fn a_dead_letter_is_the_message_byte_for_byte_and_says_where_it_was() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "letter", 2, &[]);
    let odd = Message {
        key: Some(vec![0xff, 0]),
        value: Some(vec![0, 0xfe, 7]),
        headers: vec![
            (vec![0xfe, 0xff], Some(vec![0, 1])),
            (b"a".to_vec(), None),
            (b"a".to_vec(), Some(Vec::new())),
        ],
        partition: Some(1),
        timestamp: Some(1_500_000_000_123),
    };
    let tombstone = Message {
        key: Some(b"k".to_vec()),
        partition: Some(1),
        ..Message::default()
    };
    topic.produce([odd.clone(), tombstone]);
    let project = failing(kafka, &topic, 2, "");

    let daemon = Daemon::start(&project);

    let letters = kafka.read(&dead.name, 2, 2);
    let first = &letters[0];
    assert_eq!((first.partition, first.timestamp), (1, odd.timestamp));
    assert_eq!((&first.key, &first.value), (&odd.key, &odd.value));
    assert_eq!(first.headers[..3], odd.headers);
    let told = |name: &str| first.header(&format!("moontide-{name}"));
    assert_eq!(told("origin-topic"), topic.name);
    assert_eq!(told("origin-partition"), "1");
    assert_eq!(told("origin-offset"), "0");
    assert_eq!(told("origin-timestamp"), "1500000000123");
    assert_eq!(told("group"), project.group);
    assert_eq!(told("listener"), "orders");
    assert_eq!(told("attempts"), "2");
    assert!(told("first-failure") < told("last-failure"));
    assert_eq!(told("bundle"), "1");
    assert!(told("error").contains("does not like it"), "{first:?}");
    assert!(told("traceback").contains("stack traceback"), "{first:?}");
    assert_eq!(letters[1].value, None, "a tombstone stays one");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 1), Some(2));
}

/// A letter that fails in turn keeps its first origin.
#[test]
fn a_letter_that_is_dead_lettered_again_says_where_it_was_first() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "again", 1, &[]);
    let last = kafka.topic_named(format!("{}.dead", dead.name), 1);
    topic.produce([Message::value("bad")]);
    let project = failing(kafka, &topic, 1, "");
    project.config(
        &(listener("orders", &topic.name, 1, "")
            + &listener("letters", &dead.name, 1, ", headerStyle = \"spring\"")),
    );

    let daemon = Daemon::start(&project);

    let letter = kafka.read(&last.name, 1, 1).remove(0);
    assert_eq!(letter.header("kafka_dlt-original-topic"), topic.name);
    assert_eq!(
        letter.header("kafka_dlt-original-consumer-group"),
        project.group
    );
    assert_eq!(letter.header("moontide-listener"), "letters");
    assert!(!letter.has_header("moontide-origin-topic"), "{letter:?}");
    daemon.stop();
}

/// The headers that tools of Spring, of Kafka Connect and of share groups read, as they write them.
#[test]
fn a_dead_letter_may_have_the_headers_of_other_tools() {
    let Some(kafka) = kafka::shared() else { return };
    for (style, names) in [
        (
            "spring",
            [
                "kafka_dlt-original-topic",
                "kafka_dlt-original-partition",
                "kafka_dlt-original-offset",
                "kafka_dlt-exception-message",
                "kafka_dlt-exception-stacktrace",
            ],
        ),
        (
            "connect",
            [
                "__connect.errors.topic",
                "__connect.errors.partition",
                "__connect.errors.offset",
                "__connect.errors.exception.message",
                "__connect.errors.exception.stacktrace",
            ],
        ),
        (
            "kafka",
            [
                "__dlq.errors.topic",
                "__dlq.errors.partition",
                "__dlq.errors.offset",
                "__dlq.errors.message",
                "moontide-traceback",
            ],
        ),
    ] {
        let (topic, dead) = topics(kafka, style, 2, &[]);
        topic.produce(["fine", "bad"].map(|value| Message::value(value).partition(1)));
        let project = failing(kafka, &topic, 1, &format!(", headerStyle = \"{style}\""));

        let daemon = Daemon::start(&project);

        let letter = kafka.read(&dead.name, 2, 1).remove(0);
        let [own, partition, offset, error, traceback] = names;
        assert_eq!(letter.header(own), topic.name);
        let bytes = |name: &str| {
            let found = letter.headers.iter().find(|one| one.0 == name.as_bytes());
            found.and_then(|one| one.1.clone()).unwrap_or_default()
        };
        let numbers = (bytes(partition), bytes(offset));
        if style == "spring" {
            let (partition, offset) = (1_i32.to_be_bytes(), 1_i64.to_be_bytes());
            assert_eq!(numbers, (partition.into(), offset.into()));
        } else {
            assert_eq!(numbers, (b"1".to_vec(), b"1".to_vec()));
        }
        assert!(letter.header(error).contains("does not like it"));
        assert!(letter.header(traceback).contains("stack traceback"));
        if style == "kafka" {
            assert_eq!(letter.header("__dlq.errors.group"), project.group);
            assert_eq!(letter.header("__dlq.errors.delivery.count"), "1");
        }
        daemon.stop();
    }
}

/// The topic is gone while messages fail: their lane waits, nothing is lost and nothing is committed beyond them.
#[test]
fn a_message_waits_until_its_letter_is_acknowledged() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "waits", 1, &[]);
    let project = failing(kafka, &topic, 1, "");
    let mut daemon = Daemon::join(&project);
    dead.delete();

    topic.produce([
        Message::value("fine"),
        Message::value("bad"),
        Message::value("fine"),
    ]);
    daemon.wait_for("the status says why", |daemon| {
        daemon.try_status().is_some_and(|status| {
            status["consumers"]
                .to_string()
                .contains("its dead letter is not sent")
        })
    });
    assert!(daemon.count(|line| line.is_error() && line.mentions(&dead.name)) > 0);
    assert_eq!(project.entries_of("try").len(), 2, "the lane waits");
    daemon.wait_for("what is done is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    let dead = kafka.topic_named(dead.name, 1);

    kafka.read(&dead.name, 1, 1);
    daemon.wait_for("the lane goes on", |_| project.entries_of("try").len() == 3);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// A broker refuses a whole batch as too large: small letters are not punished for being many.
#[test]
fn many_small_letters_are_whole_though_all_together_are_too_large() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "small", 4, &[("max.message.bytes", "4000")]);
    for partition in 0..4 {
        topic.produce(numbered(0..50, partition));
    }
    let project = failing(kafka, &topic, 1, "");

    // No letter waits for another one.
    project.config(&(listener("orders", &topic.name, 1, "") + "ordering = \"none\"\n"));

    let daemon = Daemon::start(&project);

    let letters = kafka.read(&dead.name, 4, 200);
    assert!(
        letters
            .iter()
            .all(|letter| letter.has_header("moontide-traceback"))
    );
    let places: BTreeSet<_> = letters
        .iter()
        .map(|letter| {
            let place = (
                letter.header("moontide-origin-partition"),
                letter.value.clone(),
            );
            assert_eq!(place.0, letter.partition.to_string());
            place
        })
        .collect();
    assert_eq!((letters.len(), places.len()), (200, 200));
    daemon.stop();
}

#[test]
fn a_letter_that_is_too_large_loses_traceback_error_and_at_last_its_value() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "large", 1, &[("max.message.bytes", "3000")]);
    let handler = r#"
        return function(message) error(("é"):rep(#message.value == 2000 and 400 or 10), 0) end
    "#;
    // With all headers but the traceback; without the error; not even so.
    for size in [2200, 2000, 2900] {
        topic.produce([Message::value(vec![b'x'; size])]);
    }
    let project = failing(kafka, &topic, 1, ", tooLarge = \"dropValue\"");
    project.handler("orders.lua", handler);

    let daemon = Daemon::start(&project);

    let letters = kafka.read(&dead.name, 1, 3);
    let has = |index: usize, name: &str| letters[index].has_header(&format!("moontide-{name}"));
    let size = |index: usize| letters[index].value.as_ref().map(Vec::len);
    assert_eq!(
        (size(0), has(0, "error")),
        (Some(2200), true),
        "{:?}",
        letters[0]
    );
    assert_eq!(
        (size(1), has(1, "error")),
        (Some(2000), false),
        "{:?}",
        letters[1]
    );
    assert_eq!((size(2), has(2, "error")), (Some(0), false));
    assert_eq!(letters[2].header("moontide-value-dropped"), "2900");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
}

/// `tooLarge`: by default the message keeps its lane, and the status says why until somebody gives it up; or it is
/// skipped.
#[test]
fn a_letter_that_is_too_large_blocks_its_lane_or_is_skipped() {
    let Some(kafka) = kafka::shared() else { return };
    for policy in ["", ", tooLarge = \"skip\""] {
        let (topic, dead) = topics(kafka, "huge", 1, &[("max.message.bytes", "2000")]);
        topic.produce([Message::value(vec![b'x'; 1950]), Message::value("fine")]);
        let project = failing(kafka, &topic, 1, policy);

        let mut daemon = Daemon::start(&project);

        daemon.wait_line("which and why", |line| {
            line.is_error() && line.field("offset") == "0" && line.mentions("too large")
        });
        if policy.is_empty() {
            daemon.wait_for("the status says why", |daemon| {
                let partition = daemon.status()["consumers"][0]["partitions"][0].clone();
                partition["blocked"]["error"]
                    .as_str()
                    .is_some_and(|error| error.contains("its dead letter is too large"))
            });
            assert_eq!(project.values_of("try").len(), 1, "the lane waits");
            let config = project.path("config.toml");
            let order = ["skip", &topic.name, "0", "0", "--config"];
            assert!(moontide(&order, &config).status.success());
        }
        daemon.wait_for("the lane goes on", |_| {
            kafka.committed(&project.group, &topic.name, 0) == Some(2)
        });
        daemon.stop();
        assert_eq!(dead.watermarks(0), (0, 0));
    }
}

/// A compacted topic takes no record without a key, ever: one such letter holds up itself, not the thirteen beside it.
#[test]
fn a_letter_that_is_refused_blocks_its_lane_or_is_skipped_and_no_other_letter() {
    let Some(kafka) = kafka::shared() else { return };
    for policy in ["", ", refused = \"skip\""] {
        let (topic, dead) = topics(kafka, "compacted", 1, &[("cleanup.policy", "compact")]);
        let keyed = |number: u32| Message::value("bad").key(number.to_string());
        let mut messages: Vec<_> = (0..13).map(keyed).collect();
        messages.insert(3, Message::value("without a key"));
        topic.produce(messages.into_iter().map(|message| message.partition(0)));
        let project = failing(kafka, &topic, 1, policy);
        project.config(&(listener("orders", &topic.name, 1, policy) + "ordering = \"none\"\n"));

        let mut daemon = Daemon::start(&project);

        assert_eq!(kafka.read(&dead.name, 1, 13).len(), 13);
        let line = daemon.wait_line("which and why", |line| {
            line.is_error() && line.field("offset") == "3" && line.mentions("refused")
        });
        assert!(line.field("error").contains("InvalidRecord"));
        assert!(line.field("error").contains("has no key"));
        if policy.is_empty() {
            let expected = format!("moontide skip {} 0 3 --listener orders", topic.name);
            assert_eq!(line.field("skip"), expected);
            let arguments = expected.split(' ').skip(1).chain(["--config"]);
            let config = project.path("config.toml");
            let skipped = moontide(&arguments.collect::<Vec<_>>(), &config);
            assert!(skipped.status.success(), "{skipped:?}");
        }
        daemon.wait_for("all is finished", |_| {
            kafka.committed(&project.group, &topic.name, 0) == Some(14)
        });
        daemon.stop();
    }
}

/// A topic that takes timestamps of one hour ahead at most, as Kafka 4 has it by default: the letter has the present time,
/// and its header the message's. One that Moontide makes takes any.
#[test]
fn a_letter_with_a_timestamp_that_its_topic_refuses_is_sent_with_the_present_time() {
    let Some(kafka) = kafka::shared() else { return };
    let ahead = 4_000_000_000_123;
    for (is_made, settings) in [
        (true, "allowAutoTopicCreation = true"),
        (false, "tooLarge = \"block\""),
    ] {
        let any = [("message.timestamp.after.max.ms", "9223372036854775807")];
        let topic = kafka.topic_with(kafka::unique("ahead"), 1, &any);
        let dead = format!("{}.dead", topic.name);
        if !is_made {
            let hour = [("message.timestamp.after.max.ms", "3600000")];
            kafka.topic_with(dead.clone(), 1, &hour);
        }
        let future = Message {
            timestamp: Some(ahead),
            ..Message::value("bad")
        };
        let messages = [Message::value("bad"), future, Message::value("bad")];
        topic.produce(messages.map(|message| message.partition(0)));
        let project = failing(kafka, &topic, 1, "");
        project.config(
            &(listener("orders", &topic.name, 1, &format!(", {settings}"))
                + "ordering = \"none\"\n"),
        );

        let daemon = Daemon::start(&project);

        let letters = kafka.read(&dead, 1, 3);
        let origin = |letter: &&Record| letter.header("moontide-origin-offset") == "1";
        let letter = letters.iter().find(origin).unwrap();
        assert_eq!(letter.timestamp == Some(ahead), is_made, "{letter:?}");
        let header = letter.header("moontide-origin-timestamp");
        assert_eq!(header, ahead.to_string());
        assert!(letter.has_header("moontide-traceback"));
        daemon.stop();
        assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(3));
    }
}

/// `ctx.deadLetter(reason)`: at once, whatever attempts are left and whatever the handler does after it.
#[test]
fn a_handler_may_dead_letter_its_message() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "asked", 1, &[]);
    topic.produce(["plain", "caught", "fine"].map(Message::value));
    let project = failing(kafka, &topic, 5, "");
    project.handler(
        "orders.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "plain" then ctx.deadLetter("nobody's order") end
          if message.value == "caught" then
            pcall(function() ctx.deadLetter("a broken order") end)
            error("goes on after its verdict")
          end
        end
        "#,
    );

    let mut daemon = Daemon::start(&project);

    let letters = kafka.read(&dead.name, 1, 2);
    for (letter, reason) in letters.iter().zip(["nobody's order", "a broken order"]) {
        let error = letter.header("moontide-error");
        assert!(error.contains(reason), "{error}");
        assert_eq!(letter.header("moontide-attempts"), "1");
    }
    daemon.wait_for("the lane goes on", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(3)
    });
    assert_eq!(project.values_of("try"), ["plain", "caught", "fine"]);
    daemon.stop();
    assert_eq!(dead.watermarks(0), (0, 2));
}

fn topics<'a>(
    kafka: &'a Kafka,
    name: &str,
    partitions: usize,
    settings: &[(&str, &str)],
) -> (Topic<'a>, Topic<'a>) {
    let topic = kafka.topic(name, partitions);
    let dead = kafka.topic_with(format!("{}.dead", topic.name), partitions, settings);
    (topic, dead)
}

fn listener(name: &str, topic: &str, attempts: u32, more: &str) -> String {
    from_beginning(name, topic, "orders")
        + &format!(
            "breaker = false\nretry = {{ attempts = {attempts}, initialDelay = 20 }}\n\
             deadLetter = {{ topic = \"{{topic}}.dead\"{more} }}\n"
        )
}

fn failing(kafka: &Kafka, topic: &Topic<'_>, attempts: u32, more: &str) -> Project {
    let project = Project::new(kafka);
    project.handler("orders.lua", FAILING);
    project.config(&listener("orders", &topic.name, attempts, more));
    project
}
