//! The log: one subscriber for the process, and the guard that flushes it.
//!
//! Lines go to standard error or journald, and to a rolling file when the config names one. It knows nothing of what is
//! logged. **The guard lives in `main`**: dropped earlier, the file would lose its last lines. Neither a reader that
//! has gone nor a full disk stops the daemon; what could not be written is counted.

mod fields;
mod file;
mod journal;
mod local_time;
mod panic;
mod sink;
mod stderr;

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing_appender::non_blocking::{ErrorCounter, WorkerGuard};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{self, LogFormat};
use crate::kafka;
use crate::log::log;
use crate::rate_limit::RateLimit;

use fields::Readable;
use journal::Journal;
use local_time::LocalTime;
use sink::{Form, Surroundings};
use stderr::Stderr;

/// Between two warnings of dropped lines.
const DROPPED_WINDOW: Duration = Duration::from_secs(60);

/// For whom the lines on standard error are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A service: whole lines for machines and journals.
    Daemon,
    /// Somebody in front of it (`moontide dev`): short lines, in local time, coloured on a terminal.
    Person,
}

/// What the layers of lines stand on.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Boxed = Box<dyn Layer<Filtered> + Send + Sync>;

/// An information is informational: without this, it would be a notice.
const PRIORITIES: PriorityMappings = PriorityMappings {
    error: Priority::Error,
    warn: Priority::Warning,
    info: Priority::Informational,
    debug: Priority::Debug,
    trace: Priority::Debug,
};

/// Keeps the log going. Dropping it writes what the file still lacks.
#[must_use]
pub(crate) struct Guard {
    filter: reload::Handle<EnvFilter, Registry>,
    stderr: Stderr,
    file: Option<ErrorCounter>,
    flush: Flush,
    dropped: Mutex<Dropped>,
}

/// What was said of dropped lines.
struct Dropped {
    told: u64,
    limit: RateLimit,
}

/// Ends the log file, from wherever the process ends.
#[derive(Clone, Default)]
pub(crate) struct Flush(Arc<Mutex<Option<WorkerGuard>>>);

impl Flush {
    /// Writes what waits, within a second; later lines do not reach the file.
    pub(crate) fn now(&self) {
        let guard = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        drop(guard);
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        self.flush.now();
    }
}

impl Guard {
    /// Lines that neither standard error nor the file took, since the start.
    pub(crate) fn dropped_lines(&self) -> u64 {
        let file = self.file.as_ref().map_or(0, ErrorCounter::dropped_lines);
        self.stderr.dropped_lines() + file as u64
    }

    /// Warns of lines that were dropped since the last warning, at most once a minute: call it every second or so.
    pub(crate) fn warn_of_dropped_lines(&self, now: Instant) {
        let total = self.dropped_lines();
        let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
        let new = total - dropped.told;
        if new > 0 && dropped.limit.allow(now).is_some() {
            dropped.told = total;
            log!(
                warn,
                log,
                dropped = new,
                total,
                "log lines were dropped, as nobody took them fast enough"
            );
        }
    }

    /// `[log] level` has changed. A level of the environment stays in force.
    pub(crate) fn set_level(&self, directives: &str) -> Result<(), String> {
        let filter = filter(directives).map_err(|error| format!("{error:#}"))?;
        self.filter
            .reload(filter)
            .map_err(|error| error.to_string())
    }

    /// To end the log file where `main` is not reached any more.
    pub(crate) fn flush(&self) -> Flush {
        self.flush.clone()
    }
}

