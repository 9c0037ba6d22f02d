//! `ctx.emit`: records that leave with their message, read back from the broker.

use crate::sends::{sender, sending, values};
use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::from_beginning;
use crate::support::wait::{DEADLINE, stays, wait_for};

mod away; // brokers that are away or frozen, topics that are missing, stops and crashes

const A_WHILE: std::time::Duration = std::time::Duration::from_millis(700);

/// What fails, or is skipped, emits nothing; what is done emits once, in order.
#[test]
fn only_a_run_that_is_done_emits() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "retry = { attempts = 3, initialDelay = \"5ms\" }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
         breaker = false\n",
        "",
        1,
        r#"
        ctx.emit{ topic = out, value = message.value .. "a", key = message.key }
        if message.value == "once" and ctx.attempt == 1 then error("once") end
        if message.value == "dead" then error("always") end
        if message.value == "skip" then ctx.skip("no need") end
        ctx.emit{ topic = out, messages = { { value = message.value .. "b" }, { value = message.value .. "c" } } }
        record.line("done", message, ctx)
        "#,
    );
    let messages = ["one", "once", "skip", "dead", "last"];
    let messages = messages.map(|value| Message::value(value).key("k").partition(0));
    kafka.existing_topic(&source).produce(messages);
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source, 0) == Some(5)
    });
    let records = kafka.read(&out, 1, 9);
    let expected = "onea oneb onec oncea onceb oncec lasta lastb lastc";
    assert_eq!(values(&records).join(" "), expected);
    assert_eq!(records[0].key.as_deref(), Some(&b"k"[..]));
    assert_eq!(kafka.existing_topic(&out).watermarks(0).1, 9, "and no more");
    daemon.stop();
}

/// One lane: each record stands behind those of the messages before it.
#[test]
fn records_stand_in_the_order_of_their_lane() {
    let Some(kafka) = kafka::shared() else { return };
    let body = "ctx.emit{ topic = out, value = message.value, partition = 0 }";
    for ordering in ["partition", "key"] {
        let listener = format!("ordering = \"{ordering}\"\n");
        let (project, source, out) = sending(kafka, &listener, "", 1, body);
        let messages = numbered(0..300, 0).into_iter().map(|one| one.key("same"));
        kafka.existing_topic(&source).produce(messages);
        let daemon = Daemon::start(&project);
        let expected: Vec<String> = (0..300).map(|number| number.to_string()).collect();
        assert_eq!(values(&kafka.read(&out, 1, 300)), expected, "{ordering}");
        wait_for("all is committed", DEADLINE, || {
            kafka.committed(&project.group, &source, 0) == Some(300)
        });
        daemon.stop();
    }
}

/// A record that is too large fails its run alone: the message follows its policy, and the next one goes on.
#[test]
fn a_refused_record_fails_the_run() {
    let Some(kafka) = kafka::shared() else { return };
    let small = kafka.topic_with(unique("small"), 1, &[("max.message.bytes", "20000")]);
    let body = r#"
        local size = message.value == "large" and 30000 or 10
        ctx.emit{ topic = "@OUT@", value = message.value .. ("x"):rep(size) }
        record.line("run", message, ctx)
        "#
    .replace("@OUT@", &small.name);
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\nbreaker = false\n";
    let (project, source, _) = sending(kafka, listener, "", 1, &body);
    let messages = ["a", "large", "b"].map(|value| Message::value(value).partition(0));
    kafka.existing_topic(&source).produce(messages);
    let mut daemon = Daemon::start(&project);
    let runs = project.wait_for_entries("run", 4, DEADLINE);
    let mut runs: Vec<_> = runs
        .iter()
        .map(|one| (one.value.as_str(), one.attempt))
        .collect();
    runs.sort_unstable();
    assert_eq!(runs, [("a", 1), ("b", 1), ("large", 1), ("large", 2)]);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source, 0) == Some(3)
    });
    let end = small.watermarks(0).1 as usize;
    let values = values(&kafka.read(&small.name, 1, end));
    assert!(values[0].starts_with('a'), "{values:?}");
    // The copies behind the refused record may be two.
    assert!(
        values[1..].iter().all(|one| one.starts_with('b')),
        "{values:?}"
    );
    let letters = kafka.read(&format!("{source}.dead"), 1, 1);
    let error = letters[0].header("moontide-error");
    assert!(
        error.starts_with("`ctx.emit`: topic `small") && error.contains("too large"),
        "{error}"
    );
    let line = daemon.wait_line("the failure", |line| line.is("handler failed"));
    assert!(
        line.field("error").contains("`ctx.emit`: topic `small"),
        "{line:?}"
    );
    daemon.stop();
}

