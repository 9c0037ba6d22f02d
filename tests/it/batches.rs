//! Batches: `eachBatch`, as kafkajs has it, and the search for the message that fails one.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for};

const MANUAL: &str = "runConfig = { autoCommit = false }\n";
const QUICK: &str = "retry = { initialDelay = \"5ms\" }\nbreaker = false\n";

/// A project whose handler notes each run as `run`, with its values, and each message that it does as `done`.
fn project<'k>(kafka: &'k Kafka, listener: &str, body: &str) -> (Project, Topic<'k>) {
    let topic = kafka.topic("batches", 1);
    let project = Project::new(kafka);
    write(&project, body);
    project.config(&(from_beginning("batches", &topic.name, "batches.eachBatch") + listener));
    (project, topic)
}

fn handler(body: &str) -> String {
    format!(
        r#"
        local record = require "record"
        local tide = require "tide"
        local M, runs = {{}}, 0
        function M.eachBatch(batch, ctx)
          runs = runs + 1
          local values = {{}}
          for i, message in ipairs(batch.messages) do values[i] = message.value end
          record.note("run", table.concat(values, " "))
          local function done(upto)
            for i, message in ipairs(batch.messages) do
              if i <= (upto or #batch) then record.line("done", message, ctx) end
            end
          end
          {body}
        end
        return M
        "#
    )
}

fn write(project: &Project, body: &str) {
    project.handler("batches.lua", &handler(body));
}

fn runs(project: &Project) -> Vec<String> {
    let runs = project.entries_of("run").into_iter();
    runs.map(|one| one.extra).collect()
}

/// The values of what is done, each once.
fn numbers(project: &Project) -> BTreeSet<u64> {
    let values = project.values_of("done").into_iter();
    values.map(|one| one.parse().unwrap()).collect()
}

fn at_least(project: &Project, count: usize) {
    wait_for("some are done", DEADLINE, || {
        project.entries_of("done").len() >= count
    });
}

#[track_caller]
fn committed(daemon: &mut Daemon, project: &Project, topic: &Topic<'_>, offset: i64) {
    let kafka = kafka::shared().unwrap();
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(offset)
    });
}

/// kafkajs: the fields and functions of `payload.batch`, `isRunning`, `isStale` and `heartbeat`.
#[test]
fn a_batch_has_what_kafkajs_gives_it() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        assert(batch.topic:find("batches", 1, true) and batch.partition == 0)
        assert(#batch == #batch.messages and not batch:isEmpty())
        assert(batch.firstOffset() == batch.messages[1].offset)
        assert(batch:lastOffset() == batch.messages[#batch].offset)
        assert(batch.highWatermark == 10, batch.highWatermark)
        assert(batch.offsetLag() == 9 - batch.lastOffset())
        assert(batch.offsetLagLow() == 9 - batch.firstOffset())
        assert(ctx.isRunning() and not ctx.isStale())
        ctx.heartbeat()
        done()
        "#;
    let (project, topic) = project(kafka, "batch = { messages = 4, wait = \"1s\" }\n", body);
    topic.produce(numbered(0..10, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 10);
    assert_eq!(runs(&project), ["0 1 2 3", "4 5 6 7", "8 9"]);
    assert_eq!(project.entries_of("done").len(), 10);
    daemon.stop();
}

/// kafkajs: `eachBatchAutoResolve = false`: what is not resolved comes again.
#[test]
fn without_auto_resolve_only_what_is_resolved_is_done() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "runConfig = { eachBatchAutoResolve = false }\nbatch = { wait = \"200ms\" }\n";
    let body = "done(1) ctx.resolveOffset(batch.firstOffset())";
    let (project, topic) = project(kafka, listener, body);
    topic.produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 3);
    assert_eq!(project.values_of("done"), ["0", "1", "2"]);
    assert_eq!(runs(&project).last().map(String::as_str), Some("2"));
    daemon.stop();
}

/// kafkajs: an error commits what was resolved before it.
#[test]
fn what_is_resolved_before_an_error_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    let listener =
        "batch = { messages = 4 }\nretry = { initialDelay = \"1h\", maxDelay = \"1h\" }\n";
    let body = "ctx.resolveOffset(1) error('no')";
    let (project, topic) = project(kafka, listener, body);
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 2);
    let line = daemon.wait_line("the failure", |line| line.is("batch failed"));
    assert_eq!(
        (
            line.field("offset"),
            line.field("last_offset"),
            line.field("messages")
        ),
        ("2".to_owned(), "3".to_owned(), "2".to_owned())
    );
    daemon.stop();
}