/// Installs the subscriber of the process.
pub(crate) fn start(log: &config::Log, audience: Audience) -> anyhow::Result<Guard> {
    let surroundings = Surroundings::look();
    let form = sink::form(log.format, surroundings);
    let stderr = Stderr::default();
    // The filter stands before the layers, so that a hidden line costs nothing anywhere.
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);

    let mut layers = vec![main_layer(
        form,
        audience,
        surroundings,
        log.format,
        &stderr,
    )?];
    let mut flush = None;
    let mut file = None;
    if let Some(path) = &log.file {
        let (writer, worker) = file::writer(path, log)?;
        file = Some(writer.error_counter());
        flush = Some(worker);
        layers.push(if form == Form::Json {
            json(writer)
        } else {
            text(writer)
        });
    }
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(layers)
        .with(kafka::log::Limits::default());
    subscriber.try_init()?;
    panic::log_panics();

    let dropped = Mutex::new(Dropped {
        told: 0,
        limit: RateLimit::new(1, DROPPED_WINDOW),
    });
    Ok(Guard {
        filter: handle,
        stderr,
        file,
        flush: Flush(Arc::new(Mutex::new(flush))),
        dropped,
    })
}

/// The filter of the environment, or else of the config.
/// They win over the config, the first one first.
const VARIABLES: [&str; 2] = ["MOONTIDE_LOG", "RUST_LOG"];

/// The variable of the environment that decides, if one is set, and its value.
fn of_environment() -> Option<(&'static str, String)> {
    VARIABLES.into_iter().find_map(|name| {
        let value = std::env::var(name)
            .ok()
            .filter(|value| !value.trim().is_empty())?;
        Some((name, value))
    })
}

fn filter(directives: &str) -> anyhow::Result<EnvFilter> {
    let (place, directives) = match of_environment() {
        Some((name, value)) => (name, value),
        None => ("log.level", directives.to_owned()),
    };
    // The watching library tells at INFO what is of no use to anyone.
    let quiet = if directives.contains("notify") {
        ""
    } else {
        ",notify=warn"
    };
    config::level::parse(&format!("{directives}{quiet}"))
        .with_context(|| format!("{place}: `{directives}` is no list of levels by target"))
}

fn main_layer(
    form: Form,
    audience: Audience,
    surroundings: Surroundings,
    format: LogFormat,
    stderr: &Stderr,
) -> anyhow::Result<Boxed> {
    let is_coloured = surroundings.is_terminal
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Ok(match (form, audience) {
        (Form::Text, Audience::Person) => fmt::layer()
            .compact()
            .with_target(false)
            .with_timer(LocalTime)
            .fmt_fields(Readable)
            .with_ansi(is_coloured)
            .log_internal_errors(false)
            .with_writer(stderr.clone())
            .boxed(),
        (Form::Text, Audience::Daemon) if surroundings.is_terminal => fmt::layer()
            .fmt_fields(Readable)
            .with_ansi(is_coloured)
            .log_internal_errors(false)
            .with_writer(stderr.clone())
            .boxed(),
        // What collects lines wants each whole.
        (Form::Text, Audience::Daemon) => text(stderr.clone()),
        (Form::Json, _) => json(stderr.clone()),
        (Form::Journald, _) => match tracing_journald::layer() {
            Ok(layer) => Journal(
                layer
                    .with_field_prefix(Some("MOONTIDE".to_owned()))
                    .with_priority_mappings(PRIORITIES)
                    .with_syslog_identifier("moontide".to_owned()),
            )
            .boxed(),
            Err(_) if format == LogFormat::Auto => json(stderr.clone()),
            Err(error) => {
                let message =
                    "log.format: `journald` finds no journal; use `auto`, `json` or `text`";
                return Err(anyhow::Error::new(error).context(message));
            }
        },
    })
}

fn text<W>(writer: W) -> Boxed
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .with_ansi(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .boxed()
}

/// One object a line; the fields stand beside `timestamp`, `level`, `target` and `message`.
fn json<W>(writer: W) -> Boxed
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .json()
        .flatten_event(true)
        .with_current_span(false)
        .with_span_list(false)
        .log_internal_errors(false)
        .with_writer(writer)
        .boxed()
}

#[cfg(test)]
mod tests {
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
            .fmt_fields(Readable)
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
        assert!(lines.text().contains(
            r#""facility":"REQTMOUT","client":"rdkafka#consumer-1","target":"librdkafka""#
        ));
        assert!(!lines.text().contains("hidden"));
    }
}
