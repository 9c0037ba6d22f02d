//! `tide.kafka.admin`, with an admin client that only notes what it is asked.

use std::sync::Mutex;

use crate::lua::AdminSource;
use crate::lua::tests::*;
use crate::wait::admin::{
    Admin, Altered, Asking, MorePartitions, NewTopic, PartitionOffset, Question, Request, Resource,
    ResourceKind, ResourceQuery,
};
use crate::wait::{Cancel, Fault, Value};

#[derive(Debug, Default)]
struct Noting {
    requests: Mutex<Vec<Request>>,
}

#[derive(Debug)]
struct Source(Arc<Noting>);

#[derive(Debug)]
struct Rights(Arc<Noting>);

impl AdminSource for Source {
    fn open(&self, _: &Arc<Config>) -> Arc<dyn Admin> {
        Arc::new(Rights(self.0.clone()))
    }
}

impl Admin for Rights {
    fn ask(&self, request: Request) -> Result<Asking, Fault> {
        let answer = match &request.question {
            Question::ListTopics => Ok(Value::Table(vec![(
                Value::Integer(1),
                Value::Bytes(b"orders".as_slice().into()),
            )])),
            Question::DeleteGroups { .. } => Err(Fault {
                fields: vec![("results", Value::Table(Vec::new()))],
                ..Fault::new("conflict", "the group has members")
            }),
            Question::DescribeCluster => return Err(Fault::new("refused", "not allowed")),
            _ => Ok(Value::Nil),
        };
        self.0.requests.lock().unwrap().push(request);
        Ok(Box::pin(async move { answer }))
    }
}

fn run(body: &str) -> (Step, Vec<Request>) {
    let noting = Arc::new(Noting::default());
    let app = App::default().with_admins(Arc::new(Source(noting.clone())));
    let mut f = handler(body)
        .build_with(&Arc::new(app))
        .unwrap_or_else(|error| panic!("{error}"));
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .unwrap();
    let mut step = f.run();
    let mut open = Vec::new();
    while let Step::Waits(id, waits) = step {
        open.extend(waits.begun);
        let (wait, Wait::Outside(job)) = open.remove(0) else {
            panic!("another wait than a question");
        };
        assert_eq!(job.name, "kafka.admin");
        let (_cancel, told) = Cancel::new();
        let answer = Answer::Outside(runtime.block_on((job.start)(told)));
        step = f.vm.resume(&f.pulse, id, wait, answer);
    }
    drop(f);
    let requests = std::mem::take(&mut *noting.requests.lock().unwrap());
    (step, requests)
}

/// The question of one call.
#[track_caller]
fn asked(call: &str) -> Question {
    let (step, mut requests) = run(&format!("local admin = tide.kafka.admin\n{call}"));
    assert!(matches!(step, Step::Done), "{call}: {step:?}");
    assert_eq!(requests.len(), 1, "{call}");
    requests.remove(0).question
}

/// The error of a call that asks nothing.
#[track_caller]
fn refused(call: &str, expected: &str) {
    let body = format!(
        "local admin = tide.kafka.admin
         local ok, err = pcall(function() {call} end)
         assert(not ok and tide.error.is(err, 'invalid'), tostring(err))
         error(err.message, 0)"
    );
    let (step, requests) = run(&body);
    assert!(requests.is_empty(), "{call}");
    let message = failure(step).message;
    assert!(
        message.contains(expected),
        "{call}\n  {message}\n  {expected}"
    );
    assert!(message.contains("`tide.kafka.admin."), "{message}");
}

fn texts(texts: &[&str]) -> Vec<String> {
    texts.iter().map(|&text| text.to_owned()).collect()
}

fn resource(kind: ResourceKind, name: &str) -> Resource {
    let name = name.to_owned();
    Resource { kind, name }
}