/// kafkajs: `commitOffsetsIfNecessary()` and `uncommittedOffsets()`, while the batch goes on.
#[test]
fn what_is_resolved_can_be_committed_in_the_middle_of_a_batch() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        assert(#ctx.uncommittedOffsets().topics == 0)
        ctx.resolveOffset(1)
        local open = ctx.uncommittedOffsets().topics[1]
        assert(open.topic == batch.topic and open.partitions[1].offset == 2)
        assert(ctx.commitOffsetsIfNecessary() == 2)
        assert(#ctx.uncommittedOffsets().topics == 0)
        record.note("middle")
        while not io.open("gate") do tide.sleep(20) end
        "#;
    for listener in ["", MANUAL] {
        let listener = format!("batch = {{ messages = 4 }}\n{listener}");
        let (project, topic) = project(kafka, &listener, body);
        topic.produce(numbered(0..4, 0));
        let mut daemon = Daemon::start(&project);
        committed(&mut daemon, &project, &topic, 2);
        project.open_gate();
        if !listener.contains("autoCommit") {
            committed(&mut daemon, &project, &topic, 4);
        }
        daemon.stop();
        let last = if listener.contains("autoCommit") {
            2
        } else {
            4
        };
        assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(last));
    }
}

/// kafkajs: `commitOffsetsIfNecessary(offsets)` commits exactly that.
#[test]
fn a_commit_by_hand_in_a_batch_is_literal() {
    let Some(kafka) = kafka::shared() else { return };
    for ordering in ["partition", "key", "none"] {
        let listener = format!("batch = {{ messages = 4 }}\nordering = \"{ordering}\"\n{MANUAL}");
        let body = "assert(ctx.commitOffsetsIfNecessary({ topics = { { topic = batch.topic, partitions = { { partition = 0, offset = '3' } } } } }) == 3)";
        let (project, topic) = project(kafka, &listener, body);
        topic.produce(numbered(0..4, 0));
        let mut daemon = Daemon::start(&project);
        committed(&mut daemon, &project, &topic, 3);
        daemon.stop();
        assert_eq!(
            kafka.committed(&project.group, &topic.name, 0),
            Some(3),
            "{ordering}"
        );
    }
}

/// kafkajs: `pause()` pauses the partition and returns the function that resumes it; the batch itself is done.
#[test]
fn a_pause_in_a_batch_holds_the_next_one() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        done()
        if runs == 1 then
          local resume = ctx.pause()
          tide.app.setAttr("paused", true)
          while not io.open("gate") do tide.sleep(20) end
          assert(not ctx.isStale())
          resume()
        end
        "#;
    let (project, topic) = project(kafka, "batch = { messages = 2 }\n", body);
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 2, DEADLINE);
    stays("the next batch waits", Duration::from_millis(500), || {
        runs(&project).len() == 1
    });
    project.open_gate();
    committed(&mut daemon, &project, &topic, 4);
    daemon.stop();
}

/// kafkajs: `isStale()` after a seek; the batch ends, and the partition goes on at the new position.
#[test]
fn a_seek_makes_the_batch_stale() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r"
        if runs == 1 then
          ctx.consumer.seek{ offset = 5 }
          assert(ctx.isStale() and ctx.isRunning())
          return
        end
        done()
        ";
    let (project, topic) = project(kafka, "batch = { messages = 2 }\n", body);
    topic.produce(numbered(0..7, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 7);
    assert_eq!(project.values_of("done"), ["5", "6"]);
    daemon.stop();
}

