//! The pages for users of kafkajs: each key of the configuration that kafkajs has, each key that is refused in its
//! favour, and each name of kafkajs has a row. Both languages have the same rows, and name what exists.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;

use serde_json::Value as Json;
use syn::visit::{self, Visit};

use super::{anchors, quoted, root};
use crate::dev::run;

const PAGE: &str = "docs/guide/from-kafkajs.md";
const CHINESE: &str = "docs/guide/from-kafkajs.zh.md";

/// A heading, the table of the schema whose keys belong below it, and the function of `src/config/refused.rs` with the
/// keys that are refused there.
const KEYS: [(&str, &str, &str); 8] = [
    ("KafkaConfig", "Client", "client"),
    ("ssl", "SslTable", "ssl"),
    ("sasl", "Sasl", "sasl"),
    ("retry", "ClientRetry", "client_retry"),
    ("ConsumerConfig", "Consumer", "consumer"),
    ("subscribe", "Subscription", "subscription"),
    ("run", "RunConfig", "run_config"),
    ("ProducerConfig", "Producer", "producer"),
];

/// The names of kafkajs 2 and of Midway's components, by heading, as their declarations have them.
const NAMES: [(&str, &str); 19] = [
    (
        "KafkaConfig",
        "brokers ssl sasl clientId connectionTimeout authenticationTimeout reauthenticationThreshold requestTimeout \
         enforceRequestTimeout retry socketFactory logLevel logCreator",
    ),
    (
        "ssl",
        "ca cert key passphrase pfx ciphers rejectUnauthorized checkServerIdentity servername minVersion maxVersion",
    ),
    (
        "sasl",
        "mechanism username password oauthBearerProvider authorizationIdentity accessKeyId secretAccessKey sessionToken \
         authenticationProvider",
    ),
    (
        "retry",
        "maxRetryTime initialRetryTime factor multiplier retries restartOnFailure",
    ),
    (
        "ConsumerConfig",
        "groupId partitionAssigners metadataMaxAge sessionTimeout rebalanceTimeout heartbeatInterval \
         maxBytesPerPartition minBytes maxBytes maxWaitTimeInMs retry allowAutoTopicCreation maxInFlightRequests \
         readUncommitted rackId",
    ),
    ("subscribe", "topic topics fromBeginning"),
    (
        "run",
        "autoCommit autoCommitInterval autoCommitThreshold eachBatchAutoResolve partitionsConsumedConcurrently eachBatch \
         eachMessage",
    ),
    (
        "ProducerConfig",
        "createPartitioner retry metadataMaxAge allowAutoTopicCreation idempotent transactionalId transactionTimeout \
         maxInFlightRequests",
    ),
    (
        "Kafka",
        "logLevel Partitioners PartitionAssigners AssignerProtocol CompressionTypes CompressionCodecs KAFKAJS_LOG_LEVEL \
         KAFKAJS_NO_PARTITIONER_WARNING KAFKAJS_DEBUG_PROTOCOL_BUFFERS KAFKAJS_DEBUG_EXTENDED_PROTOCOL_BUFFERS",
    ),
    (
        "Consumer",
        "connect disconnect subscribe stop run commitOffsets seek describeGroup pause paused resume on logger events",
    ),
    (
        "eachMessage",
        "topic partition message heartbeat pause message.key message.value message.timestamp message.attributes \
         message.offset message.headers message.size",
    ),
    (
        "eachBatch",
        "batch batch.topic batch.partition batch.highWatermark batch.messages batch.isEmpty batch.firstOffset \
         batch.lastOffset batch.offsetLag batch.offsetLagLow resolveOffset heartbeat pause commitOffsetsIfNecessary \
         uncommittedOffsets isRunning isStale",
    ),
    (
        "Producer",
        "connect disconnect isIdempotent events on send sendBatch transaction logger",
    ),
    (
        "send",
        "topic messages acks timeout compression topicMessages key value partition headers timestamp topicName errorCode \
         baseOffset logAppendTime logStartOffset",
    ),
    (
        "Transaction",
        "send sendBatch sendOffsets commit abort isActive",
    ),
    (
        "Admin",
        "retry connect disconnect listTopics createTopics deleteTopics createPartitions fetchTopicMetadata fetchOffsets \
         fetchTopicOffsets fetchTopicOffsetsByTimestamp describeCluster setOffsets resetOffsets describeConfigs \
         alterConfigs listGroups deleteGroups describeGroups describeAcls deleteAcls createAcls deleteTopicRecords \
         alterPartitionReassignments listPartitionReassignments logger on events",
    ),
    (
        "events",
        "consumer.heartbeat consumer.commit_offsets consumer.group_join consumer.fetch_start consumer.fetch \
         consumer.start_batch_process consumer.end_batch_process consumer.connect consumer.disconnect consumer.stop \
         consumer.crash consumer.rebalancing consumer.received_unsubscribed_topics consumer.network.request \
         consumer.network.request_timeout consumer.network.request_queue_size producer.connect producer.disconnect \
         producer.network.request producer.network.request_timeout producer.network.request_queue_size admin.connect \
         admin.disconnect admin.network.request admin.network.request_timeout admin.network.request_queue_size",
    ),
    (
        "KafkaJSError",
        "KafkaJSNonRetriableError KafkaJSProtocolError KafkaJSAggregateError KafkaJSOffsetOutOfRange \
         KafkaJSAlterPartitionReassignmentsError KafkaJSNumberOfRetriesExceeded KafkaJSConnectionError \
         KafkaJSRequestTimeoutError KafkaJSMetadataNotLoaded KafkaJSTopicMetadataNotLoaded \
         KafkaJSStaleTopicMetadataAssignment KafkaJSServerDoesNotSupportApiKey KafkaJSBrokerNotFound \
         KafkaJSPartialMessageError KafkaJSSASLAuthenticationError KafkaJSGroupCoordinatorNotFound KafkaJSNotImplemented \
         KafkaJSTimeout KafkaJSLockTimeout KafkaJSUnsupportedMagicByteInMessageSet KafkaJSDeleteGroupsError \
         KafkaJSDeleteTopicRecordsError",
    ),
    (
        "Midway",
        "kafka.kafkaConfig kafka.consumerConfig kafka.producer kafka.admin connectionOptions consumerOptions \
         subscribeOptions consumerRunConfig kafkaInstanceRef producerOptions adminOptions KafkaProducerFactory \
         KafkaAdminFactory ctx.topic ctx.partition ctx.message payload ctx.consumer ctx.requestContext ctx.logger \
         ctx.setAttr ctx.getAttr ctx.startTime app.setAttr app.getAttr",
    ),
];

