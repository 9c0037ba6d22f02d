//! `moontide check`: says whether the daemon would start with what lies on disk, and what would run.
//!
//! No broker is asked. The same road as a start, up to the first message: it exits with 78 where a start would.

use std::fmt::Write as _;
use std::sync::Arc;

use serde_json::{Value as Json, json};

use super::{ConfigOption, Exit};
use crate::bundle::{self, Bundle};
use crate::config::{Consumer, Errors, Listener, OnError};
use crate::lua::{Vm, Watchdog};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
}

/// Why a start would fail.
enum Bad {
    Config(Errors),
    /// Loading the handlers: one sentence, with the place in Lua.
    Handlers(String),
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    match (check(&arguments.config), arguments.json) {
        (Ok(bundle), true) => print(&mut std::io::stdout(), &format!("{:#}\n", as_json(&bundle))),
        (Ok(bundle), false) => print(&mut std::io::stdout(), &as_text(&bundle)),
        (Err(bad), true) => {
            print(
                &mut std::io::stdout(),
                &format!("{:#}\n", bad_as_json(&bad)),
            );
            Exit::BadConfig
        }
        (Err(Bad::Config(errors)), false) => {
            print(&mut std::io::stderr(), &format!("{errors}\n"));
            Exit::BadConfig
        }
        (Err(Bad::Handlers(error)), false) => {
            print(&mut std::io::stderr(), &format!("{error}\n"));
            Exit::BadConfig
        }
    }
}

/// Everything that a start does before it joins a group. What the top levels of files do to the world, they do here too.
fn check(config: &ConfigOption) -> Result<Bundle, Bad> {
    let snapshot = bundle::read(&config.path()).map_err(Bad::Config)?;
    let bundle = bundle::check(&snapshot, 1).map_err(Bad::Config)?;
    let watchdog = Watchdog::start()
        .map_err(|error| Bad::Handlers(format!("cannot start the watchdog of Lua: {error}")))?;
    let pulse = watchdog.watch_current_thread("check");
    match Vm::build(&bundle, &Arc::default(), &pulse) {
        Ok(_) => Ok(bundle),
        Err(error) => Err(Bad::Handlers(error.to_string())),
    }
}

/// A reader that closes early (`| head`) has what it wanted.
fn print(to: &mut dyn std::io::Write, text: &str) -> Exit {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Ok,
    }
}

fn as_text(bundle: &Bundle) -> String {
    let config = &bundle.config;
    let mut text = String::new();
    for warning in &config.warnings {
        line(&mut text, format_args!("warning: {warning}"));
    }
    for consumer in &config.consumers {
        line(
            &mut text,
            format_args!("consumer {} of group {}", consumer.name, consumer.group_id),
        );
        for listener in config
            .listeners
            .iter()
            .filter(|listener| listener.consumer == consumer.name)
        {
            let topics: Vec<String> = listener.topics.iter().map(ToString::to_string).collect();
            line(
                &mut text,
                format_args!("  {} -> {}", topics.join(", "), listener.handler.text),
            );
            line(
                &mut text,
                format_args!("    listener {}: {}", listener.name, policies(listener)),
            );
        }
        for (name, value) in &consumer.properties {
            // A certificate is many lines, of which the first tells what it is.
            let value = format!("{value:?}");
            let (first, more) = value
                .split_once('\n')
                .map_or((value.as_str(), ""), |(first, _)| (first, " …"));
            line(&mut text, format_args!("  {name} = {first}{more}"));
        }
    }
    line(
        &mut text,
        format_args!(
            "handlers {}: {}, {}, {} MiB each",
            config.lua.handlers.display(),
            counted(bundle.sources.len(), "file"),
            counted(config.lua.workers, "worker"),
            config.lua.memory >> 20
        ),
    );
    line(&mut text, format_args!("{}: ok", config.path.display()));
    text
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}