/// kafkajs: `isRunning()` is false once the daemon stops; what is resolved is committed.
#[test]
fn a_batch_sees_that_the_daemon_stops() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        ctx.resolveOffset(0)
        record.note("begun")
        while ctx.isRunning() do tide.sleep(20) end
        assert(ctx.isStale())
        record.note("stops")
        error("no time left")
        "#;
    let (project, topic) = project(kafka, "batch = { messages = 4 }\n", body);
    topic.produce(numbered(0..4, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("begun", 1, DEADLINE);
    daemon.stop();
    assert_eq!(project.entries_of("stops").len(), 1);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

/// A poison among 1,000 fails at most 11 runs, and only it becomes a dead letter.
#[test]
fn a_poison_among_1000_is_the_only_dead_letter() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "batch = { messages = 1000, wait = \"2s\" }\n\
         retry = { attempts = 1, initialDelay = \"5ms\" }\nbreaker = false\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    let body = r#"
        for _, message in ipairs(batch.messages) do
          if message.value == "637" then record.note("poison") error("bad") end
        end
        done()
        "#;
    let (project, topic) = project(kafka, listener, body);
    topic.produce(numbered(0..1000, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 1000);
    let poisoned = project.entries_of("poison").len();
    assert!(poisoned <= 11, "{poisoned} runs had it");
    let mut values: Vec<u32> = project
        .values_of("done")
        .iter()
        .map(|one| one.parse().unwrap())
        .collect();
    values.sort_unstable();
    assert!(
        values
            .iter()
            .copied()
            .eq((0..1000).filter(|one| *one != 637))
    );
    let dead = format!("{}.dead", topic.name);
    assert_eq!(kafka.existing_topic(&dead).watermarks(0).1, 1);
    let letters = kafka.read(&dead, 1, 1);
    assert_eq!(letters[0].header("moontide-attempts"), "1");
    daemon.stop();
}

/// A message that failed alone goes through its retry topic, where it is a batch of its own; the others go on.
#[test]
fn a_message_that_failed_alone_goes_to_its_retry_topic() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "batch = { messages = 4 }\n\
         retry = { topics = [\"1s\"], initialDelay = \"5ms\", allowAutoTopicCreation = true }\nbreaker = false\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    let body = r#"
        for _, message in ipairs(batch.messages) do
          if message.value == "2" and ctx.attempt == 1 then error("once") end
        end
        assert(ctx.attempt == 1 or (#batch == 1 and batch.messages[1].offset == 2 and batch.topic == ctx.topic))
        done()
        "#;
    let (project, topic) = project(kafka, listener, body);
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 4, DEADLINE);
    let late = done.iter().find(|one| one.value == "2").unwrap();
    assert_eq!((late.attempt, late.offset), (2, 2));
    committed(&mut daemon, &project, &topic, 4);
    daemon.stop();
}

/// With keys: `ctx.failAt` holds the later messages of that key alone, and each key keeps its order.
#[test]
fn a_failed_message_holds_its_key_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "ordering = \"key\"\nbatch = { messages = 50, wait = \"20ms\" }\n\
         retry = { initialDelay = \"300ms\", multiplier = 1.0, jitter = 0.0 }\nbreaker = false\n";
    let body = r#"
        for i, message in ipairs(batch.messages) do
          if message.value == "13" and not io.open("gate") then ctx.failAt(i, "closed") end
          record.line("done", message, ctx)
        end
        "#;
    let (project, topic) = project(kafka, listener, body);
    let keyed = numbered(0..200, 0).into_iter().enumerate();
    topic.produce(keyed.map(|(number, one)| one.key(format!("k{}", number % 7))));
    let mut daemon = Daemon::start(&project);
    let of_key = |key: u64| (0..200).filter(|number| number % 7 == key).count();
    project.wait_for_entries("done", 200 - of_key(6) + 1, DEADLINE);
    stays("the key waits", Duration::from_millis(300), || {
        project.entries_of("done").len() == 200 - of_key(6) + 1
    });
    project.open_gate();
    committed(&mut daemon, &project, &topic, 200);
    for key in 0..7 {
        let values = project.values_of("done");
        let values = values.iter().map(|one| one.parse::<u64>().unwrap());
        let of_key: Vec<_> = values.filter(|one| one % 7 == key).collect();
        assert!(of_key.is_sorted(), "{key}: {of_key:?}");
        assert_eq!(of_key.len(), (0..200).filter(|one| one % 7 == key).count());
    }
    daemon.stop();
}

/// A kill in the middle of batches loses nothing, and what runs again is not more than what was under way.
#[test]
fn a_kill_loses_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let body = "tide.sleep(5) done()";
    let listener = "ordering = \"key\"\nbatch = { messages = 100, wait = \"5ms\" }\n";
    let (project, topic) = project(kafka, listener, body);
    let keyed = numbered(0..5000, 0).into_iter().enumerate();
    topic.produce(keyed.map(|(number, one)| one.key(format!("k{}", number % 50))));
    let mut daemon = Daemon::start(&project);
    at_least(&project, 500);
    daemon.kill();
    let mut daemon = Daemon::join(&project);
    committed(&mut daemon, &project, &topic, 5000);
    assert_eq!(numbers(&project).len(), 5000);
    daemon.stop();
}

