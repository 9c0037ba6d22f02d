//! Kills and outages under load: nothing is lost, and no commit runs ahead of what is finished.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::support::client::{Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, send_signal};
use crate::support::project::{Project, from_beginning};
use crate::support::tally::{Tally, watch_commits};
use crate::support::wait::{DEADLINE, wait_for};

const QUICK: &str = "sessionTimeout = \"1500ms\"\nheartbeatInterval = \"300ms\"";

const ENDS: &str = r#"
local record = require "record"
return function(message, ctx) record.line("end", message, ctx) end
"#;

const SLEEPS: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  record.line("begin", message, ctx)
  tide.sleep(math.random(0, 4))
  record.line("end", message, ctx)
end
"#;

/// These load both cores: one at a time.
fn heavy() -> MutexGuard<'static, ()> {
    static HEAVY: Mutex<()> = Mutex::new(());
    HEAVY.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Threads that run until they are told to end, also when the test panics.
pub(crate) struct SetOnDrop<'a>(pub(crate) &'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Promise 1: killed ten times amid 100,000 messages, and none is missing.
#[test]
fn ten_kills_lose_nothing() {
    let Some(kafka) = kafka::shared() else { return };
    let _alone = heavy();
    let (count, partitions) = (100_000, 4);
    let topic = kafka.topic("kills", partitions as usize);
    let project = Project::new(kafka).consumer(QUICK);
    project.handler("ends.lua", ENDS);
    project.config(&from_beginning("ends", &topic.name, "ends"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_commits(kafka, &project, &topic.name, partitions, &stop));
        let mut tally = Tally::new(&project);
        let _stops = SetOnDrop(&stop);
        let load = scope.spawn(|| {
            produce_evenly(&topic, partitions, 0..15_000);
            // The rest comes while daemons live and die.
            for step in 30..50 {
                produce_evenly(&topic, partitions, step * 500..(step + 1) * 500);
                std::thread::sleep(Duration::from_millis(500));
            }
        });
        for _ in 0..10 {
            let before = tally.finished();
            let mut daemon = Daemon::start(&project);
            daemon.wait_for("it gets on", |_| {
                tally.update();
                tally.finished() > before + 500 || tally.finished() == count
            });
            daemon.kill();
        }
        load.join().unwrap();
        let mut daemon = Daemon::start(&project);
        daemon.wait_for("every message is finished", |_| {
            tally.update();
            tally.finished() == count
        });
        daemon.stop();
        stop.store(true, Ordering::SeqCst);
        assert!(watch.join().unwrap() > 10, "the commits were looked at");
        tally.update();
        tally.assert_order();
    });
    for partition in 0..partitions {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(topic.watermarks(partition).1)
        );
    }
}

fn produce_evenly(topic: &Topic<'_>, partitions: i32, range: Range<u64>) {
    topic.produce((0..partitions).flat_map(|partition| numbered(range.clone(), partition)));
}

/// Members come and go under load, with the classic protocol.
#[test]
fn a_storm_of_members_loses_nothing_with_the_classic_protocol() {
    storm("sessionTimeout = \"6s\"\nheartbeatInterval = \"300ms\"");
}

/// Members come and go under load, with KIP-848's.
#[test]
fn a_storm_of_members_loses_nothing_with_the_consumer_protocol() {
    storm("groupProtocol = \"consumer\"");
}

fn storm(consumer: &str) {
    let Some(kafka) = kafka::shared() else { return };
    let _alone = heavy();
    let partitions = 6;
    let topic = kafka.topic("storm", partitions as usize);
    let project = Project::new(kafka).consumer(consumer);
    project.handler("sleeps.lua", SLEEPS);
    project.config(&from_beginning("sleeps", &topic.name, "sleeps"));
    let (stop, calm) = (AtomicBool::new(false), AtomicBool::new(false));
    std::thread::scope(|scope| {
        let _ends = (SetOnDrop(&stop), SetOnDrop(&calm));
        let watch = scope.spawn(|| watch_commits(kafka, &project, &topic.name, partitions, &stop));
        let load = scope.spawn(|| {
            let mut produced = 0;
            while !calm.load(Ordering::SeqCst) {
                let first = produced / partitions as u64;
                topic.produce(
                    (0..partitions).flat_map(|partition| numbered(first..first + 10, partition)),
                );
                produced += 10 * partitions as u64;
                std::thread::sleep(Duration::from_millis(100));
            }
            produced
        });
        let last = come_and_go(&project);
        calm.store(true, Ordering::SeqCst);
        let produced = load.join().unwrap();
        let written = (0..partitions).map(|partition| topic.watermarks(partition).1 as u64);
        assert_eq!(written.sum::<u64>(), produced, "each message stands once");
        let mut tally = Tally::new(&project);
        wait_for("every message is finished", DEADLINE, || {
            tally.update();
            tally.finished() == produced
        });
        for (daemon, _place) in last {
            daemon.stop();
        }
        stop.store(true, Ordering::SeqCst);
        assert!(watch.join().unwrap() > 10, "the commits were looked at");
        tally.update();
        tally.assert_order();
    });
    for partition in 0..partitions {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(topic.watermarks(partition).1)
        );
    }
}

