//! The functions of `tide.kafka.admin` that change something.

use super::noted;
use crate::support::client::numbered;
use crate::support::kafka::{self, unique};
use crate::support::wait::{DEADLINE, wait_for};

/// Rights to call these functions and all that read.
fn allow(functions: &[&str]) -> String {
    let reading = [
        "listTopics",
        "fetchTopicMetadata",
        "fetchTopicOffsets",
        "fetchOffsets",
        "describeConfigs",
        "listGroups",
        "describeGroups",
    ];
    let names = [&reading[..], functions].concat();
    format!("[kafka.admin]\nallow = {names:?}\n")
}

#[test]
fn create_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        &allow(&["createTopics"]),
        1,
        r#"
        local one, two = out .. ".one", out .. ".two"
        local function create(options) return admin.createTopics(options) end
        -- Nothing is created by a check.
        note(create{ topics = { { topic = one } }, validateOnly = true })
        note(create{ topics = { { topic = one, numPartitions = 3,
          configEntries = { { name = "retention.ms", value = "86400000" } } } } })
        -- The leaders are there: a record finds its partition at once.
        note(tide.kafka.send{ topic = one, value = "v", partition = 2, timeout = "10s" }.offset)
        -- One is there already, the other is created.
        note(create{ topics = { { topic = one }, { topic = two, replicaAssignment = { { partition = 0, replicas = { 1 } } } } } })
        note(#admin.fetchTopicMetadata{ topics = { one } }.topics[1].partitions)
        note(#admin.fetchTopicMetadata{ topics = { two } }.topics[1].partitions)
        note(admin.describeConfigs{ resources = { { type = "topic", name = one, configNames = { "retention.ms" } } } }
          .resources[1].configEntries[1].configValue)
        local ok, err = pcall(create, { topics = { { topic = out .. ".bad", configEntries = { { name = "no.such", value = "1" } } },
          { topic = out .. ".three" } } })
        assert(not ok and tide.error.is(err, "invalid"), tostring(err))
        note(#err.results .. " " .. tostring(err.results[1].kind) .. " " .. tostring(err.results[2].kind))
        note(err.message)
        ok, err = pcall(create, { topics = { { topic = out .. ".many", replicationFactor = 99 } } })
        note(err.kind)
        ok, err = pcall(admin.deleteTopics, { topics = { one } })
        note(err.kind .. " " .. err.message)
        "#,
    );
    let found = &noted.notes;
    let expected = [
        "true",
        "true",
        "0",
        "false",
        "3",
        "1",
        "86400000",
        "2 invalid nil",
    ];
    assert_eq!(found[..8], expected, "{found:?}");
    assert!(
        found[8].contains(&format!("topic `{}.bad`", noted.out)),
        "{}",
        found[8]
    );
    assert_eq!(found[9], "invalid");
    assert!(found[10].starts_with("refused "), "{}", found[10]);
    assert!(
        found[10].contains("\"createTopics\", \"deleteTopics\"]"),
        "{}",
        found[10]
    );
    let three = format!("{}.three", noted.out);
    wait_for("the good one is created", DEADLINE, || {
        kafka.partitions(&three) == Some(1)
    });
    noted.daemon.stop();
}

#[test]
fn create_partitions() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        &allow(&["createPartitions"]),
        1,
        r#"
        local function grow(topic, count, more)
          return pcall(admin.createPartitions, { topicPartitions = { { topic = topic, count = count } }, validateOnly = more })
        end
        note(grow(out, 5, true))
        note(grow(out, 3))
        local ok, err = grow(out, 2)
        note(err.kind)
        ok, err = grow(out .. ".missing", 2)
        note(err.kind)
        "#,
    );
    assert_eq!(noted.notes, ["true", "true", "invalid", "notFound"]);
    wait_for("the partitions are there", DEADLINE, || {
        kafka.partitions(&noted.out) == Some(3)
    });
    noted.daemon.stop();
}

#[test]
fn delete_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let doomed = kafka.topic("doomed", 2).name;
    let body = r#"
        admin.deleteTopics{ topics = { "@DOOMED@" } }
        local ok, err = pcall(admin.deleteTopics, { topics = { "@DOOMED@.missing" } })
        note(err.kind .. " " .. err.results[1].name)
        "#;
    let noted = noted(
        kafka,
        &allow(&["deleteTopics"]),
        1,
        &body.replace("@DOOMED@", &doomed),
    );
    assert_eq!(noted.notes, [format!("notFound {doomed}.missing")]);
    wait_for("the topic is gone", DEADLINE, || {
        kafka.partitions(&doomed).is_none()
    });
    noted.daemon.stop();
}

#[test]
fn delete_topic_records() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        &allow(&["deleteTopicRecords"]),
        2,
        r#"
        for partition = 0, 1 do
          for _ = 1, 4 do tide.kafka.send{ topic = out, value = "v", partition = partition } end
        end
        admin.deleteTopicRecords{ topic = out, partitions = { { partition = 0, offset = 3 }, { partition = 1, offset = -1 } } }
        local ok, err = pcall(admin.deleteTopicRecords, { topic = out, partitions = { { partition = 0, offset = 99 } } })
        note(err.kind .. " " .. err.results[1].name)
        "#,
    );
    assert_eq!(noted.notes, [format!("invalid {}[0]", noted.out)]);
    let topic = kafka.existing_topic(&noted.out);
    assert_eq!((topic.watermarks(0), topic.watermarks(1)), ((3, 4), (4, 4)));
    noted.daemon.stop();
}

