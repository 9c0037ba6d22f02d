//! Handlers that never return, eat all memory, or try to end the process.

use std::time::Duration;

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays};

const ENDLESS: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value == "plain" then while true do end end
  if message.value == "pcall" then while true do pcall(function() while true do end end) end end
  if message.value == "handler" then while true do xpcall(error, function() while true do end end) end end
  if message.value == "coroutine" then coroutine.wrap(function() while true do end end)() end
  if message.value == "nested" then
    while true do
      pcall(coroutine.wrap(function()
        coroutine.wrap(function() while true do pcall(error) end end)()
      end))
    end
  end
  if message.value == "close" then
    local c <close> = setmetatable({}, { __close = function() while true do pcall(error) end end })
    local co = coroutine.create(function() local d <close> = c coroutine.yield() end)
    coroutine.resume(co)
    coroutine.close(co)
  end
  if message.value == "sort" then
    table.sort({ 3, 2, 1 }, function() while true do pcall(error) end end)
  end
  if message.value == "rep" then for _ = 1, 1e9 do string.rep("x", 100000) end end
  if message.value == "concat" then
    local s = ""
    while true do s = s .. "x" if #s > 10000 then s = "" end end
  end
  if message.value == "gsub" then
    local s = string.rep("ab", 1000)
    while true do s:gsub("%w", "%0%0") end
  end
  record.line("survived", message, ctx)
end
"#;

/// `limits.blocking`: a handler that computes without end is ended; others go on, in the same process.
#[test]
fn an_endless_handler_is_ended_and_the_others_go_on() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("endless", 1), kafka.topic("other", 1));
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.handler("endless.lua", ENDLESS);
    project.config(
        &(from_beginning("endless", &topic.name, "endless")
            + "onError = \"skip\"\nlimits = { blocking = \"400ms\" }\n"
            + &from_beginning("other", &other.name, "orders.handle")),
    );
    let values = [
        "good",
        "plain",
        "pcall",
        "handler",
        "coroutine",
        "nested",
        "close",
        "sort",
        "rep",
        "concat",
        "gsub",
        "fine",
    ];
    topic.produce(values.map(|value| Message::value(value).partition(0)));

    let mut daemon = Daemon::start(&project);
    let pid = daemon.pid();
    other.produce(numbered(0..20, 0));

    project.wait_for_entries("done", 20, DEADLINE);
    project.wait_for_entries("survived", 2, DEADLINE);
    assert_eq!(project.values_of("try"), values);
    assert_eq!(project.values_of("survived"), ["good", "fine"]);
    let errors = daemon.count(|line| line.is_error() && line.field("topic") == topic.name);
    assert_eq!(errors, 10, "one line for each");
    assert!(!daemon.ended() && daemon.pid() == pid);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(12));
}

/// An endless handler that is retried blocks its own partition alone.
#[test]
fn an_endless_handler_that_is_retried_blocks_only_its_partition() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("endless", 1), kafka.topic("other", 1));
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.handler(
        "endless.lua",
        "local record = require \"record\"\n\
         return function(message, ctx) record.line(\"try\", message, ctx) while true do end end\n",
    );
    project.config(
        &(from_beginning("endless", &topic.name, "endless")
            + "limits = { blocking = \"200ms\" }\nretry = { initialDelay = 100, maxDelay = 200 }\n"
            + &from_beginning("other", &other.name, "orders.handle")),
    );
    topic.produce(numbered(0..2, 0));

    let mut daemon = Daemon::start(&project);
    daemon.wait_for("it was ended and tried again", |_| {
        project.entries_of("try").len() >= 3
    });
    other.produce(numbered(0..20, 0));

    project.wait_for_entries("done", 20, DEADLINE);
    assert!(
        project
            .entries_of("try")
            .iter()
            .all(|entry| entry.offset == 0)
    );
    daemon.stop();
    assert_eq!(
        kafka.committed(&project.group, &topic.name, 0).unwrap_or(0),
        0
    );
}