#[test]
fn the_reading_functions_ask_what_kafkajs_asks() {
    let topic = || "orders".to_owned();
    assert_eq!(asked("admin.listTopics()"), Question::ListTopics);
    let all = Question::FetchTopicMetadata { topics: None };
    assert_eq!(asked("admin.fetchTopicMetadata()"), all);
    assert_eq!(asked("admin.fetchTopicMetadata{ topics = {} }"), all);
    assert_eq!(
        asked("admin.fetchTopicMetadata{ topics = { 'b', 'a' } }"),
        Question::FetchTopicMetadata {
            topics: Some(texts(&["b", "a"]))
        }
    );
    assert_eq!(
        asked("admin.fetchTopicOffsets('orders')"),
        Question::FetchTopicOffsets { topic: topic() }
    );
    for (call, ms) in [("1700000000123", Some(1_700_000_000_123)), ("nil", None)] {
        assert_eq!(
            asked(&format!(
                "admin.fetchTopicOffsetsByTimestamp('orders', {call}, {{ timeout = 5 }})"
            )),
            Question::FetchTopicOffsetsByTimestamp { topic: topic(), ms }
        );
    }
    assert_eq!(
        asked("admin.fetchOffsets{ groupId = 'g' }"),
        Question::FetchOffsets {
            group: "g".to_owned(),
            topics: None
        }
    );
    assert_eq!(asked("admin.listGroups{}"), Question::ListGroups);
    assert_eq!(
        asked("admin.describeGroups({ 'b', 'a' })"),
        Question::DescribeGroups {
            groups: texts(&["b", "a"])
        }
    );
    assert_eq!(
        asked(
            "admin.describeConfigs{ includeSynonyms = true, resources = {
               { type = 'topic', name = 'orders', configNames = { 'retention.ms' } },
               { type = 'broker', name = 1 }, { type = 'group', name = 'g' },
             } }"
        ),
        Question::DescribeConfigs {
            resources: vec![
                ResourceQuery {
                    resource: resource(ResourceKind::Topic, "orders"),
                    names: Some(texts(&["retention.ms"])),
                },
                ResourceQuery {
                    resource: resource(ResourceKind::Broker, "1"),
                    names: None,
                },
                ResourceQuery {
                    resource: resource(ResourceKind::Group, "g"),
                    names: None,
                },
            ],
            with_synonyms: true,
        }
    );
}

#[test]
fn new_topics_are_asked_for_with_all_their_options() {
    let setting = |name: &str, value: &str| (name.to_owned(), value.to_owned());
    assert_eq!(
        asked(
            "admin.createTopics{ validateOnly = true, waitForLeaders = false, topics = {
               { topic = 'a', numPartitions = 3, replicationFactor = 2,
                 configEntries = { { name = 'retention.ms', value = '5' } } },
               { topic = 'b' },
               { topic = 'c', replicaAssignment = {
                 { partition = 1, replicas = { 2 } }, { partition = 0, replicas = { 1, 2 } } } },
             } }"
        ),
        Question::CreateTopics {
            topics: vec![
                NewTopic {
                    name: "a".to_owned(),
                    partitions: 3,
                    replication: 2,
                    replicas: Vec::new(),
                    settings: vec![setting("retention.ms", "5")],
                },
                NewTopic {
                    name: "b".to_owned(),
                    partitions: -1,
                    replication: -1,
                    replicas: Vec::new(),
                    settings: Vec::new(),
                },
                NewTopic {
                    name: "c".to_owned(),
                    partitions: -1,
                    replication: -1,
                    replicas: vec![vec![1, 2], vec![2]],
                    settings: Vec::new(),
                },
            ],
            validate_only: true,
            wait_for_leaders: false,
        }
    );
}

