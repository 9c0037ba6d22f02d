//! Order by key under load: through retries, reloads, kills and rebalances.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::support::client::{Message, Topic};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, from_beginning};
use crate::support::tally::watch_commits;
use crate::support::wait::{DEADLINE, wait_for};

const PARTITIONS: i32 = 3;
const KEYS: u64 = 24;

/// One run in ten fails, and others take their time.
const FAILS: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  local chance = math.random()
  if chance < 0.1 then error("once more") end
  if chance < 0.4 then tide.sleep(math.random(0, 6)) end
  record.line("end", message, ctx, message.key)
end
"#;

/// Messages of all keys, each with its number within the key; a key stays in its partition.
fn produce(topic: &Topic<'_>, numbers: std::ops::Range<u64>) {
    topic.produce(numbers.flat_map(|number| {
        (0..KEYS).map(move |key| {
            Message::value(number.to_string())
                .key(format!("key {key}"))
                .partition((key % PARTITIONS as u64) as i32)
        })
    }));
}

/// Per key: the numbers in the order of their first ends.
fn first_ends(project: &Project) -> BTreeMap<String, Vec<u64>> {
    let mut seen = BTreeSet::new();
    let mut ends: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for one in project.entries_of("end") {
        if seen.insert((one.partition, one.offset)) {
            let number = one.value.parse().unwrap();
            ends.entry(one.extra).or_default().push(number);
        }
    }
    ends
}

#[test]
fn each_key_keeps_its_order_through_retries_reloads_kills_and_rebalances() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("orders", PARTITIONS as usize);
    let project =
        Project::new(kafka).consumer("sessionTimeout = \"1500ms\"\nheartbeatInterval = \"300ms\"");
    project.handler("orders.lua", FAILS);
    project.config(
        &(from_beginning("orders", &topic.name, "orders")
            + "ordering = \"key\"\nretry = { initialDelay = \"5ms\", maxDelay = \"40ms\" }\n"),
    );
    let (count, steps) = (300, 20);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| watch_commits(kafka, &project, &topic.name, PARTITIONS, &stop));
        let load = scope.spawn(|| {
            for step in 0..steps {
                produce(&topic, count / steps * step..count / steps * (step + 1));
                std::thread::sleep(Duration::from_millis(300));
            }
        });
        let gets_on = |daemon: &mut Daemon| {
            let before = project.entries_of("end").len();
            daemon.wait_for("it gets on", |_| {
                project.entries_of("end").len() > before + 100
            });
        };
        let mut first = Daemon::join(&project);
        gets_on(&mut first);
        project.replace_handler("orders.lua", &format!("{FAILS}-- another\n"));
        assert_eq!(first.reload().0, 0);
        gets_on(&mut first);
        let place = project.another_member();
        let mut second = Daemon::join(&place);
        gets_on(&mut second);
        first.kill();
        gets_on(&mut second);
        let third = Daemon::join(&project);
        second.stop();
        load.join().unwrap();
        let total = (count * KEYS) as usize;
        wait_for("every message is finished", DEADLINE, || {
            first_ends(&project).values().map(Vec::len).sum::<usize>() == total
        });
        third.stop();
        stop.store(true, Ordering::SeqCst);
        assert!(watch.join().unwrap() > 5, "the commits were looked at");
    });
    let ends = first_ends(&project);
    assert_eq!(ends.len(), KEYS as usize);
    for (key, numbers) in ends {
        assert!(numbers.is_sorted(), "`{key}`: {numbers:?}");
    }
    for partition in 0..PARTITIONS {
        let committed = kafka.committed(&project.group, &topic.name, partition);
        assert_eq!(committed, Some(topic.watermarks(partition).1));
    }
}
