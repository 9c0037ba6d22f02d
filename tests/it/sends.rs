//! `tide.kafka.send`: records that handlers send, read back from the broker, and what becomes of those that fail.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::project::{Project, from_beginning};
use crate::support::records::Record;
use crate::support::wait::DEADLINE;

mod away; // brokers that are away or frozen, calls that are given up, a stop
mod limits; // the questions for the limits of topics
mod live; // reloads, named producers, metrics, status and `check`
mod options; // each option of kafkajs' producer, and of a send

/// A handler whose function `send` gets the topic of the test as `out`.
pub(crate) fn sender(project: &Project, out: &str, body: &str) {
    let lua = format!(
        "local record, tide = require \"record\", require \"tide\"\nlocal out = \"{out}\"\n\
         return function(message, ctx)\n{body}\nend\n"
    );
    project.handler("sender.lua", &lua);
}

/// A project whose listener `sender` handles the messages of a topic by `body`, which sends to the other one.
pub(crate) fn sending(
    kafka: &Kafka,
    listener: &str,
    sections: &str,
    partitions: usize,
    body: &str,
) -> (Project, String, String) {
    let (source, out) = (unique("source"), unique("out"));
    let source = kafka.topic_named(source, 1).name;
    let out = kafka.topic_named(out, partitions).name;
    let project = Project::new(kafka).sections(sections);
    sender(&project, &out, body);
    project.config(&(from_beginning("sender", &source, "sender") + listener));
    (project, source, out)
}

pub(crate) fn values(records: &[Record]) -> Vec<String> {
    let text = |record: &Record| {
        let value = record.value.clone().unwrap_or_default();
        String::from_utf8_lossy(&value).into_owned()
    };
    records.iter().map(text).collect()
}

/// kafkajs' `send`: a handler enriches a message and forwards it; the message is done when the record is acknowledged.
#[test]
fn send_forwards_an_enriched_message_and_returns_its_place() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "",
        "",
        1,
        r#"
        local place = tide.kafka.send{
          topic = out, value = message.value .. "!", key = message.key, headers = message.headers,
          timestamp = message.timestamp,
        }
        assert(place.topic == out and place.partition == 0 and place.timestamp == message.timestamp)
        record.line("done", message, ctx, place.offset)
        "#,
    );
    let messages = ["a", "b"].map(|value| {
        let one = Message::value(value).key([0xff, 0]).partition(0);
        let one = one.header("trace", Some(b"1"));
        one.header("many", Some(b"x")).header("many", Some(b"y"))
    });
    kafka.existing_topic(&source).produce(messages);
    let daemon = Daemon::start(&project);

    let done = project.wait_for_entries("done", 2, DEADLINE);
    assert_eq!((done[0].extra.as_str(), done[1].extra.as_str()), ("0", "1"));
    let records = kafka.read(&out, 1, 2);
    assert_eq!(values(&records), ["a!", "b!"]);
    for record in &records {
        assert_eq!(record.key.as_deref(), Some(&[0xff, 0][..]));
        let header = |name: &str, value: &[u8]| (name.as_bytes().to_vec(), Some(value.to_vec()));
        let expected = [
            header("many", b"x"),
            header("many", b"y"),
            header("trace", b"1"),
        ];
        assert_eq!(record.headers, expected);
    }
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &source, 0), Some(2));
}

/// A list of messages, a tombstone, a record for a partition, and one with a null header.
#[test]
fn send_of_messages_keeps_order_tombstones_and_partitions() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, out) = sending(
        kafka,
        "",
        "",
        3,
        r#"
        local places = tide.kafka.send{ topic = out, messages = {
          { value = "first", partition = 2 },
          { value = tide.null, key = "k", partition = 2, headers = { none = tide.null } },
          { value = "", partition = 1 },
        } }
        local text = {}
        for index, place in ipairs(places) do text[index] = place.partition .. ":" .. place.offset end
        record.line("done", message, ctx, table.concat(text, " "))
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let _daemon = Daemon::start(&project);

    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "2:0 2:1 1:0");
    let records = kafka.read(&out, 3, 3);
    let empty = records.iter().find(|one| one.partition == 1).unwrap();
    assert_eq!(empty.value.as_deref(), Some(&b""[..]));
    let tombstone = records.iter().find(|one| one.offset == 1).unwrap();
    assert_eq!(
        (tombstone.value.as_ref(), tombstone.key.as_deref()),
        (None, Some(&b"k"[..]))
    );
    assert_eq!(tombstone.headers, [(b"none".to_vec(), None)]);
}

