//! The log: one subscriber for the process, and the guard that flushes it.
//!
//! Lines go to standard error or journald, and to a rolling file when the config names one. The log does not depend
//! on the content of its lines. **The guard lives in `main`**: dropped earlier, the file would lose its last lines.
//! Neither a reader that has closed the pipe nor a full disk stops the daemon. Every sink counts and reports its
//! dropped lines.

pub(crate) mod fields;
mod file;
mod fit;
mod journal;
mod local_time;
mod panic;
mod period;
mod queue;
mod sink;
mod stderr;
mod whole;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;
use tracing_subscriber::fmt::MakeWriter;
use tracing_subscriber::layer::{Layered, SubscriberExt};
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer, Registry, fmt, reload};

use crate::config::{self, LogFormat};
use crate::kafka;
use crate::log::log;
use crate::rate_limit::RateLimit;
use crate::threads::unsupervised;

use fields::Fields;
use file::LogFile;
use journal::Journal;
use local_time::LocalTime;
use queue::Queue;
use sink::{Form, Surroundings};
use stderr::Stderr;

/// The pause between two warnings of dropped lines.
const DROPPED_WINDOW: Duration = Duration::from_secs(10);
/// How long the end of the log may take.
const END: Duration = Duration::from_secs(1);

/// The reader of the lines on standard error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Audience {
    /// A service: whole lines for machines and journals.
    Daemon,
    /// A person at a terminal (`moontide dev`): short lines, in local time, coloured on a terminal.
    Person,
}

/// The base of the layers that write lines.
type Filtered = Layered<reload::Layer<EnvFilter, Registry>, Registry>;
type Boxed = Box<dyn Layer<Filtered> + Send + Sync>;

/// Keeps the log running. Dropping it writes the lines that the file still lacks.
#[must_use]
pub(crate) struct Guard {
    filter: reload::Handle<EnvFilter, Registry>,
    sinks: Sinks,
    flush: Flush,
    dropped: Mutex<Dropped>,
}

/// The places that lines go to.
#[derive(Clone, Default)]
struct Sinks {
    stderr: Stderr,
    /// Replaces standard error.
    journal: Option<Journal>,
    file: Option<Queue>,
}

impl Sinks {
    /// Dropped lines by sink, since the start.
    fn dropped(&self) -> [u64; 3] {
        let journal = self.journal.as_ref().map_or(0, Journal::dropped_lines);
        let file = self.file.as_ref().map_or(0, Queue::dropped_lines);
        [self.stderr.dropped_lines(), journal, file]
    }
}

/// The dropped lines that are already reported.
struct Dropped {
    told: [u64; 3],
    limit: RateLimit,
}

impl Default for Dropped {
    fn default() -> Self {
        Self {
            told: [0; 3],
            limit: RateLimit::new(1, DROPPED_WINDOW),
        }
    }
}

impl Dropped {
    /// The lines dropped since the last warning, by sink, if a warning is due.
    fn due(&mut self, total: [u64; 3], now: Option<Instant>) -> Option<[u64; 3]> {
        let is_due = |limit: &mut RateLimit| now.is_none_or(|now| limit.allow(now).is_some());
        if total == self.told || !is_due(&mut self.limit) {
            return None;
        }
        let told = std::mem::replace(&mut self.told, total);
        Some(std::array::from_fn(|sink| total[sink] - told[sink]))
    }
}

/// Ends the log file, wherever the process ends.
#[derive(Clone, Default)]
pub(crate) struct Flush(Arc<Mutex<Option<Writer>>>);

/// The queue of the file, and the thread that writes it.
type Writer = (Queue, JoinHandle<()>);

impl Flush {
    /// Writes the lines that wait, within a second; later lines do not reach the file.
    pub(crate) fn now(&self) {
        let file = self.0.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some((queue, writer)) = file
            && queue.close(END)
        {
            // A disk that hangs holds its thread, which ends with the process.
            let _ = writer.join();
        }
    }
}

impl Drop for Guard {
    fn drop(&mut self) {
        kafka::log::tell_rest();
        self.warn_of_dropped_lines(None);
        self.flush.now();
    }
}

impl Guard {
    /// Lines that their sink did not take, since the start.
    pub(crate) fn dropped_lines(&self) -> u64 {
        self.sinks.dropped().iter().sum()
    }

    /// Reports missing lines: dropped by a sink, or left out by a limit. To be called about every second.
    pub(crate) fn look(&self, now: Instant) {
        kafka::log::tell_ended(now);
        self.warn_of_dropped_lines(Some(now));
    }

    /// A dropped warning counts as a line, and the next warning follows. So one warning arrives once the sink takes
    /// lines again, with the total.
    fn warn_of_dropped_lines(&self, now: Option<Instant>) {
        let total = self.sinks.dropped();
        let due = {
            let mut dropped = self.dropped.lock().unwrap_or_else(PoisonError::into_inner);
            dropped.due(total, now)
        };
        let Some(new) = due else { return };
        let of = |sink: usize| (new[sink] > 0).then_some(new[sink]);
        log!(
            warn,
            log,
            dropped = new.iter().sum::<u64>(),
            stderr = of(0),
            journald = of(1),
            file = of(2),
            total = total.iter().sum::<u64>(),
            "log lines were dropped: their sink is too slow, or the disk is full"
        );
    }

