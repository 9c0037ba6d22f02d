//! The clients and the stores of handlers in the output of `check`: the requests by HTTP, the Redis servers, the stores and databases.
//! No secret is shown.

use std::path::Path;

use serde_json::{Value as Json, json};

use crate::config::{HttpClient, Kv, KvBackend, Location, Redis, Sql, Timestamps, Tls};
use crate::duration::short;

pub(super) fn http_as_lines(client: &HttpClient) -> Vec<String> {
    let mut lines = vec![
        format!("requests reach {}", client.allow),
        format!(
            "at most {}, waited for {} at most; {} to connect, {} for a request, {} bytes of a response",
            super::counted(client.size, "connection"),
            short(client.acquire_timeout),
            short(client.connect_timeout),
            short(client.timeout),
            client.max_body
        ),
    ];
    if let Some(proxy) = &client.proxy {
        let (host, port) = (&proxy.host, proxy.port);
        lines.push(format!("by the proxy {host}:{port}"));
    }
    let certificates: Vec<&str> = client.certificates.keys().map(String::as_str).collect();
    if !certificates.is_empty() {
        lines.push(format!("client certificates {}", certificates.join(", ")));
    }
    lines
}

pub(super) fn http_as_json(client: &HttpClient) -> Json {
    json!({
        "allow": client.allow.to_string(),
        "size": client.size,
        "acquireTimeout": client.acquire_timeout.as_millis() as u64,
        "connectTimeout": client.connect_timeout.as_millis() as u64,
        "timeout": client.timeout.as_millis() as u64,
        "maxBody": client.max_body,
        "proxy": client.proxy.as_ref().map(|proxy| format!("{}:{}", proxy.host, proxy.port)),
        "noProxy": client.no_proxy.to_string(),
        "ca": client.ca.is_some(),
        "certificates": client.certificates.keys().collect::<Vec<_>>(),
    })
}

fn addresses(redis: &Redis) -> Vec<String> {
    redis.addresses.iter().map(ToString::to_string).collect()
}

pub(super) fn redis_as_lines(redis: &Redis) -> Vec<String> {
    let kind = if redis.is_cluster {
        "a cluster".to_owned()
    } else {
        format!("database {}", redis.database)
    };
    let user = match (&redis.user, &redis.password) {
        (Some(user), _) => format!("as {user}"),
        (None, Some(_)) => "with a password".to_owned(),
        (None, None) => "without a password".to_owned(),
    };
    let tls = tls(redis.tls.as_ref());
    vec![
        format!("{kind}, {user}, {tls}"),
        format!(
            "at most {}, waited for {} at most; {} to connect, {} for a call, {} bytes of replies",
            super::counted(redis.size, "connection"),
            short(redis.acquire_timeout),
            short(redis.connect_timeout),
            short(redis.timeout),
            redis.max_reply
        ),
    ]
}

fn tls(tls: Option<&Tls>) -> &'static str {
    match tls {
        None => "without TLS",
        Some(tls) if tls.certificate.is_some() => "with TLS and a client certificate",
        Some(_) => "with TLS",
    }
}

/// The line above those.
pub(super) fn redis_head(redis: &Redis) -> String {
    format!("redis {} at {}", redis.name, addresses(redis).join(", "))
}

pub(super) fn redis_as_json(redis: &Redis) -> Json {
    json!({
        "name": redis.name,
        "addresses": addresses(redis),
        "cluster": redis.is_cluster,
        "database": redis.database,
        "user": redis.user,
        "password": redis.password.is_some(),
        "tls": redis.tls.is_some(),
        "size": redis.size,
        "acquireTimeout": redis.acquire_timeout.as_millis() as u64,
        "connectTimeout": redis.connect_timeout.as_millis() as u64,
        "timeout": redis.timeout.as_millis() as u64,
        "maxReply": redis.max_reply,
    })
}

