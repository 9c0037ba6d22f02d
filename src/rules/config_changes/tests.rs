//! Tables: a change, and what it makes of the difference.

use std::time::Duration;

use regex::Regex;

use crate::config::{
    Breaker, DeadLetter, EnvNames, HeaderStyle, LogFormat, NullKeys, OnError, OnRefusal, Ordering,
    Rotation, TooLarge, Topic, Written,
};
use crate::kafka::property::Value;
use crate::rules::config_changes::*;

const TEXT: &str = "
[kafkaConfig]
brokers = ['a:9092']
[consumerConfig]
groupId = 'default-group'
[consumers.audit]
groupId = 'audit-group'
[[listeners]]
name = 'a'
topics = ['topic', '^orders']
handler = 'orders'
[[listeners]]
name = 'b'
topic = 'topic'
handler = 'orders'
[[listeners]]
name = 'c'
topic = 'topic'
handler = 'orders'
consumer = 'audit'
[daemon]
stateDirectory = '/var/lib/moontide'
runtimeDirectory = '/run/moontide'
[http]
listen = '127.0.0.1:9464'
";

/// Consumers `default` and `audit`, listeners `a`, `b` and `c`.
fn config() -> Config {
    let sources = [("orders.lua".to_owned(), [].into())].into_iter().collect();
    let written = Written::parse("/etc/moontide/config.toml".as_ref(), TEXT, &|_| None);
    written
        .config(&sources)
        .unwrap_or_else(|errors| panic!("{errors}"))
}

fn listener(name: &str) -> Listener {
    Listener {
        name: name.into(),
        ..config().listeners.remove(0)
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
    assert_eq!(difference(&config(), &config()), Difference::default());
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
            new.consumers[1]
                .properties
                .insert("sasl.password".into(), property("one", true));
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
fn the_rights_of_the_admin_client_are_live() {
    check(
        |new| new.admin.allow = vec!["createTopics".into()],
        |expected| expected.live = names(&["kafka.admin.allow"]),
    );
}

#[test]
fn producers_come_go_and_change_by_name() {
    let named = |name: &str| crate::config::Producer {
        name: name.into(),
        ..config().producers.remove(0)
    };
    check(
        |new| {
            new.producers[0].timeout = Duration::from_secs(1);
            new.producers.push(named("audit"));
        },
        |expected| {
            expected.producers.added = names(&["audit"]);
            expected.producers.changed = names(&["default"]);
        },
    );
    let (old, mut new) = (config(), config());
    new.producers.clear();
    let sentence = difference(&old, &new).sentence();
    assert_eq!(sentence, "producers removed: `default`");
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
fn every_policy_of_a_listener_is_live() {
    let changes: [fn(&mut Listener); 7] = [
        |one| one.ordering = Ordering::Key,
        |one| one.null_keys = NullKeys::Partition,
        |one| one.on_error = OnError::DeadLetter,
        |one| one.retry.topics = vec![Duration::from_secs(5)],
        |one| one.limits.timeout = Duration::from_secs(1),
        |one| {
            one.dead_letter = Some(DeadLetter {
                topic: "dead".into(),
                header_style: HeaderStyle::Moontide,
                create_topic: false,
                too_large: TooLarge::Block,
                refused: OnRefusal::Block,
                per_minute_max: 600,
            });
        },
        |one| {
            one.breaker = Some(Breaker {
                ratio: 0.5,
                window: Duration::from_secs(30),
                runs_min: 20,
                pause: Duration::from_secs(30),
                probes: 3,
            });
        },
    ];
    for change in changes {
        check(
            |new| change(&mut new.listeners[1]),
            |expected| expected.listeners.changed = names(&["b"]),
        );
    }
}

#[test]
fn a_server_that_is_not_there_waits_for_a_restart() {
    let (mut old, new) = (config(), config());
    old.http = None;
    assert_eq!(difference(&old, &new).restart, names(&["http.listen"]));
    assert_eq!(effective(&old, &new).http, None);
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
    check(|new| new.daemon.crashes_max = 1, restart("daemon.crashes"));
    check(
        |new| new.http.as_mut().unwrap().listen.set_port(1),
        restart("http.listen"),
    );
    check(|new| new.http = None, restart("http.listen"));
}

#[test]
fn what_a_bundle_has_of_its_own_is_live() {
    let live = |key: &'static str| move |expected: &mut Difference| expected.live = names(&[key]);
    check(
        |new| new.lua.handlers = "/srv/handlers".into(),
        live("lua.handlers"),
    );
    check(|new| new.lua.memory = 1, live("lua.memory"));
    check(|new| new.lua.path = "/usr/?.lua".into(), live("lua.path"));
    check(|new| new.lua.cpath = "/usr/?.so".into(), live("lua.cpath"));
    check(
        |new| new.lua.env = EnvNames::parsed(&["APP_*"]),
        live("lua.env"),
    );
    check(|new| new.log.level = "debug".into(), live("log.level"));
    check(
        |new| new.daemon.drain_deadline = Duration::ZERO,
        live("daemon.drainDeadline"),
    );
    check(
        |new| new.http.as_mut().unwrap().stall_after = Duration::ZERO,
        live("http.stallAfter"),
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
