//! Commands that handlers send by `tide.redis`, to real servers.

mod away;
mod cluster;
mod given_up;
mod secured;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, moontide};
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::redis::{self, Reply};
use crate::support::wait::{DEADLINE, wait_for};

/// Runs the value of each message as a chunk, with `cache`, the prefix `K` and `fails(kind, code, f, ...)`, and records
/// its error.
pub(super) const CHUNKS: &str = r#"
local record, tide = require "record", require "tide"
local env = setmetatable({ tide = tide, cache = tide.redis("NAME"), K = "NAME:" }, { __index = _G })
function env.fails(kind, code, f, ...)
  local ok, err = pcall(f, ...)
  assert(not ok, "it did not fail")
  assert(tide.error.is(err, kind), tostring(err))
  assert(err.code == code, tostring(err.code) .. ": " .. tostring(err))
  return tostring(err)
end
return function(message, ctx)
  env.ctx = ctx
  local chunk, err = load(message.value, "=chunk", "t", env)
  local ok = chunk
  if chunk then ok, err = pcall(chunk) end
  local where = { topic = message.topic, partition = 0, offset = message.offset, value = "" }
  record.line("chunk", where, ctx, ok and "ok" or (tostring(err):gsub("%s+", " ")))
end
"#;

/// A project whose one listener runs chunks against `[redis.NAME]`.
pub(super) fn chunks(project: &Project, topic: &str, name: &str) {
    project.handler("chunks.lua", &CHUNKS.replace("NAME", name));
    project.config(&(from_beginning("chunks", topic, "chunks") + "ordering = \"none\"\n"));
}

/// Waits for the chunks, and shows those that failed.
#[track_caller]
pub(super) fn all_pass(project: &Project, chunks: &[&str]) {
    let found = project.wait_for_entries("chunk", chunks.len(), DEADLINE);
    for entry in found {
        let chunk = chunks[entry.offset as usize];
        assert_eq!(entry.extra, "ok", "{chunk}");
    }
}

