//! A server that is away, restarted, slow, full, a replica, loading, or a stranger: messages wait, none is given up.

use std::io::Read;
use std::net::TcpListener;
use std::time::Duration;

use super::{all_pass, chunks};
use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::redis::{Client, Redis};
use crate::support::wait::{DEADLINE, stays, wait_for};

const HANDLER: &str = r#"
local record, tide = require "record", require "tide"
local store = tide.redis("store")
return function(message, ctx)
  local ok, err = pcall(store.incr, store, "n:" .. message.offset)
  if not ok then
    record.line("fail", message, ctx, tostring(err.kind) .. " " .. tostring(err.code))
    error(err, 0)
  end
  record.line("done", message, ctx)
end
"#;

/// A daemon whose messages each need the server once, with dead letters at the first failure.
struct Scene<'k> {
    project: Project,
    topic: Topic<'k>,
    redis: Redis,
    daemon: Daemon,
    sent: u64,
}

impl Scene<'_> {
    /// Ten messages meet the fault, until some have failed by these words; then it is over, and all of them are done.
    #[track_caller]
    fn meets(&mut self, kinds: &[&str], fault: impl FnOnce(&Redis), over: impl FnOnce(&Redis)) {
        let failed = self.project.entries_of("fail").len();
        fault(&self.redis);
        self.topic.produce(numbered(self.sent..self.sent + 10, 0));
        self.sent += 10;
        let project = &self.project;
        self.daemon.wait_for(&format!("{kinds:?}"), |_| {
            let fails = project.entries_of("fail");
            let mut fails = fails[failed..].iter();
            fails.any(|one| kinds.contains(&&*one.extra))
        });
        over(&self.redis);
        let done = self
            .project
            .wait_for_entries("done", self.sent as usize, 2 * DEADLINE);
        assert!(
            done.iter().all(|one| one.attempt == 1),
            "{kinds:?}: {done:?}"
        );
    }
}

const PASSWORD: &str = "first-secret";

/// Dead letters would go to the topic beside it.
fn scene() -> Option<Scene<'static>> {
    let kafka = kafka::shared()?;
    let redis = Redis::start_own(&["--requirepass", PASSWORD])?;
    let topic = kafka.topic("redis-away", 1);
    let project = Project::new(kafka).sections(&format!(
        "[redis.store]\nurl = \"redis://:{PASSWORD}@{}\"\nsize = 4\nconnectTimeout = \"2s\"\n",
        redis.address()
    ));
    project.handler("count.lua", HANDLER);
    let policy = "ordering = \"none\"\nonError = \"deadLetter\"\n\
                  deadLetter = { topic = \"{topic}.dead\", allowAutoTopicCreation = true }\n\
                  retry = { attempts = 1, initialDelay = 20, maxDelay = 100 }\n";
    project.config(&(from_beginning("count", &topic.name, "count") + policy));
    let daemon = Daemon::start(&project);
    Some(Scene {
        project,
        topic,
        redis,
        daemon,
        sent: 0,
    })
}

/// With this password.
fn as_user(redis: &Redis, password: &str, words: &[&str]) {
    let mut client = Client::connect(redis.port);
    client.command(&["AUTH", password]);
    client.command(words);
}

fn authorized(redis: &Redis, words: &[&str]) {
    as_user(redis, PASSWORD, words);
}

const DROP: [&str; 6] = ["CLIENT", "KILL", "TYPE", "NORMAL", "SKIPME", "YES"];

