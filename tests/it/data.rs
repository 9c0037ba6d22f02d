//! What can stand in a topic: codecs, sizes, backlogs.

use crate::support::client::{Message, numbered};
use crate::support::daemon::Daemon;
use crate::support::kafka;
use crate::support::project::{Project, RECORDING, from_beginning};
use crate::support::wait::DEADLINE;

/// Every codec that a producer may use, in one partition.
#[test]
fn every_codec_is_read() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("codecs", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    for (index, codec) in ["none", "gzip", "snappy", "lz4", "zstd"]
        .into_iter()
        .enumerate()
    {
        let first = 20 * index as u64;
        topic.produce_with(
            &[("compression.type", codec)],
            numbered(first..first + 20, 0),
        );
    }

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 100, DEADLINE);
    assert_eq!(
        project.values_of("done"),
        (0..100)
            .map(|number: i32| number.to_string())
            .collect::<Vec<_>>()
    );
    daemon.stop();
}

/// Brokers limit the compressed bytes of a batch only. A property can limit the others, and its refusal names it.
#[test]
fn a_zstd_batch_of_more_than_a_hundred_megabytes_is_read() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("inflated", 1);
    let (count, size) = (110, 1_000_000);
    let one_batch = [
        ("compression.type", "zstd"),
        ("linger.ms", "30000"),
        ("batch.num.messages", "110"),
        ("batch.size", "200000000"),
        ("message.max.bytes", "200000000"),
    ];
    topic.produce_with(
        &one_batch,
        (0..count).map(|_| Message::value(vec![0; size]).partition(0)),
    );
    let project = |limit: &str| {
        let project = Project::new(kafka).consumer(limit);
        project.handler("sizes.lua", SIZES);
        project.config(&from_beginning("sizes", &topic.name, "sizes"));
        project
    };

    let limited = project("librdkafka = { \"receive.message.max.bytes\" = 100000000 }");
    let mut daemon = Daemon::start(&limited);
    daemon.wait_line("the error names the property", |line| {
        line.is("kafka error") && line.field("error").contains("receive.message.max.bytes")
    });
    daemon.stop();

    let project = project("");
    let daemon = Daemon::start(&project);
    let entries = project.wait_for_entries("done", count, DEADLINE);
    assert!(entries.iter().all(|one| one.extra == size.to_string()));
    daemon.stop();
}

/// Messages of a megabyte and more, above the fetch size of a partition, arrive whole.
#[test]
fn messages_of_a_megabyte_arrive_whole() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("large", 1);
    let project = Project::new(kafka);
    project.handler("sizes.lua", SIZES);
    project.config(&from_beginning("sizes", &topic.name, "sizes"));
    let sizes = [1, 900_000, 1_048_576, 1_900_000, 0, 17];
    topic.produce(sizes.map(|size| Message::value(vec![b'x'; size]).partition(0)));

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", sizes.len(), DEADLINE);
    let seen: Vec<usize> = entries
        .iter()
        .map(|entry| entry.extra.parse().unwrap())
        .collect();
    assert_eq!(seen, sizes);
    daemon.stop();
}

/// As large as the broker takes, and far above what one fetch may bring: `maxBytesPerPartition` and `maxBytes` bound
/// what is fetched ahead, and never keep a message away.
#[test]
fn the_largest_message_that_the_broker_takes_arrives() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("largest", 1);
    let project =
        Project::new(kafka).consumer("maxBytesPerPartition = \"16KiB\"\nmaxBytes = \"1MiB\"");
    project.handler("sizes.lua", SIZES);
    project.config(&from_beginning("sizes", &topic.name, "sizes"));
    // The limit is that of a batch: of one record, whose frame takes less than a hundred bytes.
    let largest = 2_097_152 - 100;
    let sizes = [10, largest, 20, largest, 30];
    for size in sizes {
        let message = Message::value(vec![b'x'; size]).partition(0);
        topic.produce_with(&[("message.max.bytes", "3000000")], [message]);
    }

    let daemon = Daemon::start(&project);

    let entries = project.wait_for_entries("done", sizes.len(), DEADLINE);
    let seen: Vec<usize> = entries
        .iter()
        .map(|entry| entry.extra.parse().unwrap())
        .collect();
    assert_eq!(seen, sizes);
    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(5));
}

