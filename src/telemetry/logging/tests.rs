//! What the layers write, and what is told of lines that are not there.

use std::io::{self, Write};

use super::*;

#[derive(Clone, Default)]
struct Lines(Arc<Mutex<Vec<u8>>>);

impl Lines {
    fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }
}

impl Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Lines {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

fn subscriber(
    layer: Boxed,
) -> (
    reload::Handle<EnvFilter, Registry>,
    impl tracing::Subscriber + Send + Sync,
) {
    let (filter, handle) = reload::Layer::new(EnvFilter::new("info"));
    let limits = kafka::log::Limits::default();
    (
        handle,
        tracing_subscriber::registry()
            .with(filter)
            .with(vec![layer])
            .with(limits),
    )
}

#[test]
fn json_has_one_object_a_line_with_the_fields_beside_the_message() {
    let lines = Lines::default();
    let (_handle, subscriber) = subscriber(json(lines.clone()));
    tracing::subscriber::with_default(subscriber, || {
        log!(
            warn,
            log,
            topic = "orders",
            offset = 42,
            "a message\nfailed"
        );
    });
    let text = lines.text();
    let line: serde_json::Value = serde_json::from_str(text.trim_end()).unwrap();
    assert_eq!(text.lines().count(), 1);
    assert_eq!(line["level"], "WARN");
    assert_eq!(line["target"], "log");
    assert_eq!(line["message"], "a message\nfailed");
    assert_eq!(line["topic"], "orders");
    assert_eq!(line["offset"], 42);
    assert!(line["timestamp"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn somebody_who_reads_finds_values_of_several_lines_below_the_line() {
    let lines = Lines::default();
    let layer = fmt::layer()
        .compact()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .fmt_fields(Fields::Readable)
        .with_writer(lines.clone())
        .boxed();
    let (_handle, subscriber) = subscriber(layer);
    tracing::subscriber::with_default(subscriber, || {
        log!(
            warn,
            log,
            topic = "orders",
            error = "config.toml:3:1: bad\n3 | x\n  | ^",
            traceback = "stack traceback:\n\t[C]: in ?",
            attempt = 2,
            "handler failed"
        );
        log!(info, log, "two\nlines and \x1b[31m");
    });
    let expected = concat!(
        " WARN handler failed topic=\"orders\" attempt=2\n",
        "    error: config.toml:3:1: bad\n",
        "    3 | x\n",
        "      | ^\n",
        "    stack traceback:\n",
        "        [C]: in ?\n",
        " INFO two\n",
        "    lines and \\u{1b}[31m\n",
    );
    assert_eq!(lines.text(), expected);
}

#[test]
fn a_level_can_change_while_the_log_is_in_use() {
    let lines = Lines::default();
    let (handle, subscriber) = subscriber(text(lines.clone()));
    tracing::subscriber::with_default(subscriber, || {
        log!(debug, log, "hidden");
        handle.reload(EnvFilter::new("debug")).unwrap();
        log!(debug, log, "shown");
    });
    assert!(!lines.text().contains("hidden"));
    assert!(lines.text().contains("shown"));
}

#[test]
fn librdkafka_says_a_thing_ten_times_and_then_counts() {
    let lines = Lines::default();
    let (_handle, subscriber) = subscriber(json(lines.clone()));
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..100 {
            kafka::log::line(3, "REQTMOUT", "rdkafka#consumer-1", "connection refused");
            kafka::log::line(7, "FETCH", "rdkafka#consumer-1", "hidden by the level");
        }
    });
    let shown = lines
        .text()
        .lines()
        .filter(|line| line.contains("connection refused"))
        .count();
    assert_eq!(shown, 10);
    assert!(
        lines.text().contains(
            r#""facility":"REQTMOUT","client":"rdkafka#consumer-1","target":"librdkafka""#
        )
    );
    assert!(!lines.text().contains("hidden"));
}

/// A handler's text may have come out of Kafka.
#[test]
fn no_text_forges_a_line_of_the_log() {
    let lines = Lines::default();
    let (_handle, subscriber) = subscriber(text(lines.clone()));
    let forged = "x\r\n2026-01-01T00:00:00Z ERROR worker: \u{202e}forged\x1b[2J\u{85}";
    tracing::subscriber::with_default(subscriber, || {
        log!(info, handler, "{forged}");
        log!(info, handler, topic = "orders", error = %forged, traceback = forged, "failed");
    });
    let text = lines.text();
    assert_eq!(text.lines().count(), 2, "{text}");
    assert!(
        !text
            .trim_end()
            .replace('\n', "")
            .chars()
            .any(char::is_control)
    );
    assert!(!text.contains('\u{202e}'));
    assert!(
        text.contains(
            "x\\r\\n2026-01-01T00:00:00Z ERROR worker: \\u{202e}forged\\u{1b}[2J\\u{85}\n"
        )
    );
    assert!(text.contains("failed topic=\"orders\" error=x\\r\\n"));
}

#[test]
fn somebody_who_reads_sees_no_line_at_the_margin_that_is_none() {
    let lines = Lines::default();
    let layer = fmt::layer()
        .compact()
        .without_time()
        .with_target(false)
        .with_ansi(false)
        .fmt_fields(Fields::Readable)
        .with_writer(lines.clone())
        .boxed();
    let (_handle, subscriber) = subscriber(layer);
    tracing::subscriber::with_default(subscriber, || {
        log!(info, handler, error = %"a\nERROR forged", "b\n\u{202e}ERROR forged");
    });
    let expected = " INFO b\n    \\u{202e}ERROR forged\n    error: a\n    ERROR forged\n";
    assert_eq!(lines.text(), expected);
}

#[test]
fn librdkafkas_lines_that_are_left_out_are_told_at_the_end_of_the_window() {
    let lines = Lines::default();
    let (_handle, subscriber) = subscriber(json(lines.clone()));
    let before = Instant::now();
    tracing::subscriber::with_default(subscriber, || {
        for _ in 0..100 {
            kafka::log::line(3, "REQTMOUT", "rdkafka#consumer-1", "connection refused");
        }
        let now = Instant::now();
        kafka::log::tell_ended(before + Duration::from_secs(9));
        assert!(!lines.text().contains("left_out"));
        kafka::log::tell_ended(now + Duration::from_secs(10));
        kafka::log::tell_ended(now + Duration::from_secs(20));
    });
    let told = |line: &&str| line.contains(r#""left_out":90"#) && line.contains("WARN");
    assert_eq!(lines.text().lines().filter(told).count(), 1);
}

#[test]
fn dropped_lines_are_told_at_once_and_then_once_a_window() {
    let start = Instant::now();
    let at = |seconds| Some(start + Duration::from_secs(seconds));
    let mut dropped = Dropped::default();
    assert_eq!(dropped.due([0, 0, 0], at(0)), None);
    assert_eq!(dropped.due([1, 0, 0], at(1)), Some([1, 0, 0]));
    assert_eq!(dropped.due([1, 0, 5], at(2)), None);
    assert_eq!(dropped.due([1, 2, 9], at(11)), Some([0, 2, 9]));
    assert_eq!(dropped.due([1, 2, 9], at(31)), None);
    assert_eq!(dropped.due([1, 2, 10], at(32)), Some([0, 0, 1]));
    assert_eq!(dropped.due([1, 2, 11], None), Some([0, 0, 1]), "at the end");
}
