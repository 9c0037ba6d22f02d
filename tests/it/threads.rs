//! The daemon's own threads: one that panics ends the daemon, which drains as at any stop; one that hangs is seen.

use std::time::{Duration, Instant};

use serde_json::Value;

use crate::support::client::{Message, numbered};
use crate::support::daemon::{Daemon, Line};
use crate::support::http::{address, get};
use crate::support::kafka::{self, Kafka};
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::{DEADLINE, stays, wait_for, wait_some};

/// Records its worker by the name of the thread.
const SLOW: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  local file = assert(io.open("/proc/thread-self/comm"))
  local worker = file:read("l")
  file:close()
  record.line("begin", message, ctx, worker)
  tide.sleep(300)
  record.line("end", message, ctx, worker)
end
"#;

const FAILS: &str = r#"
local record = require "record"
return function(message, ctx)
  record.line("try", message, ctx)
  error("always")
end
"#;

const DEAD_LETTERS: &str = "onError = \"deadLetter\"\nretry = { attempts = 1 }\nbreaker = false\n\
                            deadLetter = { topic = \"{topic}.dead\" }\n";

/// `drainDeadline`, the last commit and leaving the group, the last resort, and room for a busy machine.
const STOP: Duration = Duration::from_secs(2 + 15 + 2 + 10);

const NOWHERE: &str = "127.0.0.1:1";

fn sections() -> String {
    "[log]\nformat = \"json\"\n[http]\nlisten = \"127.0.0.1:0\"\n[daemon]\ndrainDeadline = \"2s\"\n\
     [lua]\nworkers = 2"
        .to_owned()
}

/// A project whose handlers have nothing to do.
fn idle(bootstrap: &str) -> Project {
    let project = Project::at(bootstrap.to_owned()).sections(&sections());
    project.handler("orders.lua", RECORDING);
    let blocking = "limits = { blocking = \"100ms\" }\n";
    project.config(&(from_beginning("orders", "orders", "orders.handle") + blocking));
    project
}

fn spawn(project: &Project, fault: &str) -> Daemon {
    Daemon::spawn_with(project, &[("MOONTIDE_FAILPOINT", fault)])
}

/// The daemon ends with 1, within the time of a stop, and the log names the place and the thread.
#[track_caller]
fn ends_by_a_panic(daemon: &mut Daemon, file: &str, thread: &str) {
    let is_panic = |line: &Line| line.is("panicked") && line.field("thread").starts_with(thread);
    let panic = daemon.wait_line("the panic", is_panic);
    let began = Instant::now();
    let place = panic.field("place");
    let line = place
        .strip_prefix(file)
        .and_then(|rest| rest.strip_prefix(':'));
    let line = line.and_then(|rest| rest.split(':').next()?.parse::<u32>().ok());
    assert!(panic.is_error() && line.is_some(), "{place}");
    assert_eq!(daemon.exit_code(STOP), 1);
    assert!(began.elapsed() < STOP);
    let reason = format!("thread `{}` panicked", panic.field("thread"));
    let named = daemon.count(|line| line.is_error() && line.field("reason") == reason);
    assert_eq!(named, 1, "an ERROR with the reason `{reason}`");
    let in_order = daemon.count(|line| line.is("stopped"));
    assert_eq!(in_order, 1, "every other thread has ended");
}

#[track_caller]
fn a_panic_ends_an_idle_daemon(place: &str, file: &str, thread: &str) {
    let project = idle(NOWHERE);
    let mut daemon = spawn(&project, &format!("{place}=2:panic"));
    ends_by_a_panic(&mut daemon, file, thread);
}

#[test]
fn a_panic_of_a_consumer_ends_the_daemon() {
    a_panic_ends_an_idle_daemon("consumer-turn", "src/consumer.rs", "consumer-default");
}

#[test]
fn a_panic_of_a_worker_ends_the_daemon() {
    a_panic_ends_an_idle_daemon("worker-turn", "src/worker.rs", "worker-");
}

#[test]
fn a_panic_of_the_lookups_ends_the_daemon() {
    let file = "src/consumer/lookups.rs";
    a_panic_ends_an_idle_daemon("lookups-turn", file, "lookups-default");
}

