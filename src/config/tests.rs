//! The meaning of a file: text in, [`Config`] out.

mod any_text;
mod policies;

use crate::config::Sources;
use crate::config::*;

const BROKERS: &str = "[kafkaConfig]\nbrokers = ['one:9092, two:9092']\n";
const GROUP: &str = "[consumerConfig]\ngroupId = 'g'\n";
const LISTENER: &str = "[[listeners]]\ntopic = 't'\nhandler = 'orders.f'\n";

fn try_load(text: &str) -> Result<Config, Errors> {
    let sources: Sources = [("orders.lua".to_owned(), [].into())].into_iter().collect();
    let environment = |name: &str| match name {
        "PASSWORD" => Some("hunter2".to_owned()),
        "STATE_DIRECTORY" => Some("/var/lib/moontide:/var/lib/other".to_owned()),
        _ => None,
    };
    Written::parse("/etc/moontide/config.toml".as_ref(), text, &environment).config(&sources)
}

#[track_caller]
fn loaded(text: &str) -> Config {
    try_load(text).unwrap_or_else(|errors| panic!("{errors}"))
}

#[track_caller]
fn check(text: &str, expected: &[(&str, Option<&str>)]) {
    let config = loaded(text);
    for (name, value) in expected {
        let found = config.consumers[0]
            .properties
            .get(*name)
            .map(|value| value.text.as_str());
        assert_eq!(found, *value, "{name}");
    }
}

#[test]
fn the_promises_are_set_whatever_the_file_says() {
    check(
        &[BROKERS, GROUP, LISTENER].concat(),
        &[
            ("bootstrap.servers", Some("one:9092,two:9092")),
            ("enable.auto.commit", Some("false")),
            ("enable.auto.offset.store", Some("false")),
            ("auto.offset.reset", Some("earliest")),
            ("enable.partition.eof", Some("true")),
            ("isolation.level", Some("read_committed")),
            ("partition.assignment.strategy", Some("cooperative-sticky")),
            ("socket.connection.setup.timeout.ms", Some("11000")),
            ("security.protocol", Some("plaintext")),
            ("allow.auto.create.topics", Some("false")),
            ("retry.backoff.ms", None),
        ],
    );
}

#[test]
fn kafkajs_names_become_librdkafkas() {
    let more = "connectionTimeout = '2s'\nlogLevel = 'DEBUG'\nretry = { initialRetryTime = 300, maxRetryTime = '30s' }\n\
                librdkafka = { 'client.software.name' = 'x', 'queued.min.messages' = 10 }\n";
    let group = "partitionAssigners = ['roundRobin', 'range']\nmetadataMaxAge = '1m'\nreadUncommitted = true\nrackId = 'a'\n";
    check(
        &[BROKERS, more, GROUP, group, LISTENER].concat(),
        &[
            ("socket.connection.setup.timeout.ms", Some("12000")),
            ("log_level", Some("7")),
            ("debug", Some("broker,cgrp,topic")),
            ("reconnect.backoff.ms", Some("300")),
            ("retry.backoff.max.ms", Some("30000")),
            ("client.software.name", Some("x")),
            ("queued.min.messages", Some("10")),
            ("partition.assignment.strategy", Some("roundrobin,range")),
            ("topic.metadata.refresh.interval.ms", Some("60000")),
            ("metadata.max.age.ms", Some("180000")),
            ("isolation.level", Some("read_uncommitted")),
            ("client.rack", Some("a")),
        ],
    );
}

#[test]
fn tls_takes_paths_and_texts() {
    check(
        &[BROKERS, "ssl = true\n", GROUP, LISTENER].concat(),
        &[
            ("security.protocol", Some("ssl")),
            ("ssl.ca.location", Some("probe")),
        ],
    );
    check(
        &[BROKERS, "ssl = false\n", GROUP, LISTENER].concat(),
        &[
            ("security.protocol", Some("plaintext")),
            ("ssl.ca.location", None),
        ],
    );
    let error = |ssl: &str| {
        let errors = try_load(&[BROKERS, ssl, GROUP, LISTENER].concat()).unwrap_err();
        let line = errors.list[0].place.as_ref().map(|place| place.line);
        assert_eq!(line, Some(3), "{errors}");
        errors.list[0].message.clone()
    };
    assert_eq!(
        error("ssl = { ca = 'no/such.pem' }\n"),
        "`ssl.ca` is neither PEM text nor a file that can be read: `/etc/moontide/no/such.pem`: no such file or directory"
    );
    // What was meant to be a key is not told.
    assert_eq!(
        error("ssl = { cert = '/etc/passwd', key = 'MIIEvQIBADAN' }\n"),
        "`ssl.key` is neither PEM text nor a file that can be read: no such file or directory"
    );
}

