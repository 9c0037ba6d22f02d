//! `moontide check`: reports whether the daemon would start with the files on disk, and what it would run.
//!
//! It contacts no server, unless `--connect` says so. It takes the same road as a start, up to the first message, and
//! exits with 78 where a start would.

mod clients;
mod connect;
mod log_file;
mod policies;
mod producers;

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;

use anyhow::bail;
use serde_json::{Value as Json, json};

use connect::Reached;
use log_file::Found;

use super::terminal::harmless;
use super::{ConfigOption, Exit};
use crate::bundle::{self, Bundle};
use crate::config::{self, Config, Consumer, Errors, Listener};
use crate::kafka::property::Value;
use crate::lua::{Loader, Ticket, Unloaded, Vm, Watchdog};
use crate::threads::supervisor::Supervisor;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    #[command(flatten)]
    config: ConfigOption,
    /// Prints JSON.
    #[arg(long)]
    json: bool,
    /// Reaches each server that the configuration names: brokers, Redis servers and databases.
    #[arg(long)]
    connect: bool,
}

/// The reason why a start would fail.
enum Bad {
    Config(Errors),
    /// Mistakes outside of the files' own text: one sentence each, with the place in front.
    Outside(Vec<String>),
}

/// The bundle that would start.
struct Good {
    bundle: Arc<Bundle>,
    warnings: Vec<String>,
}

pub(crate) fn run(arguments: &Arguments) -> Exit {
    let checked = check(&arguments.config);
    let reached = match &checked {
        Ok(good) if arguments.connect => match connect::all(&good.bundle.config) {
            Ok(reached) => Some(reached),
            Err(error) => {
                print(&mut std::io::stderr(), &format!("{error:#}\n"));
                return Exit::Failed;
            }
        },
        _ => None,
    };
    match (checked, arguments.json) {
        (Ok(good), true) => {
            let mut page = as_json(&good);
            if let Some(reached) = &reached {
                page["ok"] = reached.iter().all(|one| one.error.is_none()).into();
                page["servers"] = reached.iter().map(Reached::as_json).collect();
            }
            let printed = print(&mut std::io::stdout(), &format!("{page:#}\n"));
            ended(&good, reached.as_deref(), printed)
        }
        (Ok(good), false) => {
            let text = as_text(&good, reached.as_deref());
            let printed = print(&mut std::io::stdout(), &text);
            ended(&good, reached.as_deref(), printed)
        }
        (Err(bad), true) => {
            print(
                &mut std::io::stdout(),
                &format!("{:#}\n", bad_as_json(&bad)),
            );
            Exit::BadConfig
        }
        (Err(bad), false) => {
            let text = match bad {
                Bad::Config(errors) => errors.to_string(),
                Bad::Outside(errors) => errors.join("\n"),
            };
            print(&mut std::io::stderr(), &(harmless(&text) + "\n"));
            Exit::BadConfig
        }
    }
}

/// A server that is not reached counts as a mistake.
fn ended(good: &Good, reached: Option<&[Reached]>, printed: Exit) -> Exit {
    let reached = reached.unwrap_or_default();
    let missed = reached.iter().filter(|one| one.error.is_some()).count();
    if missed == 0 {
        return printed;
    }
    let (path, all) = (good.bundle.config.path.display(), reached.len());
    let sentence = format!(
        "{path}: {missed} of {} not reached\n",
        counted(all, "server")
    );
    print(&mut std::io::stderr(), &sentence);
    Exit::BadConfig
}

/// All steps of a start before it joins a group. Side effects at the top level of Lua files happen here, too.
fn check(config: &ConfigOption) -> Result<Good, Bad> {
    let bundle = bundle::load(&config.path(), 1).map_err(Bad::Config)?;
    let outside = |error: String| Bad::Outside(vec![error]);
    let mut warnings = bundle.config.warnings.clone();
    let mut errors = Vec::new();
    match log_file::look(&bundle.config.log) {
        Found::Writable => {}
        Found::Refused(warning) => warnings.push(warning),
        Found::Impossible(error) => {
            errors.push(format!("{}: {error}", bundle.config.path.display()));
        }
    }
    let bundle = Arc::new(bundle);
    if let Err(error) = load(&bundle).map_err(|error| outside(format!("{error:#}")))? {
        let folder = bundle.config.lua.handlers.file_name().unwrap_or_default();
        errors.extend(sentences(&error, &folder.to_string_lossy()));
    }
    if errors.is_empty() {
        Ok(Good { bundle, warnings })
    } else {
        Err(Bad::Outside(errors))
    }
}

