//! A cluster of three masters: keys everywhere, slots that move, and a member that is away.

use super::{all_pass, chunks};
use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::redis::Cluster;
use crate::support::wait::{DEADLINE, wait_for};

const EVERYWHERE: &[&str] = &[
    // Keys of all members, each by its own command, and in pipelines in their order.
    r#"
    for i = 1, 200 do assert(cache:set(K .. i, i) == "OK") end
    local commands = {}
    for i = 1, 200 do commands[i] = { "INCRBY", K .. i, 1000 } end
    for i = 201, 400 do commands[i] = { "GET", K .. i - 200 } end
    local got = cache:pipeline(commands)
    for i = 1, 200 do
      assert(got[i] == i + 1000 and got[i + 200] == tostring(i + 1000), i)
    end
    local members = {}
    for _ = 1, 200 do members[cache:call("CLUSTER", "MYID")] = true end
    local count = 0
    for _ in pairs(members) do count = count + 1 end
    assert(count == 3, "a command without a key goes to any member")
    "#,
    // A transaction and a script are of one slot, and the error says how keys share one.
    r#"
    local a, b = K .. "{u1}:a", K .. "{u1}:b"
    local got = cache:pipeline({ { "SET", a, 1 }, { "INCR", b }, { "MGET", a, b } }, { atomic = true })
    assert(got[2] == 1 and got[3][1] == "1")
    assert(cache:mget(a, b)[2] == "1")
    assert(cache:script("return redis.call('GET', KEYS[2])", { a, b }) == "1")
    local text = fails("invalid", "CROSSSLOT", cache.mget, cache, K .. "1", K .. "2")
    assert(text:find("`{user1}:name`", 1, true), text)
    text = fails("invalid", "CROSSSLOT", cache.pipeline, cache, { { "GET", a }, { "GET", K .. "2" } }, { atomic = true })
    assert(text:find("the commands 1 and 2 lie in different slots", 1, true), text)
    fails("invalid", "CROSSSLOT", cache.script, cache, "return 1", { K .. "1", K .. "2" })
    local took
    tide.parallel{
      function() took = cache:blpop(K .. "queue", 20) end,
      function() tide.sleep(20) cache:rpush(K .. "queue", "item") end,
    }
    assert(took[2] == "item")
    "#,
];

fn section(urls: &str) -> String {
    format!("[redis.cluster]\nurl = {urls}\nsize = 16\n")
}

/// A handler that counts up each of 30 keys, by a command, a pipeline, a transaction and a script.
const COUNTING: &str = r#"
local record, tide = require "record", require "tide"
local cache = tide.redis("cluster")
return function(message, ctx)
  local key = "{" .. message.offset % 30 .. "}:n"
  local ok, err = pcall(function()
    local way = message.offset % 4
    if way == 0 then
      cache:incr(key)
    elseif way == 1 then
      cache:pipeline{ { "GET", key }, { "INCR", key } }
    elseif way == 2 then
      cache:pipeline({ { "GET", key }, { "INCR", key } }, { atomic = true })
    else
      cache:script("return redis.call('INCR', KEYS[1])", { key })
    end
  end)
  if not ok then
    record.line("fail", message, ctx, tostring(err.kind) .. " " .. tostring(err.message):gsub("%s+", " "))
    error(err, 0)
  end
  record.line("done", message, ctx)
end
"#;

#[test]
fn a_cluster_is_one_server_for_handlers() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let topic = kafka.topic("redis-cluster", 1);
    let project = Project::new(kafka).sections(&section(&cluster.urls()));
    chunks(&project, &topic.name, "cluster");
    topic.produce(
        EVERYWHERE
            .iter()
            .map(|chunk| Message::value(chunk).partition(0)),
    );
    let daemon = Daemon::start(&project);
    all_pass(&project, EVERYWHERE);
    daemon.stop();
}

