//! SQLite: a file, by the library itself. Its work blocks, so it runs on threads for that.
//!
//! One connection writes, and others read beside it (`journal_mode = WAL`). A statement that is given up is interrupted,
//! and its connection is closed, which rolls back.

mod connection;
mod faults;
mod values;

use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::OpenFlags;
use tokio::time::{Instant, timeout_at};

use super::driver::{Driver, Role};
use super::{Shared, insertion};
use crate::config::{Location, Sql as Settings};
use crate::outgoing::pool::Open;
use crate::wait::Fault;

use connection::Connection;

pub(super) struct Sqlite {
    path: PathBuf,
    /// The wait for the lock of another process.
    busy: Duration,
}

impl Driver for Sqlite {
    type Connection = Connection;

    const HAS_READERS: bool = true;

    fn new(settings: &Settings, _: &Shared) -> Self {
        let path = match &settings.location {
            Location::Sqlite(path) => path.clone(),
            Location::Postgres(_) | Location::MySql(_) => PathBuf::new(),
        };
        Self {
            path,
            busy: settings.acquire_timeout,
        }
    }

    fn location(&self) -> String {
        self.path.display().to_string()
    }

    fn delete_done(table: &str, age: Duration, most: usize) -> String {
        let seconds = age.as_secs();
        format!(
            "DELETE FROM {table} WHERE id IN (SELECT id FROM {table} WHERE scope = ?1 AND message_offset < ?2 AND \
             at < unixepoch() - {seconds} LIMIT {most})"
        )
    }

    async fn connect(
        &self,
        role: Role,
        open: Open,
        deadline: Instant,
    ) -> Result<Connection, Fault> {
        let (path, busy) = (self.path.clone(), self.busy);
        let opening = tokio::task::spawn_blocking(move || opened(&path, busy, role));
        match timeout_at(deadline, opening).await {
            Ok(Ok(Ok(connection))) => Ok(Connection::new(connection, role, open)),
            Ok(Ok(Err(error))) => {
                let path = self.path.display();
                let message = format!(
                    "`{path}` cannot be opened: {}",
                    faults::fault(&error).message
                );
                Err(Fault::new("unreachable", message))
            }
            Ok(Err(_)) => Err(Fault::new(
                "internal",
                "the work on the database ended without an answer",
            )),
            Err(_) => {
                let path = self.path.display();
                Err(Fault::new(
                    "unreachable",
                    format!("`{path}` was not opened in time"),
                ))
            }
        }
    }
}

fn opened(path: &Path, busy: Duration, role: Role) -> rusqlite::Result<rusqlite::Connection> {
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX;
    let connection = rusqlite::Connection::open_with_flags(path, flags)?;
    connection.busy_timeout(busy)?;
    connection.query_row("PRAGMA journal_mode = WAL", [], |_| Ok(()))?;
    // A commit is on the disk when it returns.
    connection.execute_batch("PRAGMA synchronous = FULL; PRAGMA foreign_keys = ON")?;
    if role == Role::Reads {
        connection.execute_batch("PRAGMA query_only = ON")?;
    }
    Ok(connection)
}

/// The statements that make the table of `once`.
fn once_table(table: &[String]) -> String {
    let name = insertion::table(table);
    let (bare, schema) = match table {
        [schema, bare] => (bare.as_str(), format!("{}.", insertion::quoted(schema))),
        parts => (parts.first().map_or("", String::as_str), String::new()),
    };
    let (index, bare) = (
        insertion::quoted(&format!("{bare}_at")),
        insertion::quoted(bare),
    );
    format!(
        "CREATE TABLE IF NOT EXISTS {name} (id TEXT PRIMARY KEY, scope TEXT NOT NULL, message_offset INTEGER NOT NULL, at \
         INTEGER NOT NULL DEFAULT (unixepoch())) WITHOUT ROWID; CREATE INDEX IF NOT EXISTS {schema}{index} ON {bare} \
         (scope, at)"
    )
}
