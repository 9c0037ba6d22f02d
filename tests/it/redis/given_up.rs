//! Calls that are given up at any moment: no reply is taken by another call, and no connection is left behind.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::redis::{self, Redis};
use crate::support::wait::{DEADLINE, wait_for};

/// Each message: rounds in which some branches of calls are given up after a random time, and some are not. Each call
/// knows what its reply has to be; another one is recorded as `poison`.
const HANDLER: &str = r#"
local record, tide = require "record", require "tide"
local cache = tide.redis("NAME")
local M = {}
local counter = 0
local function work(message, ctx)
  counter = counter + 1
  local mine = ctx.attempt .. ":" .. message.offset .. ":" .. counter .. ":" .. math.random(1 << 40)
  local function same(got, what)
    if got ~= mine then record.line("poison", message, ctx, what .. " " .. tostring(got)) end
  end
  local key = "NAME:" .. mine
  for _ = 1, 4 do
    local dice = math.random(6)
    if dice == 1 then
      same(cache:call("ECHO", mine), "echo")
    elseif dice == 2 then
      cache:set(key, mine, "EX", 60)
      same(cache:get(key), "get")
    elseif dice == 3 then
      same(cache:pipeline({ { "SET", key, mine, "EX", 60 }, { "GET", key } }, { atomic = true })[2], "transaction")
    elseif dice == 4 then
      same(cache:pipeline{ { "SET", key, mine, "EX", 60 }, { "ECHO", "other" }, { "GET", key } }[3], "pipeline")
    elseif dice == 5 then
      same(cache:script("return ARGV[1]", { key }, { mine }), "script")
    else
      local got = cache:blpop(key .. ":queue", math.random() / 50 + 0.001)
      if got then record.line("poison", message, ctx, "blpop") end
    end
  end
end
local function rounds(message, ctx, count)
  for _ = 1, count do
    local branches = {}
    for branch = 1, 4 do branches[branch] = function() work(message, ctx) end end
    -- The first error gives up what the others wait for.
    branches[5] = function() tide.sleep(math.random() * 6) error("enough") end
    pcall(tide.parallel, branches)
  end
end
function M.rounds(message, ctx)
  math.randomseed(SEED, message.offset)
  rounds(message, ctx, 12)
  work(message, ctx)
  record.line("done", message, ctx)
end
-- The limit of the call ends it wherever it is, until the gate is open.
function M.limited(message, ctx)
  math.randomseed(SEED + ctx.attempt, message.offset)
  if io.open("gate") then
    work(message, ctx)
    return record.line("limited", message, ctx)
  end
  rounds(message, ctx, 1000)
end
return M
"#;

/// The kernel's clock is good enough for a seed, which the output has.
fn seed() -> u32 {
    let seed = std::env::var("MOONTIDE_REDIS_SEED").ok();
    let seed = seed.and_then(|seed| seed.parse().ok());
    seed.unwrap_or_else(|| {
        let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        now.unwrap().subsec_nanos()
    })
}

/// Calls of the functions of `tide.redis` that were given up.
fn given_up(http: &str) -> f64 {
    let samples = scrape(http);
    let functions = ["call", "set", "get", "pipeline", "script", "blpop"];
    let given_up = functions.map(|name| {
        let function = format!("redis.{name}");
        let labels = [("function", function.as_str()), ("result", "givenUp")];
        samples.get("moontide_outside_calls_total", &labels)
    });
    given_up.iter().flatten().sum()
}

/// Both see the same number of connections, within the pool and its commands that block.
#[track_caller]
fn settles(daemon: &Daemon, redis: &Redis, name: &str) {
    let mut seen = String::new();
    let until = Instant::now() + DEADLINE;
    loop {
        let status = daemon.status()["redis"][0].clone();
        let number = |field: &str| status[field].as_u64().unwrap_or(u64::MAX);
        let connections = redis.connections(name) as u64;
        if number("open") == connections
            && (number("inUse"), number("waiting"), number("blocking")) == (0, 0, 0)
            && connections <= 16
        {
            return;
        }
        seen.clear();
        write!(seen, "{connections} connections, {status}").unwrap();
        assert!(Instant::now() < until, "{seen}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
#[expect(clippy::print_stderr, reason = "the seed of a failed run")]
fn what_is_given_up_leaves_nothing_to_others() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(redis) = redis::shared() else { return };
    let seed = seed();
    eprintln!("MOONTIDE_REDIS_SEED={seed}");
    let (rounds, limited) = (
        kafka.topic("redis-given-up", 2),
        kafka.topic("redis-limited", 1),
    );
    let name = unique("given-up");
    let project = Project::new(kafka).sections(&format!(
        "[http]\nlisten = \"127.0.0.1:0\"\n[daemon]\ndrainDeadline = \"100ms\"\nwatch = false\n\
         [redis.{name}]\nurl = \"{}\"\nsize = 8\nacquireTimeout = \"1m\"\ntimeout = \"1m\"\n",
        redis.url()
    ));
    let handler = HANDLER
        .replace("NAME", &name)
        .replace("SEED", &seed.to_string());
    project.handler("calls.lua", &handler);
    let listeners = from_beginning("rounds", &rounds.name, "calls.rounds")
        + "ordering = \"none\"\n"
        + &from_beginning("limited", &limited.name, "calls.limited")
        + "ordering = \"none\"\nlimits = { timeout = \"40ms\" }\nretry = { initialDelay = 1, maxDelay = 5 }\n";
    project.config(&listeners);
    rounds.produce((0..2).flat_map(|partition| numbered(0..8, partition)));
    limited.produce(numbered(0..4, 0));

    let mut first = Daemon::start(&project);
    let http = address(&mut first);
    first.wait_for("300 calls were given up", |_| given_up(&http) >= 300.0);
    let (code, text) = first.reload();
    assert_eq!(code, 0, "{text}");
    // Its partitions go, and with them the calls under way.
    let place = project.another_member();
    let mut second = Daemon::join(&place);
    let jobs = first.stop_counted();
    assert!(jobs.ended_in_order(), "{jobs:?}");
    wait_for("the stop leaves none", DEADLINE, || {
        let open = second.status()["redis"][0]["open"].as_u64();
        open == Some(redis.connections(&name) as u64)
    });
    place.open_gate();
    second.wait_for("all messages are done", |_| {
        let mut offsets: Vec<_> = project
            .entries_of("done")
            .into_iter()
            .map(|one| (one.partition, one.offset))
            .collect();
        offsets.sort_unstable();
        offsets.dedup();
        offsets.len() == 16 && project.entries_of("limited").len() >= 4
    });
    settles(&second, redis, &name);
    let poison = project.entries_of("poison");
    assert!(poison.is_empty(), "seed {seed}: {poison:?}");
    let jobs = second.stop_counted();
    assert!(jobs.ended_in_order(), "{jobs:?}");
    assert_eq!(redis.connections(&name), 0);
}
