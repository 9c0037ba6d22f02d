//! What changes between two configurations, and what of it can be applied to a running daemon.
//!
//! Pure. Every key is of one class: *live* (the next bundle has it), *rejoin* (its consumer needs a new client) or
//! *restart* (fixed when the process starts). The folder `lua.handlers` is live: a bundle is read from wherever it
//! points, and the watch follows. Invariant: a configuration made by [`effective`] differs from the running one in no
//! key of the restart class.

use std::fmt::Write as _;

use crate::config::{Config, Consumer, Http, Listener};

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Consumers that did not exist.
    pub(crate) added: Vec<String>,
    /// Consumers to drain and close.
    pub(crate) removed: Vec<String>,
    /// Consumers to drain, close and start anew: what their client was made with has changed.
    pub(crate) rejoin: Vec<String>,
    /// Keys (`lua.workers`) whose new value waits for a restart.
    pub(crate) restart: Vec<String>,
    pub(crate) listeners: Listeners,
    /// Keys (`log.level`) outside consumers and listeners whose new value is in force at once.
    pub(crate) live: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Listeners {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<String>,
    /// Those that stay stand in another order, in which they run for a topic that they share.
    pub(crate) reordered: bool,
}

/// What `new` changes in `old`, the configuration that runs.
pub(crate) fn difference(old: &Config, new: &Config) -> Difference {
    let consumer_name = |consumer: &Consumer| consumer.name.clone();
    let consumers = compare(&old.consumers, &new.consumers, consumer_name, Consumer::eq);
    let listeners = compare(
        &old.listeners,
        &new.listeners,
        |listener| listener.name.clone(),
        Listener::eq,
    );
    Difference {
        added: consumers.added,
        removed: consumers.removed,
        rejoin: consumers.changed,
        restart: restart_keys(old, new),
        listeners,
        live: live_keys(old, new),
    }
}

/// The configuration to run on after a reload: `new`, but for the keys that only a restart can change.
pub(crate) fn effective(old: &Config, new: &Config) -> Config {
    let mut config = new.clone();
    config.lua.workers = old.lua.workers;
    config.log = old.log.clone();
    config.log.level.clone_from(&new.log.level);
    config
        .daemon
        .state_directory
        .clone_from(&old.daemon.state_directory);
    config
        .daemon
        .runtime_directory
        .clone_from(&old.daemon.runtime_directory);
    config.daemon.crashes_max = old.daemon.crashes_max;
    // A server that is there stays, and none appears; what it says of stalls follows the file.
    config.http = match (&old.http, &new.http) {
        (Some(old), Some(new)) => Some(Http {
            listen: old.listen,
            ..new.clone()
        }),
        (old, _) => old.clone(),
    };
    config
}

impl Difference {
    /// What is applied, for people: `listeners added: orders; changed: log.level`.
    pub(crate) fn sentence(&self) -> String {
        let mut sentence = String::new();
        let mut part = |what: &str, names: &[String]| {
            if !names.is_empty() {
                let gap = if sentence.is_empty() { "" } else { "; " };
                let names = names.join("`, `");
                // Writing to a string cannot fail.
                let _ = write!(sentence, "{gap}{what}: `{names}`");
            }
        };
        part("listeners added", &self.listeners.added);
        part("listeners removed", &self.listeners.removed);
        part("listeners changed", &self.listeners.changed);
        part("consumers added", &self.added);
        part("consumers removed", &self.removed);
        part("consumers that join anew", &self.rejoin);
        part("changed", &self.live);
        if self.listeners.reordered {
            part("changed", &["order of listeners".to_owned()]);
        }
        if sentence.is_empty() {
            sentence.push_str("handlers loaded anew");
        }
        sentence
    }
}

fn compare<T>(
    old: &[T],
    new: &[T],
    name: impl Fn(&T) -> String,
    same: impl Fn(&T, &T) -> bool,
) -> Listeners {
    let find = |items: &[T], wanted: &str| items.iter().position(|item| name(item) == wanted);
    let mut result = Listeners::default();
    let mut last = None;
    for item in new {
        let Some(place) = find(old, &name(item)) else {
            result.added.push(name(item));
            continue;
        };
        if !same(&old[place], item) {
            result.changed.push(name(item));
        }
        result.reordered |= last > Some(place);
        last = Some(place);
    }
    result.removed = old
        .iter()
        .map(&name)
        .filter(|wanted| find(new, wanted).is_none())
        .collect();
    result
}

fn restart_keys(old: &Config, new: &Config) -> Vec<String> {
    let listen = |config: &Config| config.http.as_ref().map(|http| http.listen);
    changed(&[
        ("lua.workers", old.lua.workers != new.lua.workers),
        ("log.format", old.log.format != new.log.format),
        ("log.file", old.log.file != new.log.file),
        ("log.rotation", old.log.rotation != new.log.rotation),
        ("log.keep", old.log.keep != new.log.keep),
        (
            "daemon.stateDirectory",
            old.daemon.state_directory != new.daemon.state_directory,
        ),
        (
            "daemon.runtimeDirectory",
            old.daemon.runtime_directory != new.daemon.runtime_directory,
        ),
        (
            "daemon.crashes",
            old.daemon.crashes_max != new.daemon.crashes_max,
        ),
        ("http.listen", listen(old) != listen(new)),
    ])
}

fn live_keys(old: &Config, new: &Config) -> Vec<String> {
    changed(&[
        ("lua.handlers", old.lua.handlers != new.lua.handlers),
        ("lua.memory", old.lua.memory != new.lua.memory),
        ("lua.path", old.lua.path != new.lua.path),
        ("lua.cpath", old.lua.cpath != new.lua.cpath),
        ("log.level", old.log.level != new.log.level),
        (
            "daemon.drainDeadline",
            old.daemon.drain_deadline != new.daemon.drain_deadline,
        ),
        ("http.stallAfter", stall_differs(old, new)),
    ])
}

/// Only where there is a server before and after.
fn stall_differs(old: &Config, new: &Config) -> bool {
    old.http
        .as_ref()
        .zip(new.http.as_ref())
        .is_some_and(|(old, new)| old.stall_after != new.stall_after)
}

fn changed(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| (*key).to_owned())
        .collect()
}

#[cfg(test)]
mod tests;