#[test]
fn oauthbearer_asks_an_endpoint_where_the_build_can() {
    let sasl = "ssl = true\nsasl = { mechanism = 'oauthbearer', clientId = 'c', clientSecret = '${PASSWORD}', \
                tokenEndpointUrl = 'https://login/token', extensions = { a = 'b', c = 'd' } }\n";
    let text = [BROKERS, sasl, GROUP, LISTENER].concat();
    if let Err(errors) = try_load(&text) {
        assert!(
            errors.list.len() == 1 && errors.list[0].message.contains("without libcurl"),
            "{errors}"
        );
        return;
    }
    check(
        &text,
        &[
            ("security.protocol", Some("sasl_ssl")),
            ("sasl.mechanisms", Some("OAUTHBEARER")),
            ("sasl.oauthbearer.method", Some("oidc")),
            ("sasl.oauthbearer.client.secret", Some("hunter2")),
            ("sasl.oauthbearer.extensions", Some("a=b,c=d")),
        ],
    );
    assert!(!format!("{:?}", loaded(&text)).contains("hunter2"));
}

#[test]
fn what_comes_from_a_file_shows_under_no_property() {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("broker"), "hidden-host:9092\n").unwrap();
    let reference = format!(
        "[kafkaConfig]\nbrokers = ['${{file:{}/broker}}']\n",
        folder.path().display()
    );
    let config = loaded(&[&reference, GROUP, LISTENER].concat());
    assert_eq!(
        config.consumers[0].properties["bootstrap.servers"].text,
        "hidden-host:9092"
    );
    assert!(!format!("{config:?}").contains("hidden-host"));
}

#[test]
fn a_group_of_kip_848_leaves_the_brokers_part_to_the_broker() {
    let named =
        "sessionTimeout = '20s'\n[consumers.new]\ngroupId = 'n'\ngroupProtocol = 'consumer'\n";
    check(
        &[BROKERS, GROUP, named, LISTENER, "consumer = 'new'\n"].concat(),
        &[
            ("group.protocol", Some("consumer")),
            ("session.timeout.ms", None),
            ("heartbeat.interval.ms", None),
            ("partition.assignment.strategy", None),
        ],
    );
}

#[test]
fn only_consumers_that_a_listener_uses_come_out() {
    let named = "[consumers.used]\ngroupId = 'u'\n[consumers.idle]\ngroupId = 'i'\n";
    let config = loaded(&[BROKERS, named, LISTENER, "consumer = 'used'\n"].concat());
    assert_eq!(
        config
            .consumers
            .iter()
            .map(|consumer| consumer.name.as_str())
            .collect::<Vec<_>>(),
        ["used"]
    );
    assert_eq!(config.warnings, ["consumer `idle` is used by no listener"]);
    assert!(
        try_load(
            &[
                BROKERS,
                named,
                "heartbeatInterval = 0\n",
                LISTENER,
                "consumer = 'used'\n"
            ]
            .concat()
        )
        .is_err()
    );
}

#[test]
fn a_listener_inherits_key_by_key() {
    let defaults =
        "[listenerDefaults]\nonError = 'skip'\nretry = { attempts = 3, initialDelay = '1s' }\n";
    let text = [
        BROKERS,
        GROUP,
        defaults,
        LISTENER,
        "name = 'a'\nretry = { attempts = 4 }\n",
        LISTENER,
        "onError = 'retry'\n",
    ];
    let config = loaded(&text.concat());
    let [first, second] = &config.listeners[..] else {
        panic!("{config:?}")
    };
    assert_eq!(
        (first.name.as_str(), first.on_error, first.retry.attempts),
        ("a", OnError::Skip, Some(4))
    );
    assert_eq!(first.retry.initial_delay, Duration::from_secs(1));
    assert_eq!(
        (second.name.as_str(), second.on_error, second.retry.attempts),
        ("orders.f", OnError::Retry, None)
    );
}

#[test]
fn what_fails_runs_once_with_skip_and_stop() {
    let config = loaded(&[BROKERS, GROUP, LISTENER, "onError = 'stop'\n"].concat());
    assert_eq!(config.listeners[0].retry.attempts, Some(1));
}

