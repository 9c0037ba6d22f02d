//! State that handlers share and keep: stores in memory, in a file and in Redis, single flights over workers.

use std::collections::BTreeSet;
use std::time::Duration;

use crate::dev;
use crate::support::client::Message;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::redis;
use crate::support::wait::DEADLINE;

/// No broker is there, and none is needed: timers do the work.
const NO_BROKER: &str = "127.0.0.1:1";

const FILE: &str = "[kv.seen]\nbackend = \"file\"\n";

/// Writes without end, and records what was acknowledged: numbers of a counter, and entries of their own.
const WRITER: &str = r#"
local record, tide = require "record", require "tide"
local kv = tide.kv("seen")
local lanes = {}
for lane = 1, 16 do lanes[lane] = lane end
tide.every("1ms", function()
  tide.parallel(lanes, function()
    local number = kv:incr("count")
    kv:set(("k%08d"):format(number), number)
    record.note("acknowledged", number)
  end)
end)
return function() end
"#;

/// Records what is there.
const READER: &str = r#"
local record, tide = require "record", require "tide"
local kv = tide.kv("seen")
tide.after("1ms", function()
  local after
  repeat
    local entries = kv:scan{ prefix = "k", after = after, limit = 1000 }
    for _, entry in ipairs(entries) do
      record.note("there", entry.value)
      after = entry.key
    end
  until #entries < 1000
  record.note("end", kv:get("count"))
end)
return function() end
"#;

fn numbers(project: &Project, event: &str) -> Vec<i64> {
    let entries = project.entries_of(event);
    entries
        .iter()
        .filter_map(|entry| entry.extra.parse().ok())
        .collect()
}

/// `MOONTIDE_TEST_STATE_KILLS` has another number of kills.
#[test]
fn an_acknowledged_write_survives_kill_9() {
    let kills = std::env::var("MOONTIDE_TEST_STATE_KILLS");
    let kills = kills.map_or(20, |kills| kills.parse().unwrap());
    let project = Project::at(NO_BROKER.to_owned()).sections(FILE);
    project.handler("writer.lua", WRITER);
    project.handler("reader.lua", READER);
    project.config(&from_beginning("t", "t", "writer"));
    let mut chance = fastrand::Rng::with_seed(7);
    for _ in 0..kills {
        let recorded =
            || std::fs::metadata(project.path("record.tsv")).map_or(0, |file| file.len());
        let least = recorded() + chance.u64(1..2_000);
        let mut daemon = Daemon::start(&project);
        daemon.wait_for("writes", |_| recorded() >= least);
        // The kill comes at any moment of a write.
        std::thread::sleep(Duration::from_micros(chance.u64(0..5_000)));
        daemon.kill();
    }
    project.config(&from_beginning("t", "t", "reader"));
    let mut daemon = Daemon::start(&project);
    daemon.wait_for("the entries", |_| !project.entries_of("end").is_empty());
    let checked = "the file of a store was not closed: it is checked";
    daemon.wait_line("the check of the file", |line| line.is(checked));
    let acknowledged = numbers(&project, "acknowledged");
    let different: BTreeSet<i64> = acknowledged.iter().copied().collect();
    assert_eq!(
        different.len(),
        acknowledged.len(),
        "a counter forgot a step"
    );
    let there: BTreeSet<i64> = numbers(&project, "there").into_iter().collect();
    let lost: Vec<_> = different.difference(&there).collect();
    assert!(lost.is_empty(), "lost after {kills} kills: {lost:?}");
    let status = daemon.status();
    assert_eq!(status["kv"][0]["name"], "seen");
    assert_eq!(status["kv"][0]["entries"], there.len() + 1);
    daemon.stop();
}

