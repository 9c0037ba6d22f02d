//! `exactlyOnce`: what messages emit and that they are finished is committed together, as readers of committed records
//! see it.

use std::collections::BTreeMap;

use crate::sends::{sending, values};
use crate::support::client::Message;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, send_signal, unique};
use crate::support::project::Project;
use crate::support::records::Record;
use crate::support::wait::{DEADLINE, wait_for};

mod batches; // calls that finish several messages
mod network;
mod reloads; // what changes listeners waits until nothing is finished beyond the position // the request that ends a transaction arrives late, or its answer never

/// Short times, so that a dead process is soon replaced.
const CONSUMER: &str = "sessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"\nrebalanceTimeout = \"20s\"\n\
                        exactlyOnce = true\ntransaction = { interval = \"50ms\", timeout = \"6s\" }\n";

/// Two records for each message, of a listener by key, one of each eight of which takes a moment.
const BODY: &str = r#"
    local number = tonumber(message.value)
    if number % 8 == 0 then tide.sleep("20ms") end
    local headers = { from = tostring(number) }
    ctx.emit{ topic = out, key = message.key, value = message.value, partition = 0, headers = headers }
    ctx.emit{ topic = out, key = message.key, value = message.value, partition = 1, headers = headers }
"#;

fn transform(kafka: &Kafka, listener: &str) -> (Project, String, String) {
    let (project, source, out) = sending(kafka, "", "", 2, BODY);
    let project = project.consumer(CONSUMER);
    let listeners = crate::support::project::from_beginning("sender", &source, "sender");
    project.config(&(listeners + listener));
    (project, source, out)
}

fn messages(numbers: std::ops::Range<u64>) -> Vec<Message> {
    let key = |number: u64| format!("k{}", number % 7);
    numbers
        .map(|number| {
            Message::value(number.to_string())
                .key(key(number))
                .partition(0)
        })
        .collect()
}

/// Each number once in either partition, in the order of its key.
#[track_caller]
fn check(records: &[Record], numbers: std::ops::Range<u64>) {
    for partition in 0..2 {
        let of: Vec<Record> = records
            .iter()
            .filter(|one| one.partition == partition)
            .cloned()
            .collect();
        let found = values(&of);
        let mut sorted: Vec<u64> = found.iter().map(|text| text.parse().unwrap()).collect();
        let mut last: BTreeMap<u64, u64> = BTreeMap::new();
        for number in &sorted {
            let before = last.insert(number % 7, *number);
            assert!(before < Some(*number), "order of a key in {found:?}");
        }
        sorted.sort_unstable();
        let missing: Vec<_> = numbers
            .clone()
            .filter(|one| !sorted.contains(one))
            .collect();
        let count = sorted.len();
        sorted.dedup();
        assert_eq!(
            (missing, count - sorted.len()),
            (vec![], 0),
            "missing, twice"
        );
    }
}

fn committed(kafka: &Kafka, project: &Project, source: &str) -> Option<i64> {
    kafka.committed(&project.group, source, 0)
}

/// The straight way, and after a stop.
#[test]
fn what_messages_emit_is_there_once_over_restarts() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = transform(kafka, "ordering = \"key\"\n");
    for round in 0..3 {
        kafka
            .existing_topic(&source)
            .produce(messages(round * 100..(round + 1) * 100));
        let daemon = Daemon::start(&project);
        let all = (round as usize + 1) * 200;
        check(&kafka.read(&out, 2, all), 0..(round + 1) * 100);
        wait_for("all is committed", DEADLINE, || {
            committed(kafka, &project, &source) == Some((round as i64 + 1) * 100)
        });
        daemon.stop();
    }
    let metadata = kafka.committed_with(&project.group, &source, 0);
    assert_eq!(metadata, Some((300, String::new())));
}