/// The rows of the tables, each with three cells, by the heading above them.
type Tables = BTreeMap<String, Vec<[String; 3]>>;

fn page(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap()
}

fn tables(document: &str) -> Tables {
    let mut tables = Tables::new();
    let mut heading = String::new();
    for line in document.lines() {
        if let Some(title) = line.strip_prefix("## ") {
            title.clone_into(&mut heading);
        }
        let Some(row) = line.strip_prefix("| ") else {
            continue;
        };
        let cells: Vec<String> = row
            .trim_end_matches('|')
            .split(" | ")
            .map(|cell| cell.trim().to_owned())
            .collect();
        if cells[0].starts_with("---") || cells[1] == "Moontide" {
            continue;
        }
        if let Ok(cells) = <[String; 3]>::try_from(cells) {
            tables.entry(heading.clone()).or_default().push(cells);
        }
    }
    tables
}

/// The code in a cell.
fn spans(cell: &str) -> impl Iterator<Item = &str> {
    cell.split('`').skip(1).step_by(2)
}

/// Those of the keys that no row of the table names, neither as kafkajs' key nor as Moontide's.
fn missing(tables: &Tables, heading: &str, keys: &BTreeSet<String>) -> Vec<String> {
    let rows = tables.get(heading).map_or(&[][..], Vec::as_slice);
    let cells = rows.iter().flat_map(|row| &row[..2]);
    let named: BTreeSet<&str> = cells
        .flat_map(|cell| spans(cell))
        .filter_map(|span| span.rsplit('.').next())
        .collect();
    let missing = keys.iter().filter(|key| !named.contains(key.as_str()));
    missing.cloned().collect()
}

fn schema() -> Json {
    let output = run(root(), &["schema"]);
    serde_json::from_slice(&output.stdout).unwrap()
}

fn keys_of(schema: &Json, table: &str) -> BTreeSet<String> {
    let properties = schema["$defs"][table]["properties"].as_object();
    properties.unwrap().keys().cloned().collect()
}