#[test]
fn a_panic_of_the_topics_ends_the_daemon() {
    a_panic_ends_an_idle_daemon("topics-turn", "src/daemon/topics.rs", "topics");
}

#[test]
fn a_panic_of_the_file_watch_ends_the_daemon() {
    a_panic_ends_an_idle_daemon("watch-turn", "src/service/watch.rs", "watch");
}

#[test]
fn a_panic_of_the_signals_ends_the_daemon() {
    a_panic_ends_an_idle_daemon("signals-turn", "src/service/signals.rs", "signals");
}

#[test]
fn a_panic_of_luas_watchdog_ends_the_daemon() {
    a_panic_ends_an_idle_daemon(
        "lua-watchdog-turn",
        "src/lua/vm/watchdog.rs",
        "lua-watchdog",
    );
}

/// Its dead letters have no answer then: what waits for them stays uncommitted.
#[test]
fn a_panic_of_a_producer_ends_the_daemon() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, topic) = failing(kafka, "producer");
    topic.produce(numbered(0..20, 0));
    let mut daemon = spawn(&project, "producer-turn=1:panic");
    ends_by_a_panic(&mut daemon, "src/kafka/producer.rs", "producer-default");
    let committed = kafka.committed(&project.group, &topic.name, 0);
    assert_eq!(committed.unwrap_or(0), 0);
}

/// A project with a producer of handlers, which is made at the start. A send waits for a second at most.
fn producing() -> Project {
    let sections = sections() + "\n[producerConfig]\ntimeout = \"1s\"";
    let project = idle(NOWHERE).sections(&sections);
    project.config(&from_beginning("orders", "orders", "orders.handle"));
    project
}

#[test]
fn a_panic_of_a_producer_of_handlers_ends_the_daemon() {
    let project = producing();
    let mut daemon = spawn(&project, "producer-turn=2:panic");
    ends_by_a_panic(&mut daemon, "src/kafka/producer.rs", "send-default");
}

/// Its allowance is the deadline of a send and 10 s.
#[test]
fn a_hang_of_a_producer_of_handlers_fails_live() {
    let project = producing();
    let mut daemon = spawn(&project, "producer-turn=2:hang");
    let address = address(&mut daemon);
    let named = wait_some("/live fails", DEADLINE, || dead_thread(&address));
    assert_eq!(named, "send-default");
    daemon.term();
    daemon.exit_code(STOP);
}

/// A listener whose messages all become dead letters.
fn failing<'a>(kafka: &'a Kafka, name: &str) -> (Project, crate::support::client::Topic<'a>) {
    let topic = kafka.topic(name, 1);
    let dead = kafka.topic_named(format!("{}.dead", topic.name), 1);
    assert_eq!(dead.watermarks(0), (0, 0));
    let project = Project::new(kafka).sections(&sections());
    project.handler("fails.lua", FAILS);
    project.config(&(from_beginning("fails", &topic.name, "fails") + DEAD_LETTERS));
    (project, topic)
}

/// A reload is not a thread of its own kind: its panic ends the daemon all the same, and everything drains.
#[test]
fn a_panic_of_a_reload_ends_the_daemon() {
    let project = idle(NOWHERE);
    let mut daemon = spawn(&project, "before-swap=1:panic");
    daemon.wait_line("ready", |line| line.is("ready"));
    project.replace_handler("orders.lua", &RECORDING.replace("done", "did"));
    assert_eq!(daemon.exit_code(STOP), 1);
    let reason = "the reload panicked";
    let named = daemon.count(|line| line.is_error() && line.field("reason") == reason);
    assert_eq!(named, 1, "an ERROR with the reason `{reason}`");
    assert_eq!(daemon.count(|line| line.is("stopped")), 1);
}

