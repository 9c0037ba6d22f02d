//! Lines for journald: every field as a field of its own, and all of them in the message too.
//!
//! `journalctl` shows the message alone, and Moontide's messages are constant sentences: without the values, "a
//! message failed" would not say which. This file sends the records itself, for two reasons. tracing-journald waits
//! for ever for a journal that is stuck, and it does not report records that it could not send
//! (<https://systemd.io/JOURNAL_NATIVE_PROTOCOL/>).

use std::fmt::{self, Write};
use std::io;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tracing::field::{Field, Visit};
use tracing::{Event, Level, Metadata, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

use super::fields::escaped;
use crate::log::{LINE_BYTES_MAX, cut};

/// The socket of journald.
pub(super) const SOCKET: &str = "/run/systemd/journal/socket";
/// How long one record may wait for the journal.
const WAIT_MAX: Duration = Duration::from_secs(1);

/// The connection to the journal. Clones share it.
#[derive(Clone, Debug)]
pub(super) struct Journal(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    journal: PathBuf,
    way: Mutex<Way>,
    dropped: AtomicU64,
}

#[derive(Debug)]
struct Way {
    socket: UnixDatagram,
    /// The journal has not taken the record before: the socket does not wait.
    is_stuck: bool,
}

impl Journal {
    /// Fails when there is no journal.
    pub(super) fn connect(journal: &Path) -> io::Result<Self> {
        let socket = UnixDatagram::unbound()?;
        socket.set_write_timeout(Some(WAIT_MAX))?;
        // journald ignores an empty record.
        socket.send_to(&[], journal)?;
        let way = Way {
            socket,
            is_stuck: false,
        };
        Ok(Self(Arc::new(Shared {
            journal: journal.to_owned(),
            way: Mutex::new(way),
            dropped: AtomicU64::new(0),
        })))
    }

    /// Records that the journal did not take.
    pub(super) fn dropped_lines(&self) -> u64 {
        self.0.dropped.load(Ordering::Relaxed)
    }

    fn send(&self, record: &[u8]) {
        let mut way = self.0.way.lock().unwrap_or_else(PoisonError::into_inner);
        let is_stuck = way.socket.send_to(record, &self.0.journal).is_err();
        if is_stuck {
            self.0.dropped.fetch_add(1, Ordering::Relaxed);
        }
        if is_stuck != way.is_stuck && way.socket.set_nonblocking(is_stuck).is_ok() {
            way.is_stuck = is_stuck;
        }
    }
}

impl<S: Subscriber> Layer<S> for Journal {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        let mut values = Values::default();
        event.record(&mut values);
        self.send(&values.record(event.metadata()));
    }
}

/// The numbers of syslog.
fn priority(level: Level) -> &'static str {
    match level {
        Level::ERROR => "3",
        Level::WARN => "4",
        Level::INFO => "6",
        _ => "7",
    }
}

/// The values of one event, as text.
#[derive(Default)]
struct Values {
    message: String,
    others: Vec<(&'static str, String)>,
}

impl Values {
    fn message(&self) -> String {
        let mut text = self.message.clone();
        for (name, value) in &self.others {
            let written = write!(text, " {name}={value}");
            debug_assert!(written.is_ok(), "writing to a string cannot fail");
        }
        // A traceback has lines of its own, which journalctl indents.
        let lines: Vec<String> = text.split('\n').map(escaped).collect();
        lines.join("\n")
    }

    fn record(&self, metadata: &Metadata<'_>) -> Vec<u8> {
        let mut record = Vec::with_capacity(512);
        put(&mut record, "PRIORITY", priority(*metadata.level()));
        put(&mut record, "TARGET", metadata.target());
        if let Some(file) = metadata.file() {
            put(&mut record, "CODE_FILE", file);
        }
        if let Some(line) = metadata.line() {
            put(&mut record, "CODE_LINE", &line.to_string());
        }
        put(&mut record, "SYSLOG_IDENTIFIER", "moontide");
        put(
            &mut record,
            "MESSAGE",
            &cut(self.message().as_bytes(), LINE_BYTES_MAX),
        );
        let bytes: usize = self.others.iter().map(|(_, value)| value.len()).sum();
        // One datagram has room for both.
        let most = match bytes {
            ..=LINE_BYTES_MAX => bytes,
            _ => LINE_BYTES_MAX / self.others.len(),
        };
        for (name, value) in &self.others {
            put(&mut record, &key(name), &cut(value.as_bytes(), most));
        }
        record
    }

    fn add(&mut self, field: &Field, value: String) {
        if field.name() == "message" {
            // A message of Moontide has one line, and a message of a handler has to look like one.
            self.message = value.replace('\n', "\\n");
        } else if !field.name().starts_with("log.") {
            // Lines of the `log` crate bring their origin as `log.*`.
            self.others.push((field.name(), value));
        }
    }
}

impl Visit for Values {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, value.to_owned());
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format!("{value:?}"));
    }
}

/// `MOONTIDE_TOPIC`. journald accepts letters, digits and underscores.
fn key(name: &str) -> String {
    let one = |character: char| match character {
        'a'..='z' | 'A'..='Z' | '0'..='9' => character.to_ascii_uppercase(),
        _ => '_',
    };
    format!("MOONTIDE_{}", name.chars().map(one).collect::<String>())
}