/// A batch that kills the process: after a crash its messages run one by one, and the one that kills is found.
#[test]
fn a_message_that_kills_the_process_is_found_in_its_batch() {
    let Some(kafka) = kafka::shared() else { return };
    let listener = "batch = { messages = 50, wait = \"100ms\" }\nbreaker = false\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    let body = r#"
        for _, message in ipairs(batch.messages) do
          if message.value == "17" then os.execute("kill -9 $PPID") end
        end
        done()
        "#;
    let (project, topic) = project(kafka, listener, body);
    let project = project.sections("[daemon]\ncrashes = 1");
    project.config(&(from_beginning("batches", &topic.name, "batches.eachBatch") + listener));
    topic.produce(numbered(0..50, 0));
    let is_done = || kafka.committed(&project.group, &topic.name, 0) == Some(50);
    let mut crashes = 0;
    loop {
        let mut daemon = Daemon::spawn(&project);
        wait_for("it dies, or all is committed", DEADLINE, || {
            daemon.ended() || is_done()
        });
        if is_done() {
            daemon.stop();
            break;
        }
        crashes += 1;
        assert!(crashes < 8, "it dies again and again");
    }
    assert_eq!(numbers(&project).len(), 49);
    assert_eq!(
        kafka
            .existing_topic(&format!("{}.dead", topic.name))
            .watermarks(0)
            .1,
        1
    );
}

/// A reload in the middle: the batch ends in its bundle, and the next one has the new handler.
#[test]
fn a_reload_lets_a_batch_end() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        record.note("old")
        while not io.open("gate") do tide.sleep(20) end
        done()
        "#;
    let (project, topic) = project(kafka, "batch = { messages = 2 }\n", body);
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("old", 1, DEADLINE);
    project.replace_handler("batches.lua", &handler("record.note('new') done()"));
    daemon.wait_line("the reload", |line| line.mentions("reloaded"));
    project.open_gate();
    committed(&mut daemon, &project, &topic, 4);
    assert_eq!(project.entries_of("old").len(), 1);
    assert_eq!(project.entries_of("new").len(), 1);
    assert_eq!(project.values_of("done"), ["0", "1", "2", "3"]);
    daemon.stop();
}

/// A reload that takes batches away, or brings them: nothing is lost, and the order stays.
#[test]
fn a_reload_changes_batches_into_messages_and_back() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, topic) = project(kafka, "batch = { messages = 3 }\n", "done()");
    let single = "local record = require \"record\"\nreturn function(message, ctx)\n\
         record.line(\"done\", message, ctx)\nrecord.line(\"single\", message, ctx)\nend\n";
    project.handler("single.lua", single);
    topic.produce(numbered(0..6, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 6);
    project.config(&from_beginning("batches", &topic.name, "single"));
    daemon.wait_line("the reload", |line| line.mentions("reloaded"));
    topic.produce(numbered(6..12, 0));
    committed(&mut daemon, &project, &topic, 12);
    let seen = daemon.lines().len();
    project.config(
        &(from_beginning("batches", &topic.name, "batches.eachBatch")
            + "batch = { messages = 3 }\n"),
    );
    daemon.wait_line_after(seen, "the reload", |line| line.mentions("reloaded"));
    topic.produce(numbered(12..18, 0));
    committed(&mut daemon, &project, &topic, 18);
    let expected: Vec<_> = (0..18).map(|number| number.to_string()).collect();
    assert_eq!(project.values_of("done"), expected);
    assert_eq!(project.entries_of("single").len(), 6);
    daemon.stop();
}

