//! Three brokers of Apache Kafka, each behind a proxy for daemons, and what an administrator does to them.
//!
//! Replication 3, min.insync.replicas 2. The suite's own clients reach the brokers past the proxies, so that they see
//! what is and not what the daemon can see.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::process::Stdio;
use std::time::{Duration, Instant};

use rdkafka::admin::{AdminClient, AdminOptions, NewPartitions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::KafkaError;
use rdkafka::message::BorrowedMessage;
use rdkafka::metadata::{Metadata, MetadataTopic};
use rdkafka::{ClientConfig, Offset, TopicPartitionList};

use crate::proxy::Proxy;
use crate::support::kafka::{Extras, Kafka, available, free_port, java, said_if_absent};
use crate::support::wait::{DEADLINE, wait_for};

const NODES: usize = 3;
/// As in server.properties.
const OFFSETS_PARTITIONS: u32 = 4;
const TRANSACTIONS_PARTITIONS: u32 = 2;
const REQUEST: Duration = Duration::from_secs(10);

pub(crate) struct Cluster {
    pub(crate) nodes: Vec<Kafka>,
    pub(crate) proxies: Vec<Proxy>,
}

impl Cluster {
    /// `None` where there can be none, which is then said.
    pub(crate) fn start() -> Option<Self> {
        said_if_absent(available().then_some(()))?;
        // A port may be taken by somebody else between the look and the broker's: then with others.
        (0..3).find_map(|_| {
            let cluster = Self::prepare();
            cluster.start_all().then_some(cluster)
        })
    }

    fn prepare() -> Self {
        let controllers: Vec<u16> = (0..NODES).map(|_| free_port()).collect();
        let voters: Vec<String> = (1..)
            .zip(&controllers)
            .map(|(id, port)| format!("{id}@127.0.0.1:{port}"))
            .collect();
        let voters = voters.join(",");
        let (mut proxies, mut preparing) = (Vec::new(), Vec::new());
        for (id, controller) in (1..).zip(controllers) {
            let (broker, behind) = (free_port(), free_port());
            let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, free_port())).unwrap();
            let proxy = Proxy::start(listener, behind);
            let extras = Extras {
                properties: properties(id, behind, proxy.port, &voters),
                format: Vec::new(),
            };
            proxies.push(proxy);
            preparing.push(std::thread::spawn(move || {
                Kafka::prepare((broker, controller), &extras)
            }));
        }
        let nodes = preparing.into_iter().map(|node| node.join().unwrap());
        Self {
            nodes: nodes.collect(),
            proxies,
        }
    }

    /// Whether all of them listen, and every partition has its replicas.
    fn start_all(&self) -> bool {
        let started =
            std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| self.start_missing()));
        started.is_ok()
    }

    /// Starts those that are not running, all at once: a lone one of a cluster that is down waits for the others.
    pub(crate) fn start_missing(&self) {
        std::thread::scope(|scope| {
            for node in self.nodes.iter().filter(|node| !node.is_running()) {
                // The guard's pipe, not this thread, keeps the broker alive.
                scope.spawn(|| node.start());
            }
        });
    }

    /// For daemons.
    pub(crate) fn behind_proxies(&self) -> String {
        let addresses: Vec<String> = self
            .proxies
            .iter()
            .map(|proxy| format!("127.0.0.1:{}", proxy.port))
            .collect();
        addresses.join("\", \"")
    }

    pub(crate) fn client(&self) -> ClientConfig {
        let addresses: Vec<String> = self.nodes.iter().map(Kafka::bootstrap).collect();
        let mut config = ClientConfig::new();
        config
            .set("bootstrap.servers", addresses.join(","))
            .set("topic.metadata.refresh.interval.ms", "1000")
            .set("reconnect.backoff.max.ms", "1000")
            .set("log_level", "0");
        config
    }

    /// Reads without a group of its own; `group` is only asked about.
    pub(crate) fn reader(&self, group: &str) -> BaseConsumer {
        self.client()
            .set("group.id", group)
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .create()
            .unwrap()
    }

    /// Reads a topic from its beginning, committed records alone.
    pub(crate) fn reader_of(&self, topic: &str, partitions: i32) -> BaseConsumer {
        let reader = self.reader("nobody");
        let mut list = TopicPartitionList::new();
        for partition in 0..partitions {
            list.add_partition_offset(topic, partition, Offset::Beginning)
                .unwrap();
        }
        reader.assign(&list).unwrap();
        reader
    }

    pub(crate) fn create_topic(&self, name: &str, partitions: i32, settings: &[(&str, &str)]) {
        let replication = TopicReplication::Fixed(NODES as i32);
        self.create_topic_on(name, partitions, replication, settings);
    }

    pub(crate) fn create_topic_on(
        &self,
        name: &str,
        partitions: i32,
        replication: TopicReplication<'_>,
        settings: &[(&str, &str)],
    ) {
        let mut topic = NewTopic::new(name, partitions, replication);
        for (key, value) in settings {
            topic = topic.set(key, value);
        }
        let started = Instant::now();
        loop {
            let created = block_on(self.admin().create_topics([&topic], &options()));
            match created.map(|results| results.into_iter().next()) {
                Ok(Some(Ok(_))) => break,
                other => assert!(started.elapsed() < DEADLINE, "create `{name}`: {other:?}"),
            }
            std::thread::sleep(Duration::from_millis(200));
        }
        self.wait_for_leaders(name, partitions);
    }

    pub(crate) fn delete_topic(&self, name: &str) {
        wait_for("the topic is deleted", DEADLINE, || {
            let deleted = block_on(self.admin().delete_topics(&[name], &options()));
            deleted.is_ok_and(|results| results.iter().all(Result::is_ok))
        });
    }

    pub(crate) fn add_partitions(&self, name: &str, count: i32) {
        let partitions = NewPartitions::new(name, count as usize);
        wait_for("the partitions are added", DEADLINE, || {
            let added = block_on(self.admin().create_partitions([&partitions], &options()));
            added.is_ok_and(|results| results.iter().all(Result::is_ok))
        });
        self.wait_for_leaders(name, count);
    }

    fn wait_for_leaders(&self, name: &str, partitions: i32) {
        let reader = self.reader("nobody");
        wait_for("the topic has its leaders", DEADLINE, || {
            (0..partitions).all(|number| reader.fetch_watermarks(name, number, REQUEST).is_ok())
        });
    }

    /// First offset and next offset.
    pub(crate) fn watermarks(&self, topic: &str, partition: i32) -> Result<(i64, i64), KafkaError> {
        self.reader("nobody")
            .fetch_watermarks(topic, partition, REQUEST)
    }

    /// As retention does: everything below `offset` is gone.
    pub(crate) fn delete_records(&self, topic: &str, partition: i32, offset: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(topic, partition, Offset::Offset(offset))
            .unwrap();
        wait_for("the records are gone", DEADLINE, || {
            drop(block_on(self.admin().delete_records(&list, &options())));
            self.watermarks(topic, partition)
                .is_ok_and(|(first, _)| first == offset)
        });
    }

    /// Every replica of every partition is in sync again: the next outage of one broker then harms nothing.
    pub(crate) fn wait_in_sync(&self) {
        let reader = self.reader("nobody");
        wait_for("every replica is in sync", Duration::from_secs(120), || {
            self.nodes.iter().all(Kafka::is_running)
                && reader
                    .fetch_metadata(None, REQUEST)
                    .is_ok_and(|metadata| in_sync(&metadata))
        });
    }

    /// The node that coordinates `group`, as an index.
    pub(crate) fn coordinator(&self, group: &str) -> Option<usize> {
        let partition = hash(group) % OFFSETS_PARTITIONS;
        self.leader("__consumer_offsets", partition as i32)
    }

    /// The node that coordinates the transactions with this id, as an index.
    pub(crate) fn coordinator_of_transactions(&self, id: &str) -> Option<usize> {
        let partition = hash(id) % TRANSACTIONS_PARTITIONS;
        self.leader("__transaction_state", partition as i32)
    }

    /// The node that leads a partition, as an index.
    pub(crate) fn leader(&self, topic: &str, partition: i32) -> Option<usize> {
        let metadata = self
            .reader("nobody")
            .fetch_metadata(Some(topic), REQUEST)
            .ok()?;
        let partitions = metadata.topics().first()?.partitions();
        let id = partitions
            .iter()
            .find(|one| one.id() == partition)?
            .leader();
        usize::try_from(id).ok()?.checked_sub(1)
    }

    /// Of the first partition.
    pub(crate) fn replicas_in_sync(&self, topic: &str) -> Option<usize> {
        let metadata = self
            .reader("nobody")
            .fetch_metadata(Some(topic), REQUEST)
            .ok()?;
        let partition = metadata.topics().first()?.partitions().first()?;
        Some(partition.isr().len())
    }

    /// Every partition of a topic gets its replicas in another order, and the first of them leads.
    pub(crate) fn move_leaders(&self, topic: &str, partitions: i32, shift: usize) {
        let mut plan = String::from("{\"version\":1,\"partitions\":[");
        for number in 0..partitions {
            let replicas: Vec<String> = (0..NODES)
                .map(|index| ((number as usize + shift + index) % NODES + 1).to_string())
                .collect();
            let comma = if number == 0 { "" } else { "," };
            write!(
                plan,
                "{comma}{{\"topic\":\"{topic}\",\"partition\":{number},\"replicas\":[{}]}}",
                replicas.join(",")
            )
            .unwrap();
        }
        plan.push_str("]}");
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), plan).unwrap();
        let file = file.path().to_str().unwrap();
        self.tool(
            "reassign.ReassignPartitionsCommand",
            &["--reassignment-json-file", file, "--execute"],
        );
        self.elect();
    }

    /// Preferred leaders lead again.
    pub(crate) fn elect(&self) {
        self.tool(
            "LeaderElectionCommand",
            &["--election-type", "preferred", "--all-topic-partitions"],
        );
    }

    /// One of Kafka's own tools; what it does can be asked for again, so its failure is not ours.
    fn tool(&self, class: &str, arguments: &[&str]) {
        let node = self.nodes.iter().find(|node| node.is_running());
        let node = node.expect("a broker runs");
        let status = java()
            .arg(format!("org.apache.kafka.tools.{class}"))
            .args(["--bootstrap-server", &node.bootstrap()])
            .args(arguments)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        status.expect("java was found before");
    }

    pub(crate) fn admin(&self) -> AdminClient<DefaultClientContext> {
        self.client().create().unwrap()
    }
}