#[test]
fn more_partitions_and_fewer_records_and_topics_are_asked_for() {
    assert_eq!(
        asked(
            "admin.createPartitions{ topicPartitions = { { topic = 'a', count = 3, assignments = { { 1 } } } } }"
        ),
        Question::CreatePartitions {
            topics: vec![MorePartitions {
                topic: "a".to_owned(),
                count: 3,
                replicas: vec![vec![1]],
            }],
            validate_only: false,
        }
    );
    let place = |partition, offset| PartitionOffset { partition, offset };
    assert_eq!(
        asked(
            "admin.deleteTopicRecords{ topic = 'a', partitions = {
               { partition = 0, offset = 5 }, { partition = 1, offset = -1 }, { partition = 2, offset = 'end' } } }"
        ),
        Question::DeleteTopicRecords {
            topic: "a".to_owned(),
            partitions: vec![place(0, 5), place(1, -1), place(2, -1)],
        }
    );
    assert_eq!(
        asked("admin.deleteTopics{ topics = { 'a' } }"),
        Question::DeleteTopics {
            topics: texts(&["a"])
        }
    );
}

#[test]
fn offsets_and_settings_are_changed() {
    let place = |partition, offset| PartitionOffset { partition, offset };
    assert_eq!(
        asked(
            "admin.setOffsets{ groupId = 'g', topic = 'a', partitions = {
               { partition = 0, offset = 'beginning' }, { partition = 1, offset = -2 }, { partition = 2, offset = 7.0 } } }"
        ),
        Question::SetOffsets {
            group: "g".to_owned(),
            topic: "a".to_owned(),
            partitions: vec![place(0, -2), place(1, -2), place(2, 7)],
        }
    );
    assert_eq!(
        asked("admin.resetOffsets{ groupId = 'g', topic = 'a', earliest = true }"),
        Question::ResetOffsets {
            group: "g".to_owned(),
            topic: "a".to_owned(),
            to_beginning: true,
        }
    );
    assert_eq!(
        asked(
            "admin.alterConfigs{ resources = { { type = 'topic', name = 'a', configEntries = {
               { name = 'x', value = '1' }, { name = 'y', value = tide.null } } } } }"
        ),
        Question::AlterConfigs {
            resources: vec![Altered {
                resource: resource(ResourceKind::Topic, "a"),
                settings: vec![
                    ("x".to_owned(), Some("1".to_owned())),
                    ("y".to_owned(), None)
                ],
            }],
            validate_only: false,
        }
    );
}