/// What a batch emits leaves with the messages that it belongs to; a refused record is found as a poison is.
#[test]
fn what_a_batch_emits_belongs_to_its_messages() {
    let Some(kafka) = kafka::shared() else { return };
    let out = kafka.topic_with(unique("emitted"), 1, &[("max.message.bytes", "20000")]);
    let body = r#"
        ctx.emit{ topic = "@OUT@", value = "head" .. batch.firstOffset() }
        ctx.resolveOffset(batch.firstOffset())
        for _, message in ipairs(batch.messages) do
          local size = message.value == "2" and 30000 or 0
          ctx.emit{ topic = "@OUT@", value = message.value .. ("x"):rep(size), of = message }
        end
        if runs == 1 then error("once") end
        done()
        "#
    .replace("@OUT@", &out.name);
    let listener = "batch = { messages = 4 }\nbreaker = false\n\
         retry = { attempts = 1, initialDelay = \"5ms\" }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n";
    let (project, topic) = project(kafka, listener, &body);
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 4);
    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 1);
    assert_eq!(letters[0].value.as_deref(), Some(&b"2"[..]));
    let end = out.watermarks(0).1 as usize;
    let records = kafka.read(&out.name, 1, end);
    let values: Vec<_> = records
        .iter()
        .map(|one| String::from_utf8(one.value.clone().unwrap()).unwrap())
        .collect();
    // The first run resolved one message: its records leave, and no others.
    assert_eq!(values[..2], ["head0", "0"], "{values:?}");
    assert!(
        values.contains(&"1".to_owned()) && values.contains(&"3".to_owned()),
        "{values:?}"
    );
    assert!(
        !values.iter().any(|one| one.starts_with("2x")),
        "{values:?}"
    );
    daemon.stop();
}

/// Two members: batches of revoked partitions are not run there, and nothing is lost.
#[test]
fn a_rebalance_in_the_middle_of_batches_loses_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("moved", 4);
    let project = Project::new(kafka);
    write(&project, "tide.sleep(2) done()");
    project.config(
        &(from_beginning("batches", &topic.name, "batches.eachBatch")
            + "batch = { messages = 20, wait = \"5ms\" }\n"),
    );
    for partition in 0..4 {
        topic.produce(numbered(0..1000, partition));
    }
    let daemon = Daemon::start(&project);
    at_least(&project, 200);
    let member = project.another_member();
    let other = Daemon::join(&member);
    wait_for("all is committed", DEADLINE, || {
        (0..4)
            .all(|partition| kafka.committed(&project.group, &topic.name, partition) == Some(1000))
    });
    daemon.stop();
    other.stop();
    let mut done: Vec<_> = project
        .entries_of("done")
        .iter()
        .map(|one| (one.partition, one.offset))
        .collect();
    done.sort_unstable();
    done.dedup();
    assert_eq!(done.len(), 4000);
}

/// The metrics count messages, and a batch as one run.
#[test]
fn metrics_count_messages() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("counted", 1);
    let project = Project::new(kafka).sections("[http]\nlisten = \"127.0.0.1:0\"");
    write(&project, "done()");
    let listener = format!("batch = {{ messages = 5 }}\n{QUICK}");
    project.config(&(from_beginning("batches", &topic.name, "batches.eachBatch") + &listener));
    topic.produce(numbered(0..10, 0));
    let mut daemon = Daemon::start(&project);
    committed(&mut daemon, &project, &topic, 10);
    let samples = scrape(&address(&mut daemon));
    let of = |name: &str| samples.get(name, &[("listener", "batches")]);
    assert_eq!(of("moontide_handler_run_seconds_count"), Some(2.0));
    assert_eq!(of("moontide_handler_wait_seconds_count"), Some(10.0));
    daemon.stop();
}
