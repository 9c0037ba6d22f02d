//! What a handler is given: the message, `ctx`, attributes, life-cycle hooks, the log.

use std::time::{SystemTime, UNIX_EPOCH};

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, stays};

/// S5: the fields and functions of `ctx`, by `.` and by `:`, and an unknown one.
#[test]
fn ctx_has_what_the_model_has() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("context", 1);
    let project = Project::new(kafka);
    project.handler(
        "context.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          assert(ctx.topic == message.topic and ctx.partition == message.partition)
          assert(rawequal(ctx.message, message), "ctx.message is the message")
          assert(ctx.attempt == 1 and math.type(ctx.attempt) == "integer")
          assert(type(ctx.startTime) == "number", "startTime")
          assert(next(ctx.requestContext) == nil, "requestContext is fresh")
          ctx.requestContext.seen = true
          assert(ctx.getAttr("mine") == nil, "attributes of another call")
          ctx.setAttr("mine", message.offset)
          assert(ctx:getAttr("mine") == message.offset, "both call forms")
          ctx.logger.info("from the handler", { order = 17 })
          ctx.getLogger("audit").warn("from a named logger")
          local known, problem = pcall(function() return ctx.atempt end)
          record.line("done", message, ctx, tostring(known) .. " " .. tostring(problem))
        end
        "#,
    );
    project.config(&from_beginning("context", &topic.name, "context"));
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 2, DEADLINE);
    assert!(
        entries[0].extra.starts_with("false"),
        "an unknown field raises: {}",
        entries[0].extra
    );
    assert!(
        entries[0].extra.contains("attempt"),
        "the nearest name is told: {}",
        entries[0].extra
    );
    let line = daemon.wait_line("the handler's own", |line| line.is("from the handler"));
    assert_eq!(line.field("level"), "INFO");
    assert!(
        line.mentions("17") && line.mentions(&topic.name),
        "{line:?}"
    );
    let line = daemon.wait_line("the named logger's", |line| line.is("from a named logger"));
    assert!(
        line.field("level") == "WARN" && line.mentions("audit"),
        "{line:?}"
    );
    daemon.stop();
}

/// S6: types and values of a message, byte for byte.
#[test]
fn a_message_arrives_byte_for_byte() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("bytes", 1);
    let project = Project::new(kafka);
    project.handler("bytes.lua", BYTES);
    project.config(&from_beginning("bytes", &topic.name, "bytes"));
    let every_byte: Vec<u8> = (0..=255).collect();
    let tombstone = Message::default().key("k");
    topic.produce(
        [
            Message::value(&every_byte).key([0, 0xff]),
            tombstone,
            Message::value("").key(""),
            Message::value("no key"),
            Message {
                timestamp: Some(1_234_567_890_123),
                ..Message::default()
            },
        ]
        .map(|message| message.partition(0)),
    );

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 5, DEADLINE);
    let seen: Vec<&str> = entries.iter().map(|entry| entry.extra.as_str()).collect();
    let all = every_byte
        .iter()
        .fold(String::new(), |text, byte| text + &format!("{byte:02x}"));
    assert_eq!(seen[0], format!("key=00ff value={all} integers=true 0"));
    assert_eq!(seen[1], "key=6b value=nil integers=true 0");
    assert_eq!(seen[2], "key= value= integers=true 0");
    assert_eq!(seen[3], "key=nil value=6e6f206b6579 integers=true 0");
    assert_eq!(seen[4], "key=nil value=nil integers=true 1234567890123");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

const BYTES: &str = r#"
local record = require "record"
return function(message, ctx)
  local integers = math.type(message.offset) == "integer" and math.type(message.timestamp) == "integer"
    and math.type(message.partition) == "integer"
  local timestamp = message.timestamp
  -- The broker's clock is not ours to know.
  if timestamp > 1600000000000 then timestamp = 0 end
  local seen = ("key=%s value=%s integers=%s %d"):format(
    record.hex(message.key), record.hex(message.value), integers, timestamp)
  record.line("done", { topic = message.topic, partition = message.partition, offset = message.offset, value = "" },
    ctx, seen)
end
"#;

