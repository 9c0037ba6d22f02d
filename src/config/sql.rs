//! `[sql.NAME]`: the databases of handlers.

mod url;

use std::path::PathBuf;
use std::time::Duration;

use super::certificates::Secret;
pub(crate) use super::file::Timestamps;
use super::file::{self, File};
use super::names::is_word;
use super::scene::Scene;
use super::server::{Address, Table, Tls};
use super::unit::{Millis, Size};

use url::{FORM, Scheme, Url};

const ROWS_MAX: u32 = 10_000_000;
const RESULT_MAX: Size = Size(1 << 30);
const HOUR: Millis = Millis(3_600_000);
const YEARS: Millis = Millis(10 * 366 * 24 * 3_600_000);
/// The longest name that PostgreSQL keeps whole.
const NAME_BYTES: usize = 63;

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
    /// MySQL or MariaDB.
    MySql(Box<MySql>),
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

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MySql {
    pub(crate) address: Address,
    pub(crate) user: String,
    pub(crate) password: Option<Secret>,
    /// `None`: statements name it.
    pub(crate) database: Option<String>,
    pub(crate) tls: Option<Tls>,
    pub(crate) application: String,
}

#[cfg(test)]
impl Sql {
    /// One at this machine, with the defaults.
    pub(crate) fn named(name: &str) -> Self {
        let location = Location::Postgres(Box::new(Postgres {
            address: Address {
                host: "127.0.0.1".to_owned(),
                port: Scheme::Postgres.port(),
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
        None => server(name, url, sql, &table, scene)?,
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
fn server(
    name: &str,
    text: &str,
    sql: &file::Sql,
    table: &Table<'_>,
    scene: &mut Scene<'_, '_>,
) -> Option<Location> {
    let url = match url::url(text) {
        Ok(url) => url,
        Err(message) => {
            table.error(&["url"], message, scene);
            return None;
        }
    };
    let Url { scheme, .. } = url;
    let Some(user) = sql.user.clone().or(url.user) else {
        let word = scheme.word();
        let message = format!("there is no user; write `user`, or \"{word}://user@host/database\"");
        table.error(&["url"], message, scene);
        return None;
    };
    let key = scheme.tls_parameter();
    let says_tls = format!("has an `{key}` that requires it");
    let says_tls = (url.is_tls == Some(true)).then_some(&*says_tls);
    let mut tls = table.tls(sql.tls.as_ref(), says_tls, scene);
    if url.is_tls == Some(false) && tls.is_some() {
        let message =
            format!("`tls` is set, but `url` has an `{key}` without it; remove one of them");
        table.error(&["tls"], message, scene);
        tls = None;
    }
    let (address, database) = (url.address, url.database);
    let password = sql.password.clone().or(url.password).map(Secret);
    let application = url
        .application
        .unwrap_or_else(|| format!("moontide:{name}"));
    Some(match scheme {
        Scheme::Postgres => Location::Postgres(Box::new(Postgres {
            address,
            database: database.unwrap_or_else(|| user.clone()),
            user,
            password,
            tls,
            application,
            options: url.options,
        })),
        Scheme::MySql => Location::MySql(Box::new(MySql {
            address,
            user,
            password,
            database,
            tls,
            application,
        })),
    })
}