/// Wrong calls, and a part of their errors.
const WRONG: &[(&str, &str)] = &[
    ("admin.listTopics{ timout = 5 }", "did you mean `timeout`?"),
    ("admin.listTopics('x')", "a table of options, not a string"),
    ("admin.listTopics({}, 1)", "takes at most 1 arguments"),
    ("admin.listTopics{ timeout = '6m' }", "more than 5m"),
    ("admin.listTopics{ timeout = 0 }", "above 0"),
    (
        "admin.fetchTopicMetadata{ 'a' }",
        "a list where named fields",
    ),
    (
        "admin.fetchTopicMetadata{ topics = 'a' }",
        "`topics` is a string",
    ),
    (
        "admin.fetchTopicMetadata{ topics = { 'a', 'a b' } }",
        "entry 2 of `topics` is \"a b\"",
    ),
    ("admin.fetchTopicMetadata{ topics = { 'a', 'a' } }", "twice"),
    ("admin.fetchTopicOffsets()", "`topic` is missing"),
    (
        "admin.fetchTopicOffsets({ topic = 'a' })",
        "`topic` is a table",
    ),
    (
        "admin.fetchTopicOffsetsByTimestamp('a', -1)",
        "`timestamp` is -1",
    ),
    (
        "admin.fetchTopicOffsetsByTimestamp('a', 1.5)",
        "`timestamp` is 1.5",
    ),
    ("admin.fetchOffsets{ topics = {} }", "`groupId` is missing"),
    ("admin.fetchOffsets{ groupId = '' }", "`groupId` is empty"),
    ("admin.fetchOffsets{ groupId = 'a\\0b' }", "NUL"),
    (
        "admin.fetchOffsets{ groupId = 'g', resolveOffsets = true }",
        "no option `resolveOffsets`",
    ),
    ("admin.describeGroups('g')", "`groupIds` is a string"),
    ("admin.describeGroups({})", "`groupIds` is empty"),
    (
        "admin.describeConfigs{ resources = {} }",
        "`resources` is empty",
    ),
    (
        "admin.describeConfigs{ resources = { { type = 'topc', name = 'a' } } }",
        "did you mean `topic`?",
    ),
    (
        "admin.describeConfigs{ resources = { { type = 2, name = 'a' } } }",
        "`type` is 2",
    ),
    (
        "admin.describeConfigs{ resources = { { type = 'broker', name = 'a' } } }",
        "not the id of a broker",
    ),
    ("admin.createTopics{}", "`topics` is missing"),
    (
        "admin.createTopics{ topics = { { topic = 'a', partitions = 3 } } }",
        "did you mean `numPartitions`?",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a', numPartitions = 0 } } }",
        "at least 1",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a' }, { topic = 'a' } } }",
        "topic `a` is there twice",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a', numPartitions = 1, replicaAssignment = {} } } }",
        "leave them",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a', configEntries = { { name = 'x', value = 5 } } } } }",
        "`tostring`",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a', replicaAssignment = { { partition = 1, replicas = { 1 } } } } } }",
        "lower one",
    ),
    (
        "admin.createTopics{ topics = { { topic = 'a' } }, validateOnly = 1 }",
        "not true or false",
    ),
    (
        "admin.createPartitions{ topicPartitions = { { topic = 'a' } } }",
        "`count` is missing",
    ),
    (
        "admin.createPartitions{ topicPartitions = { { topic = 'a', count = 2, assignments = { 1 } } } }",
        "`assignments` is an integer",
    ),
    (
        "admin.deleteTopicRecords{ topic = 'a', partitions = { { partition = 0, offset = -2 } } }",
        "`offset` is -2",
    ),
    (
        "admin.setOffsets{ groupId = 'g', topic = 'a', partitions = { { partition = 0, offset = 'begin' } } }",
        "\"beginning\"",
    ),
    (
        "admin.setOffsets{ groupId = 'g', topic = 'a', partitions = { { partition = 0 } } }",
        "`offset` is nil",
    ),
    (
        "admin.setOffsets{ groupId = 'g', topic = 'a', partitions = { { partition = 0, offset = 1 }, { partition = 0, offset = 2 } } }",
        "partition 0 twice",
    ),
    (
        "admin.alterConfigs{ resources = { { type = 'topic', name = 'a' } } }",
        "`configEntries` is missing",
    ),
    (
        "admin.deleteGroups({ 'a', 1 })",
        "entry 2 of `groupIds` is an integer",
    ),
];

#[test]
fn a_wrong_argument_names_the_place_and_what_is_allowed() {
    for (call, expected) in WRONG {
        refused(call, expected);
    }
}

#[test]
fn an_answer_is_returned_and_a_fault_raised_with_its_kind_and_results() {
    let body = "local admin = tide.kafka.admin
        assert(admin.listTopics{ timeout = '2s' }[1] == 'orders')
        local ok, err = pcall(admin.deleteGroups, { 'g' })
        assert(not ok and tide.error.is(err, 'conflict') and type(err.results) == 'table', tostring(err))
        ok, err = pcall(admin.describeCluster)
        assert(not ok and tide.error.is(err, 'refused'))
        local results = tide.parallel{ admin.listTopics, admin.listTopics }
        assert(results[2][1] == 'orders')";
    let (step, _) = run(body);
    assert!(matches!(step, Step::Done), "{step:?}");
}

#[test]
fn without_a_daemon_there_is_no_client() {
    let body = "local ok, err = pcall(tide.kafka.admin.listTopics)
        assert(not ok and tide.error.is(err, 'closed'), tostring(err))";
    assert!(matches!(handler(body).build().run(), Step::Done));
}

#[test]
fn a_misspelt_function_names_the_nearest() {
    let step = handler("tide.kafka.admin.listTopic()").build().run();
    let message = failure(step).message;
    assert!(message.contains("did you mean `listTopics`?"), "{message}");
    let step = handler("tide.kafka.admn.listTopics()").build().run();
    let message = failure(step).message;
    assert!(message.contains("did you mean `admin`?"), "{message}");
}
