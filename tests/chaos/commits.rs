//! What a coordinator can answer to a commit, each of it, from librdkafka's mock cluster: a real one says such things too
//! seldom.
//!
//! Whatever it is, every message is handled in its order, and in the end the group has committed all of them.

use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::BaseConsumer;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, DefaultProducerContext, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::cluster::committed;
use crate::support::daemon::Daemon;
use crate::support::project::{Project, from_beginning};
use crate::support::wait::{DEADLINE, wait_for};

use RDKafkaRespErr as Code;

const TOPIC: &str = "commits";
const BATCH: u64 = 40;

/// Where one answer names the group's state, the client may join anew; where it names the request, it asks again.
const ANSWERS: &[(&str, RDKafkaRespErr)] = &[
    (
        "rebalance in progress",
        Code::RD_KAFKA_RESP_ERR_REBALANCE_IN_PROGRESS,
    ),
    (
        "illegal generation",
        Code::RD_KAFKA_RESP_ERR_ILLEGAL_GENERATION,
    ),
    ("unknown member", Code::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID),
    (
        "stale member epoch",
        Code::RD_KAFKA_RESP_ERR_STALE_MEMBER_EPOCH,
    ),
    (
        "coordinator is loading",
        Code::RD_KAFKA_RESP_ERR_COORDINATOR_LOAD_IN_PROGRESS,
    ),
    (
        "no coordinator",
        Code::RD_KAFKA_RESP_ERR_COORDINATOR_NOT_AVAILABLE,
    ),
    (
        "not the coordinator",
        Code::RD_KAFKA_RESP_ERR_NOT_COORDINATOR,
    ),
    (
        "not authorized for the group",
        Code::RD_KAFKA_RESP_ERR_GROUP_AUTHORIZATION_FAILED,
    ),
    (
        "not authorized for the topic",
        Code::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED,
    ),
    (
        "unknown topic",
        Code::RD_KAFKA_RESP_ERR_UNKNOWN_TOPIC_OR_PART,
    ),
    (
        "metadata too large",
        Code::RD_KAFKA_RESP_ERR_OFFSET_METADATA_TOO_LARGE,
    ),
    (
        "request timed out",
        Code::RD_KAFKA_RESP_ERR_REQUEST_TIMED_OUT,
    ),
    ("unknown server error", Code::RD_KAFKA_RESP_ERR_UNKNOWN),
];

struct Mock {
    cluster: MockCluster<'static, DefaultProducerContext>,
    project: Project,
    producer: BaseProducer,
    produced: u64,
}

impl Mock {
    fn new(consumer: &str) -> Self {
        let handler = r#"local record = require "record"
            return function(message, ctx) record.line("done", message, ctx) end"#;
        Self::of(handler, "autoCommitInterval = \"100ms\"", consumer)
    }

    fn of(handler: &str, run: &str, consumer: &str) -> Self {
        let cluster = MockCluster::new(1).unwrap();
        cluster.create_topic(TOPIC, 1, 1).unwrap();
        let project = Project::at(cluster.bootstrap_servers()).consumer(consumer);
        project.handler("done.lua", handler);
        let listener = from_beginning("done", TOPIC, "done");
        project.config(&format!("{listener}runConfig = {{ {run} }}\n"));
        let producer = client(&cluster).create().unwrap();
        Self {
            cluster,
            project,
            producer,
            produced: 0,
        }
    }

    fn produce(&mut self) {
        for number in self.produced..self.produced + BATCH {
            let value = number.to_string();
            let record = BaseRecord::<str, str>::to(TOPIC).payload(&value);
            self.producer.send(record).unwrap();
        }
        self.produced += BATCH;
        self.producer.flush(DEADLINE).unwrap();
    }

    fn reader(&self) -> BaseConsumer {
        client(&self.cluster)
            .set("group.id", &self.project.group)
            .create()
            .unwrap()
    }

    /// Each message was handled, the first runs of all in their order.
    fn is_handled(&self) -> bool {
        let mut next = 0;
        for entry in self.project.entries_of("done") {
            assert!(entry.offset <= next, "{} came before {next}", entry.offset);
            next = next.max(entry.offset + 1);
        }
        next as u64 == self.produced
    }

