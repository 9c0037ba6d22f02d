//! `[sql.NAME]`: the databases of handlers.

use std::path::PathBuf;
use std::time::Duration;

use super::certificates::Secret;
pub(crate) use super::file::Timestamps;
use super::file::{self, File};
use super::http_client::decoded;
use super::names::is_word;
use super::scene::Scene;
use super::server::{Address, Table, Tls};
use super::unit::{Millis, Size};
use crate::nearest::suggestion;

const PORT: u16 = 5432;
const ROWS_MAX: u32 = 10_000_000;
const RESULT_MAX: Size = Size(1 << 30);
const HOUR: Millis = Millis(3_600_000);
const YEARS: Millis = Millis(10 * 366 * 24 * 3_600_000);
/// The longest name that PostgreSQL keeps whole.
const NAME_BYTES: usize = 63;
const FORM: &str = "\"postgres://user@host:5432/database\" or \"sqlite:path\"";
const PARAMETERS: [&str; 3] = ["application_name", "options", "sslmode"];
const SSL_MODES: [&str; 4] = ["disable", "require", "verify-ca", "verify-full"];

/// A database of handlers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Sql {
    pub(crate) name: String,
    pub(crate) location: Location,
    /// The most connections at once; of SQLite, those that read.
    pub(crate) size: usize,
    pub(crate) acquire_timeout: Duration,
    pub(crate) connect_timeout: Duration,
    /// Of a statement.
    pub(crate) timeout: Duration,
    pub(crate) max_rows: usize,
    /// Bytes of a result.
    pub(crate) max_result: usize,
    pub(crate) timestamps: Timestamps,
    /// Whether statements stay prepared.
    pub(crate) prepare: bool,
    /// The parts of the name of the table of `once`: of the schema, if it has one, and of the table.
    pub(crate) once_table: Vec<String>,
    pub(crate) once_retention: Duration,
}

/// The kind of a database, and where it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Location {
    Postgres(Box<Postgres>),
    /// Its file.
    Sqlite(PathBuf),
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Postgres {
    pub(crate) address: Address,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    pub(crate) database: String,
    pub(crate) tls: Option<Tls>,
    pub(crate) application: String,
    /// `-c name=value`, as the server takes them.
    pub(crate) options: Option<String>,
}

/// The address of a PostgreSQL server, as it is written.
#[derive(Debug, PartialEq, Eq)]
struct Url {
    user: Option<String>,
    password: Option<String>,
    address: Address,
    database: Option<String>,
    application: Option<String>,
    options: Option<String>,
    is_tls: Option<bool>,
}

#[cfg(test)]
impl Sql {
    /// One at this machine, with the defaults.
    pub(crate) fn named(name: &str) -> Self {
        let location = Location::Postgres(Box::new(Postgres {
            address: Address {
                host: "127.0.0.1".to_owned(),
                port: PORT,
            },
            user: "moontide".to_owned(),
            password: None,
            database: "moontide".to_owned(),
            tls: None,
            application: format!("moontide:{name}"),
            options: None,
        }));
        Self::of(name, &file::Sql::default(), location)
    }
}

impl Sql {
    fn of(name: &str, sql: &file::Sql, location: Location) -> Self {
        Self {
            name: name.to_owned(),
            location,
            size: sql.size as usize,
            acquire_timeout: sql.acquire_timeout.duration(),
            connect_timeout: sql.connect_timeout.duration(),
            timeout: sql.timeout.duration(),
            max_rows: sql.max_rows as usize,
            max_result: sql.max_result.0 as usize,
            timestamps: sql.timestamps,
            prepare: sql.prepare,
            once_table: sql.once_table.split('.').map(str::to_owned).collect(),
            once_retention: sql.once_retention.duration(),
        }
    }
}

pub(super) fn resolve(file: &File, scene: &mut Scene<'_, '_>) -> Vec<Sql> {
    let named = file.sql.iter();
    named
        .filter_map(|(name, sql)| one(name, sql, scene))
        .collect()
}

/// `None` where the report has the reason.
fn one(name: &str, sql: &file::Sql, scene: &mut Scene<'_, '_>) -> Option<Sql> {
    let table = Table {
        path: ["sql", name],
    };
    if !is_word(name) {
        let message = format!("database `{name}`: a name has letters, digits, `_` and `-` only");
        table.error(&[], message, scene);
    }
    limits(sql, &table, scene);
    let Some(url) = &sql.url else {
        if !scene.report.is_left_out("url") {
            table.error(&[], format!("`url` is missing; write {FORM}"), scene);
        }
        return None;
    };
    let location = match url.strip_prefix("sqlite:") {
        Some(path) => sqlite(path, sql, &table, scene)?,
        None => postgres(name, url, sql, &table, scene)?,
    };
    Some(Sql::of(name, sql, location))
}

