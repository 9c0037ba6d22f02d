//! Emitted records whose brokers do not answer, and daemons that end meanwhile.

use crate::sends::{sender, sending, values};
use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

use super::A_WHILE;

/// Emits by a producer of another broker.
fn body(out: &str) -> String {
    r#"
    ctx.emit{ topic = "@OUT@", value = message.value, producer = "other" }
    record.line("run", message, ctx)
    "#
    .replace("@OUT@", out)
}

fn sections(own: &Kafka, keys: &str) -> String {
    format!(
        "[producers.other]\nbrokers = [\"{}\"]\n{keys}",
        own.bootstrap()
    )
}

/// A frozen broker costs no attempt: the message waits with its lane, the status says why, and nothing is committed.
#[test]
fn brokers_that_do_not_answer_cost_no_attempt() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let out = own.topic("frozen", 1);
    let sections = sections(&own, "timeout = \"1s\"\n");
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\nonError = \"skip\"\n";
    let (project, source, _) = sending(kafka, listener, &sections, 1, &body(&out.name));
    let topic = kafka.existing_topic(&source);
    topic.produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    let committed = || kafka.committed(&project.group, &source, 0);
    daemon.wait_for("the first message is committed", |_| committed() == Some(1));
    own.freeze();
    topic.produce(numbered(1..3, 0));
    // On a slow machine the first message may have waited, too: for the first connection.
    let line = daemon.wait_line("the log says so", |line| {
        line.is("emitted records are not acknowledged: the message waits with its lane")
            && line.field("offset") != "0"
    });
    assert!(
        line.field("error").contains("no acknowledgement within 1s"),
        "{line:?}"
    );
    assert!(line.field("skip").contains("moontide skip"), "{line:?}");
    let status = daemon.status().to_string();
    assert!(
        status.contains("its records are not acknowledged: `ctx.emit`"),
        "{status}"
    );
    stays("nothing is committed", A_WHILE, || committed() == Some(1));
    own.thaw();
    daemon.wait_for("all is committed", |_| committed() == Some(3));
    let runs = project.entries_of("run");
    assert!(runs.iter().all(|one| one.attempt == 1), "{runs:?}");
    // Records that were late may be there twice. None is missing, and the last copies stand in order.
    let end = out.watermarks(0).1 as usize;
    let values = values(&own.read(&out.name, 1, end));
    assert_eq!(values[0], "0");
    assert_eq!(values[values.len() - 2..], ["1", "2"], "{values:?}");
    daemon.stop();
}

/// The topic comes later: the message waits for it, and an operator may give it up.
#[test]
fn a_missing_topic_holds_the_lane_until_it_is_made() {
    let Some(kafka) = kafka::shared() else { return };
    let missing = unique("comes-later");
    let body = r#"
        if message.value == "1" then ctx.emit{ topic = "never-made", value = "v" } return end
        ctx.emit{ topic = "@OUT@", value = message.value }
        record.line("run", message, ctx)
        "#
    .replace("@OUT@", &missing);
    let (project, source, _) = sending(kafka, "onError = \"skip\"\n", "", 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    let is_it = |line: &crate::support::daemon::Line| {
        line.is("emitted records are not acknowledged: the message waits with its lane")
    };
    let line = daemon.wait_line("the log says so", is_it);
    let error = line.field("error");
    assert!(
        error.contains(&missing) && error.contains("create the topic"),
        "{error}"
    );
    let made = kafka.topic_named(missing, 1);
    assert_eq!(values(&kafka.read(&made.name, 1, 1)), ["0"]);

    let line = daemon.wait_line("the next one waits", |line| {
        is_it(line) && line.field("offset") == "1"
    });
    assert!(line.field("error").contains("never-made"), "{line:?}");
    let arguments = [
        "skip", &source, "0", "1", "--reason", "no topic", "--config",
    ];
    let output = crate::support::daemon::moontide(&arguments, &project.path("config.toml"));
    assert!(output.status.success(), "{output:?}");
    assert_eq!(values(&kafka.read(&made.name, 1, 2)), ["0", "2"]);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source, 0) == Some(3)
    });
    daemon.stop();
}

