//! The options of kafkajs' producer and of its `send`, by their names.

use crate::sends::{sending, values};
use crate::support::client::numbered;
use crate::support::daemon::Daemon;
use crate::support::kafka::{self, Kafka, unique};
use crate::support::wait::DEADLINE;

/// Runs `body` for one message, with these sections; what it recorded, and the values that it sent.
#[track_caller]
fn recorded(sections: &str, body: &str) -> Option<(String, Vec<String>)> {
    Some(recorded_by(kafka::shared()?, sections, body))
}

#[track_caller]
fn recorded_by(kafka: &Kafka, sections: &str, body: &str) -> (String, Vec<String>) {
    let (project, source, out) = sending(kafka, "", sections, 1, body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    let done = project.wait_for_entries("done", 1, DEADLINE);
    daemon.stop();
    let (low, high) = kafka.existing_topic(&out).watermarks(0);
    let records = kafka.read(&out, 1, (high - low) as usize);
    (done[0].extra.clone(), values(&records))
}

/// `acks` and `compression` of a send: each pair has a client of its own; without acknowledgement there is no offset.
#[test]
fn acks_and_compression_of_a_send() {
    let body = r#"
        local offsets = {}
        for _, compression in ipairs{ "none", "gzip", "snappy", "lz4", "zstd" } do
          local place = tide.kafka.send{ topic = out, value = ("x"):rep(1000) .. compression, compression = compression }
          offsets[#offsets + 1] = place.offset
        end
        offsets[#offsets + 1] = tide.kafka.send{ topic = out, value = "leader", acks = 1 }.offset
        local none = tide.kafka.send{ topic = out, value = "none", acks = 0 }
        assert(none.partition == 0 and none.offset == nil)
        record.line("done", message, ctx, table.concat(offsets, " "))
        "#;
    let Some((offsets, values)) = recorded("", body) else {
        return;
    };
    assert_eq!(offsets, "0 1 2 3 4 5");
    assert_eq!(values.len(), 7);
    assert_eq!(values[5..], ["leader", "none"]);
    assert!(values[4].ends_with("zstd") && values[4].len() == 1_004);
}

/// `allowAutoTopicCreation = true`: a record makes its topic, as kafkajs does by default.
#[test]
fn allow_auto_topic_creation() {
    let Some(kafka) = Kafka::start_own_with("auto.create.topics.enable=true\n") else {
        return;
    };
    let topic = unique("made");
    let body = format!(
        "tide.kafka.send{{ topic = \"{topic}\", value = \"v\" }}\nrecord.line(\"done\", message, ctx)"
    );
    recorded_by(
        &kafka,
        "[producerConfig]\nallowAutoTopicCreation = true\n",
        &body,
    );
    assert_eq!(kafka.partitions(&topic), Some(1));
}

/// Every other key reaches librdkafka, and records still arrive.
#[test]
fn the_other_options_are_taken() {
    let sections = "[producerConfig]\nidempotent = true\nacks = -1\ncompression = \"zstd\"\nmaxInFlightRequests = 1\n\
                    metadataMaxAge = \"1m\"\ntimeout = \"20s\"\nbufferMemory = \"4MiB\"\nconnectionTimeout = 2000\n\
                    requestTimeout = \"10s\"\nretry = { initialRetryTime = 200, maxRetryTime = 2000, retries = 5 }\n\
                    librdkafka = { \"batch.num.messages\" = 10, \"socket.nagle.disable\" = true }\n";
    let body = r#"
        local messages = {}
        for index = 1, 25 do messages[index] = { value = tostring(index) } end
        record.line("done", message, ctx, #tide.kafka.send{ topic = out, messages = messages })
        "#;
    let Some((count, values)) = recorded(sections, body) else {
        return;
    };
    assert_eq!((count.as_str(), values.len()), ("25", 25));
    assert_eq!(values[24], "25");
}

/// `acks = 1` in the table: the producer is not idempotent, and the start says so.
#[test]
fn acks_of_the_table_give_up_idempotence_with_a_warning() {
    let Some(kafka) = kafka::shared() else { return };
    let body = "tide.kafka.send{ topic = out, value = \"v\" }\nrecord.line(\"done\", message, ctx)";
    let (project, source, _) = sending(kafka, "", "[producerConfig]\nacks = 1\n", 1, body);
    kafka.existing_topic(&source).produce(numbered(0..1, 0));
    let mut daemon = Daemon::start(&project);
    daemon.wait_line("the warning", |line| {
        line.mentions("producer `default` is not idempotent, because `acks` is 1")
    });
    project.wait_for_entries("done", 1, DEADLINE);
}