#[test]
fn a_second_daemon_does_not_get_the_file_and_check_shows_it() {
    let project = Project::at(NO_BROKER.to_owned()).sections(FILE);
    project.handler("reader.lua", READER);
    let text = project.config_text(&from_beginning("t", "t", "reader"));
    project.write("config.toml", &text);
    let shown = dev::text(&dev::run(&project.path("."), &["check"]));
    let path = project.path("kv-seen.redb");
    let line = format!(
        "kv seen in {}: at most 1000000 entries and 268435456 bytes",
        path.display()
    );
    assert!(shown.contains(&line), "{shown}");
    let first = Daemon::start(&project);
    let second = project.another_member();
    let own =
        |directory: &Project| format!("stateDirectory = \"{}\"", directory.path(".").display());
    let text = std::fs::read_to_string(second.path("config.toml")).unwrap();
    second.write("config.toml", &text.replace(&own(&second), &own(&project)));
    let mut refused = Daemon::spawn(&second);
    assert_eq!(refused.exit_code(DEADLINE), 78, "{}", refused.log_text());
    let text = refused.log_text();
    assert!(text.contains("kv seen: `"), "{text}");
    assert!(text.contains("another process has it open"), "{text}");
    first.stop();
    let again = Daemon::start(&second);
    let checked = again.count(|line| line.mentions("it is checked"));
    assert_eq!(checked, 0, "a stop closes the file");
    again.stop();
}

const FLIGHTS: &str = r#"
local record, tide = require "record", require "tide"
local get = tide.cache(function(key)
  record.note("fetched", key)
  tide.sleep(300)
  return { key = key }
end, { ttl = "1h", name = "fetches" })
return function(message, ctx)
  tide.once("all", "1h", function()
    record.note("ran", message.partition)
    tide.sleep(300)
  end)
  assert(get("a").key == "a")
  record.line("done", message, ctx, get("a").key)
end
"#;

#[test]
fn workers_share_flights_and_a_cache_ends_with_its_file() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic(&unique("flights"), 8);
    let project = Project::new(kafka).sections("[lua]\nworkers = 2\n");
    project.handler("flights.lua", FLIGHTS);
    project.config(&(from_beginning("flights", &topic.name, "flights") + "ordering = \"none\"\n"));
    topic.produce((0..104).map(|n| Message::value("v").partition(n % 8)));
    let mut daemon = Daemon::join(&project);
    project.wait_for_entries("done", 104, DEADLINE);
    assert_eq!(project.entries_of("ran").len(), 1);
    assert_eq!(
        project.entries_of("fetched").len(),
        1,
        "104 lanes, one fetch"
    );
    let caches = &daemon.status()["caches"][0];
    assert_eq!(
        (&caches["name"], &caches["misses"]),
        (&"fetches".into(), &104.into())
    );
    assert_eq!(caches["hits"], 104);
    // Another file changes: the results stay.
    project.handler("other.lua", "return 1");
    daemon.wait_line("the first reload", |line| line.is("reloaded"));
    topic.produce([Message::value("v").partition(0)]);
    project.wait_for_entries("done", 105, DEADLINE);
    assert_eq!(project.entries_of("fetched").len(), 1);
    let seen = daemon.lines().len();
    project.handler("flights.lua", &(FLIGHTS.to_owned() + "-- changed\n"));
    daemon.wait_line_after(seen, "the second reload", |line| line.is("reloaded"));
    topic.produce([Message::value("v").partition(1)]);
    project.wait_for_entries("done", 106, DEADLINE);
    assert_eq!(project.entries_of("fetched").len(), 2);
    assert_eq!(
        project.entries_of("ran").len(),
        1,
        "records are the store's"
    );
    assert!(daemon.stop_counted().ended_in_order());
}

