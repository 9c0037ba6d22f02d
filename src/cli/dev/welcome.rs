//! The first output of `moontide dev`: the address of the broker, the handlers by topic, and commands to try next.

use std::path::Path;

use super::samples::Sample;
use crate::cli::terminal::{bold, dim, program, quote, yellow};
use crate::config::{Config, Handler, Listener, Topic};
use crate::rules::route::takes;

/// A longer sample is not shown as an example to send.
const VALUE_LENGTH_MAX: usize = 60;

pub(super) struct Welcome<'a> {
    pub(super) config: &'a Config,
    /// The option as the user would repeat it; absent for the default.
    pub(super) config_argument: Option<&'a Path>,
    pub(super) address: &'a str,
    pub(super) topics: &'a [String],
    pub(super) samples: &'a [Sample],
    pub(super) messages: &'a Path,
}

impl Welcome<'_> {
    pub(super) fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!(
            "{}: an embedded broker on {} replaces the brokers of the config; its messages end with it",
            bold("moontide dev"),
            bold(self.address)
        )];
        for listener in &self.config.listeners {
            lines.push(format!(
                "  {} → {}",
                topics(listener),
                handler(&listener.handler)
            ));
            if !self.topics.iter().any(|topic| self.takes(listener, topic)) {
                let what = "no topic matches yet: --topic NAME creates one at the start";
                lines.push(yellow(format_args!(
                    "    {what}, `moontide send --create NAME …` later"
                )));
            }
            let dead = self.dead_letter_topics(listener);
            if !dead.is_empty() {
                lines.push(dim(format_args!(
                    "    dead letters go to {}; a listener of that topic sees them",
                    dead.join(", ")
                )));
            }
        }
        if !self.samples.is_empty() {
            let (count, path) = (self.samples.len(), self.messages.display());
            let noun = if count == 1 { "message" } else { "messages" };
            lines.push(dim(format_args!(
                "  {count} {noun} of {path} sent; each start sends them again"
            )));
        }
        for topic in self.without_listener() {
            lines.push(yellow(format_args!(
                "  no listener takes the messages of topic `{topic}`"
            )));
        }
        if let Some(command) = self.command() {
            lines.push(format!("  send one:  {}", bold(command)));
        }
        let handlers = self
            .config
            .lua
            .handlers
            .file_name()
            .unwrap_or_default()
            .to_string_lossy();
        lines.push(dim(format_args!(
            "  {handlers}/ and the config are watched: save, and the next call runs what you saved; Ctrl-C ends"
        )));
        lines
    }

    fn takes(&self, listener: &Listener, topic: &str) -> bool {
        takes(&self.config.made_topics(), listener, topic)
    }

    fn without_listener(&self) -> impl Iterator<Item = &String> {
        self.topics.iter().filter(|topic| {
            !self
                .config
                .listeners
                .iter()
                .any(|listener| self.takes(listener, topic))
        })
    }

    fn dead_letter_topics(&self, listener: &Listener) -> Vec<String> {
        let mut consumers = self.config.consumers.iter();
        let consumer = consumers.find(|one| one.name == listener.consumer);
        let (Some(policy), Some(consumer)) = (&listener.dead_letter, consumer) else {
            return Vec::new();
        };
        let sources = self
            .topics
            .iter()
            .filter(|topic| self.takes(listener, topic));
        let mut dead: Vec<_> = sources
            .map(|source| policy.topic_of(source, &consumer.group_id, &listener.name))
            .collect();
        dead.sort();
        dead.dedup();
        dead
    }

    /// A command that sends a message to a topic with a handler.
    fn command(&self) -> Option<String> {
        let taken = |topic: &str| {
            self.config
                .listeners
                .iter()
                .any(|listener| self.takes(listener, topic))
        };
        let sample = self
            .samples
            .iter()
            .map(|sample| &sample.record)
            .find(|record| taken(&record.topic));
        let topic = sample.map(|record| &*record.topic).or_else(|| {
            self.topics
                .iter()
                .map(|topic| &**topic)
                .find(|topic| taken(topic))
        })?;
        let value = sample.and_then(|record| String::from_utf8(record.value.clone()?).ok());
        let value =
            value.filter(|value| value.len() <= VALUE_LENGTH_MAX && !value.starts_with('-'));
        let value = value.unwrap_or_else(|| r#"{"id": 1}"#.to_owned());
        let key = sample.and_then(|record| String::from_utf8(record.key.clone()?).ok());
        let key = key
            .map(|key| format!(" --key {}", quote(&key)))
            .unwrap_or_default();
        let config = self
            .config_argument
            .map(|path| format!("--config {} ", quote(&path.display().to_string())));
        Some(format!(
            "{} send {}{} {}{key}",
            program(),
            config.unwrap_or_default(),
            quote(topic),
            quote(&value)
        ))
    }
}

fn topics(listener: &Listener) -> String {
    let names = listener.topics.iter().map(|topic| match topic {
        Topic::Literal(name) => name.clone(),
        Topic::Pattern(pattern) => pattern.to_string(),
    });
    names.collect::<Vec<_>>().join(", ")
}

fn handler(handler: &Handler) -> String {
    match &handler.function {
        Some(function) => format!("{function} in {}.lua", handler.path),
        None => format!("{}.lua", handler.path),
    }
}