/// The process dies at each step of a transaction, and another one goes on with the same transactional id.
#[test]
fn what_messages_emit_is_there_once_after_a_crash_at_any_step() {
    let Some(kafka) = kafka::shared() else { return };
    // A static member does not wait for the session of the process before.
    let (project, source, out) = sending(kafka, "", "", 2, BODY);
    let several = CONSUMER.replace("interval", "messages = 40, interval");
    let project = project.consumer(&format!(
        "{several}librdkafka = {{ \"group.instance.id\" = \"one\" }}\n"
    ));
    let listener = crate::support::project::from_beginning("sender", &source, "sender");
    project.config(&(listener + "ordering = \"key\"\nmaxInFlight = 50\n"));
    let steps = [
        "transaction-put=2",
        "transaction-before-offsets=2",
        "transaction-after-offsets=2",
        "transaction-before-commit=2",
        "transaction-after-commit=2",
        "before-handler=40",
    ];
    for (round, step) in (0..).zip(steps) {
        let numbers = round * 150..(round + 1) * 150;
        kafka.existing_topic(&source).produce(messages(numbers));
        let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_FAILPOINT", step)]);
        wait_for("the process is killed", DEADLINE, || daemon.ended());
    }
    let daemon = Daemon::start(&project);
    let all = steps.len() as u64 * 150;
    let records = kafka.read(&out, 2, 2 * all as usize);
    check(&records, 0..all);
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(all as i64)
    });
    let status = daemon.status();
    let transactions = &status["consumers"][0]["transactions"];
    assert!(
        transactions["committed"].as_u64() > Some(0),
        "{transactions}"
    );
    assert_eq!(transactions["waiting"], 0);
    daemon.stop();
    assert_eq!(
        kafka.read(&out, 2, 2 * all as usize).len(),
        records.len(),
        "and no more"
    );
}

/// Dead letters, skips and messages that emit nothing, all in the transactions.
#[test]
fn every_outcome_is_in_the_transaction() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\nbreaker = false\n";
    let body = r#"
        if message.value == "dead" then error("always") end
        if message.value == "skip" then ctx.skip("no need") end
        if message.value ~= "none" then ctx.emit{ topic = out, value = message.value } end
        "#;
    let (project, source, out) = sending(kafka, "", "", 1, body);
    let project = project.consumer(CONSUMER);
    let listeners = crate::support::project::from_beginning("sender", &source, "sender");
    project.config(&(listeners + listener));
    let values_of = ["a", "none", "dead", "b", "skip", "none", "c"];
    let all = values_of.map(|value| Message::value(value).key("k").partition(0));
    kafka.existing_topic(&source).produce(all);
    let daemon = Daemon::start(&project);
    assert_eq!(values(&kafka.read(&out, 1, 3)), ["a", "b", "c"]);
    let letters = kafka.read(&format!("{source}.dead"), 1, 1);
    assert_eq!(values(&letters), ["dead"]);
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(7)
    });
    daemon.stop();
}

/// Calls that would leave the transaction raise, and say what to do.
#[test]
fn what_is_not_in_the_transaction_raises() {
    let Some(kafka) = kafka::shared() else { return };
    let sections =
        "[producers.same]\n[producers.other]\nbrokers = [\"127.0.0.1:1\"]\ntimeout = \"100ms\"\n";
    let body = r#"
        local calls = {
          function() ctx.emit{ topic = out, value = "x", producer = "same" } end,
          function() tide.kafka.send{ topic = out, value = "x" } end,
          function() tide.kafka.producer("same").send{ topic = out, value = "x" } end,
          function() tide.kafka.producer("other").send{ topic = out, value = "x" } end,
          function() ctx.commitOffsets(message.offset + 1) end,
        }
        for index, call in ipairs(calls) do
          local ok, reason = pcall(call)
          record.line("call" .. index, message, ctx, tostring(reason):gsub("\n.*", ""))
        end
        "#;
    let (project, source, _) = sending(kafka, "", sections, 1, body);
    let project = project.consumer(CONSUMER);
    project.config(&crate::support::project::from_beginning(
        "sender", &source, "sender",
    ));
    kafka.existing_topic(&source).produce(messages(0..1));
    let daemon = Daemon::start(&project);
    let expected = [
        "`producer` is not possible where the consumer has `exactlyOnce`",
        "use `ctx.emit`, or a producer of other brokers",
        "use `ctx.emit`, or a producer of other brokers",
        "no broker answered within 100ms",
        "consumer `default` has `exactlyOnce`, so its transactions commit the offsets; remove the call",
    ];
    for (index, expected) in (1..).zip(expected) {
        let event = format!("call{index}");
        let found = project
            .wait_for_entries(&event, 1, DEADLINE)
            .remove(0)
            .extra;
        assert!(found.contains(expected), "{index}: {found}");
    }
    daemon.stop();
}

