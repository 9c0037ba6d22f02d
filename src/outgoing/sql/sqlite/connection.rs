//! One connection to a file. Each exchange is work on a thread that may block.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::fallible_iterator::FallibleIterator as _;
use rusqlite::{Batch, InterruptHandle, Statement as Prepared};

use super::faults::fault;
use super::{once_table, values};
use crate::outgoing::pool::{Open, Reusable};
use crate::outgoing::sql::driver::{self, Bounds, NotCommitted, Outcome, Ran, Role, VALUE_BYTES};
use crate::outgoing::sql::insertion;
use crate::wait::sql::{Begin, Insert, Statement};
use crate::wait::{Fault, Value};

/// The time between two interrupts of work that is given up: it may not have begun.
const AGAIN: Duration = Duration::from_millis(10);

pub(in crate::outgoing::sql) struct Connection {
    inner: Arc<Mutex<rusqlite::Connection>>,
    interrupt: Arc<InterruptHandle>,
    /// What has not begun does not begin.
    is_given_up: Arc<AtomicBool>,
    role: Role,
    is_clean: bool,
    is_in_transaction: bool,
    _open: Open,
}

/// Ends the work of a call that is given up.
struct Interrupts<'c>(Option<&'c Connection>);

impl Drop for Interrupts<'_> {
    fn drop(&mut self) {
        if let Some(connection) = self.0 {
            connection.is_given_up.store(true, Ordering::Release);
            connection.interrupt.interrupt();
        }
    }
}

/// Work that has no result, since its thread has panicked or the runtime ends.
fn lost() -> Fault {
    Fault::new(
        "internal",
        "the work on the database ended without an answer",
    )
}

impl Connection {
    pub(super) fn new(connection: rusqlite::Connection, role: Role, open: Open) -> Self {
        Self {
            interrupt: Arc::new(connection.get_interrupt_handle()),
            inner: Arc::new(Mutex::new(connection)),
            is_given_up: Arc::default(),
            role,
            is_clean: true,
            is_in_transaction: false,
            _open: open,
        }
    }

    async fn work<T: Send + 'static>(
        &mut self,
        work: impl FnOnce(&rusqlite::Connection) -> Result<T, Fault> + Send + 'static,
    ) -> Result<T, Fault> {
        self.is_clean = false;
        let (inner, is_given_up) = (self.inner.clone(), self.is_given_up.clone());
        let mut interrupts = Interrupts(Some(self));
        let working = tokio::task::spawn_blocking(move || {
            let connection = inner.lock().unwrap_or_else(PoisonError::into_inner);
            let result = if is_given_up.load(Ordering::Acquire) {
                Err(Fault::new("closed", "given up"))
            } else {
                work(&connection)
            };
            (result, !connection.is_autocommit())
        });
        let worked = working.await;
        interrupts.0 = None;
        drop(interrupts);
        let (result, is_in_transaction) = worked.map_err(|_| lost())?;
        self.is_clean = true;
        self.is_in_transaction = is_in_transaction;
        result
    }

    async fn command(&mut self, text: String) -> Result<(), Fault> {
        self.work(move |connection| {
            connection
                .execute_batch(&text)
                .map_err(|error| fault(&error))
        })
        .await
    }
}

impl driver::Connection for Connection {
    fn is_clean(&self) -> bool {
        self.is_clean
    }

    fn is_in_transaction(&self) -> bool {
        self.is_in_transaction
    }

    /// SQLite undoes a failed statement alone.
    fn has_failed(&self) -> bool {
        false
    }

    async fn run(&mut self, statement: &Statement, bounds: Bounds) -> Result<Ran, Fault> {
        let (statement, role) = (statement.clone(), self.role);
        self.work(move |connection| run(connection, &statement, role, bounds))
            .await
    }

    async fn insert(&mut self, insert: &Insert) -> Result<u64, Fault> {
        let insert = insert.clone();
        self.work(move |connection| insert_rows(connection, &insert))
            .await
    }

    /// Transactions of SQLite are serializable, and one writes at a time: it has the lock from its beginning on, so that
    /// it never finds another one before it at its first change.
    async fn begin(&mut self, begin: &Begin) -> Result<(), Fault> {
        let text = if begin.is_read_only {
            "BEGIN; PRAGMA query_only = ON"
        } else {
            "BEGIN IMMEDIATE"
        };
        self.command(text.to_owned()).await
    }

    async fn commit(&mut self) -> Result<(), NotCommitted> {
        let committed = self.command("COMMIT".to_owned()).await;
        let writes = self.command("PRAGMA query_only = OFF".to_owned()).await;
        match committed.and(writes) {
            Ok(()) => Ok(()),
            Err(fault) if fault.kind == "internal" => Err(NotCommitted::Unanswered(fault.message)),
            Err(fault) => Err(NotCommitted::Refused(fault)),
        }
    }

    async fn rollback(&mut self) -> Result<(), Fault> {
        self.command("ROLLBACK; PRAGMA query_only = OFF".to_owned())
            .await
    }

    async fn make_once_table(&mut self, table: &[String]) -> Result<(), Fault> {
        let text = once_table(table);
        self.command(text.clone()).await.map_err(|fault| {
            let message = format!(
                "the table of `once` cannot be made: {}; the statements are: {text}",
                fault.message
            );
            Fault { message, ..fault }
        })
    }

