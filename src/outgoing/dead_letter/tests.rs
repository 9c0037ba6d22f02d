//! Letters of each style, as data in and data out.

use std::time::Duration;

use proptest::prelude::*;

use crate::config::{OnRefusal, TooLarge};
use crate::message::{Header, OwnedRecord};
use crate::outgoing::dead_letter::*;

const STYLES: [HeaderStyle; 4] = [
    HeaderStyle::Moontide,
    HeaderStyle::Spring,
    HeaderStyle::Connect,
    HeaderStyle::Kafka,
];

fn policy(header_style: HeaderStyle) -> DeadLetter {
    DeadLetter {
        topic: "{topic}.dead".to_owned(),
        header_style,
        create_topic: false,
        too_large: TooLarge::Block,
        refused: OnRefusal::Block,
        per_minute_max: 600,
    }
}

fn facts() -> FailedMessage<'static> {
    FailedMessage {
        topic: "orders",
        partition: 7,
        group: "billing",
        listener: "bills",
        attempts: 5,
        first_failure_ms: 1_700_000_000_001,
        last_failure_ms: 1_700_000_009_002,
        error: "orders.lua:3: no price",
        traceback: Some("stack traceback:\n\torders.lua:3"),
        bundle: 42,
    }
}

fn header(name: &str, value: &[u8]) -> Header {
    (name.into(), Some(value.into()))
}

fn message(headers: &[Header]) -> OwnedRecord {
    OwnedRecord {
        offset: 1234,
        timestamp_ms: 1_600_000_000_000,
        key: Some(b"k".as_slice().into()),
        value: Some(b"v".as_slice().into()),
        headers: headers
            .iter()
            .map(|(name, value)| (name.as_slice().into(), value.as_deref().map(Into::into)))
            .collect(),
    }
}

/// The message that a letter is when it is read from its topic.
fn read_back(letter: &Outgoing, offset: i64) -> OwnedRecord {
    OwnedRecord {
        offset,
        timestamp_ms: letter.timestamp_ms.unwrap_or(-1),
        ..message(&letter.headers)
    }
}

fn all<'a>(letter: &'a Outgoing, name: &str) -> Vec<&'a [u8]> {
    letter
        .headers
        .iter()
        .filter(|(other, _)| other == name.as_bytes())
        .map(|(_, value)| value.as_deref().unwrap())
        .collect()
}

#[track_caller]
fn check(letter: &Outgoing, name: &str, expected: &[u8]) {
    assert_eq!(all(letter, name), [expected], "{name}");
}

#[test]
fn moontides_headers_are_text() {
    let letter = record(&policy(HeaderStyle::Moontide), &message(&[]), &facts());
    assert_eq!(&*letter.topic, "orders.dead");
    assert_eq!(letter.partition, Some(7));
    assert_eq!(letter.key.as_deref(), Some(&b"k"[..]));
    assert_eq!(letter.value.as_deref(), Some(&b"v"[..]));
    assert_eq!(letter.timestamp_ms, Some(1_600_000_000_000));
    let expected = [
        ("moontide-origin-topic", "orders"),
        ("moontide-origin-partition", "7"),
        ("moontide-origin-offset", "1234"),
        ("moontide-origin-timestamp", "1600000000000"),
        ("moontide-group", "billing"),
        ("moontide-listener", "bills"),
        ("moontide-attempts", "5"),
        ("moontide-first-failure", "1700000000001"),
        ("moontide-last-failure", "1700000009002"),
        ("moontide-bundle", "42"),
        ("moontide-error", "orders.lua:3: no price"),
        ("moontide-traceback", "stack traceback:\n\torders.lua:3"),
    ];
    let expected = expected.map(|(name, value)| header(name, value.as_bytes()));
    assert_eq!(letter.headers, expected);
}

#[test]
fn springs_numbers_are_big_endian_as_spring_writes_them() {
    let letter = record(&policy(HeaderStyle::Spring), &message(&[]), &facts());
    check(&letter, "kafka_dlt-original-topic", b"orders");
    check(&letter, "kafka_dlt-original-partition", &[0, 0, 0, 7]);
    check(
        &letter,
        "kafka_dlt-original-offset",
        &[0, 0, 0, 0, 0, 0, 4, 0xd2],
    );
    check(
        &letter,
        "kafka_dlt-original-timestamp",
        &1_600_000_000_000_i64.to_be_bytes(),
    );
    check(&letter, "kafka_dlt-original-consumer-group", b"billing");
    check(
        &letter,
        "kafka_dlt-exception-message",
        b"orders.lua:3: no price",
    );
    check(
        &letter,
        "kafka_dlt-exception-stacktrace",
        b"stack traceback:\n\torders.lua:3",
    );
    check(&letter, "moontide-attempts", b"5");
    assert!(all(&letter, "moontide-origin-topic").is_empty());
}