/// A store, where its entries lie, and its bounds.
pub(super) fn kv_as_line(kv: &Kv, state_directory: &Path) -> String {
    let name = &kv.name;
    let bounds = || {
        let (entries, bytes) = (kv.max_entries, kv.max_bytes);
        format!("at most {entries} entries and {bytes} bytes")
    };
    match &kv.backend {
        KvBackend::Memory => format!("kv {name} in memory: {}", bounds()),
        KvBackend::File => {
            let path = kv.path(state_directory);
            format!("kv {name} in {}: {}", path.display(), bounds())
        }
        KvBackend::Redis { redis, prefix, .. } => {
            format!("kv {name} in redis {redis}: keys begin with {prefix}")
        }
    }
}

pub(super) fn kv_as_json(kv: &Kv, state_directory: &Path) -> Json {
    let (redis, prefix) = match &kv.backend {
        KvBackend::Redis { redis, prefix, .. } => (Some(redis), Some(prefix)),
        KvBackend::Memory | KvBackend::File => (None, None),
    };
    let bound = |most: u64| redis.is_none().then_some(most);
    let is_file = kv.backend == KvBackend::File;
    json!({
        "name": kv.name,
        "backend": kv.backend.word(),
        "maxEntries": bound(kv.max_entries),
        "maxBytes": bound(kv.max_bytes),
        "file": is_file.then(|| kv.path(state_directory)),
        "redis": redis,
        "prefix": prefix,
    })
}

/// Where a database is, without its credentials.
fn location(sql: &Sql) -> String {
    match &sql.location {
        Location::Postgres(postgres) => {
            format!("postgres://{}/{}", postgres.address, postgres.database)
        }
        Location::MySql(mysql) => {
            let database = mysql.database.as_deref().unwrap_or_default();
            format!("mysql://{}/{database}", mysql.address)
        }
        Location::Sqlite(path) => format!("sqlite:{}", path.display()),
    }
}

pub(super) fn sql_head(sql: &Sql) -> String {
    format!("sql {} at {}", sql.name, location(sql))
}

/// Of a server: the user, whether there is a password, and TLS.
fn log_in(sql: &Sql) -> Option<(&str, bool, Option<&Tls>)> {
    match &sql.location {
        Location::Postgres(one) => Some((&one.user, one.password.is_some(), one.tls.as_ref())),
        Location::MySql(one) => Some((&one.user, one.password.is_some(), one.tls.as_ref())),
        Location::Sqlite(_) => None,
    }
}

pub(super) fn sql_as_lines(sql: &Sql) -> Vec<String> {
    let first = match log_in(sql) {
        Some((user, has_password, certificates)) => {
            let password = if has_password { "with" } else { "without" };
            let prepared = if sql.prepare {
                "stay prepared"
            } else {
                "are prepared for each call"
            };
            format!(
                "as {user}, {password} a password, {}; statements {prepared}",
                tls(certificates)
            )
        }
        None => "one connection writes, and the others read".to_owned(),
    };
    vec![
        first,
        format!(
            "at most {}, waited for {} at most; {} to connect, {} for a statement, {} rows and {} bytes of a result",
            super::counted(sql.size, "connection"),
            short(sql.acquire_timeout),
            short(sql.connect_timeout),
            short(sql.timeout),
            sql.max_rows,
            sql.max_result
        ),
        format!(
            "once keeps its rows in {} for {}, and until their messages are committed",
            sql.once_table.join("."),
            short(sql.once_retention)
        ),
    ]
}

pub(super) fn sql_as_json(sql: &Sql) -> Json {
    let log_in = log_in(sql);
    json!({
        "name": sql.name,
        "url": location(sql),
        "user": log_in.map(|(user, ..)| user),
        "password": log_in.is_some_and(|(_, has_password, _)| has_password),
        "tls": log_in.is_some_and(|(.., certificates)| certificates.is_some()),
        "size": sql.size,
        "acquireTimeout": sql.acquire_timeout.as_millis() as u64,
        "connectTimeout": sql.connect_timeout.as_millis() as u64,
        "timeout": sql.timeout.as_millis() as u64,
        "maxRows": sql.max_rows,
        "maxResult": sql.max_result,
        "timestamps": if sql.timestamps == Timestamps::Ms { "ms" } else { "string" },
        "prepare": sql.prepare,
        "onceTable": sql.once_table.join("."),
        "onceRetention": sql.once_retention.as_millis() as u64,
    })
}