    async fn abandon(self) {
        while Arc::strong_count(&self.inner) > 1 {
            self.interrupt.interrupt();
            tokio::time::sleep(AGAIN).await;
        }
    }
}

impl Reusable for Connection {
    fn is_usable(&mut self) -> bool {
        self.is_clean && !self.is_in_transaction
    }
}

fn invalid(message: String) -> Fault {
    Fault::new("invalid", message)
}

/// The one statement of this text.
fn prepared<'c>(connection: &'c rusqlite::Connection, text: &str) -> Result<Prepared<'c>, Fault> {
    let mut batch = Batch::new(connection, text);
    let first = batch.next().map_err(|error| fault(&error))?;
    let first = first.ok_or_else(|| invalid("the text has no statement".to_owned()))?;
    // One that uses what the first one makes cannot be prepared yet.
    match batch.next() {
        Ok(None) => Ok(first),
        _ => Err(invalid(
            "the text has several statements; run them one by one".to_owned(),
        )),
    }
}

fn bind(
    statement: &mut Prepared<'_>,
    arguments: &[Value],
    place: &dyn Fn(usize) -> String,
) -> Result<(), Fault> {
    for (at, value) in arguments.iter().enumerate() {
        let value = values::parameter(value)
            .map_err(|reason| invalid(format!("{} {reason}", place(at))))?;
        statement
            .raw_bind_parameter(at + 1, value)
            .map_err(|error| fault(&error))?;
    }
    Ok(())
}

fn run(
    connection: &rusqlite::Connection,
    statement: &Statement,
    role: Role,
    bounds: Bounds,
) -> Result<Ran, Fault> {
    let mut prepared = prepared(connection, &statement.text)?;
    let is_read = prepared.readonly();
    if !is_read && role == Role::Reads {
        return Ok(Ran::Writes);
    }
    let (takes, found) = (prepared.parameter_count(), statement.arguments.len());
    if takes != found {
        return Err(invalid(format!(
            "the statement has {takes} parameters, and the call has {found} arguments"
        )));
    }
    bind(&mut prepared, &statement.arguments, &|at| {
        format!("argument {}", at + 1)
    })?;
    let columns: Vec<Box<[u8]>> = prepared
        .column_names()
        .map(|name| name.as_bytes().into())
        .collect();
    let (width, before) = (columns.len(), connection.total_changes());
    let mut outcome = Outcome {
        columns,
        ..Outcome::default()
    };
    let (mut rows, mut bytes) = (prepared.raw_query(), 0);
    while let Some(row) = rows.next().map_err(|error| fault(&error))? {
        outcome.count += 1;
        if bounds.only_count {
            continue;
        }
        let mut values = Vec::with_capacity(width);
        for at in 0..width {
            let value = row.get_ref(at).map_err(|error| fault(&error))?;
            bytes += values::size(value) + VALUE_BYTES;
            values.push(values::value(value));
        }
        outcome.rows.push(values);
        if bytes > bounds.bytes {
            return Err(bounds.too_large());
        }
        // One row too many tells that there are more.
        if is_read && outcome.rows.len() > bounds.rows {
            break;
        }
    }
    drop(rows);
    if !is_read {
        // That of the last change stays where a statement changes no row.
        let has_changed = connection.total_changes() != before;
        outcome.count = if has_changed { connection.changes() } else { 0 };
    }
    Ok(Ran::Done(outcome))
}

/// One statement, run for each row, all within a transaction.
fn insert_rows(connection: &rusqlite::Connection, insert: &Insert) -> Result<u64, Fault> {
    let is_own = connection.is_autocommit();
    let command = |text: &str| {
        connection
            .execute_batch(text)
            .map_err(|error| fault(&error))
    };
    command(if is_own {
        "BEGIN IMMEDIATE"
    } else {
        "SAVEPOINT moontide"
    })?;
    let inserted = insert_all(connection, insert);
    let inserted = inserted.and_then(|count| {
        command(if is_own { "COMMIT" } else { "RELEASE moontide" })?;
        Ok(count)
    });
    if inserted.is_err() {
        let undo = if is_own {
            "ROLLBACK"
        } else {
            "ROLLBACK TO moontide; RELEASE moontide"
        };
        // An interrupt or a full disk has rolled back already.
        let _ = command(undo);
    }
    inserted
}

fn insert_all(connection: &rusqlite::Connection, insert: &Insert) -> Result<u64, Fault> {
    let text = insertion::text(insert, 1, |number| format!("?{number}"));
    let mut statement = prepared(connection, &text)?;
    let mut count = 0;
    for (row, number) in insert.rows.iter().zip(1..) {
        bind(&mut statement, row, &|at| {
            let column = insert.columns.get(at).map_or("", String::as_str);
            format!("`{column}` of row {number}")
        })?;
        let changed = statement.raw_execute().map_err(|error| {
            let fault = fault(&error);
            let message = format!("row {number}: {}", fault.message);
            Fault { message, ..fault }
        })?;
        count += changed as u64;
    }
    Ok(count)
}
