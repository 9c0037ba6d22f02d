//! What changes between two configurations, and what of it can be applied to a running daemon.
//!
//! Pure. Every key is of one class: *live* (the next bundle has it), *rejoin* (its consumer needs a new client) or
//! *restart* (fixed when the process starts). The folder `lua.handlers` is live: a bundle is read from wherever it
//! points, and the watch follows. Invariant: a configuration made by [`effective`] differs from the running one in no
//! key of the restart class.

use std::fmt::Write as _;

use crate::config::{Config, Consumer, Listener};

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
    // `Debug` shows every field of a listener, a pattern by its text; there is no secret in one.
    let same = |a: &Listener, b: &Listener| format!("{a:?}") == format!("{b:?}");
    let listeners = compare(
        &old.listeners,
        &new.listeners,
        |listener| listener.name.clone(),
        same,
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
    config
}

impl Difference {
    /// Whether the configurations say the same. The Lua files may differ nevertheless.
    pub(crate) fn is_empty(&self) -> bool {
        *self == Self::default()
    }

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
    ])
}

fn changed(keys: &[(&str, bool)]) -> Vec<String> {
    keys.iter()
        .filter(|(_, changed)| *changed)
        .map(|(key, _)| (*key).to_owned())
        .collect()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use regex::Regex;

    use super::*;
    use crate::config::{
        Daemon, Handler, Limits, Log, LogFormat, Lua, OnError, Retry, Rotation, Run, Topic, Value,
    };

    fn consumer(name: &str) -> Consumer {
        Consumer {
            name: name.into(),
            group_id: format!("{name}-group"),
            properties: [(
                "bootstrap.servers".to_owned(),
                Value {
                    text: "a:9092".into(),
                    secret: false,
                },
            )]
            .into(),
            rebalance_timeout: Duration::from_secs(60),
            session_timeout: Duration::from_secs(30),
            metadata_max_age: Duration::from_secs(300),
            request_timeout: Duration::from_secs(30),
        }
    }

    fn listener(name: &str) -> Listener {
        Listener {
            name: name.into(),
            consumer: "default".into(),
            topics: vec![
                Topic::Literal("topic".into()),
                Topic::Pattern(Regex::new("^orders").unwrap()),
            ],
            handler: Handler {
                text: "orders".into(),
                path: "orders".into(),
                function: None,
            },
            from_beginning: false,
            run: Run {
                auto_commit: true,
                auto_commit_interval: None,
                auto_commit_threshold: None,
                partitions_consumed_concurrently: None,
            },
            max_in_flight: 1000,
            on_error: OnError::Retry,
            retry: Retry {
                attempts: None,
                initial_delay: Duration::from_millis(300),
                max_delay: Duration::from_secs(30),
                multiplier: 2.0,
                jitter: 0.2,
            },
            limits: Limits {
                blocking: Duration::from_secs(5),
            },
        }
    }

    fn config() -> Config {
        Config {
            path: "/etc/moontide/config.toml".into(),
            consumers: vec![consumer("default"), consumer("audit")],
            listeners: vec![listener("a"), listener("b"), listener("c")],
            lua: Lua {
                handlers: "/etc/moontide/handlers".into(),
                workers: 1,
                memory: 1 << 28,
                path: String::new(),
                cpath: String::new(),
            },
            log: Log {
                level: "info".into(),
                format: LogFormat::Auto,
                file: None,
                rotation: Rotation::Daily,
                keep: 14,
            },
            daemon: Daemon {
                drain_deadline: Duration::from_secs(20),
                state_directory: "/var/lib/moontide".into(),
                runtime_directory: "/run/moontide".into(),
            },
            warnings: Vec::new(),
        }
    }

    /// Changes a configuration by `change` and compares with `expected`, filled in by `expect`; a restart key must be
    /// gone from the effective configuration, everything else must be in it.
    #[track_caller]
    fn check(change: impl Fn(&mut Config), expect: impl Fn(&mut Difference)) {
        let (old, mut new) = (config(), config());
        change(&mut new);
        let mut expected = Difference::default();
        expect(&mut expected);
        assert_eq!(difference(&old, &new), expected);

        let effective = effective(&old, &new);
        expected.restart.clear();
        assert_eq!(difference(&old, &effective), expected);
        assert_eq!(
            difference(&effective, &new).restart,
            difference(&old, &new).restart
        );
    }

    fn names(names: &[&str]) -> Vec<String> {
        names.iter().map(|&name| name.to_owned()).collect()
    }

    #[test]
    fn equal_configurations_do_not_differ() {
        check(|_| {}, |_| {});
        assert!(difference(&config(), &config()).is_empty());
        assert_eq!(
            difference(&config(), &config()).sentence(),
            "handlers loaded anew"
        );
    }

    #[test]
    fn what_a_client_is_made_with_makes_its_consumer_alone_join_anew() {
        let property = |value: &str, secret| Value {
            text: value.into(),
            secret,
        };
        let rejoin = |expected: &mut Difference| expected.rejoin = names(&["audit"]);
        check(|new| new.consumers[1].group_id = "other".into(), rejoin);
        check(
            |new| {
                _ = new.consumers[1]
                    .properties
                    .insert("sasl.password".into(), property("one", true))
            },
            rejoin,
        );
        check(|new| new.consumers[1].properties.clear(), rejoin);
        check(
            |new| new.consumers[1].session_timeout = Duration::from_secs(45),
            rejoin,
        );

        let (mut old, mut new) = (config(), config());
        old.consumers[0]
            .properties
            .insert("sasl.password".into(), property("one", true));
        new.consumers[0]
            .properties
            .insert("sasl.password".into(), property("two", true));
        assert_eq!(
            difference(&old, &new).rejoin,
            ["default"],
            "a secret counts though it does not show"
        );
    }

    #[test]
    fn consumers_come_and_go_by_name() {
        check(
            |new| new.consumers[1].name = "billing".into(),
            |expected| {
                expected.added = names(&["billing"]);
                expected.removed = names(&["audit"]);
            },
        );
    }

    #[test]
    fn the_order_of_consumers_means_nothing() {
        check(|new| new.consumers.reverse(), |_| {});
    }

    #[test]
    fn listeners_come_go_and_change_by_name() {
        check(
            |new| {
                new.listeners[1].name = "d".into();
                new.listeners[2].max_in_flight = 1;
            },
            |expected| {
                expected.listeners.added = names(&["d"]);
                expected.listeners.removed = names(&["b"]);
                expected.listeners.changed = names(&["c"]);
            },
        );
    }

    #[test]
    fn a_pattern_is_compared_by_its_text() {
        check(
            |new| new.listeners[0].topics[1] = Topic::Pattern(Regex::new("^other").unwrap()),
            |expected| expected.listeners.changed = names(&["a"]),
        );
        check(
            |new| new.listeners[0].topics[1] = Topic::Pattern(Regex::new("^orders").unwrap()),
            |_| {},
        );
    }

    #[test]
    fn the_order_of_listeners_counts_among_those_that_stay() {
        check(
            |new| new.listeners.swap(0, 2),
            |expected| expected.listeners.reordered = true,
        );
        check(
            |new| new.listeners.insert(0, listener("first")),
            |expected| expected.listeners.added = names(&["first"]),
        );
    }

    #[test]
    fn what_is_fixed_at_the_start_waits_for_a_restart() {
        let restart =
            |key: &'static str| move |expected: &mut Difference| expected.restart = names(&[key]);
        check(|new| new.lua.workers = 4, restart("lua.workers"));
        check(
            |new| new.log.format = LogFormat::Json,
            restart("log.format"),
        );
        check(
            |new| new.log.file = Some("moontide.log".into()),
            restart("log.file"),
        );
        check(
            |new| new.log.rotation = Rotation::Never,
            restart("log.rotation"),
        );
        check(|new| new.log.keep = 1, restart("log.keep"));
        check(
            |new| new.daemon.state_directory = "/tmp".into(),
            restart("daemon.stateDirectory"),
        );
        check(
            |new| new.daemon.runtime_directory = "/tmp".into(),
            restart("daemon.runtimeDirectory"),
        );
    }

    #[test]
    fn what_a_bundle_has_of_its_own_is_live() {
        let live =
            |key: &'static str| move |expected: &mut Difference| expected.live = names(&[key]);
        check(
            |new| new.lua.handlers = "/srv/handlers".into(),
            live("lua.handlers"),
        );
        check(|new| new.lua.memory = 1, live("lua.memory"));
        check(|new| new.lua.path = "/usr/?.lua".into(), live("lua.path"));
        check(|new| new.lua.cpath = "/usr/?.so".into(), live("lua.cpath"));
        check(|new| new.log.level = "debug".into(), live("log.level"));
        check(
            |new| new.daemon.drain_deadline = Duration::ZERO,
            live("daemon.drainDeadline"),
        );
    }

    #[test]
    fn what_waits_does_not_hold_back_the_rest() {
        check(
            |new| {
                new.log.level = "debug".into();
                new.log.keep = 3;
                new.listeners.pop();
            },
            |expected| {
                expected.live = names(&["log.level"]);
                expected.restart = names(&["log.keep"]);
                expected.listeners.removed = names(&["c"]);
            },
        );
    }

    #[test]
    fn the_sentence_names_what_is_applied() {
        let (old, mut new) = (config(), config());
        new.listeners.insert(0, listener("d"));
        new.listeners.insert(0, listener("e"));
        new.listeners.reverse();
        new.consumers[1].group_id = "other".into();
        new.lua.workers = 2;
        assert_eq!(
            difference(&old, &new).sentence(),
            "listeners added: `d`, `e`; consumers that join anew: `audit`; changed: `order of listeners`"
        );
    }
}
