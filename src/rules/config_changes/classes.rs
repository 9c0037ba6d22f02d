//! Holds the class comments of config.toml equal to the tables: `#key = value  # live: …`.

use super::{
    ADMIN, CONSUMER, Class, DAEMON, HTTP, HTTP_CLIENT, KV, LISTENER, LOG, LUA, PRODUCER, REDIS,
    Row, SQL,
};

const REFERENCE: &str = include_str!("../../../config.toml");

/// A setting of config.toml, commented or not.
#[derive(Debug)]
struct Setting {
    /// With its table, as `kafkaConfig.retry.maxRetryTime`.
    key: String,
    class: Class,
}

fn settings() -> Vec<Setting> {
    let mut table = String::new();
    let mut found = Vec::new();
    for line in REFERENCE.lines() {
        let setting = line.strip_prefix('#').unwrap_or(line);
        if setting.is_empty() || setting.starts_with(' ') {
            continue;
        }
        if setting.starts_with('[') {
            table = setting.trim_matches(['[', ']', ' ']).to_owned();
            continue;
        }
        let (key, rest) = setting.split_once('=').expect("a key and its value");
        found.push(Setting {
            key: format!("{table}.{}", key.trim().trim_matches('"')),
            class: class(rest).unwrap_or_else(|| panic!("no class: {line}")),
        });
    }
    found
}

/// The one class that a comment begins with.
fn class(line: &str) -> Option<Class> {
    let classes = [
        (" # live: ", Class::Live),
        (" # rejoin: ", Class::Rejoin),
        (" # restart: ", Class::Restart),
    ];
    let mut found = classes.into_iter().filter(|(word, _)| line.contains(word));
    let (_, class) = found.next()?;
    found.next().is_none().then_some(class)
}

/// Keys and classes of a table, without its type.
type Keys = Vec<(&'static str, Class)>;

fn keys<T>(rows: &[Row<T>]) -> Keys {
    let keys = |row: &Row<T>| {
        row.keys
            .iter()
            .map(|key| (*key, row.class))
            .collect::<Keys>()
    };
    rows.iter().flat_map(keys).collect()
}

fn process() -> Keys {
    [
        keys(ADMIN),
        keys(LUA),
        keys(LOG),
        keys(DAEMON),
        keys(HTTP),
        keys(HTTP_CLIENT),
    ]
    .concat()
}

/// The table that has a key, and the key as the table has it.
fn scope(key: &str) -> (Keys, &str) {
    let (table, rest) = key.split_once('.').expect("every key stands in a table");
    match table {
        "kafkaConfig" | "consumerConfig" => (keys(CONSUMER), rest),
        "consumers" => {
            let (_, rest) = rest.split_once('.').expect("a consumer's name and a key");
            (keys(CONSUMER), rest)
        }
        "producerConfig" => (keys(PRODUCER), rest),
        "producers" => {
            let (_, rest) = rest.split_once('.').expect("a producer's name and a key");
            (keys(PRODUCER), rest)
        }
        "redis" => {
            let (_, rest) = rest.split_once('.').expect("a server's name and a key");
            (keys(REDIS), rest)
        }
        "kv" => {
            let (_, rest) = rest.split_once('.').expect("a store's name and a key");
            (keys(KV), rest)
        }
        "sql" => {
            let (_, rest) = rest.split_once('.').expect("a database's name and a key");
            (keys(SQL), rest)
        }
        "listenerDefaults" | "listeners" => (keys(LISTENER), rest),
        _ => (process(), key),
    }
}

/// The key of the table by which `key` has its class.
fn row(keys: &Keys, key: &str) -> Option<(&'static str, Class)> {
    let below = |row: &str| {
        row.strip_suffix('*')
            .is_some_and(|table| table.ends_with('.') && key.starts_with(table))
    };
    let find = |matches: &dyn Fn(&str) -> bool| keys.iter().find(|(row, _)| matches(row)).copied();
    find(&|row| row == key)
        .or_else(|| find(&below))
        .or_else(|| find(&|row| row == "*"))
}

#[test]
fn the_class_of_every_key_in_config_toml_is_that_of_its_row() {
    for Setting { key, class } in settings() {
        let (keys, short) = scope(&key);
        let (_, expected) = row(&keys, short).unwrap_or_else(|| panic!("no row: {key}"));
        assert_eq!(class, expected, "{key}");
    }
}

#[test]
fn every_row_has_a_key_in_config_toml() {
    let mut used = Vec::new();
    for Setting { key, .. } in settings() {
        let (keys, short) = scope(&key);
        used.extend(row(&keys, short).map(|(row, _)| row));
    }
    let all = [
        process(),
        keys(CONSUMER),
        keys(PRODUCER),
        keys(REDIS),
        keys(KV),
        keys(SQL),
        keys(LISTENER),
    ]
    .concat();
    for (key, _) in all {
        assert!(used.contains(&key), "config.toml lacks `{key}`");
    }
}

#[test]
fn the_rows_of_a_scope_have_the_classes_that_it_can_apply() {
    assert!(process().iter().all(|(_, class)| *class != Class::Rejoin));
    assert!(
        keys(CONSUMER)
            .iter()
            .all(|(_, class)| *class == Class::Rejoin)
    );
    assert!(
        [
            keys(LISTENER),
            keys(PRODUCER),
            keys(REDIS),
            keys(KV),
            keys(SQL)
        ]
        .concat()
        .iter()
        .all(|(_, class)| *class == Class::Live)
    );
}