/// kafkajs' `sendBatch`: several topics in one call, by a named producer.
#[test]
fn send_batch_sends_to_several_topics() {
    let Some(kafka) = kafka::shared() else { return };
    let other = kafka.topic("other", 1);
    let body = r#"
        local audit = tide.kafka.producer("audit")
        local places = audit.sendBatch{ topicMessages = {
          { topic = out, messages = { { value = "a" }, { value = "b" } } },
          { topic = "@OTHER@", messages = { { value = "c" } } },
        } }
        record.line("done", message, ctx, #places .. places[2].topic .. places[3].topic .. places[3].offset)
        "#
    .replace("@OTHER@", &other.name);
    let sections = "[producers.audit]\nclientId = \"audit\"\n";
    let (project, source, out) = sending(kafka, "", sections, 1, &body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let _daemon = Daemon::start(&project);

    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, format!("3{out}{}0", other.name));
    assert_eq!(values(&kafka.read(&out, 1, 2)), ["a", "b"]);
    assert_eq!(values(&kafka.read(&other.name, 1, 1)), ["c"]);
}

/// Java's murmur2, as in Kafka's own tests of it: keys go where other clients put them.
#[test]
fn keys_are_mapped_to_partitions_as_by_javas_clients() {
    let Some(kafka) = kafka::shared() else { return };
    let (project, source, _) = sending(
        kafka,
        "",
        "",
        12,
        r#"
        local keys = { "21", "foobar", "a-little-bit-long-string" }
        local found = tide.parallel(keys, function(key)
          return tide.kafka.send{ topic = out, key = key, value = key }.partition
        end)
        record.line("done", message, ctx, table.concat(found, " "))
        "#,
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let _daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    let expected = [-973_932_308_i32, -790_332_482, -985_981_536];
    let expected = expected.map(|hash| ((hash & 0x7fff_ffff) % 12).to_string());
    assert_eq!(done[0].extra, expected.join(" "));
}

/// librdkafka's batches are larger than some topics accept, and a broker refuses a whole batch: no small record may be
/// lost to that.
#[test]
fn a_topic_with_a_small_max_message_bytes_gets_every_small_record() {
    let Some(kafka) = kafka::shared() else { return };
    let settings = [("max.message.bytes", "100000")];
    let small = kafka.topic_with(unique("small"), 1, &settings);
    let (project, source, _) = sending(
        kafka,
        "",
        "",
        1,
        &r#"
        -- The client is there with its usual batches before it meets the topic.
        tide.kafka.send{ topic = out, value = "before" }
        local messages = {}
        for index = 1, 5000 do messages[index] = { value = ("x"):rep(200) } end
        local places = tide.kafka.send{ topic = "@SMALL@", messages = messages }
        assert(#places == 5000)
        -- One that is too large alone is the only one that fails.
        messages = { { value = "before" }, { value = ("x"):rep(150000) }, { value = "after" } }
        for index = 4, 300 do messages[index] = { value = ("x"):rep(200) } end
        local ok, err = pcall(tide.kafka.send, { topic = "@SMALL@", messages = messages })
        assert(not ok and tide.error.is(err, "tooLarge"), tostring(err))
        local written = 0
        for index, result in ipairs(err.results) do
          assert((index == 2) == (result.kind == "tooLarge"), index)
          if result.offset then written = written + 1 end
        end
        assert(#err.results == 300 and written == 299)
        tide.kafka.send{ topic = out, value = "goes on" }
        record.line("done", message, ctx)
        "#
        .replace("@SMALL@", &small.name),
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(small.watermarks(0), (0, 5299));
    daemon.stop();
}

/// Each error has the kind that a handler can decide by.
#[test]
fn a_missing_topic_or_partition_is_not_found_and_is_not_made() {
    let Some(kafka) = kafka::shared() else { return };
    let missing = unique("missing");
    let (project, source, _) = sending(
        kafka,
        "",
        "",
        1,
        &r#"
        local function kind(options)
          local ok, err = pcall(function() return tide.kafka.send(options) end)
          assert(not ok and tostring(err):find("sender.lua:", 1, true), tostring(err))
          return err.kind
        end
        local missing = kind{ topic = "@MISSING@", value = "v" }
        local partition = kind{ topic = out, value = "v", partition = 99 }
        local early = kind{ topic = out, value = "v", timestamp = 95617584000000 }
        record.line("done", message, ctx, missing .. " " .. partition .. " " .. early)
        "#
        .replace("@MISSING@", &missing),
    );
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let _daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    assert_eq!(done[0].extra, "notFound notFound invalid");
    assert_eq!(kafka.partitions(&missing), None);
}