/// Slots of these keys move to another member while 600 messages run.
fn slots_move(
    cluster: &Cluster,
    keys: &[String],
    topic: &Topic<'_>,
    daemon: &mut Daemon,
    project: &Project,
) {
    let mut moves = Vec::new();
    for key in keys {
        let (slot, from) = (cluster.slot(key), cluster.owner(key));
        let to = (from + 1) % 3;
        cluster.begin_move(&slot, from, to);
        moves.push((key, slot, from, to));
    }
    // A slot on its way: keys that are still there, and keys that are asked for at the other member.
    for (key, _, from, to) in &moves[..3] {
        cluster.move_key(key, *from, *to);
    }
    topic.produce(numbered(100..700, 0));
    daemon.wait_for("messages met slots on their way", |_| {
        project.entries_of("done").len() >= 400
    });
    for (key, slot, from, to) in &moves {
        cluster.move_key(key, *from, *to);
        cluster.end_move(slot, *to);
    }
}

#[test]
fn slots_that_move_and_members_that_are_away_cost_no_attempt() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let topic = kafka.topic("redis-moving", 1);
    let project = Project::new(kafka).sections(&section(&format!(
        "\"{}\"\ncluster = true",
        cluster.nodes[1].url()
    )));
    project.handler("count.lua", COUNTING);
    let policy = "ordering = \"none\"\nmaxInFlight = 20\nonError = \"skip\"\nretry = { attempts = 1, initialDelay = 20, maxDelay = 50 }\n";
    project.config(&(from_beginning("count", &topic.name, "count") + policy));
    topic.produce(numbered(0..100, 0));
    let mut daemon = Daemon::start(&project);
    project.wait_for_entries("done", 100, DEADLINE);
    let keys: Vec<_> = (0..30).map(|number| format!("{{{number}}}:n")).collect();
    slots_move(&cluster, &keys[..6], &topic, &mut daemon, &project);
    topic.produce(numbered(700..1000, 0));
    let done = project.wait_for_entries("done", 1000, DEADLINE);
    assert!(
        done.iter().all(|one| one.attempt == 1),
        "no attempt is lost"
    );
    let fails = project.entries_of("fail");
    assert!(
        fails.iter().all(|one| one.extra.starts_with("busy ")),
        "{fails:?}"
    );
    let mut sum = 0;
    for key in &keys {
        let owner = cluster.owner(key);
        let found = cluster.nodes[owner].command(&["GET", key]).text();
        sum += found.parse::<u64>().unwrap();
    }
    assert_eq!(sum, 1000, "each message has counted once");

    // A member that is away costs its own keys time, and nobody an attempt.
    cluster.nodes[2].kill();
    topic.produce(numbered(1000..1060, 0));
    daemon.wait_for("keys of the others go on", |_| {
        let failed = project.entries_of("fail");
        project.entries_of("done").len() >= 1020
            && failed
                .iter()
                .any(|one| one.extra.starts_with("unreachable "))
    });
    cluster.nodes[2].start(&[]);
    let done = project.wait_for_entries("done", 1060, DEADLINE);
    assert!(
        done.iter().all(|one| one.attempt == 1),
        "no attempt is lost"
    );
    daemon.stop();
    for node in &cluster.nodes {
        wait_for("no connection stays", DEADLINE, || {
            node.connections("cluster") == 0
        });
    }
}

/// A server of a cluster whose table does not say so, and a table that says so of a single one.
#[test]
fn a_table_that_is_wrong_about_the_cluster_says_what_to_change() {
    let Some(kafka) = kafka::shared() else { return };
    let (Some(cluster), Some(single)) = (Cluster::start(), crate::support::redis::shared()) else {
        return;
    };
    let topic = kafka.topic("redis-wrong", 1);
    let project = Project::new(kafka).sections(&format!(
        "[redis.cluster]\nurl = \"{}\"\n[redis.single]\nurl = \"{}\"\ncluster = true\n",
        cluster.nodes[0].url(),
        single.url()
    ));
    chunks(&project, &topic.name, "cluster");
    let wrong = [r#"
        for i = 1, 20 do
          local ok, err = pcall(cache.get, cache, "k" .. i)
          if not ok then
            assert(err.kind == "unreachable" and err.code == "MOVED", tostring(err))
            assert(err.message:find("set `cluster = true` in its table", 1, true), tostring(err))
          end
        end
        local single = tide.redis("single")
        local text = fails("unreachable", nil, single.get, single, "k")
        assert(text:find("is no member of a cluster: ERR This instance has cluster support disabled", 1, true), text)
    "#];
    topic.produce(wrong.iter().map(|chunk| Message::value(chunk).partition(0)));
    let daemon = Daemon::start(&project);
    all_pass(&project, &wrong);
    daemon.stop();
}
