//! What becomes of a membership: static ids, what waits when a partition goes, the last commit of a stop.

use rdkafka::ClientConfig;
use rdkafka::mocking::MockCluster;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer as _};
use rdkafka::types::{RDKafkaApiKey, RDKafkaRespErr};

use crate::support::client::{Message, Topic, numbered};
use crate::support::daemon::Daemon;
use crate::support::http::{address, scrape};
use crate::support::kafka::{self, Kafka};
use crate::support::project::{GATED, Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

fn partitions(daemon: &Daemon) -> usize {
    let status = daemon.try_status().unwrap_or_default();
    let partitions = status["consumers"][0]["partitions"].as_array();
    partitions.map_or(0, Vec::len)
}

/// A back-off of an hour ends with the partition: the other member runs the message at once, as its first attempt.
#[test]
fn a_back_off_ends_when_its_partition_goes() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("goes", 2);
    // Where it were waited for, the other member would wait for minutes.
    let consumer =
        "sessionTimeout = \"10m\"\nrebalanceTimeout = \"10m\"\nheartbeatInterval = \"500ms\"";
    let project = Project::new(kafka).consumer(consumer);
    let project = project.sections("[daemon]\ndrainDeadline = \"10m\"");
    project.handler("gated.lua", GATED);
    project.config(
        &(from_beginning("gated", &topic.name, "gated.handle")
            + "retry = { initialDelay = \"1h\", maxDelay = \"1h\" }\n"),
    );
    topic.produce([numbered(0..2, 0), numbered(10..12, 1)].concat());
    let first = Daemon::join(&project);
    project.wait_for_entries("try", 2, DEADLINE);

    let place = project.another_member();
    place.open_gate();
    let second = Daemon::join(&place);

    project.wait_for_entries("done", 2, DEADLINE);
    let tries = project.entries_of("try");
    assert_eq!(tries.len(), 4);
    assert!(tries.iter().all(|one| one.attempt == 1), "{tries:?}");
    first.stop();
    second.stop();
}

/// `group.instance.id` by way of librdkafka: who is away for less than its session comes back to its partitions, and
/// the others do not hear of it.
#[test]
fn a_static_member_comes_back_without_a_rebalance() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("static", 4);
    let (project, place) = static_members(kafka, &topic, "sessionTimeout = \"30s\"");
    let mut one = Daemon::join(&project);
    let mut two = Daemon::join(&place);
    one.wait_for("they share", |one| {
        partitions(one) == 2 && partitions(&two) == 2
    });
    let seen = two.lines().len();

    one.stop();
    topic.produce((0..4).flat_map(|partition| numbered(0..5, partition)));
    let mut one = Daemon::join(&project);

    project.wait_for_entries("done", 20, DEADLINE);
    one.wait_for("it has its own again", |one| partitions(one) == 2);
    let moved = two.lines().into_iter().skip(seen);
    let moved: Vec<_> = moved
        .filter(|line| line.is("assigned") || line.is("revoked"))
        .collect();
    assert!(moved.is_empty(), "{moved:?}");
    two.wait_for("its own are committed", |_| {
        (0..4).all(|number| kafka.committed(&project.group, &topic.name, number) == Some(5))
    });
    one.stop();
    two.stop();
}

/// Two with one id: one of them is told so and ends, and the other has everything.
#[test]
fn of_two_members_with_one_id_one_ends_and_says_why() {
    let Some(kafka) = kafka::shared() else { return };
    for consumer in [
        "sessionTimeout = \"6s\"\nheartbeatInterval = \"300ms\"",
        "groupProtocol = \"consumer\"",
    ] {
        let topic = kafka.topic("twins", 2);
        let (project, place) = static_members(kafka, &topic, consumer);
        let text = std::fs::read_to_string(place.path("config.toml")).unwrap();
        place.write("config.toml", &text.replace("\"two\"", "\"one\""));
        let mut first = Daemon::join(&project);
        let mut second = Daemon::start(&place);

        let mut first_ended = false;
        crate::support::wait::wait_for("one of them ends", DEADLINE, || {
            first_ended = first.ended();
            first_ended || second.ended()
        });

        let (mut ended, mut lives) = if first_ended {
            (first, second)
        } else {
            (second, first)
        };
        assert_eq!(ended.exit_code(DEADLINE), 1);
        assert!(
            ended.count(|line| line.is_error() && line.mentions("instance")) > 0,
            "{}",
            ended.log_text()
        );
        lives.wait_for("it has everything", |lives| partitions(lives) == 2);
        topic.produce([numbered(0..5, 0), numbered(5..10, 1)].concat());
        project.wait_for_entries("done", 10, DEADLINE);
        lives.stop();
        for number in 0..2 {
            assert_eq!(
                kafka.committed(&project.group, &topic.name, number),
                Some(5)
            );
        }
    }
}