/// One field: its value may have any bytes.
fn put(record: &mut Vec<u8>, name: &str, value: &str) {
    record.extend_from_slice(name.as_bytes());
    record.push(b'\n');
    record.extend_from_slice(&(value.len() as u64).to_le_bytes());
    record.extend_from_slice(value.as_bytes());
    record.push(b'\n');
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use tracing_subscriber::layer::SubscriberExt;

    use super::*;
    use crate::log::log;

    struct Reader {
        socket: UnixDatagram,
        journal: Journal,
        _folder: tempfile::TempDir,
    }

    impl Reader {
        fn new() -> Self {
            let folder = tempfile::tempdir().unwrap();
            let path = folder.path().join("socket");
            let socket = UnixDatagram::bind(&path).unwrap();
            let journal = Journal::connect(&path).unwrap();
            assert!(Self::read_from(&socket).is_empty(), "the first is empty");
            Self {
                socket,
                journal,
                _folder: folder,
            }
        }

        /// The fields of the next record, by journald's rules.
        fn read(&self) -> HashMap<String, String> {
            Self::read_from(&self.socket)
        }

        fn read_from(socket: &UnixDatagram) -> HashMap<String, String> {
            let mut record = vec![0; 1 << 20];
            let length = socket.recv(&mut record).unwrap();
            let mut rest = &record[..length];
            let mut fields = HashMap::new();
            while !rest.is_empty() {
                let end = rest.iter().position(|byte| *byte == b'\n').unwrap();
                let name = String::from_utf8(rest[..end].to_vec()).unwrap();
                rest = &rest[end + 1..];
                let length = u64::from_le_bytes(rest[..8].try_into().unwrap()) as usize;
                let value = String::from_utf8(rest[8..8 + length].to_vec()).unwrap();
                assert_eq!(rest[8 + length], b'\n');
                rest = &rest[8 + length + 1..];
                fields.insert(name, value);
            }
            fields
        }

        fn with(&self, body: impl FnOnce()) {
            let subscriber = tracing_subscriber::registry().with(self.journal.clone());
            tracing::subscriber::with_default(subscriber, body);
        }
    }

    #[test]
    fn a_record_has_every_field_and_its_message_has_them_too() {
        let reader = Reader::new();
        reader.with(|| {
            log!(warn, log, topic = "orders", partition = 3, error = %"no such thing", "a message failed");
        });
        let record = reader.read();
        for (name, value) in [
            (
                "MESSAGE",
                "a message failed topic=orders partition=3 error=no such thing",
            ),
            ("PRIORITY", "4"),
            ("TARGET", "log"),
            ("SYSLOG_IDENTIFIER", "moontide"),
            ("MOONTIDE_TOPIC", "orders"),
            ("MOONTIDE_PARTITION", "3"),
            ("MOONTIDE_ERROR", "no such thing"),
        ] {
            assert_eq!(record.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(record["CODE_FILE"].ends_with("journal.rs"));
    }

    #[test]
    fn what_a_handler_logs_stays_one_line_and_harmless() {
        let reader = Reader::new();
        reader.with(|| {
            log!(
                info,
                handler,
                traceback = "one\ntwo\x1b[2J",
                "a\nERROR \u{202e}forged"
            );
        });
        let message = &reader.read()["MESSAGE"];
        let expected = "a\\nERROR \\u{202e}forged traceback=one\ntwo\\u{1b}[2J";
        assert_eq!(message, expected);
    }

    #[test]
    fn a_long_record_is_cut_and_sent() {
        let reader = Reader::new();
        let long = "x".repeat(1_000_000);
        reader.with(|| log!(info, handler, error = long, topic = "orders", "{long}"));
        let record = reader.read();
        assert!(record["MESSAGE"].ends_with(" bytes]"));
        assert!(record["MOONTIDE_ERROR"].ends_with(" [cut: 1000000 bytes]"));
        assert_eq!(record["MOONTIDE_TOPIC"], "orders");
        assert_eq!(reader.journal.dropped_lines(), 0);
    }

    #[test]
    fn a_journal_that_does_not_read_costs_records_that_are_counted_and_one_second() {
        let reader = Reader::new();
        let started = std::time::Instant::now();
        let send = || reader.with(|| log!(info, log, "again"));
        while reader.journal.dropped_lines() < 100 {
            send();
        }
        assert!(started.elapsed() < Duration::from_secs(20));
        for _ in 0..10 {
            reader.read();
        }
        send();
        assert_eq!(reader.journal.dropped_lines(), 100, "it reads again");
    }

    #[test]
    fn a_journal_that_has_gone_costs_records_that_are_counted() {
        let mut reader = Reader::new();
        let path = reader.journal.0.journal.clone();
        reader.socket = UnixDatagram::unbound().unwrap();
        reader.with(|| log!(info, log, "nobody reads this"));
        assert_eq!(reader.journal.dropped_lines(), 1);
        std::fs::remove_file(&path).unwrap();
        reader.socket = UnixDatagram::bind(&path).unwrap();
        reader.with(|| log!(info, log, "read again"));
        assert_eq!(reader.journal.dropped_lines(), 1);
        assert_eq!(reader.read()["MESSAGE"], "read again");
    }
}