fn limits(sql: &file::Sql, table: &Table<'_>, scene: &mut Scene<'_, '_>) {
    table.check_size(sql.size, scene);
    let times = [
        ("acquireTimeout", sql.acquire_timeout),
        ("connectTimeout", sql.connect_timeout),
        ("timeout", sql.timeout),
    ];
    table.check_times(&times, scene);
    let rows = sql.max_rows;
    if rows == 0 || rows > ROWS_MAX {
        let message = format!("`maxRows` is {rows}, not from 1 to {ROWS_MAX}");
        table.error(&["maxRows"], message, scene);
    }
    let most = sql.max_result;
    if most.0 == 0 || most > RESULT_MAX {
        let message = format!("`maxResult` is {most}, not from 1 B to 1 GiB");
        table.error(&["maxResult"], message, scene);
    }
    let kept = sql.once_retention;
    if kept < HOUR || kept > YEARS {
        let message = format!("`onceRetention` is {kept}, not from 1 h to 10 years");
        table.error(&["onceRetention"], message, scene);
    }
    let parts: Vec<&str> = sql.once_table.split('.').collect();
    let is_name = |part: &&str| {
        let is_usual = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
        part.bytes().all(is_usual)
            && part.len() <= NAME_BYTES
            && part.starts_with(|first: char| !first.is_ascii_digit())
    };
    if parts.len() > 2 || !parts.iter().all(is_name) {
        let found = &sql.once_table;
        let message = format!(
            "`onceTable` is {found:?}, not a name of letters, digits and `_`, such as \"moontide_once\" or \
             \"app.moontide_once\""
        );
        table.error(&["onceTable"], message, scene);
    }
}

fn sqlite(
    path: &str,
    sql: &file::Sql,
    table: &Table<'_>,
    scene: &mut Scene<'_, '_>,
) -> Option<Location> {
    for (key, is_there) in [
        ("user", sql.user.is_some()),
        ("password", sql.password.is_some()),
        ("tls", sql.tls.is_some()),
    ] {
        if is_there {
            let message = format!("SQLite is a file and has no `{key}`; remove it");
            table.error(&[key], message, scene);
        }
    }
    let wrong = match path {
        "" => Some("`url` has no path; write \"sqlite:path\"".to_owned()),
        ":memory:" | "memory" => Some(
            "`url` is a database in memory, which each connection would have for itself; write the path of a file"
                .to_owned(),
        ),
        path if path.contains(['?', '\0']) => {
            Some("`url` has parameters behind the path, which SQLite does not take here".to_owned())
        }
        _ => None,
    };
    if let Some(message) = wrong {
        table.error(&["url"], message, scene);
        return None;
    }
    // `sqlite://relative` and `sqlite:///absolute`, as other programs write it.
    let path = path.strip_prefix("//").unwrap_or(path);
    Some(Location::Sqlite(scene.folder.join(path)))
}

/// No error shows the address: it may have a password.
fn postgres(
    name: &str,
    text: &str,
    sql: &file::Sql,
    table: &Table<'_>,
    scene: &mut Scene<'_, '_>,
) -> Option<Location> {
    let url = match url(text) {
        Ok(url) => url,
        Err(message) => {
            table.error(&["url"], message, scene);
            return None;
        }
    };
    let Some(user) = sql.user.clone().or(url.user) else {
        let message = "there is no user; write `user`, or \"postgres://user@host/database\"";
        table.error(&["url"], message, scene);
        return None;
    };
    let says_tls = (url.is_tls == Some(true)).then_some("has an `sslmode` that requires it");
    let mut tls = table.tls(sql.tls.as_ref(), says_tls, scene);
    if url.is_tls == Some(false) && tls.is_some() {
        let message = "`tls` is set, but `url` has `sslmode=disable`; remove one of them";
        table.error(&["tls"], message, scene);
        tls = None;
    }
    Some(Location::Postgres(Box::new(Postgres {
        address: url.address,
        database: url.database.unwrap_or_else(|| user.clone()),
        user,
        password: sql.password.clone().or(url.password).map(Secret),
        tls,
        application: url
            .application
            .unwrap_or_else(|| format!("moontide:{name}")),
        options: url.options,
    })))
}