#[test]
fn a_server_that_is_away_costs_no_message_an_attempt() {
    let Some(mut scene) = scene() else { return };
    scene.meets(&["unreachable nil"], Redis::kill, |redis| redis.start(&[]));
    scene.meets(
        &["busy OOM"],
        |redis| authorized(redis, &["CONFIG", "SET", "maxmemory", "1"]),
        |redis| authorized(redis, &["CONFIG", "SET", "maxmemory", "0"]),
    );
    let nobody = kafka::free_port().to_string();
    scene.meets(
        &["unreachable READONLY"],
        |redis| authorized(redis, &["REPLICAOF", "127.0.0.1", &nobody]),
        |redis| authorized(redis, &["REPLICAOF", "NO", "ONE"]),
    );
    scene.meets(
        &["unreachable WRONGPASS"],
        |redis| {
            authorized(redis, &["CONFIG", "SET", "requirepass", "other"]);
            as_user(redis, "other", &DROP);
        },
        |redis| as_user(redis, "other", &["CONFIG", "SET", "requirepass", PASSWORD]),
    );
    // It loads for a second or two, and says so.
    scene.meets(
        &["unreachable LOADING"],
        |redis| {
            authorized(redis, &["DEBUG", "POPULATE", "2000", "filler", "500"]);
            authorized(redis, &["SAVE"]);
            redis.kill();
            redis.start(&[
                "--key-load-delay",
                "1000",
                "--loading-process-events-interval-bytes",
                "1024",
            ]);
        },
        |_| {},
    );
    // One that stands still accepts no log-in.
    scene.meets(
        &["unreachable nil"],
        |redis| {
            authorized(redis, &DROP);
            redis.freeze();
        },
        Redis::thaw,
    );
    let dead = format!("{}.dead", scene.topic.name);
    let dead = kafka::shared().map(|kafka| kafka.existing_topic(&dead).watermarks(0));
    assert_eq!(dead, Some((0, 0)), "there is no dead letter");
    let log = scene.daemon.log_text();
    assert!(!log.contains(PASSWORD), "a password is in the log");
    let line = scene.daemon.wait_line("the log says why", |line| {
        line.field("message").starts_with("infrastructure is away")
    });
    assert!(!line.mentions("n:"), "{line:?}");
    scene.daemon.stop();
}

/// What a slow server, one that never answers and one that is none cost a call.
#[test]
fn a_call_ends_in_time_whatever_the_server_does() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(redis) = Redis::start_own(&[]) else {
        return;
    };
    let topic = kafka.topic("redis-slow", 1);
    // Its backlog takes connections, and nothing answers.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let stranger = TcpListener::bind("127.0.0.1:0").unwrap();
    let strange = stranger.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in stranger.incoming().flatten() {
            let mut stream = stream;
            let _ = stream.read(&mut [0; 64]);
            let _ = std::io::Write::write_all(&mut stream, b"HTTP/1.1 400 Bad Request\r\n\r\n");
        }
    });
    let project = Project::new(kafka).sections(&format!(
        "[redis.slow]\nurl = \"{}\"\nconnectTimeout = \"300ms\"\ntimeout = \"300ms\"\n\
         [redis.silent]\nurl = \"redis://{}\"\nconnectTimeout = \"200ms\"\n\
         [redis.strange]\nurl = \"redis://{strange}\"\n\
         [redis.nobody]\nurl = \"redis://127.0.0.1:{}\"\n\
         [redis.lost]\nurl = \"redis://no-such-host.invalid\"\n",
        redis.url(),
        silent.local_addr().unwrap(),
        kafka::free_port(),
    ));
    chunks(&project, &topic.name, "slow");
    let chunks = [
        r#"
        cache:set("k", "before")
        -- This connection sleeps on; the reply that it gets at last is nobody's.
        local text = fails("timeout", nil, cache.call, cache, "DEBUG", "SLEEP", "1.2")
        assert(text:find("no reply within 300ms; the server may have acted", 1, true), text)
        local kinds = {}
        repeat
          local ok, got = pcall(cache.get, cache, "k")
          if not ok then kinds[got.kind] = true tide.sleep(20) end
        until ok and assert(got == "before", got)
        assert(kinds.unreachable and not kinds.closed)
        for i = 1, 50 do assert(cache:call("ECHO", i) == tostring(i)) end
        "#,
        r#"
        local silent = tide.redis("silent")
        local text = fails("unreachable", nil, silent.get, silent, "k")
        assert(text:find("has not ended within 200ms", 1, true), text)
        assert(text:find("the log-in at 127.0.0.1:", 1, true), text)
        "#,
        r#"
        local strange = tide.redis("strange")
        local text = fails("unreachable", nil, strange.get, strange, "k")
        assert(text:find("does not speak RESP", 1, true), text)
        "#,
        r#"
        local nobody, lost = tide.redis("nobody"), tide.redis("lost")
        local text = fails("unreachable", nil, nobody.get, nobody, "k")
        assert(text:find("no connection to 127.0.0.1:", 1, true) and text:find("refused"), text)
        text = fails("unreachable", nil, nobody.get, nobody, "k")
        assert(text:find("the next attempt is in ", 1, true), text)
        text = fails("unreachable", nil, lost.get, lost, "k")
        assert(text:find("the lookup of `no-such-host.invalid` failed", 1, true), text)
        "#,
    ];
    topic.produce(
        chunks
            .iter()
            .map(|chunk| Message::value(chunk).partition(0)),
    );
    let daemon = Daemon::start(&project);
    all_pass(&project, &chunks);
    daemon.stop();
    drop(silent);
}

