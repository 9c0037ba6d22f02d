//! `[redis.NAME]`: the Redis servers of handlers.

use std::fmt;
use std::time::Duration;

use super::certificates::{self, Certificate, Given, Secret};
use super::file::{self, File, OneOrMany, RedisTls};
use super::http_client::decoded;
use super::names::is_word;
use super::scene::Scene;
use super::unit::{Millis, Size};

const SIZE_MAX: u32 = 10_000;
const HOUR: Millis = Millis(3_600_000);
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

#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Address {
    pub(crate) host: String,
    pub(crate) port: u16,
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Tls {
    /// Trusted CA certificates as PEM; `None`: those of the system.
    pub(crate) ca: Option<Secret>,
    pub(crate) certificate: Option<Certificate>,
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

/// One table, as errors name its keys.
struct Table<'t> {
    path: [&'t str; 2],
}

impl Table<'_> {
    fn error(&self, keys: &[&str], message: impl Into<String>, scene: &mut Scene<'_, '_>) {
        let at = scene.at_keys(&self.path, keys);
        scene.report.error(at, message);
    }
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
    Redis {
        name: name.to_owned(),
        tls: tls(redis, &urls, &table, scene),
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
    let size = redis.size;
    if size == 0 || size > SIZE_MAX {
        let message = format!("`size` is {size}, not from 1 to {SIZE_MAX}");
        table.error(&["size"], message, scene);
    }
    for (key, found) in [
        ("acquireTimeout", redis.acquire_timeout),
        ("connectTimeout", redis.connect_timeout),
        ("timeout", redis.timeout),
    ] {
        if found.0 == 0 || found > HOUR {
            let message = format!("`{key}` is {found}, not from 1 ms to 1 h");
            table.error(&[key], message, scene);
        }
    }
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

fn tls(
    redis: &file::Redis,
    urls: &[Url],
    table: &Table<'_>,
    scene: &mut Scene<'_, '_>,
) -> Option<Tls> {
    let system = || Tls {
        ca: None,
        certificate: None,
    };
    let says_tls = urls.iter().any(|url| url.is_tls);
    match &redis.tls {
        None => says_tls.then(system),
        Some(RedisTls::On(true)) => Some(system()),
        Some(RedisTls::On(false)) => {
            if says_tls {
                let message =
                    "`tls` is false, but `url` begins with `rediss://`; remove one of them";
                table.error(&["tls"], message, scene);
            }
            None
        }
        Some(RedisTls::Table(certificates)) => {
            let inner = [table.path[0], table.path[1], "tls"];
            let given = Given {
                what: "the client certificate",
                cert: certificates.cert.as_deref(),
                key: certificates.key.as_deref(),
                passphrase: certificates.passphrase.as_deref(),
            };
            let has_certificate = given.cert.is_some() || given.key.is_some();
            Some(Tls {
                ca: certificates::ca(certificates.ca.as_ref(), &inner, scene),
                certificate: has_certificate
                    .then(|| certificates::certificate(&given, &inner, scene))
                    .flatten(),
            })
        }
    }
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
        address: address(authority)?,
        database,
    })
}

fn address(authority: &str) -> Option<Address> {
    let (host, port) = if let Some(rest) = authority.strip_prefix('[') {
        let (host, rest) = rest.split_once(']')?;
        let port = match rest.strip_prefix(':') {
            None if rest.is_empty() => PORT,
            port => port?.parse().ok()?,
        };
        (host, port)
    } else {
        match authority.split_once(':') {
            None => (authority, PORT),
            Some((host, port)) => (host, port.parse().ok()?),
        }
    };
    let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:".contains(&byte);
    (!host.is_empty() && host.bytes().all(is_usual) && port > 0).then(|| Address {
        host: host.to_ascii_lowercase(),
        port,
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