/// The texts that the patterns of one function have.
struct Patterns<'a> {
    function: &'a str,
    found: BTreeSet<String>,
}

impl<'ast> Visit<'ast> for Patterns<'_> {
    fn visit_item_fn(&mut self, function: &'ast syn::ItemFn) {
        if function.sig.ident == self.function {
            visit::visit_item_fn(self, function);
        }
    }

    fn visit_pat(&mut self, pattern: &'ast syn::Pat) {
        if let syn::Pat::Lit(literal) = pattern
            && let syn::Lit::Str(text) = &literal.lit
        {
            self.found.insert(text.value());
        }
        visit::visit_pat(self, pattern);
    }

    fn visit_macro(&mut self, of: &'ast syn::Macro) {
        // `matches!(key, "topic" | "topics")`
        self.found.extend(quoted(&of.tokens.to_string(), &[""]));
    }
}

fn refused(function: &str) -> BTreeSet<String> {
    let source = syn::parse_file(&page("src/config/refused.rs")).unwrap();
    let mut patterns = Patterns {
        function,
        found: BTreeSet::new(),
    };
    patterns.visit_file(&source);
    let found = patterns.found;
    assert!(found.len() > 1, "`fn {function}` refuses {found:?}");
    found
}

/// Every key below a heading: those that the configuration has, and those that it refuses.
fn keys(schema: &Json, table: &str, function: &str) -> BTreeSet<String> {
    let mut keys = keys_of(schema, table);
    if matches!(table, "Consumer" | "Producer") {
        // The keys of the connection, which they inherit, have their rows below KafkaConfig.
        let inherited = keys_of(schema, "Client");
        keys.retain(|key| !inherited.contains(key));
    }
    keys.extend(refused(function));
    keys
}

#[test]
fn every_key_that_kafkajs_has_or_that_is_refused_has_a_row() {
    let schema = schema();
    let tables = tables(&page(PAGE));
    for (heading, table, function) in KEYS {
        let keys = keys(&schema, table, function);
        let missing = missing(&tables, heading, &keys);
        assert!(missing.is_empty(), "{PAGE}: `{heading}` lacks {missing:?}");
    }
}

#[test]
fn a_key_without_a_row_is_found() {
    let schema = schema();
    let document = page(PAGE);
    for (heading, table, function) in KEYS {
        let keys = keys(&schema, table, function);
        for key in &keys {
            let names = |line: &&str| {
                let cells: Vec<&str> = line.split(" | ").take(2).collect();
                let named = cells.iter().flat_map(|cell| spans(cell));
                line.starts_with("| ")
                    && named.filter_map(|s| s.rsplit('.').next()).any(|s| s == key)
            };
            let rest: Vec<&str> = document.lines().filter(|line| !names(line)).collect();
            let missing = missing(&tables(&rest.join("\n")), heading, &keys);
            assert!(
                missing.contains(key),
                "`{key}` below `{heading}`: {missing:?}"
            );
        }
    }
}

#[test]
fn every_name_of_kafkajs_and_midway_has_a_row() {
    let tables = tables(&page(PAGE));
    for (heading, names) in NAMES {
        let rows = tables.get(heading).map_or(&[][..], Vec::as_slice);
        let named: BTreeSet<&str> = rows
            .iter()
            .flat_map(|row| spans(&row[0]))
            .map(|span| span.trim_end_matches("()"))
            .collect();
        let missing: Vec<&str> = names
            .split_whitespace()
            .filter(|name| !named.contains(name))
            .collect();
        assert!(missing.is_empty(), "{PAGE}: `{heading}` lacks {missing:?}");
    }
}

/// The words of a second column that names nothing.
const WORDS: [(&str, &str); 3] = [
    ("not needed", "不需要"),
    ("not there", "没有"),
    ("not yet", "尚无"),
];