/// A record that its topic never accepts: its message fails by its policy, and everything else is there once.
#[test]
fn a_refused_record_fails_its_message_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\nordering = \"key\"\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\nbreaker = false\n";
    let compacted = kafka.topic_with(unique("compacted"), 1, &[("cleanup.policy", "compact")]);
    let small = kafka.topic_with(unique("small"), 1, &[("max.message.bytes", "20000")]);
    let body = r#"
        local number = tonumber(message.value)
        local headers = { from = message.value }
        ctx.emit{ topic = out, key = message.key, value = message.value, partition = 0, headers = headers }
        record.line("run", message, ctx)
        if number == 5 then
          ctx.emit{ topic = "@COMPACTED@", value = "no key" }
        elseif number == 11 then
          ctx.emit{ topic = out, value = "no such partition", partition = 77 }
        elseif number == 17 then
          ctx.emit{ topic = "@SMALL@", value = ("x"):rep(30000) }
        end
        "#
    .replace("@COMPACTED@", &compacted.name)
    .replace("@SMALL@", &small.name);
    let (project, source, out) = sending(kafka, "", "", 1, &body);
    let project = project.consumer(CONSUMER);
    let listeners = crate::support::project::from_beginning("sender", &source, "sender");
    project.config(&(listeners + listener));
    kafka.existing_topic(&source).produce(messages(0..60));
    let daemon = Daemon::start(&project);
    let letters = kafka.read(&format!("{source}.dead"), 1, 3);
    let mut dead = values(&letters);
    dead.sort_unstable();
    assert_eq!(dead, ["11", "17", "5"]);
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(60)
    });
    let found = values(&kafka.read(&out, 1, 57));
    let mut sorted: Vec<u64> = found.iter().map(|one| one.parse().unwrap()).collect();
    let mut last = BTreeMap::new();
    for number in &sorted {
        let before = last.insert(number % 7, *number);
        assert!(before < Some(*number), "order of a key in {found:?}");
    }
    sorted.sort_unstable();
    let expected: Vec<u64> = (0..60).filter(|one| ![5, 11, 17].contains(one)).collect();
    assert_eq!(sorted, expected);
    for number in [5, 11, 17] {
        let runs = project.values_of("run");
        let runs = runs
            .iter()
            .filter(|one| **one == number.to_string())
            .count();
        assert_eq!(runs, 2, "each attempt of {number} runs");
    }
    let status = daemon.status();
    let refused = &status["consumers"][0]["transactions"]["refused"];
    // The one that is too large was known to be before.
    assert_eq!(refused, 4, "{status}");
    daemon.stop();
}

/// A second member joins and leaves under load, and the first one is frozen for longer than its session.
#[test]
fn what_messages_emit_is_there_once_over_rebalances_and_a_frozen_member() {
    let Some(kafka) = kafka::shared() else { return };
    for assignor in ["cooperative-sticky", "range"] {
        let source = kafka.topic_named(unique("source"), 4).name;
        let out = kafka.topic_named(unique("out"), 2).name;
        let consumer = format!("{CONSUMER}partitionAssigners = [\"{assignor}\"]\n");
        let project = Project::new(kafka).consumer(&consumer);
        crate::sends::sender(&project, &out, BODY);
        let listeners = crate::support::project::from_beginning("sender", &source, "sender");
        project.config(&(listeners + "ordering = \"key\"\n"));
        let other = project.another_member();
        let partition = |number: u64| i32::try_from(number % 7 % 4).unwrap();
        let produce = |numbers: std::ops::Range<u64>| {
            let all = numbers.clone().zip(messages(numbers));
            let all = all.map(|(number, message)| message.partition(partition(number)));
            kafka.existing_topic(&source).produce(all);
        };
        produce(0..600);
        let first = Daemon::start(&project);
        kafka.read(&out, 2, 50);
        let mut second = Daemon::start(&other);
        second.wait_line("an assignment", |line| line.is("assigned"));
        produce(600..1200);
        send_signal(first.pid(), libc::SIGSTOP);
        second.wait_for("the other member has all", |daemon| {
            let partitions = daemon.status()["consumers"][0]["partitions"].clone();
            partitions.as_array().is_some_and(|all| all.len() == 4)
        });
        send_signal(first.pid(), libc::SIGCONT);
        produce(1200..1800);
        second.stop();
        wait_for("all is committed", DEADLINE, || {
            let sum = (0..4).filter_map(|one| kafka.committed(&project.group, &source, one));
            sum.sum::<i64>() == 1800
        });
        check(&kafka.read(&out, 2, 3600), 0..1800);
        first.stop();
    }
}

/// Of two partitions, the first message waits, and all behind it are finished. Then the process dies.
fn with_finished_beyond(kafka: &Kafka, body: &str) -> (Project, String, String) {
    let source = kafka.topic_named(unique("source"), 2).name;
    let out = kafka.topic_named(unique("out"), 2).name;
    let project = Project::new(kafka).consumer(&format!(
        "{CONSUMER}librdkafka = {{ \"group.instance.id\" = \"one\" }}\n"
    ));
    crate::sends::sender(&project, &out, body);
    project.config(&listener("sender", &source));
    let all = messages(0..14).into_iter().zip(0..);
    let all = all.map(|(message, number)| message.partition(number / 7));
    kafka.existing_topic(&source).produce(all);
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("what is beyond is committed", |_| {
        let is_beyond = |(offset, text): (i64, String)| offset == 0 && text.contains("finished");
        (0..2).all(|one| {
            kafka
                .committed_with(&project.group, &source, one)
                .is_some_and(is_beyond)
        })
    });
    kafka.read(&out, 2, 24);
    daemon.kill();
    (project, source, out)
}

