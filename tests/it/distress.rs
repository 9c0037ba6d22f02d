//! When nothing works any more, handlers or dead letters: what is taken, what is sent, and that nothing is lost.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, from_beginning};
use crate::support::tally::Tally;
use crate::support::wait::{DEADLINE, stays};

/// Everything fails, until somebody repairs it.
const BROKEN: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  error("the database is away")
end
"#;

const MENDED: &str = r#"
local record = require "record"
return function(message, ctx) record.line("end", message, ctx) end
"#;

/// Every message ends by `end` or by a dead letter.
const SOME_FAIL: &str = r#"
local record = require "record"
return function(message, ctx)
  if message.offset % 50 == 7 then error("bad") end
  record.line("end", message, ctx)
end
"#;

fn topics<'a>(kafka: &'a Kafka, name: &str, partitions: usize) -> (Topic<'a>, Topic<'a>) {
    let topic = kafka.topic(name, partitions);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), partitions);
    (topic, dead)
}

fn listener(topic: &Topic<'_>, keys: &str) -> String {
    from_beginning("orders", &topic.name, "orders")
        + "onError = \"deadLetter\"\nretry = { attempts = 1 }\n"
        + keys
}

/// Partition and offset of the messages whose letters lie there.
fn origins(kafka: &Kafka, dead: &str, partitions: i32, count: usize) -> BTreeSet<(i32, i64)> {
    let letters = kafka.read(dead, partitions, count);
    let number = |letter: &crate::support::records::Record, name: &str| -> i64 {
        letter
            .header(&format!("moontide-origin-{name}"))
            .parse()
            .unwrap()
    };
    let place = |letter| (number(letter, "partition") as i32, number(letter, "offset"));
    letters.iter().map(place).collect()
}

/// Every message fails: after a few of them nothing is taken, nothing more lies in the dead-letter topic, and what was
/// not taken is handled by the mended handler.
fn check_everything_fails(keys: &str, letters_max: i64, why: &str) {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "everything", 2);
    // Too long for a stop that waits for the breaker.
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"1m\"");
    project.handler("orders.lua", BROKEN);
    project.config(&listener(&topic, keys));
    topic.produce((0..2).flat_map(|partition| numbered(0..150, partition)));
    let letters = || (0..2).map(|number| dead.watermarks(number).1).sum::<i64>();

    let mut daemon = Daemon::start(&project);
    let line = daemon.wait_line("it opens", |line| line.mentions("breaker opened"));
    assert!(
        line.is_error() && line.field("why").contains(why),
        "{line:?}"
    );
    stays("few letters lie there", Duration::from_millis(1500), || {
        letters() <= letters_max
    });
    let tried = project.entries_of("try").len() as i64;
    assert!(tried <= letters_max + 2, "{tried} were taken");
    assert!(!daemon.ended());

    project.replace_handler("orders.lua", MENDED);
    assert_eq!(daemon.reload().0, 0);
    daemon.wait_for("each message has its outcome", |_| {
        (0..2).all(|number| kafka.committed(&project.group, &topic.name, number) == Some(150))
    });
    daemon.stop();
    let sent = letters();
    assert!((1..=letters_max).contains(&sent), "{sent}");
    let mut places = origins(kafka, &dead.name, 2, sent as usize);
    let ends = project.entries_of("end");
    places.extend(ends.iter().map(|one| (one.partition, one.offset)));
    assert_eq!(places.len(), 300, "none is lost");
}

#[test]
fn when_every_message_fails_the_breaker_opens_and_few_are_dead_letters() {
    check_everything_fails(
        "breaker = { failureRatio = 0.5, window = \"100ms\", minimumRuns = 12, pause = \"10m\" }\n\
         deadLetter = { topic = \"{topic}.dead\" }\n",
        100,
        "runs failed",
    );
}

#[test]
fn no_more_dead_letters_leave_in_a_minute_than_may() {
    check_everything_fails(
        "breaker = { minimumRuns = 100000, pause = \"10m\" }\n\
         deadLetter = { topic = \"{topic}.dead\", maxPerMinute = 7 }\n",
        7,
        "dead letters",
    );
}