/// The limit of a topic becomes smaller than the batches that are written: a broker refuses them whole. No record is
/// lost or fails by that, and the last copies stand in the order of the lane.
#[test]
fn a_limit_that_becomes_smaller_costs_no_small_record() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        if message.value == "limit" then
          ctx.emit{ topic = out, value = "before" }
          local admin = tide.kafka.admin
          admin.alterConfigs{ resources = { { type = "topic", name = out,
            configEntries = { { name = "max.message.bytes", value = "5000" } } } } }
          local found
          repeat
            tide.sleep(20)
            found = admin.describeConfigs{ resources = { { type = "topic", name = out,
              configNames = { "max.message.bytes" } } } }
          until found.resources[1].configEntries[1].configValue == "5000"
        else
          ctx.emit{ topic = out, value = message.value .. " " .. ("x"):rep(300) }
        end
        record.line("run", message, ctx)
        "#;
    let sections = "[kafka.admin]\nallow = [\"describeConfigs\", \"alterConfigs\"]\n";
    let listener = "retry = { attempts = 2, initialDelay = \"5ms\" }\nonError = \"skip\"\n";
    let (project, source, out) = sending(kafka, listener, sections, 1, body);
    let source = kafka.existing_topic(&source);
    source.produce([Message::value("limit").partition(0)]);
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("run", 1, DEADLINE);
    source.produce(numbered(0..400, 0));
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source.name, 0) == Some(401)
    });
    let runs = project.entries_of("run");
    assert!(runs.iter().all(|one| one.attempt == 1), "{runs:?}");
    let end = kafka.existing_topic(&out).watermarks(0).1 as usize;
    let found = values(&kafka.read(&out, 1, end));
    let mut numbers: Vec<u64> = Vec::new();
    for value in &found[1..] {
        let number = value.split(' ').next().unwrap().parse().unwrap();
        // A copy that was written again takes the place of the one before it, and of all behind that.
        numbers.truncate(numbers.partition_point(|one| *one < number));
        numbers.push(number);
    }
    assert_eq!(numbers, (0..400).collect::<Vec<_>>());
    daemon.stop();
}

/// `produces`, and a producer that is not there: the call raises.
#[test]
fn an_emit_that_is_not_allowed_raises() {
    let Some(kafka) = kafka::shared() else { return };
    let prefix = unique("allowed");
    let body = r#"
        local ok, err = pcall(ctx.emit, { topic = "other", value = "v" })
        assert(not ok and tide.error.is(err, "refused") and err.message:find("`produces`", 1, true), tostring(err))
        ok, err = pcall(ctx.emit, { topic = "@ALLOWED@", value = "v", producer = "nobody" })
        assert(not ok and tide.error.is(err, "notFound"), tostring(err))
        record.line("done", message, ctx)
        "#
    .replace("@ALLOWED@", &format!("{prefix}.eu"));
    let listener = format!("produces = [\"{prefix}.*\"]\n");
    let (project, source, _) = sending(kafka, &listener, "", 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
}

/// Each of two listeners emits for itself; a refused record of the one lets only that one run again.
#[test]
fn a_refused_record_concerns_its_listener_alone() {
    let Some(kafka) = kafka::shared() else { return };
    let small = kafka.topic_with(unique("small"), 1, &[("max.message.bytes", "20000")]);
    let body = r#"
        local size = ctx.attempt == 1 and 30000 or 10
        ctx.emit{ topic = "@OUT@", value = message.value .. ("x"):rep(size) }
        record.line("sender", message, ctx)
        "#
    .replace("@OUT@", &small.name);
    let listener = "retry = { initialDelay = \"5ms\" }\nbreaker = false\n";
    let (project, source, out) = sending(kafka, listener, "", 1, &body);
    let other = format!(
        "local record = require \"record\"\nreturn function(message, ctx)\n\
         ctx.emit{{ topic = \"{out}\", value = message.value }}\nrecord.line(\"other\", message, ctx)\nend\n"
    );
    project.handler("other.lua", &other);
    let listeners = from_beginning("sender", &source, "sender") + listener;
    project.config(&(listeners + &from_beginning("other", &source, "other")));
    kafka.existing_topic(&source).produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("all is committed", |_| {
        kafka.committed(&project.group, &source, 0) == Some(3)
    });
    assert_eq!(project.entries_of("sender").len(), 6);
    assert_eq!(project.entries_of("other").len(), 3);
    assert_eq!(values(&kafka.read(&out, 1, 3)), ["0", "1", "2"]);
    daemon.stop();
}

/// The key of a retry and the headers of the trace aside, a message of a retry topic emits as any other.
#[test]
fn a_message_of_a_retry_topic_emits() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "retry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n\
         deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\nbreaker = false\n",
        "",
        1,
        r#"
        ctx.emit{ topic = out, value = message.value .. ctx.attempt }
        if ctx.attempt == 1 then error("once") end
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    assert_eq!(values(&kafka.read(&out, 1, 1)), ["02"]);
    daemon.stop();
}