#[test]
fn set_offsets_and_reset_offsets() {
    let Some(kafka) = kafka::shared() else { return };
    let (group, topic) = (unique("moved"), kafka.topic("moved", 2));
    topic.produce(numbered(0..4, 0));
    let body = r#"
        local group, topic = "@GROUP@", "@TOPIC@"
        local function offsets()
          local found = admin.fetchOffsets{ groupId = group, topics = { topic } }[1].partitions
          note(found[1].offset .. " " .. found[2].offset)
        end
        admin.setOffsets{ groupId = group, topic = topic, partitions = { { partition = 0, offset = 2 } } }
        offsets()
        admin.setOffsets{ groupId = group, topic = topic,
          partitions = { { partition = 0, offset = "end" }, { partition = 1, offset = -2 } } }
        offsets()
        admin.resetOffsets{ groupId = group, topic = topic, earliest = true }
        offsets()
        admin.resetOffsets{ groupId = group, topic = topic }
        offsets()
        local ok, err = pcall(admin.setOffsets,
          { groupId = group, topic = topic, partitions = { { partition = 9, offset = 0 } } })
        note(err.kind)
        ok, err = pcall(admin.resetOffsets, { groupId = group, topic = topic .. ".missing" })
        note(err.kind)
        "#;
    let body = body.replace("@GROUP@", &group);
    let noted = noted(
        kafka,
        &allow(&["setOffsets", "resetOffsets"]),
        1,
        &body.replace("@TOPIC@", &topic.name),
    );
    let expected = ["2 -1", "4 0", "0 0", "4 0", "notFound", "notFound"];
    assert_eq!(noted.notes, expected);
    assert_eq!(kafka.committed(&group, &topic.name, 0), Some(4));
    noted.daemon.stop();
}

/// The group of another daemon, which is running.
#[test]
fn set_offsets_of_a_group_with_members_is_a_conflict() {
    let Some(kafka) = kafka::shared() else { return };
    let other = noted(kafka, "", 1, "");
    let body = r#"
        local ok, err = pcall(admin.setOffsets,
          { groupId = "@GROUP@", topic = "@TOPIC@", partitions = { { partition = 0, offset = 0 } } })
        note(err.kind .. " " .. tostring(err.message:find("the group has members", 1, true) ~= nil))
        ok, err = pcall(admin.deleteGroups, { "@GROUP@" })
        note(err.kind .. " " .. err.results[1].name)
        "#;
    let body = body.replace("@GROUP@", &other.project.group);
    let noted = noted(
        kafka,
        &allow(&["setOffsets", "deleteGroups"]),
        1,
        &body.replace("@TOPIC@", &other.source),
    );
    let expected = [
        "conflict true",
        &format!("conflict {}", other.project.group),
    ];
    assert_eq!(noted.notes, expected);
    noted.daemon.stop();
    other.daemon.stop();
}

#[test]
fn alter_configs() {
    let Some(kafka) = kafka::shared() else { return };
    let noted = noted(
        kafka,
        &allow(&["alterConfigs"]),
        1,
        r#"
        local function set(name, value, validateOnly)
          return admin.alterConfigs{ validateOnly = validateOnly, resources = { { type = "topic", name = out,
            configEntries = { { name = name, value = value } } } } }
        end
        -- A broker hears of a change from the controller, after its answer.
        local function show(holds)
          local found
          repeat
            tide.sleep(20)
            found = admin.describeConfigs{ resources = { { type = "topic", name = out,
              configNames = { "retention.ms", "max.message.bytes" } } } }.resources[1].configEntries
          until holds(found[1].configValue, found[2].configValue)
          note(found[1].configValue .. " " .. found[2].configValue .. " " .. tostring(found[2].isDefault))
        end
        assert(set("max.message.bytes", "5000").resources[1].resourceName == out)
        set("retention.ms", "1000", true)
        set("retention.ms", "2000")
        show(function(bytes, ms) return bytes == "5000" and ms == "2000" end)
        set("max.message.bytes", tide.null)
        show(function(bytes, ms) return bytes ~= "5000" end)
        local ok, err = pcall(set, "retention.ms", "never")
        note(err.kind .. " " .. err.results[1].name)
        "#,
    );
    assert_eq!(noted.notes[0], "5000 2000 false");
    // What is not named stays.
    assert!(noted.notes[1].ends_with(" 2000 false"), "{:?}", noted.notes);
    assert!(!noted.notes[1].starts_with("5000 "), "{:?}", noted.notes);
    assert_eq!(noted.notes[2], format!("invalid topic {}", noted.out));
    noted.daemon.stop();
}

#[test]
fn delete_groups() {
    let Some(kafka) = kafka::shared() else { return };
    let (group, topic) = (unique("doomed"), kafka.topic("of-doomed", 1));
    kafka.commit(&group, &topic.name, 0, 0);
    let body = r#"
        local deleted = admin.deleteGroups({ "@GROUP@" })
        note(deleted[1].groupId == "@GROUP@" and deleted[1].errorCode)
        local ok, err = pcall(admin.deleteGroups, { "@GROUP@" })
        note(err.kind)
        "#;
    let noted = noted(
        kafka,
        &allow(&["deleteGroups"]),
        1,
        &body.replace("@GROUP@", &group),
    );
    assert_eq!(noted.notes, ["0", "notFound"]);
    assert_eq!(kafka.committed(&group, &topic.name, 0), None);
    noted.daemon.stop();
}