#[test]
fn both_languages_have_the_same_rows_and_anchors() {
    let (english, chinese) = (page(PAGE), page(CHINESE));
    let (ours, theirs) = (tables(&english), tables(&chinese));
    let headings = |tables: &Tables| tables.keys().cloned().collect::<Vec<_>>();
    let is_table = |heading: &String| KEYS.iter().any(|(name, ..)| name == heading);
    assert!(headings(&ours).iter().filter(|one| is_table(one)).count() == KEYS.len());
    assert_eq!(headings(&ours), headings(&theirs));
    for (heading, rows) in &ours {
        let names = |rows: &[[String; 3]]| -> Vec<Vec<String>> {
            let names = |row: &[String; 3]| spans(&row[0]).map(str::to_owned).collect();
            rows.iter().map(names).collect()
        };
        assert_eq!(names(rows), names(&theirs[heading]), "`{heading}`");
        for (row, other) in rows.iter().zip(&theirs[heading]) {
            for column in [1, 2] {
                let code = |row: &[String; 3]| -> BTreeSet<String> {
                    spans(&row[column]).map(str::to_owned).collect()
                };
                assert_eq!(code(row), code(other), "`{heading}`: {row:?} and {other:?}");
            }
            let word = WORDS.iter().find(|(word, _)| *word == row[1]);
            let other_word = WORDS.iter().find(|(_, word)| *word == other[1]);
            assert_eq!(word, other_word, "`{heading}`: {row:?} and {other:?}");
        }
    }
    let wanted = &anchors(&english)[1..];
    let found = anchors(&chinese);
    let found: Vec<&String> = found.iter().filter(|one| wanted.contains(one)).collect();
    assert_eq!(found, wanted.iter().collect::<Vec<_>>());
}

/// Whether the schema has this key, written with dots: `kafkaConfig.ssl.ca`, `runConfig.autoCommit`.
fn has_key(schema: &Json, path: &str) -> bool {
    let policies = &schema["$defs"]["Policies"];
    let (first, _) = path.split_once('.').unwrap();
    let begin = if policies["properties"][first].is_null() {
        schema
    } else {
        policies
    };
    let mut tables = vec![begin];
    for key in path.split('.') {
        let mut next = Vec::new();
        for table in tables {
            collect(schema, &table["properties"][key], &mut next);
        }
        if next.is_empty() {
            return false;
        }
        tables = next;
    }
    true
}

/// The tables that a value of this schema may be, or the schema itself.
fn collect<'s>(root: &'s Json, value: &'s Json, found: &mut Vec<&'s Json>) {
    if value.is_null() {
        return;
    }
    if let Some(name) = value["$ref"].as_str() {
        let name = name.rsplit('/').next().unwrap();
        collect(root, &root["$defs"][name], found);
    } else if let Some(branches) = value["anyOf"].as_array() {
        for one in branches {
            collect(root, one, found);
        }
    } else if value["items"].is_object() {
        collect(root, &value["items"], found);
    } else {
        found.push(value);
    }
}

#[test]
fn what_the_page_names_in_place_of_kafkajs_exists() {
    let schema = schema();
    let lua: String = fs::read_dir(root().join("docs/reference/lua"))
        .unwrap()
        .map(|entry| fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    let metrics = page("docs/reference/metrics.md");
    let tables_of_file: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
    let policies = keys_of(&schema, "Policies");
    let mut count = 0;
    for (heading, rows) in tables(&page(PAGE)) {
        for row in rows {
            for span in spans(&row[1]) {
                let end = span.find(|c: char| !(c.is_ascii_alphanumeric() || c == '.'));
                let name = &span[..end.unwrap_or(span.len())];
                let Some((first, _)) = name.split_once('.') else {
                    continue;
                };
                let known = match first {
                    "ctx" | "tide" | "consumer" | "message" => {
                        lua.contains(name) || message(&lua, name)
                    }
                    "batch" => lua.contains(name) || has_key(&schema, name),
                    _ if tables_of_file.iter().any(|table| *table == first)
                        || policies.contains(first) =>
                    {
                        has_key(&schema, name)
                    }
                    _ => continue,
                };
                count += 1;
                assert!(known, "`{heading}`: there is no `{name}`");
            }
            for span in spans(&row[2]).filter(|span| span.starts_with("moontide_")) {
                assert!(
                    metrics.contains(span),
                    "`{heading}`: there is no metric `{span}`"
                );
            }
        }
    }
    assert!(count > 90, "{count} names were found");
}

/// Whether the page on messages has the field.
fn message(lua: &str, name: &str) -> bool {
    name.strip_prefix("message.")
        .is_some_and(|field| lua.contains(&format!("| `{field}` |")))
}
