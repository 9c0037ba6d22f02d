//! `tide.kafka.admin` against a real broker: each test has the name of kafkajs' function.

use crate::sends::{sender, sending};
use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::Project;
use crate::support::wait::DEADLINE;

mod changes; // the functions that change topics, groups and settings
mod live; // start, timers, reloads, outages, a stop

/// What `body` notes by `note(text)`, in a handler that handles one message. `out` is a topic with these partitions, and
/// `@OWN@` the daemon's group.
pub(crate) fn noted(kafka: &Kafka, sections: &str, partitions: usize, body: &str) -> Noted {
    let body = format!(
        "local admin = tide.kafka.admin\n\
         local function note(text) record.line(\"note\", message, ctx, tostring(text)) end\n\
         {body}\nrecord.line(\"done\", message, ctx, \"\")"
    );
    let (project, source, out) = sending(kafka, "", sections, partitions, "");
    sender(&project, &out, &body.replace("@OWN@", &project.group));
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    let notes = project.entries_of("note");
    Noted {
        notes: notes.into_iter().map(|note| note.extra).collect(),
        project,
        source,
        out,
        daemon,
    }
}

pub(crate) struct Noted {
    pub(crate) notes: Vec<String>,
    pub(crate) project: Project,
    pub(crate) source: String,
    pub(crate) out: String,
    pub(crate) daemon: Daemon,
}

#[test]
fn list_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        1,
        r"
        local names, found = admin.listTopics(), {}
        for index, name in ipairs(names) do
          found[name] = true
          assert(index == 1 or names[index - 1] < name)
        end
        note(found[out] and found[message.topic])
        ",
    );
    assert_eq!(noted.notes, ["true"]);
    noted.daemon.stop();
}

#[test]
fn fetch_topic_metadata() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        3,
        r#"
        local found = admin.fetchTopicMetadata{ topics = { out, message.topic } }.topics
        assert(#found == 2 and found[1].name < found[2].name)
        for _, topic in ipairs(found) do
          if topic.name == out then
            for index, one in ipairs(topic.partitions) do
              assert(one.partitionId == index - 1 and one.leader == one.replicas[1] and one.isr[1] == one.leader)
              note(one.partitionErrorCode)
            end
          end
        end
        local all, names = admin.fetchTopicMetadata().topics, admin.listTopics()
        local by_name = {}
        for _, topic in ipairs(all) do by_name[topic.name] = topic end
        assert(#by_name[out].partitions == 3 and by_name[out].partitions[3].leader >= 0)
        local ok, err = pcall(admin.fetchTopicMetadata, { topics = { out .. ".missing" } })
        assert(not ok and tide.error.is(err, "notFound"), tostring(err))
        note(err.message)
        "#,
    );
    assert_eq!(noted.notes[..3], ["0", "0", "0"]);
    let missing = format!(
        "`tide.kafka.admin.fetchTopicMetadata`: topic `{}.missing`",
        noted.out
    );
    assert!(noted.notes[3].contains(&missing), "{}", noted.notes[3]);
    assert_eq!(kafka.partitions(&format!("{}.missing", noted.out)), None);
    noted.daemon.stop();
}

#[test]
fn fetch_topic_offsets() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "[kafka.admin]\nallow = [\"fetchTopicOffsets\", \"deleteTopicRecords\"]\n",
        2,
        r#"
        for _ = 1, 5 do tide.kafka.send{ topic = out, value = "v", partition = 1 } end
        admin.deleteTopicRecords{ topic = out, partitions = { { partition = 1, offset = 2 } } }
        for index, one in ipairs(admin.fetchTopicOffsets(out, { timeout = "20s" })) do
          assert(one.partition == index - 1 and math.type(one.high) == "integer")
          note(one.low .. " " .. one.high .. " " .. one.offset)
        end
        "#,
    );
    assert_eq!(noted.notes, ["0 0 0", "2 5 5"]);
    noted.daemon.stop();
}

#[test]
fn fetch_topic_offsets_by_timestamp() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        2,
        r#"
        local now = tide.now()
        for hour = 1, 3 do
          tide.kafka.send{ topic = out, value = "v", partition = 0, timestamp = now - (4 - hour) * 3600000 }
        end
        local function offsets(timestamp)
          local found = admin.fetchTopicOffsetsByTimestamp(out, timestamp)
          note(found[1].offset .. " " .. found[2].offset)
        end
        offsets(now - 2 * 3600000)
        offsets(0)
        offsets(now + 3600000)
        offsets()
        "#,
    );
    assert_eq!(noted.notes, ["1 0", "0 0", "3 0", "3 0"]);
    noted.daemon.stop();
}

