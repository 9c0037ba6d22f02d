//! The trace context of a message: where it goes with the message, and where a handler and an operator find it.

use crate::support::client::{Message, Topic};
use crate::support::daemon::{Daemon, Line};
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::records::Record;
use crate::support::wait::{DEADLINE, wait_for};

const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
const PARENT: &str = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
const STATE: &str = "vendor=\u{e9}";
const BAGGAGE: &str = "user=7;secret=no,tenant=a";

/// Fails for `bad`, and writes down what it sees of the trace.
const SEEING: &str = r#"
local record = require "record"
return function(message, ctx)
  local trace = ctx.trace
  local seen = table.concat({ trace.traceparent or "none", trace.tracestate or "none", trace.baggage or "none" }, " ")
  record.line("try", message, ctx, seen)
  ctx.logger.info("seen " .. message.value)
  ctx.getLogger("mine").info("named " .. message.value)
  if message.value == "bad" then error("does not like it") end
end
"#;

fn traced(value: &str) -> Message {
    Message::value(value)
        .partition(0)
        .header("traceparent", Some(PARENT.as_bytes()))
        .header("tracestate", Some(STATE.as_bytes()))
        .header("baggage", Some(BAGGAGE.as_bytes()))
}

#[track_caller]
fn has_trace(record: &Record) {
    let found = ["traceparent", "tracestate", "baggage"].map(|name| record.header(name));
    assert_eq!(found, [PARENT, STATE, BAGGAGE], "{record:?}");
}

/// The lines of the handler and of the worker about this message.
fn traces(daemon: &Daemon, topic: &Topic<'_>, offset: i64) -> Vec<(String, String)> {
    let is_about = |line: &Line| {
        line.field("topic").starts_with(&topic.name)
            && line.field("offset") == offset.to_string()
            && !line.field("listener").is_empty()
    };
    let lines = daemon.lines().into_iter().filter(is_about);
    lines
        .map(|line| (line.field("message"), line.field("trace_id")))
        .collect()
}

/// Through a retry topic to the dead letter: each record has the headers, each run sees them, each line has the id.
#[test]
fn a_trace_goes_with_its_message_from_topic_to_topic() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("traced", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", SEEING);
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "retry = { topics = [\"1s\"], allowAutoTopicCreation = true }\n\
               deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
               breaker = false\n"),
    );
    let odd = Message::value("odd")
        .partition(0)
        .header("traceparent", Some(b"00-not-a-trace-01"))
        .header("tracestate", Some(b"a=1"));
    topic.produce([traced("bad"), Message::value("plain").partition(0), odd]);

    let mut daemon = Daemon::join(&project);

    let retried = kafka.read(&format!("{}.{}.retry.1s", topic.name, project.group), 1, 1);
    has_trace(&retried[0]);
    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 1);
    has_trace(&letters[0]);
    let entries = project.wait_for_entries("try", 4, DEADLINE);
    for entry in entries {
        let expected = match &*entry.value {
            "bad" => format!("{PARENT} {STATE} {BAGGAGE}"),
            _ => "none none none".to_owned(),
        };
        assert_eq!(entry.extra, expected, "{entry:?}");
    }
    daemon.wait_line("the last word", |line| {
        line.mentions("message goes to the dead-letter topic")
    });
    let of_bad = traces(&daemon, &topic, 0);
    let failures = of_bad.iter().filter(|one| one.0 == "handler failed");
    assert_eq!((of_bad.len(), failures.count()), (6, 1), "{of_bad:?}");
    assert!(of_bad.iter().all(|one| one.1 == TRACE), "{of_bad:?}");
    for offset in [1, 2] {
        let others = traces(&daemon, &topic, offset);
        assert_eq!(others.len(), 2, "{others:?}");
        assert!(others.iter().all(|one| one.1.is_empty()), "{others:?}");
    }
    daemon.stop();
}

/// The message kills the process until it is proven: the process that writes the dead letter never ran it.
#[test]
fn a_trace_goes_with_a_message_that_kills_the_process() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("traced-poison", 1);
    let project = Project::new(kafka);
    project.handler(
        "orders.lua",
        r#"return function() os.execute("kill -9 $PPID") end"#,
    );
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n"),
    );
    topic.produce([traced("poison")]);

    let mut daemon = Daemon::spawn(&project);
    for crash in 1.. {
        let (mut ended, mut proven) = (false, false);
        wait_for("it dies, or is proven", DEADLINE, || {
            ended = daemon.ended();
            proven =
                daemon.count(|line| line.is("message killed the process while it ran alone")) > 0;
            ended || proven
        });
        if !ended {
            break;
        }
        assert!(crash < 10, "it dies without end");
        daemon = Daemon::spawn(&project);
    }

    let letters = kafka.read(&format!("{}.dead", topic.name), 1, 1);
    has_trace(&letters[0]);
    let proven = daemon.wait_line("it says so", |line| {
        line.is("message killed the process while it ran alone")
    });
    assert_eq!(proven.field("trace_id"), TRACE);
    daemon.stop();
}

/// Records that a handler sends belong to the trace of its message; those of a timer belong to none.
#[test]
fn a_trace_goes_with_its_message_to_what_the_handler_sends() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, out) = (
        kafka.topic("traced-source", 1),
        kafka.topic("traced-out", 1),
    );
    let project = Project::new(kafka);
    let lua = r#"
        local tide = require "tide"
        tide.after("10ms", function() tide.kafka.send{ topic = "@OUT@", value = "timer" } end)
        return function(message)
          tide.sleep("1ms")
          tide.kafka.send{ topic = "@OUT@", value = message.value, headers = { baggage = "own" } }
          tide.kafka.send{ topic = "@OUT@", value = message.value }
        end
        "#;
    project.handler("sender.lua", &lua.replace("@OUT@", &out.name));
    project.config(&from_beginning("sender", &topic.name, "sender"));
    topic.produce([traced("a")]);
    let daemon = Daemon::start(&project);

    let records = kafka.read(&out.name, 1, 3);
    let of = |value: &str| {
        let mut records: Vec<_> = records.iter().collect();
        records.retain(|one| one.value.as_deref() == Some(value.as_bytes()));
        records
    };
    let [own, all] = of("a")[..] else {
        panic!("{records:?}");
    };
    assert_eq!(own.header("traceparent"), PARENT);
    assert_eq!(own.header("baggage"), "own");
    has_trace(all);
    assert_eq!(of("timer")[0].headers, []);
    daemon.stop();
}
