//! Listeners: topics, handler and policies, each rule with its sentence.
//!
//! It sees the sources' names only: whether a function exists is known when the file has run.

mod batch;
mod failure;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

use super::file::{self, File};
use super::names::{is_library, parse_handler, parse_produced, parse_topic};
use super::tree::Step;
use super::unit::{Millis, Size};
use super::{
    DEFAULT_CONSUMER, Handler, Limits, Listener, NullKeys, Ordering, Produced, RateLimit, Run,
    Scene, Topic,
};
use crate::config::Sources;
use crate::nearest::nearest;

/// The longest time of a rate limit.
const PER_MAX: Millis = Millis(24 * 3_600_000);

/// The largest share.
const SHARE_MAX: u32 = 1000;
/// Each deferred message takes some hundred bytes.
const DEFERRED_MAX: u64 = 10_000_000;
/// The longest delay.
const DELAY_MAX: Millis = Millis(30 * 24 * 3_600_000);

/// The records wait in memory, for all calls at once.
const EMIT_MAX: Size = Size(64 << 20);
/// Default of `limits.blocking`; a shorter `limits.timeout` shortens it.
pub(super) const BLOCKING: Millis = Millis(5_000);

pub(super) fn resolve(
    file: &File,
    sources: &Sources,
    scene: &mut Scene<'_, '_>,
) -> Vec<(usize, Listener)> {
    let mut resolved = Vec::new();
    let mut names: BTreeMap<String, usize> = BTreeMap::new();
    for (index, listener) in file.listeners.iter().enumerate() {
        let written = listener.name.clone().or_else(|| listener.handler.clone());
        let name = written.unwrap_or_else(|| format!("{}", index + 1));
        if let Some(first) = names.insert(name.clone(), index) {
            let key = if listener.name.is_some() {
                "name"
            } else {
                "handler"
            };
            let line = scene.line(&[Step::Key("listeners"), Step::Index(first)]);
            let at = scene.at(&[Step::Key("listeners"), Step::Index(index), Step::Key(key)]);
            let line = line
                .map(|line| format!(" in line {line}"))
                .unwrap_or_default();
            scene.report.error(at, format!("two listeners are named `{name}`, the other one{line}; give each listener its own `name`"));
        }
        let mut one = One { index, name, scene };
        if let Some(listener) = one.resolve(listener, file, sources) {
            resolved.push((index, listener));
        }
    }
    if file.listeners.is_empty() && !scene.report.is_left_out("listeners") {
        scene
            .report
            .warning("there is no `[[listeners]]`: nothing is consumed");
    }
    for warning in sources.warnings(&scene.folder.join(&file.lua.handlers)) {
        scene.report.warning(warning);
    }
    resolved
}

/// The existing handler that a misspelt one may mean.
fn meant(handler: &Handler, folder: &Path, sources: &Sources) -> Option<String> {
    let exists = |path: &str| sources.contains(&format!("{path}.lua"));
    let with_function = |path: &str, function: Option<&str>| match function {
        Some(function) => format!("{path}.{function}"),
        None => path.to_owned(),
    };
    let function = handler.function.as_deref();
    // The folder's own name before the path, a colon or a hash for the dot.
    if let Some((first, path)) = handler.path.split_once('/')
        && folder.ends_with(first)
        && exists(path)
    {
        return Some(with_function(path, function));
    }
    if let Some((path, function)) = handler.path.split_once([':', '#'])
        && exists(path)
    {
        return Some(with_function(path, Some(function.trim_matches(':'))));
    }
    let names = sources.files.keys();
    let names = names.filter_map(|name| name.strip_suffix(".lua"));
    nearest(&handler.path, names).map(|path| with_function(path, function))
}

/// The consumers that listeners join, the default one included.
pub(super) fn used_consumers(file: &File) -> BTreeSet<String> {
    let names = file.listeners.iter().map(|listener| {
        listener
            .policies
            .consumer
            .as_deref()
            .unwrap_or(DEFAULT_CONSUMER)
    });
    names.map(str::to_owned).collect()
}

struct One<'o, 's, 't> {
    index: usize,
    name: String,
    scene: &'o mut Scene<'s, 't>,
}

