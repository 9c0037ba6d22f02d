//! The changes between two configurations, and which of them apply to a running daemon. Pure.
//!
//! Every key has one [`Class`], in its row of one of the tables; config.toml states the same, which a test compares.
//! The tables name every field of the configuration's types: a field without a row does not compile. The folder
//! `lua.handlers` is live: a bundle is read from its present target, and the watch follows. Invariant: a
//! configuration made by [`effective`] differs from the running one in no key of the class *restart*.

use std::fmt::Write as _;

use crate::config::{
    Admin, Config, Consumer, Daemon, Http, HttpClient, Kv, Listener, Log, Lua, Producer, Redis, Sql,
};

/// When the new value of a key takes effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Class {
    /// With the next bundle.
    Live,
    /// With a new client of its consumer, which joins its group anew.
    Rejoin,
    /// With the next start of the process.
    Restart,
}

/// A field of `T` and its keys.
struct Row<T> {
    /// As in config.toml; the keys of consumers and listeners without their table. `a.*` is every key below `a`, `*`
    /// every key that has no other row.
    keys: &'static [&'static str],
    class: Class,
    differs: fn(&T, &T) -> bool,
    /// Replaces the new value by the running one.
    keep: fn(&mut T, &T),
}

macro_rules! rows {
    ($(#[$about:meta])* $table:ident: $type:ident { $($field:ident: $class:ident $($key:literal)|*,)+ }) => {
        $(#[$about])*
        const $table: &[Row<$type>] = {
            // Without `..`: a field that has no row is an error here.
            const _: fn(&$type) = |$type { $($field: _),+ }| {};
            &[$(Row {
                keys: &[$($key),*],
                class: Class::$class,
                differs: |old, new| old.$field != new.$field,
                keep: |new, old| new.$field.clone_from(&old.$field),
            }),+]
        };
    };
}

rows! {
    LUA: Lua {
        handlers: Live "lua.handlers",
        workers: Restart "lua.workers",
        memory: Live "lua.memory",
        path: Live "lua.path",
        cpath: Live "lua.cpath",
        env: Live "lua.env",
    }
}

rows! {
    LOG: Log {
        level: Live "log.level",
        format: Restart "log.format",
        file: Restart "log.file",
        rotation: Restart "log.rotation",
        keep: Restart "log.keep",
    }
}

rows! {
    DAEMON: Daemon {
        drain_deadline: Live "daemon.drainDeadline",
        state_directory: Restart "daemon.stateDirectory",
        runtime_directory: Restart "daemon.runtimeDirectory",
        crashes_max: Restart "daemon.crashes",
        watch: Restart "daemon.watch",
    }
}

/// This key decides whether the server exists.
const LISTEN: &str = "http.listen";

rows! {
    HTTP: Http {
        listen: Restart "http.listen",
        stall_after: Live "http.stallAfter",
    }
}

rows! {
    /// Keys of `[http.client]`: each bundle has its own client, and equal ones share a pool.
    HTTP_CLIENT: HttpClient {
        allow: Live "http.client.allow",
        size: Live "http.client.size",
        acquire_timeout: Live "http.client.acquireTimeout",
        connect_timeout: Live "http.client.connectTimeout",
        timeout: Live "http.client.timeout",
        max_body: Live "http.client.maxBody",
        proxy: Live "http.client.proxy",
        no_proxy: Live "http.client.noProxy",
        ca: Live "http.client.ca",
        certificates: Live "http.client.certificates.*",
    }
}

rows! {
    /// Keys of `[kafka.admin]`: each bundle has its own rights. The connection has those of consumers.
    ADMIN: Admin {
        allow: Live "kafka.admin.allow",
    }
}

rows! {
    /// Keys of `[kafkaConfig]`, `[consumerConfig]` and `[consumers.NAME]`: all of them are inputs of the client.
    CONSUMER: Consumer {
        name: Rejoin,
        group_id: Rejoin "groupId",
        properties: Rejoin "*",
        rebalance_timeout: Rejoin "rebalanceTimeout",
        session_timeout: Rejoin "sessionTimeout",
        metadata_max_age: Rejoin "metadataMaxAge",
        request_timeout: Rejoin "requestTimeout",
        transaction: Rejoin "exactlyOnce" | "transaction.*",
    }
}

rows! {
    /// Keys of `[producerConfig]` and `[producers.NAME]`: each bundle has its own producers, and shares equal ones.
    PRODUCER: Producer {
        name: Live,
        properties: Live "*",
        acks: Live "acks",
        is_idempotent: Live "idempotent",
        compression: Live "compression",
        timeout: Live "timeout",
        buffer_memory: Live "bufferMemory",
        metadata_max_age: Live "metadataMaxAge",
        is_written: Live,
    }
}

rows! {
    /// Keys of `[redis.NAME]`: each bundle has its own clients, and equal ones share a pool.
    REDIS: Redis {
        name: Live,
        addresses: Live "url",
        is_cluster: Live "cluster",
        user: Live "user",
        password: Live "password",
        database: Live,
        tls: Live "tls.*",
        size: Live "size",
        acquire_timeout: Live "acquireTimeout",
        connect_timeout: Live "connectTimeout",
        timeout: Live "timeout",
        max_reply: Live "maxReply",
    }
}

rows! {
    /// Keys of `[kv.NAME]`: a store with the same backend stays, with its entries.
    KV: Kv {
        name: Live,
        backend: Live "backend" | "redis" | "prefix",
        max_entries: Live "maxEntries",
        max_bytes: Live "maxBytes",
    }
}

rows! {
    /// Keys of `[sql.NAME]`, likewise.
    SQL: Sql {
        name: Live,
        location: Live "url" | "user" | "password" | "tls.*",
        size: Live "size",
        acquire_timeout: Live "acquireTimeout",
        connect_timeout: Live "connectTimeout",
        timeout: Live "timeout",
        max_rows: Live "maxRows",
        max_result: Live "maxResult",
        timestamps: Live "timestamps",
        prepare: Live "prepare",
        once_table: Live "onceTable",
        once_retention: Live "onceRetention",
    }
}

rows! {
    /// Keys of `[listenerDefaults]` and `[[listeners]]`: each bundle has its own listeners.
    LISTENER: Listener {
        name: Live "name",
        consumer: Live "consumer",
        topics: Live "topic" | "topics",
        handler: Live "handler",
        from_beginning: Live "subscription.fromBeginning",
        run: Live "runConfig.*",
        max_in_flight: Live "maxInFlight",
        max_deferred: Live "maxDeferred",
        ordering: Live "ordering",
        null_keys: Live "nullKeys",
        on_error: Live "onError",
        retry: Live "retry.*",
        dead_letter: Live "deadLetter.*",
        breaker: Live "breaker.*",
        limits: Live "limits.*",
        rate_limit: Live "rateLimit.*",
        delay: Live "delay",
        share: Live "share",
        produces: Live "produces",
        batch: Live "batch.*" | "eachBatch",
    }
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Consumers that are new.
    pub(crate) added: Vec<String>,
    /// Consumers to drain and close.
    pub(crate) removed: Vec<String>,
    /// Consumers to drain, close and start anew: an input of their client has changed.
    pub(crate) rejoin: Vec<String>,
    /// Keys (`lua.workers`) whose new value waits for a restart.
    pub(crate) restart: Vec<String>,
    pub(crate) listeners: Changes,
    pub(crate) producers: Changes,
    pub(crate) redis: Changes,
    pub(crate) kv: Changes,
    pub(crate) sql: Changes,
    /// Keys (`log.level`) outside consumers and listeners whose new value is in force at once.
    pub(crate) live: Vec<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub(crate) added: Vec<String>,
    pub(crate) removed: Vec<String>,
    pub(crate) changed: Vec<String>,
    /// Those that stay have another order; listeners run in it for a topic that they share.
    pub(crate) reordered: bool,
}

/// The changes from `old`, the running configuration, to `new`.
pub(crate) fn difference(old: &Config, new: &Config) -> Difference {
    let consumers = compare(
        &old.consumers,
        &new.consumers,
        |consumer| consumer.name.clone(),
        |old, new| changed(CONSUMER, Class::Rejoin, old, new).is_empty(),
    );
    let listeners = compare(
        &old.listeners,
        &new.listeners,
        |listener| listener.name.clone(),
        |old, new| changed(LISTENER, Class::Live, old, new).is_empty(),
    );
    let producers = compare(
        &old.producers,
        &new.producers,
        |producer| producer.name.clone(),
        |old, new| changed(PRODUCER, Class::Live, old, new).is_empty(),
    );
    let redis = compare(
        &old.redis,
        &new.redis,
        |redis| redis.name.clone(),
        |old, new| changed(REDIS, Class::Live, old, new).is_empty(),
    );
    let kv = compare(
        &old.kv,
        &new.kv,
        |kv| kv.name.clone(),
        |old, new| changed(KV, Class::Live, old, new).is_empty(),
    );
    let sql = compare(
        &old.sql,
        &new.sql,
        |sql| sql.name.clone(),
        |old, new| changed(SQL, Class::Live, old, new).is_empty(),
    );
    Difference {
        producers,
        redis,
        kv,
        sql,
        added: consumers.added,
        removed: consumers.removed,
        rejoin: consumers.changed,
        restart: process_keys(Class::Restart, old, new),
        listeners,
        live: process_keys(Class::Live, old, new),
    }
}

/// The keys of a class outside consumers and listeners whose values differ.
fn process_keys(class: Class, old: &Config, new: &Config) -> Vec<String> {
    // Without `..`: every field has a table above, or is no key.
    let Config {
        path: _,
        consumers: _,
        producers: _,
        admin,
        connection: _,
        listeners: _,
        lua,
        log,
        daemon,
        http,
        http_client,
        redis: _,
        kv: _,
        sql: _,
        warnings: _,
    } = old;
    let http = match (http, &new.http) {
        (Some(old), Some(new)) => changed(HTTP, class, old, new),
        (Some(_), None) | (None, Some(_)) if class == Class::Restart => vec![LISTEN.to_owned()],
        _ => Vec::new(),
    };
    [
        changed(ADMIN, class, admin, &new.admin),
        changed(LUA, class, lua, &new.lua),
        changed(LOG, class, log, &new.log),
        changed(DAEMON, class, daemon, &new.daemon),
        http,
        changed(HTTP_CLIENT, class, http_client, &new.http_client),
    ]
    .concat()
}

/// The configuration to run after a reload: `new`, except for the keys that only a restart can change.
pub(crate) fn effective(old: &Config, new: &Config) -> Config {
    let mut config = new.clone();
    keep_restart(LUA, &mut config.lua, &old.lua);
    keep_restart(LOG, &mut config.log, &old.log);
    keep_restart(DAEMON, &mut config.daemon, &old.daemon);
    match (&mut config.http, &old.http) {
        (Some(new), Some(old)) => keep_restart(HTTP, new, old),
        // A server that exists stays, and none is added.
        (new, old) => new.clone_from(old),
    }
    config
}

/// The first key of each row of the class whose values differ.
fn changed<T>(rows: &[Row<T>], class: Class, old: &T, new: &T) -> Vec<String> {
    rows.iter()
        .filter(|row| row.class == class && (row.differs)(old, new))
        .map(|row| row.keys.first().copied().unwrap_or_default().to_owned())
        .collect()
}

fn keep_restart<T>(rows: &[Row<T>], new: &mut T, old: &T) {
    rows.iter()
        .filter(|row| row.class == Class::Restart)
        .for_each(|row| (row.keep)(new, old));
}

impl Difference {
    /// The applied changes, for operators: `listeners added: orders; changed: log.level`.
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
        part("producers added", &self.producers.added);
        part("producers removed", &self.producers.removed);
        part("producers changed", &self.producers.changed);
        part("redis added", &self.redis.added);
        part("redis removed", &self.redis.removed);
        part("redis changed", &self.redis.changed);
        part("kv added", &self.kv.added);
        part("kv removed", &self.kv.removed);
        part("kv changed", &self.kv.changed);
        part("databases added", &self.sql.added);
        part("databases removed", &self.sql.removed);
        part("databases changed", &self.sql.changed);
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
) -> Changes {
    let find = |items: &[T], wanted: &str| items.iter().position(|item| name(item) == wanted);
    let mut result = Changes::default();
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

#[cfg(test)]
mod classes;
#[cfg(test)]
mod tests;