/// Builds a VM as a start would, and drops it. The inner error is the files'.
fn load(bundle: &Arc<Bundle>) -> anyhow::Result<Result<(), String>> {
    let supervisor = Supervisor::without_daemon();
    let watchdog = Arc::new(Watchdog::start(&supervisor)?);
    let mut loader = Loader::new(watchdog, supervisor, || {});
    let result = loader.run(&Ticket::default(), {
        let bundle = bundle.clone();
        move |pulse| {
            let vm = Vm::build(&bundle, &Arc::default(), pulse);
            vm.map(drop).map_err(|error| error.to_string())
        }
    });
    match result {
        Ok(()) => Ok(Ok(())),
        Err(Unloaded::Failed(error) | Unloaded::Stuck(error)) => Ok(Err(error)),
        Err(Unloaded::Cancelled) => bail!("the load was cancelled"),
    }
}

/// Splits the mistakes in handlers. A sentence begins with the place; any other line continues the sentence before
/// it.
fn sentences(text: &str, folder: &str) -> Vec<String> {
    let mut sentences: Vec<String> = Vec::new();
    for line in text.lines() {
        let begins = line.starts_with("listener `")
            || line
                .strip_prefix(folder)
                .is_some_and(|rest| rest.starts_with('/'));
        match sentences.last_mut() {
            Some(sentence) if !begins => {
                sentence.push('\n');
                sentence.push_str(line);
            }
            _ => sentences.push(line.to_owned()),
        }
    }
    sentences
}

/// A reader that closes early (`| head`) has read enough.
fn print(to: &mut dyn std::io::Write, text: &str) -> Exit {
    match to.write_all(text.as_bytes()).and_then(|()| to.flush()) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Exit::Failed,
        _ => Exit::Ok,
    }
}

fn as_text(Good { bundle, warnings }: &Good, reached: Option<&[Reached]>) -> String {
    let config = &bundle.config;
    let mut text = String::new();
    for warning in warnings {
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
            line(&mut text, format_args!("    listener {}", listener.name));
            for policy in policies::as_lines(listener, &consumer.group_id) {
                line(&mut text, format_args!("      {policy}"));
            }
        }
        properties(&mut text, &consumer.properties);
    }
    // Most configurations send nothing: the producer of every configuration would be noise.
    for producer in config.producers.iter().filter(|one| config.mentions(one)) {
        line(&mut text, format_args!("producer {}", producer.name));
        for fact in producers::as_lines(producer) {
            line(&mut text, format_args!("    {fact}"));
        }
        properties(&mut text, &producer.properties);
    }
    let allow = config.admin.allow.join(", ");
    let allow = if allow.is_empty() { "nothing" } else { &allow };
    line(&mut text, format_args!("admin: handlers may call {allow}"));
    line(
        &mut text,
        format_args!(
            "handlers {}: {}, {}, {} MiB each",
            config.lua.handlers.display(),
            counted(bundle.sources.files.len(), "file"),
            counted(config.lua.workers, "worker"),
            config.lua.memory >> 20
        ),
    );
    if let Some(http) = &config.http {
        line(
            &mut text,
            format_args!("http on {}: /metrics, /live, /ready, /status", http.listen),
        );
    }
    clients_as_text(&mut text, config);
    for one in reached.unwrap_or_default() {
        line(&mut text, format_args!("{}", harmless(&one.as_line())));
    }
    if reached.is_none_or(|all| all.iter().all(|one| one.error.is_none())) {
        line(&mut text, format_args!("{}: ok", config.path.display()));
    }
    text
}