const SLEEPY: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  tide.sleep(30)
  record.line("done", message, ctx)
end
"#;

const BOMB: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  if message.value == "table" then local t = {} while true do t[#t + 1] = { #t } end end
  if message.value == "string" then return string.rep("x", 1 << 30) end
  if message.value == "doubled" then local s = "x" while true do s = s .. s end end
  if message.value == "joined" then
    local t = {}
    for i = 1, 1000 do t[i] = string.rep("x", 1000) end
    return table.concat(t, string.rep("y", 100000))
  end
  if message.value == "coroutines" then
    local t = {}
    while true do t[#t + 1] = coroutine.create(print) end
  end
  if message.value == "wrapped" then
    coroutine.wrap(function() local t = {} while true do t[#t + 1] = {} end end)()
  end
  if message.value == "recursion" then
    local function f() return 1 + f() end
    f()
  end
  if message.value == "caught" then
    local t = {}
    pcall(function() while true do t[#t + 1] = ("x"):rep(1000) .. #t end end)
    t = nil
  end
  record.line("survived", message, ctx)
end
"#;

/// `[lua] memory`: a handler that asks for ever more fails; calls that waited in the same VM are not lost.
#[test]
fn a_memory_bomb_fails_its_message_and_the_others_go_on() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, other) = (kafka.topic("bomb", 1), kafka.topic("other", 1));
    let project = Project::new(kafka).sections("[lua]\nmemory = \"32MiB\"");
    project.handler("sleepy.lua", SLEEPY);
    project.handler("bomb.lua", BOMB);
    project.config(
        &(from_beginning("bomb", &topic.name, "bomb")
            + "onError = \"skip\"\n"
            + &from_beginning("other", &other.name, "sleepy")),
    );
    let values = [
        "good",
        "table",
        "string",
        "doubled",
        "joined",
        "coroutines",
        "wrapped",
        "recursion",
        "caught",
        "fine",
    ];
    topic.produce(values.map(|value| Message::value(value).partition(0)));
    other.produce(numbered(0..30, 0));

    let mut daemon = Daemon::start(&project);

    daemon.wait_for("all others are handled", |_| {
        let mut offsets: Vec<i64> = project
            .entries_of("done")
            .iter()
            .map(|entry| entry.offset)
            .collect();
        offsets.dedup();
        offsets.len() >= 30
    });
    daemon.wait_for("the last of the bombs' topic", |_| {
        project.values_of("survived").contains(&"fine".into())
    });
    assert!(project.values_of("survived").contains(&"good".into()));
    assert!(
        daemon.peak_memory() < 400 << 20,
        "the limit holds: {}",
        daemon.peak_memory()
    );
    let of_memory = daemon.count(|line| {
        line.is_error()
            && line.field("error") == "not enough memory: the vm has 32 MiB ([lua] memory)"
    });
    assert!(of_memory >= 6, "one line for each: {of_memory}");
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(10));
    assert_eq!(kafka.committed(&project.group, &other.name, 0), Some(30));
}

/// `os.exit` would end the process without its drain: a handler that calls it has failed.
#[test]
fn os_exit_does_not_end_the_daemon() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("exit", 1);
    let project = Project::new(kafka);
    project.handler("exit.lua", "return function() os.exit(0) end\n");
    project.config(&(from_beginning("exit", &topic.name, "exit") + "onError = \"skip\"\n"));
    topic.produce(numbered(0..1, 0));

    let mut daemon = Daemon::start(&project);
    daemon.wait_for("the message is given up", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    stays("it lives", Duration::from_millis(300), || !daemon.ended());
    daemon.stop();
}

/// What runs alone waits for the calls of other lanes to end; what these lanes have next waits for it, and not the other
/// way round as well.
#[test]
fn a_message_that_is_to_run_alone_comes_to_its_turn_among_lanes_that_go_on() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("alone", 1);
    let project = Project::new(kafka).sections("[lua]\nmemory = \"32MiB\"");
    project.handler(
        "keyed.lua",
        r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "bomb" then local t = {} while true do t[#t + 1] = { #t } end end
          tide.sleep(tonumber(message.value))
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("keyed", &topic.name, "keyed")
            + "ordering = \"key\"\nonError = \"skip\"\n"
            + "retry = { attempts = 3, initialDelay = 100, jitter = 0.0 }\n"),
    );
    let message = |key: &str, value: &str| Message::value(value).key(key).partition(0);
    topic.produce([
        message("a", "300"),
        message("b", "400"),
        message("c", "500"),
        message("a", "10"),
        message("b", "10"),
        message("c", "10"),
        message("x", "bomb"),
    ]);

    let mut daemon = Daemon::start(&project);

    project.wait_for_entries("done", 6, DEADLINE);
    daemon.wait_for("the bomb is given up", |_| {
        kafka.committed(&project.group, &topic.name, 0) == Some(7)
    });
    daemon.stop();
}

/// C code that nothing interrupts ends the process, before somebody else gets the partition; the log says which message
/// it was, and nothing is committed beyond it.
#[test]
fn c_code_that_does_not_end_ends_the_process_and_names_its_message() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("stuck", 1);
    let project = Project::new(kafka);
    project.handler(
        "stuck.lua",
        r#"
        local record = require "record"
        return function(message, ctx)
          record.line("try", message, ctx)
          if message.value == "2" and not io.open("gate") then
            string.find(string.rep("a", 40), string.rep("a?", 40) .. string.rep("a", 40))
          end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.config(
        &(from_beginning("stuck", &topic.name, "stuck") + "limits = { blocking = \"200ms\" }\n"),
    );
    topic.produce(numbered(0..4, 0));
    let mut daemon = Daemon::start(&project);

    assert_eq!(daemon.exit_code(DEADLINE), 128 + libc::SIGABRT);

    let line = daemon.lines().pop().expect("its last words");
    assert!(line.is_error(), "{line:?}");
    let coordinates = ["listener", "topic", "partition", "offset"].map(|name| line.field(name));
    assert_eq!(coordinates, ["stuck", &topic.name, "0", "2"]);
    assert!(kafka.committed(&project.group, &topic.name, 0).unwrap_or(0) <= 2);
    project.open_gate();
    let daemon = Daemon::start(&project);
    crate::support::wait::wait_for("all of it is done", DEADLINE, || {
        kafka.committed(&project.group, &topic.name, 0) == Some(4)
    });
    daemon.stop();
}

/// librdkafka counts the values of messages alone. Large headers bring no more memory into the process than large values
/// do, however many such messages wait, and all of them arrive once.
#[test]
fn messages_with_large_headers_have_a_bound() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("headers", 1);
    let project = Project::new(kafka);
    let handler = r#"
        local record = require "record"
        local tide = require "tide"
        return function(message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          record.line("done", { topic = "", partition = 0, offset = message.offset, value = "" }, ctx)
        end
        "#;
    project.handler("orders.lua", handler);
    project.config(&from_beginning("orders", &topic.name, "orders"));
    let large = Message::value("small")
        .partition(0)
        .header("large", Some(&vec![b'x'; 80_000]));
    let count = 4_000;
    for _ in 0..count / 500 {
        topic.produce((0..500).map(|_| large.clone()));
    }
    let mut daemon = Daemon::join(&project);

    daemon.wait_for("the budget is used up", |daemon| {
        daemon.status()["consumers"][0]["partitions"][0]["paused"] == "budget"
    });
    let memory = daemon.peak_memory();
    assert!(memory < 200 << 20, "{memory} bytes while they wait");

    project.open_gate();
    daemon.wait_for("all have run", |_| project.entries().len() >= count);
    let offsets: Vec<i64> = project.entries().iter().map(|one| one.offset).collect();
    assert_eq!(offsets, (0..count as i64).collect::<Vec<_>>());
    let memory = daemon.peak_memory();
    assert!(memory < 200 << 20, "{memory} bytes in the end");
    daemon.stop();
}
