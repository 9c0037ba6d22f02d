//! Batches with `exactlyOnce`: the messages that one call has finished, and their records, are committed together.

use std::collections::BTreeMap;

use super::{CONSUMER, check, committed, messages};
use crate::sends::values;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::records::Record;
use crate::support::wait::{DEADLINE, wait_for};

/// `body` is the handler of a batch. Partition 2 of the output has a line for each call, with what it has finished.
fn project(kafka: &Kafka, consumer: &str, listener: &str, body: &str) -> (Project, String, String) {
    let source = kafka.topic_named(unique("source"), 1).name;
    let out = kafka.topic_named(unique("out"), 3).name;
    let project = Project::new(kafka).consumer(consumer);
    let lua = format!(
        "local record, tide = require \"record\", require \"tide\"\nlocal out = \"{out}\"\n\
         local function say(ctx, numbers)\n\
           ctx.emit{{ topic = out, partition = 2, value = table.concat(numbers, \" \") }}\n\
         end\n\
         return function(batch, ctx)\n{body}\nend\n"
    );
    project.handler("calls.lua", &lua);
    let listeners = from_beginning("calls", &source, "calls");
    project.config(&(listeners + "eachBatch = true\nordering = \"key\"\n" + listener));
    (project, source, out)
}

/// Every number is in the line of one call.
#[track_caller]
fn check_calls(records: &[Record], expected: impl Iterator<Item = u64>) {
    let of_calls = records.iter().filter(|one| one.partition == 2).cloned();
    let lines = values(&of_calls.collect::<Vec<_>>());
    let numbers = lines.iter().flat_map(|line| line.split_whitespace());
    let mut numbers: Vec<u64> = numbers.map(|one| one.parse().unwrap()).collect();
    numbers.sort_unstable();
    assert_eq!(numbers, expected.collect::<Vec<_>>(), "{lines:?}");
}

/// The process dies at each step of a transaction. What a call has emitted is there with all of its messages, or not at
/// all.
#[test]
fn what_a_call_has_finished_is_there_once_and_whole_after_a_crash_at_any_step() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        local numbers = {}
        for i, message in ipairs(batch.messages) do
          if tonumber(message.value) % 16 == 0 then tide.sleep("10ms") end
          numbers[i] = message.value
          for partition = 0, 1 do
            ctx.emit{ topic = out, key = message.key, value = message.value, partition = partition }
          end
          ctx.resolveOffset(message.offset)
        end
        assert(ctx.commitOffsetsIfNecessary() == nil)
        assert(ctx.commitOffsetsIfNecessary(ctx.uncommittedOffsets()) == nil)
        -- What the return resolves.
        say(ctx, numbers)
        "#;
    let several = CONSUMER.replace("interval", "messages = 40, interval");
    let consumer = format!("{several}librdkafka = {{ \"group.instance.id\" = \"one\" }}\n");
    let listener = "batch = { messages = 8, wait = 0 }\nmaxInFlight = 50\n";
    let (project, source, out) = project(kafka, &consumer, listener, body);
    let steps = [
        "transaction-put=2",
        "transaction-before-offsets=2",
        "transaction-after-offsets=2",
        "transaction-before-commit=2",
        "transaction-after-commit=2",
    ];
    for (round, step) in (0..).zip(steps) {
        let numbers = round * 150..(round + 1) * 150;
        kafka.existing_topic(&source).produce(messages(numbers));
        let mut daemon = Daemon::spawn_with(&project, &[("MOONTIDE_FAILPOINT", step)]);
        wait_for("the process is killed", DEADLINE, || daemon.ended());
    }
    let daemon = Daemon::start(&project);
    let all = steps.len() as u64 * 150;
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(all as i64)
    });
    let records = kafka.read(&out, 3, 2 * all as usize + 1);
    check(&records, 0..all);
    check_calls(&records, 0..all);
    daemon.stop();
}

/// A record that only a broker refuses, and an error of the handler: both messages are found, and everything else is
/// there once.
#[test]
fn a_refused_record_and_an_error_cost_a_batch_only_their_messages() {
    let Some(kafka) = kafka::shared() else { return };
    let compacted = kafka.topic_with(unique("compacted"), 1, &[("cleanup.policy", "compact")]);
    let body = r#"
        local numbers = {}
        for i, message in ipairs(batch.messages) do
          local number = tonumber(message.value)
          numbers[i] = message.value
          if #batch == 1 then record.line("alone", message, ctx) end
          if number == 11 then error("always") end
          if number == 5 then
            ctx.emit{ topic = "@COMPACTED@", value = "no key", of = message }
          end
          ctx.emit{ topic = out, key = message.key, value = message.value, partition = 0, of = message }
        end
        say(ctx, numbers)
        "#
    .replace("@COMPACTED@", &compacted.name);
    let listener = "batch = { messages = 8, wait = 0 }\nretry = { attempts = 2, initialDelay = \"5ms\" }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\nbreaker = false\n";
    let (project, source, out) = project(kafka, CONSUMER, listener, &body);
    kafka.existing_topic(&source).produce(messages(0..80));
    let daemon = Daemon::start(&project);
    let mut dead = values(&kafka.read(&format!("{source}.dead"), 1, 2));
    dead.sort_unstable();
    assert_eq!(dead, ["11", "5"]);
    wait_for("all is committed", DEADLINE, || {
        committed(kafka, &project, &source) == Some(80)
    });
    let records = kafka.read(&out, 3, 79);
    let expected = || (0..80).filter(|one| ![5, 11].contains(one));
    check_calls(&records, expected());
    let of_messages = records.iter().filter(|one| one.partition == 0).cloned();
    let found = values(&of_messages.collect::<Vec<_>>());
    let mut sorted: Vec<u64> = found.iter().map(|one| one.parse().unwrap()).collect();
    let mut last = BTreeMap::new();
    for number in &sorted {
        let before = last.insert(number % 7, *number);
        assert!(before < Some(*number), "order of a key in {found:?}");
    }
    sorted.sort_unstable();
    assert_eq!(sorted, expected().collect::<Vec<_>>());
    let alone = project.values_of("alone");
    for number in ["5", "11"] {
        let runs = alone.iter().filter(|one| *one == number).count();
        assert!(runs >= 2, "each attempt of {number} runs alone: {alone:?}");
    }
    daemon.stop();
}