/// What has come since the last time; waits that long for the first one.
pub(crate) fn read<T>(
    reader: &BaseConsumer,
    wait: Duration,
    look: impl Fn(&BorrowedMessage<'_>) -> T,
) -> Vec<T> {
    let (mut read, mut wait) = (Vec::new(), wait);
    while let Some(polled) = reader.poll(wait) {
        // Errors are of brokers that are away: they come back.
        if let Ok(message) = polled {
            read.push(look(&message));
        }
        wait = Duration::ZERO;
    }
    read
}

/// By partition, those that have none left out.
pub(crate) fn committed(
    reader: &BaseConsumer,
    topic: &str,
    partitions: i32,
) -> Result<BTreeMap<i32, i64>, KafkaError> {
    let mut list = TopicPartitionList::new();
    list.add_partition_range(topic, 0, partitions - 1);
    let committed = reader.committed_offsets(list, Duration::from_secs(5))?;
    let mut offsets = BTreeMap::new();
    for element in committed.elements() {
        element.error()?;
        if let Offset::Offset(offset) = element.offset() {
            offsets.insert(element.partition(), offset);
        }
    }
    Ok(offsets)
}

/// As a coordinator is chosen.
fn hash(name: &str) -> u32 {
    let hash = name.bytes().fold(0_i32, |hash, byte| {
        hash.wrapping_mul(31).wrapping_add(byte.into())
    });
    hash as u32 & 0x7fff_ffff
}

fn in_sync(metadata: &Metadata) -> bool {
    let mut partitions = metadata.topics().iter().flat_map(MetadataTopic::partitions);
    metadata.brokers().len() == NODES
        && partitions.all(|one| one.leader() > 0 && one.isr().len() == one.replicas().len())
}

fn properties(id: usize, behind: u16, proxy: u16, voters: &str) -> String {
    let lines = [
        format!("node.id={id}"),
        format!("controller.quorum.voters={voters}"),
        format!(
            "listeners=PLAINTEXT://127.0.0.1:@BROKER@,PROXIED://127.0.0.1:{behind},CONTROLLER://127.0.0.1:@CONTROLLER@"
        ),
        format!("advertised.listeners=PLAINTEXT://127.0.0.1:@BROKER@,PROXIED://127.0.0.1:{proxy}"),
        "listener.security.protocol.map=PLAINTEXT:PLAINTEXT,PROXIED:PLAINTEXT,CONTROLLER:PLAINTEXT"
            .into(),
        "default.replication.factor=3".into(),
        "min.insync.replicas=2".into(),
        "offsets.topic.replication.factor=3".into(),
        "transaction.state.log.replication.factor=3".into(),
        "transaction.state.log.min.isr=2".into(),
        // An outage is noticed within seconds.
        "broker.session.timeout.ms=6000".into(),
        "broker.heartbeat.interval.ms=1000".into(),
        "replica.lag.time.max.ms=6000".into(),
        "controlled.shutdown.retry.backoff.ms=500".into(),
    ];
    format!("\n{}\n", lines.join("\n"))
}

fn options() -> AdminOptions {
    AdminOptions::new()
        .request_timeout(Some(REQUEST))
        .operation_timeout(Some(REQUEST))
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap()
        .block_on(future)
}