fn policies(listener: &Listener) -> String {
    let start = if listener.from_beginning {
        "the beginning"
    } else {
        "the end"
    };
    let commit = if listener.run.auto_commit {
        "commits by itself"
    } else {
        "commits by ctx.commitOffsets alone"
    };
    let retry = &listener.retry;
    let waits = format!(
        "waits of {:?} to {:?}",
        retry.initial_delay, retry.max_delay
    );
    let failure = match (listener.on_error, retry.attempts) {
        (OnError::Retry, _) => format!("retries until done, {waits}"),
        (OnError::DeadLetter, attempts) => format!(
            "sends what fails {} times to its dead-letter topic, {waits}",
            attempts.unwrap_or(1)
        ),
        (OnError::Skip, Some(1) | None) => "skips what fails".to_owned(),
        (OnError::Stop, Some(1) | None) => "stops when a message fails".to_owned(),
        (OnError::Skip, Some(attempts)) => format!("skips what fails {attempts} times, {waits}"),
        (OnError::Stop, Some(attempts)) => {
            format!("stops when a message fails {attempts} times, {waits}")
        }
    };
    let (most, blocking) = (listener.max_in_flight, listener.limits.blocking);
    format!(
        "a new group starts at {start}; {commit}; {failure}; at most {most} in flight; at most {blocking:?} of Lua without a pause"
    )
}

fn as_json(bundle: &Bundle) -> Json {
    let config = &bundle.config;
    json!({
        "ok": true,
        "config": config.path,
        "hash": format!("{:016x}", bundle.hash),
        "warnings": config.warnings,
        "consumers": config.consumers.iter().map(consumer_as_json).collect::<Vec<_>>(),
        "listeners": config.listeners.iter().map(listener_as_json).collect::<Vec<_>>(),
        "lua": {
            "handlers": config.lua.handlers,
            "files": bundle.sources.keys().collect::<Vec<_>>(),
            "workers": config.lua.workers,
            "memory": config.lua.memory,
            "path": config.lua.path,
            "cpath": config.lua.cpath,
        },
        "log": {
            "level": config.log.level,
            "format": format!("{:?}", config.log.format).to_lowercase(),
            "file": config.log.file,
            "rotation": format!("{:?}", config.log.rotation).to_lowercase(),
            "keep": config.log.keep,
        },
        "daemon": {
            "drainDeadline": config.daemon.drain_deadline.as_millis() as u64,
            "stateDirectory": config.daemon.state_directory,
            "runtimeDirectory": config.daemon.runtime_directory,
        },
    })
}

fn consumer_as_json(consumer: &Consumer) -> Json {
    let properties: serde_json::Map<String, Json> = consumer
        .properties
        .iter()
        .map(|(name, value)| (name.clone(), format!("{value:?}").into()))
        .collect();
    json!({ "name": consumer.name, "groupId": consumer.group_id, "librdkafka": properties })
}

fn listener_as_json(listener: &Listener) -> Json {
    let (run, retry) = (&listener.run, &listener.retry);
    json!({
        "name": listener.name,
        "consumer": listener.consumer,
        "topics": listener.topics.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "handler": listener.handler.text,
        "subscription": { "fromBeginning": listener.from_beginning },
        "runConfig": {
            "autoCommit": run.auto_commit,
            "autoCommitInterval": run.auto_commit_interval.map(|time| time.as_millis() as u64),
            "autoCommitThreshold": run.auto_commit_threshold,
            "partitionsConsumedConcurrently": run.partitions_consumed_concurrently,
        },
        "maxInFlight": listener.max_in_flight,
        "onError": format!("{:?}", listener.on_error).to_lowercase(),
        "retry": {
            "attempts": retry.attempts,
            "initialDelay": retry.initial_delay.as_millis() as u64,
            "maxDelay": retry.max_delay.as_millis() as u64,
            "multiplier": retry.multiplier,
            "jitter": retry.jitter,
        },
        "limits": { "blocking": listener.limits.blocking.as_millis() as u64 },
    })
}

fn bad_as_json(bad: &Bad) -> Json {
    let errors = match bad {
        Bad::Config(errors) => errors,
        Bad::Handlers(error) => return json!({ "ok": false, "errors": [{ "message": error }] }),
    };
    let list = errors.list.iter().map(|error| {
        json!({
            "line": error.place.as_ref().map(|place| place.line),
            "column": error.place.as_ref().map(|place| place.column),
            "message": error.message,
        })
    });
    json!({ "ok": false, "config": errors.file, "errors": list.collect::<Vec<_>>() })
}
