//! `[redis.NAME]`: the Redis servers of handlers.

use std::time::Duration;

use super::certificates::Secret;
use super::file::{self, File, OneOrMany};
use super::http_client::decoded;
use super::names::is_word;
use super::scene::Scene;
use super::server::{Address, Table, Tls};
use super::unit::Size;

const REPLY_MAX: Size = Size(1 << 30);
const DATABASE_MAX: u32 = 1_000_000;
const PORT: u16 = 6379;
const FORM: &str = "\"redis://host:6379/0\", \"redis://user:password@host:6379\" or, with TLS, \"rediss://host:6379\"";

/// A Redis server, or a cluster of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Redis {
    pub(crate) name: String,
    /// One, or the members of a cluster that are asked for the others.
    pub(crate) addresses: Vec<Address>,
    pub(crate) is_cluster: bool,
    pub(crate) user: Option<String>,
    pub(crate) password: Option<Secret>,
    pub(crate) database: u32,
    pub(crate) tls: Option<Tls>,
    /// The most connections at once.
    pub(crate) size: usize,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Of a whole call.
    pub(crate) timeout: Duration,
    /// Bytes of the replies of a call.
    pub(crate) max_reply: usize,
}

/// What an address says.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    is_tls: bool,
    user: Option<String>,
    password: Option<String>,
    address: Address,
    database: Option<u32>,
}

#[cfg(test)]
impl Redis {
    /// One at this machine, with the defaults.
    pub(crate) fn named(name: &str) -> Self {
        let redis = file::Redis::default();
        Self {
            name: name.to_owned(),
            addresses: vec![Address {
                host: "127.0.0.1".to_owned(),
                port: PORT,
            }],
            is_cluster: false,
            user: None,
            password: None,
            database: 0,
            tls: None,
            size: redis.size as usize,
            acquire_timeout: redis.acquire_timeout.duration(),
            connect_timeout: redis.connect_timeout.duration(),
            timeout: redis.timeout.duration(),
            max_reply: redis.max_reply.0 as usize,
        }
    }
}

pub(super) fn resolve(file: &File, scene: &mut Scene<'_, '_>) -> Vec<Redis> {
    let named = file.redis.iter();
    named.map(|(name, redis)| one(name, redis, scene)).collect()
}

fn one(name: &str, redis: &file::Redis, scene: &mut Scene<'_, '_>) -> Redis {
    let table = Table {
        path: ["redis", name],
    };
    if !is_word(name) {
        let message = format!("redis `{name}`: a name has letters, digits, `_` and `-` only");
        table.error(&[], message, scene);
    }
    limits(redis, &table, scene);
    let urls = urls(redis, &table, scene);
    let is_cluster = redis.cluster || urls.len() > 1;
    let one_of = |what: fn(&Url) -> Option<String>| urls.iter().find_map(what);
    let user = redis
        .user
        .clone()
        .or_else(|| one_of(|url| url.user.clone()));
    let password = redis.password.clone();
    let password = password.or_else(|| one_of(|url| url.password.clone()));
    if user.is_some() && password.is_none() {
        table.error(&["user"], "a user needs a `password`", scene);
    }
    let database = urls.iter().find_map(|url| url.database).unwrap_or_default();
    if is_cluster && database > 0 {
        let message =
            format!("`url` has the database {database}, but a cluster has the database 0 alone");
        table.error(&["url"], message, scene);
    }
    let says_tls = urls.iter().any(|url| url.is_tls);
    Redis {
        name: name.to_owned(),
        tls: table.tls(
            redis.tls.as_ref(),
            says_tls.then_some("begins with `rediss://`"),
            scene,
        ),
        addresses: urls.into_iter().map(|url| url.address).collect(),
        is_cluster,
        user,
        password: password.map(Secret),
        database,
        size: redis.size as usize,
        acquire_timeout: redis.acquire_timeout.duration(),
        connect_timeout: redis.connect_timeout.duration(),
        timeout: redis.timeout.duration(),
        max_reply: redis.max_reply.0 as usize,
    }
}