const STORM: &str = r#"
        local record, tide = require "record", require "tide"
        local M = {}
        function M.away(message, ctx)
          local away = tide.redis("away")
          record.line("try", message, ctx)
          away:get("k")
        end
        function M.well(message, ctx)
          local well, value = tide.redis("well"), ("x"):rep(20000)
          for i = 1, 50 do
            well:set("k" .. i % 7, value)
            assert(#well:get("k" .. i % 7) == 20000)
          end
          record.line("well", message, ctx)
        end
        return M
"#;

/// Hundreds of messages against a server that is away make few connections, and 4,000 calls no more memory.
#[test]
fn a_storm_is_none_and_memory_stays_flat() {
    let Some(kafka) = kafka::shared() else { return };
    let Some(redis) = Redis::start_own(&[]) else {
        return;
    };
    let topic = kafka.topic("redis-storm", 1);
    let counting = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = counting.local_addr().unwrap().port();
    let accepted = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let count = accepted.clone();
    std::thread::spawn(move || {
        for stream in counting.incoming() {
            drop(stream);
            count.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
        }
    });
    let project = Project::new(kafka).sections(&format!(
        "[redis.away]\nurl = \"redis://127.0.0.1:{port}\"\nsize = 10\n[redis.well]\nurl = \"{}\"\nsize = 10\n",
        redis.url()
    ));
    project.handler("calls.lua", STORM);
    let well = kafka.topic("redis-well", 1);
    let policy = "ordering = \"none\"\nretry = { initialDelay = 100, maxDelay = 300 }\n";
    project.config(
        &(from_beginning("away", &topic.name, "calls.away")
            + policy
            + &from_beginning("well", &well.name, "calls.well")
            + "ordering = \"none\"\nmaxInFlight = 8\n"),
    );
    let daemon = Daemon::start(&project);
    well.produce(numbered(0..8, 0));
    project.wait_for_entries("well", 8, DEADLINE);
    let memory = daemon.memory();
    well.produce(numbered(8..40, 0));
    project.wait_for_entries("well", 40, 2 * DEADLINE);
    let after = daemon.memory();
    assert!(
        after < memory + (24 << 20),
        "{memory} and then {after} bytes"
    );
    wait_for("only the pool stays", DEADLINE, || {
        redis.connections("well") <= 10
    });

    topic.produce(numbered(0..300, 0));
    wait_for("each has tried more than once", DEADLINE, || {
        project.entries_of("try").len() > 900
    });
    let before = accepted.load(std::sync::atomic::Ordering::SeqCst);
    stays("there is no storm", Duration::from_secs(2), || {
        let now = accepted.load(std::sync::atomic::Ordering::SeqCst);
        now < before + 12
    });
    daemon.stop();
}