/// The table of the grammar, and numbers, which may have decimals too.
#[test]
fn a_duration_is_read_as_a_handlers_is() {
    let stall = |value: &str| {
        let http = format!("[http]\nlisten = '127.0.0.1:0'\nstallAfter = {value}\n");
        let config = try_load(&[BROKERS, GROUP, LISTENER, &http].concat());
        config.map(|config| config.http.unwrap().stall_after.as_millis() as u64)
    };
    let is_rule = |expected: &Option<u64>| *expected == Some(0);
    for (text, expected) in crate::duration::tests::STRINGS {
        let found = stall(&format!("{text:?}")).ok();
        assert_eq!(found, expected.filter(|_| !is_rule(expected)), "{text:?}");
    }
    for (number, expected) in [("1500", 1_500), ("1500.25", 1_501), ("1e3", 1_000)] {
        assert_eq!(stall(number).unwrap(), expected, "{number}");
    }
    for (number, expected) in [
        ("-1", "is -1, less than 0"),
        ("-0.5", "is `-0.5`, not milliseconds or a string such as"),
        ("inf", "is `inf`, not milliseconds or a string such as"),
    ] {
        let message = stall(number).unwrap_err().list[0].message.clone();
        assert!(
            message.starts_with(&format!("`stallAfter` in `[http]` {expected}")),
            "{message}"
        );
    }
}

#[test]
fn paths_start_at_the_folder_of_the_file() {
    let lua = "[lua]\nhandlers = 'h'\npath = 'tree/?.lua;/abs/?.lua;;'\n[log]\nfile = 'x.log'\n";
    let config = loaded(&[BROKERS, GROUP, LISTENER, lua].concat());
    assert_eq!(config.lua.handlers, PathBuf::from("/etc/moontide/h"));
    assert_eq!(config.lua.path, "/etc/moontide/tree/?.lua;/abs/?.lua");
    assert_eq!(config.log.file, Some("/etc/moontide/x.log".into()));
    assert_eq!(
        config.daemon.state_directory,
        PathBuf::from("/var/lib/moontide")
    );
    assert_eq!(
        config.daemon.runtime_directory,
        PathBuf::from("/etc/moontide/.moontide")
    );
}

#[test]
fn a_reload_sees_what_differs() {
    let text = [
        BROKERS,
        GROUP,
        LISTENER.replace("'t'", "'^t'").as_str(),
        "[lua]\n",
    ]
    .concat();
    let old = loaded(&text);
    assert!(old == loaded(&text));
    let new = loaded(&[&text, "workers = 2\n[log]\nkeep = 3\n"].concat());
    assert!(old != new && old.listeners == new.listeners && old.consumers == new.consumers);
}

/// A variable that the file itself uses may be a secret, so only its whole name makes it readable.
#[test]
fn a_beginning_does_not_cover_a_variable_that_the_file_uses() {
    let text = |env: &str| {
        let client = "clientId = '${PASSWORD}'\n";
        let lua = format!("[lua]\nenv = {env}\n");
        [BROKERS, client, GROUP, &lua, LISTENER].concat()
    };
    let env = loaded(&text("['PASS*', 'STATE_*']")).lua.env;
    assert!(env.allows("PASSAGE") && env.allows("STATE_DIRECTORY"));
    assert!(env.hides("PASSWORD"));
    assert!(loaded(&text("['PASSWORD']")).lua.env.allows("PASSWORD"));
    assert_eq!(loaded(&text("[]")).lua.env.entries, Vec::<String>::new());
}

#[test]
fn a_value_from_the_environment_is_not_a_number() {
    let errors = try_load(&[BROKERS, GROUP, LISTENER, "maxInFlight = '${PASSWORD}'\n"].concat())
        .unwrap_err();
    assert_eq!(errors.list.len(), 1);
    assert!(!errors.to_string().contains("hunter2"), "{errors}");
}

#[test]
fn a_mechanism_is_taken_in_any_case() {
    let sasl = "sasl = { mechanism = 'SCRAM-SHA-512', username = 'u', password = 'p' }\n";
    check(
        &[BROKERS, sasl, GROUP, LISTENER].concat(),
        &[("sasl.mechanisms", Some("SCRAM-SHA-512"))],
    );
}

#[test]
fn a_template_without_the_modules_name_is_said() {
    let lua = "[lua]\npath = '/opt/lua/?.lua;/opt/rocks/'\ncpath = '/opt/loadall.so'\n";
    assert_eq!(
        loaded(&[BROKERS, GROUP, LISTENER, lua].concat()).warnings,
        [
            "`[lua] path` has `/opt/rocks/` without a `?` for the name of the module; for a folder write `/opt/rocks/?.lua`"
        ]
    );
}
