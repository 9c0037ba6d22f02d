//! Three brokers, replication 3: what messages emit with `exactlyOnce` is there once while the brokers that coordinate
//! the transactions and the group are killed and start again, in turn.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::{Offset, TopicPartitionList};

use crate::cluster::{Cluster, committed};
use crate::support::daemon::Daemon;
use crate::support::kafka::unique;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::wait_for;

const PARTITIONS: i32 = 2;
const KEYS: u64 = 7;
/// Long enough for the end of a transaction of a coordinator that was killed, and for another leader.
const DEADLINE: Duration = Duration::from_secs(120);
/// How long a broker stays away.
const AWAY: Duration = Duration::from_secs(4);
/// In server.properties.
const STATE_PARTITIONS: u32 = 2;

const CONSUMER: &str = "sessionTimeout = \"6s\"\nheartbeatInterval = \"500ms\"\nrebalanceTimeout = \"20s\"\n\
                        exactlyOnce = true\ntransaction = { interval = \"50ms\", timeout = \"6s\" }\n";

/// Each message twice, one of each eight after a moment.
const HANDLER: &str = r#"
local tide = require "tide"
return function(message, ctx)
  if tonumber(message.value) % 8 == 0 then tide.sleep("5ms") end
  for partition = 0, 1 do
    ctx.emit{ topic = "@OUT@", key = message.key, value = message.value, partition = partition }
  end
end
"#;

pub(crate) fn run() {
    let Some(cluster) = Cluster::start() else {
        return;
    };
    let (source, out) = (unique("source"), unique("out"));
    cluster.create_topic(&source, PARTITIONS, &[]);
    cluster.create_topic(&out, PARTITIONS, &[]);
    let project = Project::at(cluster.behind_proxies()).consumer(CONSUMER);
    project.handler("twice.lua", &HANDLER.replace("@OUT@", &out));
    project.config(&(from_beginning("twice", &source, "twice") + "ordering = \"key\"\n"));
    let (is_over, sent) = (AtomicBool::new(false), AtomicU64::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| produce(&cluster, &source, &is_over, &sent));
        let over = Over(&is_over);
        let daemon = Daemon::start(&project);
        let moves = || read_until(&cluster, &out, 1).len();
        wait_for("the first records", DEADLINE, || moves() > 0);
        let status = daemon.status();
        let id = status["consumers"][0]["transactions"]["id"].as_str();
        let partition = hash(id.expect("the consumer has a transactional id")) % STATE_PARTITIONS;
        let of_transactions = || cluster.leader("__transaction_state", partition as i32);
        let of_group = || cluster.coordinator(&project.group);
        let coordinators: [&dyn Fn() -> Option<usize>; 2] = [&of_transactions, &of_group];
        for coordinator in coordinators {
            let node = coordinator().expect("the coordinator is known");
            cluster.nodes[node].kill();
            std::thread::sleep(AWAY);
            cluster.start_missing();
            cluster.wait_in_sync();
        }
        drop(over);
        let reader = cluster.reader(&project.group);
        wait_for("all messages are sent and committed", DEADLINE, || {
            let end: i64 = (0..PARTITIONS)
                .filter_map(|one| Some(cluster.watermarks(&source, one).ok()?.1))
                .sum();
            let offsets = committed(&reader, &source, PARTITIONS).unwrap_or_default();
            end as u64 == sent.load(Ordering::SeqCst) && end == offsets.values().sum::<i64>()
        });
        let all = sent.load(Ordering::SeqCst);
        let records = read_until(&cluster, &out, 2 * all as usize);
        check(&records, all);
        let transactions = daemon.status()["consumers"][0]["transactions"].clone();
        assert!(
            transactions["committed"].as_u64() > Some(0),
            "{transactions}"
        );
        daemon.stop();
    });
}

/// Ends the load, also when the test panics.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Numbers, each once, at a steady rate, until it is over.
fn produce(cluster: &Cluster, topic: &str, is_over: &AtomicBool, sent: &AtomicU64) {
    let producer: BaseProducer = cluster
        .client()
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", "120000")
        .set("linger.ms", "5")
        .create()
        .unwrap();
    let mut number = 0_u64;
    while !is_over.load(Ordering::SeqCst) {
        for _ in 0..5 {
            let (value, key) = (number.to_string(), format!("k{}", number % KEYS));
            let record = BaseRecord::to(topic)
                .key(&key)
                .payload(&value)
                .partition((number % KEYS % 2) as i32);
            producer.send(record).map_err(|(error, _)| error).unwrap();
            number += 1;
        }
        producer.poll(Duration::ZERO);
        std::thread::sleep(Duration::from_millis(10));
    }
    producer.flush(DEADLINE).unwrap();
    sent.store(number, Ordering::SeqCst);
}

/// The coordinator of a transactional id leads this partition of `__transaction_state`.
fn hash(id: &str) -> u32 {
    let hash = id.bytes().fold(0_i32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    hash as u32 & 0x7fff_ffff
}

/// Partition and number of what readers of committed records see: at least so many, and whatever else comes at once.
fn read_until(cluster: &Cluster, topic: &str, count: usize) -> Vec<(i32, u64)> {
    let reader: BaseConsumer = cluster.reader("nobody");
    let mut list = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        list.add_partition_offset(topic, partition, Offset::Beginning)
            .unwrap();
    }
    reader.assign(&list).unwrap();
    let (mut records, until) = (Vec::new(), Instant::now() + DEADLINE);
    loop {
        match reader.poll(Duration::from_millis(1000)) {
            Some(Ok(message)) => {
                let value = String::from_utf8_lossy(message.payload().unwrap()).into_owned();
                records.push((message.partition(), value.parse().unwrap()));
            }
            _ if records.len() >= count || Instant::now() > until => return records,
            _ => {}
        }
    }
}

#[track_caller]
fn check(records: &[(i32, u64)], all: u64) {
    for partition in 0..PARTITIONS {
        let found = records.iter().filter(|one| one.0 == partition);
        let (mut numbers, mut last) = (Vec::new(), BTreeMap::new());
        for (_, number) in found {
            let before = last.insert(number % KEYS, *number);
            assert!(before < Some(*number), "{number} behind {before:?}");
            numbers.push(*number);
        }
        numbers.sort_unstable();
        let expected: Vec<u64> = (0..all).collect();
        let missing: Vec<_> = expected
            .iter()
            .filter(|one| numbers.binary_search(one).is_err())
            .collect();
        assert!(
            missing.is_empty(),
            "missing in partition {partition}: {missing:?}"
        );
        assert_eq!(
            numbers.len(),
            expected.len(),
            "twice in partition {partition}"
        );
    }
}