#[test]
fn connects_numbers_are_text() {
    let letter = record(&policy(HeaderStyle::Connect), &message(&[]), &facts());
    check(&letter, "__connect.errors.topic", b"orders");
    check(&letter, "__connect.errors.partition", b"7");
    check(&letter, "__connect.errors.offset", b"1234");
    check(&letter, "__connect.errors.connector.name", b"bills");
    check(
        &letter,
        "__connect.errors.exception.message",
        b"orders.lua:3: no price",
    );
    check(&letter, "moontide-group", b"billing");
}

/// As `ShareGroupDLQStateManager` of Apache Kafka 4.4 writes them.
#[test]
fn kafkas_headers_are_text_and_have_the_names_of_share_groups() {
    let letter = record(&policy(HeaderStyle::Kafka), &message(&[]), &facts());
    let expected = [
        ("__dlq.errors.topic", "orders"),
        ("__dlq.errors.partition", "7"),
        ("__dlq.errors.offset", "1234"),
        ("moontide-origin-timestamp", "1600000000000"),
        ("__dlq.errors.group", "billing"),
        ("moontide-listener", "bills"),
        ("moontide-attempts", "5"),
        ("moontide-first-failure", "1700000000001"),
        ("moontide-last-failure", "1700000009002"),
        ("moontide-bundle", "42"),
        ("__dlq.errors.delivery.count", "5"),
        ("__dlq.errors.message", "orders.lua:3: no price"),
        ("moontide-traceback", "stack traceback:\n\torders.lua:3"),
    ];
    let expected = expected.map(|(name, value)| header(name, value.as_bytes()));
    assert_eq!(letter.headers, expected);
}

#[test]
fn a_letter_that_fails_again_keeps_its_first_origin_in_every_pair_of_styles() {
    for first in STYLES {
        for second in STYLES {
            let letter = record(&policy(first), &message(&[]), &facts());
            let again = FailedMessage {
                topic: "orders.dead",
                partition: 1,
                attempts: 9,
                error: "worse",
                ..facts()
            };
            let letter = record(&policy(second), &read_back(&letter, 3), &again);
            assert_eq!(&*letter.topic, "orders.dead.dead");
            assert_eq!(letter.partition, Some(1));
            let expected = Origin {
                topic: b"orders".into(),
                partition: 7,
                offset: 1234,
                timestamp_ms: Some(1_600_000_000_000),
            };
            assert_eq!(
                origin(&read_back(&letter, 0)),
                Some(expected),
                "{first:?} {second:?}"
            );
            check(&letter, "moontide-attempts", b"9");
            check(&letter, names(second).error, b"worse");
        }
    }
}

#[test]
fn the_letter_of_a_share_group_tells_its_origin() {
    let letter = [
        header("__dlq.errors.topic", b"rides"),
        header("__dlq.errors.partition", b"2"),
        header("__dlq.errors.offset", b"99"),
        header("__dlq.errors.group", b"taxis"),
        header("__dlq.errors.delivery.count", b"5"),
    ];
    let style = policy(HeaderStyle::Spring);
    let again = record(&style, &message(&letter), &facts());
    assert_eq!(again.headers[..5], letter, "they stay");
    check(&again, "kafka_dlt-original-topic", b"rides");
    check(&again, "kafka_dlt-original-partition", &[0, 0, 0, 2]);
    let own = record(&policy(HeaderStyle::Kafka), &message(&letter), &facts());
    check(&own, "__dlq.errors.topic", b"rides");
    check(&own, "__dlq.errors.offset", b"99");
    check(&own, "__dlq.errors.group", b"billing");
}

#[test]
fn what_other_tools_wrote_stays_and_tells_the_origin() {
    let foreign = [
        header("a", b"1"),
        header("__connect.errors.topic", b"sink"),
        header("__connect.errors.partition", b"2"),
        header("__connect.errors.offset", b"99"),
        header("__connect.errors.exception.message", b"from connect"),
    ];
    let letter = record(&policy(HeaderStyle::Moontide), &message(&foreign), &facts());
    assert_eq!(letter.headers[..5], foreign);
    check(&letter, "moontide-origin-topic", b"sink");
    check(&letter, "moontide-origin-offset", b"99");
    assert!(all(&letter, "moontide-origin-timestamp").is_empty());
}

#[test]
fn half_an_origin_is_none() {
    for bad in [
        vec![header("moontide-origin-topic", b"elsewhere")],
        vec![
            header("moontide-origin-topic", b"elsewhere"),
            header("moontide-origin-partition", b"1"),
            header("moontide-origin-offset", b"many"),
        ],
        vec![
            header("kafka_dlt-original-topic", b"elsewhere"),
            header("kafka_dlt-original-partition", b"1"),
            header("kafka_dlt-original-offset", b"1"),
        ],
    ] {
        let letter = record(&policy(HeaderStyle::Moontide), &message(&bad), &facts());
        check(&letter, "moontide-origin-topic", b"orders");
        check(&letter, "moontide-origin-offset", b"1234");
    }
}