/// The clients of handlers; that of requests by HTTP only where the file mentions it.
fn clients_as_text(text: &mut String, config: &Config) {
    if config.http_client != config::HttpClient::default() {
        line(text, format_args!("http.client"));
        for fact in clients::http_as_lines(&config.http_client) {
            line(text, format_args!("    {fact}"));
        }
    }
    for redis in &config.redis {
        line(text, format_args!("{}", clients::redis_head(redis)));
        for fact in clients::redis_as_lines(redis) {
            line(text, format_args!("    {fact}"));
        }
    }
    for kv in &config.kv {
        let shown = clients::kv_as_line(kv, &config.daemon.state_directory);
        line(text, format_args!("{shown}"));
    }
    for sql in &config.sql {
        line(text, format_args!("{}", clients::sql_head(sql)));
        for fact in clients::sql_as_lines(sql) {
            line(text, format_args!("    {fact}"));
        }
    }
}

fn properties(text: &mut String, properties: &BTreeMap<String, Value>) {
    for (name, value) in properties {
        // A certificate has many lines; the first identifies it.
        let value = format!("{value:?}");
        let (first, more) = value
            .split_once('\n')
            .map_or((value.as_str(), ""), |(first, _)| (first, " …"));
        line(text, format_args!("  {name} = {first}{more}"));
    }
}

fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

fn line(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("a String takes everything");
}

fn as_json(Good { bundle, warnings }: &Good) -> Json {
    let config = &bundle.config;
    json!({
        "ok": true,
        "config": config.path,
        "hash": format!("{:016x}", bundle.hash),
        "warnings": warnings,
        "consumers": config.consumers.iter().map(consumer_as_json).collect::<Vec<_>>(),
        "producers": config.producers.iter().map(producers::as_json).collect::<Vec<_>>(),
        "admin": { "allow": config.admin.allow },
        "listeners": config.listeners.iter().map(|listener| policies::as_json(listener, group(config, listener))).collect::<Vec<_>>(),
        "lua": {
            "handlers": config.lua.handlers,
            "files": bundle.sources.files.keys().collect::<Vec<_>>(),
            "workers": config.lua.workers,
            "memory": config.lua.memory,
            "path": config.lua.path,
            "cpath": config.lua.cpath,
            "env": config.lua.env.entries,
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
            "crashes": config.daemon.crashes_max,
            "watch": config.daemon.watch,
        },
        "http": config.http.as_ref().map(|http| json!({
            "listen": http.listen,
            "stallAfter": http.stall_after.as_millis() as u64,
        })),
        "httpClient": clients::http_as_json(&config.http_client),
        "redis": config.redis.iter().map(clients::redis_as_json).collect::<Vec<_>>(),
        "kv": config.kv.iter().map(|kv| clients::kv_as_json(kv, &config.daemon.state_directory)).collect::<Vec<_>>(),
        "sql": config.sql.iter().map(clients::sql_as_json).collect::<Vec<_>>(),
    })
}

fn group<'c>(config: &'c Config, listener: &Listener) -> &'c str {
    let consumer = config
        .consumers
        .iter()
        .find(|consumer| consumer.name == listener.consumer);
    consumer.map_or("", |consumer| &consumer.group_id)
}

fn consumer_as_json(consumer: &Consumer) -> Json {
    let properties = properties_as_json(&consumer.properties);
    json!({ "name": consumer.name, "groupId": consumer.group_id, "librdkafka": properties })
}

fn properties_as_json(properties: &BTreeMap<String, Value>) -> Json {
    let properties = properties.iter();
    let shown = properties.map(|(name, value)| (name.clone(), format!("{value:?}").into()));
    Json::Object(shown.collect())
}

fn bad_as_json(bad: &Bad) -> Json {
    let errors = match bad {
        Bad::Config(errors) => errors,
        Bad::Outside(errors) => {
            let list = errors.iter().map(|error| json!({ "message": error }));
            return json!({ "ok": false, "errors": list.collect::<Vec<_>>() });
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_handler_has_a_sentence_of_its_own() {
        let text = "handlers/a.lua:1: bad\nand more of it\nhandlers/b.lua: has no function `f`\nlistener `c`: needs";
        assert_eq!(
            sentences(text, "handlers"),
            [
                "handlers/a.lua:1: bad\nand more of it",
                "handlers/b.lua: has no function `f`",
                "listener `c`: needs"
            ]
        );
    }
}