/// The other worker's running calls finish and are committed; of this one's nothing that has not finished is.
#[test]
fn after_a_panic_of_a_worker_the_other_one_drains_and_is_committed() {
    let Some(kafka) = kafka::shared() else { return };
    let partitions = 4;
    let topic = kafka.topic("panic", partitions as usize);
    let drain = Duration::from_secs(25);
    let project = Project::new(kafka).sections(&sections().replace("\"2s\"", "\"25s\""));
    project.handler("slow.lua", SLOW);
    project.config(&from_beginning("slow", &topic.name, "slow"));
    topic.produce((0..partitions).flat_map(|partition| numbered(0..100, partition)));
    let mut daemon = spawn(&project, "before-handler=13:panic");
    daemon.wait_line("the panic", |line| line.is("panicked"));
    let panicked_at = Instant::now();
    ends_by_a_panic(&mut daemon, "src/worker/run.rs", "worker-");
    assert!(
        panicked_at.elapsed() < drain,
        "nothing waits for the worker that is gone"
    );

    let mut lines = daemon.lines().into_iter();
    let panic = lines.find(|line| line.is("panicked")).unwrap();
    let dead = panic.field("thread");
    let (begun, ended) = (project.entries_of("begin"), project.entries_of("end"));
    let mut alive = 0;
    for partition in 0..partitions {
        let count = |entries: &[crate::support::project::Entry]| {
            let own = entries
                .iter()
                .filter(|entry| entry.partition == partition && entry.extra != dead);
            own.count() as i64
        };
        let committed = kafka.committed(&project.group, &topic.name, partition);
        let all = ended.iter().filter(|entry| entry.partition == partition);
        assert!(committed.unwrap_or(0) <= all.count() as i64);
        if count(&begun) > 0 {
            alive += 1;
            assert_eq!(count(&begun), count(&ended), "what has begun has ended");
            assert_eq!(committed, Some(count(&ended)), "partition {partition}");
        }
    }
    assert_eq!(alive, 2, "the other worker has half of the partitions");
    assert!(
        kafka.members(&project.group).is_empty(),
        "it has left the group"
    );
}

/// The thread that `/live` names.
fn dead_thread(address: &str) -> Option<String> {
    let answer = get(address, "/live");
    let page: Value = serde_json::from_str(&answer.body).unwrap();
    assert_eq!(answer.code, if page["live"] == true { 200 } else { 503 });
    page["thread"].as_str().map(str::to_owned)
}

/// All at once: each waits for its allowance.
fn at_once(checks: &[(&str, &str)], check: fn(&str, &str)) {
    std::thread::scope(|scope| {
        for (place, thread) in checks {
            scope.spawn(|| check(place, thread));
        }
    });
}

/// After its allowance `/live` fails and names the thread; a stop ends in time all the same.
#[test]
fn a_hang_of_a_thread_that_counts_fails_live() {
    let checks = [
        ("consumer-turn", "consumer-default"),
        ("worker-turn", "worker-"),
        ("lookups-turn", "lookups-default"),
    ];
    at_once(&checks, |place, thread| {
        let project = idle(NOWHERE);
        let mut daemon = spawn(&project, &format!("{place}=3:hang"));
        let address = address(&mut daemon);
        assert_eq!(dead_thread(&address), None, "{place}");
        let named = wait_some("/live fails", DEADLINE, || dead_thread(&address));
        assert!(named.starts_with(thread), "{named}");
        daemon.wait_line("the same in the log", |line| {
            line.is("a thread stands still: systemd's watchdog is not notified")
                && line.is_error()
                && line.field("thread").starts_with(&named)
        });
        daemon.term();
        daemon.exit_code(STOP);
    });
}

/// Messages are processed without it: an ERROR names the thread, and `/live` is well.
#[test]
fn a_hang_of_any_other_thread_is_an_error_in_the_log() {
    let checks = [
        ("signals-turn", "signals"),
        ("lua-watchdog-turn", "lua-watchdog"),
        ("watch-turn", "watch"),
        ("topics-turn", "topics"),
    ];
    at_once(&checks, |place, thread| {
        let project = idle(NOWHERE);
        let mut daemon = spawn(&project, &format!("{place}=2:hang"));
        let address = address(&mut daemon);
        let is_named = |line: &Line| line.is("a thread stands still");
        let line = daemon.wait_line(&format!("{thread} is named"), is_named);
        assert!(line.is_error() && line.field("thread").starts_with(thread));
        stays("/live is well", Duration::from_secs(5), || {
            dead_thread(&address).is_none()
        });
        assert_eq!(daemon.count(is_named), 1, "a hang is told once");
        assert!(!daemon.ended());
    });
}