const SIZES: &str = r#"
local record = require "record"
local tide = require "tide"
return function(message, ctx)
  if message.key == "slow" then tide.sleep(25) end
  local small = { topic = message.topic, partition = message.partition, offset = message.offset, value = "" }
  record.line("done", small, ctx, #message.value)
end
"#;

/// Promise 5: a backlog that is larger than the memory it may take is handled in a bounded one.
#[test]
fn a_backlog_does_not_fill_the_memory() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("backlog", 1);
    let project = Project::new(kafka);
    project.handler("sizes.lua", SIZES);
    project.config(&from_beginning("sizes", &topic.name, "sizes"));
    let (count, size) = (300, 900_000);
    topic.produce((0..count).map(|number: usize| {
        // Not to be compressed away.
        let value = (0..size)
            .map(|index| (index * 31 + number) as u8)
            .collect::<Vec<u8>>();
        Message::value(value).key("slow").partition(0)
    }));

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", count, DEADLINE);
    let peak = daemon.peak_memory();
    assert!(
        peak < (count * size) as u64 * 2 / 3,
        "{peak} bytes for a backlog of {}",
        count * size
    );
    daemon.stop();
}

/// A message has the headers that it was sent with, none included, whatever its size and wherever it lies in what was
/// fetched: of those without a value, with an empty one, and at each end of a page of memory.
#[test]
fn a_message_has_its_own_headers_and_no_other() {
    const PER_CODEC: usize = 6000;
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("own-headers", 1);
    let project = Project::new(kafka);
    project.handler("headers.lua", OWN_HEADERS);
    project.config(&from_beginning("headers", &topic.name, "headers"));
    for codec in ["none", "zstd"] {
        let messages = (0..PER_CODEC).map(|number| {
            let wanted = number % 3;
            let value = match number % 50 {
                0 => None,
                1 => Some(Vec::new()),
                // All zeros, as the number of headers behind it is where there are none.
                _ => Some(vec![0; number * 7919 % 700]),
            };
            let mut message = Message {
                value,
                ..Message::default()
            }
            .key(wanted.to_string())
            .partition(0);
            for index in 0..wanted {
                message = message.header(format!("h{index}"), Some(b"x"));
            }
            message
        });
        topic.produce_with(&[("compression.type", codec)], messages);
    }

    let daemon = Daemon::start(&project);

    project.wait_for_entries("done", 1, DEADLINE);
    let entry = &project.entries_of("done")[0];
    assert_eq!(entry.offset, 2 * PER_CODEC as i64 - 1);
    assert_eq!(entry.extra, "0 wrong");
    daemon.stop();
}

const OWN_HEADERS: &str = r#"
local record = require "record"
local count, wrong = 0, 0
return function(message, ctx)
  local found = 0
  for name, value in pairs(message.headers) do
    found = found + 1
    if not name:match("^h[01]$") or value ~= "x" then wrong = wrong + 1 end
  end
  count = count + 1
  if found ~= tonumber(message.key) then wrong = wrong + 1 end
  if count == 12000 then
    local small = { topic = message.topic, partition = message.partition, offset = message.offset, value = "" }
    record.line("done", small, ctx, wrong .. " wrong")
  end
end
"#;

/// A quiet daemon that gets one message handles it at once, not with the next fetch or time-out.
#[test]
fn a_single_message_is_handled_soon() {
    let Some(kafka) = kafka::shared() else { return };
    let topic = kafka.topic("soon", 1);
    let project = Project::new(kafka);
    project.handler("orders.lua", RECORDING);
    project.config(&from_beginning("orders", &topic.name, "orders.handle"));
    topic.produce(numbered(0..1, 0));
    let daemon = Daemon::start(&project);
    project.wait_for_entries("done", 1, DEADLINE);

    for round in 1..=20 {
        topic.produce(numbered(round..round + 1, 0));
        project.wait_for_entries("done", round as usize + 1, DEADLINE);
    }

    daemon.stop();
    assert_eq!(kafka.committed(&project.group, &topic.name, 0), Some(21));
}