fn limits(redis: &file::Redis, table: &Table<'_>, scene: &mut Scene<'_, '_>) {
    table.check_size(redis.size, scene);
    let times = [
        ("acquireTimeout", redis.acquire_timeout),
        ("connectTimeout", redis.connect_timeout),
        ("timeout", redis.timeout),
    ];
    table.check_times(&times, scene);
    let most = redis.max_reply;
    if most.0 == 0 || most > REPLY_MAX {
        let message = format!("`maxReply` is {most}, not from 1 B to 1 GiB");
        table.error(&["maxReply"], message, scene);
    }
}

/// The addresses, all of one kind. No error shows one: it may have a password.
fn urls(redis: &file::Redis, table: &Table<'_>, scene: &mut Scene<'_, '_>) -> Vec<Url> {
    let list = match &redis.url {
        Some(OneOrMany::One(one)) => std::slice::from_ref(one),
        Some(OneOrMany::Many(list)) => list,
        None => &[],
    };
    if list.is_empty() {
        let is_left_out = scene.report.is_left_out("url");
        if !is_left_out {
            let message = format!("`url` is missing; write {FORM}");
            table.error(&[], message, scene);
        }
        return Vec::new();
    }
    let mut found = Vec::with_capacity(list.len());
    for text in list {
        match url(text) {
            Some(url) => found.push(url),
            None => table.error(&["url"], format!("`url` is not as {FORM}"), scene),
        }
    }
    if found.windows(2).any(|two| two[0].is_tls != two[1].is_tls) {
        let message =
            "`url` mixes `redis://` and `rediss://`; a cluster has TLS everywhere, or nowhere";
        table.error(&["url"], message, scene);
    }
    found
}

fn url(text: &str) -> Option<Url> {
    let (is_tls, rest) = match text.split_once("://")? {
        ("redis", rest) => (false, rest),
        ("rediss", rest) => (true, rest),
        _ => return None,
    };
    let (credentials, rest) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((credentials, rest)) => (Some(credentials), rest),
    };
    let (user, password) = match credentials.map(|both| both.split_once(':')) {
        None => (None, None),
        // As redis-cli has it: a word alone is the user.
        Some(None) => (Some(decoded(credentials?)?), None),
        Some(Some((user, password))) => (Some(decoded(user)?), Some(decoded(password)?)),
    };
    let (authority, database) = match rest.split_once('/') {
        None | Some((_, "")) => (rest.trim_end_matches('/'), None),
        Some((authority, database)) => (authority, Some(database.parse().ok()?)),
    };
    if database.is_some_and(|database| database > DATABASE_MAX) {
        return None;
    }
    Some(Url {
        is_tls,
        user: user.filter(|user| !user.is_empty()),
        password: password.filter(|password| !password.is_empty()),
        address: Address::parse(authority, PORT)?,
        database,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_scheme_credentials_host_port_and_database() {
        let found = url("rediss://al%40ice:p%3Aw@Cache.example:6380/3").unwrap();
        assert_eq!(
            found,
            Url {
                is_tls: true,
                user: Some("al@ice".to_owned()),
                password: Some("p:w".to_owned()),
                address: Address {
                    host: "cache.example".to_owned(),
                    port: 6380,
                },
                database: Some(3),
            }
        );
        let short = url("redis://:pw@[::1]/").unwrap();
        assert_eq!(short.address.to_string(), "[::1]:6379");
        assert_eq!((short.user, short.password), (None, Some("pw".to_owned())));
        assert_eq!(url("redis://h").unwrap().address.to_string(), "h:6379");
    }

    #[test]
    fn anything_else_is_no_address() {
        for text in [
            "h:6379",
            "http://h",
            "redis://",
            "redis://h:port",
            "redis://h:0",
            "redis://h/x",
            "redis://h/9999999",
            "redis://h h",
            "redis://u:%zz@h",
            "redis://[::1",
            "unix:///run/redis.sock",
        ] {
            assert_eq!(url(text), None, "{text}");
        }
    }
}
