//! Listeners: topics, handler and policies, each rule with its sentence.
//!
//! It sees the sources' names only: whether a function exists is known when the file has run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use super::file::{self, File};
use super::names::{parse_handler, parse_topic};
use super::tree::Step;
use super::unit::Millis;
use super::{
    DEFAULT_CONSUMER, Handler, Limits, Listener, NullKeys, OnError, Ordering, Retry, Run, Scene,
    Topic,
};
use crate::bundle::Sources;

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
            scene.report.error(at, format!("two listeners are named `{name}`, the other one{line}; give each a `name` of its own"));
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
    resolved
}

/// What a handler without a file may be meant to be.
fn meant(handler: &Handler, folder: &Path, sources: &Sources) -> Option<String> {
    let exists = |path: &str| sources.contains_key(&format!("{path}.lua"));
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
    let names = sources.keys().filter_map(|name| name.strip_suffix(".lua"));
    super::shape::nearest(&handler.path, names).map(|path| with_function(path, function))
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
        let inherited = at.is_some() && at == self.scene.at_keys(&["listenerDefaults"], keys);
        let who = if inherited {
            "`[listenerDefaults]`".to_owned()
        } else {
            format!("listener `{}`", self.name)
        };
        self.scene
            .report
            .error(at, format!("{who}: {}", message.as_ref()));
    }

    fn resolve(
        &mut self,
        listener: &file::Listener,
        file: &File,
        sources: &Sources,
    ) -> Option<Listener> {
        if self.name.trim().is_empty() || self.name.chars().any(char::is_control) {
            self.error(
                &["name"],
                "a name is not empty and has no control characters",
            );
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
            let near = super::shape::nearest(&consumer, names)
                .map(|near| format!(", did you mean `{near}`?"));
            let near = near.unwrap_or_else(|| format!("; add `[consumers.{consumer}]`"));
            self.error(
                &["consumer"],
                format!("there is no consumer `{consumer}`{near}"),
            );
        }
        let run = self.run(&policies.run_config);
        let retry = self.retry(policies);
        let max_in_flight = policies.max_in_flight.0;
        if max_in_flight == 0 {
            self.error(
                &["maxInFlight"],
                "`maxInFlight` is 0, so that nothing could run; the least is 1",
            );
        }
        if policies.limits.blocking.0 == 0 {
            self.error(
                &["limits", "blocking"],
                "`limits.blocking` is 0, so that nothing could run; the default is 5 s",
            );
        }
        if policies.limits.timeout != file::Limits::TIMEOUT {
            let found = policies.limits.timeout;
            self.error(
                &["limits", "timeout"],
                format!("`limits.timeout` is {found}: this version has no limit of a whole call yet; leave it out"),
            );
        }
        // The only ordering there is; naming it here breaks the build when there are more.
        let file::Ordering::Partition = policies.ordering;
        Some(Listener {
            name: self.name.clone(),
            consumer,
            topics: topics?,
            handler: handler?,
            from_beginning: policies.subscription.from_beginning,
            run,
            max_in_flight: max_in_flight as usize,
            on_error: match policies.on_error {
                file::OnError::Retry => OnError::Retry,
                file::OnError::Skip => OnError::Skip,
                file::OnError::Stop => OnError::Stop,
            },
            retry,
            ordering: Ordering::Partition,
            null_keys: NullKeys::Parallel,
            dead_letter: None,
            breaker: None,
            limits: Limits {
                blocking: policies.limits.blocking.duration(),
                timeout: policies.limits.timeout.duration(),
            },
        })
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
        if !sources.contains_key(&key) {
            let near = meant(&handler, &file.lua.handlers, sources)
                .map(|near| format!(", did you mean `{near}`?"));
            let shown = file.lua.handlers.join(&key);
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
                    "`topic` and `topics` are both there; write one of them",
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
                    self.error(&[key], format!("topic `{name}` is there twice"));
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
                "`runConfig.autoCommitInterval` is 0; leave it out, or write a time",
            );
        }
        if run.auto_commit_threshold == Some(0) {
            self.error(
                &["runConfig", "autoCommitThreshold"],
                "`runConfig.autoCommitThreshold` is 0; leave it out, or write a number",
            );
        }
        if run.partitions_consumed_concurrently == Some(0) {
            self.error(
                &["runConfig", "partitionsConsumedConcurrently"],
                "`runConfig.partitionsConsumedConcurrently` is 0, so that nothing could run; leave it out for all partitions",
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

    fn retry(&mut self, policies: &file::Policies) -> Retry {
        let retry = &policies.retry;
        let attempts = match (policies.on_error, retry.attempts) {
            (_, Some(0)) => {
                self.error(
                    &["retry", "attempts"],
                    "`retry.attempts` is 0; it counts all runs, so the least is 1",
                );
                None
            }
            (file::OnError::Retry, Some(_)) if self.scene.report.is_left_out("onError") => None,
            (file::OnError::Retry, Some(attempts)) => {
                self.error(
                    &["retry", "attempts"],
                    format!(
                        "`retry.attempts` is {attempts}, but with `onError` \"retry\" a message runs until it is done; \
                         remove it, or set `onError` to \"skip\" or \"stop\""
                    ),
                );
                None
            }
            (file::OnError::Retry, None) => None,
            (file::OnError::Skip | file::OnError::Stop, attempts) => Some(attempts.unwrap_or(1)),
        };
        let (initial, most) = (retry.initial_delay, retry.max_delay);
        if initial.0 == 0 {
            self.error(
                &["retry", "initialDelay"],
                "`retry.initialDelay` is 0, so that a failing message would never pause",
            );
        } else if most < initial {
            self.error(
                &["retry", "maxDelay"],
                format!("`retry.maxDelay` is {most}, less than `retry.initialDelay` {initial}"),
            );
        }
        if !(1.0..=1_000.0).contains(&retry.multiplier) {
            self.error(
                &["retry", "multiplier"],
                format!(
                    "`retry.multiplier` is {}, not from 1 to 1000",
                    retry.multiplier
                ),
            );
        }
        if !(0.0..=1.0).contains(&retry.jitter) {
            self.error(
                &["retry", "jitter"],
                format!("`retry.jitter` is {}, not from 0 to 1", retry.jitter),
            );
        }
        Retry {
            attempts,
            initial_delay: initial.duration(),
            max_delay: most.duration(),
            multiplier: retry.multiplier,
            jitter: retry.jitter,
            topics: Vec::new(),
        }
    }
}