impl One<'_, '_, '_> {
    fn error(&mut self, keys: &[&str], message: impl AsRef<str>) {
        let way = [Step::Key("listeners"), Step::Index(self.index)];
        let path: Vec<Step<'_>> = way
            .into_iter()
            .chain(keys.iter().copied().map(Step::Key))
            .collect();
        let at = self.scene.at(&path);
        // What was inherited is wrong once, however many listeners inherit it.
        let inherited = at.is_some() && self.is_inherited(keys);
        let who = if inherited {
            "`[listenerDefaults]`".to_owned()
        } else {
            format!("listener `{}`", self.name)
        };
        self.scene
            .report
            .error(at, format!("{who}: {}", message.as_ref()));
    }

    /// Whether the key stands in `[listenerDefaults]` alone.
    fn is_inherited(&self, keys: &[&str]) -> bool {
        let way = [Step::Key("listeners"), Step::Index(self.index)];
        let keys_of = keys.iter().copied().map(Step::Key);
        let path: Vec<Step<'_>> = way.into_iter().chain(keys_of).collect();
        self.scene.at(&path) == self.scene.at_keys(&["listenerDefaults"], keys)
    }

    fn resolve(
        &mut self,
        listener: &file::Listener,
        file: &File,
        sources: &Sources,
    ) -> Option<Listener> {
        if self.name.trim().is_empty() || self.name.chars().any(char::is_control) {
            self.error(&["name"], "`name` is empty or has control characters");
        }
        let handler = self.handler(listener, file, sources);
        let topics = self.topics(listener);
        let policies = &listener.policies;
        let consumer = policies
            .consumer
            .clone()
            .unwrap_or_else(|| DEFAULT_CONSUMER.to_owned());
        if consumer != DEFAULT_CONSUMER && !file.consumers.contains_key(&consumer) {
            let names = file.consumers.keys().map(String::as_str);
            let near = nearest(&consumer, names).map(|near| format!(", did you mean `{near}`?"));
            let near = near.unwrap_or_else(|| format!("; add `[consumers.{consumer}]`"));
            self.error(
                &["consumer"],
                format!("there is no consumer `{consumer}`{near}"),
            );
        }
        let run = self.run(&policies.run_config);
        let (ordering, null_keys) = self.ordering(policies);
        let group = failure::group(file, policies);
        let known = topics.as_deref().unwrap_or_default();
        let retry = self.retry(policies, known, group);
        let dead_letter = self.dead_letter(policies, known, group);
        let breaker = self.breaker(policies);
        let limits = self.limits(&policies.limits);
        let rate_limit = self.rate_limit(policies.rate_limit.as_ref());
        let delay = self.delay(policies);
        let share = self.share(policies);
        let produces = self.produces(policies);
        let batch = self.batch(listener, handler.as_ref());
        let max_in_flight = policies.max_in_flight.0;
        if max_in_flight == 0 {
            self.error(
                &["maxInFlight"],
                "`maxInFlight` is 0, so no message could run; the minimum is 1",
            );
        }
        let max_deferred = self.max_deferred(policies);
        Some(Listener {
            name: self.name.clone(),
            consumer,
            topics: topics?,
            handler: handler?,
            from_beginning: policies.subscription.from_beginning,
            run,
            max_in_flight: max_in_flight as usize,
            max_deferred,
            ordering,
            null_keys,
            on_error: failure::on_error(policies),
            retry,
            dead_letter,
            breaker,
            limits,
            rate_limit,
            delay,
            share,
            produces,
            batch,
        })
    }

    fn max_deferred(&mut self, policies: &file::Policies) -> usize {
        let most = policies.max_deferred.0;
        if !(1..=DEFERRED_MAX).contains(&most) {
            self.error(
                &["maxDeferred"],
                format!("`maxDeferred` is {most}, not from 1 to {DEFERRED_MAX}"),
            );
        }
        most as usize
    }

    fn delay(&mut self, policies: &file::Policies) -> Option<Duration> {
        let delay = policies.delay.filter(|delay| delay.0 > 0)?;
        if delay > DELAY_MAX {
            self.error(
                &["delay"],
                format!("`delay` is {delay}, not from 0 to 30 d"),
            );
        }
        Some(delay.duration())
    }

    fn share(&mut self, policies: &file::Policies) -> Option<u32> {
        let share = policies.share?;
        if !(1..=SHARE_MAX).contains(&share) {
            self.error(
                &["share"],
                format!("`share` is {share}, not from 1 to {SHARE_MAX}"),
            );
        }
        Some(share)
    }

    fn produces(&mut self, policies: &file::Policies) -> Option<Vec<Produced>> {
        let mut produced = Vec::new();
        for text in policies.produces.as_ref()? {
            match parse_produced(text) {
                Ok(one) => produced.push(one),
                Err(message) => self.error(&["produces"], message),
            }
        }
        Some(produced)
    }

    fn ordering(&mut self, policies: &file::Policies) -> (Ordering, NullKeys) {
        if policies.null_keys.is_some() && policies.ordering != file::Ordering::Key {
            let message =
                "`nullKeys` counts only with `ordering` \"key\"; remove it, or set `ordering`";
            if !self.scene.report.is_left_out("ordering") {
                self.error(&["nullKeys"], message);
            }
        }
        let ordering = match policies.ordering {
            file::Ordering::Partition => Ordering::Partition,
            file::Ordering::Key => Ordering::Key,
            file::Ordering::None => Ordering::None,
        };
        if ordering == Ordering::None && !policies.run_config.auto_commit {
            let name = &self.name;
            self.scene.report.warning(format!(
                "listener `{name}`: with `ordering` \"none\" ctx.commitOffsets means its own message alone, not those before it"
            ));
        }
        let null_keys = match policies.null_keys {
            Some(file::NullKeys::Partition) => NullKeys::Partition,
            Some(file::NullKeys::Parallel) | None => NullKeys::Parallel,
        };
        (ordering, null_keys)
    }

    fn limits(&mut self, limits: &file::Limits) -> Limits {
        let timeout = limits.timeout;
        let blocking = limits.blocking.unwrap_or(BLOCKING.min(timeout));
        if limits.blocking == Some(Millis(0)) {
            self.error(
                &["limits", "blocking"],
                "`limits.blocking` is 0, so no call could run; the default is 5 s",
            );
        }
        if timeout.0 == 0 {
            self.error(
                &["limits", "timeout"],
                "`limits.timeout` is 0, so no call could run; the default is 5 min",
            );
        } else if timeout < blocking {
            self.error(
                &["limits", "timeout"],
                format!(
                    "`limits.timeout` is {timeout}, less than `limits.blocking` {blocking}; a call's timeout includes its computing time"
                ),
            );
        }
        let emit = limits.emit;
        if emit.0 == 0 || emit > EMIT_MAX {
            self.error(
                &["limits", "emit"],
                format!(
                    "`limits.emit` is {emit}, not from 1 byte to {EMIT_MAX}; the default is 8 MiB"
                ),
            );
        }
        Limits {
            blocking: blocking.duration(),
            timeout: timeout.duration(),
            emit: emit.0 as usize,
        }
    }

    fn rate_limit(&mut self, written: Option<&file::RateLimit>) -> Option<RateLimit> {
        let table = match written {
            None | Some(file::RateLimit::On(false)) => return None,
            Some(file::RateLimit::On(true)) => {
                self.error(
                    &["rateLimit"],
                    "`rateLimit` is true, which names no rate; write `rateLimit = { messages = 100, per = \"1s\" }`",
                );
                return None;
            }
            Some(file::RateLimit::Table(table)) => table,
        };
        let per = table.per;
        if !(Millis(1)..=PER_MAX).contains(&per) {
            self.error(
                &["rateLimit", "per"],
                format!("`rateLimit.per` is {per}, not from 1 ms to 24 h"),
            );
            return None;
        }
        let most = per.0.saturating_mul(1_000);
        match table.messages {
            None if self.scene.report.is_left_out("messages") => None,
            None => {
                self.error(
                    &["rateLimit"],
                    "`rateLimit.messages` is missing: the number of runs in `rateLimit.per`",
                );
                None
            }
            Some(messages) if messages == 0 || messages > most => {
                self.error(
                    &["rateLimit", "messages"],
                    format!(
                        "`rateLimit.messages` is {messages}, not from 1 to {most}, one for each microsecond of \
                         `rateLimit.per`; `rateLimit = false` is no limit, and `moontide pause` halts a listener"
                    ),
                );
                None
            }
            Some(messages) => Some(RateLimit {
                messages,
                per: per.duration(),
            }),
        }
    }

    fn handler(
        &mut self,
        listener: &file::Listener,
        file: &File,
        sources: &Sources,
    ) -> Option<Handler> {
        let Some(text) = &listener.handler else {
            if !self.scene.report.is_left_out("handler") {
                self.error(
                    &["handler"],
                    "`handler` is missing; write `handler = \"file.function\"`",
                );
            }
            return None;
        };
        let handler = match parse_handler(text) {
            Ok(handler) => handler,
            Err(message) => {
                self.error(&["handler"], message);
                return None;
            }
        };
        let key = format!("{}.lua", handler.path);
        let shown = file.lua.handlers.join(&key);
        if is_library(&handler.path) {
            self.error(
                &["handler"],
                format!(
                    "handler `{}` is never loaded: `{}` is the name of a library; rename the file",
                    shown.display(),
                    handler.path
                ),
            );
            return None;
        }
        if let Some(reason) = sources.refusal(&key) {
            self.error(
                &["handler"],
                format!("handler `{}` {reason}", shown.display()),
            );
        } else if !sources.contains(&key) {
            let near = meant(&handler, &file.lua.handlers, sources)
                .map(|near| format!(", did you mean `{near}`?"));
            self.error(
                &["handler"],
                format!(
                    "handler `{}` does not exist{}",
                    shown.display(),
                    near.unwrap_or_default()
                ),
            );
        }
        Some(handler)
    }

    fn topics(&mut self, listener: &file::Listener) -> Option<Vec<Topic>> {
        let (key, names) = match (&listener.topic, listener.topics.as_slice()) {
            (Some(_), [_, ..]) => {
                self.error(
                    &["topic"],
                    "`topic` and `topics` are both set; remove one of them",
                );
                return None;
            }
            (Some(topic), []) => ("topic", std::slice::from_ref(topic)),
            (None, topics) => ("topics", topics),
        };
        if names.is_empty() {
            if !self.scene.report.is_left_out("topic") && !self.scene.report.is_left_out("topics") {
                self.error(&["topic"], "`topic` is missing");
            }
            return None;
        }
        let mut topics = Vec::new();
        let mut seen = BTreeSet::new();
        for name in names {
            match parse_topic(name) {
                Ok(_) if !seen.insert(name) => {
                    self.error(&[key], format!("topic `{name}` is listed twice"));
                }
                Ok(topic) => topics.push(topic),
                Err(message) => self.error(&[key], message),
            }
        }
        (topics.len() == names.len()).then_some(topics)
    }

    fn run(&mut self, run: &file::RunConfig) -> Run {
        if run.auto_commit_interval == Some(Millis(0)) {
            self.error(
                &["runConfig", "autoCommitInterval"],
                "`runConfig.autoCommitInterval` is 0; remove it, or write a duration",
            );
        }
        if run.auto_commit_threshold == Some(0) {
            self.error(
                &["runConfig", "autoCommitThreshold"],
                "`runConfig.autoCommitThreshold` is 0; remove it, or write a number",
            );
        }
        if run.partitions_consumed_concurrently == Some(0) {
            self.error(
                &["runConfig", "partitionsConsumedConcurrently"],
                "`runConfig.partitionsConsumedConcurrently` is 0, so no message could run; remove it for all partitions",
            );
        }
        Run {
            auto_commit: run.auto_commit,
            auto_commit_interval: run.auto_commit_interval.map(Millis::duration),
            auto_commit_threshold: run.auto_commit_threshold,
            partitions_consumed_concurrently: run
                .partitions_consumed_concurrently
                .map(|number| number as usize),
        }
    }
}