    /// Applies a change of `[log] level`. A level of the environment stays in force.
    pub(crate) fn set_level(&self, directives: &str) -> Result<(), String> {
        let filter = filter(directives).map_err(|error| format!("{error:#}"))?;
        self.filter
            .reload(filter)
            .map_err(|error| error.to_string())
    }

    /// Ends the log file in places from which `main` is not reached any more.
    pub(crate) fn flush(&self) -> Flush {
        self.flush.clone()
    }

    /// Opens the log file again, which may have been renamed. Does not wait.
    pub(crate) fn reopener(&self) -> impl Fn() + Send + use<> {
        let file = self.sinks.file.clone();
        move || {
            if let Some(file) = &file {
                file.reopen();
            }
        }
    }
}

/// Installs the subscriber of the process.
pub(crate) fn start(log: &config::Log, audience: Audience) -> anyhow::Result<Guard> {
    let surroundings = Surroundings::look();
    let form = sink::form(log.format, surroundings);
    let mut sinks = Sinks::default();
    // The filter comes before the layers, so that a hidden line costs nothing in any of them.
    let (filter, handle) = reload::Layer::new(filter(&log.level)?);

    let mut layers = vec![main_layer(
        form,
        audience,
        surroundings,
        log.format,
        &mut sinks,
    )?];
    let mut flush = Flush::default();
    if let Some(path) = &log.file {
        let queue = Queue::default();
        let writer = spawn_writer(queue.clone(), LogFile::open(path, log)?)?;
        flush = Flush(Arc::new(Mutex::new(Some((queue.clone(), writer)))));
        sinks.file = Some(queue.clone());
        layers.push(if form == Form::Json {
            json(queue)
        } else {
            text(queue)
        });
    }
    let subscriber = tracing_subscriber::registry()
        .with(filter)
        .with(layers)
        .with(kafka::log::Limits::default());
    subscriber.try_init()?;
    panic::log_panics();
    Ok(Guard {
        filter: handle,
        sinks,
        flush,
        dropped: Mutex::default(),
    })
}

/// The thread lives from before the daemon's first line until after its last one.
fn spawn_writer(queue: Queue, mut file: LogFile) -> anyhow::Result<JoinHandle<()>> {
    unsupervised::spawn("log-file", move || queue.serve(&mut file))
        .context("cannot start thread `log-file`")
}

/// The filter of the environment, or else of the config.
/// They win over the config, the first one first.
const VARIABLES: [&str; 2] = ["MOONTIDE_LOG", "RUST_LOG"];

/// The deciding variable of the environment, if one is set, and its value.
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
    // At INFO the `notify` crate logs lines without use for an operator.
    let quiet = if directives.contains("notify") {
        ""
    } else {
        ",notify=warn"
    };
    config::level::parse(&format!("{directives}{quiet}"))
        .with_context(|| format!("{place}: `{directives}` is not a list of levels by target"))
}

fn main_layer(
    form: Form,
    audience: Audience,
    surroundings: Surroundings,
    format: LogFormat,
    sinks: &mut Sinks,
) -> anyhow::Result<Boxed> {
    let stderr = sinks.stderr.clone();
    let is_coloured = surroundings.is_terminal
        && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
    Ok(match (form, audience) {
        (Form::Text, Audience::Person) => fmt::layer()
            .compact()
            .with_target(false)
            .with_timer(LocalTime)
            .fmt_fields(Fields::Readable)
            .with_ansi(is_coloured)
            .log_internal_errors(false)
            .with_writer(stderr)
            .boxed(),
        (Form::Text, Audience::Daemon) if surroundings.is_terminal => fmt::layer()
            .fmt_fields(Fields::Readable)
            .with_ansi(is_coloured)
            .log_internal_errors(false)
            .with_writer(stderr)
            .boxed(),
        // Log collectors need each entry on one line.
        (Form::Text, Audience::Daemon) => text(stderr),
        (Form::Json, _) => json(stderr),
        (Form::Journald, _) => match Journal::connect(Path::new(journal::SOCKET)) {
            Ok(journal) => {
                sinks.journal = Some(journal.clone());
                journal.boxed()
            }
            Err(_) if format == LogFormat::Auto => json(stderr),
            Err(error) => {
                let message =
                    "log.format: `journald` finds no journal; use `auto`, `json` or `text`";
                return Err(anyhow::Error::new(error).context(message));
            }
        },
    })
}

/// One line an entry.
fn text<W>(writer: W) -> Boxed
where
    W: for<'a> MakeWriter<'a> + Send + Sync + 'static,
{
    fmt::layer()
        .fmt_fields(Fields::OneLine)
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
mod tests;