/// A stop during which a thread panics is no success, and what has finished is committed.
#[test]
fn a_panic_during_a_stop_is_a_failure() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("stop", 1);
    let project = Project::new(kafka).sections(&sections());
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..10, 0));
    let mut daemon = spawn(&project, "worker-stop=1:panic");
    project.wait_for_entries("done", 10, DEADLINE);
    daemon.term();
    assert_eq!(daemon.exit_code(STOP), 1);
    let reason = |line: &Line| line.field("reason").starts_with("thread `worker-");
    assert_eq!(daemon.count(|line| line.is_error() && reason(line)), 1);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(10));
}

/// A worker that hangs in a call holds messages, for which librdkafka's client would wait.
#[test]
fn a_stop_does_not_wait_for_a_worker_that_hangs() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("hangs", 2);
    let project = Project::new(kafka).sections(&sections());
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce((0..2).flat_map(|partition| numbered(0..20, partition)));
    let mut daemon = spawn(&project, "before-handler=1:hang");
    let other = wait_some("the other worker is done", DEADLINE, || {
        let done = project.entries_of("done");
        (done.len() == 20).then(|| done[0].partition)
    });
    daemon.term();
    assert_eq!(daemon.exit_code(STOP), 1, "it is no orderly stop");
    let committed = |partition| kafka.committed(&project.group, &topic.name, partition);
    assert_eq!(committed(other), Some(20));
    assert_eq!(committed(1 - other).unwrap_or(0), 0);
}

/// Whatever holds the end of the process up, it ends.
#[test]
fn a_stop_that_does_not_end_has_a_last_resort() {
    let project = idle(NOWHERE);
    let mut daemon = spawn(&project, "stopped=1:hang");
    daemon.wait_line("ready", |line| line.is("ready"));
    daemon.term();
    assert_eq!(daemon.exit_code(STOP), 1);
    let is_said =
        |line: &Line| line.is_error() && line.field("message").contains("the process ends now");
    assert_eq!(daemon.count(is_said), 1);
}

/// Longer than every allowance: a call's deadline, at most that of a record (30 s), and 10 s. `MOONTIDE_AWAY_SECS` makes
/// it longer, as for a soak of ten minutes.
fn away() -> Duration {
    let seconds = std::env::var("MOONTIDE_AWAY_SECS");
    let seconds = seconds.ok().and_then(|seconds| seconds.parse().ok());
    Duration::from_secs(seconds.unwrap_or(50))
}

/// Brokers that were never there: the lookups ask in vain, and `/live` is well.
#[test]
fn without_brokers_it_is_live_for_longer_than_every_allowance() {
    let project = idle(NOWHERE).consumer("requestTimeout = \"2s\"");
    let pattern = from_beginning("orders", "^orders-.*$", "orders.handle");
    project.config(&(pattern + "onError = \"deadLetter\"\n"));
    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    stays("/live is well", away(), || {
        dead_thread(&address).is_none() && !daemon.ended()
    });
    assert_eq!(
        daemon.count(|line| line.field("message").starts_with("a thread stands still")),
        0
    );
    daemon.stop();
}

/// Brokers that are killed while dead letters are on their way and offsets are looked up.
#[test]
fn with_brokers_that_are_killed_it_is_live_for_longer_than_every_allowance() {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let (project, topic) = failing(&kafka, "killed");
    let mut daemon = Daemon::join(&project);
    let address = address(&mut daemon);
    topic.produce([Message::value("first")]);
    wait_for("the producer is made", DEADLINE, || {
        kafka.committed(&project.group, &topic.name, 0) == Some(1)
    });
    topic.produce(numbered(0..5000, 0));
    daemon.wait_for("it is at work", |_| project.entries_of("try").len() > 100);
    kafka.kill();
    stays("/live is well", away(), || {
        dead_thread(&address).is_none() && !daemon.ended()
    });
    assert_eq!(
        daemon.count(|line| line.field("message").starts_with("a thread stands still")),
        0
    );
    daemon.stop();
}
