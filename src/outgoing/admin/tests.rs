//! The admin client against the embedded broker, and against an address at which nobody listens.

use std::net::TcpListener;

use super::*;
use crate::config::{Sources, Written};
use crate::kafka::mock::Broker;
use crate::wait::admin::PartitionOffset;

const SOON: Duration = Duration::from_secs(10);

/// A file with these brokers and these rights; its consumer has group `own`.
fn config(brokers: &str, allow: &str) -> Arc<Config> {
    let text = format!(
        "[kafkaConfig]\nbrokers = ['{brokers}']\nlibrdkafka = {{ \"socket.nagle.disable\" = true }}\n[kafka.admin]\n\
         {allow}\n[consumerConfig]\ngroupId = 'own'\n[[listeners]]\ntopic = 't'\nhandler = 'h'\n"
    );
    let sources: Sources = [("h.lua".to_owned(), [].into())].into_iter().collect();
    let written = Written::parse("/test/config.toml".as_ref(), &text, &|_| None);
    Arc::new(
        written
            .config(&sources)
            .unwrap_or_else(|errors| panic!("{errors}")),
    )
}

fn admins() -> Admins {
    Admins::new(&Supervisor::without_daemon())
}

fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().to_string()
}

fn request(question: Question, ms: u64) -> Request {
    let timeout = Some(Duration::from_millis(ms));
    Request { question, timeout }
}

fn block_on<T>(future: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(future)
}

/// The fault of a request that is refused before anything is asked.
#[track_caller]
fn refusal(admin: &dyn Admin, question: Question) -> Fault {
    match admin.ask(request(question, 1)) {
        Ok(_) => panic!("it was taken"),
        Err(fault) => fault,
    }
}

#[test]
fn what_is_not_allowed_is_refused_with_the_line_to_write() {
    let admins = admins();
    let default = admins.open(&config(&nobody(), ""));
    assert!(default.ask(request(Question::ListTopics, 1)).is_ok());
    let delete = || Question::DeleteTopics {
        topics: vec!["a".to_owned()],
    };
    let fault = refusal(&*default, delete());
    assert_eq!(fault.kind, "refused");
    let line = "\"describeGroups\", \"describeConfigs\", \"deleteTopics\"]` into `[kafka.admin]`";
    assert!(fault.message.contains(line), "{}", fault.message);

    let other = admins.open(&config(&nobody(), "allow = ['deleteTopics']"));
    assert!(other.ask(request(delete(), 1)).is_ok());
    assert_eq!(refusal(&*other, Question::ListTopics).kind, "refused");
    let none = admins.open(&config(&nobody(), "allow = []"));
    let fault = refusal(&*none, Question::ListTopics);
    assert!(
        fault.message.contains("`allow = [\"listTopics\"]`"),
        "{}",
        fault.message
    );
}

#[test]
fn the_group_of_a_consumer_of_the_daemon_is_moved_by_seek() {
    let admins = admins();
    let admin = admins.open(&config(&nobody(), "allow = ['setOffsets', 'resetOffsets']"));
    let set = |group: &str| Question::SetOffsets {
        group: group.to_owned(),
        topic: "t".to_owned(),
        partitions: vec![PartitionOffset {
            partition: 0,
            offset: 0,
        }],
    };
    let reset = Question::ResetOffsets {
        group: "own".to_owned(),
        topic: "t".to_owned(),
        to_beginning: true,
    };
    for question in [set("own"), reset] {
        let fault = refusal(&*admin, question);
        assert_eq!(fault.kind, "refused");
        assert!(fault.message.contains("`seek`"), "{}", fault.message);
    }
    assert!(admin.ask(request(set("other"), 1)).is_ok());
}

