//! **The seam between the kinds of databases and what all of them share.** A further kind implements [`Driver`] and
//! [`Connection`], and has a line in `open` of `outgoing/sql.rs`.
//!
//! A connection serves one call at a time, which owns it. Between two exchanges it is *clean*. A call that is given up in
//! an exchange leaves it unclean, and then it is abandoned: never used again.

use std::future::Future;
use std::time::Duration;

use tokio::time::Instant;

use super::insertion;
use crate::config::Sql as Settings;
use crate::outgoing::pool::{Open, Reusable};
use crate::wait::sql::{Begin, Insert, Statement};
use crate::wait::{Fault, Value};

/// What a value costs beside its bytes.
pub(super) const VALUE_BYTES: usize = 32;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    Reads,
    Writes,
}

/// The bounds of a result.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bounds {
    pub(super) rows: usize,
    pub(super) bytes: usize,
    /// The rows are read and thrown away.
    pub(super) only_count: bool,
}

impl Bounds {
    /// The result has more bytes.
    pub(super) fn too_large(&self) -> Fault {
        let message = format!(
            "the result has more than {} bytes, which `maxResult` of the table allows; read it in parts, by LIMIT",
            self.bytes
        );
        Fault::new("tooLarge", message)
    }
}

/// One row alone has more bytes than a result may have.
pub(super) fn row_too_large() -> Fault {
    Fault::new("tooLarge", "a row is larger than `maxResult` allows")
}

/// What a statement has given.
#[derive(Debug, Default)]
pub(super) struct Outcome {
    pub(super) columns: Vec<Box<[u8]>>,
    pub(super) rows: Vec<Vec<Value>>,
    /// The rows that it has changed, or read.
    pub(super) count: u64,
}

/// The end of one statement.
#[derive(Debug)]
pub(super) enum Ran {
    Done(Outcome),
    /// It writes, and the connection is for reads. Nothing has happened.
    Writes,
}

/// The end of a `COMMIT`.
#[derive(Debug)]
pub(super) enum NotCommitted {
    /// The database says so.
    Refused(Fault),
    /// No answer has come: it may be committed.
    Unanswered(String),
}

pub(super) trait Driver: Send + Sync + 'static {
    type Connection: Connection;

    /// Whether statements that only read have connections of their own.
    const HAS_READERS: bool;

    fn new(settings: &Settings, shared: &super::Shared) -> Self;

    /// Where the database is, for errors.
    fn location(&self) -> String;

    /// The name of a table, with its schema, as statements write it.
    fn table(parts: &[String]) -> String {
        insertion::table(parts)
    }

    /// Inserts an identity, its `scope` and the offset of its message into the table of `once`, unless it is there: then
    /// the statement changes no row.
    fn once_text(table: &str) -> String {
        format!(
            "INSERT INTO {table} (id, scope, message_offset) VALUES ($1, $2, $3) ON CONFLICT (id) DO NOTHING"
        )
    }

    /// Deletes at most `most` rows of the table of `once` that are older than this. Of its two parameters the first is
    /// their `scope`, and the second the offset below which their messages are committed.
    fn delete_done(table: &str, age: Duration, most: usize) -> String;

    /// A new connection. `open` counts it, until its end.
    fn connect(
        &self,
        role: Role,
        open: Open,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Connection, Fault>> + Send;
}

pub(super) trait Connection: Reusable {
    /// Whether the last exchange has ended.
    fn is_clean(&self) -> bool;

    fn is_in_transaction(&self) -> bool;

    /// Whether a statement of its transaction has failed, so that no other is possible.
    fn has_failed(&self) -> bool;

    fn run(
        &mut self,
        statement: &Statement,
        bounds: Bounds,
    ) -> impl Future<Output = Result<Ran, Fault>> + Send;

    /// All rows or none, also outside of a transaction.
    fn insert(&mut self, insert: &Insert) -> impl Future<Output = Result<u64, Fault>> + Send;

    fn begin(&mut self, begin: &Begin) -> impl Future<Output = Result<(), Fault>> + Send;

    fn commit(&mut self) -> impl Future<Output = Result<(), NotCommitted>> + Send;

    fn rollback(&mut self) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Makes the table of `once` where it is not there: `id`, its key; `scope`; `message_offset`; and `at`, which is now by
    /// default.
    fn make_once_table(
        &mut self,
        table: &[String],
    ) -> impl Future<Output = Result<(), Fault>> + Send;

    /// Ends what the database may still do for it, and closes it.
    fn abandon(self) -> impl Future<Output = ()> + Send;
}