fn listener(name: &str, source: &str) -> String {
    crate::support::project::from_beginning(name, source, "sender")
        + "ordering = \"key\"\nmaxInFlight = 50\n"
}

/// Messages beyond the position are finished for a listener of another name: nothing of them may run twice, unless an
/// operator accepts it.
#[test]
fn a_renamed_listener_holds_what_another_one_has_finished() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        if tonumber(message.value) % 7 == 0 then tide.sleep("25s") end
        ctx.emit{ topic = out, value = message.value, partition = 0 }
        ctx.emit{ topic = out, value = message.value, partition = 1 }
        "#;
    let (project, source, out) = with_finished_beyond(kafka, body);

    project.config(&listener("renamed", &source));
    crate::sends::sender(&project, &out, &body.replace("25s", "1ms"));
    let mut daemon = Daemon::start(&project);
    for _ in 0..2 {
        let line = daemon.wait_line("the partition is held", |line| {
            line.is("the partition is held")
        });
        let partition = line.field("partition");
        let command = format!("`moontide accept {source} {partition}`");
        assert!(line.is_error() && line.mentions(&command), "{line:?}");
        assert!(line.field("error").contains("former names"), "{line:?}");
    }
    let accept = |topic: &str, partition: &str, code: i32, words: &str| {
        crate::hands::check(&project, &["accept", topic, partition], code, words);
    };
    accept(
        "nothing",
        "0",
        1,
        "no consumer has subscribed to topic `nothing`",
    );
    accept(&source, "7", 1, "is not assigned to this daemon");
    accept(
        &source,
        "0",
        0,
        "the messages that are finished beyond its position run again",
    );
    wait_for("the accepted partition is done", DEADLINE, || {
        committed(kafka, &project, &source) == Some(7)
    });
    daemon.wait_line("who accepted it", |line| {
        line.is("an operator accepted that messages run again")
    });
    accept(&source, "0", 1, "is not held");
    daemon.kill();

    // The former name: the first message of the other partition runs, and no other.
    project.config(&listener("sender", &source));
    let daemon = Daemon::start(&project);
    wait_for("all is committed", DEADLINE, || {
        kafka.committed(&project.group, &source, 1) == Some(7)
    });
    let records = kafka.read(&out, 2, 2 * (6 + 7 + 7));
    let of_other = |one: &&Record| value_of(one) >= 7;
    check(
        &records.iter().filter(of_other).cloned().collect::<Vec<_>>(),
        7..14,
    );
    let accepted = records.iter().filter(|one| value_of(one) < 7).count();
    assert_eq!(
        accepted,
        2 * (6 + 7),
        "once by the former listener, and once again"
    );
    daemon.stop();
}

fn value_of(record: &Record) -> u64 {
    values(std::slice::from_ref(record))[0].parse().unwrap()
}

/// A topic that is missing holds its lane; the others go on, and it goes on when the topic is there.
#[test]
fn a_missing_topic_holds_its_lane_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let missing = unique("missing");
    let body = r#"
        local topic = message.value == "0" and "@MISSING@" or out
        ctx.emit{ topic = topic, value = message.value, key = message.key }
        "#
    .replace("@MISSING@", &missing);
    let (project, source, out) = sending(kafka, "", "", 1, &body);
    let project = project.consumer(CONSUMER);
    let listeners = crate::support::project::from_beginning("sender", &source, "sender");
    project.config(&(listeners + "ordering = \"key\"\n"));
    kafka.existing_topic(&source).produce(messages(0..10));
    let mut daemon = Daemon::start(&project);
    let others: Vec<String> = values(&kafka.read(&out, 1, 8));
    assert!(
        !others.contains(&"7".to_owned()),
        "it is behind 0: {others:?}"
    );
    daemon.wait_for("the status shows why", |daemon| {
        daemon
            .status()
            .to_string()
            .contains(&format!("topic `{missing}` does not exist"))
    });
    kafka.topic_named(missing.clone(), 1);
    assert_eq!(values(&kafka.read(&missing, 1, 1)), ["0"]);
    kafka.read(&out, 1, 9);
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(10)
    });
    daemon.stop();
}