#[test]
fn equal_connections_share_a_client_that_is_made_at_the_first_request() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 2).unwrap();
    let admins = admins();
    let alive = || admins.lock().clients.len();
    let one = admins.open(&config(broker.address(), ""));
    let other = admins.open(&config(broker.address(), "allow = ['listTopics']"));
    assert_eq!(alive(), 1);
    let client = admins.lock().clients[0].upgrade().unwrap();
    assert!(client.look().producer.is_none(), "nobody has asked");
    for admin in [&one, &other] {
        let asking = admin.ask(request(Question::ListTopics, 10_000)).unwrap();
        let names = block_on(asking).unwrap();
        assert_eq!(names, shape::list([shape::text("out")]));
    }
    assert!(client.look().producer.is_some());
    drop(client);
    drop((one, other));
    assert_eq!(admins.endings.running(), 1, "the client ends");
    let _third = admins.open(&config(&nobody(), ""));
    assert_eq!(alive(), 1);
    assert!(admins.close(Instant::now() + SOON));
}

#[test]
fn nobody_is_reached() {
    let address = nobody();
    let admins = admins();
    let admin = admins.open(&config(&address, ""));
    for question in [Question::ListTopics, Question::DescribeCluster] {
        let asking = admin.ask(request(question, 1_500)).unwrap();
        let fault = block_on(asking).unwrap_err();
        assert_eq!(fault.kind, "unreachable", "{}", fault.message);
        for part in [&address[..], "within 1500ms", "Connection refused"] {
            assert!(fault.message.contains(part), "{}", fault.message);
        }
    }
    assert!(admins.close(Instant::now() + SOON));
}

#[test]
fn a_request_that_is_given_up_ends_soon_and_so_does_its_client() {
    let admins = admins();
    let admin = admins.open(&config(&nobody(), ""));
    let asking = admin
        .ask(request(Question::DescribeCluster, 60_000))
        .unwrap();
    block_on(async {
        let soon = tokio::time::timeout(Duration::from_millis(50), asking);
        assert!(soon.await.is_err(), "there is no answer");
    });
    let since = Instant::now();
    assert!(admins.close(Instant::now() + SOON));
    assert!(since.elapsed() < SOON, "{:?}", since.elapsed());
    let asking = admin.ask(request(Question::ListTopics, 1_000)).unwrap();
    assert_eq!(block_on(asking).unwrap_err().kind, "closed");
}

#[test]
fn a_request_waits_for_its_turn_and_is_busy_at_its_end() {
    let admins = admins();
    let admin = admins.open(&config(&nobody(), ""));
    let client = admins.lock().clients[0].upgrade().unwrap();
    let taken = client.slots.try_acquire_many(REQUESTS_MAX as u32).unwrap();
    let asking = admin.ask(request(Question::ListTopics, 50)).unwrap();
    let fault = block_on(asking).unwrap_err();
    assert_eq!(fault.kind, "busy", "{}", fault.message);
    drop(taken);
}

#[test]
fn a_file_without_brokers_has_no_client() {
    let admins = admins();
    let mut config = (*config(&nobody(), "")).clone();
    config.connection = None;
    let admin = admins.open(&Arc::new(config));
    let fault = refusal(&*admin, Question::ListTopics);
    assert_eq!(fault.kind, "notFound");
    assert!(fault.message.contains("`brokers`"), "{}", fault.message);
}

/// `moontide dev` runs handlers on it.
#[test]
fn the_embedded_broker_answers_the_questions_about_topics() {
    let broker = Broker::start().unwrap();
    broker.create_topic("out", 2).unwrap();
    let admins = admins();
    let admin = admins.open(&config(broker.address(), ""));
    let topic = || "out".to_owned();
    for question in [
        Question::DescribeCluster,
        Question::FetchTopicMetadata {
            topics: Some(vec![topic()]),
        },
        Question::FetchTopicOffsets { topic: topic() },
        Question::FetchTopicOffsetsByTimestamp {
            topic: topic(),
            ms: None,
        },
    ] {
        let name = question.name();
        let asking = admin.ask(request(question, 10_000)).unwrap();
        let answer = block_on(asking);
        assert!(answer.is_ok(), "{name}: {answer:?}");
    }
    let asking = admin.ask(request(Question::ListGroups, 10_000)).unwrap();
    let fault = block_on(asking).unwrap_err();
    assert_eq!(fault.kind, "refused", "{}", fault.message);
    assert!(admins.close(Instant::now() + SOON));
}