#[test]
fn a_letter_shrinks_by_its_traceback_then_by_its_error() {
    for style in STYLES {
        let policy = policy(style);
        let mut letter = record(&policy, &message(&[header("a", b"1")]), &facts());
        let whole = letter.headers.len();
        assert!(shrink(&policy, &mut letter));
        assert!(all(&letter, names(style).traceback).is_empty());
        check(&letter, names(style).error, b"orders.lua:3: no price");
        assert!(shrink(&policy, &mut letter));
        assert_eq!(letter.headers.len(), whole - 2);
        assert!(!shrink(&policy, &mut letter));
        without_value(&mut letter);
        assert_eq!(letter.value.as_deref(), Some(&b""[..]));
        check(&letter, "moontide-value-dropped", b"1");
        check(&letter, "a", b"1");
    }
}

#[test]
fn long_texts_are_cut_between_characters() {
    let error = "é".repeat(ERROR_MAX);
    let facts = FailedMessage {
        error: &error,
        ..facts()
    };
    let letter = record(&policy(HeaderStyle::Moontide), &message(&[]), &facts);
    let found = all(&letter, "moontide-error")[0];
    assert!(found.len() <= ERROR_MAX && found.len() > ERROR_MAX - 8);
    assert!(std::str::from_utf8(found).unwrap().ends_with("é…"));
}

#[test]
fn a_letter_from_a_retry_topic_tells_where_the_message_was_before() {
    let waiting = retry_topic::record(
        &message(&[header("a", b"1")]),
        &facts(),
        Duration::from_secs(60),
    );
    let facts = FailedMessage {
        topic: "orders.billing.retry.1m",
        partition: 0,
        ..facts()
    };
    let source = read_back(&waiting, 5);
    let letter = record(&policy(HeaderStyle::Moontide), &source, &facts);
    assert_eq!(&*letter.topic, "orders.dead");
    assert_eq!(letter.partition, Some(7));
    assert_eq!(letter.timestamp_ms, Some(1_600_000_000_000));
    check(&letter, "moontide-origin-topic", b"orders");
    check(&letter, "moontide-origin-offset", b"1234");
    assert_eq!(letter.headers[0], header("a", b"1"));
    let is_left = |(name, _): &Header| retry_topic::is_own_header(name);
    assert!(!letter.headers.iter().any(is_left));
}

fn a_name() -> impl Strategy<Value = Vec<u8>> {
    let own = [
        MOONTIDE.topic,
        SPRING.offset,
        CONNECT.partition,
        "__connect.errors.connector.name",
        "__dlq.errors.delivery.count",
        ATTEMPTS,
        "moontide-retry-due",
    ];
    prop_oneof![
        3 => prop::collection::vec(any::<u8>(), 0..6),
        1 => prop::sample::select(own.to_vec()).prop_map(|name| name.as_bytes().to_vec()),
    ]
}

fn any_headers() -> impl Strategy<Value = Vec<Header>> {
    let value = prop::option::of(prop::collection::vec(any::<u8>(), 0..9));
    prop::collection::vec((a_name(), value), 0..12)
}

fn a_style() -> impl Strategy<Value = HeaderStyle> {
    prop::sample::select(STYLES.to_vec())
}

proptest! {
    #[test]
    fn foreign_headers_stay_byte_for_byte_in_their_order(headers in any_headers(), style in a_style()) {
        let letter = record(&policy(style), &message(&headers), &facts());
        let foreign: Vec<_> = headers.iter().filter(|(name, _)| !is_replaced(style, name)).collect();
        let found: Vec<_> = letter.headers.iter().take(foreign.len()).collect();
        prop_assert_eq!(found, foreign.clone());
        for (name, _) in &letter.headers[foreign.len()..] {
            let count = letter.headers.iter().filter(|(other, _)| other == name).count();
            prop_assert_eq!(count, 1, "{}", String::from_utf8_lossy(name));
        }
    }

    #[test]
    fn what_is_written_is_read_back(
        headers in prop::collection::vec((prop::collection::vec(any::<u8>(), 0..6), Just(None)), 0..5),
        style in a_style(),
        partition in 0..i32::MAX,
        offset in 0..i64::MAX,
        timestamp_ms in -1..i64::MAX,
    ) {
        let source = OwnedRecord { offset, timestamp_ms, ..message(&headers) };
        let letter = record(&policy(style), &source, &FailedMessage { partition, ..facts() });
        let expected = Origin {
            topic: b"orders".into(),
            partition,
            offset,
            timestamp_ms: Some(timestamp_ms),
        };
        prop_assert_eq!(origin(&read_back(&letter, 0)), Some(expected));
    }

    #[test]
    fn again_and_again_makes_no_letter_longer(headers in any_headers(), style in a_style()) {
        let once = record(&policy(style), &message(&headers), &facts());
        let twice = record(&policy(style), &read_back(&once, 1), &facts());
        let thrice = record(&policy(style), &read_back(&twice, 2), &facts());
        prop_assert_eq!(&twice.headers, &once.headers);
        prop_assert_eq!(&thrice.headers, &once.headers);
    }
}