/// Records that are in no request when their partition moves are written by its next owner alone, and those of the
/// partition that stays are written once: the two owners do not write beside each other.
#[test]
fn a_partition_that_moves_takes_its_unsent_records_along() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let source = kafka.topic("moves", 2);
    let out = own.topic("moved", 2);
    let consumer = "partitionAssigners = [\"cooperative-sticky\"]\nheartbeatInterval = \"300ms\"";
    let sections = sections(&own, "") + "[daemon]\ndrainDeadline = \"1s\"\n";
    let project = Project::new(kafka).consumer(consumer).sections(&sections);
    let body = r#"
        ctx.emit{ topic = out, value = message.value, partition = ctx.partition, producer = "other" }
        record.line("run", message, ctx)
        "#;
    sender(&project, &out.name, body);
    project.config(&from_beginning("sender", &source.name, "sender"));
    let committed = |offset| {
        let of = |one| kafka.committed(&project.group, &source.name, one);
        (0..2).all(|one| of(one) == Some(offset))
    };
    source.produce([numbered(0..1, 0), numbered(10..11, 1)].concat());
    let mut first = Daemon::join(&project);
    first.wait_for("the way of the records is known", |_| committed(1));
    own.kill();
    source.produce([numbered(1..6, 0), numbered(11..16, 1)].concat());
    project.wait_for_entries("run", 12, DEADLINE);
    let second = Daemon::start(&project.another_member());
    // Its producer has never met the broker, so that the lane waits with its first message.
    first.wait_for("the next owner emits", |_| {
        project.entries_of("run").len() > 12
    });

    own.start();
    first.wait_for("all is committed", |_| committed(6));
    let written = (0..2).map(|one| out.watermarks(one).1);
    assert_eq!(written.collect::<Vec<_>>(), [6, 6], "each record once");
    let mut found = own.read(&out.name, 2, 12);
    found.sort_by_key(|one| one.partition);
    let wanted = (0..6).chain(10..16).map(|number: u64| number.to_string());
    assert_eq!(values(&found), wanted.collect::<Vec<_>>());
    first.stop();
    second.stop();
}

/// A stop does not wait longer than its deadline for a broker that is away, and commits nothing that is not written.
#[test]
fn a_stop_gives_up_what_is_not_acknowledged() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let out = own.topic("stopped", 1);
    let sections = sections(&own, "") + "[daemon]\ndrainDeadline = \"1s\"\n";
    let (project, source, _) = sending(kafka, "", &sections, 1, &body(&out.name));
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    own.freeze();
    let daemon = Daemon::start(&project);
    project.wait_for_entries("run", 1, DEADLINE);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &source, 0), Some(0));
    own.thaw();
    let daemon = Daemon::start(&project);
    project.wait_for_entries("run", 2, DEADLINE);
    assert!(values(&own.read(&out.name, 1, 1)).contains(&"0".to_owned()));
    daemon.stop();
}

/// Killed again and again: every message emits at least once.
#[test]
fn no_record_is_missing_after_kills() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "ordering = \"key\"\n",
        "",
        1,
        r#"
        if tonumber(message.value) % 7 == 0 then tide.sleep(5) end
        ctx.emit{ topic = out, value = message.value }
        record.line("run", message, ctx)
        "#,
    );
    let keyed = numbered(0..600, 0).into_iter().enumerate();
    let keyed = keyed.map(|(number, one)| one.key((number % 20).to_string()));
    kafka.existing_topic(&source).produce(keyed);
    for round in 1..4 {
        let mut daemon = Daemon::start(&project);
        daemon.wait_for("messages are on their way", |_| {
            project.entries_of("run").len() > round * 100
        });
        daemon.kill();
    }
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source, 0) == Some(600)
    });
    let end = kafka.existing_topic(&out).watermarks(0).1;
    let mut found: Vec<u64> = values(&kafka.read(&out, 1, end as usize))
        .iter()
        .map(|value| value.parse().unwrap())
        .collect();
    found.sort_unstable();
    found.dedup();
    assert_eq!(found, (0..600).collect::<Vec<_>>());
    daemon.stop();
}