/// An error is a sentence on the key `url`.
fn url(text: &str) -> Result<Url, String> {
    let form = || format!("`url` is not as {FORM}");
    let (scheme, rest) = text.split_once(':').ok_or_else(form)?;
    if !matches!(scheme, "postgres" | "postgresql") {
        // A scheme alone is no secret.
        let is_word = scheme.len() <= 12 && scheme.bytes().all(|byte| byte.is_ascii_alphabetic());
        return Err(match scheme {
            "mysql" | "mariadb" => "`url` is that of MySQL, which is not supported yet".to_owned(),
            _ if is_word && rest.starts_with("//") => {
                format!("`url` begins with `{scheme}://`, and not as {FORM}")
            }
            _ => form(),
        });
    }
    let rest = rest.strip_prefix("//").ok_or_else(form)?;
    let (rest, query) = rest.split_once('?').unwrap_or((rest, ""));
    let (credentials, rest) = match rest.rsplit_once('@') {
        None => (None, rest),
        Some((credentials, rest)) => (Some(credentials), rest),
    };
    let (user, password) = match credentials.map(|both| both.split_once(':')) {
        None => (None, None),
        Some(None) => (credentials, None),
        Some(Some((user, password))) => (Some(user), Some(password)),
    };
    let text = |part: Option<&str>| match part.filter(|part| !part.is_empty()) {
        None => Ok(None),
        Some(part) => decoded(part).map(Some).ok_or_else(form),
    };
    let (authority, database) = rest.split_once('/').unwrap_or((rest, ""));
    if authority.contains(',') {
        return Err(
            "`url` has several servers, and takes one; write that of the primary, or of a proxy before it"
                .to_owned(),
        );
    }
    if authority.is_empty() || authority.starts_with('%') {
        return Err("`url` has no host; a Unix socket is not supported, write a host".to_owned());
    }
    let mut url = Url {
        user: text(user)?,
        password: text(password)?,
        address: Address::parse(authority, PORT).ok_or_else(form)?,
        database: text(Some(database))?,
        application: None,
        options: None,
        is_tls: None,
    };
    for pair in query.split('&').filter(|pair| !pair.is_empty()) {
        let (key, value) = pair.split_once('=').ok_or_else(form)?;
        parameter(&mut url, key, decoded(value).ok_or_else(form)?)?;
    }
    Ok(url)
}

fn parameter(url: &mut Url, key: &str, value: String) -> Result<(), String> {
    match key {
        "application_name" => url.application = Some(value),
        "options" => url.options = Some(value),
        "sslmode" if value == "disable" => url.is_tls = Some(false),
        "sslmode" if SSL_MODES.contains(&value.as_str()) => url.is_tls = Some(true),
        "sslmode" => {
            return Err(format!(
                "`url` has another `sslmode` than {}; with TLS, certificates are always checked",
                SSL_MODES.join(", ")
            ));
        }
        "connect_timeout" => {
            return Err("`url` has `connect_timeout`; write the key `connectTimeout`".to_owned());
        }
        "sslrootcert" | "sslcert" | "sslkey" => {
            return Err(format!("`url` has `{key}`; write it below `tls`"));
        }
        _ => {
            let meant = suggestion(key, &PARAMETERS);
            return Err(format!("`url` has a parameter that is not known, {meant}"));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_its_parts() {
        let found = url(
            "postgresql://al%40ice:p%3A%2Fw@Db.example:5433/my%20db?sslmode=verify-full&application_name=a&options=-c%20x=1",
        );
        let expected = Url {
            user: Some("al@ice".to_owned()),
            password: Some("p:/w".to_owned()),
            address: Address {
                host: "db.example".to_owned(),
                port: 5433,
            },
            database: Some("my db".to_owned()),
            application: Some("a".to_owned()),
            options: Some("-c x=1".to_owned()),
            is_tls: Some(true),
        };
        assert_eq!(found, Ok(expected));
        let short = url("postgres://h").unwrap();
        assert_eq!(short.address.to_string(), "h:5432");
        assert_eq!(
            (short.user, short.database, short.is_tls),
            (None, None, None)
        );
        assert_eq!(
            url("postgres://[::1]/d").unwrap().address.to_string(),
            "[::1]:5432"
        );
    }

    #[test]
    fn anything_else_is_told_without_a_secret() {
        for (text, expected) in [
            ("db.example:5432", "is not as"),
            ("mysql://u:secret@h/d", "that of MySQL"),
            ("mongodb://u:secret@h/d", "begins with `mongodb://`"),
            ("secret", "is not as"),
            ("postgres:secret", "is not as"),
            ("postgres://u:secret@h:port/d", "is not as"),
            ("postgres://u:secret@a,b/d", "several servers"),
            ("postgres:///d?host=/run", "no host"),
            ("postgres://h/d?sslmode=prefer", "another `sslmode`"),
            ("postgres://h/d?password=secret", "not known"),
            ("postgres://h/d?sslrootcert=x", "below `tls`"),
            ("postgres://h/d?connect_timeout=1", "`connectTimeout`"),
        ] {
            let error = url(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }
}