/// Another topic that is in trouble does not keep a stop from its last commit.
#[test]
fn a_stop_commits_although_another_topic_is_in_trouble() {
    let Some(kafka) = kafka::shared() else { return };
    let (topic, doomed) = (kafka.topic("well", 1), kafka.topic("doomed", 1));
    let project = Project::new(kafka);
    project.handler(
        "slow.lua",
        r#"
        local record, tide = require "record", require "tide"
        return function(message, ctx)
          record.line("begin", message, ctx)
          while not io.open("gate") do tide.sleep(20) end
          record.line("done", message, ctx)
        end
        "#,
    );
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("slow", &topic.name, "slow")
            + &from_beginning("doomed", &doomed.name, "orders.handle")
            + &from_beginning("missing", "there-is-no-such-topic", "orders.handle")),
    );
    let mut daemon = Daemon::join(&project);
    doomed.delete();
    topic.produce([Message::value("last")]);
    project.wait_for_entries("begin", 1, DEADLINE);

    daemon.term();
    daemon.wait_line("it drains", |line| {
        line.is("draining") || line.mentions("stopping")
    });
    project.open_gate();

    assert_eq!(daemon.exit_code(DEADLINE), 0);
    assert_eq!(project.values_of("done"), ["last"]);
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(1));
}

/// Two members of one group, with ids `one` and `two`.
fn static_members(kafka: &Kafka, topic: &Topic<'_>, consumer: &str) -> (Project, Project) {
    let project = Project::new(kafka).consumer(&format!(
        "{consumer}\nlibrdkafka = {{ \"group.instance.id\" = \"one\" }}"
    ));
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    let place = project.another_member();
    let text = std::fs::read_to_string(place.path("config.toml")).unwrap();
    place.write("config.toml", &text.replace("\"one\"", "\"two\""));
    (project, place)
}

/// A topic appears while a member still asks where what it got before begins: librdkafka rejoins, and tells it the
/// difference to what it was told, not to what it has begun.
#[test]
fn an_assignment_that_the_next_one_overtakes_is_begun_all_the_same() {
    let cluster = MockCluster::new(1).unwrap();
    cluster.create_topic("first", 1, 1).unwrap();
    let producer: BaseProducer = ClientConfig::new()
        .set("bootstrap.servers", cluster.bootstrap_servers())
        .create()
        .unwrap();
    let record = BaseRecord::<str, str>::to("first").payload("0");
    producer.send(record).unwrap();
    producer.flush(DEADLINE).unwrap();
    let project = Project::at(cluster.bootstrap_servers())
        .consumer("metadataMaxAge = \"1s\"")
        .sections("[http]\nlisten = \"127.0.0.1:0\"");
    project.handler("orders.lua", RECORDING);
    project.config(
        &(from_beginning("first", "first", "orders.handle")
            + &from_beginning("later", "later", "orders.handle")),
    );
    let unknown = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN; 1000];
    cluster.request_errors(RDKafkaApiKey::OffsetFetch, &unknown);

    let mut daemon = Daemon::start(&project);
    let address = address(&mut daemon);
    let assignments = || {
        let kind = [("kind", "assigned")];
        scrape(&address).get("moontide_rebalances_total", &kind)
    };
    daemon.wait_for("it asks", |_| assignments() == Some(1.0));
    cluster.create_topic("later", 1, 1).unwrap();
    daemon.wait_for("the next assignment", |_| assignments() == Some(2.0));
    cluster.clear_request_errors(RDKafkaApiKey::OffsetFetch);

    project.wait_for_entries("done", 1, DEADLINE);
    daemon.wait_for("both are begun", |daemon| partitions(daemon) == 2);
    daemon.stop();
}