/// Without automatic commits: the offset is committed when the records are acknowledged, awaited or not.
#[test]
fn a_commit_by_hand_follows_the_records() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(own) = Kafka::start_own() else {
        return;
    };
    let out = own.topic("committed", 1);
    let sections = format!("[producers.other]\nbrokers = [\"{}\"]\n", own.bootstrap());
    let body = r#"
        record.line("run", message, ctx)
        while message.value ~= "0" and not io.open("gate") do tide.sleep(20) end
        ctx.emit{ topic = "@OUT@", value = message.value, producer = "other" }
        if message.value == "1" then
          record.line("awaits", message, ctx)
          ctx.commitOffsets(message.offset + 1)
        else
          ctx.commitOffsets(message.offset + 1, { wait = false })
        end
        record.line("done", message, ctx)
        "#
    .replace("@OUT@", &out.name);
    let keys = "runConfig = { autoCommit = false }\n";
    let (project, source, _) = sending(kafka, keys, &sections, 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..3, 0));
    let mut daemon = Daemon::start(&project);
    let committed = || kafka.committed(&project.group, &source, 0);
    daemon.wait_for("the first offset is committed", |_| committed() == Some(1));
    own.freeze();
    project.open_gate();
    project.wait_for_entries("awaits", 1, DEADLINE);
    stays("nothing is committed", A_WHILE, || {
        committed() == Some(1) && project.entries_of("done").len() == 1
    });
    own.thaw();
    daemon.wait_for("all is committed", |_| committed() == Some(3));
    assert_eq!(values(&own.read(&out.name, 1, 3)), ["0", "1", "2"]);
    daemon.stop();
}

/// `limits.emit` is live, and `check` knows it.
#[test]
fn the_limit_of_a_call_is_live() {
    let Some(kafka) = kafka::shared() else { return };
    let body = r#"
        local ok, err = pcall(ctx.emit, { topic = out, value = ("x"):rep(2000) })
        record.line("done", message, ctx, ok and "taken" or err.kind)
        "#;
    let keys = "limits = { emit = \"1KiB\" }\n";
    let (project, source, _) = sending(kafka, keys, "[daemon]\nwatch = false\n", 1, body);
    let config = project.path("config.toml");
    let checked = moontide(&["check", "--json", "--config"], &config);
    let json = serde_json::from_slice::<serde_json::Value>(&checked.stdout);
    let json = json.unwrap_or_else(|error| panic!("{error}: {checked:?}"));
    let listener = &json["listeners"][0];
    assert_eq!(listener["limits"]["emit"], 1024, "{listener}");
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "tooLarge");
    let text = std::fs::read_to_string(&config).unwrap();
    project.write("config.toml", &text.replace("1KiB", "4KiB"));
    assert_eq!(daemon.reload().0, 0);
    kafka.existing_topic(&source).produce(numbered(1..2, 0));
    let done = project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!(done[1].extra, "taken");

    project.write("config.toml", &text.replace("1KiB", "65MiB"));
    let output = moontide(&["check", "--config"], &config);
    let printed = String::from_utf8_lossy(&output.stderr);
    assert!(
        printed.contains("`limits.emit` is 65 MiB, not from 1 byte to 64 MiB"),
        "{printed}"
    );
    daemon.stop();
}

/// A reload while records are on their way: they leave, and the message does not run again.
#[test]
fn a_reload_loses_and_repeats_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "",
        "",
        1,
        r#"ctx.emit{ topic = out, value = message.value } record.line("run", message, ctx)"#,
    );
    let topic = kafka.existing_topic(&source);
    let daemon = Daemon::start(&project);
    for round in 0..5 {
        topic.produce(numbered(round * 100..(round + 1) * 100, 0));
        let body = format!(
            "-- {round}\nctx.emit{{ topic = out, value = message.value }} record.line(\"run\", message, ctx)"
        );
        sender(&project, &out, &body);
        assert_eq!(daemon.reload().0, 0);
    }
    let expected: Vec<String> = (0..500).map(|number| number.to_string()).collect();
    assert_eq!(values(&kafka.read(&out, 1, 500)), expected);
    assert_eq!(project.wait_for_entries("run", 500, DEADLINE).len(), 500);
    daemon.stop();
}