/// Eight members one after the other, of which two or three live at a time; one of them is killed.
fn come_and_go(project: &Project) -> Vec<(Daemon, Project)> {
    // In this order: a daemon whose test fails shows its log, which lies in its place.
    let mut members: Vec<(Daemon, Project)> = Vec::new();
    for round in 0..8 {
        let place = project.another_member();
        let daemon = Daemon::start(&place);
        members.push((daemon, place));
        let (newest, _) = members.last_mut().expect("it was pushed");
        newest.wait_line("assigned", |line| line.is("assigned"));
        if members.len() > 2 {
            let (mut oldest, _place) = members.remove(0);
            if round == 5 {
                oldest.kill();
            } else {
                oldest.stop();
            }
        }
    }
    members
}

/// A member that is frozen for longer than its session and thaws: fenced off, it neither commits nor loses anything.
#[test]
fn a_member_that_was_frozen_does_no_harm() {
    let Some(kafka) = kafka::shared() else { return };
    let _alone = heavy();
    let (partitions, count) = (4, 3000);
    let topic = kafka.topic("frozen", partitions as usize);
    let project = Project::new(kafka).consumer(QUICK);
    project.handler("sleeps.lua", SLEEPS);
    project.config(&from_beginning("sleeps", &topic.name, "sleeps"));
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_commits(kafka, &project, &topic.name, partitions, &stop));
        let _stops = SetOnDrop(&stop);
        let place = project.another_member();
        let mut frozen = Daemon::join(&project);
        let mut other = Daemon::join(&place);
        produce_evenly(&topic, partitions, 0..count);
        let mut tally = Tally::new(&project);
        other.wait_for("both are at work", |_| {
            tally.update();
            tally.finished() > 500
        });
        send_signal(frozen.pid(), libc::SIGSTOP);
        other.wait_for("the other has all partitions", |other| {
            let status = other.try_status().unwrap_or_default();
            status["consumers"][0]["partitions"]
                .as_array()
                .map(Vec::len)
                == Some(4)
        });
        send_signal(frozen.pid(), libc::SIGCONT);
        frozen.wait_for("every message is finished", |_| {
            tally.update();
            tally.finished() == count * partitions as u64
        });
        frozen.stop();
        other.stop();
        stop.store(true, Ordering::SeqCst);
        assert!(watch.join().unwrap() > 10, "the commits were looked at");
        tally.update();
        tally.assert_order();
    });
    for partition in 0..partitions {
        assert_eq!(
            kafka.committed(&project.group, &topic.name, partition),
            Some(count as i64)
        );
    }
}

/// The broker goes for a minute and comes back: the daemon lives on, goes on, and commits.
#[test]
fn a_broker_that_stops_and_comes_back_loses_nothing() {
    outage(Kafka::stop, Duration::from_secs(60));
}

/// The same with a broker that is killed.
#[test]
fn a_broker_that_is_killed_and_comes_back_loses_nothing() {
    outage(Kafka::kill, Duration::from_secs(5));
}

fn outage(end: fn(&Kafka), duration: Duration) {
    let Some(kafka) = Kafka::start_own() else {
        return;
    };
    let partitions = 2;
    let topic = kafka.topic("outage", partitions as usize);
    let project = Project::new(&kafka);
    project.handler("sleeps.lua", SLEEPS);
    project.config(&from_beginning("sleeps", &topic.name, "sleeps"));
    produce_evenly(&topic, partitions, 0..500);
    let mut tally = Tally::new(&project);
    let mut daemon = Daemon::start(&project);
    let pid = daemon.pid();
    daemon.wait_for("it is at work", |_| {
        tally.update();
        tally.finished() > 100
    });

    end(&kafka);
    let (gone, used) = (Instant::now(), daemon.cpu_time());
    daemon.wait_for("the status says so", |daemon| {
        daemon
            .try_status()
            .is_some_and(|status| status["consumers"][0]["error"].is_string())
    });
    while gone.elapsed() < duration {
        assert!(!daemon.ended(), "an outage is no reason to end");
        std::thread::sleep(Duration::from_millis(200));
    }
    let used = daemon.cpu_time().saturating_sub(used);
    assert!(used < gone.elapsed() / 4, "{used:?} of processor time");
    kafka.start();
    produce_evenly(&topic, partitions, 500..1000);

    daemon.wait_for("every message is finished", |_| {
        tally.update();
        tally.finished() == 2000
    });
    tally.assert_order();
    daemon.wait_for("and committed", |_| {
        (0..partitions)
            .all(|partition| kafka.committed(&project.group, &topic.name, partition) == Some(1000))
    });
    assert_eq!(daemon.pid(), pid);
    daemon.stop();
}