const COMMANDS: &[&str] = &[
    // A string is bytes, an integer is exact, and nil is nil.
    r##"
    local bytes = {}
    for byte = 0, 255 do bytes[#bytes + 1] = string.char(byte) end
    local all = table.concat(bytes)
    assert(cache:set(K .. "bytes" .. all, all .. "\r\n") == "OK")
    assert(cache:get(K .. "bytes" .. all) == all .. "\r\n")
    assert(cache:get(K .. "nobody") == nil)
    assert(select("#", cache:get(K .. "nobody")) == 1)
    local n = math.maxinteger - 1
    assert(cache:set(K .. "n", n) == "OK" and cache:incr(K .. "n") == math.maxinteger)
    assert(cache:get(K .. "n") == "9223372036854775807")
    assert(cache:call("INCRBY", K .. "m", math.mininteger) == math.mininteger)
    assert(math.type(cache:strlen(K .. "n")) == "integer")
    assert(cache:set(K .. "f", 0.1) and cache:get(K .. "f") == "0.1")
    assert(cache:incrbyfloat(K .. "f", 0.2):sub(1, 3) == "0.3")
    "##,
    // Options, expiry, and what is a boolean.
    r#"
    assert(cache:set(K .. "once", 1, "NX", "EX", 60) == "OK")
    assert(cache:set(K .. "once", 2, "NX") == nil)
    assert(cache:ttl(K .. "once") > 50)
    assert(cache:exists(K .. "once") == true and cache:exists(K .. "nobody") == false)
    assert(cache:setnx(K .. "once", 1) == false)
    assert(cache:persist(K .. "once") == true and cache:ttl(K .. "once") == -1)
    assert(cache:expire(K .. "once", 5) == true and cache:expire(K .. "nobody", 5) == false)
    assert(cache:del(K .. "once", K .. "nobody") == 1)
    assert(cache.get(K .. "nobody") == nil)
    assert(cache:call("SET", K .. "c", "v", "PX", 60000) == "OK" and cache:call("get", K .. "c") == "v")
    assert(tide.redis("@NAME@") == cache)
    "#,
    // Lists have tide.null where there is nothing, and hashes are tables.
    r#"
    cache:mset(K .. "a", 1, K .. "b", 2)
    local got = cache:mget(K .. "a", K .. "nobody", K .. "b")
    assert(#got == 3 and got[1] == "1" and got[2] == tide.null and got[3] == "2")
    assert(cache:hset(K .. "h", "x", 1, "y", "two") == 2)
    local h = cache:hgetall(K .. "h")
    assert(h.x == "1" and h.y == "two" and next(cache:hgetall(K .. "nobody")) == nil)
    assert(cache:call("HGETALL", K .. "h")[1] == "x")
    assert(cache:hmget(K .. "h", "x", "z")[2] == tide.null)
    assert(cache:hexists(K .. "h", "z") == false and cache:hincrby(K .. "h", "x", 4) == 5)
    assert(cache:rpush(K .. "l", "a", "b", "c") == 3 and table.concat(cache:lrange(K .. "l", 0, -1)) == "abc")
    assert(cache:sadd(K .. "s", "a", "b") == 2 and cache:sismember(K .. "s", "a") == true)
    assert(cache:zadd(K .. "z", 1.5, "a", math.huge, "b") == 2)
    local range = cache:zrange(K .. "z", 0, -1, "WITHSCORES")
    assert(range[2] == "1.5" and range[4] == "inf" and cache:zscore(K .. "z", "nobody") == nil)
    local id = cache:xadd(K .. "x", "*", "field", "value")
    local entry = cache:xrange(K .. "x", "-", "+")[1]
    assert(entry[1] == id and entry[2][2] == "value")
    "#,
    // A pipeline, with and without a transaction.
    r#"
    local got = cache:pipeline{ { "SET", K .. "p", 1 }, { "INCR", K .. "p" }, { "GET", K .. "nobody" } }
    assert(got[1] == "OK" and got[2] == 2 and got[3] == tide.null)
    assert(#cache:pipeline{} == 0)
    got = cache:pipeline({ { "INCR", K .. "p" }, { "HGETALL", K .. "nobody" } }, { atomic = true })
    assert(got[1] == 3 and #got[2] == 0)
    local text = fails("invalid", "WRONGTYPE", cache.pipeline, cache, { { "INCR", K .. "p" }, { "LPUSH", K .. "p", 1 } })
    assert(text:find("command 2 of 2, LPUSH: WRONGTYPE", 1, true) and text:find("the other commands have run"), text)
    assert(cache:get(K .. "p") == "4")
    text = fails("invalid", "ERR", cache.pipeline, cache, { { "INCR", K .. "p" }, { "NOSUCH", K .. "p" } }, { atomic = true })
    assert(text:find("command 2 of 2, NOSUCH", 1, true) and text:find("nothing has run"), text)
    assert(cache:get(K .. "p") == "4")
    local many = {}
    for i = 1, 20000 do many[i] = { "SET", K .. "many", ("x"):rep(100) .. i } end
    assert(#cache:pipeline(many) == 20000 and cache:get(K .. "many"):sub(101) == "20000")
    "#,
    // A script is known from its second run on.
    r#"
    local text = "return { KEYS[1], ARGV[1], tonumber(ARGV[2]) + 1, false, { 'deep' }, '" .. K .. "' }"
    for run = 1, 3 do
      local got = cache:script(text, { K .. "k" }, { "a\0b", 41 })
      assert(got[1] == K .. "k" and got[2] == "a\0b" and got[3] == 42 and got[4] == tide.null and got[5][1] == "deep")
    end
    assert(cache:script("return 7") == 7)
    fails("refused", "MINE", cache.script, cache, "return redis.error_reply('MINE of the script')")
    local said = fails("refused", "ERR", cache.script, cache, "return nosuch()")
    assert(said:find("`redis:script`: a script at `@NAME@`", 1, true), said)
    "#,
    // Errors have a kind and the code of Redis, and show neither keys nor values.
    r#"
    cache:set(K .. "text", "secret")
    local text = fails("invalid", "WRONGTYPE", cache.lpush, cache, K .. "text", "secret")
    assert(text:find("`redis:lpush`: LPUSH at `@NAME@`: WRONGTYPE", 1, true), text)
    fails("invalid", "ERR", cache.incr, cache, K .. "text")
    text = fails("invalid", "ERR", cache.call, cache, "NOSUCH", "secret")
    assert(not text:find("secret"), text)
    fails("notFound", "ERR", cache.call, cache, "RENAME", K .. "nobody", K .. "x")
    fails("notFound", "NOGROUP", cache.call, cache, "XREADGROUP", "GROUP", "g", "c", "STREAMS", K .. "nobody", ">")
    cache:xgroup("CREATE", K .. "stream", "g", "$", "MKSTREAM")
    fails("conflict", "BUSYGROUP", cache.xgroup, cache, "CREATE", K .. "stream", "g", "$")
    fails("invalid", nil, cache.get, cache)
    fails("invalid", nil, cache.get, cache, nil)
    fails("invalid", nil, cache.set, cache, K .. "b", true)
    fails("invalid", nil, cache.get, cache, K .. "b", { timeOut = 1 })
    "#,
    // What changes the connection is refused, and the error says what to do.
    r#"
    for name, hint in pairs{ MULTI = "atomic = true", WATCH = ":script", SELECT = "`url`", AUTH = "`user`",
                             SUBSCRIBE = "XREADGROUP", QUIT = "keeps the connections" } do
      local text = fails("invalid", nil, cache.call, cache, name, "1")
      assert(text:find(name .. " is not possible here", 1, true) and text:find(hint, 1, true), text)
    end
    fails("invalid", nil, cache.call, cache, "CLIENT", "REPLY", "OFF")
    assert(cache:call("CLIENT", "GETNAME") == "moontide:@NAME@")
    local text = fails("invalid", nil, cache.pipeline, cache, { { "BLPOP", K .. "l", 1 } })
    assert(text:find("BLPOP blocks", 1, true), text)
    "#,
    // A name that is no method, and one that is no server.
    r#"
    local ok, err = pcall(function() return cache.hgetal end)
    assert(not ok and err:find('no method `hgetal`, did you mean `hgetall`?', 1, true), err)
    assert(err:find(':call("HGETAL", ...)', 1, true), err)
    ok, err = pcall(tide.redis, "@NAME@x")
    assert(not ok and err:find("no table `[redis.@NAME@x]`, did you mean `@NAME@`?", 1, true), err)
    ok, err = pcall(tide.redis)
    assert(not ok and err:find("takes the name of a Redis server, not nil", 1, true), err)
    "#,
    // A command that blocks has a connection of its own: all of the pool would be taken.
    r#"
    local took = {}
    local waits = {}
    for i = 1, 4 do waits[i] = function() took[i] = cache:blpop(K .. "queue", 20) end end
    waits[5] = function() tide.sleep(50) for i = 1, 4 do assert(cache:rpush(K .. "queue", i)) end end
    tide.parallel(waits)
    for i = 1, 4 do assert(took[i][1] == K .. "queue") end
    assert(cache:brpop(K .. "queue", 0.01) == nil)
    assert(cache:call("XREAD", "BLOCK", 5, "STREAMS", K .. "nobody", "$") == nil)
    assert(cache:call("WAIT", 0, 10) == 0)
    "#,
    // A reply above the bound is not read.
    r#"
    cache:call("SETRANGE", K .. "huge", 3000000, "x")
    local text = fails("tooLarge", nil, cache.get, cache, K .. "huge")
    assert(text:find("2097152 bytes of `maxReply`", 1, true), text)
    assert(cache:strlen(K .. "huge") == 3000001 and #cache:getrange(K .. "huge", 0, 999999) == 1000000)
    "#,
    // Calls of one handler run beside each other, and each has its own reply.
    r#"
    local calls = {}
    for i = 1, 200 do calls[i] = function() assert(cache:call("ECHO", "v" .. i) == "v" .. i) return i end end
    local got = tide.parallel(calls)
    for i = 1, 200 do assert(got[i] == i) end
    local ok, err = pcall(table.sort, { 1, 2 }, function() cache:get(K) end)
    assert(not ok and err:find("`redis:get` waits, which cannot be done inside a callback", 1, true), err)
    "#,
];

/// Data in, data out: the API as its page says, against one server with a small pool.
#[test]
fn commands_do_what_their_page_says() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(redis) = redis::shared() else { return };
    let (topic, name) = (kafka.topic("redis-commands", 1), unique("commands"));
    let project = Project::new(kafka).sections(&format!(
        "[redis.{name}]\nurl = \"{}\"\nsize = 4\nmaxReply = \"2MiB\"\n",
        redis.url()
    ));
    chunks(&project, &topic.name, &name);
    let chunks: Vec<_> = COMMANDS
        .iter()
        .map(|one| one.replace("@NAME@", &name))
        .collect();
    let chunks: Vec<_> = chunks.iter().map(String::as_str).collect();
    topic.produce(
        chunks
            .iter()
            .map(|chunk| Message::value(chunk).partition(0)),
    );

    let daemon = Daemon::start(&project);

    all_pass(&project, &chunks);
    daemon.stop();
    assert_eq!(redis.connections(&name), 0, "none outlives the daemon");
}

const GET: &str = r#"
        local record, tide = require "record", require "tide"
        local pool = tide.redis("pool")
        local M = {}
        function M.get(message, ctx)
          local ok, err = pcall(pool.get, pool, "x")
          if not ok then record.line("fail", message, ctx, err.kind) error(err) end
          record.line("done", message, ctx)
        end
        return M
"#;

/// A pool of two for 50 calls that each take some time: they wait, status and metrics show it, and `busy` costs no
/// attempt.
#[test]
fn a_pool_has_a_bound_that_status_and_metrics_show() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(redis) = redis::Redis::start_own(&[]) else {
        return;
    };
    let topic = kafka.topic("redis-pool", 1);
    let project = Project::new(kafka).sections(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n\
         [redis.pool]\nurl = \"{}\"\nsize = 2\nacquireTimeout = \"1s\"\ntimeout = \"1h\"\n",
        redis.url()
    ));
    project.handler("get.lua", GET);
    let policy = "ordering = \"none\"\nonError = \"deadLetter\"\ndeadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 50 }\n";
    project.config(&(from_beginning("get", &topic.name, "get.get") + policy));
    let mut daemon = Daemon::join(&project);
    // What is told at the first connection is not slowed.
    redis.freeze();
    topic.produce(numbered(0..50, 0));
    let mut seen = serde_json::Value::Null;
    let http = address(&mut daemon);
    daemon.wait_for("all of them wait", |daemon| {
        seen = daemon.status()["redis"][0].clone();
        seen["waiting"].as_u64() >= Some(40)
    });
    assert_eq!(
        (&seen["name"], &seen["size"]),
        (&"pool".into(), &2.into()),
        "{seen}"
    );
    let text = moontide(&["status", "--config"], &project.path("config.toml")).stdout;
    let text = String::from_utf8(text).unwrap();
    assert!(text.contains("redis     pool: "), "{text}");
    assert!(text.contains(" of 2 connections in use"), "{text}");
    assert!(text.contains("get waits for redis GET"), "{text}");
    assert!(!text.contains("redis GET x"), "{text}");
    let labels = [("redis", "pool")];
    let samples = scrape(&http);
    assert_eq!(
        samples.get("moontide_redis_connections_max", &labels),
        Some(2.0)
    );
    assert!(samples.get("moontide_redis_calls_waiting", &labels) > Some(30.0));
    daemon.wait_for("some got no connection", |_| {
        project
            .entries_of("fail")
            .iter()
            .any(|one| one.extra == "busy")
    });
    redis.thaw();
    let done = project.wait_for_entries("done", 50, DEADLINE);
    assert!(done.iter().all(|one| one.attempt == 1), "{done:?}");
    let samples = scrape(&http);
    let labels = [("function", "redis.get"), ("result", "ok")];
    assert_eq!(
        samples.get("moontide_outside_calls_total", &labels),
        Some(50.0)
    );
    wait_for("the connections are those of the pool", DEADLINE, || {
        let open = daemon.status()["redis"][0]["open"].as_u64();
        open == Some(redis.connections("pool") as u64) && open <= Some(2)
    });
    daemon.stop();
}

/// `[redis.NAME]` is live: calls of the old bundle end in the old pool, and new ones meet the other server.
#[test]
fn a_reload_brings_another_server_and_the_old_pool_drains() {
    let Some(kafka) = kafka::shared() else { return };
    let (Some(one), Some(two)) = (redis::Redis::start_own(&[]), redis::shared()) else {
        return;
    };
    let (topic, name) = (kafka.topic("redis-reload", 1), unique("reload"));
    // The command reloads, and no watch comes first.
    let project = Project::new(kafka).sections("[daemon]\nwatch = false\n");
    project.handler(
        "who.lua",
        &r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          local cache = tide.redis("NAME")
          if message.value == "long" then cache:blpop("NAME:gate", 0) end
          record.line("done", message, ctx, cache:get("NAME:who"))
        end
        "#
        .replace("NAME", &name),
    );
    let listener = from_beginning("who", &topic.name, "who") + "ordering = \"none\"\n";
    let with = |lines: &str| format!("{listener}\n[redis.{name}]\n{lines}\n");
    let key = format!("{name}:who");
    one.ok(&["SET", &key, "one"]);
    two.ok(&["SET", &key, "two"]);
    project.config(&with(&format!("url = \"{}\"", one.url())));
    topic.produce(["long", "first"].map(|value| Message::value(value).partition(0)));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    project.config(&with(&format!("url = \"{}\"\nsize = 3", two.url())));
    let (code, text) = daemon.reload();
    assert_eq!(code, 0, "{text}");
    assert!(text.contains(&format!("redis changed: `{name}`")), "{text}");
    topic.produce([Message::value("second").partition(0)]);
    project.wait_for_entries("done", 2, DEADLINE);
    assert!(one.connections(&name) > 0, "the old pool serves its call");
    one.command(&["RPUSH", &format!("{name}:gate"), "go"]);
    let done = project.wait_for_entries("done", 3, DEADLINE);
    let mut found: Vec<_> = done.iter().map(|one| (&*one.value, &*one.extra)).collect();
    found.sort_unstable();
    assert_eq!(
        found,
        [("first", "one"), ("long", "one"), ("second", "two")]
    );
    wait_for("the old pool is gone", DEADLINE, || {
        one.connections(&name) == 0
    });
    project.config(&with("url = \"redis://\"\nsize = 0"));
    let (code, text) = daemon.reload();
    assert_ne!(code, 0);
    assert!(text.contains("`size` is 0, not from 1 to 10000"), "{text}");
    daemon.stop();
    assert_eq!(two.command(&["DEL", &key]), Reply::Integer(1));
}