/// S6: headers: one value, several of one name, null, and names that are not UTF-8.
#[test]
fn headers_arrive_whatever_their_names() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("headers", 1);
    let project = Project::new(kafka);
    project.handler(
        "headers.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          local seen = {}
          for _, name in ipairs { "once", "twice", "null", "\xff\xfe", "absent" } do
            local values = {}
            for _, value in ipairs(ctx.headers(name)) do values[#values + 1] = record.hex(value) end
            seen[#seen + 1] = record.hex(name) .. "=" .. table.concat(values, ",")
          end
          assert(message.headers.once == "1", "one value is a string")
          assert(type(message.headers.twice) == "table" and #message.headers.twice == 2, "two are a list")
          assert(message.headers["\xff\xfe"] == "\x00\xff")
          record.line("done", message, ctx, table.concat(seen, " "))
        end
        "#,
    );
    project.config(&from_beginning("headers", &topic.name, "headers"));
    topic.produce([Message::value("x")
        .header("once", Some(b"1"))
        .header("twice", Some(b"a"))
        .header("twice", Some(b""))
        .header("null", None)
        .header([0xff, 0xfe], Some(&[0x00, 0xff]))]);

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 1, DEADLINE);
    // What a list shows for a null value is not checked here: only that it is no reason to fail.
    let seen: Vec<&str> = entries[0]
        .extra
        .split(' ')
        .filter(|header| !header.starts_with("6e756c6c"))
        .collect();
    assert_eq!(
        seen,
        [
            "6f6e6365=31",
            "7477696365=61,",
            "fffe=00ff",
            "616273656e74="
        ]
    );
    daemon.stop();
}

/// S12: `app` attributes are the process's: shared by listeners, by workers and across reloads.
#[test]
fn app_attributes_are_shared_and_survive_a_reload() {
    let Some(kafka) = kafka::shared() else { return };
    let (one, two) = (kafka.topic("writes", 1), kafka.topic("reads", 1));
    let project = Project::new(kafka).sections("[lua]\nworkers = 2");
    project.handler(
        "writes.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          ctx.app.setAttr("shared", { nested = { value = message.value }, count = 9007199254740993 })
          record.line("written", message, ctx)
        end
        "#,
    );
    let reads = r#"
        local record = require "record"
        return function(message, ctx)
          local shared = ctx.app.getAttr("shared")
          record.line("read", message, ctx, shared.nested.value .. " " .. shared.count)
        end
        "#;
    project.handler("reads.lua", reads);
    project.config(
        &(from_beginning("writes", &one.name, "writes")
            + &from_beginning("reads", &two.name, "reads")),
    );
    let mut daemon = Daemon::start(&project);
    one.produce([Message::value("hello")]);
    project.wait_for_entries("written", 1, DEADLINE);

    two.produce([Message::value("before")]);
    let entries = project.wait_for_entries("read", 1, DEADLINE);
    assert_eq!(entries[0].extra, "hello 9007199254740993");

    project.handler("reads.lua", &format!("{reads}-- changed\n"));
    daemon.wait_line("the reload", |line| line.is("reloaded"));
    two.produce([Message::value("after")]);
    let entries = project.wait_for_entries("read", 2, DEADLINE);
    assert_eq!(entries[1].extra, "hello 9007199254740993");
    daemon.stop();
}

/// S13: init.lua's hooks: before the first message and after the last.
#[test]
fn init_runs_before_the_first_message_and_shutdown_after_the_last() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("hooks", 1);
    let project = Project::new(kafka);
    project.handler(
        "init.lua",
        r#"
        local record = require "record"
        return {
          start = function() record.note("start") end,
          shutdown = function() record.note("shutdown") end,
        }
        "#,
    );
    project.handler("orders.lua", crate::support::project::RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..3, 0));

    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 3, DEADLINE);
    daemon.stop();

    let events: Vec<String> = project
        .entries()
        .into_iter()
        .map(|entry| entry.event)
        .collect();
    assert_eq!(events, ["start", "done", "done", "done", "shutdown"]);
}

/// S13: the short form of init.lua, a function.
#[test]
fn init_may_be_a_function() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("hook", 1);
    let project = Project::new(kafka);
    project.handler(
        "init.lua",
        "local record = require \"record\"\nreturn function() record.note(\"start\") end\n",
    );
    project.handler("orders.lua", crate::support::project::RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..1, 0));

    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();

    let events: Vec<String> = project
        .entries()
        .into_iter()
        .map(|entry| entry.event)
        .collect();
    assert_eq!(events, ["start", "done"]);
}

/// S17: `print` and the loggers write to the daemon's log, and the log to its file too.
#[test]
fn the_log_goes_to_its_file_too() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("log", 1);
    let project = Project::new(kafka)
        .sections("[log]\nformat = \"json\"\nlevel = \"info\"\nfile = \"moontide.log\"");
    project.handler(
        "log.lua",
        "return function(message) print(\"printed\", message.value) end\n",
    );
    project.config(&from_beginning("log", &topic.name, "log"));
    topic.produce([Message::value("a-value")]);

    let mut daemon = Daemon::start(&project);
    daemon.wait_line("what was printed", |line| {
        line.mentions("printed") && line.mentions("a-value")
    });
    daemon.stop();

    let file = std::fs::read_dir(project.path("."))
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .find(|path| {
            path.file_name()
                .unwrap()
                .to_str()
                .unwrap()
                .starts_with("moontide.log")
        })
        .expect("the log file is there, beside the config");
    let text = std::fs::read_to_string(file).unwrap();
    assert!(
        text.contains("a-value"),
        "nothing is lost at the end: {text}"
    );
}

/// Timestamps are milliseconds, and `startTime` lies near now.
#[test]
fn times_are_milliseconds() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("times", 1);
    let project = Project::new(kafka);
    project.handler(
        "times.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("done", message, ctx, message.timestamp .. " " .. math.floor(ctx.startTime))
        end
        "#,
    );
    project.config(&from_beginning("times", &topic.name, "times"));
    topic.produce([Message::value("x")]);

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 1, DEADLINE);
    let now = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_millis() as i64;
    for time in entries[0].extra.split(' ') {
        let time: i64 = time.parse().unwrap();
        assert!(
            (now - 600_000..=now + 1000).contains(&time),
            "{time} is not near {now}"
        );
    }
    daemon.stop();
}

/// Values of a VM stay: module variables just work, and messages of a lane come one at a time.
#[test]
fn module_variables_keep_their_values() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("variables", 1);
    let project = Project::new(kafka);
    project.handler(
        "counter.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        local count = 0
        return function(message, ctx)
          local before = count
          tide.sleep(2)
          count = before + 1
          record.line("done", message, ctx, count)
        end
        "#,
    );
    project.config(&from_beginning("counter", &topic.name, "counter"));
    topic.produce(numbered(0..50, 0));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", 50, DEADLINE);
    assert_eq!(entries[49].extra, "50");
    stays(
        "no message comes twice",
        std::time::Duration::from_millis(200),
        || project.entries().len() == 50,
    );
    daemon.stop();
}