    fn is_committed(&self, reader: &BaseConsumer) -> bool {
        let offsets = committed(reader, TOPIC, 1).unwrap_or_default();
        let offset = offsets.get(&0).copied().unwrap_or_default() as u64;
        assert!(offset <= self.produced);
        offset == self.produced
    }
}

fn client(cluster: &MockCluster<'_, DefaultProducerContext>) -> ClientConfig {
    let mut config = ClientConfig::new();
    config
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .set("enable.auto.commit", "false")
        .set("log_level", "0");
    config
}

const QUICK: &str = "sessionTimeout = \"6s\"\nheartbeatInterval = \"300ms\"";

#[test]
fn whatever_is_answered_to_a_commit_nothing_is_lost() {
    nothing_is_lost(Mock::new(QUICK));
}

#[test]
fn whatever_is_answered_to_a_commit_that_nobody_awaits_nothing_is_lost() {
    let handler = r#"local record = require "record"
        return function(message, ctx)
          record.line("done", message, ctx)
          ctx.commitOffsets(message.offset + 1, { wait = false })
        end"#;
    nothing_is_lost(Mock::of(handler, "autoCommit = false", QUICK));
}

fn nothing_is_lost(mut mock: Mock) {
    let mut daemon = Daemon::start(&mock.project);
    let reader = mock.reader();
    for (name, code) in ANSWERS {
        mock.cluster
            .request_errors(RDKafkaApiKey::OffsetCommit, &[*code; 2]);
        mock.produce();
        daemon.wait_for(&format!("handled in spite of: {name}"), |_| {
            mock.is_handled()
        });
        daemon.wait_for(&format!("committed in spite of: {name}"), |_| {
            mock.is_committed(&reader)
        });
        mock.cluster
            .clear_request_errors(RDKafkaApiKey::OffsetCommit);
    }
    daemon.stop();
}

/// Applied or not: who asked has given up before the answer comes.
#[test]
fn an_answer_that_comes_too_late_is_no_commit_and_no_loss() {
    let mut mock =
        Mock::new("requestTimeout = \"1s\"\nsessionTimeout = \"30s\"\nheartbeatInterval = \"5s\"");
    let mut daemon = Daemon::start(&mock.project);
    let reader = mock.reader();
    mock.produce();
    daemon.wait_for("it works", |_| {
        mock.is_handled() && mock.is_committed(&reader)
    });
    mock.cluster
        .broker_round_trip_time(1, Duration::from_millis(1500))
        .unwrap();
    mock.produce();
    std::thread::sleep(Duration::from_secs(4));
    mock.cluster
        .broker_round_trip_time(1, Duration::ZERO)
        .unwrap();
    mock.produce();
    daemon.wait_for("handled", |_| mock.is_handled());
    daemon.wait_for("committed", |_| mock.is_committed(&reader));
    daemon.stop();
}

/// Somebody else has taken over with the same name: this one is told, and must not go on as if it owned anything.
#[test]
fn a_member_that_is_fenced_commits_nothing_more() {
    let mut mock = Mock::new(QUICK);
    let mut daemon = Daemon::start(&mock.project);
    let reader = mock.reader();
    mock.produce();
    daemon.wait_for("it works", |_| {
        mock.is_handled() && mock.is_committed(&reader)
    });
    let before = mock.produced;
    let fenced = [Code::RD_KAFKA_RESP_ERR_FENCED_INSTANCE_ID; 1000];
    for api in [RDKafkaApiKey::OffsetCommit, RDKafkaApiKey::Heartbeat] {
        mock.cluster.request_errors(api, &fenced);
    }
    mock.produce();
    let ended = daemon.exit_code(DEADLINE);
    assert_eq!(ended, 1, "a member that is fenced ends");
    let offsets = committed(&reader, TOPIC, 1).unwrap();
    assert_eq!(offsets[&0] as u64, before);

    for api in [RDKafkaApiKey::OffsetCommit, RDKafkaApiKey::Heartbeat] {
        mock.cluster.clear_request_errors(api);
    }
    let mut next = Daemon::start(&mock.project);
    wait_for("its successor goes on", DEADLINE, || {
        mock.is_handled() && mock.is_committed(&reader)
    });
    next.term();
    assert_eq!(next.exit_code(DEADLINE), 0);
}