/// Runs once, as a tick, and records how it ended.
const CHUNK: &str = r#"
local record, tide = require "record", require "tide"
local kv, raw = tide.kv("shared"), tide.redis("server")
local function body()
  for _, value in ipairs{ "text", "bin\0\r\n\255", "42", 7, math.mininteger, 2^53 + 1, 0.5, true, false, tide.null, { 1, { a = "b" } } } do
    kv:set("k", value)
    local got = kv:get("k")
    assert(type(got) == type(value) and math.type(got) == math.type(value))
    assert(type(value) == "table" or got == value, tostring(value))
  end
  assert(kv:get("k")[2].a == "b" and kv:get("nobody") == nil)
  assert(kv:delete("k") == true and kv:delete("k") == false)
  -- Redis counts by itself, and exactly.
  assert(kv:incr("n", 5, { init = 1 << 53, ttl = "1h" }) == (1 << 53) + 5)
  assert(kv:incr("n") == (1 << 53) + 6 and raw:get("PREFIXn") == "9007199254740998" and raw:ttl("PREFIXn") > 3000)
  kv:set("s", "5")
  for _, name in ipairs{ "s", "most" } do
    kv:set("most", math.maxinteger)
    local ok, err = pcall(kv.incr, name)
    assert(not ok and err.kind == "invalid", tostring(err))
  end
  kv:set("ttl", 1, { ttl = "50ms" })
  tide.sleep(100)
  assert(kv:get("ttl") == nil)
  -- An update runs again when another one was there first.
  local runs = 0
  assert(kv:update("u", function(value)
    runs = runs + 1
    return (value or 0) + 1
  end, { ttl = "1h" }) == 1 and runs == 1 and raw:ttl("PREFIXu") > 3000)
  local results = tide.parallel({ 1, 2, 3, 4, 5, 6, 7, 8 }, function()
    kv:update("u", function(value) runs = runs + 1 return value + 1 end)
  end)
  assert(kv:get("u") == 9 and runs > 9, runs)
  assert(raw:ttl("PREFIXu") > 3000, "an update keeps the time")
  assert(kv:update("u", function() end) == nil and raw:exists("PREFIXu") == false)
  -- A scan is in the order of keys, and sees the store alone.
  raw:set("PREFIXnot-of-it", 1)
  for index = 1, 1500 do kv:set(("list*:%04d"):format(index), index) end
  local seen, after = 0, nil
  repeat
    local entries = kv:scan{ prefix = "list*:", after = after, limit = 700 }
    for _, entry in ipairs(entries) do
      seen = seen + 1
      assert(entry.value == seen)
      after = entry.key
    end
  until #entries < 700
  assert(seen == 1500 and kv:size() == 1504, kv:size())
  local ran = tide.once("key", "1h", function() return { 1 } end, { store = kv })
  local again, result = tide.once("key", "1h", error, { store = kv })
  assert(ran == true and again == false and result[1] == 1 and raw:ttl("PREFIXonce:key") > 3000)
end
tide.after("1ms", function()
  local ok, err = pcall(body)
  record.note("chunk", ok and "ok" or (tostring(err):gsub("%s+", " ")))
end)
return function() end
"#;

#[test]
fn a_store_in_redis_keeps_values_counts_exactly_and_is_shared() {
    let Some(redis) = redis::shared() else { return };
    let prefix = format!("{}:", unique("store"));
    let project = Project::at(NO_BROKER.to_owned()).sections(&format!(
        "[redis.server]\nurl = \"{}\"\n[kv.shared]\nbackend = \"redis\"\nredis = \"server\"\nprefix = \"{prefix}\"\n",
        redis.url()
    ));
    project.handler("chunk.lua", &CHUNK.replace("PREFIX", &prefix));
    project.config(&from_beginning("t", "t", "chunk"));
    let daemon = Daemon::start(&project);
    let found = project.wait_for_entries("chunk", 1, DEADLINE);
    assert_eq!(found[0].extra, "ok");
    assert_eq!(daemon.status()["kv"], serde_json::json!([]));
    // A second process finds what the first one has left.
    let second = project.another_member();
    second.handler(
        "chunk.lua",
        "local record, tide = require 'record', require 'tide'
        tide.after('1ms', function()
          local again, result = tide.once('key', '1h', error, { store = tide.kv('shared') })
          record.note('second', tostring(again) .. result[1])
        end)
        return function() end",
    );
    let other = Daemon::start(&second);
    let found = project.wait_for_entries("second", 1, DEADLINE);
    assert_eq!(found[0].extra, "false1");
    other.stop();
    assert!(daemon.stop_counted().ended_in_order());
}