/// The dead-letter topic is gone while many messages come: those that fail wait, the others go on, the memory does not
/// grow with them, nothing is committed beyond what waits, and each of those has its letter when the topic is back.
#[test]
fn while_dead_letters_cannot_be_sent_nothing_is_lost_and_memory_stays_flat() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "down", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", SOME_FAIL);
    let keys = "ordering = \"none\"\nbreaker = false\ndeadLetter = { topic = \"{topic}.dead\" }\n";
    project.config(&listener(&topic, keys));
    let mut daemon = Daemon::join(&project);
    dead.delete();
    let mut tally = Tally::new(&project);
    let mut finish = |daemon: &mut Daemon, produced: u64| {
        daemon.wait_for("the others go on", |_| {
            tally.update();
            tally.finished() == produced - produced / 50
        });
    };

    topic.produce(numbered(0..5_000, 0));
    finish(&mut daemon, 5_000);
    let early = daemon.memory();
    topic.produce(numbered(5_000..20_000, 0));
    finish(&mut daemon, 20_000);
    let late = daemon.memory();
    assert!(late < early + (48 << 20), "from {early} to {late} bytes");
    daemon.wait_line("the log says so", |line| {
        line.is_error() && line.mentions("record for another topic not sent")
    });
    assert!(kafka.committed(&project.group, &topic.name, 0).unwrap_or(0) <= 7);

    let dead = kafka.topic_named(dead.name, 1);
    let config = project.path("config.toml");
    daemon.wait_for("each has its letter", |_| {
        // Their next attempts need not be waited for.
        moontide(&["retry", "--config"], &config);
        dead.watermarks(0).1 >= 400
    });
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(20_000)
    });
    daemon.stop();
    let expected: BTreeSet<_> = (0..400).map(|number| (0, number * 50 + 7)).collect();
    assert_eq!(origins(kafka, &dead.name, 1, 400), expected);
}

/// A letter that cannot be sent does not hold up a stop; its message stays, and has its letter after the next start.
#[test]
fn a_letter_that_cannot_be_sent_does_not_hold_up_a_stop() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "stop", 1);
    let project = Project::new(kafka).sections("[daemon]\ndrainDeadline = \"2s\"");
    project.handler("orders.lua", SOME_FAIL);
    let keys = "breaker = false\ndeadLetter = { topic = \"{topic}.dead\" }\n";
    project.config(&listener(&topic, keys));
    let mut daemon = Daemon::join(&project);
    dead.delete();
    topic.produce(numbered(0..20, 0));
    daemon.wait_line("it is not sent", |line| {
        line.mentions("record for another topic not sent")
    });

    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(7));

    let dead = kafka.topic_named(dead.name, 1);
    let mut daemon = Daemon::start(&project);
    assert_eq!(origins(kafka, &dead.name, 1, 1), BTreeSet::from([(0, 7)]));
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(20)
    });
    daemon.stop();
    assert_eq!(project.entries_of("end").len(), 19);
}

/// A stop amid a stream of dead letters: what is committed has its letter.
#[test]
fn a_stop_amid_dead_letters_commits_only_what_is_there() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "amid", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", BROKEN);
    let keys = "ordering = \"none\"\nbreaker = false\n\
                deadLetter = { topic = \"{topic}.dead\", maxPerMinute = 100000 }\n";
    project.config(&listener(&topic, keys));
    topic.produce(numbered(0..3_000, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it is amid them", |_| project.entries_of("try").len() > 200);

    daemon.stop();

    let committed = kafka.committed(&project.group, &topic.name, 0).unwrap_or(0);
    let sent = dead.watermarks(0).1;
    let there = origins(kafka, &dead.name, 1, sent as usize);
    let missing: Vec<_> = (0..committed)
        .filter(|offset| !there.contains(&(0, *offset)))
        .collect();
    assert!(
        missing.is_empty(),
        "committed {committed}, no letter of {missing:?}"
    );
    let daemon = Daemon::start(&project);
    crate::support::wait::wait_for("the rest follows", DEADLINE, || {
        kafka.committed(&project.group, &topic.name, 0) == Some(3_000)
    });
    daemon.stop();
    let sent = dead.watermarks(0).1;
    assert_eq!(origins(kafka, &dead.name, 1, sent as usize).len(), 3_000);
}

/// A reload that names another dead-letter topic: what waits for the old one goes there, without another run.
#[test]
fn a_letter_that_waits_goes_where_a_reload_says() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, dead) = topics(kafka, "renamed", 1);
    let other = kafka.topic_named(format!("{}.other", topic.name), 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", BROKEN);
    let keys =
        |name: &str| format!("breaker = false\ndeadLetter = {{ topic = \"{{topic}}.{name}\" }}\n");
    project.config(&listener(&topic, &keys("dead")));
    let mut daemon = Daemon::join(&project);
    dead.delete();
    topic.produce([Message::value("bad")]);
    daemon.wait_line("it is not sent", |line| {
        line.mentions("record for another topic not sent")
    });

    project.config(&listener(&topic, &keys("other")));
    let (code, printed) = daemon.reload();
    assert_eq!(code, 0, "{printed}");

    assert_eq!(origins(kafka, &other.name, 1, 1), BTreeSet::from([(0, 0)]));
    assert_eq!(project.entries_of("try").len(), 1);
    daemon.wait_for("it is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    daemon.stop();
}