#[test]
fn fetch_offsets() {
    let Some(kafka) = kafka::shared() else { return };
    let group = unique("other");
    let (committed, other) = (kafka.topic("committed", 2), kafka.topic("more", 1));
    committed.produce([
        Message::value("a").partition(1),
        Message::value("b").partition(1),
    ]);
    kafka.commit(&group, &committed.name, 1, 2);
    let body = r#"
        local function show(found)
          for _, topic in ipairs(found) do
            for _, one in ipairs(topic.partitions) do
              note(topic.topic .. " " .. one.partition .. " " .. one.offset .. " " .. tostring(one.metadata))
            end
          end
        end
        show(admin.fetchOffsets{ groupId = "@GROUP@" })
        note("-")
        show(admin.fetchOffsets{ groupId = "@GROUP@", topics = { "@COMMITTED@", "@OTHER@" } })
        note(#admin.fetchOffsets{ groupId = "@GROUP@.missing" })
        "#;
    let body = body.replace("@GROUP@", &group);
    let body = body.replace("@COMMITTED@", &committed.name);
    let noted = noted(kafka, "", 1, &body.replace("@OTHER@", &other.name));
    let (committed, other) = (&committed.name, &other.name);
    let expected = [
        format!("{committed} 1 2 nil"),
        "-".to_owned(),
        format!("{committed} 0 -1 nil"),
        format!("{committed} 1 2 nil"),
        format!("{other} 0 -1 nil"),
        "0".to_owned(),
    ];
    assert_eq!(noted.notes, expected);
    noted.daemon.stop();
}

#[test]
fn describe_cluster() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        1,
        r#"
        local cluster = admin.describeCluster()
        assert(#cluster.clusterId > 0 and cluster.controller == cluster.brokers[1].nodeId)
        local broker = cluster.brokers[1]
        note(broker.host .. ":" .. broker.port)
        "#,
    );
    assert_eq!(noted.notes.len(), 1);
    let port = kafka.bootstrap();
    let (_, port) = port.rsplit_once(':').unwrap();
    assert!(noted.notes[0].ends_with(port), "{}", noted.notes[0]);
    noted.daemon.stop();
}

#[test]
fn list_groups() {
    let Some(kafka) = kafka::shared() else { return };
    let simple = unique("simple");
    let topic = kafka.topic("of-groups", 1);
    kafka.commit(&simple, &topic.name, 0, 0);
    let body = r#"
        local types = {}
        for _, one in ipairs(admin.listGroups().groups) do types[one.groupId] = one.protocolType end
        note("simple:" .. types["@SIMPLE@"])
        note(types["@OWN@"])
        "#;
    let noted = noted(kafka, "", 1, &body.replace("@SIMPLE@", &simple));
    assert_eq!(noted.notes, ["simple:", "consumer"]);
    noted.daemon.stop();
}

#[test]
fn describe_groups() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        1,
        r#"
        local names = { "@OWN@", "@OWN@.missing" }
        local groups = admin.describeGroups(names, { timeout = "20s" }).groups
        local own, missing = groups[1], groups[2]
        assert(own.groupId == "@OWN@" and own.errorCode == 0 and #own.members == 1)
        local member = own.members[1]
        assert(#member.memberId > 0 and #member.clientHost > 0 and member.groupInstanceId == nil)
        note(own.state .. " " .. own.protocolType .. " " .. member.clientId)
        note(#member.memberAssignment[message.topic] .. " " .. member.memberAssignment[message.topic][1])
        note(missing.state .. " " .. #missing.members)
        "#,
    );
    assert_eq!(noted.notes, ["Stable consumer tests", "1 0", "Dead 0"]);
    noted.daemon.stop();
}

#[test]
fn describe_configs() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        "",
        1,
        r#"
        local broker = admin.describeCluster().brokers[1].nodeId
        local found = admin.describeConfigs{ resources = {
          { type = "topic", name = out, configNames = { "retention.ms", "cleanup.policy" } },
          { type = "broker", name = broker, configNames = { "node.id" } },
        }, includeSynonyms = true }.resources
        local topic = found[1]
        assert(topic.resourceName == out and topic.resourceType == "topic" and topic.errorCode == 0)
        for _, entry in ipairs(topic.configEntries) do
          note(entry.configName .. " " .. tostring(entry.configValue) .. " " .. tostring(entry.isDefault))
          assert(entry.readOnly == false and entry.isSensitive == false and type(entry.configSynonyms) == "table")
        end
        note(found[2].configEntries[1].configValue == tostring(broker) and found[2].configEntries[1].readOnly)
        local ok, err = pcall(admin.describeConfigs, { resources = { { type = "topic", name = out .. ".missing" } } })
        assert(not ok and tide.error.is(err, "notFound"), tostring(err))
        "#,
    );
    assert_eq!(noted.notes[0], "cleanup.policy delete true");
    assert!(
        noted.notes[1].starts_with("retention.ms "),
        "{:?}",
        noted.notes
    );
    assert_eq!(noted.notes[2], "true");
    noted.daemon.stop();
}
